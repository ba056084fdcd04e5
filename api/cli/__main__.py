"""``python -m api.cli`` is ``rankalloc``."""

from api.cli.main import main

main()
