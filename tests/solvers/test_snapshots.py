"""Commits in the hub's own cache: links into their repository's blobs, followed where a person named the folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from allocator.base.errors import UnreadableModel
from allocator.base.references import local_models
from allocator.base.settings import Settings
from allocator.report.licence import licence_of
from allocator.stages.sources import PATH, model_folder, shown_reference
from solvers.checkpoints import reading
from solvers.errors import UnreadableModelError
from solvers.folder import called, given, leads_inside
from tests.support.exports import COMMIT, exported, in_hub_cache
from tests.support.models import save, tiny


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    folder = tmp_path / "plain"
    save(tiny("llama").float(), folder)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("tools")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    (folder / "NOTICE").write_text("of the publisher")
    return folder


@pytest.fixture
def snapshot(plain: Path, tmp_path: Path) -> Path:
    return in_hub_cache(plain, tmp_path / "hub")


def test_a_commit_in_the_cache_is_the_model(plain: Path, snapshot: Path, tmp_path: Path) -> None:
    found = reading.inspect(given(snapshot))
    assert reading.weights_sha256(found) == reading.weights_sha256(reading.inspect(plain))
    compact, padded = exported(given(snapshot), tmp_path)
    for folder in (compact, padded):
        assert (folder / "additional_chat_templates" / "tool_use.jinja").read_text() == "tools"
        assert (folder / "NOTICE").read_text() == "of the publisher"
        assert not [path for path in folder.rglob("*") if path.is_symlink()]
    source = given(snapshot)
    assert licence_of(source, follows=lambda file: leads_inside(source, file)).identifier == "mit"


@pytest.mark.parametrize(
    ("name", "shown"),
    [("owner/name", "owner/name@0123456"), ("gpt2", "gpt2@0123456"), ("o-w/n.2_x", "o-w/n.2_x@0123456")],
)
def test_it_is_called_by_its_repository_and_commit(
    name: str, shown: str, plain: Path, tmp_path: Path
) -> None:
    snapshot = in_hub_cache(plain, tmp_path / "hub", name)
    assert called(snapshot) == shown
    assert shown_reference(PATH + str(snapshot)) == PATH + shown
    (snapshot / "config.json").unlink()
    with pytest.raises(UnreadableModelError, match=rf"^{shown}: config.json is missing"):
        reading.inspect(given(snapshot))


Harm = Callable[[Path, Path], None]


def relinked(name: str, place: Callable[[Path], Path]) -> Harm:
    """The file lies where ``place`` says, seen from the repository, and the snapshot's link leads there."""

    def harm(snapshot: Path, outside: Path) -> None:
        target = place(snapshot.parents[1])
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((snapshot / name).read_bytes())
        (snapshot / name).unlink()
        (snapshot / name).symlink_to(target)

    return harm


def blobs_elsewhere(snapshot: Path, outside: Path) -> None:
    blobs = snapshot.parents[1] / "blobs"
    blobs.rename(outside)
    blobs.symlink_to(outside)


@pytest.mark.parametrize(
    "harm",
    [
        relinked("config.json", lambda repository: repository.parent / "elsewhere.json"),
        relinked("model.safetensors", lambda repository: repository / "blobs.safetensors"),
        relinked("tokenizer.json", lambda repository: repository / "blobs" / "deeper" / "tokenizer.json"),
        relinked("NOTICE", lambda repository: repository.parent / "models--other--model" / "blobs" / "5"),
        relinked(
            "additional_chat_templates/tool_use.jinja",
            lambda repository: repository / "snapshots" / ("f" * 40) / "tool_use.jinja",
        ),
        blobs_elsewhere,
    ],
)
def test_a_link_that_leads_elsewhere_is_refused(harm: Harm, snapshot: Path, tmp_path: Path) -> None:
    harm(snapshot, tmp_path / "outside")
    with pytest.raises(UnreadableModelError, match="is a link that leaves the model folder"):
        reading.inspect(given(snapshot))


@pytest.mark.parametrize(
    "place",
    [
        f"models--owner--name/other/{COMMIT}",
        "models--owner--name/snapshots/main",
        f"datasets--owner--name/snapshots/{COMMIT}",
    ],
)
def test_a_folder_of_another_layout_is_as_any_other(
    place: str, plain: Path, snapshot: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "cache" / place
    folder.mkdir(parents=True)
    (folder.parents[1] / "blobs").mkdir()
    for file in plain.iterdir():
        if file.is_file():
            (folder.parents[1] / "blobs" / file.name).write_bytes(file.read_bytes())
            (folder / file.name).symlink_to(folder.parents[1] / "blobs" / file.name)
    with pytest.raises(UnreadableModelError, match="is a link that leaves the model folder"):
        reading.inspect(given(folder))


def test_a_service_follows_none(snapshot: Path, settings: Settings) -> None:
    """Whoever may name ``local:`` models is not whoever filled the cache."""
    served = settings.model_copy(update={"model_roots": [snapshot.parent]})
    assert local_models(served) == [COMMIT]
    with pytest.raises(UnreadableModelError, match="leaves the model folder"):
        reading.inspect(model_folder(served, f"local:{COMMIT}"))
    assert reading.inspect(model_folder(served, PATH + str(snapshot))).model_type == "llama"
    with pytest.raises(UnreadableModel):
        model_folder(served, "local:" + "f" * 40)
