"""pass@k equals a count of all subsets, intervals cover simulated truth, evaluations are exact."""

import itertools
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from toy_task import Repeat

from tinyzero.errors import Ungraded, UserError
from tinyzero.evaluate import (
    caution,
    completion_metrics,
    distinct_problems,
    evaluate,
    interval,
    ks,
    pass_at_k,
)
from tinyzero.rollouts import Player
from tinyzero.run.glossary import define
from tinyzero.samplers.scripted import ScriptedSampler
from tinyzero.tasks import load_task
from tinyzero.tasks.countdown.task import Countdown
from tinyzero.tasks.guarded import GuardedTask
from tinyzero.types import Completion, Problem, Reward, Rollout, SamplingParams, Split


@pytest.mark.parametrize("samples", [1, 2, 5, 7])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(samples: int) -> None:
    for correct, k in itertools.product(range(samples + 1), range(1, samples + 1)):
        outcomes = [True] * correct + [False] * (samples - correct)
        subsets = list(itertools.combinations(outcomes, k))
        assert pass_at_k(correct, samples, k) == pytest.approx(
            sum(map(any, subsets)) / len(subsets)
        )


def test_ks() -> None:
    assert ks(1) == [1]
    assert ks(8) == [1, 2, 4, 8]
    assert ks(12) == [1, 2, 4, 8, 12]


def simulated(
    rng: np.random.Generator, mean: float, clusters: int, spread: float
) -> tuple[list[float], list[str]]:
    """Rewards in clusters of one to four problems, and the cluster of each problem.

    The chance of success is different for each cluster, around `mean`. With `spread` 0 it is the
    same for all.
    """
    values: list[float] = []
    names: list[str] = []
    for c in range(clusters):
        size = int(rng.integers(1, 5))
        chance = rng.beta(mean / spread, (1 - mean) / spread) if spread else mean
        values += (rng.random(size) < chance).astype(float).tolist()
        names += [str(c)] * size
    return values, names


@pytest.mark.parametrize(
    ("mean", "clusters", "spread"),
    [(0.3, 80, 0.0), (0.3, 80, 1.0), (0.85, 60, 1.0), (0.05, 200, 0.3), (0.5, 20, 0.5)],
)
def test_intervals_cover_the_truth_about_as_often_as_they_say(
    mean: float, clusters: int, spread: float
) -> None:
    rng = np.random.default_rng(0)
    rounds, covered = 400, 0
    for _ in range(rounds):
        low, high = interval(*simulated(rng, mean, clusters, spread))
        assert 0 <= low < high <= 1
        covered += low <= mean <= high
    assert 0.91 <= covered / rounds <= 0.985


def test_forgetting_the_clusters_would_not_cover() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        values, _ = simulated(rng, 0.3, 80, 2.0)
        low, high = interval(values, [str(i) for i in range(len(values))])
        covered += low <= 0.3 <= high
    assert covered / 200 < 0.91


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 0.7])
@pytest.mark.parametrize("problems", [1, 3, 50])
def test_equal_values_still_leave_doubt(value: float, problems: int) -> None:
    for clusters in ([str(i) for i in range(problems)], ["one"] * problems):
        low, high = interval([value] * problems, clusters)
        assert 0 <= low <= sum([value] * problems) / problems <= high <= 1
        assert high - low > 1 / (len(set(clusters)) + 4)


def test_one_cluster_says_no_more_than_one_problem() -> None:
    low, high = interval([0.1, 0.3, 0.2, 0.7] * 25, ["one"] * 100)
    assert high - low > 0.5


def test_more_problems_narrow_the_interval() -> None:
    rng = random.Random(0)
    widths = []
    for n in (50, 200, 800):
        low, high = interval(
            [float(rng.random() < 0.4) for _ in range(n)], [str(i) for i in range(n)]
        )
        widths.append(high - low)
    assert widths[0] > 1.6 * widths[1] > 2.5 * widths[2]


def test_the_interval_of_four_problems_by_hand() -> None:
    """One right answer in four unlike problems.

    Deviations 3/4 and three times -1/4: their squares sum to 3/4, so the variance of the mean is
    3/4 / 4^2 * 4/(4 - 1) = 1/16, which is that of 3/16 / (1/16) = 3 independent answers. Wilson's
    interval for 1/4 and n = 3 at z = 1.96 has the centre (1/4 + z^2/6) / (1 + z^2/3) = 0.3904 and
    half the width z / (1 + z^2/3) * sqrt(3/16/3 + z^2/36) = 0.3535. Without 4/(4 - 1) it would be
    0.0456 to 0.6994.
    """
    low, high = interval([1.0, 0.0, 0.0, 0.0], ["a", "b", "c", "d"])
    assert (low, high) == pytest.approx((0.0368, 0.7439), abs=1e-4)


class Steps:
    """Samples below i % 5 answer problem i rightly. Every problem is drawn twice."""

    def problem(self, split: Split, index: int) -> Problem:
        i = index // 2
        return Problem(f"{split}:{i}", {"i": i}, split, str(i))

    def prompt(self, problem: Problem, template: str) -> str:
        return f"{template} {problem.fields['i']}"

    def reward(self, problem: Problem, text: str) -> Reward:
        return Reward(
            1.0 if text == "right" else 0.1, {"answer": float(text == "right"), "format": 1.0}
        )

    def solution(self, problem: Problem) -> str:
        return "right"

    def describe(self, problem: Problem) -> dict[str, object]:
        return {"parity": problem.fields["i"] % 2, "kind": "*/"}


def encode(prompt: Any) -> list[int]:
    return [ord(c) for c in prompt]


def decode(ids: Sequence[int]) -> str:
    return "".join(map(chr, ids))


def script(prompt: str, sample: int) -> str:
    return "right" if sample < int(prompt.split()[1]) % 5 else "no"


def scored(task: Any, problems: int = 10, n: int = 4, **more: Any) -> dict[str, Any]:
    sampler = ScriptedSampler(script, encode, decode)
    sampler.load_weights((), 3)
    params = SamplingParams(n=n, max_tokens=8)
    player = Player(GuardedTask(task, "steps", {}), sampler, encode, "t")
    found = evaluate(player, split="dev", problems=problems, params=params, **more)
    assert len(found.groups) == problems
    return dict(found.metrics)


def test_an_evaluation_counts_what_the_script_says() -> None:
    found = scored(Steps(), greedy=True)
    right = [i % 5 for i in range(10)]
    for k in (1, 2, 4):
        assert found[f"pass@{k}"] == pytest.approx(sum(pass_at_k(c, 4, k) for c in right) / 10)
        assert found[f"pass@{k}/low"] < found[f"pass@{k}"] < found[f"pass@{k}/high"]
    assert found["greedy"] == 0.8
    odd = [c for i, c in enumerate(right) if i % 2]
    assert found["pass@2/parity=1"] == pytest.approx(sum(pass_at_k(c, 4, 2) for c in odd) / 5)
    assert {"pass@2/parity=1/low", "greedy/parity=0/high", "pass@1/kind=*/"} <= found.keys()
    assert found["pass@1/kind=*/"] == found["pass@1"]
    assert (found["split"], found["n"], found["k"], found["version"]) == ("dev", 10, 4, 3)
    assert found["accuracy"] == found["pass@1"]
    assert found["reward"] == pytest.approx(found["pass@1"] + 0.1 * (1 - found["pass@1"]))
    assert found["response_length/right"] == 5
    assert found["response_length/wrong"] == 2
    assert found["reward_errors"] == 0
    assert all(define(key, load_task("countdown").glossary) for key in found)


class Pairs(Steps):
    """Problems 0 and 1 share a key, 2 and 3 the next one, and so on."""

    def problem(self, split: Split, index: int) -> Problem:
        return Problem(f"p{index}", {"i": index}, split, f"key {index // 2}")


def test_an_evaluation_says_what_a_paired_comparison_needs() -> None:
    found = scored(Pairs(), problems=5)
    assert found["max_tokens"] == 8
    assert found["right"] == [0, 1, 2, 3, 4]
    assert found["clusters"] == [0, 0, 1, 1, 2]
    # printf 'p0\np1\np2\np3\np4' | sha256sum
    assert found["problems"] == "90ea32dbd8f44901"
    assert found["problems"] != scored(Pairs(), problems=4)["problems"]


def test_evaluations_of_one_model_agree_whatever_the_runs_seed() -> None:
    seeds = []

    class Watching(ScriptedSampler):
        def generate(self, requests: Any, params: SamplingParams, done: Any = None) -> Any:
            seeds.append(params.seed)
            return super().generate(requests, params, done)

    for seed in (0, 1):
        params = SamplingParams(seed=seed, max_tokens=8)
        sampler = Watching(script, encode, decode)
        player = Player(GuardedTask(Steps(), "steps", {}), sampler, encode, "t")
        evaluate(player, split="dev", problems=2, params=params)
    assert seeds[0] == seeds[1]


def test_problems_are_distinct_and_the_same_each_time() -> None:
    problems = distinct_problems(GuardedTask(Steps(), "steps", {}), "dev", 7)
    assert [p.fields["i"] for p in problems] == list(range(7))
    task = Countdown()
    many = distinct_problems(task, "test", 300)
    assert len({p.id for p in many}) == 300
    assert many == distinct_problems(task, "test", 300)
    assert {p.split for p in many} == {"test"}


class Three(Steps):
    def problem(self, split: Split, index: int) -> Problem:
        return super().problem(split, index % 6)


def test_more_problems_than_there_are() -> None:
    with pytest.raises(UserError, match="only 3 distinct"):
        distinct_problems(GuardedTask(Three(), "three", {}), "dev", 4)


class Failing(Steps):
    def reward(self, problem: Problem, text: str) -> Reward:
        if problem.fields["i"] < self.until:
            raise RuntimeError("the judge is down")
        return super().reward(problem, text)

    until = 2


def test_rewards_that_raise_are_wrong_and_counted() -> None:
    found = scored(Failing())
    assert (found["reward_errors"], found["grading/raised"]) == (8, 8)
    task = Failing()
    task.until = 99
    assert scored(task)["pass@1"] == 0


class RaisesOnWrong(Steps):
    """One of four answers is right, and the grader raises on the other three."""

    def reward(self, problem: Problem, text: str) -> Reward:
        if text != "right":
            raise ValueError("no number in it")
        return Reward(1.0)


def test_a_grader_that_raises_on_wrong_answers_does_not_inflate_the_score() -> None:
    found = scored(RaisesOnWrong(), problems=5)
    assert found["pass@1"] == pytest.approx(sum(i % 5 / 4 for i in range(5)) / 5)


def test_pass_at_1_of_one_right_answer_in_four_is_a_quarter() -> None:
    class One(RaisesOnWrong):
        def problem(self, split: Split, index: int) -> Problem:
            return Problem("p", {"i": 1}, split, "1")

    found = scored(One(), problems=1)
    assert (found["pass@1"], found["pass@4"]) == (0.25, 1.0)


def test_rewards_that_are_graded_are_neither_right_nor_wrong_and_that_is_said() -> None:
    class Graded(Steps):
        def reward(self, problem: Problem, text: str) -> Reward:
            return Reward(2.3 if text == "right" else 0.4)

    found = scored(Graded(), problems=5)
    assert (found["graded"], found["pass@1"], found["pass@4"]) == (1.0, 0.0, 0.0)
    assert found["reward"] == pytest.approx((2.3 * 10 + 0.4 * 10) / 20)
    assert "100% of the rewards are graded" in caution(found)
    assert "look at the reward, 1.350" in caution(found)
    assert "graded" not in scored(Steps())
    assert caution(scored(Steps())) == ""


def test_an_answer_that_could_not_be_graded_counts_as_wrong() -> None:
    class Lost(Steps):
        def reward(self, problem: Problem, text: str) -> Reward:
            if text != "right":
                raise Ungraded("the sandbox died")
            return Reward(1.0)

    found = scored(Lost(), problems=5)
    for k in (1, 2, 4):  # always of 4 answers, even if some could not be graded
        expected = sum(pass_at_k(i, 4, k) for i in range(5)) / 5
        assert found[f"pass@{k}"] == pytest.approx(expected)
    assert found["grading/ungraded"] == 10


def rollout(text: str, finish: Any, parts: dict[str, float], **fields: Any) -> Rollout:
    completion = Completion((1,) * len(text), (True,) * len(text), (0.0,) * len(text), text, finish)
    return Rollout(Problem("p", fields, "dev", "p"), (1,), completion, Reward(0.0, parts), 0)


def test_how_completions_end() -> None:
    groups = [
        [rollout("abc", "stop", {"format": 0.0}), rollout("abcd", "length", {"format": 0.0})],
        [rollout("ab", "stop", {"format": 1.0, "answer": 1.0}), rollout("x", "stop", {})],
    ]
    found = completion_metrics(GuardedTask(Steps(), "steps", {}), groups)
    assert (found["malformed"], found["truncated"], found["accuracy"]) == (0.25, 0.25, 0.25)
    assert found["reward/format"] == 0.25
    assert found["response_length"] == 2.5


def test_behaviours_belong_to_the_task_and_not_to_the_names_of_fields() -> None:
    groups = [[rollout("1+2=3\n", "stop", {}, numbers=[1, 2], target=3, a=1, b=2)]]
    assert completion_metrics(Countdown(), groups)["behaviour/attempts"] == 1
    other = completion_metrics(GuardedTask(Steps(), "steps", {}), groups)
    assert not [key for key in other if key.startswith("behaviour/")]


def test_a_task_that_has_few_problems_is_not_asked_for_ever() -> None:
    """The work depends on the number of problems that exist, not on the number requested."""
    asked: list[int] = []

    class Few(Repeat):
        def problem(self, split: Split, index: int) -> Problem:
            asked.append(index)
            return Problem(str(index % 7), {"letter": "a"}, split, str(index % 7))

    task = GuardedTask(Few(), "few", {})
    with pytest.raises(UserError, match="has only 7 distinct problems"):
        distinct_problems(task, "dev", 10**9)
    assert len(asked) < 2_000
    assert len(distinct_problems(task, "dev", 7)) == 7
