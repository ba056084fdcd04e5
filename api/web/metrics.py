"""The metrics of ``/metrics``, in Prometheus' format: queue and jobs from the database, requests from this process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from allocator.store import Store, states

_WINDOW_H = 24.0
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class FromStore(Collector):
    """Gauges that are read from the database whenever they are asked for: the same from every process of the service."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def collect(self) -> Iterator[Metric]:
        store = self._store
        yield _by("rankalloc_jobs", "Jobs by state.", "state", store.jobs.count_by_state(), states.STATES)
        counts = store.items.count_by_state()
        yield _by("rankalloc_job_items", "Parts of jobs by state.", "state", counts, states.ITEM_STATES)
        yield GaugeMetricFamily(
            "rankalloc_messages_due", "Messages not yet handed to the broker.", store.wakeups.count()
        )
        yield from self._work()
        yield from self._last_day()

    def _work(self) -> Iterator[Metric]:
        work = self._store.operations.work()
        yield GaugeMetricFamily(
            "rankalloc_queue_depth", "Parts of jobs that a free worker could take.", work.due
        )
        yield GaugeMetricFamily(
            "rankalloc_queue_oldest_wait_seconds",
            "How long the first of them has waited.",
            work.oldest_wait_s,
        )
        yield GaugeMetricFamily(
            "rankalloc_leases_live", "Parts that a worker holds a live lease on.", work.running
        )

    def _last_day(self) -> Iterator[Metric]:
        operations = self._store.operations
        count = GaugeMetricFamily(
            "rankalloc_stage_items_last_day", "Parts that succeeded in 24 hours.", labels=["stage"]
        )
        seconds = GaugeMetricFamily(
            "rankalloc_stage_seconds_last_day", "Seconds that these took in all.", labels=["stage"]
        )
        longest = GaugeMetricFamily(
            "rankalloc_stage_longest_seconds_last_day", "Seconds of the longest of them.", labels=["stage"]
        )
        for row in operations.stage_times(hours=_WINDOW_H):
            count.add_metric([row.stage], row.items)
            seconds.add_metric([row.stage], row.seconds)
            longest.add_metric([row.stage], row.longest_s)
        yield from (count, seconds, longest)
        yield GaugeMetricFamily(
            "rankalloc_leases_lost_last_day",
            "How often a worker went silent in 24 hours.",
            operations.lost_leases(hours=_WINDOW_H),
        )
        counts = operations.profiles(hours=_WINDOW_H)
        text = "Jobs of 24 hours whose profile was whole in the store (hit), or had to be measured (miss)."
        yield _by("rankalloc_profile_cache_last_day", text, "outcome", counts, ("hit", "miss"))


def _by(
    name: str, text: str, label: str, counts: dict[str, int], values: tuple[str, ...]
) -> GaugeMetricFamily:
    """A gauge with a line for each of ``values``, also for those that nothing was counted of."""
    family = GaugeMetricFamily(name, text, labels=[label])
    for value in values:
        family.add_metric([value], counts.get(value, 0))
    return family


@dataclass
class Metrics:
    """Metrics of one application, in a registry of its own, so that two applications in one process do not meet."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        self.requests = Counter(
            "rankalloc_http_requests",
            "Requests by route and status.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "rankalloc_http_request_seconds",
            "Time to the beginning of the answer.",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.solve_seconds = Histogram(
            "rankalloc_solve_seconds",
            "Time of the integer program for plans over REST.",
            buckets=_SECONDS,
            registry=self.registry,
        )

    def text(self, store: Store) -> bytes:
        """The whole exposition."""
        from_store = CollectorRegistry()
        from_store.register(FromStore(store))
        return generate_latest(from_store) + generate_latest(self.registry)
