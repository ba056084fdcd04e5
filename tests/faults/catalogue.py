"""All faults: importing this registers them."""

from __future__ import annotations

from tests.faults import brokers, cancels, databases, services, workers
from tests.faults.registry import FAULTS

ROOMS = (workers, cancels, brokers, databases, services)
NAMES = tuple(FAULTS)
