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
