"""GRPO and PPO against numbers computed by hand, and each must learn a toy through the real loop."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor
from toy_task import Repeat

from tinyzero import models
from tinyzero.algorithms import ALGORITHMS, load_algorithm
from tinyzero.algorithms.grpo import GRPO, GRPOOptions
from tinyzero.algorithms.ppo import PPO, PPOOptions
from tinyzero.batching import Batch, collate
from tinyzero.config import OptimizerOptions
from tinyzero.learner import TorchLearner, policy_outputs, value_outputs
from tinyzero.models import ValueModel
from tinyzero.rollouts import Cursor, collect
from tinyzero.types import Completion, Problem, Reward, Rollout, SamplingParams, UserError


class Says:
    """A learner whose scores are given."""

    def __init__(self, scores: list[list[float]]) -> None:
        self.scores = torch.tensor(scores)

    def score(self, batch: Batch) -> Tensor:
        return self.scores

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} is not needed here")


def batch_of(rewards: list[float], lengths: list[int], groups: list[int], updates: int = 1) -> Batch:
    """Rollouts of prompts of two tokens: column 0 predicts the prompt's second, so responses begin at column 1."""
    rollouts = []
    for reward, length, group in zip(rewards, lengths, groups, strict=True):
        completion = Completion((7,) * length, (True,) * length, (-1.0,) * length, "", "stop")
        rollouts.append([Rollout(Problem("p", {}, "train", "p"), (5, 6), completion, Reward(reward), group)])
    return collate(rollouts, 1.0, 4, updates)


def responses(x: Tensor | None) -> list[list[float]]:
    assert x is not None
    return x[:, 1:].tolist()


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        ("group", [1.499997, -0.499999, -0.499999, -0.499999]),
        ("none", [0.75, -0.25, -0.25, -0.25]),
    ],
)
def test_grpo_advantages(scale: Any, expected: list[float]) -> None:
    batch = GRPO(GRPOOptions(scale=scale)).annotate(batch_of([1, 0, 0, 0], [2, 1, 2, 2], [0] * 4), {})
    assert responses(batch.advantages) == [
        pytest.approx([a, a if length == 2 else 0], abs=1e-5) for a, length in zip(expected, [2, 1, 2, 2], strict=True)
    ]
    assert batch.advantages is not None
    assert not batch.advantages[:, 0].any()
    assert batch.old_logprobs is None
    assert batch.ref_logprobs is None
    assert batch.idle is not None
    assert not batch.idle.any()


def test_grpo_compares_within_groups_wherever_they_stand() -> None:
    batch = GRPO(GRPOOptions(scale="none")).annotate(batch_of([1, 3, 0, 3, 0.5], [1] * 5, [8, 2, 8, 2, 8]), {})
    assert [row[0] for row in responses(batch.advantages)] == pytest.approx([0.5, 0, -0.5, 0, 0])
    assert batch.idle is not None
    assert batch.idle.tolist() == [False, True, False, True, True]


def test_grpo_scaled_by_the_batch() -> None:
    batch = GRPO(GRPOOptions(scale="batch")).annotate(batch_of([1, 0, 5, 5], [1] * 4, [0, 0, 1, 1]), {})
    deviation = torch.tensor([1.0, 0, 5, 5]).std()
    assert [row[0] for row in responses(batch.advantages)] == pytest.approx(
        [float(0.5 / deviation), float(-0.5 / deviation), 0, 0], abs=1e-5
    )


def test_old_and_reference_logprobs_are_scored_where_they_are_needed() -> None:
    old, reference = [[0.0, -1.0, -2.0]], [[0.0, -1.5, -1.0]]
    models = {"policy": Says(old * 2), "reference": Says(reference * 2)}
    batch = GRPO(GRPOOptions(kl=0.1)).annotate(batch_of([1, 0], [2, 2], [0, 0], updates=2), models)  # type: ignore[arg-type]
    assert batch.old_logprobs is not None
    assert batch.old_logprobs.tolist() == old * 2
    assert batch.ref_logprobs is not None
    assert batch.ref_logprobs.tolist() == reference * 2
    assert batch.idle is None


def ppo(rewards: list[float], lengths: list[int], values: list[list[float]], **more: Any) -> Batch:
    logprobs, reference = more.pop("logprobs", None), more.pop("reference", None)
    scored = {"critic": Says(values)}
    scored |= {"policy": Says(logprobs)} if logprobs else {}
    scored |= {"reference": Says(reference)} if reference else {}
    batch = batch_of(rewards, lengths, list(range(len(rewards))))
    return PPO(PPOOptions(**more)).annotate(batch, scored)  # type: ignore[arg-type]


VALUES = [[9.0, 0.5, 0.6, 0.8]]  # the first column stands before the prompt's second token: never read


@pytest.mark.parametrize(
    ("lam", "advantages", "returns"),
    [
        (1.0, [0.5, 0.4, 0.2], [1, 1, 1]),
        (0.95, [0.4705, 0.39, 0.2], [0.9705, 0.99, 1]),
        (0.0, [0.1, 0.2, 0.2], [0.6, 0.8, 1]),
    ],
)
def test_ppo_advantages_and_returns(lam: float, advantages: list[float], returns: list[float]) -> None:
    batch = ppo([1], [3], VALUES, lam=lam, whiten=False)
    assert responses(batch.advantages)[0] == pytest.approx(advantages)
    assert responses(batch.returns)[0] == pytest.approx(returns)
    assert batch.values is not None
    assert batch.old_logprobs is None


def test_ppo_whitens_advantages_and_not_returns() -> None:
    batch = ppo([1], [3], VALUES)
    assert responses(batch.advantages)[0] == pytest.approx([0.872871, 0.218218, -1.091089], abs=1e-5)
    assert responses(batch.returns)[0] == pytest.approx([1, 1, 1])


def test_ppo_rows_of_different_lengths_end_where_they_end() -> None:
    batch = ppo([1, 2], [3, 1], [[9, 0.5, 0.6, 0.8], [9, 0.25, 5.0, 5.0]], whiten=False)
    assert responses(batch.advantages)[1] == pytest.approx([1.75, 0, 0])
    assert responses(batch.returns)[1] == pytest.approx([2, 0, 0])


def test_ppo_kl_inside_the_reward() -> None:
    logprobs = [[0.0, -1.0, -1.0, -1.0]]
    reference = [[0.0, -1.1, -1.0, -0.8]]
    zero = [[0.0] * 4]
    batch = ppo([1], [3], zero, logprobs=logprobs, reference=reference, kl_in_reward=0.5, whiten=False)
    assert responses(batch.returns)[0] == pytest.approx([1.05, 1.1, 1.1], abs=1e-6)
    assert batch.old_logprobs is not None


def test_the_reward_stands_on_the_last_trained_token() -> None:
    completion = Completion((7, 7, 7), (True, True, False), (-1.0,) * 3, "", "stop")
    rollout = Rollout(Problem("p", {}, "train", "p"), (5, 6), completion, Reward(1.0), 0)
    batch = PPO(PPOOptions(whiten=False)).annotate(collate([[rollout]], 1.0, 4), {"critic": Says([[0.0] * 4])})  # type: ignore[dict-item]
    assert responses(batch.returns)[0] == [1, 1, 0]


def test_the_critics_loss() -> None:
    algorithm = PPO()
    batch = replace(
        batch_of([1], [3], [0]),
        values=torch.tensor([[9, 0.5, 0.6, 0.8]]),
        returns=torch.tensor([[9.0, 1, 1, 1]]),
    )
    outputs = {"values": torch.tensor([[7, 0.7, 0.6, 0.2]])}
    loss, metrics = algorithm.loss("critic", outputs, batch, batch.totals())
    assert float(loss) == pytest.approx(0.148333, abs=1e-6)
    assert float(metrics["mean"][0] / metrics["mean"][1]) == pytest.approx(0.5)


def test_the_policys_loss_and_which_tokens_are_clipped() -> None:
    batch = replace(
        batch_of([0, 0, 0, 0], [1] * 4, [0] * 4),
        advantages=torch.tensor([[0.0, a] for a in (1, 1, -1, -1)]),
        old_logprobs=torch.zeros(4, 2),
    )
    logprobs = torch.tensor([[0.0, r] for r in (1.5, 0.5, 1.5, 0.5)]).log().nan_to_num(neginf=0.0).requires_grad_()
    outputs = {"logprobs": logprobs, "entropy": torch.zeros(4, 2)}
    loss, metrics = GRPO().loss("policy", outputs, batch, batch.totals())
    assert float(loss.detach()) == pytest.approx((-1.2 - 0.5 + 1.5 + 0.8) / 4)
    loss.backward()
    assert logprobs.grad is not None
    assert (logprobs.grad[:, 1] != 0).tolist() == [False, True, True, False]
    assert float(metrics["clip_fraction"][0]) / float(metrics["clip_fraction"][1]) == 0.5
    higher, _ = GRPO(GRPOOptions(clip_high=0.28)).loss("policy", outputs, batch, batch.totals())
    assert float(higher.detach()) == pytest.approx((-1.28 - 0.5 + 1.5 + 0.8) / 4)


def test_kl_is_added_and_entropy_taken_away() -> None:
    batch = replace(
        batch_of([0], [2], [0]),
        advantages=torch.zeros(1, 3),
        ref_logprobs=torch.tensor([[0, -1.5, -1.0]]),
    )
    outputs = {"logprobs": torch.tensor([[0, -1.0, -2.0]]), "entropy": torch.tensor([[9.0, 1.0, 2.0]])}
    loss, metrics = GRPO(GRPOOptions(kl=0.5, entropy=0.1)).loss("policy", outputs, batch, batch.totals())
    assert float(loss) == pytest.approx(0.5 * (0.106531 + 0.718282) / 2 - 0.1 * 1.5, abs=1e-6)
    assert float(metrics["kl"][0]) == pytest.approx(0.106531 + 0.718282, abs=1e-6)
    assert float(metrics["entropy"][0] / metrics["entropy"][1]) == 1.5


def test_the_models_they_need() -> None:
    assert load_algorithm("grpo").roles == ()
    assert load_algorithm("grpo", {"kl": 0.1}).roles == ("reference",)
    assert load_algorithm("ppo").roles == ("critic",)
    assert load_algorithm("ppo", {"kl_in_reward": 0.1}).roles == ("critic", "reference")
    for name in ALGORITHMS:
        assert load_algorithm(name).min_samples in (1, 2)


def test_groups_that_have_lost_their_rollouts() -> None:
    whole = [r for r in _groups([2, 1, 0, 3])]
    assert [len(g) for g in GRPO().keep(whole)] == [2, 3]
    assert [len(g) for g in PPO().keep(whole)] == [2, 1, 0, 3]


def _groups(sizes: list[int]) -> list[list[Rollout]]:
    completion = Completion((7,), (True,), (-1.0,), "", "stop")
    rollout = Rollout(Problem("p", {}, "train", "p"), (5, 6), completion, Reward(1.0), 0)
    return [[rollout] * size for size in sizes]


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("gpro", {}, "did you mean grpo"),
        ("grpo", {"klo": 1}, "did you mean kl"),
        ("grpo", {"kl": -1}, "algorithm.kl is -1"),
        ("ppo", {"lam": 2}, "algorithm.lam is 2"),
        ("json:JSONDecoder", {}, "lacks Options"),
        ("no_such_module:Name", {}, "cannot import"),
    ],
)
def test_what_is_no_algorithm(name: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        load_algorithm(name, options)
    assert "\n" not in str(caught.value)


def learn(name: str, seed: int, steps: int = 44, minibatches: int = 1, **options: Any) -> list[float]:
    """The loop on a random model: mean reward of each step."""
    algorithm = load_algorithm(name, options)
    policy = tiny.model(seed=seed, layers=1)
    learners = {"policy": TorchLearner(policy, policy_outputs, OptimizerOptions(learning_rate=5e-3))}
    if "critic" in algorithm.roles:
        critic = ValueModel(tiny.model(seed=seed, layers=1))
        learners["critic"] = TorchLearner(critic, value_outputs, OptimizerOptions(learning_rate=1e-2))
    if "reference" in algorithm.roles:
        learners["reference"] = TorchLearner(tiny.model(seed=seed, layers=1), policy_outputs, None)
    sampler, cursor, rewards = tiny.sampler(policy), Cursor(), []
    for step in range(steps):
        groups, cursor, _ = collect(
            Repeat(),
            sampler,
            cursor,
            encode=partial(models.encode_prompt, tiny.tokenizer()),
            template="compact",
            prompts=6,
            params=SamplingParams(max_tokens=6, n=8, seed=seed),
            keep=algorithm.keep,
        )
        batch = algorithm.annotate(collate(groups, 1.0, 6, minibatches), learners)
        for role, learner in learners.items():
            if learner.options:
                learner.update(batch, partial(algorithm.loss, role), minibatches)
        sampler.load_weights((), step + 1)
        rewards.append(float(batch.rewards.mean()))
    return rewards


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", ["grpo", "ppo"])
def test_it_learns_to_repeat_the_letter_asked_for(name: str, seed: int) -> None:
    rewards = learn(name, seed)
    assert sum(rewards[:4]) / 4 < 0.1
    assert sum(rewards[-4:]) / 4 > 0.45, "one letter whatever is asked would be 0.33"


@pytest.mark.parametrize(("name", "options"), [("grpo", {"kl": 1e-3}), ("ppo", {"kl_in_reward": 1e-3, "lam": 0.95})])
def test_it_learns_with_several_updates_and_a_reference(name: str, options: dict[str, float]) -> None:
    rewards = learn(name, 0, steps=24, minibatches=3, **options)
    assert sum(rewards[-4:]) / 4 > 0.25
