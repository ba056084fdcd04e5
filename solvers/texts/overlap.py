"""Whether an evaluation text has been seen: which of its windows also occur in the calibration text, by hashes of token ids.

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
"""Of a window's blocks; less are phrases that people repeat: licences, headings, boilerplate."""
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
    wanted = _hashes(blocks.T)
    ids = calibration.windows[:, len(calibration.prefix) :].reshape(-1).numpy().astype(np.uint64)
    known = np.unique(wanted)
    found = np.zeros(len(known), dtype=bool)
    places = max(len(ids) - length + 1, 0)
    for start in range(0, places, _CHUNK):
        end = min(start + _CHUNK, places)
        there = _hashes(ids[start + offset : end + offset] for offset in range(length))
        nearest = np.minimum(np.searchsorted(known, there), len(known) - 1)
        found[nearest[known[nearest] == there]] = True
    occurs = found[np.searchsorted(known, wanted)].reshape(len(body), count)
    return [int(window) for window in np.flatnonzero(occurs.mean(axis=1) >= SHARE)]


def _hashes(columns: Iterable[np.ndarray]) -> np.ndarray:
    """One hash (N,) per run of token ids, of which the columns (N,) hold the first, the second and so on."""
    found: Any = np.uint64(0)
    for column in columns:
        found = found * _BASE + column + np.uint64(1)  # modulo 2^64
    return np.asarray(found)
