"""The choice of a sampler, its effect on the configuration, and fingerprints of weights."""

import sys
import tomllib
import weakref
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch

from tinyzero import config as configs
from tinyzero import samplers
from tinyzero.algorithms import load_algorithm
from tinyzero.algorithms.options import PolicyOptions
from tinyzero.algorithms.stages import policy_loss
from tinyzero.batching import Batch
from tinyzero.errors import UserError
from tinyzero.run.check import check
from tinyzero.run.parts import choose_sampler, make_sampler
from tinyzero.samplers import SamplerSpec
from tinyzero.samplers import vllm as vllm_sampler
from tinyzero.samplers.draw import row_keys
from tinyzero.samplers.torch import TorchSampler
from tinyzero.samplers.vllm import VllmSampler, fingerprint, stale_layers
from tinyzero.tasks.countdown.task import CountdownOptions
from tinyzero.types import Request, SamplingParams


def model_on(device: str, kind: str) -> Any:
    """A stand-in for a Backbone with the attributes that the choice of a sampler reads."""
    config = SimpleNamespace(model_type=kind, rope_parameters={"rope_type": "default"})
    return SimpleNamespace(device=torch.device(device), config=config)


@pytest.mark.parametrize(
    ("name", "device", "kind", "installed", "expected", "why"),
    [
        ("auto", "cpu", "gemma3_text", True, "torch", "the model is on the CPU"),
        ("auto", "cuda", "qwen2", True, "torch", "it decodes this model in slots"),
        ("auto", "cuda", "gemma3_text", False, "torch", "vLLM is not installed"),
        ("auto", "cuda", "gemma3_text", True, "vllm", "no slots for this gemma3_text model"),
        ("torch", "cuda", "gemma3_text", True, "torch", "as asked for"),
        ("vllm", "cpu", "qwen2", False, "vllm", "as asked for"),
    ],
)
def test_auto_says_why(
    name: str,
    device: str,
    kind: str,
    installed: bool,
    expected: str,
    why: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(samplers, "find_spec", lambda name: object() if installed else None)
    found, said = samplers.choose(name, model_on(device, kind))
    assert found == expected
    assert why in said


def meant(
    config: configs.Config, note: Callable[[str], None] = lambda text: None
) -> configs.Config:
    """The configuration that a run with a model on a CPU records."""
    return choose_sampler(config, check(config), tiny.model(layers=1), note)[0]


@pytest.mark.parametrize(
    ("given", "correction", "said"),
    [
        ({}, "none", ""),
        ({"sampler.name": "torch"}, "none", ""),
        ({"sampler.name": "vllm"}, "truncate", "--algorithm.correction truncate"),
        (
            {"sampler.name": "vllm", "algorithm.name": "ppo"},
            "truncate",
            "--algorithm.correction truncate",
        ),
        ({"sampler.name": "vllm", "algorithm.correction": "none"}, "none", ""),
        ({"sampler.name": "vllm", "algorithm.correction": "mask"}, "mask", ""),
    ],
)
def test_a_sampler_that_differs_is_corrected_for(
    given: dict[str, Any], correction: str, said: str
) -> None:
    notes: list[str] = []
    config = configs.resolve({}, given)
    found, algorithm = choose_sampler(config, check(config), tiny.model(layers=1), notes.append)
    assert found.sampler.name == given.get("sampler.name", "torch"), (
        "the saved configuration must name the sampler"
    )
    assert found.algorithm.options["correction"] == correction
    assert algorithm.options.correction == correction, (
        "the recorded option must be the one that is used"
    )
    assert meant(found, lambda text: pytest.fail(text)) == found, "a resumed run must not change"
    assert len(notes) == bool(said)
    assert said in "".join(notes)


def test_a_run_says_every_option_that_acts() -> None:
    """Every option is recorded, so that a changed default does not change a resumed run."""
    given = {"algorithm.name": "prime", "algorithm.kl": 0.1, "task.max_count": 3}
    found = meant(configs.resolve({}, given))
    made: Any = load_algorithm("prime", {"kl": 0.1})
    expected = {
        k: v for k, v in made.options.model_dump().items() if k not in made.options.without_effect
    }
    assert found.algorithm.options == expected
    assert {
        "kl_estimator",
        "band_low",
        "beta",
        "clip_low",
        "correction",
        "dual_clip",
    } <= found.algorithm.options.keys()
    task_options = CountdownOptions(max_count=3)
    assert found.task.options == {
        k: v
        for k, v in task_options.model_dump(exclude_none=True).items()
        if k not in task_options.without_effect
    }
    again = configs.resolve(tomllib.loads(configs.to_toml(found)), {})
    assert load_algorithm("prime", again.algorithm.options).options.kl == 0.1
    assert meant(again) == found, "the recorded configuration must stay the same"


def test_the_torch_sampler_shares_the_weights() -> None:
    policy = tiny.model()
    config = configs.resolve({}, {"sampler.name": "torch", "rollout.rows": 7})
    made = make_sampler(config, policy, str, frozenset())
    assert isinstance(made, TorchSampler)
    assert made.model is policy
    assert made.max_rows == 7


def test_samplers_are_the_files_that_end_with_one() -> None:
    assert samplers.NAMES == ["torch", "vllm"]
    assert samplers.REGISTRY.find("torch") is TorchSampler
    assert samplers.REGISTRY.find("vllm") is VllmSampler
    assert TorchSampler.shares_weights
    assert not VllmSampler.shares_weights


def test_the_mismatch_by_hand() -> None:
    """The mismatch is measured before the update, and only for fresh rows."""
    batch = Batch(
        tokens=torch.zeros(1, 4, dtype=torch.long),
        mask=torch.tensor([[False, True, True]]),
        sampled_logprobs=torch.tensor([[9.0, -1.0, -2.0]]),
        rewards=torch.zeros(1),
        groups=torch.zeros(1, dtype=torch.long),
        lengths=torch.tensor([4]),
        limits=torch.tensor([3]),
        right=torch.zeros(1, dtype=torch.bool),
        graded=torch.zeros(1, dtype=torch.bool),
        advantages=torch.ones(1, 3),
    )
    learned = torch.tensor([[0.0, -1.25, -1.5]])

    def found(batch: Batch, now: torch.Tensor) -> dict[str, Any]:
        outputs = {"logprobs": now, "entropy": torch.zeros(1, 3)}
        return policy_loss(outputs, batch, batch.totals(), PolicyOptions())[1]

    assert [float(x) for x in found(batch, learned)["mismatch"]] == [0.75, 2]
    moved = replace(batch, old_logprobs=learned)
    assert [float(x) for x in found(moved, learned + 1)["mismatch"]] == [0.75, 2], (
        "the learner's logprobs before the update"
    )
    assert "mismatch" not in found(replace(batch, stale=torch.tensor([True])), learned)
    two = replace(batch.select(torch.tensor([0, 0])), stale=torch.tensor([True, False]))
    outputs = {"logprobs": torch.stack([learned[0] + 1, learned[0]]), "entropy": torch.zeros(2, 3)}
    metrics = policy_loss(outputs, two, two.totals(), PolicyOptions())[1]
    assert [float(x) for x in metrics["mismatch"]] == [0.75, 2]


def test_without_vllm_one_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(
        UserError, match=r"pip install tinyzero\[vllm\], or use --sampler.name torch"
    ):
        VllmSampler("tiny", tiny.model(layers=1), str, frozenset())


class Engine:
    """A stand-in for vLLM's engine that holds weights and receives them one by one."""

    def __init__(self, **given: Any) -> None:
        self.given, self.held, self.alive = given, dict[str, torch.Tensor](), list[int]()

    def collective_rpc(self, _: str, kwargs: dict[str, Any]) -> None:
        pushed: list[weakref.ref[torch.Tensor]] = []
        for name, weight in kwargs["weights_iterator"]:
            self.held[name] = weight.clone()
            pushed.append(weakref.ref(weight))
            self.alive.append(sum(found() is not None for found in pushed))

    def reset_prefix_cache(self) -> None:
        pass

    def apply_model(self, ask: Callable[[Any], Any]) -> list[Any]:
        holder = SimpleNamespace(parameters=lambda: iter(self.held.values()), named_modules=list)
        return [ask(holder)]


def pushed_to(monkeypatch: pytest.MonkeyPatch) -> tuple[VllmSampler, Engine]:
    monkeypatch.setattr(vllm_sampler, "_import_vllm", lambda on_cpu: SimpleNamespace(LLM=Engine))
    sampler = VllmSampler("tiny", tiny.model(layers=1), str, frozenset(), cache_bytes=2**20)
    return sampler, sampler.engine


def test_vllm_starts_beside_a_learner_that_has_most_of_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """vLLM does not start unless its share of memory is free, even if the cache size is given."""
    _, engine = pushed_to(monkeypatch)
    assert engine.given["kv_cache_memory_bytes"] == 2**20
    assert engine.given["gpu_memory_utilization"] <= 0.01


def test_a_run_gives_vllm_room_for_its_completions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_sampler, "_import_vllm", lambda on_cpu: SimpleNamespace(LLM=Engine))
    model = tiny.model(layers=1)
    spec = SamplerSpec(str, frozenset(), model_name="tiny", rows=3, max_tokens=10)
    given = VllmSampler.for_model(model, spec).engine.given
    assert given["kv_cache_memory_bytes"] == (3 * 10 + model.context) * model.cache_bytes
    assert given["max_num_seqs"] == 3
    given = VllmSampler.for_model(model, replace(spec, cache_gb=0.5)).engine.given
    assert given["kv_cache_memory_bytes"] == 500_000_000


def test_vllm_answers_requests_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each sample has its own seed, and each request is done once."""
    sampler, engine = pushed_to(monkeypatch)
    sampler.vllm.TokensPrompt = sampler.vllm.SamplingParams = SimpleNamespace

    def generate(inputs: list[Any], asked: list[Any], use_tqdm: bool) -> list[Any]:
        ids = [given.prompt_token_ids[-1] for given in inputs]
        said = [{token: SimpleNamespace(logprob=-1.0 * token)} for token in ids]
        engine.given["seeds"] = [params.seed for params in asked]
        return [
            SimpleNamespace(
                outputs=[SimpleNamespace(token_ids=[i], logprobs=[found], finish_reason="length")]
            )
            for i, found in zip(ids, said, strict=True)
        ]

    monkeypatch.setattr(engine, "generate", generate, raising=False)
    requests = [Request((1, 2), 5, (0, 3)), Request((7,), 5, (3,), position=2)]
    done: list[int] = []
    found = sampler.generate(requests, SamplingParams(seed=9), lambda i, made: done.append(i))
    assert [[c.token_ids for c in group] for group in found] == [[(2,), (2,)], [(7,)]]
    assert [[c.sampled_logprobs for c in group] for group in found] == [[(-2,), (-2,)], [(-7,)]]
    assert done == [0, 1]
    keys = row_keys(9, torch.tensor([5, 5]), torch.tensor([0, 3])).tolist()
    assert engine.given["seeds"][:2] == [key % 2**63 for key in keys]
    assert len(set(engine.given["seeds"])) == 3, "a later turn must not repeat the first"


def test_a_push_holds_one_weight_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Merged weights are made one by one: all together would be a second model."""
    sampler, engine = pushed_to(monkeypatch)
    sampler.load_weights(((f"{i}.weight", torch.full((3,), i + 1.0)) for i in range(9)), 1)
    assert len(engine.held) == 9
    assert max(engine.alive) <= 2
    monkeypatch.setattr(engine, "apply_model", lambda ask: [0])
    with pytest.raises(UserError, match="did not arrive"):
        sampler.load_weights([("0.weight", torch.ones(3))], 2)


def test_cache_bytes_by_hand() -> None:
    model = tiny.model("llama", layers=3)  # 2 key-value heads, 4 query heads, width 32
    assert model.cache_bytes == 2 * 3 * 2 * 8 * 4
    assert model.to(torch.bfloat16).cache_bytes == 2 * 3 * 2 * 8 * 2


def test_fingerprints_see_a_last_bit_and_no_layout() -> None:
    a, b = torch.randn(7, 5), torch.randn(3, 5)
    joined = torch.cat([b, torch.zeros(4, 5), a]).T
    assert fingerprint([a, b]) == fingerprint([joined])
    assert fingerprint([a]) != fingerprint([b]) != fingerprint([a, b])
    nudged = a.clone()
    nudged[3, 2] = torch.nextafter(nudged[3, 2], torch.tensor(9.0))
    assert fingerprint([nudged, b]) != fingerprint([a, b])
    assert fingerprint([a, a]) != fingerprint([]), "the same numbers twice must not cancel"
    assert fingerprint([a.bfloat16()]) == fingerprint([a.bfloat16().float()])
    assert fingerprint([torch.tensor([0.0, -0.0])]) == 0


class Layer(torch.nn.Module):
    """A linear layer like vLLM's, whose method computes with its weight or with a copy of it."""

    def __init__(self, packed: bool) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(6, 20))
        copy = self.weight.detach().clone() if packed else self.weight
        self.quant_method = SimpleNamespace(apply=lambda layer, x, bias=None: x @ copy.T)


def test_a_layer_that_computes_with_a_copy_is_found() -> None:
    model = torch.nn.ModuleDict({"fresh": Layer(packed=False), "packed": Layer(packed=True)})
    model["norm"] = torch.nn.LayerNorm(4)
    assert stale_layers(model, 0) == []
    with torch.no_grad():
        for name in ("fresh", "packed"):
            model[name].weight[:, 4] += 1e-6
    found = [stale_layers(model, version) for version in range(20)]
    assert all(f in ([], ["packed"]) for f in found)
    assert [] in found, "a change in one column must be found at some offset"
    assert ["packed"] in found
