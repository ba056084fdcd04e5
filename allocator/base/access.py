"""Access: scopes, and the names of teams and their members. Plain rules, no storage.

A scope contains those before it: ``read`` looks, ``submit`` also makes and shares things, ``admin`` also manages the
team's members and tokens and reads its audit trail. A member's role is the widest scope that the tokens can have.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Literal, get_args

from allocator.base.errors import InvalidInput

DEFAULT_TEAM = "default"
"""The team of everybody while no token has been made, and afterwards the operators': its admins create teams."""

Scope = Literal["read", "submit", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
READ, SUBMIT, ADMIN = SCOPES

ShareKind = Literal["profile", "plan"]
"""The kinds of things that one team can let another see."""
Direction = Literal["given", "received"]

TEAM_PATTERN = r"[a-z0-9][a-z0-9-]{0,62}"
MEMBER_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}"
_UNITS = {"m": 60, "h": 3600, "d": 86400}
MOST_DAYS = 3650


def allows(scope: str, needed: str) -> bool:
    """Whether ``scope`` contains ``needed``."""
    return SCOPES.index(scope) >= SCOPES.index(needed)


def lesser(first: str, second: str) -> str:
    """The narrower of two scopes."""
    return min(first, second, key=SCOPES.index)


def is_loopback(host: str) -> bool:
    """Whether an address or name (IPv6 with or without brackets) is of this machine alone."""
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_scope(scope: str, field: str = "scope") -> str:
    """The scope itself. Raises InvalidInput where there is none of that name."""
    return _checked(field, scope, scope in SCOPES, " or ".join(SCOPES))


def check_team_name(name: str, field: str = "name") -> str:
    """The name itself. Raises InvalidInput for one that no team can have."""
    allowed = "1 to 63 of a-z, 0-9 and '-', the first no '-', such as vision-2"
    return _checked(field, name, re.fullmatch(TEAM_PATTERN, name) is not None, allowed)


def check_member_name(name: str, field: str = "name") -> str:
    """The name itself. Raises InvalidInput for one that no member can have."""
    allowed = "1 to 64 letters, digits and . _ @ -, the first a letter or digit, such as ada@example.org"
    return _checked(field, name, re.fullmatch(MEMBER_PATTERN, name) is not None, allowed)


def lifetime_s(text: str) -> int | None:
    """Seconds of a lifetime such as ``90d``, ``12h`` or ``30m``; None for ``never``. Raises InvalidInput."""
    if text == "never":
        return None
    match = re.fullmatch(r"([1-9][0-9]{0,5})([mhd])", text)
    seconds = int(match[1]) * _UNITS[match[2]] if match else 0
    allowed = f"a number with m, h or d, at most {MOST_DAYS}d, such as 90d; or never"
    _checked("expires", text, 0 < seconds <= MOST_DAYS * 86400, allowed)
    return seconds


def _checked(field: str, text: str, valid: bool, allowed: str) -> str:
    if not valid:
        raise InvalidInput.of(field, text[:80], allowed)
    return text
