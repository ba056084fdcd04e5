"""The command line in the test's own process."""

from __future__ import annotations

from pathlib import Path

import pytest

from api.cli.console import stderr, stdout
from api.cli.main import main


def run(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    home: Path,
    *arguments: object,
    columns: int = 400,
) -> tuple[int, str, str]:
    """Exit status, standard output, standard error."""
    monkeypatch.setenv("RANKALLOC_HOME", str(home))
    # Consoles took their width when their module was imported, in whichever test that was.
    for console in (stdout, stderr):
        monkeypatch.setattr(console, "width", columns)
    monkeypatch.setattr("sys.argv", ["rankalloc", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        main()
    shown = capsys.readouterr()
    return int(caught.value.code or 0), shown.out, shown.err
