"""A file of ours in a process of its own, with memory and processor time bounded by the kernel.

For libraries that abort, panic or loop on files that nobody vouches for: the process dies, and nobody else. The file is run by
path and sees no package of ours, since importing one imports torch.
"""

from __future__ import annotations

import os
import resource
import runpy
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

MEMORY_BYTES = 4 << 30
CPU_S = 600
LIMITS = f"{MEMORY_BYTES >> 30} GiB of memory or {CPU_S} s of processor time"


def run(
    script: Path, arguments: Sequence[str], standard_input: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """The file's output and its status: a negative one is that of a signal, which the limits send.

    Raises:
        RuntimeError: it broke off with an error of its own.
    """
    child = subprocess.run(  # noqa: S603 - our own interpreter and files
        [sys.executable, "-P", __file__, str(script), *arguments],
        input=standard_input,
        capture_output=True,
        env={**os.environ, "TOKENIZERS_PARALLELISM": "false", "RUST_BACKTRACE": "0", "HF_HUB_OFFLINE": "1"},
        check=False,
    )
    if child.returncode > 0:
        raise RuntimeError(f"{script.stem} broke off: {child.stderr[-2000:].decode(errors='replace')}")
    return child


def _main() -> None:
    for kind, limit in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_CPU, CPU_S),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (limit, limit))
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    _main()
