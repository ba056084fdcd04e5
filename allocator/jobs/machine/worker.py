"""A worker process: ``python -m allocator.jobs.machine.worker``, which ``rankalloc worker`` and the supervisor start.

Prefork with one child. Torch is imported in the child only: CUDA cannot be initialised again after a fork.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading

from allocator.base.devices import check_device
from allocator.base.settings import Settings
from allocator.stages.pipeline import CPU_QUEUE, GPU_QUEUE

WATCH_STDIN = "--stop-when-stdin-closes"
_EXIT_GRACE_S = 30.0


def run(settings: Settings) -> None:
    """Work until told to stop by SIGTERM (finish the item first) or SIGQUIT (stop at once).

    Raises:
        InvalidInput: torch has no such device as the settings ask for.
    """
    from celery import signals

    from allocator.base import logs
    from allocator.jobs.machine import tasks
    from allocator.jobs.machine.celery_app import make_celery
    from allocator.store import Store

    # What kills a process from inside (a segmentation fault in a library) names the place first.
    faulthandler.enable(2)
    check_device(settings, apart=True)
    # Says now, not in every task, that the schema is old.
    Store.open(settings).close()
    app = make_celery(settings)
    tasks.register(app, settings)
    # Where somebody listens to this, Celery sets up no logging of its own.
    signals.setup_logging.connect(lambda **_: logs.configure(settings, level="info"), weak=False)
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    arguments = [
        "worker",
        "--pool=prefork",
        "--concurrency=1",
        f"--queues={','.join(queues(settings))}",
        "--loglevel=INFO",
        *quiet,
    ]
    app.worker_main([*arguments, f"--hostname=rankalloc-{os.getpid()}@%h"])


def queues(settings: Settings) -> list[str]:
    """The queues that a worker of these settings listens to: by its device, unless it is told."""
    return [*settings.worker_queues] or [GPU_QUEUE if settings.device == "cuda" else CPU_QUEUE]


def limit_threads(settings: Settings) -> None:
    """Tell the mathematics libraries how many threads to use; must come before they are imported."""
    if settings.threads:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            os.environ[name] = str(settings.threads)


def _stop_with_parent() -> None:
    """Stop when standard input closes: the supervisor holds its other end, and a killed one cannot say
    goodbye.
    """

    def watch() -> None:
        while os.read(0, 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(_EXIT_GRACE_S)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, name="watch-parent", daemon=True).start()


def main() -> None:
    settings = Settings()
    limit_threads(settings)
    if WATCH_STDIN in sys.argv[1:]:
        _stop_with_parent()
    run(settings)


if __name__ == "__main__":
    main()
