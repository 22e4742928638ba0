"""The table of families in docs/models.md is what benchmarks/families.py finds."""

from typing import Any

import pytest
from helpers import BENCHMARKS

from tinyzero import models
from tinyzero.models import contracts


def test_the_table_of_families_is_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import families  # type: ignore[import-not-found]

    page = families.PAGE.read_text(encoding="utf-8")
    assert families.with_table(page, families.table()) == page, "run python benchmarks/families.py"


@pytest.mark.parametrize(
    ("family", "kinds"),
    [
        ("Qwen3.5", {"linear_attention", "full_attention"}),
        ("LFM2", {"conv", "full_attention"}),
        ("Gemma 3", {"sliding_attention", "full_attention"}),
        ("OLMo 3", {"sliding_attention", "full_attention"}),
    ],
)
def test_a_twin_has_every_kind_of_layer(
    family: str, kinds: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import families

    model = families.random_model(families.FAMILIES[family])
    twin = contracts.twin_of(model.config)
    assert twin is not None
    assert set(model.config.layer_types) == set(twin.config.layer_types) == kinds
    assert contracts.abilities_of(model).library_cache == (family in ("Qwen3.5", "LFM2"))


def test_a_convolution_is_noticed_on_the_twin() -> None:
    settings: dict[str, Any] = {
        "model_type": "lfm2_moe",
        "vocab_size": 64,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "pad_token_id": None,
        "num_hidden_layers": 2,
        "layer_types": ["conv", "full_attention"],
        "num_experts": 4,
        "num_dense_layers": 1,
        "moe_intermediate_size": 16,
    }
    found = contracts.abilities_of(models.build_model(settings, seed=0))
    assert not found.shares
    assert found.packing_fault
    assert found.library_cache
