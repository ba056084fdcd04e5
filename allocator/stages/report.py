"""Write the report, the pictures and the model card."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any

from allocator.base.errors import NotFound
from allocator.base.settings import Settings
from allocator.plan.documents.plan import Plan
from allocator.plan.targets.llama_cpp import GGUF
from allocator.report.build import build_report
from allocator.report.card import model_card
from allocator.report.document import CutFigures
from allocator.report.html import render_html
from allocator.report.licence import licence_of
from allocator.stages.facts import facts_of, geometry_of, job_plan
from allocator.stages.pipeline import ItemSpec, JobView, StageContext
from allocator.stages.sources import model_folder, shown_reference
from allocator.store import Store


class ReportStage:
    """One item; publishes ``report.json``, ``report.html`` and the compact checkpoint's README.md."""

    def items(self, job: JobView, store: Store, settings: Settings) -> list[ItemSpec]:
        return [ItemSpec("report")]

    def run(self, context: StageContext) -> dict[str, Any]:
        from solvers.folder import leads_inside

        job, store = context.job, context.store
        plan, facts = job_plan(context), facts_of(job)
        assembled = next(iter(job.results["assemble"]), None) or _of_plan(job, plan)
        profile = None
        with suppress(NotFound):  # a plan may have come without it
            profile = store.profiles.get(job.team, assembled["profile_key"])
        report = build_report(
            job_id=job.id,
            reference=facts["reference"],
            request={
                k: shown_reference(v) if isinstance(v, str) else v for k, v in job.request.document.items()
            },
            plan=plan,
            evaluated=job.results["evaluate"],
            profile={
                "key": assembled["profile_key"],
                "reused": assembled["reused"],
                "forward_passes": assembled["forward_passes"],
            },
            timings_s=_timings(context),
            feedback=job.result("apply")["feedback"],
            heal=next(iter(job.results["heal"]), None),
            texts=_texts(facts, job.results["evaluate"]),
            refinement=next((result["record"] for result in job.results["refine"]), None),
            continuations=_continuations(context),
            files={row["name"]: row["sha256"] for row in store.artifacts.list(job.team, job.id)},
        )
        source = model_folder(context.settings, job.request.model)
        exports = job.result("apply")["exports"]
        card = model_card(
            report,
            licence=licence_of(source, follows=partial(leads_inside, source)),
            solver_version=facts["identity"]["solution"]["solver"],
            exports=exports,
        )
        folder = context.temporary_dir()
        for name, text in (
            ("report.json", json.dumps(report.document, indent=2)),
            ("report.html", render_html(report, geometry_of(job), profile)),
            ("README.md", card),
        ):
            (folder / name).write_text(text, encoding="utf-8")
            context.publish_artifact(folder / name, "compact/README.md" if name == "README.md" else name)
        if GGUF in exports:  # they are handed on by themselves
            (folder / "README.md").write_text(card, encoding="utf-8")
            context.publish_artifact(folder / "README.md", f"{GGUF}/README.md")
        measured = _measured(report.plan)
        for name in ("window_tokens", "windows", "shared_windows"):
            if name in report.evaluation.model_fields_set:
                measured[f"evaluation_{name}"] = getattr(report.evaluation, name)
        if report.heal is not None and report.healed is not None:
            measured["healed"] = {**_measured(report.healed), "steps": report.heal.steps}
        store.plans.add_measurement(job.team, plan.digest, job.id, measured)
        return {"measured": measured}


def _continuations(context: StageContext) -> list[dict[str, str]]:
    """A row for each prompt: its text, and what each model wrote behind it; none where an earlier version evaluated."""
    from solvers.texts.tokenizer_file import tokenizer_file
    from solvers.texts.tokenizing import TokenizingError, decoded

    results = [row for row in context.job.results["evaluate"] if "continuation_ids" in row]
    if not results:
        return []
    prompts = results[0]["prompt_ids"]  # the same of all models
    rows = [
        prompt + new
        for result in results
        for prompt, new in zip(prompts, result["continuation_ids"], strict=True)
    ]
    folder = model_folder(context.settings, context.job.request.model)
    try:
        texts = decoded(tokenizer_file(folder), prompts + rows)
    except TokenizingError:  # it can encode and not decode: no reason to fail a job at its end
        return []
    table = [{"prompt": text} for text in texts[: len(prompts)]]
    for number, text in enumerate(texts[len(prompts) :]):
        row = table[number % len(prompts)]
        row[results[number // len(prompts)]["name"]] = text.removeprefix(row["prompt"])
    return table


def _texts(facts: dict[str, Any], evaluated: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The facts of both texts. Those that an earlier version prepared have one window length, and no count of windows."""
    window = {"window_tokens": facts["window_tokens"]}
    documents = facts.get("read", {})
    texts = {
        name: {**window, **facts[name], **documents.get(name, {})} for name in ("calibration", "evaluation")
    }
    if windows := len(evaluated[0].get("evaluation_window_nats", [])):  # the same of all models
        texts["evaluation"]["windows"] = windows
    if (shared := texts["evaluation"].get("shared_windows")) is not None:  # of those that were read
        texts["evaluation"]["shared_windows"] = sum(
            window < texts["evaluation"]["windows"] for window in shared
        )
    return texts


def _of_plan(job: JobView, plan: Plan) -> dict[str, Any]:
    """The facts in place of an assembled profile's, for a job that applied a stored plan and so needed none."""
    passes = sum(result["forward_passes"] for result in job.results["calibrate"])
    return {"profile_key": plan.profile_key, "reused": True, "forward_passes": passes}


def _measured(figures: CutFigures) -> dict[str, Any]:
    return {
        "measured_loss_nats": figures.measured_loss_nats,
        "measured_stderr_nats": figures.measured_stderr_nats,
        "evaluation_rise_nats": figures.evaluation_rise_nats,
        "evaluation_perplexity": figures.evaluation_perplexity,
    }


def _timings(context: StageContext) -> dict[str, float]:
    """Seconds from each stage's start to the next one's, by the database's clock."""
    starts = [
        (event.data["stage"], event.created_at)
        for event in context.store.events.list(context.job.team, context.job.id)
        if event.type == "stage.started" and event.data
    ]
    ends = [moment for _, moment in starts[1:]] + [datetime.now(UTC)]
    return {
        stage: round((end - start).total_seconds(), 3)
        for (stage, start), end in zip(starts, ends, strict=True)
    }
