"""The store as one member of one team uses it."""

from __future__ import annotations

from collections.abc import Callable

from allocator.base.settings import Settings
from allocator.plan.documents.profile import Profile
from allocator.service.jobs import Jobs
from allocator.service.plans import Plans
from allocator.service.profiles import Profiles
from allocator.service.shares import Shares
from allocator.store import Job, Store


class TeamStore:
    """The verbs of jobs, profiles, plans and shares, over a store. `api.client.Client` has the same ones, over REST: both take
    the same arguments, so that a command asks either.

    Answers are JSON but for times, which are `datetime`, and for rows that have a class of their own. Lists have two verbs:
    ``find`` gives rows one after another, ``page`` one page of them.

    Args:
        team: whose profiles, plans, jobs and shares; nothing of another team is seen but what it shares.
        by: who it is, for the audit log and as the author of what is made.
        profile: the profile of a whole key, for those who hold profiles in memory; default: read from the store.
        links: what a server adds to the document of a job; default: nothing.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        *,
        team: str,
        by: str,
        profile: Callable[[str], Profile] | None = None,
        links: Callable[[Job], dict[str, str]] | None = None,
    ) -> None:
        self.jobs = Jobs(store, settings, team=team, by=by, links=links)
        self.profiles = Profiles(store, team=team, by=by)
        self.plans = Plans(store, team=team, by=by, profile=profile)
        self.shares = Shares(store, team=team, by=by)
