"""Names of models and texts: what is looked up, and what is refused before anything is touched."""

from __future__ import annotations

from pathlib import Path

import pytest

from allocator.base.errors import InvalidInput, UnreadableModel, UnusableText
from allocator.base.references import check_model, hub_model, local_model, local_models, text_file
from allocator.base.settings import Settings

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_a_local_model_is_a_folder_under_a_root(settings: Settings, tiny_model: str) -> None:
    assert local_model(settings, tiny_model) == (settings.model_roots[0] / "tiny").resolve()
    assert local_models(settings) == ["tiny"]
    check_model(settings, tiny_model)


def test_an_absent_model_is_refused_with_what_there_is(settings: Settings, tiny_model: str) -> None:
    with pytest.raises(UnreadableModel) as caught:
        check_model(settings, "local:absent")
    assert "local:tiny" in caught.value.fields[0].allowed


def test_a_link_that_leaves_the_root_is_not_followed(
    settings: Settings, tiny_model: str, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (settings.model_roots[0] / "link").symlink_to(outside)
    with pytest.raises(UnreadableModel):
        local_model(settings, "local:link")


def test_what_is_listed_is_taken(settings: Settings, tiny_model: str, tmp_path: Path) -> None:
    """Names that no reference can have, links that lead out and folders that another root hides are not offered."""
    root, other = settings.model_roots[0], tmp_path / "more"
    settings = settings.model_copy(update={"model_roots": [root, other]})
    taken = ["Llama-3.2_1B", "7b", "a" * 96]
    refused = ["my model", "_own", ".hidden", "a" * 97, "größe", "llama+chat", "name@commit"]
    for name in [*taken, *refused]:
        (root / name).mkdir()
        (root / name / "config.json").write_text("{}")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "config.json").write_text("{}")
    (root / "link").symlink_to(tmp_path / "outside")
    (root / "hidden").mkdir()
    for name in ("hidden", "second"):
        (other / name).mkdir(parents=True)
        (other / name / "config.json").write_text("{}")
    assert local_models(settings) == sorted(["tiny", "second", *taken])
    for name in local_models(settings):
        check_model(settings, f"local:{name}")
    for name in refused:
        with pytest.raises(InvalidInput):
            check_model(settings, f"local:{name}")


def test_texts_that_are_listed_are_taken(settings: Settings, tiny_model: str, tmp_path: Path) -> None:
    root = settings.text_roots[0]
    root.mkdir()
    for name in ("wiki.txt", "my text.txt", ".hidden"):
        (root / name).write_text("words")
    (root / "link.txt").symlink_to("/etc/hostname")
    with pytest.raises(UnusableText) as caught:
        text_file(settings, "evaluation", "text:absent", tiny_model)
    assert caught.value.fields[0].allowed == "one of: text:wiki.txt"


@pytest.mark.parametrize(
    "reference",
    [
        "",
        "tiny",
        "local:",
        "local:.",
        "local:..",
        "local:.hidden",
        "local:a/b",
        "local:a\\b",
        "local:tiny\n",
        "local:tiny\0",
        "LOCAL:tiny",
        "/etc",
        "https://example.org/model",
        "hf:owner/name",
        "hf:owner/name@main",
        f"hf:owner@{COMMIT}",
        f"hf:owner/name/more@{COMMIT}",
        f"hf:../name@{COMMIT}",
        f"hf:owner/name@{COMMIT}0",
    ],
)
def test_anything_else_is_no_reference(settings: Settings, tiny_model: str, reference: str) -> None:
    with pytest.raises(InvalidInput):
        check_model(settings, reference)


def test_a_hub_model_is_a_repository_at_a_commit(settings: Settings) -> None:
    reference = f"hf:meta-llama/Llama-2-7b-hf@{COMMIT}"
    check_model(settings, reference)
    assert hub_model(reference) == ("meta-llama/Llama-2-7b-hf", COMMIT)
    assert hub_model("local:tiny") is None


def test_texts_are_named_or_the_models_own(settings: Settings, tiny_model: str) -> None:
    assert text_file(settings, "calibration", None, tiny_model).name == "calibration.txt"
    settings.text_roots[0].mkdir()
    (settings.text_roots[0] / "wiki.txt").write_text("words")
    assert text_file(settings, "evaluation", "text:wiki.txt", tiny_model).read_text() == "words"
    with pytest.raises(UnusableText, match="no text"):
        text_file(settings, "evaluation", "text:absent", tiny_model)
    folder = settings.text_roots[0] / "chats"
    (folder / "below").mkdir(parents=True)
    (folder / "below" / "1.jsonl").write_text("{}")
    assert text_file(settings, "evaluation", "text:chats", tiny_model) == folder
    (folder / "below" / "out.txt").symlink_to(settings.home / "rankalloc.db")
    with pytest.raises(UnusableText, match="no text 'chats'"):
        text_file(settings, "evaluation", "text:chats", tiny_model)
    with pytest.raises(InvalidInput):
        text_file(settings, "evaluation", "text:../wiki.txt", tiny_model)
    with pytest.raises(UnusableText, match="of its own"):
        text_file(settings, "calibration", None, f"hf:owner/name@{COMMIT}")
