"""Plans agree with published parameter counts, cases worked by hand, transformers and real runs."""

import importlib.util
import json
import re
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers

from tinyzero import cli, models
from tinyzero.algorithms import NAMES, Algorithm, load_algorithm
from tinyzero.batching import Batch
from tinyzero.config import Config, LoraSection, parse_overrides, read_recipe, resolve
from tinyzero.cost.devices import CPU, DEVICES, Device, described_device, device_named, find_device
from tinyzero.cost.shapes import SHAPES, find_shape, read_shape
from tinyzero.cost.simulator import (
    OTHERWISE,
    PER_ANSWER,
    USABLE,
    Load,
    Plan,
    make_plan,
    passes,
    prompt_tokens,
    remedies,
    step_flops,
    step_load,
    step_parts,
)
from tinyzero.errors import Interrupted, UserError
from tinyzero.learner import TorchLearner, policy_outputs
from tinyzero.models import lora
from tinyzero.run import records
from tinyzero.run.meter import Meter
from tinyzero.run.parts import Run
from tinyzero.tools.plan import measure
from tinyzero.tools.plan.page import describe
from tinyzero.tools.plan.prices import cost, price_of, rate, read_prices
from tinyzero.tools.plan.survey import fitting, planner_for, survey

QWEN3B = SHAPES["Qwen/Qwen2.5-3B"]
MIXTRAL = {
    "model_type": "mixtral",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14_336,
    "vocab_size": 32_000,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
}
QWEN3_30B = {
    "model_type": "qwen3_moe",
    "hidden_size": 2048,
    "num_hidden_layers": 48,
    "num_attention_heads": 32,
    "head_dim": 128,
    "num_key_value_heads": 4,
    "intermediate_size": 6144,
    "vocab_size": 151_936,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 768,
}


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
    ("name", "parameters"),  # from the model cards or the sizes of the safetensors files
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
    assert round(mixtral.parameters / 1e9, 1) == 46.7
    assert round(mixtral.active / 1e9, 1) == 12.7  # 12.9 with embeddings
    assert round(qwen.parameters / 1e9, 1) == 30.5
    assert round(qwen.active / 1e9, 1) == 3.0  # 3.3 with embeddings
    assert round((qwen.active + qwen.vocabulary * qwen.width) / 1e9, 1) == 3.4


def test_a_decode_step_reads_the_experts_that_some_row_goes_through() -> None:
    """Each token uses 2 of Mixtral's 8 experts per layer. Two tokens use 3.5, and many nearly 8."""
    mixtral, expert = read_shape(MIXTRAL, "mixtral"), 32 * 3 * 4096 * 14_336
    assert mixtral.read(1) == mixtral.active
    assert mixtral.read(2) == pytest.approx(mixtral.active + 1.5 * expert)
    assert mixtral.read(64) == pytest.approx(mixtral.active + 6 * expert)
    assert QWEN3B.read(64) == QWEN3B.active


def test_decoding_experts_by_hand() -> None:
    """With 128 rows, and memory alone: each step reads all 46.6e9 weights of Mixtral's products."""
    ideal = replace(
        DEVICES["h200"], decode=1.0, bandwidth=1e12, rates={"bfloat16": 1e20}, launch=0.0, step=0.0
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
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 50,
    "tie_word_embeddings": False,
}
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


# a warning of peft about its own experts
@pytest.mark.filterwarnings("ignore:The following .*_pattern keys:RuntimeWarning")
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
        "qwen2",
        hidden_size=256,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=2,
        intermediate_size=1024,
        vocab_size=50,
        tie_word_embeddings=True,
    )
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
    with pytest.raises(UserError, match=r"'gpt2'.*use one of llama"):
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
    for gpu in ("t4", "v100"):
        with pytest.raises(UserError, match=r"Tesla .*bfloat16.*--model.dtype float32$"):
            planned("qwen2.5-0.5b", gpu=gpu)
    assert "float8" not in DEVICES["a100"].rates


@pytest.mark.parametrize(
    ("text", "name"),
    [
        *((name, name) for name in DEVICES),
        *((DEVICES[name].name, name) for name in ("h200", "l40s", "4090", "a6000", "t4", "mi300x")),
        ("RTX-4090", "4090"),
        ("rtx4090", "4090"),
        ("GeForce RTX 5090", "5090"),
        ("a100-80gb", "a100"),
        ("H100 SXM", "h100"),
        ("RTX A6000", "a6000"),
        ("CPU", "cpu"),
    ],
)
def test_a_card_is_understood_as_people_write_it(text: str, name: str) -> None:
    assert find_device(text) == name


@pytest.mark.parametrize("text", ["h10", "", "rtx", "4090ti", "6000"])
def test_an_unknown_card_is_not_guessed(text: str) -> None:
    with pytest.raises(UserError, match="--gpu-memory"):
        find_device(text)


def test_rates_are_dense_and_in_order() -> None:
    """fp8 is twice as fast as bf16 where it exists, fp32 slower, and every price is a range."""
    for name, device in DEVICES.items():
        half = device.rates["float16"]
        assert device.rates.get("bfloat16", half) == half
        assert device.rates.get("float8", 2 * half) == pytest.approx(2 * half, rel=0.02)
        assert device.rates["float32"] <= half, name
        assert device.price is None or 0 < device.price[0] < device.price[1] < 10


def test_a_card_by_its_numbers_is_the_one_in_the_table() -> None:
    own, known = described_device(24, 936, 71.2), DEVICES["3090"]
    assert own.memory == known.memory
    assert own.bandwidth == known.bandwidth
    assert own.rate("bfloat16") == known.rate("bfloat16")


def test_two_threads_are_a_third_faster_than_one() -> None:
    two = CPU.with_threads(2)
    assert two.rate("float32") == pytest.approx(4 / 3 * CPU.rate("float32"))
    assert two.decoding == pytest.approx(0.75 * CPU.decoding)
    assert two.launch == CPU.launch
    assert CPU.with_threads(1) == CPU


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
    """FLOPs of a step in units of N T. One answer per prompt makes sampling cost 2."""
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
        # 2, old 2, PRM 2 + 6, reference 2, policy 6
        (["--algorithm=prime", "--algorithm.filter=none"], 20),
        (["--algorithm=prime"], 11),  # for half of the groups
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
    ):  # 18 bytes per weight: 16 with gradients in bf16, but here they are summed in fp32
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
    """Bytes of all models of a plan."""
    return sum(sum(parts.values()) for parts in plan.models.values())


def test_slots_stay_on_a_gpu_and_a_cpus_cache_does_not() -> None:
    """128 rows of 140 + 1,024 tokens at 36,864 bytes; 256 answers per step, in one case 64."""
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
    # an evaluation asks 1,024 problems, so all of rollout.rows are in use
    assert original(*few).slots == 256 * 1164 * token
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
        tokens=torch.ones(rows, columns, dtype=torch.long),
        mask=flat == 0,
        sampled_logprobs=flat,
        rewards=torch.zeros(rows),
        groups=torch.arange(rows) // 2,
        lengths=torch.full((rows,), columns),
        limits=torch.full((rows,), columns - 1),
        right=torch.arange(rows) % 2 == 0,
        graded=torch.zeros(rows, dtype=torch.bool),
    )


def test_times_by_hand() -> None:
    large = "--update.micro_tokens=16384"  # so that the host keeps up
    parts = original(large).step
    forward = sum(part.seconds for name, part in parts.items() if name.startswith("score"))
    learn = sum(part.seconds for name, part in parts.items() if name.startswith("learn"))
    assert forward == pytest.approx(5.3, rel=0.02)  # 3 x 2 N T at 40 % of 989 TFLOP/s
    assert learn == pytest.approx(11.5, rel=0.02)  # 12 N T at 37 %

    # 1,024 passes: 6.2 GB of weights at 60 % of 3.35 TB/s, 36 layers of 53 us, and 0.5 ms
    weights, cache = 1024 * 6.17e9 / 2.01e12, 256 * 300 * 290 * 36_864 / 2.01e12
    launches = 1024 * (36 * 53e-6 + 5e-4)
    assert parts["decode"].seconds == pytest.approx(weights + cache + launches, rel=0.01)

    eager = (
        original(large, device=replace(DEVICES["h100"], launch=20e-3 / 36)).step["decode"].seconds
    )
    assert eager == pytest.approx(25, rel=0.05)
    seconds = sum(part.seconds for part in parts.values())
    assert 1_200 < 36_000 / (1.2 * seconds) < 1_400  # steps in ten hours with CUDA graphs
    assert 650 < 36_000 / (1.2 * (seconds - parts["decode"].seconds + eager)) < 800  # without


def test_a_small_model_on_a_gpu_waits_for_the_host() -> None:
    """The laptop's model makes 512 passes of 4 layers; 256 x 154 tokens in batches of 2,048."""
    plan = planned("laptop", length=154)
    assert plan.step["decode"].seconds == pytest.approx(512 * (4 * 53e-6 + 5e-4), rel=0.01)
    tokens = 256 * 154 + 16 * plan.load.prompt
    micro_batches = -(-tokens // 2048)
    assert plan.step["learn policy"].seconds == pytest.approx(3 * micro_batches * 4 * 5e-4)
    assert plan.step["grade"].seconds == 256 * PER_ANSWER
    assert plan.seconds > 20 * plan.step["learn policy"].flops / DEVICES["h100"].rate("float32")


def test_decoding_lasts_until_the_longest_answer() -> None:
    """One of 256 answers has 512 tokens, and the others 50. That one row decides."""
    for gpu in ("h100", "cpu"):
        short, long = planned("laptop", gpu=gpu, length=50), planned("laptop", gpu=gpu, length=51)
        assert long.step["decode"].seconds < 1.02 * short.step["decode"].seconds
    cut = planned("laptop", "--rollout.max_tokens=100", length=50).step["decode"].seconds
    whole = planned("laptop", length=50).step["decode"].seconds
    assert cut == pytest.approx(whole * 100 / 512, rel=0.02)


def test_a_cpu_decodes_batch_after_batch_and_a_gpu_refills() -> None:
    """256 answers of 64 tokens in 128 rows take two batches of 512 passes, or 128 + 448 passes."""
    few = ["--rollout.rows=128"]
    still: dict[str, Any] = {"rates": {"float32": 1e30}, "bandwidth": 1e30, "decoding": 0.0}
    config = resolve(read_recipe("laptop"), parse_overrides(few))
    cpu, gpu = (
        plan_of(config, replace(device, **still, launch=1.0, step=0.0), length=64)
        for device in (CPU, DEVICES["h100"])
    )
    assert cpu.step["decode"].seconds == pytest.approx(4 * 2 * 512)
    assert gpu.step["decode"].seconds == pytest.approx(4 * (128 + 448))


@pytest.mark.parametrize(("rows", "rate"), [(1, 542), (64, 31_000), (256, 96_000), (1024, 200_000)])
def test_decoding_ceilings_by_hand(rows: int, rate: float) -> None:
    """Tokens per second at a context of 290 tokens if only the bandwidth were limited."""
    ideal = replace(DEVICES["h100"], decode=1.0, rates={"bfloat16": 1e20}, launch=0.0, step=0.0)
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
    # dev three times, test twice, each also greedy; prompts are read once
    sampled = 2 * (3 * 10 + 2 * 20) * 440
    read_twice = (3 * 10 + 2 * 20) * 140
    assert plan.evaluations.flops == pytest.approx(
        QWEN3B.forward(sampled - read_twice, 440), rel=0.01
    )


# What a step computes, compared with the algorithms themselves


class Counted:
    """A learner that counts its calls."""

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
    none = ["--steps=500", "--eval.every=0", "--eval.test_problems=0"]
    plan = original(*none)
    page = describe(plan, price=(2.5, 2.5))
    assert "does not fit in the usable 78.7 GB of 85.5 GB" in page
    assert ", sampler auto (planned as torch)\n" in page
    assert ", sampler vllm\n" in describe(original("--sampler=vllm"))
    assert re.search(
        r"\n  slots +11\.0 GB  cache 11\.0 GB\n  sampling +933 MB  logits 933 MB\n", page
    )
    assert "256 answers of 300 tokens on average, up to 1024, to 256 prompts of 140 tokens" in page
    assert f"${500 * plan.seconds / 3600 * 2.5:.1f} at $2.5 per hour" in page
    assert re.search(r"learn policy +5\.\d+ s  2,1\d\d TFLOP\n", page)
    assert "TFLOP computed again" in describe(original("--model.checkpointing=true"))
    assert "$" not in describe(original())


def test_a_small_margin_is_called_tight() -> None:
    plan = original()
    roomy = replace(plan, device=replace(plan.device, memory=plan.peak / USABLE / 0.9))
    tight = replace(plan, device=replace(plan.device, memory=plan.peak / USABLE / 0.97))
    assert roomy.margin == pytest.approx(0.1)
    assert "  fits, 10% of the usable" in describe(roomy)
    assert "  fits, but tight: 3% of the usable" in describe(tight)


PROFILES = ("141gb", "80gb", "48gb", "24gb")


def candidates(recipe: str) -> dict[str, Config]:
    table = read_recipe(recipe)
    return {"": resolve(table, {})} | {name: resolve(table, {}, name) for name in PROFILES}


def rows_of(table: str) -> dict[str, list[list[str]]]:
    """The cells of a table by device, without its heading."""
    rows: dict[str, list[list[str]]] = {}
    for line in table.splitlines()[1:]:
        name, *cells = re.split(r"  +", line)
        rows.setdefault(name, []).append(cells)
    return rows


def test_a_table_lists_every_profile_that_fits() -> None:
    devices = {name: DEVICES[name] for name in ("h200", "h100", "l40s", "4090")}
    table = survey(candidates("qwen2.5-3b-countdown-grpo"), devices, planner_for(None), {})
    rows = rows_of(table)
    assert {row[0] for row in rows["h200"]} == {"-", *PROFILES}
    assert {row[0] for row in rows["h100"]} == {"-", "80gb", "48gb", "24gb"}
    assert [row[:2] for row in rows["l40s"]] == [["48gb", "full"], ["24gb", "LoRA"]]
    assert [row[:2] for row in rows["4090"]] == [["48gb", "full"], ["24gb", "LoRA"]]
    assert rows["4090"][0][2:5] == ["23.3/26", "2% tight", "640"]
    assert max(map(len, table.splitlines())) <= 100


def test_algorithms_compare_at_equal_samples() -> None:
    """A GRPO step has 640 answers and a PPO step 256: per answer, the critic makes PPO slower."""
    device = DEVICES["h200"]
    per_answer = {}
    for algorithm in ("grpo", "ppo"):
        (best, *_) = fitting(
            candidates(f"qwen2.5-3b-countdown-{algorithm}"), device, planner_for(None)
        )
        plan = best.plan
        per_answer[algorithm] = plan.seconds / plan.load.answers
        row = rows_of(
            survey(
                {"": candidates(f"qwen2.5-3b-countdown-{algorithm}")[""]},
                {"h200": device},
                planner_for(None),
                {},
            )
        )["h200"][0]
        assert row[4] == str(plan.load.answers)
    assert per_answer["ppo"] > 1.3 * per_answer["grpo"]


def test_a_card_without_bfloat16_gets_what_it_can_run() -> None:
    devices = {"t4": DEVICES["t4"], "v100": DEVICES["v100"], "3060": DEVICES["3060"]}
    planner = planner_for(None)
    small = survey(candidates("qwen2.5-0.5b"), {"t4": DEVICES["t4"]}, planner, {})
    assert "t4: not possible in bfloat16, which the hardware lacks; --model.dtype float32" in small
    large = " ".join(survey(candidates("qwen2.5-3b"), devices, planner, {}).split())
    assert "t4: not possible in bfloat16, which the hardware lacks, and too small" in large
    assert (
        "v100: not possible in bfloat16, which the hardware lacks; --model.dtype float32" in large
    )
    assert re.search(r"3060: not possible, it needs 16\.0 GB and 11\.9 GB are usable; qwen", large)
    (name, profile) = re.search(r"small in float32; (\S+) --profile (\S+)", large).groups()  # type: ignore[union-attr]
    config = resolve(read_recipe(name), {"model.dtype": "float32"}, profile)
    assert planner(config, DEVICES["t4"]).fits


def test_prices_are_given_for_every_card_or_some() -> None:
    assert read_prices("2.5") == {"": 2.5}
    given = read_prices("h100=2.1,RTX4090=0.4")
    assert given == {"h100": 2.1, "4090": 0.4}
    assert price_of("h100", DEVICES["h100"], given) == (2.1, 2.1)
    assert price_of("h200", DEVICES["h200"], given) == DEVICES["h200"].price
    assert price_of("h200", DEVICES["h200"], {"": 3.0}) == (3.0, 3.0)
    assert price_of("cpu", CPU, {}) is None
    assert price_of("h100", DEVICES["h100"], {"": 0.0}) is None
    assert (rate((2.4, 4.3)), rate((2.1, 2.1)), rate(None)) == ("2.4-4.3", "2.1", "-")
    assert cost((2.0, 4.0), 10) == "20-40"
    assert cost((2.0, 4.0), 0.5) == "1.0-2.0"
    assert cost((0.2, 0.4), 0.1) == "< 0.1"


# A CPU


RESULTS = Path(__file__).parent.parent / "ablations" / "results"
RECORDED = [
    ("laptop-countdown-grpo", "algorithms.json", "grpo"),
    ("laptop-countdown-prime", "algorithms.json", "prime"),
    ("laptop-countdown-ppo", "algorithms.json", "ppo"),
    ("multiplication", "multiplication.json", "grpo"),
]


@pytest.mark.parametrize(("recipe", "file", "choice"), RECORDED)
def test_a_plan_is_within_a_factor_of_two_of_recorded_runs(
    recipe: str, file: str, choice: str
) -> None:
    """Whole runs on one thread, in CPU minutes, planned with only the recipe's assumptions."""
    recorded = json.loads((RESULTS / file).read_text())["results"][choice]["mean"]["CPU minutes"]
    plan = planned(recipe, "--model.threads=1", gpu="cpu")
    assert 0.5 < 60 * plan.hours / recorded < 2


def test_a_cpu_lays_the_weights_out_for_every_step() -> None:
    """If computing costs nothing, 512 passes each read 767,104 fp32 numbers at 1 GB/s."""
    machine = replace(CPU, bandwidth=1e9, rates={"float32": 1e30}, launch=0.0, decoding=0.0)
    config = resolve(read_recipe("laptop"), {})
    algorithm = load_algorithm(config.algorithm.name, config.algorithm.options)
    decode = make_plan(config, algorithm, find_shape("tiny"), machine, prompt=14).step["decode"]
    assert decode.seconds == pytest.approx(512 * 4 * 767_104 / 1e9)


# Measured


def test_a_correction_is_measured_over_planned() -> None:
    """After a slow first step, sampling takes twice as long as planned, learning three times."""
    config = resolve(read_recipe("laptop-countdown-ppo"), {"model.threads": 1})
    algorithm, shape = load_algorithm("ppo", config.algorithm.options), find_shape("tiny")
    steps = []
    for length in (20, 30, 40):
        load = Load(16, 16, 14.0, length, longest=3 * length)
        parts = step_parts(config, algorithm, shape, CPU, load)
        sampling = OTHERWISE * sum(parts[name].seconds for name in ("prefill", "decode", "grade"))
        whole = OTHERWISE * sum(part.seconds for part in parts.values())
        seconds = (2 * sampling, 3 * (whole - sampling))
        steps.append(measure.Step(load, *seconds, cpu=sum(seconds) / 2))
    steps[0] = steps[0]._replace(sampling=1000.0)

    correction = measure.compare(steps, config, algorithm, shape, CPU)
    assert correction.sampling == pytest.approx(2)
    assert correction.learning == pytest.approx(3)
    assert correction.lengths == (30, 40)
    assert correction.share == pytest.approx(0.5)
    assert correction.busy

    plan = plan_of(config, CPU, length=100)
    better = measure.corrected(plan, correction)
    assert better.step["decode"].seconds == pytest.approx(2 * plan.step["decode"].seconds)
    assert better.step["learn critic"].seconds == pytest.approx(
        3 * plan.step["learn critic"].seconds
    )
    assert better.evaluations.seconds == pytest.approx(2 * plan.evaluations.seconds)
    page = " ".join(describe(better, None, correction).split())
    assert "measured here: 2 steps after one to warm up, with answers of 30 to 40 tokens" in page
    assert "sampling at 2.00 and learning at 3.00 times the plan" in page
    assert "had a processor for 50% of the time" in page


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("algorithm", ["grpo", "prime"])
def test_real_steps_are_measured_as_they_were(algorithm: str, base: Path) -> None:
    options = {k: v for k, v in OPTIONS.items() if "kl" not in k and "rollouts_every" not in k}
    config = resolve(
        read_recipe("laptop"), options | {"algorithm.name": algorithm, "model.name": str(base)}
    )
    steps = measure.measured_steps(config, load_algorithm(algorithm, config.algorithm.options))
    assert len(steps) == measure.STEPS
    for step in steps:
        assert step.load.prompts == 2
        assert step.load.samples == 2
        assert 0 < step.load.length <= step.load.longest <= 8
        assert step.sampling > 0
        assert step.learning > 0


def test_ctrl_c_keeps_what_was_measured_and_a_second_one_stops(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = resolve(read_recipe("laptop"), OPTIONS | {"model.name": str(base)})
    algorithm = load_algorithm("grpo", config.algorithm.options)
    take_step, folders = measure.take_step, list[Path]()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def stopped(run: Run, algorithm: Algorithm, step: int) -> measure.Step:
        folders.append(run.folder)
        if step == 1:
            signal.raise_signal(signal.SIGINT)
        return take_step(run, algorithm, step)

    def killed(run: Run, algorithm: Algorithm, step: int) -> measure.Step:
        if step == 1:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return take_step(run, algorithm, step)

    monkeypatch.setattr(measure, "take_step", stopped)
    assert len(measure.measured_steps(config, algorithm)) == 2
    monkeypatch.setattr(measure, "take_step", killed)
    with pytest.raises(Interrupted):
        measure.measured_steps(config, algorithm)
    assert folders[0].is_relative_to(tmp_path)
    assert not list(tmp_path.iterdir()), "nothing is left behind"


# During a run


@pytest.fixture
def one_thread() -> Iterator[None]:
    yield
    torch.set_num_threads(1)


OPTIONS = {
    "steps": 2,
    "rollout.prompts": 2,
    "rollout.samples": 2,
    "rollout.max_tokens": 8,
    "rollout.refills": 0,
    "eval.every": 0,
    "eval.test_problems": 0,
    "eval.max_tokens": 0,
    "task.max_number": 20,
    "model.threads": 1,
    "algorithm.kl": 0.1,
    "checkpoint.every": 1,
    "run.rollouts_every": 1,
}


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
        # Each prompt is computed once for two answers. Sampling is one pass, as is scoring by the
        # reference, and learning counts as three passes.
        tokens = 5 * (prompts / 2 + written)
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
    assert f"cost ${steps[0]['time/dollars']:.2f} of $" in said
    assert f"{steps[-1]['flops']:.2e} FLOP, ${steps[-1]['time/dollars']:.2f}" in said
    assert cli.main(["train", "--resume", str(run), "--steps=3", "--run.price=0"]) == 0
    *_, last = records.read(run / "metrics.jsonl")
    assert last["flops"] > steps[-1]["flops"]
    assert "time/dollars" not in last
    assert "$" not in capsys.readouterr().out


def test_a_gpu_is_metered_by_its_whole_name() -> None:
    config = resolve(read_recipe("qwen2.5-3b"), {"run.price": 2.5})
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
    assert "  fits, 7% of the usable" in page
    assert "at $4 per hour" in page
    assert "answers of 400 tokens" in page
    assert "this plan fits with --" in said(capsys, "qwen2.5-3b-countdown-ppo", "--gpu", "h100")
    table = said(capsys, "qwen2.5-3b", "--algorithm", "prime", "--steps", "10")
    assert {re.split("  |:", line)[0] for line in table.splitlines()[1:]} >= {*DEVICES, "cpu"}
    two = said(capsys, "laptop", "--gpu", "rtx-4090,h100", "--price", "h100=2.1")
    rows = {line.split()[0]: line for line in two.splitlines() if line}
    assert rows["h100"].split()[-3] == "2.1"
    assert "0.3-0.6" in rows["4090"]


def test_the_device_that_the_recipe_names_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    cpu, gpu = (said(capsys, "laptop", "--gpu", name) for name in ("cpu", "4090"))
    assert cpu.startswith("one core of a server's CPU, 2 threads, float32")
    assert "add --model.device cuda" in gpu
    assert "add --model.device" not in cpu
    table = said(capsys, "laptop", "--model.threads", "1")
    assert table.splitlines()[1].startswith("cpu, 1 thread ")


def test_a_card_that_is_described(capsys: pytest.CaptureFixture[str]) -> None:
    numbers = ["--gpu-memory=24", "--gpu-bandwidth=936", "--gpu-tflops=71.2"]
    own, known = (
        said(capsys, "qwen2.5-3b", "--profile", "24gb", *device)
        for device in (numbers, ["--gpu", "3090", "--price", "0"])
    )
    assert own.splitlines()[1:] == known.splitlines()[1:]


@pytest.mark.usefixtures("one_thread")
def test_a_measured_plan(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [f"--{key}={value}" for key, value in (OPTIONS | {"model.name": base}).items()]
    page = said(capsys, "laptop", "--measure", *options)
    assert "step 5/5" in page
    assert "this machine's CPU, 1 thread, float32" in page
    assert "measured here: 4 steps after one to warm up" in page


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("laptop --gpu h10", "did you mean h100"),
        ("laptop --gpu h100,h10", "did you mean h100"),
        ("laptop --length 0", "--length"),
        ("laptop --price -1", "--price"),
        ("laptop --price h100=", "--price"),
        ("laptop --price h10=2", "did you mean h100"),
        ("nosuch", "unknown recipe"),
        ("laptop --profile 24gb", "this recipe has none"),
        ("qwen2.5-3b --gpu t4", "not possible in bfloat16"),
        ("qwen2.5-3b --model.name Some/Model", "its shape is not known"),
        ("laptop --algorithm gpro", "did you mean"),
        ("laptop --rollout.promts 3", "promts"),
        ("laptop --gpu h100 --measure", "leave out --gpu"),
        ("laptop --gpu-memory 24", "give all of"),
        ("laptop --gpu h100 --gpu-memory 24 --gpu-bandwidth 1 --gpu-tflops 1", "leave out --gpu"),
        ("laptop --measure --gpu-memory 24 --gpu-bandwidth 1 --gpu-tflops 1", "runs on the CPU"),
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


# docs/cost.md and the example it quotes

ROOT = Path(__file__).parent.parent
COST = ROOT / "docs" / "cost.md"


def pretraining_example() -> Any:
    path = ROOT / "examples" / "pretraining_cost.py"
    spec = importlib.util.spec_from_file_location("pretraining_cost", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_command(command: str) -> None:
    """Run a command of the page, which prints its output."""
    if command == "python examples/pretraining_cost.py":
        pretraining_example().main()
    else:
        assert cli.main(command.removeprefix("tinyzero ").split()) == 0


def filled(page: str, run: Callable[[str], str]) -> str:
    """The page with the output of its commands filled in, after each command."""
    return re.sub(
        r"```\n\$ (.+)\n[^`]*```",
        lambda match: f"```\n$ {match[1]}\n{run(match[1])}```",
        page,
    )


def test_the_published_cost_of_deepseek_v3(capsys: pytest.CaptureFixture[str]) -> None:
    example = pretraining_example()
    example.main()
    page = capsys.readouterr().out
    assert "3.29e+24 FLOP" in page  # 6 x 37e9 x 14.8e12
    assert "34.6% of bfloat16 or 17.3% of float8 rates" in page
    assert "$5.33 million" in page
    assert example.hours(37e9, 14.8e12, 989.4e12, 0.4) == pytest.approx(2_306_111, rel=1e-6)


def test_the_page_on_cost_prints_what_its_commands_print(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(command: str) -> str:
        run_command(command)
        return capsys.readouterr().out

    assert COST.read_text() == filled(COST.read_text(), run), "run python tests/test_plan.py"


if __name__ == "__main__":
    import contextlib
    import io

    def printed(command: str) -> str:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            run_command(command)
        return out.getvalue()

    COST.write_text(filled(COST.read_text(), printed))
