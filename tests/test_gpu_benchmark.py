"""benchmarks/gpu.py: its bounds agree with sums by hand, and it records a toy's cases."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import benchmark

from tinyzero.cost.shapes import SHAPES, Shape


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The script as a module that writes into a folder of the test."""
    module = benchmark("gpu", monkeypatch, tmp_path)
    monkeypatch.setattr(module, "ceilings", lambda given: {"bandwidth": 1e9, "rate": 1e12})
    return module


def run(gpu: Any, part: str, *more: str) -> dict[str, Any]:
    given = gpu.parse(["--part", part, "--device", "cpu", "--rounds", "1", *more])
    gpu.measure(given)
    return dict(json.loads((gpu.common.RESULTS / f"gpu_toy_{part}.json").read_text())["results"])


TOY = Shape(layers=1, width=2, heads=1, kv_heads=1, head=2, feed_forward=3, vocabulary=5, tied=True)
"""34 parameters in the layer's matrices, 10 in the head; 8 bytes of cache a token in bf16."""


def test_the_shapes_are_the_published_ones(gpu: Any) -> None:
    for name, hub in (
        ("3b", "Qwen/Qwen2.5-3B"),
        ("1.5b", "Qwen/Qwen2.5-1.5B"),
        ("0.5b", "Qwen/Qwen2.5-0.5B"),
    ):
        assert gpu.read_shape(gpu.SHAPES[name], name) == SHAPES[hub]


def test_a_model_is_built_in_bf16_and_its_rotary_frequencies_are_not_rounded(gpu: Any) -> None:
    model = gpu.build("toy", "cpu")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model.core.rotary_emb.inv_freq.dtype == torch.float32
    assert torch.allclose(
        model.core.rotary_emb.inv_freq, 1e6 ** -(torch.arange(0, 16, 2) / 16), rtol=1e-5
    )


def test_building_a_model_is_no_part_of_its_peak(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    create, cpu = gpu.AutoModelForCausalLM.from_config, torch.device("cpu")
    monkeypatch.setattr(torch, "device", lambda name: cpu)
    monkeypatch.setattr(
        gpu.AutoModelForCausalLM,
        "from_config",
        lambda *a, **k: made.append("built") or create(*a, **k),
    )
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: made.append("forgotten"))
    gpu.build("toy", "cuda")
    assert made == ["built", "forgotten"]


@pytest.mark.parametrize(
    ("gigabytes", "profile"),
    [(150.8, "141gb"), (85.5, "80gb"), (102.6, "80gb"), (48.3, "48gb"), (25.8, "48gb")],
)
def test_a_card_has_the_profile_of_its_memory(gpu: Any, gigabytes: float, profile: str) -> None:
    assert gpu.profile_of(gigabytes * 1e9) == profile


def test_a_step_has_its_recipes_settings(gpu: Any) -> None:
    given = gpu.parse(["--part", "step", "--device", "cpu", "--models", "3b", "--profile", "80gb"])
    grpo, ppo = gpu.recipe_of(given, "3b", "grpo"), gpu.recipe_of(given, "3b", "ppo")
    for recipe in (grpo, ppo):
        assert (recipe.model.name, recipe.model.checkpointing, recipe.rollout.rows) == (
            "Qwen/Qwen2.5-3B",
            True,
            192,
        )
    assert (grpo.optimizer.offload, ppo.critic.offload, ppo.model.park) == (False, True, True)


def test_the_bandwidth_bound_by_hand(gpu: Any) -> None:
    """A 3B model at batch 256, 140 + 512 tokens and 4.8 TB/s.

    Contexts have 141 to 651 tokens, 396 on average. Each step reads 6.171 GB of weights and
    256 * 396 * 36,864 B = 3.737 GB of cache in 2.064 ms, so 124,000 tokens per second.
    """
    assert gpu.decode_bound(SHAPES["Qwen/Qwen2.5-3B"], 256, 140, 512, 4.8e12) == pytest.approx(
        124_000, rel=2e-3
    )
    # two steps that read the weights, and contexts of 5 and 6 tokens of both rows
    assert gpu.decode_bound(TOY, 2, 4, 3, 100.0) == pytest.approx(
        2 * 2 / ((2 * 44 * 2 + 2 * 8 * 11) / 100)
    )


def test_the_bound_of_large_batches_is_the_rate(gpu: Any) -> None:
    """Each step reads 88 B of weights for 2 * 88 FLOPs, and a context token 8 B for 8 FLOPs.

    The two rows have contexts of 5 and 6 tokens, so 176 B and FLOPs of the cache in total.
    """
    assert gpu.decode_bound(TOY, 2, 4, 3, 1e9, 100.0) == pytest.approx(4 / (3.52 + 1.76))
    # With 100 B and 150 FLOPs per second, the weights are bound by them and the cache by its bytes.
    assert gpu.decode_bound(TOY, 2, 4, 3, 100.0, 150.0) == pytest.approx(4 / (352 / 150 + 1.76))
    # 3B at 3.35 TB/s and 650 TFLOP/s: nothing can reach 60 % of the bandwidth bound at 512 rows.
    shape = SHAPES["Qwen/Qwen2.5-3B"]
    for rows, share in ((192, 1.0), (512, 0.57)):
        by_bandwidth = gpu.decode_bound(shape, rows, 140, 512, 3.35e12)
        bound = gpu.decode_bound(shape, rows, 140, 512, 3.35e12, 650e12)
        assert bound / by_bandwidth == pytest.approx(share, abs=0.01)


def test_a_fallback_is_not_published(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A case that decoded without graphs or flash attention is an error instead of a figure."""
    states = {"sampler/graphs": 1.0, "sampler/attention": 0.0}
    monkeypatch.setattr(gpu.TorchSampler, "metrics", lambda _: states)
    case = run(gpu, "decode", "--engines", "ours", "--batches", "4")["toy/4/ours"]
    assert case == {"error": "RuntimeError: not in use: sampler/attention; []"}
    states["sampler/attention"] = 1.0
    case = run(gpu, "decode", "--engines", "ours", "--batches", "4")["toy/4/ours"]
    assert case["tokens"] == 48


def test_ours_comes_first_and_the_recipes_batch_too(
    gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    given = gpu.parse(["--part", "decode", "--device", "cuda", "--profile", "80gb"])
    keys = [key for key, _ in gpu.decode_cases(given)]
    assert keys[:3] == ["3b/192/ours", "1.5b/192/ours", "0.5b/192/ours"]
    assert all(key.endswith("ours") for key in keys[: len(keys) // 4])
    assert given.batches[0] == gpu.recipe_of(given, "3b", "grpo").rollout.rows


def test_the_detail_of_decoding(gpu: Any, capsys: pytest.CaptureFixture[str]) -> None:
    case = run(gpu, "detail", "--batches", "4")["toy/4"]
    assert case["prefill tokens/s"] > 0
    assert case["gap"] < 0.01
    assert case["captures"] == {}, "a CPU has no graphs"
    assert len(case["kernels"]) == 25
    times = [spent for _, spent in case["kernels"]]
    assert times == sorted(times, reverse=True)
    assert f"| `{case['kernels'][0][0][:70]}` |" in capsys.readouterr().out


def test_without_git_the_commit_is_unknown(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert gpu.common._commit() == "unknown"


def test_the_division_of_the_cache_is_robust(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The layout in use is among those compared, and 50 equal rows take steps that add up."""
    simulation = benchmark("rooms", monkeypatch, tmp_path)
    rooms = simulation.rooms
    chosen = rooms.layout_for(640, 192, simulation.PROMPT, simulation.LIMIT)
    assert chosen in simulation.layouts().values()
    assert len({layout.tokens // 1000 for layout in simulation.layouts().values()}) <= 2

    steps = (simulation.step_seconds(50, 50 * (simulation.PROMPT + t)) for t in range(7))
    rate = simulation.tokens_per_second([7] * 50, rooms.Layout(50, 1216))
    assert rate == pytest.approx(50 * 7 / sum(steps))
    # With one long room, 3 rows that outgrow short ones need it one after the other.
    monkeypatch.setattr(simulation, "step_seconds", lambda rows, tokens: 1.0)
    layout = rooms.Layout(1, 1216, 3, simulation.PROMPT + 4)
    assert simulation.tokens_per_second([10] * 4, layout) == pytest.approx(40 / 28)


def test_lengths_have_the_planned_mean(gpu: Any) -> None:
    assert sum(gpu.LENGTHS) / len(gpu.LENGTHS) == pytest.approx(0.3)
    given = gpu.parse(["--part", "step", "--device", "cpu"])
    lengths = gpu.lengths_of(given, "grpo lengths", 640, 1024)
    assert float(lengths.float().mean()) == pytest.approx(307, abs=1)
    assert gpu.lengths_of(given, "grpo", 3, 1024).tolist() == [8, 8, 8]


def test_text_of_random_tokens_has_no_stop_string(gpu: Any) -> None:
    given = gpu.parse(["--part", "step", "--device", "cpu"])
    decode = gpu.text_decoder(given)
    text = decode(torch.randint(0, 151_936, (2000,)).tolist())
    assert len(text) > 1000
    assert gpu.STOP not in text


def test_the_updates_flops_by_hand(gpu: Any) -> None:
    # 3 rows of 2 + 2 tokens: 12 go through the layer and 6 through the head. Each row has 10 pairs,
    # each of 4 * 2 FLOPs.
    assert gpu.update_flops(TOY, 3, 2, 2) == 3 * (2 * (12 * 34 + 6 * 10) + 8 * 30)
    # 3B, 256 x 650: 6 N T is 2.770e15 for the body and 0.244e15 for the head's 510 tokens;
    # attention takes 0.048e15.
    assert gpu.update_flops(SHAPES["Qwen/Qwen2.5-3B"], 256, 140, 510) == pytest.approx(
        3.063e15, rel=2e-3
    )


def test_the_projection_by_hand(gpu: Any) -> None:
    assert gpu.cost(20.0) == pytest.approx(475 * 20 / 3600 * 2.5)
    assert gpu.projection("3b", 20.0) == (
        "PROJECTION, not a run: 475 such GRPO steps of 3b take 2.6 hours, $6.60 at $2.50 per hour."
    )


def test_decode_counts_its_tokens_and_resumes(gpu: Any, capsys: pytest.CaptureFixture[str]) -> None:
    found = run(gpu, "decode", "--engines", "ours", "generate", "--batches", "4", "--minutes", "0")
    assert set(found) == {"ceilings"}, "no case starts without time left"
    assert "2 cases are left: run it again" in capsys.readouterr().out
    found = run(gpu, "decode", "--engines", "ours", "generate", "--batches", "4")
    for engine in ("ours", "generate"):
        case = found[f"toy/4/{engine}"]
        assert case["tokens"] == 4 * 12
        assert case["tokens/s"] == pytest.approx(48 / min(case["seconds"]))
    again = run(gpu, "decode", "--engines", "ours", "generate", "--batches", "4", "6")
    assert {key: again[key] for key in found} == found, "what was measured stays"
    assert "toy/6/ours" in again
    table = capsys.readouterr().out
    bound = gpu.decode_bound(gpu.read_shape(gpu.SHAPES["toy"], "toy"), 4, 10, 12, 1e9)
    assert f"| toy | 4 | {found['toy/4/ours']['tokens/s']:,.0f} |" in table
    assert f"| {bound:,.0f} | {found['toy/4/ours']['tokens/s'] / bound:.0%} |" in table
    other = run(gpu, "decode", "--engines", "ours", "--batches", "4", "--micro-tokens", "99")
    assert "toy/6/ours" not in other, "other settings start again"


def test_what_goes_wrong_is_written_down_and_tried_again(
    gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = lambda *_: {}["a figure"]  # noqa: E731
    monkeypatch.setattr(gpu, "their_engine", broken)
    found = run(gpu, "decode", "--engines", "generate", "ours", "--batches", "4")
    assert found["toy/4/generate"] == {"error": "KeyError: 'a figure'"}
    assert found["toy/4/ours"]["tokens"] == 48
    monkeypatch.setattr(gpu, "their_engine", lambda *_: lambda prompts, new: 4 * new)
    assert (
        run(gpu, "decode", "--engines", "generate", "ours", "--batches", "4")["toy/4/generate"][
            "tokens"
        ]
        == 48
    )


def test_the_update_counts_its_tokens(gpu: Any) -> None:
    found = run(gpu, "update")
    for kind in ("kept", "again"):
        case, flops = (
            found[f"toy/{kind}"],
            gpu.update_flops(gpu.read_shape(gpu.SHAPES["toy"], "toy"), 8, 10, 14),
        )
        assert case["tokens"] == 8 * 24
        assert case["flops/s"] == pytest.approx(flops / min(case["seconds"][1:]))


def test_a_step_is_the_sum_of_its_parts(gpu: Any, capsys: pytest.CaptureFixture[str]) -> None:
    found = run(gpu, "step")
    deciles = sum(max(1, int(share * 8)) for share in gpu.LENGTHS)
    kinds = (("grpo", 3, 4 * 5 * 8), ("grpo lengths", 3, 2 * deciles), ("ppo", 4, 8 * 8))
    for kind, parts, tokens in kinds:
        for step in found[f"toy/{kind}"]["steps"]:
            laps = [seconds for name, seconds in step.items() if name not in ("step", "tokens")]
            assert len(laps) == parts
            assert step["step"] == pytest.approx(sum(laps))
            assert step["tokens"] == tokens
    table = capsys.readouterr().out
    assert gpu.projection("toy", found["toy/grpo lengths"]["step"]) in table
    assert "| toy | grpo 4 × 5 | 16 | no |" in table
    assert "| toy | ppo 8 × 1 | 8 | no |" in table


@pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="needs trl")
@pytest.mark.filterwarnings("default")
def test_trl_takes_the_same_step(gpu: Any) -> None:
    cases = run(gpu, "trl")
    for micro in (5, 10):
        found = cases[f"toy/trl/{micro}"]
        assert found["tokens"] == 4 * 5 * 8
        assert found["micro"] == micro
        assert found["step"] == min(found["seconds"][1:])
        assert len(found["seconds"]) == 2
    assert sys.modules["trl"]
