"""Plans against published parameter counts, cases worked by hand, transformers' own models, and real runs."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers

from tinyzero import cli, models
from tinyzero.algorithms import NAMES, load_algorithm
from tinyzero.batching import Batch
from tinyzero.config import Config, LoraSection, parse_overrides, read_recipe, resolve
from tinyzero.cost.devices import CPU, DEVICES, Device, device_named
from tinyzero.cost.shapes import SHAPES, find_shape, read_shape
from tinyzero.cost.simulator import (
    USABLE,
    Plan,
    make_plan,
    passes,
    prompt_tokens,
    remedies,
    step_flops,
    step_load,
)
from tinyzero.errors import UserError
from tinyzero.learner import TorchLearner, policy_outputs
from tinyzero.models import lora
from tinyzero.run import records
from tinyzero.run.meter import Meter
from tinyzero.tools.plan import calibrate
from tinyzero.tools.plan.page import describe, pretraining, survey

QWEN3B = SHAPES["Qwen/Qwen2.5-3B"]
MIXTRAL = {
    "model_type": "mixtral", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "intermediate_size": 14_336, "vocab_size": 32_000, "num_local_experts": 8,
    "num_experts_per_tok": 2,
}  # fmt: skip
QWEN3_30B = {
    "model_type": "qwen3_moe", "hidden_size": 2048, "num_hidden_layers": 48, "num_attention_heads": 32, "head_dim": 128,
    "num_key_value_heads": 4, "intermediate_size": 6144, "vocab_size": 151_936, "num_experts": 128,
    "num_experts_per_tok": 8, "moe_intermediate_size": 768,
}  # fmt: skip


def planned(recipe: str, *arguments: str, gpu: str = "h100", length: float | None = None) -> Plan:
    config = resolve(read_recipe(recipe), parse_overrides(arguments))
    return plan_of(config, DEVICES[gpu] if gpu != "cpu" else CPU, length=length)


def plan_of(
    config: Config, device: Device, prompt: float | None = None, length: float | None = None
) -> Plan:
    algorithm = load_algorithm(config.algorithm.name, config.algorithm.options)
    shape = find_shape(config.model.name)
    return make_plan(config, algorithm, shape, device, prompt or prompt_tokens(config), length)


# Shapes


@pytest.mark.parametrize(
    ("name", "parameters"),  # as the model cards, or the sizes of their safetensors, have them
    [
        ("Qwen/Qwen2.5-0.5B", 494_032_768),
        ("Qwen/Qwen2.5-1.5B", 1_543_714_304),
        ("Qwen/Qwen2.5-3B-Instruct", 3_085_938_688),
        ("Qwen/Qwen2.5-7B", 7_615_616_512),
        ("meta-llama/Llama-3.2-3B", 3_212_749_824),
    ],
)
def test_parameters_are_the_published_ones(name: str, parameters: int) -> None:
    assert find_shape(name).parameters == parameters


def test_experts_count_as_published() -> None:
    mixtral, qwen = read_shape(MIXTRAL, "mixtral"), read_shape(QWEN3_30B, "qwen")
    assert (round(mixtral.parameters / 1e9, 1), round(mixtral.active / 1e9, 1)) == (
        46.7,
        12.7,
    )  # 12.9 with embeddings
    assert (round(qwen.parameters / 1e9, 1), round(qwen.active / 1e9, 1)) == (
        30.5,
        3.0,
    )  # 3.3 with embeddings
    assert round((qwen.active + qwen.vocabulary * qwen.width) / 1e9, 1) == 3.4


def test_a_decode_step_reads_the_experts_that_some_row_goes_through() -> None:
    """Of Mixtral's 8 experts a layer, of which a token takes 2: 2, 3.5 (two tokens), nearly 8 (many)."""
    mixtral, expert = read_shape(MIXTRAL, "mixtral"), 32 * 3 * 4096 * 14_336
    assert mixtral.read(1) == mixtral.active
    assert mixtral.read(2) == pytest.approx(mixtral.active + 1.5 * expert)
    assert mixtral.read(64) == pytest.approx(mixtral.active + 6 * expert)
    assert QWEN3B.read(64) == QWEN3B.active


def test_decoding_experts_by_hand() -> None:
    """128 rows at once, memory alone: every step reads all 46.6e9 weights of Mixtral that are in a product."""
    ideal = replace(
        DEVICES["h200"], decode=1.0, bandwidth=1e12, rates={"bfloat16": 1e20}, launch=0.0
    )
    config = resolve(
        {"rollout": {"prompts": 128, "samples": 1, "max_tokens": 100}}, {"model.dtype": "bfloat16"}
    )
    shape = read_shape(MIXTRAL, "mixtral")
    algorithm = load_algorithm(config.algorithm.name, config.algorithm.options)
    decode = (
        make_plan(config, algorithm, shape, ideal, prompt=100, length=100).step["decode"].seconds
    )
    read = 2 * (shape.parameters - 32_000 * 4096) + 128 * 150 * shape.cache(2)
    assert decode == pytest.approx(100 * read / 1e12, rel=1e-3)


SMALL = {
    "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 96, "vocab_size": 50, "tie_word_embeddings": False,
}  # fmt: skip
EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "decoder_sparse_step": 1,
}


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("qwen2", {}),
        ("qwen2", {"tie_word_embeddings": True}),
        ("llama", {}),
        ("llama", {"attention_bias": True, "head_dim": 24}),
        ("mistral", {}),
        ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
        ("qwen2_moe", EXPERTS | {"shared_expert_intermediate_size": 40}),
        ("qwen3", {"head_dim": 24}),
        ("qwen3_moe", EXPERTS | {"head_dim": 16}),
    ],
)
def test_parameters_are_those_of_transformers(kind: str, more: dict[str, Any]) -> None:
    config = transformers.AutoConfig.for_model(kind, **(SMALL | more))
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    assert read_shape(config.to_dict(), kind).parameters == sum(
        p.numel() for p in model.parameters()
    )


@pytest.mark.filterwarnings(
    "ignore:The following .*_pattern keys:RuntimeWarning"
)  # peft's own of its experts
@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("qwen2", {}),
        ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
        ("qwen2_moe", EXPERTS | {"shared_expert_intermediate_size": 40}),
        ("qwen3_moe", EXPERTS | {"head_dim": 16}),
    ],
)
def test_adapters_are_those_of_peft(kind: str, more: dict[str, Any]) -> None:
    pytest.importorskip("peft")
    model = models.build_model({"model_type": kind, **SMALL, **more}, seed=0)
    shape = read_shape(model.config.to_dict(), kind)
    lora.add_adapter(model, LoraSection(rank=4))
    assert shape.adapters(4, []) == sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("attention", ["sdpa", "tinyzero"])
def test_activations_are_what_autograd_keeps(attention: str, dtype: torch.dtype) -> None:
    length, layers = 256, 4
    config = transformers.AutoConfig.for_model(
        "qwen2", hidden_size=256, num_hidden_layers=layers, num_attention_heads=8, num_key_value_heads=2,
        intermediate_size=1024, vocab_size=50, tie_word_embeddings=True,
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation=attention, dtype=dtype
    )
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = model.model(
            input_ids=torch.zeros(2, length, dtype=torch.long), use_cache=False
        ).last_hidden_state
    shape = read_shape(config.to_dict(), "small")
    found = shape.activations(dtype.itemsize, attention == "sdpa", length) * layers * 2 * length
    assert hidden.requires_grad
    assert found == pytest.approx(sum(kept.values()), rel=0.12)


def test_the_bundled_base_and_a_checkpoint_folder_are_read(base: Path, tmp_path: Path) -> None:
    assert find_shape("tiny").parameters == 769_024
    (tmp_path / "model").symlink_to(base)
    assert find_shape(str(tmp_path)) == find_shape(str(base))


@pytest.mark.parametrize(
    ("name", "says"),
    [("Qwen/Qwen9-1B", "its shape is not known"), ("no/such/folder", "no model folder")],
)
def test_an_unknown_model_is_not_fetched(name: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        find_shape(name)


def test_a_kind_that_cannot_be_counted() -> None:
    with pytest.raises(UserError, match=r"'gpt2'.*known are llama"):
        read_shape({"model_type": "gpt2"}, "folder")


def test_a_cache_entry_by_hand() -> None:
    assert QWEN3B.cache(2) == 36_864  # 2 x 36 layers x 2 heads x 128 channels x 2 bytes


def test_adapters_by_hand() -> None:
    assert QWEN3B.adapters(8, ["q_proj"]) == 36 * 8 * (2048 + 2048)
    every = 2048 + 2048 + 2 * (2048 + 256) + 2048 + 2048 + 3 * (2048 + 11_008)
    assert QWEN3B.adapters(8, []) == 36 * 8 * every
    assert QWEN3B.adapters(0, []) == 0


# Devices


def test_a_device_is_known_by_its_whole_name() -> None:
    h200, h20 = device_named("NVIDIA H200"), device_named("NVIDIA H20")
    assert h200 is not None
    assert h20 is not None
    assert h200.rate("bfloat16") > 6 * h20.rate("bfloat16")
    assert h200.rate("float8") == pytest.approx(2 * h200.rate("bfloat16"), rel=1e-3)
    assert device_named("NVIDIA H200 NVL") is None
    assert device_named("NVIDIA H2") is None
    assert len({device.name for device in DEVICES.values()}) == len(DEVICES)


def test_a_type_that_is_not_in_hardware_is_named() -> None:
    with pytest.raises(UserError, match=r"Tesla T4.*--model.dtype float32"):
        planned("qwen2.5-0.5b", gpu="t4")
    assert "float8" not in DEVICES["a100"].rates


# Cases worked by hand. N = 3.086e9; P = 140, R = 300; 256 answers: T = 112,640 tokens


def original(*arguments: str, device: Device = DEVICES["h100"]) -> Plan:
    config = resolve(read_recipe("tinyzero-original-3b-ppo"), parse_overrides(arguments))
    return plan_of(config, device, prompt=140, length=300)


def test_the_original_takes_20_n_t() -> None:
    plan = original()
    flops, n, tokens = sum(part.flops for part in plan.step.values()), QWEN3B.active, 112_640
    assert n == pytest.approx(3.086e9, rel=1e-3)
    assert 20.0 * n * tokens < flops < 20.3 * n * tokens  # the rest is attention
    assert flops == pytest.approx(7.0e15, rel=0.01)
    again = sum(part.again for part in original("--model.checkpointing=true").step.values())
    assert flops + again == pytest.approx(24.2 * n * tokens, rel=0.01)


def multiple(*arguments: str, recipe: str = "qwen2.5-3b") -> float:
    """FLOPs of a step in N T, with one answer a prompt, so that sampling is 2."""
    one = ["--rollout.prompts=512", "--rollout.samples=1", *arguments]
    config = resolve(read_recipe(recipe), parse_overrides(one))
    plan = plan_of(config, DEVICES["h100"], prompt=140, length=300)
    return sum(part.flops for part in plan.step.values()) / (QWEN3B.active * 512 * 440)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--algorithm.kl=0.1"], 12),  # sampling 2, old 2, reference 2, learning 6
        ([], 10),
        (["--update.minibatches=1", "--algorithm.correction=none"], 8),
        (["--algorithm=ppo", "--update.minibatches=1", "--algorithm.correction=none"], 16),
        (["--algorithm=ppo", "--algorithm.kl_in_reward=0.1"], 20),
        (
            ["--algorithm=prime", "--algorithm.filter=none"],
            20,
        ),  # 2, old 2, PRM 2 + 6, reference 2, policy 6
        (["--algorithm=prime"], 11),  # of half the groups
        (["--algorithm=prime", "--rollout.refills=4"], 22),  # twice as many drawn: 4 + 18
        (["--lora.rank=8"], 8),  # no gradients of frozen weights
        (["--update.epochs=2"], 16),
    ],
)
def test_a_step_in_n_t(arguments: list[str], expected: float) -> None:
    assert multiple(*arguments) == pytest.approx(expected, rel=0.015)


def test_states_of_ppo_by_hand() -> None:
    models = original().models
    assert set(models) == {"policy", "critic", "reference"}
    assert sum(models["reference"].values()) == pytest.approx(6.17e9, rel=1e-3)
    for role in (
        "policy",
        "critic",
    ):  # 18 bytes a weight: 16 with gradients in bf16, which here are summed in fp32
        assert sum(models[role].values()) == pytest.approx(55.5e9, rel=1e-3)
    with_bf16_gradients = sum(
        sum(parts.values()) - parts.get("gradients", 0) / 2 for parts in models.values()
    )
    assert with_bf16_gradients == pytest.approx(105e9, rel=1e-2)


def test_what_offload_parking_and_adapters_leave_on_the_device() -> None:
    weights = 2 * QWEN3B.parameters
    ppo = [
        "--algorithm=ppo",
        "--algorithm.kl=0.1",
        "--optimizer.offload=true",
        "--critic.offload=true",
    ]
    plan = planned("qwen2.5-3b", *ppo)
    assert plan.models == {role: {"weights": weights} for role in ("policy", "critic", "reference")}
    assert plan.host == 2 * 16 * QWEN3B.parameters
    parked = planned("qwen2.5-3b", *ppo, "--model.park=true")
    assert parked.models == {"policy": {"weights": weights}, "critic": {}, "reference": {}}
    assert parked.learning["parked, in use"] == weights
    assert parked.host == plan.host + 2 * weights
    adapted, adapters = planned("qwen2.5-3b", *ppo[:2], "--lora.rank=64"), QWEN3B.adapters(64, [])
    assert held(adapted) == weights + 2 * 16 * adapters
    assert "weights" not in adapted.models["critic"]
    fp32 = planned("qwen2.5-3b", "--model.dtype=float32")
    assert held(fp32) == 16 * QWEN3B.parameters


def held(plan: Plan) -> float:
    """Bytes of the models."""
    return sum(sum(parts.values()) for parts in plan.models.values())


def test_slots_stay_on_a_gpu_and_a_cpus_cache_does_not() -> None:
    """128 rows of 140 + 1,024 tokens at 36,864 bytes; 256 answers a step, 64 in one of the cases."""
    cache = 128 * 1164 * 36_864
    gpu, fp32 = original("--rollout.rows=128"), ["--rollout.rows=128", "--model.dtype=float32"]
    assert gpu.slots == cache
    assert gpu.held == held(gpu) + cache
    assert gpu.peak == gpu.held + sum(gpu.learning.values())
    assert "cache" not in gpu.sampling
    for freed, itemsize in (
        (original("--rollout.rows=128", "--sampler=vllm"), 2),
        (original(*fp32, device=CPU), 4),
    ):
        assert freed.slots == 0
        assert freed.sampling["cache"] == cache * itemsize / 2
        assert freed.held == held(freed)


def test_slots_are_as_many_and_as_long_as_evaluations_need() -> None:
    few = ["--rollout.prompts=64", "--update.minibatches=1"]
    token = 36_864
    assert (
        original(*few).slots == 256 * 1164 * token
    )  # as many as rollout.rows, since 1,024 problems are asked
    assert original(*few, "--eval.every=0", "--eval.test_problems=0").slots == 64 * 1164 * token
    assert original("--eval.max_tokens=2000").slots == 256 * 2140 * token


def test_fewer_slots_help_where_learning_is_the_peak() -> None:
    config = resolve(
        read_recipe("tinyzero-original-3b-ppo"), {"model.checkpointing": True, "rollout.rows": 512}
    )
    plan = plan_of(config, DEVICES["h200"])
    assert sum(plan.learning.values()) > sum(plan.sampling.values())
    device = replace(DEVICES["h200"], memory=(plan.peak - 1e9) / USABLE)
    assert remedies(config, lambda tried: plan_of(tried, device)) == {"rollout.rows": 128}


@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_states_are_what_a_learner_holds(dtype: str, rank: int, base: Path) -> None:
    config = resolve({"model": {"name": str(base), "dtype": dtype}, "lora": {"rank": rank}}, {})
    model = models.load_model(str(base), getattr(torch, dtype))
    if rank:
        pytest.importorskip("peft")
        lora.add_adapter(model, config.lora)
    learner = TorchLearner(
        model,
        policy_outputs,
        config.optimizer,
        loss=lambda out, part, totals: (out["logprobs"].sum(), {}),
    )
    learner.update(batch_of(2, 5))
    assert learner.optimizer is not None
    moments = [t for state in learner.optimizer.state.values() for t in state.values() if t.ndim]
    tensors = [*model.parameters(), *learner.masters, *(m.grad for m in learner.masters), *moments]
    unique = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
        for t in tensors
        if t is not None
    }
    assert held(plan_of(config, DEVICES["h100"])) == pytest.approx(sum(unique.values()), rel=0.01)


OWN = Path(__file__).parent / "own_algorithm.py"


def batch_of(rows: int, columns: int) -> Batch:
    flat = torch.zeros(rows, columns - 1)
    return Batch(
        tokens=torch.ones(rows, columns, dtype=torch.long), mask=flat == 0, sampled_logprobs=flat,
        rewards=torch.zeros(rows), groups=torch.arange(rows) // 2, lengths=torch.full((rows,), columns),
        limits=torch.full((rows,), columns - 1), right=torch.arange(rows) % 2 == 0,
        graded=torch.zeros(rows, dtype=torch.bool),
    )  # fmt: skip


def test_times_by_hand() -> None:
    parts = original().step
    forward = sum(part.seconds for name, part in parts.items() if name.startswith("score"))
    learn = sum(part.seconds for name, part in parts.items() if name.startswith("learn"))
    assert forward == pytest.approx(4.7, rel=0.02)  # 3 x 2 N T at 45 % of 989 TFLOP/s
    assert learn == pytest.approx(10.7, rel=0.02)  # 12 N T at 40 %
    assert parts["decode"].seconds == pytest.approx(
        4.2, rel=0.1
    )  # 1,024 steps at 60 % of 3.35 TB/s
    eager = original(device=replace(DEVICES["h100"], launch=20e-3 / 36)).step["decode"].seconds
    assert eager == pytest.approx(25, rel=0.05)
    ten_hours = 36_000 / (1.2 * sum(part.seconds for part in parts.values()))
    assert 1_300 < ten_hours < 1_600  # with CUDA graphs; 750 without
    assert (
        650
        < 36_000
        / (1.2 * (sum(p.seconds for p in parts.values()) - parts["decode"].seconds + eager))
        < 800
    )


@pytest.mark.parametrize(("rows", "rate"), [(1, 542), (64, 31_000), (256, 96_000), (1024, 200_000)])
def test_decoding_ceilings_by_hand(rows: int, rate: float) -> None:
    """Tokens a second that the whole bandwidth allows at 290 tokens of context, were there no end to computing."""
    ideal = replace(DEVICES["h100"], decode=1.0, rates={"bfloat16": 1e20}, launch=0.0)
    options = {
        "rollout.prompts": rows,
        "rollout.samples": 1,
        "rollout.rows": rows,
        "update.minibatches": 1,
    }
    config = resolve(read_recipe("tinyzero-original-3b-ppo"), options | {"rollout.max_tokens": 300})
    plan = plan_of(config, ideal, prompt=140, length=300)
    assert rows * 300 / plan.step["decode"].seconds == pytest.approx(rate, rel=0.05)


def test_checkpointing_costs_a_third_of_learning_and_saves_nearly_all_activations() -> None:
    plain, saving = original(), original("--model.checkpointing=true")
    assert saving.step["learn policy"].seconds == pytest.approx(
        4 / 3 * plain.step["learn policy"].seconds
    )
    assert saving.learning["activations"] < 0.08 * plain.learning["activations"]
    assert saving.step["learn policy"].flops == plain.step["learn policy"].flops


def test_a_run_is_its_steps_and_its_evaluations() -> None:
    plan = original(
        "--steps=200", "--eval.every=100", "--eval.problems=10", "--eval.test_problems=20"
    )
    none = original("--steps=200", "--eval.every=0", "--eval.test_problems=0")
    assert none.hours == pytest.approx(200 * none.seconds / 3600)
    assert none.evaluations.flops == 0
    sampled = 2 * (3 * 10 + 2 * 20) * 440  # dev thrice, test twice, greedy too, prompts read once
    read_twice = (3 * 10 + 2 * 20) * 140
    assert plan.evaluations.flops == pytest.approx(
        QWEN3B.forward(sampled - read_twice, 440), rel=0.01
    )


# What a step goes through, against the algorithms themselves


class Counted:
    """A learner that counts what it is asked."""

    batches = 0

    def __init__(self, updates: int) -> None:
        self.scored, self.updates = 0, updates

    def score(self, batch: Batch) -> torch.Tensor:
        self.scored += 1
        return torch.zeros(batch.mask.shape)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--update.minibatches=2"],
        ["--algorithm.kl_in_reward=0.1"],
        ["--algorithm.correction=mask"],
    ],
)
def test_passes_are_those_of_the_algorithm(name: str, options: list[str]) -> None:
    config = resolve(
        {"rollout": {"prompts": 2, "samples": 2}},
        parse_overrides([f"--algorithm={name}", *options]),
    )
    algorithm = load_algorithm(name, config.algorithm.options)
    found = {role: Counted(config.update.minibatches) for role in ("policy", *algorithm.roles)}
    algorithm.annotate(replace(batch_of(4, 4), rewards=torch.tensor([1.0, 0, 1, 0])), found)
    scorers, trained = passes(config, algorithm)
    assert {role: model.scored for role, model in found.items()} == {
        r: scorers.count(r) for r in found
    }
    assert set(trained) == set(found) - {"reference"}


def test_an_algorithm_of_ones_own_without_options_drops_nothing_and_scores_nothing() -> None:
    own = load_algorithm(f"{OWN}:Bare")
    config = resolve({"rollout": {"prompts": 3, "refills": 2}}, {})
    assert passes(config, own) == ([], ["policy"])
    load = step_load(config, own, 10.0)
    assert (load.prompts, load.kept) == (3, 1.0)


def test_a_meter_counts_what_a_plan_counts() -> None:
    config = resolve(read_recipe("qwen2.5-3b-countdown-ppo"), {})
    algorithm, plan = (
        load_algorithm("ppo", config.algorithm.options),
        plan_of(config, DEVICES["h100"], 140, 300),
    )
    tokens = plan.load.learned
    found = step_flops(config, algorithm, QWEN3B, tokens, tokens, tokens, 440)
    assert found == pytest.approx(sum(part.flops for part in plan.step.values()), rel=0.01)


# What to change


@pytest.mark.parametrize(
    ("recipe", "gpu"),
    [
        ("qwen2.5-3b-countdown-ppo", "h100"),
        ("qwen2.5-3b-countdown-prime", "l40s"),
        ("qwen2.5-7b-countdown-ppo", "4090"),
        ("llama-3.2-3b-countdown-grpo", "4090"),
    ],
)
def test_what_is_said_to_make_it_fit_does(recipe: str, gpu: str) -> None:
    assert not planned(recipe, gpu=gpu).fits
    config = resolve(read_recipe(recipe), {})
    changes = remedies(config, lambda tried: plan_of(tried, DEVICES[gpu]))
    again = [f"--{key}={str(value).lower()}" for key, value in changes.items()]
    assert changes
    assert planned(recipe, *again, gpu=gpu).fits
    for left_out in again:
        if "park" not in left_out:
            assert not planned(recipe, *(a for a in again if a != left_out), gpu=gpu).fits, left_out


def test_parking_is_given_up_for_adapters() -> None:
    recipe = read_recipe("qwen2.5-7b-countdown-prime")
    config = resolve(recipe, {}, "80gb")
    changes = remedies(config, lambda tried: plan_of(tried, DEVICES["4090"]))
    assert config.model.park
    assert changes["lora.rank"]
    assert changes["model.park"] is False


def test_nothing_helps_where_nothing_can() -> None:
    config = resolve(read_recipe("qwen2.5-7b"), {"model.dtype": "float32"})
    assert remedies(config, lambda tried: plan_of(tried, DEVICES["t4"])) == {}


# Pages


def test_a_page_says_memory_step_and_cost() -> None:
    page = describe(original("--steps=500", "--eval.every=0", "--eval.test_problems=0"), price=2.5)
    assert "IT DOES NOT FIT in 92% of 85.5 GB" in page
    assert "; sampler torch, for which auto is taken; " in page
    assert "; sampler vllm; " in describe(original("--sampler=vllm"), price=0)
    assert re.search(
        r"\n  slots +11\.0 GB  cache 11\.0 GB\n  sampling +933 MB  logits 933 MB\n", page
    )
    assert "256 answers of 300 tokens (1024 at most) to 256 prompts of 140" in page
    assert "$7.58 at $2.50 an hour" in page
    assert "assumed, not measured: 45%" in page
    assert "$" not in describe(original(), price=0)


def test_a_survey_prefers_whole_weights() -> None:
    recipe = read_recipe("qwen2.5-3b-countdown-grpo")
    configs = {"": resolve(recipe, {})} | {
        p: resolve(recipe, {}, p) for p in ("141gb", "80gb", "48gb", "24gb")
    }
    lines = {
        line.split()[0]: line.split()[1:] for line in survey(configs, plan_of, 2.5).splitlines()[1:]
    }
    assert lines["h200"][0] == "141gb"
    assert lines["l40s"][0] == "48gb"
    assert lines["4090"][0] == "48gb"
    assert " ".join(lines["t4"]) == "Tesla T4 has no rate in bfloat16"
    alone = survey({"24gb": configs["24gb"]}, plan_of, 0)
    assert "$" not in alone
    assert "24gb" in alone


def test_the_published_cost_of_deepseek_v3() -> None:
    page = pretraining(37e9, 14.8e12, DEVICES["h800"], hours=2.664e6, price=2)
    assert "3.29e+24 FLOP" in page  # 6 x 37e9 x 14.8e12
    assert "34.6% of its bfloat16 rate, 17.3% of its float8 rate" in page
    assert "$5.328 million" in page
    assert "2,306,111 hours" in pretraining(37e9, 14.8e12, DEVICES["h800"], hours=0, price=0)


# A CPU


def test_a_calibration_finds_the_machine_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timings that a machine of known rates would give lead back to these rates."""
    shape, machine = find_shape("tiny"), replace(CPU, launch=1e-3, reading=3e-8, decoding=6e-8)
    rate, context = machine.rates["float32"], calibrate.PROMPT + calibrate.NEW / 2

    def decoded(rows: int) -> float:
        row = shape.forward(1, 2 * context) / rate + shape.channels(context) * machine.decoding
        laid_out = 4 * shape.active / machine.bandwidth
        return calibrate.NEW * (rows * row + laid_out + shape.layers * machine.launch)

    tokens = calibrate.ROWS * calibrate.COLUMNS
    other = 3 * tokens * shape.channels(calibrate.COLUMNS / 2) * machine.reading
    learned = 3 * shape.forward(tokens, calibrate.COLUMNS) / rate + other
    monkeypatch.setattr(calibrate, "matrix_rate", lambda clock: rate)
    monkeypatch.setattr(calibrate, "bandwidth", lambda rate, clock: machine.bandwidth)
    monkeypatch.setattr(calibrate, "decoding", lambda model, rows: decoded(rows))
    monkeypatch.setattr(calibrate, "updating", lambda model: learned)
    monkeypatch.setattr(calibrate, "fastest", lambda work, clock: work)
    found = calibrate.calibrate(1)
    for field in ("launch", "reading", "decoding", "bandwidth"):
        assert getattr(found, field) == pytest.approx(getattr(machine, field))
    assert found.rates == machine.rates
    assert found.is_cpu


def test_a_cpu_lays_the_weights_out_for_every_step() -> None:
    """Were computing free: 512 steps that each read 767,104 fp32 numbers at 1 GB/s, whatever the rows."""
    machine = replace(CPU, bandwidth=1e9, rates={"float32": 1e30}, launch=0.0, decoding=0.0)
    config = resolve(read_recipe("laptop"), {})
    algorithm = load_algorithm(config.algorithm.name, config.algorithm.options)
    shape = find_shape("tiny")
    decode = make_plan(config, algorithm, shape, machine, prompt=14).step["decode"]
    assert decode.seconds == pytest.approx(512 * 4 * 767_104 / 1e9)


def test_a_calibration_runs_the_base_for_real(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that counts the calls, since no test may lean on a real one."""
    for name, value in {
        "NEW": 2,
        "FEW": 2,
        "MANY": 4,
        "ROWS": 2,
        "PRODUCTS": 1,
        "LAYERS": 1,
    }.items():
        monkeypatch.setattr(calibrate, name, value)
    ticks = iter(range(1000))
    found = calibrate.calibrate(1, clock=lambda: float(next(ticks)))
    assert found.rates["float32"] == 2 * 512 * 512 * 1536  # in one tick
    assert next(ticks) == 5 * 2 * 4  # five works, four tries, two looks at the clock


# During a run


@pytest.fixture
def one_thread() -> Iterator[None]:
    yield
    torch.set_num_threads(1)


OPTIONS = {
    "steps": 2, "rollout.prompts": 2, "rollout.samples": 2, "rollout.max_tokens": 8, "rollout.refills": 0,
    "eval.every": 0, "eval.test_problems": 0, "eval.max_tokens": 0, "task.max_number": 20, "model.threads": 1,
    "algorithm.kl": 0.1, "checkpoint.every": 1, "run.rollouts_every": 1,
}  # fmt: skip


@pytest.mark.usefixtures("one_thread")
def test_a_run_says_what_it_costs(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    options = OPTIONS | {"model.name": base, "run.dir": run, "run.price": 3600}
    assert cli.main(["train", "laptop", *(f"--{k}={v}" for k, v in options.items())]) == 0
    said, steps = capsys.readouterr().out, list(records.read(run / "metrics.jsonl"))
    shape = find_shape(str(base))
    assert len(steps) == 2
    so_far = 0.0
    for record in steps:
        rollouts = [r for r in records.read(run / "rollouts.jsonl") if r["step"] == record["step"]]
        prompts = sum(len(tiny.tokenizer()(r["prompt"])["input_ids"]) for r in rollouts)
        written = sum(r["response_length"] for r in rollouts)
        # sampled with each prompt read once for two answers, scored by the reference, learned from thrice
        tokens = (prompts / 2 + written) + 4 * (prompts + written)
        so_far += shape.forward(tokens, (prompts + written) / 4)
        assert record["flops"] == pytest.approx(so_far, rel=1e-5)
        assert record["time/flops_total"] == pytest.approx(
            so_far / (record["step"] + 1) * 2, rel=1e-5
        )
        assert record["time/dollars"] == pytest.approx(record["time/elapsed"])
        assert record["time/dollars_total"] >= record["time/dollars"]
        assert "time/utilisation" not in record
        assert "time/gpu_hours" not in record
    assert steps[-1]["time/dollars_total"] == pytest.approx(steps[-1]["time/dollars"])
    assert steps[-1]["time/flops_total"] == steps[-1]["flops"]
    first = steps[0]
    assert (
        f"FLOP {first['flops']:.1e} of {first['time/flops_total']:.1e}  cost ${first['time/dollars']:.2f} of $"
        in said
    )
    assert f"{steps[-1]['flops']:.2e} FLOP, ${steps[-1]['time/dollars']:.2f}" in said
    assert cli.main(["train", "--resume", str(run), "--steps=3", "--run.price=0"]) == 0
    *_, last = records.read(run / "metrics.jsonl")
    assert last["flops"] > steps[-1]["flops"]
    assert "time/dollars" not in last
    assert "$" not in capsys.readouterr().out


def test_a_gpu_is_metered_by_its_whole_name() -> None:
    config = resolve(read_recipe("qwen2.5-3b"), {})
    algorithm = load_algorithm("grpo")
    known, other = (
        Meter(config, algorithm, QWEN3B, name) for name in ("NVIDIA H20", "NVIDIA H200 NVL")
    )
    step = {"sampled": 1e4, "scored": 1e4, "learned": 1e4, "length": 400.0}
    clock = {"seconds": 2.0, "elapsed": 7200.0, "left": 3600.0}
    found = known.step(**step, **clock, done=95)  # a fifth of the recipe's steps
    flops = step_flops(config, algorithm, QWEN3B, 1e4, 1e4, 1e4, 400)
    assert found == {
        "flops": flops,
        "time/flops_total": 5 * flops,
        "time/utilisation": pytest.approx(flops / (2 * 148e12)),
        "time/gpu_hours": 2.0,
        "time/gpu_hours_total": 3.0,
        "time/dollars": 5.0,
        "time/dollars_total": 7.5,
    }
    assert known.step(**step, **clock, done=96)["flops"] == 2 * flops
    assert "time/utilisation" not in other.step(**step, **clock, done=95)


def test_a_model_of_another_kind_is_metered_without_flops() -> None:
    meter = Meter(resolve({"run": {"price": 1.0}}, {}), load_algorithm("grpo"), None, None)
    found = meter.step(1, 1, 1, 1, seconds=1, elapsed=3600, left=0, done=1)
    assert found == {"time/dollars": 1.0, "time/dollars_total": 1.0}


# The command


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert cli.main(["plan", *arguments]) == 0
    return capsys.readouterr().out


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    page = said(
        capsys, "qwen2.5-3b-countdown-ppo", "--gpu", "h200", "--price", "4", "--length", "400"
    )
    assert page.startswith("NVIDIA H200, bfloat16")
    assert "it fits in 92%" in page
    assert "at $4.00 an hour" in page
    assert "answers of 400 tokens" in page
    assert "it fits with --" in said(capsys, "qwen2.5-3b-countdown-ppo", "--gpu", "h100")
    table = said(capsys, "qwen2.5-3b", "--algorithm", "prime", "--steps", "10")
    assert [line.split()[0] for line in table.splitlines()[1:]] == [*DEVICES, "cpu"]
    assert "it fits" in said(capsys, "--gpu", "cpu")
    assert "34.6%" in said(
        capsys, "--pretraining", "37e9", "14.8e12", "--gpu", "h800", "--hours", "2.664e6"
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("laptop --gpu h10", "did you mean h100"),
        ("laptop --length 0", "--length"),
        ("laptop --price -1", "--price"),
        ("nosuch", "unknown recipe"),
        ("laptop --profile 24gb", "this recipe has none"),
        ("qwen2.5-3b --gpu t4", "has no rate in bfloat16"),
        ("laptop --model.name Some/Model", "its shape is not known"),
        ("laptop --algorithm gpro", "did you mean"),
        ("laptop --rollout.promts 3", "promts"),
        ("laptop --hours 3", "--pretraining"),
        ("laptop --gpu h100 --calibrate", "--calibrate measures this CPU"),
        ("laptop --pretraining 1e9 1e12 --gpu h100", "takes no recipe"),
        ("--pretraining 1e9 1e12", "a --gpu"),
        ("--pretraining 1e9 0 --gpu h100", "above 0"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plan", *arguments.split()]) == 2
    error = capsys.readouterr().err
    assert error.startswith("tinyzero: error: ")
    assert error.count("\n") == 1
    assert says in error


# docs/cost.md

COST = Path(__file__).parent.parent / "docs" / "cost.md"


def filled(page: str, run: Callable[[str], str]) -> str:
    """The page with every block that starts with a command followed by what that prints."""
    return re.sub(
        r"```\n\$ tinyzero (.+)\n[^`]*```",
        lambda m: f"```\n$ tinyzero {m[1]}\n{run(m[1])}```",
        page,
    )


def test_the_page_on_cost_prints_what_its_commands_print(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(command: str) -> str:
        assert cli.main(command.split()) == 0
        return capsys.readouterr().out

    assert COST.read_text() == filled(COST.read_text(), run), "run python tests/test_plan.py"


if __name__ == "__main__":
    import contextlib
    import io

    def printed(command: str) -> str:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            cli.main(command.split())
        return out.getvalue()

    COST.write_text(filled(COST.read_text(), printed))
