"""Kinds of jobs, and the stages that each walks through."""

from __future__ import annotations

from allocator.base.kinds import COMPRESS, PLAN, PROFILE, TRANSFER

ALLOCATE, APPLY, EVALUATE = "allocate", "apply", "evaluate"
"""Stages that tell kinds from each other: they make a plan, a checkpoint, and its measurement."""

SEQUENCES: dict[str, tuple[str, ...]] = {
    PROFILE: ("prepare", "calibrate", "surroundings", "profile", "assemble"),
    PLAN: ("prepare", "calibrate", "surroundings", "profile", "assemble", ALLOCATE, "refine"),
    TRANSFER: ("prepare", "calibrate", "probe"),
    COMPRESS: (
        *("prepare", "calibrate", "surroundings", "profile", "assemble", ALLOCATE),
        *("refine", APPLY, "heal", EVALUATE, "report"),
    ),
}
