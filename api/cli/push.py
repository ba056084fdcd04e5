"""``rankalloc push``: a compact checkpoint to a Hugging Face hub, by the user's own token. Nothing else ever uploads."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from allocator.base.errors import InvalidInput, RankallocError
from api.cli.app import app
from api.cli.console import bad_option, emit, stderr, stdout
from api.cli.options import Json

_NEEDED = ("README.md", "config.json", "plan.json", "model*.safetensors", "modeling_rankalloc.py")
_SENT = (
    *("*.safetensors", "*.json", "*.jinja", "*.model", "README.md", "merges.txt", "modeling_rankalloc.py"),
    *("additional_chat_templates/*.jinja", "LICEN[CS]E*", "NOTICE*", "COPYING*", "USE_POLICY*"),
)
_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_TOKEN = "HF_TOKEN"  # noqa: S105 - the name of a variable


@app.command()
def push(
    folder: Annotated[Path, typer.Argument(help="The compact folder of a compression.", show_default=False)],
    repo: Annotated[
        str, typer.Option(metavar="OWNER/NAME", help="Made if it is not there.", show_default=False)
    ],
    private: Annotated[bool, typer.Option("--private", help="Of a repository that is made.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be sent.")] = False,
    json_output: Json = False,
) -> None:
    """Send a compact checkpoint with its card to a Hugging Face hub, by the token in HF_TOKEN (HF_ENDPOINT: another hub)."""
    files = checked_folder(folder)
    if _REPO.fullmatch(repo) is None:
        raise bad_option("repo", repo, "OWNER/NAME")
    size = sum(file.stat().st_size for file in files)
    summary: dict[str, Any] = {
        "repo": repo,
        "files": [str(file.relative_to(folder)) for file in files],
        "bytes": size,
    }
    if "\nlicense: unknown\n" in (folder / "README.md").read_text(encoding="utf-8"):
        stderr.print(
            "the base model's licence is unknown: look it up, and say it in README.md, before you publish"
        )
    summary |= {"url": None} if dry_run else {"url": _send(folder, repo, private=private)}
    if json_output:
        emit({**summary, "dry_run": dry_run})
        return
    for file in files:
        stdout.print(f"{file.stat().st_size:>15,}  {escape(str(file.relative_to(folder)))}", highlight=False)
    done = "would be sent" if dry_run else "sent"
    stdout.print(f"{len(files)} files, {size:,} bytes {done} to {summary['url'] or repo}", soft_wrap=True)


def checked_folder(folder: Path) -> list[Path]:
    """The files that are sent. Raises InvalidInput for a folder that is no whole compact checkpoint."""
    missing = [pattern for pattern in _NEEDED if not list(folder.glob(pattern))]
    if missing:
        allowed = "the compact folder of a compression, as compress or apply wrote it"
        raise InvalidInput.of("folder", folder, allowed, "name", at=f"{folder} lacks {', '.join(missing)}")
    files = sorted({file for pattern in _SENT for file in folder.glob(pattern) if file.is_file()})
    return [file for file in files if not file.is_symlink()]


def _send(folder: Path, repo: str, *, private: bool) -> str:
    """The address of the repository after the commit."""
    token = os.environ.get(_TOKEN, "")
    if not token:
        raise InvalidInput(f"set {_TOKEN} to a token of yours that may write to {repo.partition('/')[0]}")
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    hub = HfApi(token=token)
    try:
        url = hub.create_repo(repo, private=private, exist_ok=True)
        hub.upload_folder(
            repo_id=repo,
            folder_path=folder,
            allow_patterns=list(_SENT),
            commit_message=f"Compressed by rankalloc: {folder.name}",
        )
    except HfHubHTTPError as error:
        raise RankallocError(
            f"the hub refused: {error.response.status_code} {error.server_message or ''}"
        ) from None
    except (httpx.HTTPError, ValueError) as error:
        raise RankallocError(f"the hub cannot be used: {error}") from None
    return str(url)
