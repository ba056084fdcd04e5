"""How float32 products are computed where losses are measured."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from allocator.base.devices import fast_products
from allocator.base.settings import Settings


@pytest.mark.parametrize(
    ("products", "named"), [("float32", "highest"), ("tf32", "high"), ("bfloat16", "medium")]
)
def test_products_on_cuda_are_those_of_the_setting(tmp_path: Path, products: str, named: str) -> None:
    settings = Settings(home=tmp_path, device="cuda", products=products)  # type: ignore[arg-type]
    with fast_products(settings):
        assert torch.get_float32_matmul_precision() == named
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_failure_leaves_them_as_they_were(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), fast_products(Settings(home=tmp_path, device="cuda")):
        _ = 1 / 0
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_cpu_computes_in_float32(tmp_path: Path) -> None:
    with fast_products(Settings(home=tmp_path, products="bfloat16")):
        assert torch.get_float32_matmul_precision() == "highest"
