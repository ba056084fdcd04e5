"""Checks of the store and of who may use it: schema, clock, work that waits, tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from allocator.base.access import is_loopback
from allocator.base.errors import InvalidInput, SchemaMismatch, StoreUnavailable
from allocator.base.settings import Settings
from allocator.jobs.host.finding import Finding
from allocator.store import Store

_SKEW_S = 5.0
_CLOSE_IT = "rankalloc tokens create --team default --name NAME --scope admin"


@contextmanager
def opened_store(settings: Settings) -> Iterator[tuple[Store | None, Finding]]:
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


def check_clock(store: Store) -> Finding:
    skew = store.operations.clock_skew_s()
    skew_text = f"{abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} the database's"
    if abs(skew) < _SKEW_S:
        return Finding("clock", "ok", skew_text)
    return Finding(
        "clock", "note", skew_text, "leases do not depend on it, but logs of several machines do: run ntp"
    )


def check_work(store: Store, settings: Settings) -> Finding:
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


def check_messages(store: Store) -> Finding:
    count = store.wakeups.count()
    advice = "`rankalloc serve` hands them over; is it running, and does it reach the broker?"
    return Finding(
        "messages",
        "note" if count > 100 else "ok",
        f"{count} messages to hand over",
        advice if count > 100 else "",
    )


def check_tokens(store: Store, *, token_exists: bool) -> Finding:
    if not token_exists:
        return Finding("tokens", "ok", "none was ever made: nobody has to log in, everybody is team default")
    living = store.tokens.living()
    if living:
        return Finding("tokens", "ok", f"{living} live; every request to /v1 needs one")
    return Finding("tokens", "note", "all are revoked or have expired: nobody can log in", _CLOSE_IT)


def check_listening(settings: Settings, *, token_exists: bool) -> Finding:
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
