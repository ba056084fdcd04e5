"""The task of a request: its plan, method and effort, and the model and texts that it names."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allocator.base.errors import InvalidInput
from allocator.base.kinds import TRANSFER
from allocator.methods.method import Method
from allocator.methods.registry import method_of
from allocator.plan.ask.constraints import target_of
from allocator.plan.documents.plan import Plan
from allocator.plan.documents.profile import Profile
from allocator.plan.effort import EFFORTS, Effort, evaluated
from allocator.plan.identity import identity_of
from allocator.plan.model.geometry import Geometry
from allocator.plan.model.precision import INSTALL, checked_bits
from allocator.stages import worker_cache
from allocator.stages.exports import EXPORTS, check_plan_exports, default_exports
from allocator.stages.facts import applied_plan
from allocator.stages.inputs import Inputs, preflight, solver_errors
from allocator.stages.pipeline import StageContext
from allocator.stages.request import Request
from allocator.stages.reuse import checked_profile
from allocator.stages.rules import check_request, refuse_beside_bits
from allocator.stages.sources import shown_reference
from allocator.stages.stored_plan import check_applicable

if TYPE_CHECKING:
    import torch

    from solvers.texts.text import Text


@dataclass(frozen=True)
class Task:
    """The task of a request before its model is looked at."""

    plan: Plan | None
    """The stored plan that is applied."""
    profile: Profile | None
    """The one that a transfer compares with."""
    method: Method
    effort: Effort
    """In windows of ``MAX_WINDOW_TOKENS``, but for a transfer's, which is the profile's own."""
    bits: list[int]


def task_of(context: StageContext) -> Task:
    """Raises InvalidInput and NotFound for what a request cannot ask for, whatever its model."""
    request, profile, plan = context.job.request, None, applied_plan(context)
    check_request(request)
    solver = request.method
    if plan is not None:  # its ranks were chosen on this solver's curves
        solver = plan.solver
    bits = _checked_bits(request, plan)
    if request.kind == TRANSFER:  # compared with a profile, so measured like it
        profile, _ = checked_profile(context.store, context.job.team, request)
        solver = profile.solver
    method = method_of(solver)
    effort = (
        EFFORTS[request.effort or request.usual_effort] if profile is None else identity_of(profile).effort
    )
    return Task(plan, profile, method, effort, bits)


def _checked_bits(request: Request, plan: Plan | None) -> list[int]:
    """The bits of the quantized cuts to measure; none where a plan is applied, whose own only have to be written.

    Raises:
        InvalidInput: bits of a plan beside healing; or this worker has no torchao.
    """
    bits = checked_bits(request.bits or ())
    if bits or (plan is not None and plan.chosen.bits):
        from solvers.quantization import installed

        if plan is not None:
            refuse_beside_bits(request, "heal")
        if not installed():
            clause = "this worker has no torchao, which rounds the weights;"
            raise InvalidInput.of("bits", "no torchao", INSTALL, clause)
    return bits


@dataclass(frozen=True)
class ReadModel:
    """The model and the texts that a request names, read."""

    inputs: Inputs
    reference: str
    geometry: Geometry
    dtype: torch.dtype
    weights_sha256: str
    effort: Effort
    """In windows of the calibration text's length."""

    @property
    def fit(self) -> int:
        """Windows that moments are taken over."""
        return len(self.inputs.calibration.fit(self.inputs.windows.samples))

    @property
    def measure(self) -> int:
        """The most windows that losses are measured on."""
        return len(self.inputs.calibration.measure(self.effort.judged_windows))

    @cached_property
    def judged(self) -> Any:
        """Windows (W, T) of the evaluation text that final figures are taken over; none without such a text."""
        evaluation = self.inputs.evaluation
        return [] if evaluation is None else evaluated(evaluation.windows)

    @cached_property
    def shared_windows(self) -> list[int]:
        """The windows of these that also occur in the calibration text."""
        from solvers.texts.overlap import shared_windows

        evaluation = self.inputs.evaluation
        if evaluation is None:
            return []
        return shared_windows(self.judged, len(evaluation.prefix), self.inputs.calibration)

    @property
    def texts(self) -> dict[str, Text]:
        texts = {"calibration": self.inputs.calibration, "evaluation": self.inputs.evaluation}
        return {name: text for name, text in texts.items() if text is not None}


def read_model(context: StageContext, task: Task) -> ReadModel:
    """Reads the model, and refuses a plan for another one."""
    from solvers.checkpoints import reading
    from solvers.families import FAMILIES

    request = context.job.request
    inputs = preflight(context.settings, request, profile=task.profile)
    inspected, effort = inputs.inspected, task.effort
    if task.profile is None:
        effort = effort.of_length(inputs.windows.calibration_tokens)
    with solver_errors():
        dtype = reading.storage_dtype(inspected)
        model = reading.load(inspected, dtype=None)
    sizes = {
        **FAMILIES[inspected.model_type].geometry(model.config),
        "total_params": sum(parameter.numel() for parameter in model.parameters()),
        "bytes_per_param": dtype.itemsize,
    }
    geometry = Geometry.read(sizes, "model")
    weights, reference = worker_cache.weights_sha256(inspected), shown_reference(request.model)
    if task.plan is not None:
        check_applicable(task.plan, geometry, weights, reference)
    if request.compresses:
        _check_exports(request, task.plan, inspected.folder, model.config, geometry)
    return ReadModel(inputs, reference, geometry, dtype, weights, effort)


def _check_exports(
    request: Request, plan: Plan | None, folder: Path, config: Any, geometry: Geometry
) -> None:
    """Refuse exports that cannot hold this model, or the plan that the job applies or may end with."""
    target = target_of(request.limits if plan is None else plan.constraints.written)
    names = request.export or default_exports(target)
    if plan is not None:
        check_plan_exports(names, geometry, plan.chosen, target)
    for name in names:
        with solver_errors():
            EXPORTS[name].check_model(folder, config)
