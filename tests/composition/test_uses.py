"""What people do with a checkpoint, on a compact one against the padded one: the same function in a stock class.

Left-padded batches and caches beyond their windows are compared for every family in ``tests/solvers/test_exports.py``.
Offloaded caches need an accelerator, quantized ones a library that is not installed here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from tests.support.exports import exported
from tests.support.models import SLIDING_QWEN, save, tiny, token_ids

FAMILIES: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("qwen2", SLIDING_QWEN),
    ("gemma3_text", {}),
    ("mixtral", {}),
    ("gpt2", {}),
    ("gpt_neox", {}),
]
NEW = {"max_new_tokens": 10, "min_new_tokens": 10, "do_sample": False, "pad_token_id": 0}
TOLERANCE = 1e-4


@dataclass
class Pair:
    """Both exports of one model, on disk and in memory."""

    folders: tuple[Path, Path]
    models: tuple[Any, Any]

    @property
    def family(self) -> str:
        return str(self.models[1].config.model_type)

    def both(self, what: Any) -> tuple[Any, Any]:
        return what(self.models[0]), what(self.models[1])


def load(folder: Path, **options: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options).eval()


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda case: case[0])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    family, options = request.param
    root = tmp_path_factory.mktemp(family)
    save(tiny(family, **options).float(), root / "source")
    folders = exported(root / "source", root)
    return Pair(folders, (load(folders[0]), load(folders[1])))


def prompt() -> dict[str, torch.Tensor]:
    """Two texts of 12 and 8 tokens, longer than the windows of the tiny models, padded on the left."""
    ids, mask = token_ids(2, 12), torch.ones(2, 12, dtype=torch.long)
    mask[1, :4] = 0
    return {"input_ids": ids, "attention_mask": mask}


@torch.no_grad()
@pytest.mark.parametrize("chunk", [None, 5])
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_every_kind_of_cache_with_and_without_chunks(pair: Pair, cache: str, chunk: int | None) -> None:
    how = {"cache_implementation": cache, "prefill_chunk_size": chunk, "output_logits": True}
    found = pair.both(lambda model: model.generate(**prompt(), **NEW, **how, return_dict_in_generate=True))
    assert torch.equal(*(each.sequences for each in found))
    assert torch.allclose(*(torch.stack(each.logits) for each in found), atol=TOLERANCE)
    plain = pair.models[0].generate(**prompt(), **NEW, use_cache=False)
    assert torch.equal(found[0].sequences, plain)


@torch.no_grad()
def test_beams_are_the_same(pair: Pair) -> None:
    how = {"num_beams": 3, "num_return_sequences": 2, "output_scores": True, "return_dict_in_generate": True}
    found = pair.both(lambda model: model.generate(**prompt(), **NEW, **how))
    assert torch.equal(*(each.sequences for each in found))
    assert torch.allclose(*(each.sequences_scores for each in found), atol=TOLERANCE)


def test_a_pipeline_says_the_same(pair: Pair) -> None:
    said, tokenizer = [], AutoTokenizer.from_pretrained(pair.folders[0], trust_remote_code=False)
    for folder in pair.folders:
        talk = pipeline("text-generation", model=str(folder), tokenizer=tokenizer, dtype=torch.float32)
        said.append(talk("w5 w6 w7", **NEW))
    assert said[0] == said[1]
    assert said[0][0]["generated_text"].startswith("w5 w6 w7")


@torch.no_grad()
def test_saved_again_it_is_the_same(pair: Pair, tmp_path: Path) -> None:
    ids = token_ids(2, 12)
    pair.models[0].save_pretrained(tmp_path)
    again = load(tmp_path)
    assert type(again) is type(pair.models[0])
    assert torch.equal(again(ids).logits, pair.models[0](ids).logits)


@torch.no_grad()
@pytest.mark.parametrize("memory_bytes", [None, 16_000])
def test_devices_are_chosen_and_the_rest_lies_on_disk(
    pair: Pair, memory_bytes: int | None, tmp_path: Path
) -> None:
    options = (
        {} if memory_bytes is None else {"max_memory": {"cpu": memory_bytes}, "offload_folder": tmp_path}
    )
    model, ids = load(pair.folders[0], device_map="auto", **options), token_ids(2, 12)
    places = set(getattr(model, "hf_device_map", {"": "cpu"}).values())
    assert ("disk" in places) == (memory_bytes is not None)
    assert torch.allclose(model(ids).logits, pair.models[1](ids).logits, atol=TOLERANCE)


@torch.no_grad()
@pytest.mark.parametrize("pair", [FAMILIES[0], FAMILIES[4]], ids=lambda case: case[0], indirect=True)
def test_it_compiles_into_one_graph(pair: Pair) -> None:
    """Two families, since each takes some 4 s. What a compiler makes of the graph is no matter of ours."""
    ids = token_ids(2, 12)
    torch.compiler.reset()
    compiled = torch.compile(pair.models[0], backend="eager", fullgraph=True)
    assert torch.allclose(compiled(ids).logits, pair.models[1](ids).logits, atol=TOLERANCE)


# peft asks transformers by a name that transformers 5.23 deprecates.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_peft_adapts_by_default_what_it_adapts_of_the_source(pair: Pair, tmp_path: Path) -> None:
    expected = {"gpt2": {"q_proj", "k_proj", "v_proj"}, "gpt_neox": {"q_proj", "k_proj", "v_proj"}}
    torch.manual_seed(0)
    model = get_peft_model(load(pair.folders[0]), LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False))
    adapted = {name.split(".")[-2] for name, _ in model.named_modules() if name.endswith("lora_A")}
    assert adapted == expected.get(pair.family, {"q_proj", "v_proj"})
    model.save_pretrained(tmp_path)
    again: Any = AutoPeftModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    ids = token_ids(2, 12)
    with torch.no_grad():
        before, after = model.eval()(ids).logits, again.eval()(ids).logits
        assert torch.equal(before, after)
        assert not torch.allclose(before, pair.models[0](ids).logits, atol=TOLERANCE)
