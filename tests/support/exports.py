"""Both exports of a model folder, at ranks that differ from layer to layer."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from allocator.plan.model.geometry import Geometry
from solvers.a3 import moments
from solvers.a3.compress import solve_layer
from solvers.checkpoints import reading
from solvers.checkpoints.writing import stored, write_compact, write_padded
from solvers.model.surgery import open_model
from tests.support.models import token_ids

_PROBE = """
import json, sys
from pathlib import Path
sys.path = [p for p in sys.path if not (Path(p or ".") / "solvers").is_dir()]
import importlib.util
import torch
from transformers import AutoModelForCausalLM
assert importlib.util.find_spec("solvers") is None
for folder in sys.argv[1:]:
    options = {"dtype": torch.float32, "trust_remote_code": True, "experts_implementation": "eager"}
    model = AutoModelForCausalLM.from_pretrained(folder + "/compact", **options).eval()
    stock = AutoModelForCausalLM.from_pretrained(folder + "/padded", **{**options, "trust_remote_code": False}).eval()
    ids = torch.arange(24).reshape(1, 24)
    with torch.no_grad():
        gap = (model(ids).logits - stock(ids).logits).abs().max()
        new = model.generate(ids[:, :5], max_new_tokens=12, min_new_tokens=12, do_sample=False, pad_token_id=0)
        old = stock.generate(ids[:, :5], max_new_tokens=12, min_new_tokens=12, do_sample=False, pad_token_id=0)
    assert gap < 1e-4 and new.tolist() == old.tolist(), folder
    print(type(model).__module__.split(".")[0], type(model).__name__)
"""


def loaded_elsewhere(folders: Sequence[Path], place: Path) -> list[str]:
    """Load ``compact`` and ``padded`` of each folder in a process without this package, and hold their logits to each other.

    Returns:
        of each folder the top package and the name of the compact model's class.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [sys.executable, "-c", _PROBE, *map(str, folders)],
        env={**environment, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(place / "modules")},
        cwd=place,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def exported(source: Path, root: Path) -> tuple[Path, Path]:
    """The folders of the compact and the padded export of ``source``, in ``root``."""
    inspected, compact, padded = reading.inspect(source), root / "compact", root / "padded"
    dtype = reading.storage_dtype(inspected)
    model = reading.load(inspected, dtype=None)
    model.config._experts_implementation = "eager"
    opened = open_model(model)
    geometry = Geometry(
        **opened.family.geometry(model.config),
        total_params=sum(parameter.numel() for parameter in model.parameters()),
        bytes_per_param=dtype.itemsize,
    )
    layers = []
    for index, found in enumerate(moments.collect(opened, token_ids(4, 40))):
        row = {"qk": max(4 - 2 * index, 2), "ov": min(3 + index, 7), "mlp": 17 + index}
        row |= {c: geometry.full_rank(c) for c in opened.family.fixed}  # type: ignore[misc]
        layers.append(
            stored(solve_layer(opened.source[index], found).compressed(**row), dtype).to(dtype=dtype)
        )
    for folder, write in ((compact, write_compact), (padded, write_padded)):
        folder.mkdir(parents=True)
        write(opened, layers, folder, source=source, dtype=dtype)
    return compact, padded


def edited(folder: Path, name: str = "config.json", **changes: Any) -> Path:
    """The folder after these keys of one of its JSON files were set; None takes a key away."""
    path = folder / name
    found = json.loads(path.read_text()) if path.exists() else {}
    kept = {
        key: value for key, value in {**found, **changes}.items() if key not in changes or value is not None
    }
    path.write_text(json.dumps(kept))
    return folder


def config_of(folder: Path) -> dict[str, Any]:
    """config.json."""
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return found


COMMIT = "0123456" + "f" * 33


def in_hub_cache(folder: Path, cache: Path, name: str = "owner/name", commit: str = COMMIT) -> Path:
    """The folder's files as the hub's own cache keeps a commit, links into blobs; the snapshot's folder."""
    repository = cache / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / commit
    (repository / "blobs").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        blob = repository / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        blob.write_bytes(file.read_bytes())
        link = snapshot / file.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot
