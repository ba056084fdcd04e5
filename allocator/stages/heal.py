"""Heal: a short distillation of the dense model into the written checkpoint (`solvers.healing`), where a request asks."""

from __future__ import annotations

import logging
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allocator.base.errors import JobFailed, RankallocError
from allocator.base.memory import give_back_grown_memory
from allocator.base.settings import Settings
from allocator.profiling.artifacts import checked_file
from allocator.stages.apply import write_checkpoints
from allocator.stages.facts import facts_of, job_plan, plan_digest_of
from allocator.stages.inputs import calibration_text, compact_model, open_source
from allocator.stages.partial_results import publish_partial
from allocator.stages.pipeline import CLOSED_FORM, ItemSpec, JobView, StageContext
from allocator.store import Store

if TYPE_CHECKING:
    import torch

    from solvers.healing.heal_state import HealState
    from solvers.model.surgery import OpenModel

log = logging.getLogger(__name__)

VALIDATION_EVERY = 8
"""Every eighth fit window chooses among the weights along the way and trains none; of fewer than eight the last."""

_VALIDATION_TOKENS = 4096
"""Of much text fewer windows choose: what is compared are weights on the same windows."""
_BATCH_WINDOWS = 8
_BATCH_TOKENS = 2048
"""Of long windows a step sees fewer, but one."""
_TEACHER_BYTES = 256 << 20
SAVED_EVERY_S = 60.0
"""A healing that dies loses a tenth of its steps, or as much more as this takes."""


class HealStage:
    """One item where the request has ``heal`` steps, else none; replaces ``compact`` and ``padded`` by the healed weights.

    It reads ``closed-form``, which it never writes, and publishes whole folders as its last act. So a run that dies or is
    cancelled on its way leaves the closed form's checkpoints in place, and the next attempt starts from the same weights
    whatever the last one had replaced already, or from the last check that the job's folder holds.

    It sees as many fit windows as its steps can visit, so more than moments do where the text has more.
    """

    def items(self, job: JobView, store: Store, settings: Settings) -> list[ItemSpec]:
        steps = job.request.heal or 0
        return [ItemSpec("weights", {"steps": steps})] if steps > 0 else []

    def run(self, context: StageContext) -> dict[str, Any]:
        import torch

        from solvers.healing.heal import heal

        facts, opened = facts_of(context.job), open_source(context)
        model = compact_model(context, CLOSED_FORM, opened.device)
        steps, text = context.payload["steps"], calibration_text(context)
        length = text.windows.shape[1]
        batch = max(1, min(_BATCH_WINDOWS, _BATCH_TOKENS // length))
        needed = -(-steps * batch * VALIDATION_EVERY // (VALIDATION_EVERY - 1))
        windows = text.fit(max(facts["calibration"]["fit_windows"], needed))
        is_validation = validation(len(windows), length)
        saved = SavedChecks(context, steps)

        def on_step(done: int, total: int, loss: float) -> None:
            give_back_grown_memory()
            context.progress(done, total, "steps")

        try:
            record = heal(
                Teacher(opened),
                model,
                windows[~is_validation],
                steps=steps,
                validation=windows[is_validation],
                batch_windows=batch,
                on_step=on_step,
                on_check=saved.put,
                resumed=saved.get(),
            )
        except ValueError as error:  # diverged: another attempt would do the same
            raise JobFailed(f"heal: {error}") from None
        dtype = getattr(torch, facts["storage_dtype"])
        layers = [
            opened.family.read(model, i).to(dtype=dtype, device="cpu") for i in range(len(opened.source))
        ]
        context.let_go(saved.folder)
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
            "checks": [asdict(check) for check in record.checks],
            "fit_windows": int((~is_validation).sum()),
            "validation_windows": int(is_validation.sum()),
            "window_tokens": length,
            "batch_windows": batch,
            "counted": {key: counted[key] for key in ("params", "kv_bytes_per_token")},
        }


class Teacher:
    """The dense model as healing asks it, a ``solvers.healing.distance.Predictor``: of windows that come again the last hidden
    states are held, up to 256 MiB.

    Not ``opened.model`` itself: of a large model only some layers are in memory. Each window runs alone, so that its states are
    the same to the bit whatever it comes with.
    """

    def __init__(self, opened: OpenModel) -> None:
        self._opened = opened
        self._states: dict[bytes, torch.Tensor] = {}
        self._free = _TEACHER_BYTES

    def states(self, ids: torch.Tensor) -> torch.Tensor:
        """The last hidden states (B, T, D) of token ids (B, T)."""
        import torch

        return torch.cat([self._of(window) for window in ids.split(1)])

    def head(self, states: torch.Tensor) -> torch.Tensor:
        """Logits of states."""
        return self._opened.head(states)

    def _of(self, window: torch.Tensor) -> torch.Tensor:
        key = window.cpu().numpy().tobytes()
        if (cached := self._states.get(key)) is not None:
            return cached.to(window.device)
        states = next(self._opened.states([window]))
        if states.nbytes <= self._free:
            self._free -= states.nbytes
            self._states[key] = states.cpu()
        return states


def validation(windows: int, length: int) -> torch.Tensor:
    """A mask of the windows of ``length`` tokens that judge: every eighth, of much text fewer, evenly spread."""
    import torch

    most = max(1, _VALIDATION_TOKENS // length)
    every = max(min(VALIDATION_EVERY, windows), -(-windows // most))
    return torch.arange(windows) % every == every - 1


class SavedChecks:
    """The last check of a job's healing, in a folder of its own that outlives attempts: whole or not there, checked on use."""

    def __init__(self, context: StageContext, steps: int) -> None:
        self._context = context
        self.folder = context.partial_dir() / f"heal-{plan_digest_of(context.job)[:12]}-{steps}"
        self._last = time.monotonic()

    def get(self) -> HealState | None:
        """The state that the furthest attempt has reached; None: nothing that can be used."""
        from solvers.healing.heal_state import FILES, HealState

        for folder in self._checks():
            try:
                for name in FILES:
                    checked_file(folder, name)
                state = HealState.load(folder)
            except (RankallocError, OSError, KeyError, ValueError) as error:
                log.warning("healing does not go on from step %s: %s", folder.name, error)
                shutil.rmtree(folder, ignore_errors=True)
                continue
            self._context.event(
                "heal.resumed", f"healing goes on after step {state.step}", {"step": state.step}
            )
            return state
        return None

    def put(self, state: HealState) -> None:
        """Store what was reached in place of what was there, not more often than once a minute."""
        if time.monotonic() - self._last < SAVED_EVERY_S:
            return
        publish_partial(self._context, self.folder / str(state.step), state.save)
        for folder in self._checks():
            if int(folder.name) < state.step:  # a later one is another attempt's
                shutil.rmtree(folder, ignore_errors=True)
        self._last = time.monotonic()

    def _checks(self) -> list[Path]:
        """Folders by step, the furthest first."""
        if not self.folder.is_dir():
            return []
        return sorted(self.folder.iterdir(), key=lambda folder: int(folder.name), reverse=True)
