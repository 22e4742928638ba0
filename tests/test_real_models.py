"""Any causal language model: families, precisions, packing, recomputing, adapters, training."""

import copy
import json
from pathlib import Path
from typing import Any

import folders
import pytest
import torch
from folders import FAMILIES
from test_learner import NO_CLIP, rollouts
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AttentionInterface, AutoModelForCausalLM

from tinyzero import config, models
from tinyzero.algorithms.options import PolicyOptions
from tinyzero.algorithms.stages import policy_loss
from tinyzero.batching import Batch, collate
from tinyzero.config import LoraSection, OptimizerOptions
from tinyzero.errors import UserError
from tinyzero.learner import TorchLearner, policy_outputs
from tinyzero.models import Backbone, attention, lora, packing
from tinyzero.run import parts as run
from tinyzero.samplers.torch import TorchSampler
from tinyzero.train import train
from tinyzero.types import Request, SamplingParams


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("families")
    return {name: str(folders.write(root / name, name)) for name in FAMILIES}


def padded(
    lengths: tuple[int, ...] = (9, 140, 3), vocabulary: int = 400
) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randint(
        1, vocabulary, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(0)
    )
    for i, n in enumerate(lengths):
        tokens[i, n:] = 0
    return tokens, torch.tensor(lengths)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_computes_what_transformers_does(family: str, written: dict[str, str]) -> None:
    model, reference = (
        models.load_model(written[family]),
        AutoModelForCausalLM.from_pretrained(written[family]),
    )
    tokens, lengths = padded()
    logits = model.logits(tokens)
    for i, n in enumerate(lengths.tolist()):
        expected = reference(tokens[i : i + 1, :n]).logits[0]
        torch.testing.assert_close(logits[i, :n], expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_equals_padded_in_value_and_gradient(family: str, written: dict[str, str]) -> None:
    tokens, lengths = padded()
    real = torch.arange(tokens.shape[1]) < lengths[:, None]
    found = []
    for pack in (False, True):
        model = models.load_model(written[family], pack=pack)
        hidden = model.hidden(tokens, lengths)
        weight = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(1))
        (hidden * weight)[real].sum().backward()
        found.append((hidden.detach()[real], [p.grad for p in model.core.parameters()]))
    torch.testing.assert_close(found[1][0], found[0][0], atol=2e-5, rtol=1e-5)
    for one, other in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


def test_a_packed_token_sees_its_own_sequence_only(written: dict[str, str]) -> None:
    model = models.load_model(written["qwen2"], pack=True)
    tokens, lengths = padded((5, 6))
    before = model.hidden(tokens, lengths)
    changed = tokens.clone()
    changed[0] = (changed[0] + 7) % 400
    after = model.hidden(changed, lengths)
    assert torch.equal(before[1], after[1])
    assert not torch.allclose(before[0], after[0])


def by_the_formula(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_edges: torch.Tensor,
    key_edges: torch.Tensor,
    longest_query: int,
    longest_key: int,
    causal: bool = False,
    scaling: float | None = None,
    used: torch.Tensor | None = None,
    window: int | None = None,
) -> torch.Tensor:
    """The result of flash attention, computed head by head."""
    out = torch.empty_like(query)
    for i in range(len(query_edges) - 1):
        rows = slice(int(query_edges[i]), int(query_edges[i + 1]))
        start, end = int(key_edges[i]), int(key_edges[i + 1])
        end = end if used is None else start + int(used[i])
        assert rows.stop - rows.start <= longest_query
        assert end - start <= longest_key
        for h in range(query.shape[1]):
            g = h * key.shape[1] // query.shape[1]
            scores = query[rows, h] @ key[start:end, g].T * (scaling or query.shape[-1] ** -0.5)
            ahead = torch.ones_like(scores, dtype=torch.bool).triu(1 + end - start - len(scores))
            out[rows, h] = (
                scores.masked_fill(ahead & causal, -torch.inf).softmax(-1) @ value[start:end, g]
            )
    return out


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (4, 1)])
def test_the_ways_to_attend_agree(heads: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The way for a GPU (fused kernels, joined sequences) agrees with the way for a CPU."""
    lengths, generator = [5, 40, 1, 90], torch.Generator().manual_seed(0)
    total, (H, G) = sum(lengths), heads
    query, key, value = (torch.randn(1, n, total, 16, generator=generator) for n in (H, G, G))
    ours, _ = attention.grouped_attention(torch.nn.Identity(), query, key, value, None, 0.3)
    torch.testing.assert_close(
        attention.fused_attention(query, key, value, None, 0.3), ours, atol=1e-5, rtol=1e-5
    )
    pieces = [packing.Piece(sum(lengths[:i]), n) for i, n in enumerate(lengths)]
    apart = packing.Packing(pieces, torch.device("cpu"))
    each = packing.packed_attention(query, key, value, apart, 0.3)
    monkeypatch.setattr(packing, "has_flash", lambda *_: True)
    monkeypatch.setattr(packing, "flash_attention", by_the_formula)
    at_once = packing.packed_attention(query, key, value, apart, 0.3)
    torch.testing.assert_close(at_once, each, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(each, ours, atol=1e-2)


def test_fused_kernels_get_what_they_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """No fused kernel supports grouped heads together with a mask or with float32.

    PyTorch would then fall back to a way that stores every score.
    """
    grouped, attend = list[bool](), attention.scaled_dot_product_attention

    def noted(*given: Any, enable_gqa: bool, **more: Any) -> torch.Tensor:
        grouped.append(enable_gqa)
        return attend(*given, enable_gqa=enable_gqa, **more)

    monkeypatch.setattr(attention, "scaled_dot_product_attention", noted)
    query, key, value = (torch.randn(2, n, 9, 16) for n in (4, 2, 2))
    mask = attention.causal_mask(9)
    expected, _ = attention.grouped_attention(torch.nn.Identity(), query, key, value, mask, 0.3)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 0.05)):
        low = [x.to(dtype) for x in (query, key, value)]
        for given in (mask.to(dtype), None):
            found = attention.fused_attention(low[0], low[1], low[2], given, 0.3)
            torch.testing.assert_close(found.float(), expected, atol=tolerance, rtol=tolerance)
    assert grouped == [False, False, False, True]


def test_flash_attention_is_called_as_its_operator_is() -> None:
    """Grouped heads, forward and backward, and with a cache.

    The device "meta" checks only arguments and shapes.
    """
    query, key, value = (
        torch.randn(20, n, 64, device="meta", dtype=torch.bfloat16, requires_grad=True)
        for n in (4, 2, 2)
    )
    edges = torch.tensor([0, 5, 20], dtype=torch.int32, device="meta")
    found = attention.flash_attention(
        query, key, value, edges, edges, 15, 15, causal=True, scaling=0.3
    )
    assert found.shape == query.shape
    found.sum().backward()
    assert all(x.grad is not None and x.grad.shape == x.shape for x in (query, key, value))
    names = [a.name for a in torch.ops.aten._flash_attention_forward.default._schema.arguments]
    assert names[:10] == [
        *("query", "key", "value", "cum_seq_q", "cum_seq_k", "max_q", "max_k"),
        *("dropout_p", "is_causal", "return_debug_mask"),
    ], "arguments must be passed by position"
    assert {"scale", "seqused_k"} <= {*names}


def test_without_a_gpu_there_is_no_flash_attention() -> None:
    query = torch.randn(1, 4, 9, 64, dtype=torch.bfloat16)
    assert not attention.has_flash(query, query, query)


def test_why_a_model_cannot_be_packed_is_told(
    written: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **more: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(packing, "packed_attention", broken)
    with pytest.raises(
        UserError, match=r"cannot be packed: .* \(OutOfMemoryError: CUDA out of memory\)"
    ) as caught:
        models.load_model(written["qwen2"], pack=True)
    assert "\n" not in str(caught.value)


def test_a_model_that_drops_what_it_is_told_of_packing_is_refused(
    written: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = attention.grouped_attention

    def forgetful(*given: Any, packing: Any = None, **more: Any) -> Any:
        return forward(*given, **more)

    monkeypatch.setitem(AttentionInterface._global_mapping, "tinyzero", forgetful)
    models.load_model(written["qwen2"])
    with pytest.raises(UserError, match="cannot be packed"):
        models.load_model(written["qwen2"], pack=True)


@pytest.mark.parametrize("family", ["qwen2", "gpt2"])
def test_recomputing_layers_saves_memory_and_changes_nothing(
    family: str, written: dict[str, str]
) -> None:
    tokens, lengths = padded()
    gradients, kept = [], []
    for recompute in (False, True):
        model = models.load_model(written[family], pack=True, recompute=recompute)
        sizes: list[int] = []

        def note(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            hidden = model.hidden(tokens, lengths)
        kept.append(sum(sizes))
        hidden.square().sum().backward()
        gradients.append([p.grad for p in model.core.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert kept[1] < 0.3 * kept[0], "only the input of each layer should be kept"


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
def test_bf16_in_shards_is_loaded_and_trained(family: str, tmp_path: Path) -> None:
    folder = folders.write(tmp_path / "model", family, torch.bfloat16, shards=True)
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    model = models.load_model(str(folder), torch.bfloat16)
    assert model.dtype == torch.bfloat16
    assert model.logits(torch.arange(5)[None]).dtype == torch.float32
    batch = advantaged()
    learner = TorchLearner(model, policy_outputs, OptimizerOptions(learning_rate=1e-3), loss=loss)
    learned = learner.update(batch)
    assert learned["grad_norm"] > 0
    for parameter, master in zip(learner.parameters, learner.masters, strict=True):
        assert (parameter.dtype, master.dtype) == (torch.bfloat16, torch.float32)
        assert torch.equal(parameter, master.to(torch.bfloat16)), (
            "the weights must be the rounded master weights"
        )


def advantaged() -> Batch:
    batch = collate(rollouts(), 16)
    generator = torch.Generator().manual_seed(5)
    return copy.copy(batch).__class__(
        **{
            **batch.__dict__,
            "advantages": torch.randn(batch.mask.shape, generator=generator) * batch.mask,
        }
    )


def loss(outputs: Any, batch: Batch, totals: Any) -> Any:
    return policy_loss(outputs, batch, totals, PolicyOptions(entropy=0.01))


def test_steps_too_small_for_bf16_are_kept_in_the_masters(tmp_path: Path) -> None:
    """In bfloat16 a weight near 1 moves by at least 0.0078, so steps of 1e-4 would be lost."""
    folder = str(folders.write(tmp_path / "model", "llama"))
    whole = TorchLearner(
        models.load_model(folder), policy_outputs, OptimizerOptions(learning_rate=1e-4), loss=loss
    )
    low = TorchLearner(
        models.load_model(folder, torch.bfloat16),
        policy_outputs,
        OptimizerOptions(learning_rate=1e-4),
        loss=loss,
    )
    before = [m.detach().clone() for m in low.masters]
    batch = advantaged()
    for _ in range(30):
        whole.update(batch)
        low.update(batch)
    moved = torch.cat([(m - b).flatten() for m, b in zip(low.masters, before, strict=True)])
    expected = torch.cat([(m - b).flatten() for m, b in zip(whole.masters, before, strict=True)])
    assert torch.cosine_similarity(moved, expected, dim=0) > 0.9
    norms = [p for n, p in low.model.named_parameters() if "layernorm" in n]
    assert all(((p.float() - 1).abs() < 0.6).all() for p in norms)


def test_a_low_precision_learner_goes_on_bit_for_bit(tmp_path: Path) -> None:
    folder = str(folders.write(tmp_path / "model", "qwen2"))

    def fresh() -> TorchLearner:
        model = models.load_model(folder, torch.bfloat16)
        return TorchLearner(model, policy_outputs, OptimizerOptions(learning_rate=1e-3), loss=loss)

    one, other, batch = fresh(), fresh(), advantaged()
    one.update(batch)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for learner in (one, other):
        learner.update(batch)
    for a, b in zip(
        [*one.masters, *one.parameters], [*other.masters, *other.parameters], strict=True
    ):
        assert torch.equal(a, b)


class Precisions(TorchDispatchMode):
    """Notes how precise float32 products are: those of adapters of a given rank, and others."""

    def __init__(self, rank: int, seen: dict[str, set[str]]) -> None:
        super().__init__()
        self.rank, self.seen = rank, seen

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        inputs = [x for x in args if isinstance(x, Tensor) and x.dtype == torch.float32]
        if str(function).startswith(("aten.mm", "aten.addmm", "aten.bmm")) and len(inputs) > 1:
            has_rank = any(self.rank in x.shape for x in inputs)
            kind = "adapters" if has_rank else "others"
            self.seen[kind].add(torch.get_float32_matmul_precision())
        return function(*args, **(kwargs or {}))


class TestAdapters:
    options = LoraSection(rank=4, alpha=8)

    def adapted(self, folder: str, seed: int | None = 1) -> Backbone:
        model = models.load_model(folder)
        lora.add_adapter(model, self.options)
        if seed is not None:  # otherwise the products are zero
            generator = torch.Generator().manual_seed(seed)
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
        return model

    @pytest.mark.parametrize("family", ["qwen2", "llama", "gpt2"])
    def test_they_start_as_nothing_and_are_all_that_is_trained(
        self, family: str, written: dict[str, str]
    ) -> None:
        model, tokens = self.adapted(written[family], None), padded()[0]
        assert torch.equal(model.logits(tokens), models.load_model(written[family]).logits(tokens))
        trained = {n for n, p in model.named_parameters() if p.requires_grad}
        assert trained
        assert all("lora_" in name for name in trained)
        learner = TorchLearner(
            model, policy_outputs, NO_CLIP.model_copy(update={"learning_rate": 1e-2}), loss=loss
        )
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        learner.update(advantaged())
        learner.update(advantaged())
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, before[name]) == (name not in trained), name

    @pytest.mark.parametrize("family", ["qwen2", "llama"])
    def test_merged_weights_are_the_adapted_model(
        self, family: str, written: dict[str, str], tmp_path: Path
    ) -> None:
        model, tokens = self.adapted(written[family]), padded()[0]
        models.save_model(model, folders.bpe(), tmp_path)
        saved = models.load_model(str(tmp_path))
        assert {n for n, _ in saved.lm.named_parameters()} == {
            n for n, _ in models.load_model(written[family]).lm.named_parameters()
        }
        torch.testing.assert_close(saved.logits(tokens), model.logits(tokens), atol=1e-4, rtol=1e-4)

    def test_the_adapter_alone_loads_with_peft(
        self, written: dict[str, str], tmp_path: Path
    ) -> None:
        from peft import PeftModel

        model, tokens = self.adapted(written["qwen2"]), padded()[0]
        lora.save_adapter(model, self.options, tmp_path, written["qwen2"])
        theirs = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(written["qwen2"]), str(tmp_path)
        )
        torch.testing.assert_close(
            theirs(tokens[1:2]).logits[0], model.logits(tokens)[1], atol=1e-4, rtol=1e-4
        )

    @pytest.mark.parametrize("family", ["qwen2", "gpt2"])  # qwen2 has its own decoding step
    def test_the_sampler_samples_from_the_adapted_model(
        self, family: str, written: dict[str, str]
    ) -> None:
        model, tokenizer = self.adapted(written[family]), folders.bpe()
        sampler = TorchSampler(model, models.decoder(tokenizer), frozenset())
        [[completion]] = sampler.generate(
            [Request((5, 6, 7), group=0)], SamplingParams(max_tokens=12)
        )
        tokens = torch.tensor([[5, 6, 7, *completion.token_ids]])
        logprobs = model.logits(tokens)[0, 2:-1].log_softmax(-1)
        expected = logprobs.gather(-1, tokens[0, 3:, None]).squeeze(-1)
        torch.testing.assert_close(
            torch.tensor(completion.sampled_logprobs), expected, atol=2e-5, rtol=1e-5
        )

    def test_merged_weights_may_lie_in_one_place(
        self, written: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Merged weights are made one by one, and the next one may get the address of the last."""
        model, place, merged_weight = (
            self.adapted(written["qwen2"]),
            torch.empty(64 * 64),
            models.merged_weight,
        )
        expected = {name: w.detach().to(torch.bfloat16) for name, w in models.named_weights(model)}

        def in_place(layer: Any) -> torch.Tensor:
            made = merged_weight(layer).detach()
            return place[: made.numel()].view_as(made).copy_(made)

        monkeypatch.setattr(models.hub, "merged_weight", in_place)
        models.save_model(model, folders.bpe(), tmp_path, torch.bfloat16)
        saved = models.load_model(str(tmp_path), torch.bfloat16).lm.state_dict()
        assert saved.keys() == expected.keys()
        assert all(torch.equal(saved[name], weight) for name, weight in expected.items())

    @pytest.mark.parametrize("role", ["critic", "reference"])
    def test_what_is_shared_is_never_on_the_gpu_twice(
        self, role: str, written: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The model is loaded on the CPU, and only weights that are not shared move to the GPU.

        "meta" takes the place of the GPU.
        """
        owner, asked, load_model = (
            self.adapted(written["qwen2"]).to("meta"),
            list[str](),
            models.load_model,
        )

        def noted(name: str, dtype: torch.dtype, device: str, *more: Any, **named: Any) -> Backbone:
            asked.append(device)
            return load_model(name, dtype, device, *more, **named)

        monkeypatch.setattr(models, "load_model", noted)
        monkeypatch.setattr(models, "pick_device", lambda name: "meta")
        made = run.load(
            config.resolve({}, {"model.name": written["qwen2"], "lora.rank": 4}), role, owner
        )
        assert asked == ["cpu"]
        assert {p.device.type for p in made.parameters()} == {"meta"}
        owned = {id(p) for p in owner.parameters()}
        assert all(
            id(p) in owned
            for n, p in made.named_parameters(remove_duplicate=False)
            if ".lora_" not in n
        )

    @pytest.mark.parametrize("family", ["llama", "qwen2"])  # qwen2 has a tied head
    def test_frozen_weights_are_held_once(self, family: str, written: dict[str, str]) -> None:
        policy, critic = (
            self.adapted(written[family]),
            models.ValueModel(self.adapted(written[family])),
        )
        reference = models.load_model(written[family]).requires_grad_(False)
        before = reference.logits(padded()[0])
        lora.share_frozen(reference, policy)
        lora.share_frozen(critic.backbone, policy)
        owned = {p.data_ptr() for p in policy.parameters()}
        assert {p.data_ptr() for p in reference.parameters()} <= owned
        apart = [n for n, p in critic.named_parameters() if p.data_ptr() not in owned]
        assert apart
        assert all("lora_" in n or n.startswith("head.") for n in apart)
        assert torch.equal(reference.logits(padded()[0]), before), "only the policy has an adapter"

    @pytest.mark.parametrize(
        ("device", "dtype", "expected"),
        [
            ("cuda", torch.bfloat16, "high"),
            ("cuda", torch.float32, "highest"),  # a float32 model is computed in float32
            ("cpu", torch.bfloat16, "highest"),
        ],
    )
    def test_a_gpu_computes_adapters_and_nothing_else_in_tf32(
        self,
        device: str,
        dtype: torch.dtype,
        expected: str,
        written: dict[str, str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Rotary tables are a product in some versions of transformers: here one stands for it."""
        model = models.load_model(written["qwen2"], dtype)
        with monkeypatch.context() as patch:
            patch.setattr(Backbone, "device", torch.device(device))
            lora.add_adapter(model, LoraSection(rank=7))  # no other size is 7

        rotary = type(model.core.rotary_emb).forward

        def with_product(module: Any, x: Tensor, positions: Tensor) -> Any:
            seen["rotary"].add(torch.get_float32_matmul_precision())
            return rotary(module, x, positions)

        monkeypatch.setattr(type(model.core.rotary_emb), "forward", with_product)
        seen: dict[str, set[str]] = {"adapters": set(), "others": set(), "rotary": set()}
        with Precisions(7, seen):
            critic = models.ValueModel(model)
            critic.head.weight.data.fill_(1.0)
            critic.values(padded()[0]).sum().backward()
        assert seen == {"adapters": {expected}, "others": {"highest"}, "rotary": {"highest"}}
        assert torch.get_float32_matmul_precision() == "highest"

    def test_products_in_tf32_have_the_gradient_of_the_layer(
        self, written: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """On a CPU, TF32 is float32: nothing but the way to compute it is different."""
        gradients = []
        for device in ("cpu", "cuda"):
            model = models.load_model(written["qwen2"], torch.bfloat16)
            with monkeypatch.context() as patch:
                patch.setattr(Backbone, "device", torch.device(device))
                lora.add_adapter(model, self.options)
            generator = torch.Generator().manual_seed(1)
            trained = [p for p in model.parameters() if p.requires_grad]
            for parameter in trained:
                parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
            gradients.append(
                torch.autograd.grad(model.logits(padded()[0]).logsumexp(-1).sum(), trained)
            )
        torch.testing.assert_close(gradients[1], gradients[0], atol=1e-5, rtol=1e-5)

    def test_a_name_that_no_layer_has(self, written: dict[str, str]) -> None:
        with pytest.raises(UserError, match=r"lora.targets \['nowhere'\]"):
            lora.add_adapter(
                models.load_model(written["qwen2"]), LoraSection(rank=2, targets=["nowhere"])
            )


RUN = {
    "steps": 3,
    "rollout.prompts": 2,
    "rollout.samples": 3,
    "rollout.max_tokens": 24,
    "optimizer.learning_rate": 1e-3,
}
RUN |= {"eval.every": 0, "eval.test_problems": 0, "checkpoint.every": 1, "update.micro_tokens": 512}
RUN |= {"critic.learning_rate": 1e-3, "prm.learning_rate": 1e-3, "model.prompt": "base"}


def trained(
    folder: str, out: Path, steps: int | None = None, resume: bool = False, **more: Any
) -> list[dict[str, Any]]:
    overrides = (
        RUN
        | {"model.name": folder, "model.device": "cpu"}
        | {k.replace("__", "."): v for k, v in more.items()}
    )
    overrides |= {"steps": steps} if steps else {}
    train(config.resolve({}, overrides), out, resume)
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def without_clock(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in e.items() if not k.startswith(("time/", "memory/"))} for e in entries]


@pytest.mark.parametrize(
    ("algorithm", "rank"), [("grpo", 0), ("grpo", 4), ("ppo", 0), ("ppo", 4), ("prime", 4)]
)
def test_a_run_on_a_folder_resumes_bit_for_bit(
    algorithm: str, rank: int, written: dict[str, str], tmp_path: Path
) -> None:
    more = {
        "algorithm__name": algorithm,
        "lora__rank": rank,
        "update__pack": True,
        "model__dtype": "bfloat16",
    }
    more |= {"algorithm__filter": "none"} if algorithm == "prime" else {}
    whole = trained(written["qwen2"], tmp_path / "whole", **more)
    trained(written["qwen2"], tmp_path / "halves", steps=2, **more)
    halves = trained(written["qwen2"], tmp_path / "halves", resume=True, **more)
    assert without_clock(whole) == without_clock(halves)
    assert all(e["tokens/trained"] > 0 for e in whole)
    final = tmp_path / "whole/checkpoints/step_000003/model"
    assert (final / "adapter/adapter_model.safetensors").exists() == bool(rank)
    models.load_model(str(final), torch.bfloat16)


def test_packing_trains_the_same(written: dict[str, str], tmp_path: Path) -> None:
    plain, packed = (
        trained(written["llama3"], tmp_path / str(pack), steps=2, update__pack=pack)
        for pack in (False, True)
    )
    for a, b in zip(plain, packed, strict=True):
        assert a["tokens/trained"] == b["tokens/trained"]
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-3)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"optimizer.offload": True}, "optimizer.offload moves things to CPU memory"),
        ({"critic.offload": True}, "critic.offload moves things"),
        ({"model.park": True}, "model.park moves things"),
        ({"model.device": "cuda"}, "torch finds 0 CUDA devices: use cpu or auto"),
        ({"model.device": "gpu"}, "model.device"),
        ({"lora.rank": 2, "lora.targets": ["nowhere"]}, "lora.targets"),
    ],
)
def test_an_option_that_cannot_be_is_a_line(
    overrides: dict[str, Any], message: str, written: dict[str, str], tmp_path: Path
) -> None:
    if torch.cuda.is_available() and "cuda" in str(overrides):
        pytest.skip("there is a GPU")
    everything = RUN | {"model.name": written["qwen2"], "model.device": "cpu"} | overrides
    with pytest.raises(UserError, match=message):
        train(config.resolve({}, everything), tmp_path / "run")
    assert not (tmp_path / "run").exists()
