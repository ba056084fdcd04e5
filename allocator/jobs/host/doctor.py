"""Checks of a deployment: what is wrong, and what to do about it. Changes nothing."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import make_url

from allocator.base.access import is_loopback
from allocator.base.errors import InvalidInput, RankallocError, SchemaMismatch, StoreUnavailable
from allocator.base.references import NAMES, can_be_named, local_models
from allocator.base.settings import Settings
from allocator.store import Store

State = Literal["ok", "note", "wrong"]
_ROOM_BYTES = 5 << 30
_SKEW_S = 5.0
_BROKER_TIMEOUT_S = 3
_SQLITE = b"SQLite format 3\0"
_CLOSE_IT = "rankalloc tokens create --team default --name NAME --scope admin"


@dataclass(frozen=True)
class Finding:
    """``note``: works, but look at it; ``wrong``: something will not work. ``advice``: what to do, empty where all is well."""

    check: str
    state: State
    found: str
    advice: str = ""

    def document(self) -> dict[str, Any]:
        return asdict(self)


def examine(settings: Settings) -> list[Finding]:
    """Every check, in the order in which things depend on each other."""
    findings = [
        _home(settings),
        _room(settings),
        *_roots(settings),
        _worker_extra(settings),
        _device(settings),
        *_database_outside(settings),
    ]
    with _opened(settings) as (store, database):
        findings.append(database)
        if store is not None:
            findings += [_clock(store), _work(store, settings), _messages(store)]
            token_exists = store.tokens.any()
            findings += [
                _tokens(store, token_exists=token_exists),
                _listening(settings, token_exists=token_exists),
            ]
    return [*findings, _broker(settings), _times(settings)]


def _database_outside(settings: Settings) -> Iterator[Finding]:
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


@contextmanager
def _opened(settings: Settings) -> Iterator[tuple[Store | None, Finding]]:
    kind = settings.sqlalchemy_url.partition(":")[0]
    if settings.embedded_database and not (settings.home / "rankalloc.db").exists():
        advice = "it is made by the first `rankalloc serve` or `compress`"
        yield None, Finding("database", "note", "there is none in RANKALLOC_HOME yet", advice)
        return
    try:
        store = Store.open(settings)
    except SchemaMismatch as error:
        yield None, Finding("database", "wrong", error.detail, error.command)
        return
    except (InvalidInput, StoreUnavailable) as error:
        advice = (
            "see RANKALLOC_DATABASE_URL; for PostgreSQL install the extra: pip install 'rankalloc[postgres]'"
        )
        yield None, Finding("database", "wrong", str(error), advice)
        return
    try:
        yield store, _schema(store, kind)
    finally:
        store.close()


def _schema(store: Store, kind: str) -> Finding:
    from allocator.store import migrate

    revision = migrate.current(store.database)
    if revision == migrate.head():
        return Finding("database", "ok", f"{kind}, at this version's schema")
    finding_text = f"{kind}, at revision {revision}, which only adds to this version's {migrate.head()}"
    return Finding(
        "database", "note", finding_text, "finish the upgrade here: install the version that wrote it"
    )


def _home(settings: Settings) -> Finding:
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


def _room(settings: Settings) -> Finding:
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


def _roots(settings: Settings) -> Iterator[Finding]:
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


def _worker_extra(settings: Settings) -> Finding:
    missing = [
        name for name in ("torch", "transformers", "safetensors") if importlib.util.find_spec(name) is None
    ]
    if not missing:
        return Finding("worker libraries", "ok", "torch, transformers and safetensors are installed")
    state, advice = f"{', '.join(missing)} not installed", "pip install 'rankalloc[worker]'"
    # An API beside workers elsewhere needs none of them; one with a worker of its own does.
    return Finding("worker libraries", "wrong" if settings.embedded_broker else "note", state, advice)


def _device(settings: Settings) -> Finding:
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


def _clock(store: Store) -> Finding:
    skew = store.operations.clock_skew_s()
    skew_text = f"{abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} the database's"
    if abs(skew) < _SKEW_S:
        return Finding("clock", "ok", skew_text)
    return Finding(
        "clock", "note", skew_text, "leases do not depend on it, but logs of several machines do: run ntp"
    )


def _work(store: Store, settings: Settings) -> Finding:
    work = store.operations.work()
    counts = (
        f"{work.due} parts wait, {work.running} are being worked on, {work.silent} have lost their worker"
    )
    if work.silent and not work.running:
        return Finding(
            "work", "note", counts, "a running `rankalloc serve` gives them to other workers by itself"
        )
    if work.due and not work.running and work.oldest_wait_s > settings.stalled_s:
        waited = f"{counts}; the first waits for {work.oldest_wait_s:.0f} s"
        return Finding(
            "work", "wrong", waited, "start `rankalloc worker` with this database, broker and RANKALLOC_HOME"
        )
    return Finding("work", "ok", counts)


def _messages(store: Store) -> Finding:
    count = store.wakeups.count()
    advice = "`rankalloc serve` hands them over; is it running, and does it reach the broker?"
    return Finding(
        "messages",
        "note" if count > 100 else "ok",
        f"{count} messages to hand over",
        advice if count > 100 else "",
    )


def _broker(settings: Settings) -> Finding:
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


def _times(settings: Settings) -> Finding:
    limit, visibility = settings.item_time_limit_s, settings.visibility_timeout_s
    limits = f"a part may go {limit} s without progress; Redis hands a message out again after {visibility} s"
    if settings.embedded_broker or visibility > limit:
        return Finding("time limits", "ok", limits)
    advice = f"RANKALLOC_VISIBILITY_TIMEOUT_S must exceed RANKALLOC_ITEM_TIME_LIMIT_S: try {2 * limit}"
    return Finding("time limits", "wrong", limits, advice)


def _tokens(store: Store, *, token_exists: bool) -> Finding:
    if not token_exists:
        return Finding("tokens", "ok", "none was ever made: nobody has to log in, everybody is team default")
    living = store.tokens.living()
    if living:
        return Finding("tokens", "ok", f"{living} live; every request to /v1 needs one")
    return Finding("tokens", "note", "all are revoked or have expired: nobody can log in", _CLOSE_IT)


def _listening(settings: Settings, *, token_exists: bool) -> Finding:
    """Who may reach the service. Without a token `serve` itself refuses addresses beyond loopback, unless it was told to
    listen there; a proxy beside it, which other names are for, it cannot refuse.
    """
    names = f"answers under the names {', '.join(settings.allowed_hosts)}"
    if token_exists:
        return Finding("listening", "ok", f"{names}, on any address, to who has a token")
    if settings.allow_unauthenticated_bind:
        state = (
            "beyond loopback, as RANKALLOC_ALLOW_UNAUTHENTICATED_BIND allows, and there is no token:"
            " whoever reaches the port may use the service"
        )
        advice = f"only for a container whose port is published on 127.0.0.1; else {_CLOSE_IT}"
        return Finding("listening", "note", state, advice)
    if foreign := [name for name in settings.allowed_hosts if not is_loopback(name)]:
        state = (
            f"on loopback alone, but under {', '.join(foreign)} too, and there is no token: whoever reaches a"
            " proxy in front of it may use the service"
        )
        return Finding("listening", "note", state, _CLOSE_IT)
    return Finding("listening", "ok", f"{names}, on loopback alone while there is no token")
