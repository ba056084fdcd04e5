"""Windows of an evaluation text that also occur in the calibration text, found by hashes of token ids.

Names say nothing, and the same text may be cut into other windows. So a window is compared block by block with every place of
the other text.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from solvers.texts.text import Text

BLOCK_TOKENS = 32
"""Long enough that two texts do not share one by chance, short enough that a quotation of some sentences is found."""
SHARE = 0.5
"""Share of a window's blocks that makes it a shared one; fewer are phrases that people repeat: licences, headings."""
_CHUNK = 1 << 20
_BASE = np.uint64(0x9E3779B97F4A7C15)


def shared_windows(evaluation: torch.Tensor, prefix: int, calibration: Text) -> list[int]:
    """Which evaluation windows (W, T), each led by ``prefix`` tokens that are no text, also occur in the calibration text.

    A window occurs there if at least ``SHARE`` of its blocks of ``BLOCK_TOKENS`` tokens do, at whatever place.
    """
    body = evaluation[:, prefix:].numpy().astype(np.uint64)
    length = min(BLOCK_TOKENS, body.shape[1])
    count = body.shape[1] // length
    blocks = body[:, : count * length].reshape(-1, length)
    block_hashes = _hashes(blocks.T)
    ids = calibration.windows[:, len(calibration.prefix) :].reshape(-1).numpy().astype(np.uint64)
    distinct = np.unique(block_hashes)
    occurring = np.zeros(len(distinct), dtype=bool)
    places = max(len(ids) - length + 1, 0)
    for start in range(0, places, _CHUNK):
        end = min(start + _CHUNK, places)
        hashes = _hashes(ids[start + offset : end + offset] for offset in range(length))
        nearest = np.minimum(np.searchsorted(distinct, hashes), len(distinct) - 1)
        occurring[nearest[distinct[nearest] == hashes]] = True
    occurs = occurring[np.searchsorted(distinct, block_hashes)].reshape(len(body), count)
    return [int(window) for window in np.flatnonzero(occurs.mean(axis=1) >= SHARE)]


def _hashes(columns: Iterable[np.ndarray]) -> np.ndarray:
    """One hash (N,) per run of token ids, of which the columns (N,) hold the first, the second and so on."""
    hashes: Any = np.uint64(0)
    for column in columns:
        hashes = hashes * _BASE + column + np.uint64(1)  # modulo 2^64
    return np.asarray(hashes)
