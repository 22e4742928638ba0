"""Mixtures: exact shares, whatever is dropped, and every task stays what it is on its own."""

import json
import pickle
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from helpers import refused
from hypothesis import given, settings
from hypothesis import strategies as st
from test_train import config as toy_config

from tinyzero import cli
from tinyzero.config import GradingSection, resolve, to_toml, trust
from tinyzero.errors import UserError
from tinyzero.evaluate import completion_metrics, distinct_problems, evaluate, interval
from tinyzero.grading import LocalGrader, WorkerPool
from tinyzero.rollouts import Cursor, Player, Source, Tally
from tinyzero.run import glossary, records
from tinyzero.run.parts import make_grader
from tinyzero.samplers.scripted import ScriptedSampler
from tinyzero.tasks import load_task
from tinyzero.tasks.guarded import GuardedTask
from tinyzero.tasks.shares import Shares
from tinyzero.types import Group, SamplingParams

TOYS = Path(__file__).with_name("toy_task.py")
OF = [
    {"name": "countdown", "weight": 2, "max_count": 3},
    {"name": "sums", "template": "compact"},
]


def mixture(of: Sequence[dict[str, Any]] = OF) -> GuardedTask:
    return load_task("mixture", {"of": list(of)})


def encode(text: str) -> list[int]:
    return list(text.encode())


def decode(ids: Sequence[int]) -> str:
    return bytes(ids).decode()


def player(task: GuardedTask, answer: str = "</think><answer>7</answer> 7") -> Player:
    scripted = ScriptedSampler(lambda prompt, sample: answer, encode, decode)
    return Player(task, scripted, encode, "compact", make_grader(task, GradingSection()))


weights = st.lists(st.integers(1, 9), min_size=1, max_size=5)


@settings(deadline=None)
@given(weights, st.integers(0, 200))
def test_shares_are_exact_whenever_they_can_be_and_never_far_off(
    numbers: list[int], count: int
) -> None:
    shares = Shares({str(i): number for i, number in enumerate(numbers)})
    quotas = shares.quotas(0, count)
    assert sum(quotas.values()) == count
    for i, number in enumerate(numbers):
        exact = count * number / sum(numbers)
        assert abs(quotas[str(i)] - exact) < len(numbers)
        if count % shares.period == 0:
            assert quotas[str(i)] == exact


@settings(deadline=None)
@given(weights)
def test_each_task_is_asked_for_every_index_once_and_in_order(numbers: list[int]) -> None:
    names = {str(i): number for i, number in enumerate(numbers)}
    shares = Shares(names)
    drawn = [shares.at(index) for index in range(60)]
    seen: Counter[str] = Counter()
    for name, within in drawn:
        assert within == seen[name]
        seen[name] += 1
    in_another_order = Shares(names)
    assert [in_another_order.at(i) for i in reversed(range(60))] == drawn[::-1]


def test_shares_worked_out_by_hand() -> None:
    """Remainders after each draw: (2,1)-3 on a, then b is furthest behind, then a."""
    shares = Shares({"a": 2, "b": 1})
    assert [shares.at(i)[0] for i in range(6)] == ["a", "b", "a", "a", "b", "a"]
    assert Shares({"a": 0.5, "b": 0.25, "c": 0.25}).quotas(8, 8) == {"a": 4, "b": 2, "c": 2}


@pytest.mark.parametrize(
    ("of", "said"),
    [
        ([{"name": "sums"}, {"name": "sums"}], "two tasks of the mixture are called 'sums'"),
        ([{"name": "mixture"}], "a mixture cannot contain another mixture"),
        ([{"name": "contdown"}], "in the mixture's contdown: unknown task 'contdown': did you"),
        ([{"name": "sums", "largest": 3}], "in the mixture's sums: unknown key task.largest"),
        ([{"name": "sums", "weight": 0}], "task.of.0.weight is 0: input should be greater"),
        ([{"name": "sums", "label": "a/b"}], "task.of.0.label is 'a/b'"),
        ([{"weight": 1}], "task.of.0.name is missing"),
    ],
)
def test_a_wrong_mixture_is_one_line(
    of: Any, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "[" + ", ".join("{" + ", ".join(f"{k} = {json.dumps(v)}" for k, v in part.items()) + "}"
                           for part in of) + "]"  # fmt: skip
    assert said in refused(capsys, "check-task", "mixture", "--task.of", text)


def test_a_mixture_of_nothing_says_how_to_list_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    assert "as --task.of '[{name=" in refused(capsys, "train", "--task", "mixture")


def test_every_task_keeps_its_prompts_stops_rewards_and_labels() -> None:
    mixed, alone = mixture(), load_task("countdown", {"max_count": 3})
    problems = [mixed.problem("train", index) for index in range(6)]
    assert [p.task for p in problems] == ["countdown", "sums", "countdown"] * 2
    assert problems[2].fields == alone.problem("train", 1).fields

    for problem in problems:
        solution = mixed.solution(problem)
        assert mixed.reward(problem, solution).right is True
        assert mixed.reward(problem, "no idea").right is False
    assert str(mixed.prompt(problems[1], "chat")).endswith("="), "the template of the part"
    assert isinstance(mixed.prompt(problems[0], "chat"), list)

    numbers = len(problems[0].fields["numbers"])
    assert mixed.describe(problems[0])["countdown.numbers"] == numbers
    assert mixed.describe(problems[1])["task"] == "sums"
    assert "behaviour/bare/task=sums" in mixed.glossary


def test_a_mixture_says_every_option_and_can_be_loaded_again_from_these() -> None:
    mixed = mixture()
    assert mixed.given["of"][0]["format_reward"] == 0.1
    assert load_task("mixture", mixed.given).given == mixed.given
    assert pickle.loads(pickle.dumps(mixed)).problem("dev", 3) == mixed.problem("dev", 3)

    config = resolve({"task": {"name": "mixture", **mixed.given}}, {})
    assert resolve(json.loads(config.model_dump_json()), {}) == config
    assert "of = [" in to_toml(config)


def take(keep: Any, refills: int = 2, steps: int = 1) -> tuple[list[list[Group]], Source]:
    params = SamplingParams(max_tokens=60, n=2)
    source = Source(player(mixture()), keep, prompts=6, params=params, refills=refills)
    return [source.take(step) for step in range(steps)], source


def tasks_of(groups: Sequence[Group]) -> dict[str, int]:
    return dict(Counter(group[0].problem.task for group in groups))


def test_quotas_hold_in_every_step_and_numbers_of_groups_never_repeat() -> None:
    batches, source = take(list, steps=4)
    assert [tasks_of(batch) for batch in batches] == [{"countdown": 4, "sums": 2}] * 4
    numbers = [group[0].group for batch in batches for group in batch]
    assert numbers == sorted(set(numbers))
    assert source.cursor.indices == {"countdown": 16, "sums": 8}


def test_a_task_whose_groups_are_dropped_is_drawn_from_again_and_no_other() -> None:
    rounds = 0

    def keep(groups: list[Group]) -> list[Group]:
        nonlocal rounds
        rounds += 1
        return [g for g in groups if g[0].problem.task == "countdown" or rounds > 2]

    (batch,), source = take(keep)
    assert tasks_of(batch) == {"countdown": 4, "sums": 2}
    assert source.cursor.indices == {"countdown": 4, "sums": 6}
    assert source.collected.by_task == {
        "dropped_groups/task=countdown": 0,
        "dropped_groups/task=sums": 4,
        "refill_rounds/task=countdown": 0,
        "refill_rounds/task=sums": 2,
    }


def test_surplus_of_a_task_waits_for_its_own_quota() -> None:
    def keep(groups: list[Group]) -> list[Group]:
        countdowns = [g for g in groups if g[0].problem.task == "countdown"]
        return [g for g in groups if g not in countdowns[:1]]

    batches, source = take(keep, steps=2)
    assert [tasks_of(batch) for batch in batches] == [{"countdown": 4, "sums": 2}] * 2
    assert tasks_of(source.cursor.surplus) == {"countdown": 1}, "2 rounds of 3, 3 + 2 taken"
    assert Cursor.from_state(source.cursor.state_dict()) == source.cursor


def test_each_task_is_sampled_with_its_own_stop_strings() -> None:
    batches, _ = take(list)
    ends = {g[0].problem.task: g[0].completion.text for g in batches[0]}
    assert ends == {"countdown": "</think><answer>7</answer>", "sums": ends["sums"]}
    assert ends["sums"].endswith("7"), "sums has no stop string"


def test_tasks_that_take_turns_are_sampled_together_and_keep_their_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    playing = player(mixture())
    calls: list[list[int]] = []
    generate = playing.sampler.generate

    def counted(requests: Any, *more: Any, **options: Any) -> Any:
        calls.append([request.group for request in requests])
        return generate(requests, *more, **options)

    monkeypatch.setattr(playing.sampler, "generate", counted)
    problems = [playing.task.problem("dev", index) for index in range(6)]
    groups = playing.play(problems, SamplingParams(n=2), first_group=10, tally=Tally())
    assert [group[0].problem for group in groups] == problems
    assert [group[0].group for group in groups] == [10, 11, 12, 13, 14, 15]
    assert calls == [[10, 12, 13, 15], [11, 14]], "one call for each set of stop strings"


def test_ones_own_task_is_graded_by_workers_and_a_bundled_one_here() -> None:
    of = [{"name": f"{TOYS}:Early", "label": "early"}, {"name": "sums"}]
    task = mixture(of)
    assert not task.trusted
    with closing(make_grader(task, GradingSection(workers=1))) as grader:
        graders = grader.graders  # type: ignore[attr-defined]
        assert isinstance(graders["early"], WorkerPool)
        assert isinstance(graders["sums"], LocalGrader)
        early, sums = task.problem("train", 0), task.problem("train", 1)
        grader.submit("a", [early, early], ["!!!!", "zzzz"])
        grader.submit("b", [sums], [task.solution(sums)])
        grader.submit("c", [], [])
        assert [verdict.reward.right for verdict in grader.collect("a")] == [True, False]
        assert grader.collect("b")[0].reward.right
        assert grader.collect("c") == []


def test_figures_per_task_are_those_of_the_tasks_own_rollouts() -> None:
    (batch,), _ = take(list)
    mixed = mixture()
    metrics = completion_metrics(mixed, batch)
    own = [group for group in batch if group[0].problem.task == "countdown"]
    alone = completion_metrics(load_task("countdown", {"max_count": 3}), own)

    for key in ("reward", "accuracy", "truncated", "response_length"):
        assert metrics[f"{key}/task=countdown"] == alone[key]
    assert metrics["groups/task=countdown"] == 4
    assert metrics["behaviour/attempts/task=countdown"] == alone["behaviour/attempts"]
    assert "behaviour/attempts" not in metrics
    keys = [rollout.problem.key for group in own for rollout in group]
    low, high = interval([0.0] * len(keys), keys)
    assert metrics["accuracy/task=countdown/low"] == low == 0
    assert metrics["accuracy/task=countdown/high"] == high


def test_an_evaluation_has_exact_shares_and_intervals_per_task() -> None:
    mixed = mixture()
    result = evaluate(
        player(mixed), split="dev", problems=9, params=SamplingParams(max_tokens=60, n=2)
    )
    assert tasks_of(result.groups) == {"countdown": 6, "sums": 3}
    for name in ("countdown", "sums"):
        low, high = (result.metrics[f"pass@1/task={name}/{end}"] for end in ("low", "high"))
        assert low <= result.metrics[f"pass@1/task={name}"] <= high
    ids = [problem.id for problem in distinct_problems(mixed, "dev", 9)]
    assert len(set(ids)) == 9
    unknown = [key for key in result.metrics if not glossary.define(key, mixed.glossary)]
    assert unknown == ["version"] or not unknown


@settings(max_examples=20, deadline=None)
@given(st.text("abc/=", min_size=1, max_size=3))
def test_a_label_is_part_of_a_key_so_it_has_no_separators(label: str) -> None:
    of = [{"name": "sums", "label": label}]
    if set(label) & set("/="):
        with pytest.raises(UserError, match="label"):
            mixture(of)
    else:
        assert mixture(of).problem("train", 0).task == label


def test_code_that_a_mixture_names_needs_trust_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    own = {"name": "mixture", "of": [{"name": f"{TOYS}:Early"}]}
    config = resolve({"task": own}, {})
    with pytest.raises(UserError, match="which would run"):
        trust.require(config, "run/config.toml", ("task",))
    trust.remember(config)
    trust.require(config, "run/config.toml", ("task",))


def test_a_run_records_every_task_and_the_glossary_explains_it(base: Path, tmp_path: Path) -> None:
    of = [{"name": f"{TOYS}:Early", "label": "early", "weight": 3}, {"name": "sums"}]
    tables = toy_config(base).model_dump() | {"task": {"name": "mixture", "of": of}}
    config = resolve(tables, {"steps": 2, "eval.problems": 8, "model.prompt": "compact"})
    recipe, run = tmp_path / "mixed.toml", tmp_path / "run"
    recipe.write_text(to_toml(config))
    assert cli.main(["train", str(recipe), "--run.dir", str(run)]) == 0

    steps = list(records.read(run / "metrics.jsonl"))
    assert [step["groups/task=early"] for step in steps] == [3, 3]
    assert {"accuracy/task=sums/low", "reward/task=early"} <= steps[0].keys()
    evaluations = list(records.read(run / "eval.jsonl"))
    assert "pass@1/task=sums/low" in evaluations[0]
    task = load_task("mixture", config.task.options)
    for key in {key for entry in (*steps, *evaluations) for key in entry}:
        assert glossary.define(key, task.glossary), f"{key} is not explained"
    assert cli.main(["report", str(run)]) == 0
