"""Kinds of jobs, as requests and rows name them; `allocator.stages.kinds` says what each does."""

from __future__ import annotations

PROFILE, PLAN, TRANSFER, COMPRESS = "profile", "plan", "transfer", "compress"
