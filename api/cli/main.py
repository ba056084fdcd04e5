"""The ``rankalloc`` command: errors as one line, exit statuses.

0 done    2 bad usage or input    3 a budget that no ranks can meet    4 the job failed    130 interrupted
"""

from __future__ import annotations

from rich.markup import escape

from allocator.base import errors
from api.cli.app import app
from api.cli.console import NO_ROOM, hush, speak_any_encoding, stderr

# A file of commands registers them when it is imported: this is the order of the help.
# isort: off
from api.cli import service, compress, frontier  # noqa: F401
from api.cli import plans, profiles, jobs  # noqa: F401
from api.cli import profile, steps, apply, evaluate, latency, push, doctor, shares, teams  # noqa: F401

# isort: on


def main() -> None:
    """Run the command line; errors of ours are one line on standard error and an exit status."""
    speak_any_encoding()
    try:
        try:
            app(standalone_mode=True)
        finally:
            hush(False)  # errors are told in any case
    except errors.RankallocError as error:
        stderr.print(f"[red]error:[/red] {escape(error.detail)}", soft_wrap=True)
        for field in error.fields:
            if field.allowed not in error.detail:
                stderr.print(f"  {escape(field.field)}: {escape(field.allowed)}", soft_wrap=True)
        raise SystemExit(error.exit_code) from None
    except OSError as error:
        where = "" if error.filename is None else f" {error.filename}:"
        message = f"{where} {error.strerror or error}"
        if error.errno in NO_ROOM:
            message += "; make room and run it again: what was measured and stored is reused"
        stderr.print(f"[red]error:[/red]{escape(message)}", soft_wrap=True)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        stderr.print("interrupted")
        raise SystemExit(130) from None
