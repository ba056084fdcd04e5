"""The checkpoint reader on valid folders that were changed in a few places: sizes, or a refusal in one printable sentence."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from solvers.checkpoints import reading
from solvers.errors import ModelError
from tests.hostile.mutation import bytes_changed, changed, fuzz
from tests.support.models import save, tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz") / "tiny"
    save(tiny("llama").float(), folder)
    return folder


@pytest.fixture(scope="module")
def valid(model: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in model.iterdir()}


def inspected_or_refused(model: Path) -> None:
    """Any other exception is a failure."""
    try:
        found = reading.inspect(model)
        reading.storage_dtype(found)
    except ModelError as error:
        assert str(error).isprintable()
        assert len(str(error)) < 1100
    else:
        assert found.sizes["layers"] == 2
        assert found.config_sha256


def parts(data: bytes) -> tuple[Any, bytes]:
    size = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + size]), data[8 + size :]


@fuzz
@given(data=st.data())
def test_a_changed_header(model: Path, valid: dict[str, bytes], data: st.DataObject) -> None:
    header, body = parts(valid["model.safetensors"])
    text = json.dumps(changed(data, header)).encode()
    length = len(text) + data.draw(st.sampled_from([0, 0, 0, -1, 1, 8, 2**32]))
    cut = data.draw(st.sampled_from([len(body), len(body), len(body) // 2, 0]))
    (model / "model.safetensors").write_bytes(struct.pack("<Q", max(0, length)) + text + body[:cut])
    try:
        inspected_or_refused(model)
    finally:
        (model / "model.safetensors").write_bytes(valid["model.safetensors"])


@fuzz
@given(data=st.data())
def test_a_changed_config(model: Path, valid: dict[str, bytes], data: st.DataObject) -> None:
    config = changed(data, json.loads(valid["config.json"]))
    (model / "config.json").write_text(json.dumps(config))
    try:
        inspected_or_refused(model)
    finally:
        (model / "config.json").write_bytes(valid["config.json"])


@fuzz
@given(data=st.data())
def test_a_changed_index(model: Path, valid: dict[str, bytes], data: st.DataObject) -> None:
    header, _ = parts(valid["model.safetensors"])
    names = dict.fromkeys((name for name in header if name != "__metadata__"), "one.safetensors")
    text = json.dumps(changed(data, {"metadata": {"total_size": 1}, "weight_map": names}))
    (model / "model.safetensors").rename(model / "one.safetensors")
    index = model / "model.safetensors.index.json"
    index.write_text(text)
    try:
        inspected_or_refused(model)
    finally:
        index.unlink()
        (model / "one.safetensors").rename(model / "model.safetensors")


@fuzz
@given(data=st.data(), name=st.sampled_from(["config.json", "model.safetensors", "tokenizer.json"]))
def test_changed_bytes(model: Path, valid: dict[str, bytes], data: st.DataObject, name: str) -> None:
    content = bytes_changed(data, valid[name])
    (model / name).write_bytes(content)
    try:
        inspected_or_refused(model)
    finally:
        (model / name).write_bytes(valid[name])
