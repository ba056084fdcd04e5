"""``hf:owner/name[:config[:split]]`` and short names as the text of a command: a file of this machine from there on."""

from __future__ import annotations

from pathlib import Path

from rich.markup import escape

from allocator.profiling.windows import CUDA_WINDOW_TOKENS
from allocator.stages.hub_names import HUB_PREFIX, SHORT
from api.cli.console import settings, stderr


def text_of(
    text: str | Path,
    field: str,
    *,
    column: str | None = None,
    samples: int | None = None,
    length: int | None = None,
) -> tuple[Path, str | None]:
    """The file or folder of a text that was named by its path or as it is called on the hub, and where it is from there.

    What lies here under such a name goes first. Which commit of a data set it is goes to standard error.

    Args:
        field: ``calibration`` or ``evaluation``.
        column: where records have their text.
        samples: windows that are asked for, of ``length`` tokens: a hub's text is read as far as they need.

    Raises:
        UnusableText: a data set that cannot be had.
    """
    path, name = Path(text).expanduser(), str(text)
    if path.exists() or not (name in SHORT or name.startswith(HUB_PREFIX)):
        return path.resolve(), None
    from allocator.stages.hub_texts import hub_text, needed_bytes

    limit = needed_bytes(field, samples, length or CUDA_WINDOW_TOKENS)
    fetched = hub_text(name, field, settings(), limit_bytes=limit, column=column)
    stderr.print(
        f"  [dim]{escape(f'{field}: {fetched.source}, at most {limit >> 20} MiB of text')}[/dim]",
        soft_wrap=True,
    )
    return fetched.file.resolve(), fetched.source
