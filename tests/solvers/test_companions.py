"""What travels beside the weights: all that a tokenizer may need by transformers' own lists, and the licence's files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.models.albert.tokenization_albert import AlbertTokenizer
from transformers.models.gpt2.tokenization_gpt2 import GPT2Tokenizer
from transformers.models.llama.tokenization_llama import LlamaTokenizer

from solvers.checkpoints import reading
from solvers.checkpoints.companions import companions, hub_patterns
from solvers.errors import UnreadableModelError
from tests.support.exports import edited, exported
from tests.support.models import save, tiny

TEMPLATES = {
    "default": "{{ messages[0].content }}",
    "tool_use": "tools: {{ messages[0].content }}",
    "rag": "rag",
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    save(tiny("llama").float(), tmp_path / "source")
    return tmp_path / "source"


def test_every_chat_template_travels(source: Path, tmp_path: Path) -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(source / "tokenizer.json"), unk_token="w0")
    tokenizer.chat_template = TEMPLATES
    tokenizer.save_pretrained(source)
    assert (source / "additional_chat_templates" / "tool_use.jinja").is_file()
    for folder in exported(source, tmp_path):
        found: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        assert found.chat_template == TEMPLATES
        said = found.apply_chat_template(
            [{"role": "user", "content": "w1"}], chat_template="tool_use", tokenize=False
        )
        assert said == "tools: w1"


def vocabulary(kind: Any) -> set[str]:
    return set(kind.vocab_files_names.values())


@pytest.mark.parametrize(
    ("family", "named", "kind"),
    [
        ("llama", None, LlamaTokenizer),
        ("phi3", "LlamaTokenizer", LlamaTokenizer),
        ("phi3", "GPT2Tokenizer", GPT2Tokenizer),
        ("gpt2", None, GPT2Tokenizer),
        ("qwen2", "GPT2TokenizerFast", GPT2Tokenizer),
        ("llama", "AlbertTokenizer", AlbertTokenizer),
        ("llama", "SomebodysTokenizer", LlamaTokenizer),
    ],
)
def test_the_vocabulary_of_the_tokenizers_class_travels(
    family: str, named: str | None, kind: Any, source: Path
) -> None:
    if named is not None:
        edited(source, "tokenizer_config.json", tokenizer_class=named)
    for name in vocabulary(kind) - {"tokenizer.json"}:
        (source / name).write_text("words")
    assert vocabulary(kind) <= companions(source, family).keys()


def test_licences_and_notices_travel_and_nothing_that_runs(source: Path, tmp_path: Path) -> None:
    travelling = {
        "LICENSE",
        "LICENSE-PSF.txt",
        "NOTICE",
        "Notice.md",
        "USE_POLICY.md",
        "added_tokens.json",
        "tekken.json",
    }
    staying = {
        "README.md",
        "modeling_own.py",
        "pytorch_model.bin",
        "calibration.txt",
        "licenses.py",
        "tokenizer.py",
    }
    for name in travelling | staying:
        (source / name).write_text(f"of {name}")
    edited(source, "tokenizer_config.json", fast_tokenizer_files=["tokenizer.4.0.0.json", "../secret", 5])
    (source / "tokenizer.4.0.0.json").write_text("of an older release")
    compact, padded = exported(source, tmp_path)
    travelling |= {"tokenizer.json", "tokenizer.4.0.0.json", "generation_config.json"}
    assert companions(source, "llama").keys() == travelling
    for folder in (compact, padded):
        for name in travelling:
            assert (folder / name).read_bytes() == (source / name).read_bytes()
        assert not [name for name in staying if (folder / name).exists()]


@pytest.mark.parametrize(
    "name", ["LICENSE", "chat_template.jinja", "additional_chat_templates", "tokenizer.model"]
)
def test_a_companion_that_leads_out_is_refused_before_there_is_work(
    name: str, source: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    if name == "additional_chat_templates":
        outside.mkdir()
    else:
        outside.write_text("secret")
    (source / name).symlink_to(outside)
    with pytest.raises(UnreadableModelError, match=f"{name} is a link that leaves the model folder"):
        reading.inspect(source)


def test_what_travels_is_what_a_download_asks_for() -> None:
    patterns = set(hub_patterns())
    assert {"config.json", "*.safetensors", "additional_chat_templates/*.jinja", "NOTICE*"} <= patterns
    assert vocabulary(LlamaTokenizer) | vocabulary(GPT2Tokenizer) <= patterns
    assert not [each for each in patterns if each.endswith((".py", ".bin"))]
