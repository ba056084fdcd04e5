"""Dispatcher and reconciler as a process of their own: ``python -m tests.faults.dispatch`` until standard input closes."""

from __future__ import annotations

import sys

from allocator.base.settings import Settings
from allocator.jobs.machine.dispatcher import Dispatcher
from allocator.store import Store

settings = Settings()
dispatcher = Dispatcher(Store.open(settings), settings)
dispatcher.start()
sys.stdin.read()
dispatcher.stop()
