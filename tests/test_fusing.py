"""Fused norms and joined weights change how a model is computed, and not what it computes."""

import copy
from itertools import pairwise
from pathlib import Path
from typing import Any

import folders
import pytest
import torch
from folders import FAMILIES
from safetensors import safe_open
from test_learner import NO_CLIP
from test_real_models import advantaged, loss, padded
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.mamba2.modeling_mamba2 import MambaRMSNormGated
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5RMSNormGated

from tinyzero import models
from tinyzero.config import LoraSection
from tinyzero.learner import TorchLearner, policy_outputs
from tinyzero.models import Backbone, fusing, lora


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A folder of each family, and of a Qwen2 in bfloat16."""
    made = {name: folders.write(tmp_path_factory.mktemp(name), name) for name in FAMILIES}
    made["bf16"] = folders.write(tmp_path_factory.mktemp("bf16"), dtype=torch.bfloat16)
    return {name: str(path) for name, path in made.items()}


def apart(name: str, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> Backbone:
    """The model as transformers loads it."""
    with monkeypatch.context() as patch:
        patch.setattr(fusing, "fuse", lambda lm: None)
        return models.load_model(name, dtype)


def neighbours(model: Backbone) -> int:
    """How many weights of the model begin where the one before them ends, in the same storage."""
    found = 0
    for module in model.lm.modules():
        for names in fusing.NEIGHBOURS:
            parts = [getattr(module, name).weight for name in names if hasattr(module, name)]
            for left, right in pairwise(parts):
                same_storage = (
                    left.untyped_storage().data_ptr() == right.untyped_storage().data_ptr()
                )
                found += same_storage and left.data_ptr() + left.nbytes == right.data_ptr()
    return found


@pytest.mark.parametrize("family", [*FAMILIES, "bf16"])
def test_a_joined_model_computes_and_learns_bit_for_bit_the_same(
    family: str, written: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    dtype = torch.bfloat16 if family == "bf16" else torch.float32
    weights = []
    for model in (
        models.load_model(written[family], dtype),
        apart(written[family], monkeypatch, dtype),
    ):
        learner = TorchLearner(model, policy_outputs, NO_CLIP, loss=loss)
        learner.update(advantaged())
        learner.update(advantaged())
        weights.append(dict(learner.named_weights()) | {"logits": model.logits(padded()[0])})

    assert weights[0].keys() == weights[1].keys()
    for name, weight in weights[0].items():
        assert torch.equal(weight, weights[1][name]), name


@pytest.mark.parametrize(("family", "joined"), [("qwen2", 6), ("llama", 6), ("gpt2", 0)])
def test_what_is_joined_and_stays_so_while_it_is_trained(
    family: str, joined: int, written: dict[str, str]
) -> None:
    """q, k, v and gate, up of two layers are 2 (2 + 1) pairs; GPT-2 has one matrix for q, k, v."""
    model = models.load_model(written[family])
    assert neighbours(model) == joined
    addresses = [p.data_ptr() for p in model.parameters()]
    TorchLearner(model, policy_outputs, NO_CLIP, loss=loss).update(advantaged())
    assert neighbours(model) == joined
    assert [p.data_ptr() for p in model.parameters()] == addresses


def test_low_precision_weights_stay_joined_when_masters_are_copied(written: dict[str, str]) -> None:
    model = models.load_model(written["bf16"], torch.bfloat16)
    before = model.core.layers[0].self_attn.q_proj.weight.clone()
    options = NO_CLIP.model_copy(update={"learning_rate": 0.1})
    TorchLearner(model, policy_outputs, options, loss=loss).update(advantaged())
    assert neighbours(model) == 6
    assert not torch.equal(model.core.layers[0].self_attn.q_proj.weight, before)


def test_biases_are_joined_like_the_rows_they_belong_to(written: dict[str, str]) -> None:
    attention = models.load_model(written["qwen2"]).core.layers[0].self_attn
    layers = [attention.q_proj, attention.k_proj, attention.v_proj]
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))

    rows = sum(layer.out_features for layer in layers)
    weight = layers[0].weight.detach().as_strided((rows, 32), (32, 1))
    bias = layers[0].bias.detach().as_strided((rows,), (1,))
    product = F.linear(x, weight, bias)
    torch.testing.assert_close(product, torch.cat([layer(x) for layer in layers], -1))


def test_a_saved_model_holds_each_weight_once_and_whole(
    written: dict[str, str], tmp_path: Path
) -> None:
    """Its file is as large as that of a model that was never joined, and has the same tensors."""
    models.save_model(models.load_model(written["qwen2"]), folders.bpe(), tmp_path)
    original = Path(written["qwen2"]) / "model.safetensors"
    saved = tmp_path / "model.safetensors"
    assert saved.stat().st_size == original.stat().st_size

    with safe_open(original, "pt") as old, safe_open(saved, "pt") as new:
        weights = set(old.keys())
        assert set(new.keys()) == weights
        assert all(torch.equal(new.get_tensor(name), old.get_tensor(name)) for name in weights)


@pytest.mark.parametrize("trained", [True, False])
def test_a_learner_is_saved_and_read_with_joined_weights(
    trained: bool, written: dict[str, str], tmp_path: Path
) -> None:
    options = NO_CLIP if trained else None
    learner = TorchLearner(models.load_model(written["llama"]), policy_outputs, options, loss=loss)
    expected = learner.score(advantaged())
    learner.save(tmp_path)

    with torch.no_grad():
        for parameter in learner.model.parameters():
            parameter.add_(1.0)
    assert not torch.equal(learner.score(advantaged()), expected)
    learner.load(tmp_path)
    assert torch.equal(learner.score(advantaged()), expected)
    assert neighbours(learner.model) == 6


def test_a_parked_model_computes_the_same(written: dict[str, str]) -> None:
    """Moving a model separates its weights. "cpu" to float64 and back stands for a move."""
    model = models.load_model(written["qwen2"])
    expected = model.logits(padded()[0])
    model.to(torch.float64)
    model.to(torch.float32)
    assert neighbours(model) == 0
    assert torch.equal(model.logits(padded()[0]), expected)


def test_models_that_share_frozen_weights_share_joined_ones(written: dict[str, str]) -> None:
    policy, critic = (models.load_model(written["qwen2"]) for _ in range(2))
    for model in (policy, critic):
        lora.add_adapter(model, LoraSection(rank=2))
    lora.share_frozen(critic, policy)

    for model in (policy, critic):
        attention = model.core.layers[1].self_attn
        query, key = (layer.base_layer.weight for layer in (attention.q_proj, attention.k_proj))
        assert query.data_ptr() + query.nbytes == key.data_ptr()
    assert critic.core.layers[0].mlp.up_proj.base_layer.weight.data_ptr() in {
        parameter.data_ptr() for parameter in policy.parameters()
    }


def test_a_copy_of_a_model_is_a_model_of_its_own(written: dict[str, str]) -> None:
    model = models.load_model(written["qwen2"])
    expected = model.logits(padded()[0])
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(other.logits(padded()[0]), expected)


def test_layers_that_differ_in_their_input_or_kind_are_left_alone() -> None:
    assert not fusing.join([nn.Linear(3, 2), nn.Linear(4, 2)])
    assert not fusing.join([nn.Linear(3, 2), nn.Linear(3, 2).to(torch.bfloat16)])
    assert not fusing.join([nn.Linear(3, 2), None])


def with_weights(norm: Any, dtype: torch.dtype) -> Any:
    norm.weight.data = 1 + 0.5 * torch.randn(32, generator=torch.Generator().manual_seed(1))
    return norm.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_norm_is_recognised_by_what_it_computes(dtype: torch.dtype) -> None:
    """Gemma's norm multiplies by 1 + weight. One with another sign stands for anything else."""

    class Other(Qwen2RMSNorm):
        def forward(self, hidden_states: Tensor) -> Tensor:
            return -super().forward(hidden_states)

    assert fusing.is_rms_norm(with_weights(Qwen2RMSNorm(32), dtype))
    assert not fusing.is_rms_norm(with_weights(Gemma3RMSNorm(32), dtype))
    assert not fusing.is_rms_norm(with_weights(Other(32), dtype))
    assert not fusing.is_rms_norm(nn.LayerNorm(32))

    gemma = with_weights(Gemma3RMSNorm(32), dtype)
    gemma.variance_epsilon = gemma.eps
    assert not fusing.is_rms_norm(gemma)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-7)])
def test_the_fused_norm_has_the_value_and_the_gradient_of_transformers(
    dtype: torch.dtype, tolerance: float
) -> None:
    norm = with_weights(Qwen2RMSNorm(32), dtype)
    generator = torch.Generator().manual_seed(0)
    x = (3 * torch.randn(2, 5, 32, generator=generator)).to(dtype).requires_grad_()
    pull = torch.randn(2, 5, 32, generator=generator).to(dtype)

    ours, theirs = fusing.rms_norm(x, norm), norm(x)
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)
    gradients = [torch.autograd.grad((y * pull).sum(), (x, norm.weight)) for y in (ours, theirs)]
    torch.testing.assert_close(gradients[0], gradients[1], atol=20 * tolerance, rtol=tolerance)


@pytest.mark.parametrize(("family", "norms"), [("qwen2", 5), ("qwen3", 9), ("llama3", 5)])
def test_all_norms_of_a_model_are_fused(family: str, norms: int, written: dict[str, str]) -> None:
    """Two in each of two layers and one at the end; Qwen3 also has two in each attention."""
    model = models.load_model(written[family])
    fused = [m for m in model.lm.modules() if getattr(m.forward, "func", None) is fusing.fused_norm]
    assert len(fused) == norms


def test_recomputed_layers_use_the_fused_norms(
    written: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models.load_model(written["qwen2"], recompute=True)
    used = []
    monkeypatch.setattr(Qwen2RMSNorm, "forward", lambda self, x: used.append(self) or x)
    model.logits(padded()[0])
    assert len({id(module) for module in used}) == 5


@pytest.mark.parametrize("gated", [MambaRMSNormGated, Qwen3_5RMSNormGated])
def test_a_norm_with_a_gate_is_not_a_plain_one(gated: Any) -> None:
    assert not fusing.is_rms_norm(gated(8))
    assert fusing.is_rms_norm(Qwen2RMSNorm(8))
