"""Checks of this machine and of the settings: folders, libraries, the device, the broker."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import make_url

from allocator.base.errors import RankallocError
from allocator.base.references import NAMES, can_be_named, local_models
from allocator.base.settings import Settings
from allocator.jobs.host.finding import Finding

_ROOM_BYTES = 5 << 30
_BROKER_TIMEOUT_S = 3
_SQLITE = b"SQLite format 3\0"


def check_home(settings: Settings) -> Finding:
    home = settings.home
    if not home.exists():
        return Finding(
            "home",
            "note",
            f"{home} does not exist",
            "it is made by the first `rankalloc serve` or `compress`",
        )
    try:
        with tempfile.TemporaryFile(dir=home):
            pass
    except OSError as error:
        return Finding(
            "home", "wrong", f"{home}: {error.strerror}", "let the user that runs rankalloc write there"
        )
    if home.stat().st_mode & 0o077:
        return Finding("home", "note", f"{home} can be read by others", f"chmod 700 {home}")
    return Finding("home", "ok", str(home))


def check_room(settings: Settings) -> Finding:
    folder = settings.home if settings.home.exists() else settings.home.parent
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Finding(
            "disk space",
            "wrong",
            f"{folder}: {error.strerror}",
            "name a folder that exists in RANKALLOC_HOME",
        )
    room = f"{free / 2**30:.1f} GiB free"
    advice = "moments and checkpoints go there: make room, `rankalloc clean`, or lower RANKALLOC_MOMENTS_KEEP_BYTES"
    return (
        Finding("disk space", "ok", room)
        if free > _ROOM_BYTES
        else Finding("disk space", "note", room, advice)
    )


def check_roots(settings: Settings) -> Iterator[Finding]:
    readable = [folder for folder in settings.model_roots if os.access(folder, os.R_OK | os.X_OK)]
    listed = set(local_models(settings.model_copy(update={"model_roots": readable})))
    for folder in settings.model_roots:
        if not os.access(folder, os.R_OK | os.X_OK):
            yield Finding("models", "wrong", f"{folder} cannot be read", "see RANKALLOC_MODEL_ROOTS")
            continue
        names = [path.name for path in folder.iterdir() if (path / "config.json").is_file()]
        count = len(listed.intersection(names))
        advice = (
            "" if count else "a model is a sub-folder with config.json, tokenizer.json and safetensors files"
        )
        yield Finding("models", "ok" if count else "note", f"{count} in {folder}", advice)
        for name in sorted(names):
            if not can_be_named(name):
                yield Finding(
                    "models", "note", f"{name!r} has no name that jobs can give it", f"rename it: {NAMES}"
                )
    for folder in settings.text_roots:
        if folder != settings.home / "texts" and not folder.is_dir():
            yield Finding("texts", "wrong", f"{folder} is no folder", "see RANKALLOC_TEXT_ROOTS")


def check_worker_extra(settings: Settings) -> Finding:
    missing = [
        name for name in ("torch", "transformers", "safetensors") if importlib.util.find_spec(name) is None
    ]
    if not missing:
        return Finding("worker libraries", "ok", "torch, transformers and safetensors are installed")
    state, advice = f"{', '.join(missing)} not installed", "pip install 'rankalloc[worker]'"
    # An API beside workers elsewhere needs none of them; one with a worker of its own does.
    return Finding("worker libraries", "wrong" if settings.embedded_broker else "note", state, advice)


def check_torch_device(settings: Settings) -> Finding:
    from allocator.base.devices import check_device

    if settings.device == "cpu":
        return Finding("device", "ok", f"cpu, {settings.threads or os.cpu_count()} threads")
    try:
        check_device(settings, apart=True)
    except RankallocError as error:
        return Finding(
            "device", "wrong", error.detail, "RANKALLOC_DEVICE=cpu, or install a torch for this GPU's driver"
        )
    return Finding("device", "ok", settings.device)


def check_database_outside(settings: Settings) -> Iterator[Finding]:
    """A database of earlier versions, to which a ``?`` in the home's name, or ``%`` with two digits, was part of an address."""
    database = settings.home / "rankalloc.db"
    outside = Path(make_url(f"sqlite:///{database}").database or database)
    if not settings.embedded_database or outside == database or not outside.is_file():
        return
    with outside.open("rb") as file:
        if file.read(len(_SQLITE)) != _SQLITE:
            return
    state = f"an earlier version of rankalloc kept it at {outside}, outside of RANKALLOC_HOME"
    advice = f"with everything stopped, mv {shlex.quote(str(outside))} {shlex.quote(str(database))}"
    if database.exists():
        advice = f"what is in it is used again once it takes the place of the newer one: {advice}"
    yield Finding("earlier database", "note", state, advice)


def check_broker(settings: Settings) -> Finding:
    if settings.embedded_broker:
        return Finding("broker", "ok", "files in RANKALLOC_HOME: for one machine")
    if not settings.broker_url.startswith(("redis", "rediss", "unix")):
        return Finding(
            "broker",
            "note",
            "no Redis: not one that rankalloc is tested with",
            "RANKALLOC_BROKER_URL=redis://...",
        )
    import redis

    url = settings.broker_url.replace("redis+socket://", "unix://", 1)
    try:
        client = redis.Redis.from_url(
            url, socket_timeout=_BROKER_TIMEOUT_S, socket_connect_timeout=_BROKER_TIMEOUT_S
        )
        with client:
            client.ping()
            policy = client.config_get("maxmemory-policy").get("maxmemory-policy")
    except (redis.RedisError, OSError, ValueError) as error:
        # Only its kind: messages hold the address, which may hold the password.
        advice = "jobs wait and start by themselves when it is back; see RANKALLOC_BROKER_URL"
        return Finding("broker", "wrong", f"Redis does not answer ({type(error).__name__})", advice)
    if policy != "noeviction":
        return Finding(
            "broker",
            "note",
            f"Redis may evict keys ({policy}), hence lose messages",
            "maxmemory-policy noeviction",
        )
    return Finding("broker", "ok", "Redis answers")


def check_time_limits(settings: Settings) -> Finding:
    limit, visibility = settings.item_time_limit_s, settings.visibility_timeout_s
    limits = f"a part may go {limit} s without progress; Redis hands a message out again after {visibility} s"
    if settings.embedded_broker or visibility > limit:
        return Finding("time limits", "ok", limits)
    advice = f"RANKALLOC_VISIBILITY_TIMEOUT_S must exceed RANKALLOC_ITEM_TIME_LIMIT_S: try {2 * limit}"
    return Finding("time limits", "wrong", limits, advice)
