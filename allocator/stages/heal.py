"""Heal: a short distillation of the dense model into the written checkpoint (`solvers.heal`), where a request asks for it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from allocator.base.errors import JobFailed
from allocator.base.settings import Settings
from allocator.stages.apply import write_checkpoints
from allocator.stages.inputs import (
    calibration_text,
    job_plan,
    open_source,
    prepared,
    written_model,
)
from allocator.stages.pipeline import CLOSED_FORM, ItemSpec, JobView, StageContext
from allocator.store import Store

VALIDATION_EVERY = 8
"""Every eighth fit window chooses among the weights along the way and trains none; of fewer than eight the last."""

_BATCH_WINDOWS = 8
_BATCH_TOKENS = 2048
"""Of long windows a step sees fewer, but one."""


class Heal:
    """One item where the request has ``heal`` steps, else none; replaces ``compact`` and ``padded`` by the healed weights.

    It reads ``closed-form``, which it never writes, and publishes whole folders as its last act. So a run that dies or is
    cancelled on its way leaves the closed form's checkpoints in place, and the next attempt starts from the same weights
    whatever the last one had replaced already.
    """

    def items(self, job: JobView, store: Store, settings: Settings) -> list[ItemSpec]:
        steps = job.request.heal or 0
        return [ItemSpec("weights", {"steps": steps})] if steps > 0 else []

    def run(self, context: StageContext) -> dict[str, Any]:
        import torch

        from solvers.heal import heal

        facts, opened = prepared(context.job), open_source(context)
        model = written_model(context, CLOSED_FORM, opened.device)
        windows = calibration_text(context).fit(facts["calibration"]["fit_windows"])
        every = min(VALIDATION_EVERY, len(windows))
        chosen = torch.arange(len(windows)) % every == every - 1

        def dense(ids: torch.Tensor) -> SimpleNamespace:
            # Not opened.model itself: of a large model only some layers are in memory.
            return SimpleNamespace(logits=next(opened.logits([ids])))

        try:
            record = heal(
                dense,
                model,
                windows[~chosen],
                steps=context.payload["steps"],
                validation=windows[chosen],
                batch_windows=max(1, min(_BATCH_WINDOWS, _BATCH_TOKENS // windows.shape[1])),
                on_step=lambda done, total, _: context.progress(done, total, "steps"),
            )
        except ValueError as error:  # diverged: another attempt would do the same
            raise JobFailed(f"heal: {error}") from None
        dtype = getattr(torch, facts["storage_dtype"])
        layers = [
            opened.family.read(model, i).to(dtype=dtype, device="cpu") for i in range(len(opened.source))
        ]
        counted = write_checkpoints(context, opened, layers, job_plan(context))
        context.event(
            "heal.done",
            f"healed: KL on held-out fit windows {record.first_kl:.4f} -> {record.last_kl:.4f} nats/token"
            f" (weights of step {record.kept_step} of {record.steps} kept, {record.seconds:.1f} s)",
            {"kept_step": record.kept_step, "steps": record.steps, "seconds": record.seconds},
        )
        return {
            "steps": record.steps,
            "learning_rate": record.learning_rate,
            "seconds": record.seconds,
            "kept_step": record.kept_step,
            "first_kl_nats": record.first_kl,
            "last_kl_nats": record.last_kl,
            "fit_windows": int((~chosen).sum()),
            "validation_windows": int(chosen.sum()),
            "counted": {key: counted[key] for key in ("params", "kv_bytes_per_token")},
        }
