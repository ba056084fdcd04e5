"""Runs one real job per hostile folder, each in a process of its own whose memory and time are bounded by the kernel.

``python -m tests.hostile.judge FOLDER`` writes a line of JSON per case: how the job ended, why, the largest memory of the
worker's process and of its children, and which files appeared where none may.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import traceback
from pathlib import Path
from typing import Any

from allocator.base.settings import Settings
from allocator.jobs.machine.executor import Executor
from allocator.store import Store
from tests.hostile.folders import CONFIGS, DETOURS, HEADERS, INDEXES, Harm
from tests.hostile.tokenizers import TEXTS, TOKENIZERS
from tests.support.damage import copied
from tests.support.jobs import new_job, run_to_end, types

CASES: dict[str, tuple[Harm, str]] = {
    f"{room}: {name}": case
    for room, cases in (
        ("header", HEADERS),
        ("config", CONFIGS),
        ("index", INDEXES),
        ("detour", DETOURS),
        ("tokenizer", TOKENIZERS),
        ("text", TEXTS),
    )
    for name, case in cases.items()
}
ADDRESS_SPACE_BYTES = 6 << 30
CPU_S = 120


def _peak_kib() -> int:
    """Of this process alone: in ``ru_maxrss`` that of the process which started it counts too."""
    with open("/proc/self/status") as file:
        return int(next(line for line in file if line.startswith("VmHWM")).split()[1])


def judged(place: Path, harm: Harm) -> dict[str, Any]:
    """The job's end as a document."""
    model = copied(place / "models")
    harm(model)
    settings = Settings(
        home=place / "home", model_roots=[place / "models"], max_attempts=3, retry_backoff_s=0.0
    )
    before = _files_outside(settings)
    store = Store.open(settings)
    request = {"model": "local:model", "effort": "fast"}
    job_id = new_job(store, settings, "profile", request)
    state = run_to_end(store, Executor(store, settings), job_id)
    job = store.jobs.get("default", job_id)
    return {
        "state": state,
        "error": job.error,
        "retried": types(store, job_id).count("item.retrying"),
        "outside": [str(path) for path in _files_outside(settings) ^ before],
        "own_mib": _peak_kib() >> 10,
        "children_mib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10,
    }


def _files_outside(settings: Settings) -> set[Path]:
    found = settings.home.parent.rglob("*")
    return {path for path in found if not path.is_dir() and not path.is_relative_to(settings.home)}


def main() -> None:
    folder = Path(sys.argv[1])
    # Once for all of them; nothing is run here, since threads do not live through a fork.
    from transformers import LlamaForCausalLM, LlamaModel  # noqa: F401

    import allocator.stages.registry  # noqa: F401
    import solvers.a3.moments
    import solvers.model.surgery
    import solvers.texts.text  # noqa: F401

    empty = Settings(home=folder / "empty")
    Store.open(empty, create=True).close()

    for number, (name, (harm, _)) in enumerate(CASES.items()):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES, ADDRESS_SPACE_BYTES))
            resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
            try:
                shutil.copytree(empty.home, folder / str(number) / "home")
                found = judged(folder / str(number), harm)
            except BaseException:
                found = {"state": "the worker broke", "error": {"detail": traceback.format_exc()}}
            with os.fdopen(write, "w") as pipe:
                json.dump({"case": name, **found}, pipe)
            os._exit(0)
        os.close(write)
        with os.fdopen(read) as pipe:
            line = pipe.read()
        _, status = os.waitpid(child, 0)
        print(
            line or json.dumps({"case": name, "state": f"the worker died ({status})", "error": None}),
            flush=True,
        )


if __name__ == "__main__":
    main()
