"""What several stages need: the job's files, its identity, an opened model, shared moments."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allocator.base.devices import check_device, layer_memory
from allocator.base.errors import JobFailed, UnreadableModel, UnsupportedModel, UnusableText
from allocator.base.memory import keep_freed_memory
from allocator.base.references import hub_model, local_model, text_file
from allocator.base.settings import Settings
from allocator.methods.method import Method
from allocator.methods.registry import METHODS
from allocator.plan.ask.choices import UNIFORM
from allocator.plan.documents.plan import Plan
from allocator.plan.documents.profile import Profile
from allocator.plan.identity import Identity, identity_of
from allocator.plan.model.geometry import Geometry
from allocator.plan.model.latency import LatencyTable
from allocator.profiling.windows import Windows, asked_windows, measured_windows
from allocator.stages import at_hand
from allocator.stages.pipeline import JobView, StageContext
from allocator.stages.request import Request

if TYPE_CHECKING:
    import torch

    from solvers.checkpoints.reading import Inspected
    from solvers.model.surgery import OpenModel
    from solvers.texts.text import Text

PATH = "path:"
"""Prefix of the one-shot commands' own references; REST refuses it, since it takes names only."""


def shown_reference(reference: str) -> str:
    """The reference as shared documents carry it: of a path only the folder's name, since plans travel and paths do not."""
    if not reference.startswith(PATH):
        return reference
    from solvers.folder import called

    return PATH + called(Path(reference.removeprefix(PATH)))


def model_folder(settings: Settings, reference: str) -> Path:
    """The folder of a model reference; a hub commit is downloaded into the data directory the first time.

    Raises:
        UnreadableModel: a hub commit that cannot be fetched.
    """
    if reference.startswith(PATH):  # of a person at this machine, since REST refuses it
        from solvers.folder import given

        return given(Path(reference.removeprefix(PATH)))
    hub = hub_model(reference)
    return local_model(settings, reference) if hub is None else _hub_folder(settings, *hub)


def _hub_folder(settings: Settings, name: str, commit: str) -> Path:
    """Weights, tokenizer and config of one commit as plain files (the hub's own cache holds links, which are refused)."""
    folder = settings.home / "hub" / f"{name.replace('/', '--')}@{commit}"
    if folder.is_dir():
        return folder
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import DryRunError, HfHubHTTPError, LocalEntryNotFoundError

    from solvers.checkpoints.companions import hub_patterns

    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    wanted: dict[str, Any] = {"revision": commit, "allow_patterns": hub_patterns(), "local_dir": partial}
    try:
        size = sum(file.file_size for file in snapshot_download(name, dry_run=True, **wanted))
        if size > settings.hub_limit_bytes:
            raise UnreadableModel(
                f"hf:{name}@{commit}: has {size:,} bytes; at most {settings.hub_limit_bytes:,} are downloaded"
                " (RANKALLOC_HUB_LIMIT_BYTES)"
            )
        snapshot_download(name, **wanted)
        shutil.rmtree(partial / ".cache", ignore_errors=True)
        partial.rename(folder)
    except (DryRunError, HfHubHTTPError, LocalEntryNotFoundError, httpx.HTTPError, ValueError) as error:
        # A ValueError: the repository holds a name that would lead outside.
        reason = type(error).__name__
        raise UnreadableModel(
            f"hf:{name}@{commit}: cannot be downloaded ({reason}); is the commit right and public?"
        ) from None
    except OSError:
        if not folder.is_dir():  # another worker was faster if it is
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def text_path(settings: Settings, request: Request, field: str) -> Path:
    """The calibration or evaluation text of a request."""
    reference: str | None = getattr(request, field)
    if reference is not None and reference.startswith(PATH):
        return Path(reference.removeprefix(PATH))
    if reference is None and request.model.startswith(PATH):
        own = Path(request.model.removeprefix(PATH)) / f"{field}.txt"
        if not own.is_file():
            raise UnusableText(f"{field}: the model folder has no {field}.txt; name a text with --{field}")
        return own
    return text_file(settings, field, reference, request.model)


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
        place = inspected.sizes["positions"], request.device or settings.device
        if profile is None:
            windows = asked_windows(
                *place,
                samples=request.samples,
                sequence_length=request.sequence_length,
                evaluation_length=request.evaluation_length,
            )
        else:
            windows = measured_windows(identity_of(profile).document["solution"], *place)
        lengths = {"calibration": windows.calibration_tokens}
        if request.evaluates:
            lengths["evaluation"] = windows.evaluation_tokens
        texts = {
            field: at_hand.text(
                text_path(settings, request, field),
                folder,
                window=length,
                what=field,
                column=request.text_column,
            )
            for field, length in lengths.items()
        }
        for text in texts.values():
            reading.check_token_ids(called(folder), inspected.sizes["vocab"], int(text.windows.max()))
    return Inputs(inspected, windows, texts["calibration"], texts.get("evaluation"))


def prepared(job: JobView) -> dict[str, Any]:
    return job.result("prepare")


def method_of_job(job: JobView) -> Method:
    """By which the job solves layers."""
    return METHODS[prepared(job)["solver"]]


def job_identity(job: JobView) -> Identity:
    return Identity(prepared(job)["identity"])


def geometry_of(job: JobView) -> Geometry:
    return Geometry.stored(prepared(job)["geometry"])


def refines(job: JobView) -> bool:
    """Whether the job may measure around its plan: a compression unless it says no or applies a plan, a plan if it says so."""
    chosen = job.request.allocation != UNIFORM and job.request.applies is None
    return chosen and evaluations_of(job) > 0


def evaluations_of(job: JobView) -> int:
    """How many evaluations refinement may spend."""
    return job.request.evaluations(prepared(job)["geometry"]["layers"])


def applied_plan(context: StageContext) -> Plan | None:
    """The stored plan that the job applies instead of making one. Raises NotFound where it is no longer there."""
    name = context.job.request.applies
    return None if name is None else context.store.plans.get(context.job.team, name)


def stored_table(context: StageContext) -> LatencyTable | None:
    """The latency table that the request names. Raises NotFound."""
    return context.store.latency_tables.table(context.job.team, context.job.request.latency_table)


def plan_digest_of(job: JobView) -> str:
    """The plan that the job applies: the refined one where there is one."""
    refined = job.results.get("refine") or []
    return str(refined[0]["digest"] if refined else job.result("allocate")["digest"])


def job_plan(context: StageContext) -> Plan:
    """The job's plan, carrying the job's own name of the model: the stored one keeps the name it was first made under."""
    job = context.job
    plan = context.store.plans.get(job.team, plan_digest_of(job))
    named = plan.model.replaced(reference=prepared(job)["reference"])
    # Whose it is is no part of what travels with the checkpoint.
    return plan.without("shared_by").replaced(model=named)


def calibration_text(context: StageContext) -> Text:
    """The job's calibration windows; refuses a file that changed since the job was prepared."""
    return _text(context, "calibration")


def evaluation_text(context: StageContext) -> Text:
    """The job's evaluation windows; refuses a file that changed since the job was prepared."""
    return _text(context, "evaluation")


def _text(context: StageContext, field: str) -> Text:
    facts = prepared(context.job)
    folder = model_folder(context.settings, context.job.request.model)
    path = text_path(context.settings, context.job.request, field)
    # What an earlier version prepared has one length for both texts.
    window = facts[field].get("window_tokens", facts["window_tokens"])
    with solver_errors():
        column = context.job.request.text_column
        text = at_hand.text(path, folder, window=window, what=field, column=column)
    if text.sha256 != facts[field]["sha256"]:
        raise UnusableText(
            f"{field} text {path.name} changed while the job was running; submit the job again"
        )
    return text


def open_source(context: StageContext) -> OpenModel:
    """The job's dense model on the settings' device, its weights those that were hashed.

    This process keeps it for its next items; whoever exchanges layers gives them back. Never two at a time.
    """
    set_up_torch(context.settings)
    facts = prepared(context.job)
    own, its = method_of_job(context.job).version, facts["identity"]["solution"]["solver"]
    if own != its:  # what would be stored under its keys would be something else
        raise JobFailed(
            f"the job was begun by a version with solver {its}, this one has {own}; submit it again"
        )
    with solver_errors():
        return at_hand.model(
            model_folder(context.settings, context.job.request.model),
            facts["weights_sha256"],
            context.settings,
        )


def written_model(context: StageContext, name: str, device: torch.device) -> Any:
    """A compact checkpoint among the job's artifacts, in float32 so that only stored weights differ from the dense model."""
    import torch
    from transformers import AutoModelForCausalLM

    import solvers  # noqa: F401 - registers the compact classes

    folder = context.artifact_dir() / name
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    return model.to(device).eval()


def written_open(context: StageContext, name: str) -> OpenModel:
    """The same function as ``written_model``, of which only some layers need be in memory."""
    from solvers.checkpoints.written import load_written
    from solvers.model.surgery import open_model

    return open_model(
        load_written(context.artifact_dir() / name),
        memory_bytes=layer_memory(context.settings),
        device=context.settings.device,
    )


def moments_path(settings: Settings, key: Identity) -> Path:
    """The folder of the moments: there only when complete."""
    return settings.moments_dir / key.moments_key()


def context_folder(settings: Settings, key: Identity, layer: int) -> Path:
    """The folder of one layer as it is around an in-context profile."""
    return settings.moments_dir / f"{key.context_key()}-{layer}"


def solved_path(settings: Settings, key: Identity) -> Path:
    """The folder of what solving the layers found: there only when complete."""
    return settings.moments_dir / key.solved_key()


def needed_folders(job: JobView, settings: Settings) -> set[str]:
    """Names of the intermediate results that an open job may still read."""
    if "prepare" not in job.results or not job.results["prepare"]:
        return set()
    key = job_identity(job)
    names, method = set(), METHODS.get(prepared(job)["solver"])  # None: a job of another version
    if method is None or method.calibrated:
        names.add(moments_path(settings, key).name)
    if method is None or method.beside_paper:
        names.add(solved_path(settings, key).name)
    if key.around is not None:
        names |= {context_folder(settings, key, layer).name for layer in range(len(key.around))}
    return names


def layer_file(layer: int) -> str:
    """Name of one layer's moments in that folder."""
    return f"layer-{layer}.safetensors"
