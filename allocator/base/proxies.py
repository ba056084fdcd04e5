"""Settings of the proxies in front of the service: their addresses, and the prefix under which they show it."""

from __future__ import annotations

import ipaddress
import re

OWN_PATHS = frozenset(
    {
        *("v1", "jobs", "profiles", "workshop", "plans", "team", "login", "logout", "static"),
        *("healthz", "readyz", "metrics", "openapi.json"),
    }
)
"""The beginnings of the service's own paths. A prefix that began so could not be told from a path without its prefix."""
_PREFIX = re.compile(r"(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+")
_LONGEST = 200
_ANY = "*"
PREFIXES = "a path of letters, digits and . _ ~ -, such as /rankalloc, the first part none of the service's own (/jobs, /v1)"


def path_prefix(text: str) -> str:
    """The prefix without a slash at its end; empty for none. Raises ValueError for what is none, such as ``//host``."""
    prefix = text.removesuffix("/")
    right = _PREFIX.fullmatch(prefix) and len(prefix) <= _LONGEST and prefix.split("/")[1] not in OWN_PATHS
    if prefix and not right:
        raise ValueError(f"{text[:80]!r} is not {PREFIXES}")
    return prefix


def proxy_addresses(texts: list[str]) -> list[str]:
    """The texts themselves. Raises ValueError for one that is no address or network, nor ``*``."""
    for text in texts:
        try:
            if text != _ANY:
                ipaddress.ip_network(text)
        except ValueError:
            raise ValueError(
                f"{text[:80]!r} is not an address or a network such as 127.0.0.1 or 10.0.0.0/8; * for any peer"
            ) from None
    return [_ANY] if _ANY in texts else texts
