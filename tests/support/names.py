"""Names that people give folders and files, which mean something in addresses, patterns and markup."""

NAMES = [
    "what?mode=ro&cache=shared#1",
    "100% %2F %s",
    "two words",
    "größe-模型",
    "[red]bracket",
    "a+b=c;d'e\"f",
]
EVERYTHING = "a b?c=d&e#f 100% é模 [red]g+h"
"""All of it in one name."""
