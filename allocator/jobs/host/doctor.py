"""Checks of a deployment: what is wrong, and what to do about it. Changes nothing."""

from __future__ import annotations

from allocator.base.settings import Settings
from allocator.jobs.host.finding import Finding
from allocator.jobs.host.host_checks import (
    check_broker,
    check_database_outside,
    check_home,
    check_room,
    check_roots,
    check_time_limits,
    check_torch_device,
    check_worker_extra,
)
from allocator.jobs.host.store_checks import (
    check_clock,
    check_listening,
    check_messages,
    check_tokens,
    check_work,
    opened_store,
)


def examine(settings: Settings) -> list[Finding]:
    """Every check, in the order in which things depend on each other."""
    findings = [
        check_home(settings),
        check_room(settings),
        *check_roots(settings),
        check_worker_extra(settings),
        check_torch_device(settings),
        *check_database_outside(settings),
    ]
    with opened_store(settings) as (store, database):
        findings.append(database)
        if store is not None:
            findings += [check_clock(store), check_work(store, settings), check_messages(store)]
            token_exists = store.tokens.any()
            findings += [
                check_tokens(store, token_exists=token_exists),
                check_listening(settings, token_exists=token_exists),
            ]
    return [*findings, check_broker(settings), check_time_limits(settings)]
