"""A plugin of pytest for ``tests.mutants``: that an example fails is enough there, the smallest one takes a minute to find."""

from __future__ import annotations

from hypothesis import Phase, settings

settings.register_profile(
    "unshrunk", phases=[Phase.explicit, Phase.generate], derandomize=True, database=None
)
settings.load_profile("unshrunk")
