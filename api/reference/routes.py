"""The REST routes, from the description that the service serves, and the fields of the bodies that they take."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from allocator.stages.rules import ONLY_FOR
from api.app import routers
from api.reference.markdown import cell, table
from api.schemas.requests import JobRequest, PlanRequest

_FIELDS = {JobRequest.__name__: "fields-of-a-job", PlanRequest.__name__: "fields-of-a-plan"}
"""Bodies whose fields have a table of their own -> its place on the page."""


@cache
def _description() -> dict[str, Any]:
    app = FastAPI(title="rankalloc")
    for router in routers():
        app.include_router(router)
    return app.openapi()


def routes_table(*places: str) -> str:
    """Every route whose path begins with one of these words (behind ``/v1``): the scope that it needs, what it takes beside
    its path, the status of its answer, what it does.
    """
    rows = (
        (
            f"`{method.upper()} {path}`",
            _scope(operation),
            ", ".join(_inputs(operation)),
            ", ".join(sorted(status for status in operation["responses"] if status.startswith("2"))),
            cell(operation["description"]),
        )
        for path, methods in _description()["paths"].items()
        if path.removeprefix("/v1").split("/")[1] in places
        for method, operation in methods.items()
    )
    return table(("route", "scope", "takes", "status", "what it does"), rows)


def _scope(operation: dict[str, Any]) -> str:
    """The scope that a token needs; a dash where no token is needed."""
    schemes: list[dict[str, list[str]]] = operation.get("security", [{}])
    return ", ".join(f"`{scope}`" for scopes in schemes[0].values() for scope in scopes) or "-"


def _inputs(operation: dict[str, Any]) -> Iterator[str]:
    """Query parameters and headers, then what the body holds; in bold what cannot be left out."""
    for parameter in operation.get("parameters", []):
        if parameter["in"] != "path":
            name = parameter["name"] if parameter["in"] == "query" else parameter["name"].title()
            yield _name(name, required=parameter["required"])
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        yield from _body(media_type, content["schema"])


def _name(name: str, *, required: bool) -> str:
    return f"**`{name}`**" if required else f"`{name}`"


def _body(media_type: str, schema: dict[str, Any]) -> Iterator[str]:
    reference = schema.get("anyOf", [schema])[0].get("$ref")
    if reference is None:
        yield f"body: a file, `{media_type}`"
        return
    name = reference.rpartition("/")[2]
    if name in _FIELDS:
        yield f"body: [fields](#{_FIELDS[name]})"
        return
    body = _description()["components"]["schemas"][name]
    required = body.get("required", [])
    yield "body: " + ", ".join(_name(field, required=field in required) for field in body["properties"])


def job_table() -> str:
    """Every field of a job's request: the kinds of jobs that know it, its values, its meaning."""
    rows = (
        (f"`{name}`", ", ".join(ONLY_FOR.get(name, ("all",))), _values(field), field["description"])
        for name, field in _fields(JobRequest)
    )
    return table(("field", "kinds", "values", "meaning"), rows)


def plan_table() -> str:
    """Every field of a plan's request: its values, its meaning."""
    rows = ((f"`{name}`", _values(field), field["description"]) for name, field in _fields(PlanRequest))
    return table(("field", "values", "meaning"), rows)


def _fields(model: type[BaseModel]) -> list[tuple[str, dict[str, Any]]]:
    """Name and JSON schema of a body's fields, required ones first."""
    schema = model.model_json_schema()
    return sorted(schema["properties"].items(), key=lambda field: field[0] not in schema["required"])


def _values(schema: dict[str, Any]) -> str:
    """The values that a field of a JSON schema takes, null apart."""
    schema = schema.get("anyOf", [schema])[0]
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list: {_values(schema['items'])}"
    if schema.get("type") == "boolean":
        return "`true`, `false`"
    if "maximum" in schema:
        return f"{schema['minimum']:,} to {int(schema['maximum']):,}"
    return "[object](constraints.md)" if "$ref" in schema else "text"
