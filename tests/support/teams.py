"""Teams, their members and tokens, made directly in a store."""

from __future__ import annotations

from allocator.store import Store


def add_member(store: Store, team: str, name: str = "ada", role: str = "admin") -> None:
    """A member, and the team where it is new."""
    store.teams.create(team, actor="test")
    store.teams.put_member(team, name, role, actor="test")


def token(store: Store, team: str, name: str = "ada", scope: str = "submit", role: str = "admin") -> str:
    """The secret of a new token of a member, who is made where needed."""
    add_member(store, team, name, role)
    return store.tokens.create(team, name, scope=scope, lifetime_s=None, created_by="test").secret


def bearer(secret: str) -> dict[str, str]:
    """Headers of a program that has this token."""
    return {"Authorization": f"Bearer {secret}"}
