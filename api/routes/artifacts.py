"""Artifacts: what jobs wrote, to look at, to download, to let go of."""

from __future__ import annotations

from pathlib import Path as FilePath
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Path
from fastapi.responses import FileResponse

from allocator.base.errors import NotFound
from allocator.jobs import submit
from api.routes.jobs import JobId
from api.schemas.answers import ArtifactList
from api.web.addresses import address
from api.web.services import Caller, CallerDep, Services, ServicesDep, SubmitDep

router = APIRouter(prefix="/v1/jobs/{job_id}/artifacts", tags=["jobs"])

_FILE: dict[str, Any] = {"*/*": {}}


@router.get("", response_model=ArtifactList)
def list_artifacts(job_id: JobId, services: ServicesDep, caller: CallerDep) -> dict[str, Any]:
    """The files the job has written so far, with size and sha256; those too that have been removed since (`removed_at`)."""
    services.store.jobs.get(caller.team, job_id)
    return _list(services, caller, job_id)


def _list(services: Services, caller: Caller, job_id: str) -> dict[str, Any]:
    rows = services.store.artifacts.list(caller.team, job_id)
    base = address(f"/v1/jobs/{job_id}/artifacts/")
    return {"items": [{**artifact, "href": base + quote(artifact["name"])} for artifact in rows]}


@router.delete("", response_model=ArtifactList)
def delete_artifacts(job_id: JobId, services: ServicesDep, caller: SubmitDep) -> dict[str, Any]:
    """Remove a finished job's files; the list stays and says when. Repeating it is harmless; 409 while the job runs."""
    submit.remove_artifacts(
        services.store, services.settings, team=caller.team, job_id=job_id, by=caller.name
    )
    return _list(services, caller, job_id)


@router.get(
    "/{name:path}",
    response_class=FileResponse,
    responses={
        200: {"description": "The file", "content": _FILE},
        206: {"description": "The part that `Range` asks for", "content": _FILE},
    },
)
def download_artifact(
    job_id: JobId, name: Annotated[str, Path(max_length=255)], services: ServicesDep, caller: CallerDep
) -> FileResponse:
    """One file. Takes `Range` and `If-Range`, so that an interrupted download can go on; its `ETag` is its sha256."""
    artifact, path = stored_file(services, caller, job_id, name)
    headers = {"ETag": f'"{artifact["sha256"]}"'}
    return FileResponse(path, filename=name.rpartition("/")[2], headers=headers)


def stored_file(
    services: Services, caller: Caller, job_id: str, name: str
) -> tuple[dict[str, Any], FilePath]:
    """A file's row and where it lies. Raises NotFound, also where the file has been removed."""
    # The path comes out of the table; what the caller wrote is only compared with names.
    artifact = services.store.artifacts.get(caller.team, job_id, name)
    path = services.settings.artifacts_dir / artifact["relative_path"]
    if not path.is_file():
        raise NotFound(f"The file {name!r} of job {job_id} has been removed.")
    return artifact, path
