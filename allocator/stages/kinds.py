"""Kinds of jobs, and the stages that each walks through."""

from __future__ import annotations

SEQUENCES: dict[str, tuple[str, ...]] = {
    "profile": ("prepare", "calibrate", "surroundings", "profile", "assemble"),
    "plan": ("prepare", "calibrate", "surroundings", "profile", "assemble", "allocate", "refine"),
    "transfer": ("prepare", "calibrate", "probe"),
    "compress": (
        *("prepare", "calibrate", "surroundings", "profile", "assemble", "allocate"),
        *("refine", "apply", "heal", "evaluate", "report"),
    ),
}

PROFILE, PLAN, TRANSFER, COMPRESS = SEQUENCES
