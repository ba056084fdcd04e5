"""The device that the settings ask for: whether torch has it, and its memory. Importing this imports no torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from allocator.base.errors import InvalidInput
from allocator.base.settings import Settings

_ON_CPU_BYTES = 128 << 20
"""Everything goes layer by layer over all batches: making a layer from its mapped file takes a hundredth of a pass."""

_LOOK = "import sys, torch; sys.exit(0 if torch.cuda.is_available() else 1)"


def check_device(settings: Settings, *, apart: bool = False) -> None:
    """Refuse a device that is not there, before any work.

    Args:
        apart: look in a process of its own. Who is going to fork must not look for CUDA: no child could use it then.

    Raises:
        InvalidInput: naming the setting.
    """
    if settings.device == "cpu" or (_has_cuda_in_child() if apart else _has_cuda()):
        return
    request = f"{settings.device!r} was asked for (--device or RANKALLOC_DEVICE)"
    clause = f"{request}, but torch finds no CUDA device here; use"
    raise InvalidInput.of("device", settings.device, "cpu, or install a torch with CUDA and a driver", clause)


_PRECISION = {"float32": "highest", "tf32": "high", "bfloat16": "medium"}
"""Setting -> torch's name."""


@contextmanager
def fast_products(settings: Settings) -> Iterator[None]:
    """Within it, float32 products on ``cuda`` are as fast as the settings allow. For passes that losses are measured by."""
    if settings.device != "cuda":
        yield
        return
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(_PRECISION[settings.products])
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _has_cuda_in_child() -> bool:
    return subprocess.run([sys.executable, "-c", _LOOK], check=False).returncode == 0  # noqa: S603 - our own words


def layer_memory(settings: Settings) -> int:
    """The bytes of layers that an item may keep where its models live."""
    if settings.layer_memory_bytes:
        return settings.layer_memory_bytes
    if settings.device == "cuda":
        import torch

        torch.cuda.empty_cache()  # what a model before left is free too
        free, _ = torch.cuda.mem_get_info()
        return int(free) // 2
    return _ON_CPU_BYTES
