"""A job's model and texts as stages open them: judged beforehand, read, and refused where they have changed."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from allocator.base.devices import check_device, layer_memory
from allocator.base.errors import JobFailed, UnreadableModel, UnsupportedModel, UnusableText
from allocator.base.memory import keep_freed_memory
from allocator.base.settings import Settings
from allocator.plan.documents.profile import Profile
from allocator.plan.identity import identity_of
from allocator.profiling.windows import Windows, measured_windows, requested_windows
from allocator.stages import worker_cache
from allocator.stages.facts import facts_of, method_of_job
from allocator.stages.pipeline import MeasuringContext, StageContext
from allocator.stages.request import Request
from allocator.stages.sources import model_folder, text_path

if TYPE_CHECKING:
    import torch

    from solvers.checkpoints.reading import Inspected
    from solvers.model.surgery import OpenModel
    from solvers.texts.text import Text


@contextmanager
def solver_errors() -> Iterator[None]:
    """Turn what the solvers say of a model or text into the service's errors, word for word."""
    from solvers.errors import TextError, UnreadableModelError, UnsupportedModelError

    try:
        yield
    except UnsupportedModelError as error:
        raise UnsupportedModel(str(error)) from None
    except UnreadableModelError as error:
        raise UnreadableModel(str(error)) from None
    except TextError as error:
        raise UnusableText(str(error)) from None


def set_up_torch(settings: Settings) -> None:
    """Give torch the cores that the settings allow, and the memory that it freed; keep transformers' and torchao's own bars
    and warnings out of our output.

    Raises:
        InvalidInput: torch has no such device as the settings ask for.
    """
    import torch
    import transformers

    check_device(settings)
    keep_freed_memory()
    torch.set_num_threads(settings.threads or os.cpu_count() or 1)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    # It looks for kernels of every machine when it is imported, and tells of each that is not for this one.
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)


@dataclass(frozen=True)
class Inputs:
    """A job's model folder and texts, looked at but not loaded."""

    inspected: Inspected
    windows: Windows
    calibration: Text
    evaluation: Text | None


def preflight(settings: Settings, request: Request, *, profile: Profile | None = None) -> Inputs:
    """Everything about a job's inputs that can be judged without loading weights.

    Args:
        profile: what the model is compared with, in windows like its own; None: in those of the request.

    Raises:
        InvalidInput: windows that the model or nobody can have.
        UnsupportedModel, UnreadableModel, UnusableText: naming the thing and the way out.
    """
    from solvers.checkpoints import reading
    from solvers.folder import called

    folder = model_folder(settings, request.model)
    with solver_errors():
        inspected = reading.inspect(folder)
        reading.storage_dtype(inspected)
        # Where the models will run, which need not be where this is judged.
        positions_and_device = inspected.sizes["positions"], request.device or settings.device
        if profile is None:
            windows = requested_windows(
                *positions_and_device,
                samples=request.samples,
                sequence_length=request.sequence_length,
                evaluation_length=request.evaluation_length,
            )
        else:
            windows = measured_windows(identity_of(profile).document["solution"], *positions_and_device)
        lengths = {"calibration": windows.calibration_tokens}
        if request.evaluates:
            lengths["evaluation"] = windows.evaluation_tokens
        texts = {
            field: worker_cache.text(
                text_path(settings, request, field),
                folder,
                window=length,
                field=field,
                column=request.text_column,
            )
            for field, length in lengths.items()
        }
        for text in texts.values():
            reading.check_token_ids(called(folder), inspected.sizes["vocab"], int(text.windows.max()))
    return Inputs(inspected, windows, texts["calibration"], texts.get("evaluation"))


def calibration_text(context: MeasuringContext) -> Text:
    """The job's calibration windows; refuses a file that changed since the job was prepared."""
    return _text(context, "calibration")


def evaluation_text(context: MeasuringContext) -> Text:
    """The job's evaluation windows; refuses a file that changed since the job was prepared."""
    return _text(context, "evaluation")


def _text(context: MeasuringContext, field: str) -> Text:
    facts = facts_of(context.job)
    folder = model_folder(context.settings, context.job.request.model)
    path = text_path(context.settings, context.job.request, field)
    # What an earlier version prepared has one length for both texts.
    window = facts[field].get("window_tokens", facts["window_tokens"])
    with solver_errors():
        column = context.job.request.text_column
        text = worker_cache.text(path, folder, window=window, field=field, column=column)
    if text.sha256 != facts[field]["sha256"]:
        raise UnusableText(
            f"{field} text {path.name} changed while the job was running; submit the job again"
        )
    return text


def open_source(context: MeasuringContext, *, measuring: bool = False) -> OpenModel:
    """The job's dense model on the settings' device, its weights those that were hashed.

    This process keeps it for its next items; whoever exchanges layers gives them back. Never two at a time.

    Args:
        measuring: keep the dense states, too, that cuts of other layers were measured from.
    """
    set_up_torch(context.settings)
    facts = facts_of(context.job)
    version, begun_by = method_of_job(context.job).version, facts["identity"]["solution"]["solver"]
    if version != begun_by:  # what would be stored under its keys would be something else
        raise JobFailed(
            f"the job was begun by a version with solver {begun_by}, this one has {version}; submit it again"
        )
    with solver_errors():
        return worker_cache.model(
            model_folder(context.settings, context.job.request.model),
            facts["weights_sha256"],
            context.settings,
            measuring=measuring,
        )


def compact_model(context: StageContext, name: str, device: torch.device) -> Any:
    """A compact checkpoint among the job's artifacts, in float32 so that only stored weights differ from the dense model."""
    import torch
    from transformers import AutoModelForCausalLM

    import solvers  # noqa: F401 - registers the compact classes

    folder = context.artifact_dir() / name
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    return model.to(device).eval()


def open_compact(context: StageContext, name: str) -> OpenModel:
    """The same function as ``compact_model``, of which only some layers need be in memory."""
    from solvers.checkpoints.written import load_written
    from solvers.model.surgery import open_model

    return open_model(
        load_written(context.artifact_dir() / name),
        memory_bytes=layer_memory(context.settings),
        device=context.settings.device,
    )
