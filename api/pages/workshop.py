"""The plan workshop: budgets and constraints as sliders over a stored profile, and the plan they lead to.

Without JavaScript the form is sent and the page comes back with its plan; with it the same form asks the JSON API at
every move.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import QueryParams

from allocator.base.access import allows
from allocator.base.errors import RankallocError
from allocator.plan.metrics.registry import METRICS
from api.pages import forms
from api.pages.render import full_ranks, page
from api.routes import plans as api
from api.schemas import Constraints, PlanRequest
from api.services import Caller, CallerDep, Services, ServicesDep, SubmitDep

router = APIRouter(include_in_schema=False)

_OPTIONS = {"flops_per_token": ("context", "phase"), "memory": ("batch", "context")}
_DEFAULTS = {
    "flops_per_token": {"context": "2048", "phase": "prefill"},
    "memory": {"batch": "8", "context": "4096"},
}
TITLES = {
    "block_params": "Block parameters",
    "params": "All parameters",
    "kv_bytes_per_token": "KV cache per token",
    "memory": "Memory: weights and cache",
    "flops_per_token": "FLOPs per token",
}
_START = "0.8"
POINTS = 24
"""Of the frontier that is drawn."""


@dataclass(frozen=True)
class State:
    """What the form says."""

    profile: str = ""
    use: tuple[str, ...] = ("block_params",)
    """Metrics with a budget."""
    shares: dict[str, str] = field(default_factory=dict)
    """Metric -> its limit, as people write it in a budget."""
    options: dict[str, str] = field(default_factory=dict)
    """``memory_batch`` -> 8, ..."""
    constraints: dict[str, str] = field(default_factory=dict)
    """Kind -> constraints with spaces between."""
    metric: str = "block_params"
    """Whose frontier is drawn."""

    @classmethod
    def of(cls, query: QueryParams | dict[str, str], use: list[str]) -> State:
        """Read from a query or a form; what is missing takes its default."""
        chosen = tuple(name for name in TITLES if name in use) or ("block_params",)
        metric = query.get("metric") or chosen[0]
        options = {
            f"{name}_{option}": (query.get(f"{name}_{option}") or _DEFAULTS[name][option])[:20]
            for name, known in _OPTIONS.items()
            for option in known
        }
        return cls(
            profile=(query.get("profile") or "")[:128],
            use=chosen,
            shares={name: (query.get(name) or _START)[:40] for name in TITLES},
            options=options,
            constraints={
                kind: (query.get(kind) or "")[:2000] for kind in ("align", "min_rank", "pin", "tie")
            },
            metric=metric if metric in METRICS else chosen[0],
        )

    def label(self, metric: str) -> str:
        """The metric with its options, as in a budget."""
        options = ",".join(f"{name}={self.options[f'{metric}_{name}']}" for name in _OPTIONS.get(metric, ()))
        return f"{metric}@{options}" if options else metric

    def budgets(self) -> list[str]:
        """As the API takes them."""
        written = []
        for metric in self.use:
            name, at, options = self.label(metric).partition("@")
            written.append(f"{name}={self.shares[metric]}{at}{options}")
        return written

    def given(self) -> dict[str, list[str]]:
        """Constraints as the API takes them."""
        split = {kind: forms.words(text) for kind, text in self.constraints.items()}
        return {kind: texts for kind, texts in split.items() if texts}

    def request(self, *, store: bool) -> PlanRequest:
        given = self.given()
        return PlanRequest(
            profile_key=self.profile,
            budgets=self.budgets(),
            constraints=Constraints(**given) if given else None,
            store=store,
        )

    def frontier(self) -> str:
        """The query of the frontier's picture: this metric, the other budgets and the constraints."""
        others = [
            ("budget", text)
            for metric, text in zip(self.use, self.budgets(), strict=True)
            if metric != self.metric
        ]
        limits = [(kind, text) for kind, texts in self.given().items() for text in texts]
        return urlencode([("metric", self.label(self.metric)), *others, *limits, ("points", POINTS)])

    def query(self) -> str:
        """The address of this state."""
        options = {
            name: value
            for name, value in self.options.items()
            if any(name.startswith(metric) for metric in self.use)
        }
        pairs = [
            ("profile", self.profile),
            *(("use", metric) for metric in self.use),
            *((metric, self.shares[metric]) for metric in self.use),
            *options.items(),
            *((kind, text) for kind, text in self.constraints.items() if text),
        ]
        return urlencode(pairs)

    def commands(self, base: str) -> dict[str, str]:
        """The same plan from a shell, by the command line and over REST."""
        words = ["rankalloc", "plan", self.profile]
        words += [word for text in self.budgets() for word in ("--budget", text)]
        for kind, texts in self.given().items():
            words += [word for text in texts for word in (f"--{kind.replace('_', '-')}", text)]
        body: dict[str, Any] = {"profile_key": self.profile, "budgets": self.budgets()}
        if given := self.given():
            body["constraints"] = given
        rest = [
            "curl",
            "-s",
            f"{base}v1/plans",
            "-H",
            "content-type: application/json",
            "-d",
            json.dumps(body),
        ]
        return {"cli": shlex.join(words), "rest": shlex.join(rest)}


def state_of(plan: dict[str, Any]) -> str:
    """The workshop's address for the budgets and constraints of a plan."""
    query = {"profile": plan["profile_key"]}
    use = []
    for row in plan["budgets"]:
        head, _, options = row["text"].partition("@")
        metric, _, value = head.partition("=")
        use.append(metric)
        query[metric] = value
        query |= {
            f"{metric}_{name}": found
            for name, _, found in (o.partition("=") for o in options.split(",") if o)
        }
    query |= {kind: " ".join(texts) for kind, texts in plan["constraints"].items() if kind != "steps"}
    return State.of(query, use).query()


@router.get("/workshop", response_class=HTMLResponse)
async def workshop(request: Request, services: ServicesDep, caller: CallerDep) -> HTMLResponse:
    """The form and its plan."""
    shown = partial(_workshop, request, services, caller)
    # Without a profile there is nothing to solve.
    return await (services.apart(shown) if "profile" in request.query_params else run_in_threadpool(shown))


def _workshop(request: Request, services: Services, caller: Caller) -> HTMLResponse:
    state = State.of(request.query_params, request.query_params.getlist("use"))
    if not state.profile:
        found = services.store.profiles.find(caller.team)
        return page("workshop_start.html", profiles=found.items)
    profile = services.measured(caller.team, state.profile).document
    plan, problem = None, None
    try:
        plan = api.solved(state.request(store=False), services, caller)
    except RankallocError as error:
        if error.status != 422:
            raise
        problem = error.document()
    return page(
        "workshop.html",
        state=state,
        titles=TITLES,
        options=_OPTIONS,
        profile=profile,
        full=full_ranks(profile["model"]["geometry"]),
        plan=plan,
        may_submit=allows(caller.scope, "submit"),
        problem=problem,
        commands=state.commands(str(request.base_url)),
        points=POINTS,
    )


@router.post("/workshop/plans", response_class=HTMLResponse)
async def save(form: forms.FormDep, services: ServicesDep, caller: SubmitDep) -> Response:
    """Store the plan of the form, and show it."""
    state = State.of({name: values[0] for name, values in form.items()}, form.get("use", []))
    plan = await services.apart(partial(api.solved, state.request(store=True), services, caller))
    return RedirectResponse(f"/plans/{plan['digest']}", status_code=303)
