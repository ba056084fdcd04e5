"""Latency tables as files that anybody may have made. No SQL, no torch."""

from __future__ import annotations

from allocator.plan.files.consistency import refuse
from allocator.plan.files.portable import parse_json
from allocator.plan.model.latency import MAX_TABLE_BYTES, LatencyTable, read_table


def import_table(data: bytes) -> LatencyTable:
    """Read a file that ``rankalloc latency`` wrote, or somebody else.

    Raises:
        InvalidInput: naming the field, what was found and what is allowed.
    """
    if len(data) > MAX_TABLE_BYTES:
        refuse("file", f"{len(data):,} bytes", f"at most {MAX_TABLE_BYTES:,} bytes")
    return read_table(parse_json(data))
