"""Forms as browsers send them, read into what the REST routes take."""

from __future__ import annotations

import re
from typing import Annotated, Any
from urllib.parse import parse_qs

from fastapi import Depends, Request
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from allocator.base.errors import InvalidInput
from allocator.base.kinds import COMPRESS
from allocator.plan.ask.constraints import KINDS
from allocator.plan.metrics.registry import METRICS
from allocator.stages.request import CHOICES, NUMBERS, TEXTS
from api.pages.job_fields import OPTIONS
from api.schemas.requests import JobRequest
from api.web.problems import invalid_fields

_MOST_FIELDS = 100

Form = dict[str, list[str]]


async def _form(request: Request) -> Form:
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    if kind != "application/x-www-form-urlencoded":
        raise HTTPException(415, "This address takes an HTML form; programs use the routes under /v1.")
    try:
        return parse_qs((await request.body()).decode(), max_num_fields=_MOST_FIELDS)
    except ValueError:
        raise HTTPException(400, "The form cannot be read.") from None


FormDep = Annotated[Form, Depends(_form)]


def only(form: Form, name: str) -> str:
    """A field's value; empty where it was left out or left blank."""
    return form.get(name, [""])[0].strip()


def words(text: str) -> list[str]:
    """The values of a field that takes several: one a line, or with spaces between."""
    return text.split()


def budgets(text: str) -> list[str]:
    """One a line, or several behind each other; ``80 %`` and ``24 GiB`` may have their space."""
    parts = re.split(rf"\n|\s(?=\s*(?:{'|'.join(METRICS)})\s*=)", text)
    return [part.strip() for part in parts if part.strip()]


def constraints(form: Form) -> dict[str, list[str]] | None:
    """Kind -> constraints as the API takes them; None without any."""
    by_kind = {kind: words(" ".join(form.get(kind, []))) for kind in KINDS}
    return {kind: texts for kind, texts in by_kind.items() if texts} or None


def job_request(form: Form) -> JobRequest:
    """The job that a form describes.

    Raises:
        InvalidInput: naming every wrong field.
    """
    body: dict[str, Any] = {name: only(form, name) for name in TEXTS if only(form, name)}
    body["budgets"] = budgets(only(form, "budgets"))
    for name, bounds in NUMBERS.items():
        if text := only(form, name):
            if not text.isdecimal():
                raise InvalidInput.of(name, text[:100], "a whole number from {} to {}".format(*bounds))
            body[name] = int(text[:12])
    if bits := words(only(form, "bits").replace(",", " ")):
        body["bits"] = [int(width) if width in CHOICES["bits"] else width for width in bits]
    if form.get("export") and body.get("kind") == COMPRESS:  # the form has the defaults ticked for every kind
        body["export"] = form["export"]
    if limits := constraints(form):
        body["constraints"] = limits
    try:
        return JobRequest.model_validate(body)
    except ValidationError as error:
        raise invalid_fields(error.errors()) from None


def messages(error: InvalidInput | Any) -> dict[str, str]:
    """Form field -> what is wrong with it, for the fields a form has; anything else stands under the empty name."""
    texts: dict[str, str] = {}
    for field in error.fields:
        name = field.field.partition("[")[0].removeprefix("constraints.")
        name = "budgets" if name == "budget" else name
        where = name if name in (*TEXTS, *OPTIONS, "budgets", "export") else ""
        texts.setdefault(
            where, f"{field.found} – {field.allowed}" if field.found != "nothing" else field.allowed
        )
    return texts or {"": error.detail}
