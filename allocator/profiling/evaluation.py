"""The evaluation of a model folder on a text: dense, padded or compact, and beside the dense model that it came from.

The windows, the arithmetic and the names are those of a job's report, so that anybody can check a checkpoint that he was given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from allocator.base.devices import layer_memory
from allocator.base.errors import UnreadableModel
from allocator.base.settings import Settings
from allocator.plan.effort import evaluated
from allocator.plan.metrics.costs import CostModel
from allocator.plan.metrics.metric import Metric
from allocator.plan.model.geometry import Geometry
from allocator.profiling.divergence import compare_with_dense
from allocator.profiling.likelihood import nll_nats
from allocator.profiling.windows import checked_length, usual_length
from allocator.profiling.work import body_windows
from allocator.report.build import perplexity
from solvers.checkpoints import reading
from solvers.checkpoints.written import is_compact, load_written
from solvers.families import FAMILIES
from solvers.folder import called
from solvers.model.surgery import OpenModel, open_model
from solvers.modeling_rankalloc import COMPACT_PREFIX
from solvers.texts.text import Text, read_text, tokenizer_sha256


@dataclass(frozen=True)
class Candidate:
    """An opened model and what it costs."""

    folder: Path
    family: str
    opened: OpenModel
    vocab: int
    positions: int
    facts: dict[str, Any]


def open_candidate(folder: Path, settings: Settings, *, share: int = 1) -> Candidate:
    """A model folder, compact or stock, opened on the settings' device; layers come from the files as they are needed.

    Args:
        share: into how many parts the memory for layers is divided.

    Raises:
        UnreadableModelError, UnsupportedModelError: naming the thing and the way out.
    """
    compact = is_compact(folder)
    model = load_written(folder) if compact else reading.load(reading.inspect(folder), dtype=None)
    config = model.config
    name = config.model_type.removeprefix(COMPACT_PREFIX)
    family = FAMILIES[name]
    first = family.read(model, 0) if compact else family.read_layer(config, family.layers(model)[0])
    dtype = first.k_DKr.dtype  # embeddings and norms may be of another type
    params = sum(parameter.numel() for parameter in model.parameters())
    geometry = Geometry(**family.geometry(config), total_params=params, bytes_per_param=dtype.itemsize)
    if compact:
        cached = zip(config.qk_ranks, config.ov_ranks, strict=True)
        kv_bytes = dtype.itemsize * geometry.kv_heads * sum(qk + ov for qk, ov in cached)
    else:
        kv_bytes = CostModel(geometry).dense(Metric("kv_bytes_per_token"))
    facts = {
        "name": called(folder.resolve()),
        "model_type": config.model_type,
        "dtype": str(dtype).removeprefix("torch."),
        "params": params,
        "kv_bytes_per_token": kv_bytes,
    }
    opened = open_model(model, memory_bytes=layer_memory(settings) // share, device=settings.device)
    return Candidate(folder, name, opened, config.vocab_size, geometry.max_positions, facts)


def evaluate(
    folder: Path,
    text: Path,
    settings: Settings,
    *,
    dense: Path | None = None,
    evaluation_length: int | None = None,
    column: str | None = None,
    on_batch: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Likelihood of a text under the model in ``folder``; with ``dense`` also the rise over that model and the KL to it.

    Args:
        text: a file or folder (``solvers.texts.documents``); as in a job's report at most 65,536 tokens of it are used.
        column: where records have their text.
        evaluation_length: tokens of a window; default: 256, on CUDA 2048, or the model's context where that is shorter.
        on_batch: called after every batch with how many are done, and of how many.

    Returns:
        ``model`` and, if asked for, ``dense`` (each with params, kv_bytes_per_token, evaluation_nll_nats and
        evaluation_perplexity), ``evaluation`` (what was read), ``evaluation_rise_nats``, ``kl_nats``, ``kl_stderr_nats`` and
        ``top1_agreement`` (the share of positions at which both hold the same next token for the most likely).

    Raises:
        InvalidInput: windows that are longer than the models' contexts.
        UnreadableModel: the two are of different families, vocabularies or tokenizers.
        UnreadableModelError, UnsupportedModelError, TextError: naming the thing and the way out.
    """
    share = 1 if dense is None else 2
    candidate = open_candidate(folder, settings, share=share)
    reference = None if dense is None else open_candidate(dense, settings, share=share)
    if reference is not None:
        _check_same(candidate, reference)
    positions = min(opened_model.positions for opened_model in (candidate, reference) if opened_model)
    window = checked_length(evaluation_length, positions, "evaluation_length")
    window = window or usual_length(positions, settings.device)
    evaluation = _text(text, candidate, window, column)
    windows = evaluated(evaluation.windows)
    total, done = len(windows.split(body_windows(window))) * (1 if reference is None else 3), 0

    def tick() -> None:
        nonlocal done
        done += 1
        on_batch(done, total)

    def measured(model: Candidate) -> dict[str, Any]:
        nll = nll_nats(model.opened, windows, model.vocab, prefix=len(evaluation.prefix), tick=tick)
        return {
            **model.facts,
            "evaluation_nll_nats": nll,
            "evaluation_perplexity": perplexity(nll),
        }

    result: dict[str, Any] = {
        "model": measured(candidate),
        "evaluation": {
            "sha256": evaluation.sha256,
            "window_tokens": window,
            "windows": len(windows),
            "tokens": windows.numel(),
            "documents": evaluation.documents,
            "form": evaluation.form,
            "note": evaluation.note,
        },
    }
    if reference is not None:
        result["dense"] = measured(reference)
        rise = result["model"]["evaluation_nll_nats"] - result["dense"]["evaluation_nll_nats"]
        parts = windows.split(body_windows(window))
        expected = list(reference.opened.states(parts))
        comparison = compare_with_dense(reference.opened, expected, candidate.opened, parts, tick)
        result |= {"evaluation_rise_nats": rise, **asdict(comparison)}
    return result


def _check_same(candidate: Candidate, dense: Candidate) -> None:
    """Raises UnreadableModel where one cannot have been made from the other."""
    for part, mine, theirs in (
        ("family", candidate.family, dense.family),
        ("vocabulary", candidate.vocab, dense.vocab),
        ("tokenizer", *(tokenizer_sha256(model.folder)[:12] for model in (candidate, dense))),
    ):
        if mine != theirs:
            raise UnreadableModel(
                f"--dense: its {part} is {theirs}, that of {candidate.facts['name']} {mine};"
                " name the model that the checkpoint was made from"
            )


def _text(path: Path, candidate: Candidate, window: int, column: str | None) -> Text:
    text = read_text(path, candidate.folder, window=window, what="evaluation", column=column)
    reading.check_token_ids(candidate.facts["name"], candidate.vocab, int(text.windows.max()))
    return text
