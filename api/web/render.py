"""Templates to answers, with the headers that every page carries."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import jinja2
from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, RedirectResponse

from allocator.base.document import timestamp
from allocator.plan.ask.choices import ILP, UNIFORM
from allocator.plan.ask.constraints import target_of
from allocator.plan.metrics.kv import KVBytesPerToken
from allocator.plan.metrics.params import BlockParams
from allocator.plan.metrics.registry import METRICS, SUMMARY
from allocator.plan.model.geometry import COMPONENTS, Geometry
from allocator.plan.targets.registry import PLAIN, TARGETS
from allocator.report import units
from allocator.report.rows import baselines
from allocator.stages.exports import EXPORTS, default_exports
from allocator.store.states import State
from api.web import assets
from api.web.addresses import address, own_path, prefix

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-cache, private",
    "Vary": "Accept, Cookie",
}
REPORT_CSP = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
"""For a job's ``report.html``, which earlier versions wrote with a script inside: a page of nobody that reaches nothing."""


def within_sentence(title: str) -> str:
    """A title as it stands in a sentence: in lower case, if it does not begin with an abbreviation."""
    return title if title[:2].isupper() else title[:1].lower() + title[1:]


_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("api.web"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.globals |= {
    "asset": assets.url,
    "root": prefix,
    "METRICS": METRICS,
    "BLOCKS": METRICS[BlockParams.name],
    "CACHE": METRICS[KVBytesPerToken.name],
    "COMPONENTS": COMPONENTS,
    "ALLOCATIONS": {ILP: "mixed", UNIFORM: "uniform"},
    "State": State,
    "SUMMARY": [METRICS[name] for name in SUMMARY],
    "baselines": baselines,
    "PLAIN": PLAIN,
    "TARGETS": TARGETS,
    "EXPORTS": EXPORTS,
    "exports_for": lambda constraints: default_exports(target_of(constraints)),
}
_ENVIRONMENT.filters |= {
    "nats": units.nats,
    "signed": units.signed,
    "amount": units.amount,
    "change": units.change,
    "percent": units.percent,
    "when": units.when,
    "short": units.short,
    "timestamp": timestamp,
    "within_sentence": within_sentence,
}


def page(
    template: str, *, status: int = 200, headers: dict[str, str] | None = None, **context: Any
) -> HTMLResponse:
    """The template as a page. Everything in ``context`` is escaped."""
    content = _ENVIRONMENT.get_template(template).render(context)
    return HTMLResponse(content, status_code=status, headers={**HEADERS, **(headers or {})})


def full_ranks(geometry: Geometry) -> dict[str, int]:
    """Component -> its rank in the dense model."""
    return {component: geometry.full_rank(component) for component in COMPONENTS}


def wants_html(headers: Headers) -> bool:
    """Whether a browser asks for something to show; programs that take anything get JSON."""
    return "text/html" in headers.get("accept", "")


def to_login(scope: dict[str, Any]) -> RedirectResponse:
    """To the page that asks for a token, which leads back here."""
    query = scope["query_string"].decode("latin-1")
    here = own_path(scope) + ("?" + query if query else "")
    goal = address("/login?" + urlencode({"next": here}))
    return RedirectResponse(goal, status_code=303, headers={"Cache-Control": "no-store"})


def error_page(
    status: int, document: dict[str, Any], request_id: str, headers: dict[str, str] | None
) -> HTMLResponse:
    """An error for a person. ``document`` is `RankallocError.document`."""
    return page(
        "error.html",
        status=status,
        headers=headers,
        problem=document,
        status_code=status,
        request_id=request_id,
    )
