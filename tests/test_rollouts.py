"""Collecting a batch: errors of rewards are reported, refilling is bounded, surplus is kept."""

import io
import json
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyzero.errors import Ungraded, UserError
from tinyzero.evaluate import completion_metrics
from tinyzero.grading import LocalGrader, sound
from tinyzero.rollouts import Collected, Cursor, Player, Source
from tinyzero.samplers.scripted import ScriptedSampler
from tinyzero.tasks.guarded import GuardedTask
from tinyzero.turns import ATTEMPTS, extend
from tinyzero.types import (
    Completion,
    Done,
    FinishReason,
    Group,
    Problem,
    Prompt,
    Request,
    Reward,
    SamplingParams,
    Split,
    Turn,
)

PARAMS = SamplingParams(max_tokens=8, n=3)


def encode(prompt: Prompt) -> list[int]:
    assert isinstance(prompt, str)
    return [ord(c) for c in prompt]


def decode(ids: Sequence[int]) -> str:
    return "".join(map(chr, ids))


class Counting:
    """Problem i asks for i. The reward of a completion is `worth(i, text)`."""

    def __init__(self, worth: Callable[[int, str], Any] = lambda i, text: Reward(float(i))) -> None:
        self.worth = worth

    def problem(self, split: Split, index: int) -> Problem:
        return Problem(str(index), {"i": index, "pair": (1, 2)}, split, str(index))

    def prompt(self, problem: Problem, template: str) -> str:
        return str(problem.fields["i"])

    def reward(self, problem: Problem, text: str) -> Any:
        return self.worth(problem.fields["i"], text)

    def solution(self, problem: Problem) -> str:
        return ""


def sampler(
    script: Callable[[str, int], str] = lambda prompt, sample: f"{prompt}:{sample}",
) -> ScriptedSampler:
    return ScriptedSampler(script, encode, decode)


def gather(
    task: Any,
    cursor: Cursor | None = None,
    keep: Any = lambda groups: groups,
    script: Any = None,
    prompts: int = 4,
    refills: int = 0,
) -> tuple[list[Group], Cursor, Collected]:
    player = Player(
        GuardedTask(task, "counting", {}),
        sampler(script) if script else sampler(),
        encode,
        "compact",
    )
    source = Source(player, keep, prompts=prompts, params=PARAMS, refills=refills)
    source.cursor = cursor or Cursor()
    groups = source.take(0)
    return groups, source.cursor, source.collected


def ids(groups: list[Group]) -> list[int]:
    return [group[0].problem.fields["i"] for group in groups]


def test_groups_of_rollouts_in_order() -> None:
    groups, cursor, report = gather(Counting(), Cursor(next=10))
    assert ids(groups) == [10, 11, 12, 13]
    assert [[r.group for r in g] for g in groups] == [[i] * 3 for i in range(10, 14)]
    assert [r.completion.text for r in groups[1]] == ["11:0", "11:1", "11:2"]
    assert decode(groups[1][0].prompt_ids) == "11"
    assert [r.reward.value for r in groups[1]] == [11.0] * 3
    assert cursor == Cursor(next=14)
    assert report == Collected(generated_tokens=4 * 3 * 4, graded=12)


def test_the_part_truncated_is_added_to_the_tasks_own() -> None:
    task = Counting(lambda i, text: Reward(0.5, {"answer": 1.0}))
    groups, _, _ = gather(task, script=lambda prompt, sample: "x" * (7 + sample))
    assert [r.reward.parts for r in groups[0]] == [
        {"answer": 1.0, "truncated": 0.0},
        {"answer": 1.0, "truncated": 0.0},
        {"answer": 1.0, "truncated": 1.0},
    ]


def raising(i: int, text: str) -> Reward:
    if text.endswith(":1"):
        raise KeyError("no such\nkey")
    return Reward(1.0)


@pytest.mark.parametrize(
    ("worth", "first"),
    [
        (raising, "KeyError: 'no such\\nkey'"),
        (
            lambda i, text: None if text.endswith(":1") else Reward(1.0),
            "TypeError: the reward is None, not a Reward",
        ),
        (
            lambda i, text: "1" if text.endswith(":1") else Reward(1.0),
            "TypeError: the reward is '1', not a Reward",
        ),
        (
            lambda i, text: Reward(float("nan") if text.endswith(":1") else 1.0),
            "ValueError: the reward is not finite",
        ),
        (
            lambda i, text: Reward(1.0, {"a": float("inf") if text.endswith(":1") else 1.0}),
            "ValueError: the reward",
        ),
        (lambda i, text: sys.exit(0) if text.endswith(":1") else Reward(1.0), "SystemExit: 0"),
        (lambda i, text: interrupted() if text.endswith(":1") else True, "KeyboardInterrupt"),
    ],
    ids=[
        "raises",
        "returns nothing",
        "returns text",
        "is not finite",
        "has a part that is not finite",
        "exits",
        "raises a KeyboardInterrupt of its own",
    ],
)
def test_an_answer_whose_grader_fails_is_wrong_and_counted(worth: Any, first: str) -> None:
    groups, _, report = gather(Counting(worth))
    assert (report.raised, report.failed, report.graded) == (4, 4, 12)
    assert report.first_error.startswith(first)
    for group in groups:
        assert [r.completion.text[-1] for r in group] == ["0", "1", "2"]
        assert [r.reward.value for r in group] == [1.0, 0.0, 1.0]
        assert [r.reward.right for r in group] == [True, False, True]
        assert [r.reward.failure for r in group] == [None, "raised", None]


def interrupted() -> None:
    raise KeyboardInterrupt


def test_an_answer_that_cannot_be_graded_is_tried_again_and_then_left_out() -> None:
    asked: list[str] = []

    def worth(i: int, text: str) -> Reward:
        asked.append(text)
        if text.endswith(":1") or (text == "0:0" and asked.count(text) == 1):
            raise Ungraded("the judge\nis down")
        return Reward(1.0)

    groups, _, report = gather(Counting(worth))
    assert [[r.completion.text[-1] for r in g] for g in groups] == [["0", "2"]] * 4
    assert (report.ungraded, report.graded, report.failed) == (4, 8, 0)
    assert report.first_error == "Ungraded: the judge is down"
    assert asked.count("2:1") == ATTEMPTS


def test_rewards_that_cannot_be_graded_at_all_stop_the_run_with_the_first_message() -> None:
    def worth(i: int, text: str) -> Reward:
        raise Ungraded(f"judge\nof {i} is down")

    with pytest.raises(UserError) as caught:
        gather(Counting(worth))
    assert "Ungraded: judge of 0 is down" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_group_without_rewards_is_dropped() -> None:
    def worth(i: int, text: str) -> Reward:
        if i == 1:
            raise Ungraded
        return Reward(float(i))

    groups, _, report = gather(Counting(worth), refills=1)
    assert ids(groups) == [0, 2, 3, 4]
    assert (report.dropped_groups, report.refill_rounds, report.ungraded) == (1, 1, 3)


@pytest.mark.parametrize(
    ("raw", "reward"),
    [
        (Reward(np.float32(0.5), {"answer": np.int64(1)}), Reward(0.5, {"answer": 1.0}, True)),  # type: ignore[arg-type]
        (0.5, Reward(0.5, {}, None)),
        (2.3, Reward(2.3, {}, None)),
        (1, Reward(1.0, {}, True)),
        (0.0, Reward(0.0, {}, False)),
        (True, Reward(1.0, {}, True)),
        (np.bool_(False), Reward(0.0, {}, False)),
        (torch.tensor(0.25), Reward(0.25, {}, None)),
        (Reward(0.1, right=False), Reward(0.1, {}, False)),
        (Reward(1.0, right=None), Reward(1.0, {}, None)),
    ],
)
def test_numbers_and_bools_are_rewards_and_become_pythons_own(raw: Any, reward: Reward) -> None:
    found = sound(raw)
    assert found == reward
    assert json.dumps([found.value, dict(found.parts), found.right])


def test_a_grader_cannot_change_its_problem() -> None:
    def worth(i: int, text: str) -> Reward:
        return Reward(1.0)

    class Mutating(Counting):
        def reward(self, problem: Problem, text: str) -> Any:
            before = problem.fields["i"]
            problem.fields["i"] = -1  # type: ignore[index]
            return Reward(float(before))

    groups, _, _ = gather(Mutating(worth))
    assert ids(groups) == [0, 1, 2, 3]
    assert [r.reward.value for r in groups[3]] == [3.0] * 3


class Batched(Counting):
    """A task that computes all rewards of a group at once."""

    calls = 0

    def rewards(self, problems: Sequence[Problem], texts: Sequence[str]) -> list[Any]:
        self.calls += 1
        return [self.worth(p.fields["i"], t) for p, t in zip(problems, texts, strict=True)]

    def reward(self, problem: Problem, text: str) -> Any:
        raise AssertionError("asked one by one")


def test_a_task_with_batched_rewards_is_asked_once_for_each_group() -> None:
    task = Batched(lambda i, text: Reward(i + int(text[-1]) / 10))
    groups, _, report = gather(task)
    assert task.calls == 4
    assert [r.reward.value for r in groups[2]] == pytest.approx([2.0, 2.1, 2.2])
    assert report.failed == 0


def test_batched_rewards_that_fail_are_wrong() -> None:
    task = Batched(lambda i, text: None if i == 2 else Reward(1.0))
    groups, _, report = gather(task)
    assert report.raised == 3
    assert [[r.reward.right for r in g] for g in groups][2] == [False] * 3
    for rewards, error in (
        (lambda problems, texts: 1 / 0, "ZeroDivisionError"),
        (lambda problems, texts: [Reward(1.0)], "ValueError: 1 rewards for 3 completions"),
    ):
        task.rewards = rewards  # type: ignore[method-assign, assignment]
        groups, _, report = gather(task)
        assert (report.raised, {r.reward.value for g in groups for r in g}) == (12, {0.0})
        assert report.first_error.startswith(error)


def odd(groups: list[Group]) -> list[Group]:
    return [g for g in groups if g[0].problem.fields["i"] % 2]


def test_dropped_groups_are_refilled_and_the_surplus_waits() -> None:
    groups, cursor, report = gather(Counting(), keep=odd, refills=4, prompts=3)
    assert ids(groups) == [1, 3, 5]
    assert (report.refill_rounds, report.dropped_groups) == (1, 3)
    assert cursor.next == 6
    assert report.generated_tokens == 6 * 3 * 3
    groups, cursor, report = gather(Counting(), cursor, keep=odd, refills=4, prompts=4)
    assert ids(groups) == [7, 9, 11, 13]
    assert ids(cursor.surplus) == []
    groups, cursor, _ = gather(Counting(), Cursor(1), keep=odd, refills=4, prompts=3)
    assert (ids(groups), ids(cursor.surplus), cursor.next) == ([1, 3, 5], [], 7)
    groups, cursor, _ = gather(Counting(), Cursor(1), keep=odd, refills=4, prompts=5)
    assert (ids(groups), ids(cursor.surplus), cursor.next) == ([1, 3, 5, 7, 9], [], 11)


def test_surplus_is_used_first_and_may_be_enough() -> None:
    everything, _, _ = gather(Counting(), prompts=5)
    groups, cursor, report = gather(Counting(), Cursor(5, everything), prompts=2)
    assert (ids(groups), ids(cursor.surplus), cursor.next) == ([0, 1], [2, 3, 4], 5)
    assert report == Collected()
    groups, cursor, report = gather(Counting(), cursor, prompts=4)
    assert (ids(groups), ids(cursor.surplus), cursor.next) == ([2, 3, 4, 5], [6, 7, 8], 9)


@pytest.mark.parametrize("refills", [0, 1, 3])
def test_refilling_is_bounded(refills: int) -> None:
    groups, cursor, report = gather(Counting(), keep=lambda groups: [], refills=refills)
    assert report.refused
    assert ids(groups) == list(range(4 * refills, 4 * refills + 4)), (
        "the last groups drawn, so that they can be inspected"
    )
    assert cursor == Cursor(next=4 * (1 + refills))
    assert (report.refill_rounds, report.dropped_groups) == (refills, 4 * (1 + refills))
    groups, _, report = gather(Counting(), keep=lambda groups: groups[:1], refills=refills)
    assert not report.refused
    assert len(groups) == min(4, 1 + refills)  # the batch stays short


def test_a_cursor_survives_its_checkpoint() -> None:
    task = Counting(lambda i, text: Reward(0.25, {"answer": 1.0}))
    surplus, _, _ = gather(task)
    cursor = Cursor(17, surplus)
    file = io.BytesIO()
    torch.save(cursor.state_dict(), file)
    file.seek(0)
    again = Cursor.from_state(torch.load(file, weights_only=True))
    assert again == cursor
    assert again.surplus[0][0].problem.fields == {"i": 0, "pair": (1, 2)}
    assert gather(task, again, prompts=9)[0] == gather(task, cursor, prompts=9)[0]


def test_a_group_is_graded_as_soon_as_it_is_sampled() -> None:
    """Verdicts are collected at the end, in the order of the problems, not of the groups' ends."""
    events: list[str] = []

    class Backwards(ScriptedSampler):
        def generate(
            self, requests: Sequence[Request], params: SamplingParams, done: Done | None = None
        ) -> list[list[Completion]]:
            found = super().generate(requests, params)
            assert done is not None
            for i in reversed(range(len(requests))):
                events.append(f"{i} ends")
                done(i, found[i])
            return found

    class Noting(LocalGrader):
        def submit(self, key: Any, problems: Sequence[Problem], texts: Sequence[str]) -> None:
            events.append(f"{key} graded")
            super().submit(key, problems, texts)

    task = GuardedTask(Counting(), "counting", {})
    script = Backwards(lambda prompt, sample: f"{prompt}:{sample}", encode, decode)
    player = Player(task, script, encode, "compact", Noting(task))
    problems = [task.problem("train", i) for i in range(2)]
    groups = player.play(problems, PARAMS, 5, Collected())
    assert events == ["1 ends", "1 graded", "0 ends", "0 graded"]
    assert [(g[0].group, g[0].completion.text, g[0].reward.value) for g in groups] == [
        (5, "0:0", 0.0),
        (6, "1:0", 1.0),
    ]


@pytest.mark.parametrize("first", [1, 3, 5, 8])
def test_a_script_goes_on_in_the_next_turn(first: int) -> None:
    """Two turns with nothing between them equal one turn, with the same or another sampler."""
    one = sampler()
    ((whole,),) = one.generate([Request(tuple(encode("12345")), 4, (1,))], PARAMS)
    assert whole.text == "12345:1"
    ((turn,),) = one.generate(
        [Request(tuple(encode("12345")), 4, (1,))], replace(PARAMS, max_tokens=first)
    )
    later = Request(tuple(encode("12345")) + turn.token_ids, 4, (1,), position=first)
    for other in (one, sampler()):
        ((rest,),) = other.generate([later], PARAMS)
        assert rest.text == "12345:1"[first:], "a position of 0 would repeat everything"
        assert extend(turn, (), rest) == whole


def test_a_script_stops_at_a_stop_string_and_goes_on_after_it() -> None:
    one = sampler(lambda prompt, sample: f"ask {prompt}\nsay {sample}\n")
    params, prompt = replace(PARAMS, stop=("\n",), max_tokens=20), tuple(encode("7"))
    ((turn,),) = one.generate([Request(prompt, 0, (2,))], params)
    assert (turn.text, turn.finish_reason) == ("ask 7\n", "stop")
    answered = prompt + turn.token_ids + tuple(encode("it is 9\n"))
    ((turn,),) = one.generate([Request(answered, 0, (2,), turn.length)], params)
    assert (turn.text, turn.finish_reason) == ("say 2\n", "stop")


def written(ids: tuple[int, ...], version: int, reason: FinishReason = "stop") -> Completion:
    count = len(ids)
    return Completion(ids, (True,) * count, (-0.5,) * count, decode(ids), reason, version, version)


def test_turns_are_joined_by_hand() -> None:
    begun = written((65, 66), 3)
    joined = extend(begun, (90,), written((67, 68, 69), 4, "length"), "Z")
    assert joined == Completion(
        token_ids=(65, 66, 90, 67, 68, 69),
        loss_mask=(True, True, False, True, True, True),
        sampled_logprobs=(-0.5, -0.5, 0.0, -0.5, -0.5, -0.5),
        text="ABCDE",
        finish_reason="length",
        first_version=3,
        last_version=4,
        turns=(
            Turn(0, 2, text="AB"),
            Turn(2, 3, by_model=False, text="Z"),
            Turn(3, 6, text="CDE"),
        ),
    )
    assert joined.length == 5
    assert joined.transcript == "ABZCDE"
    assert begun == written((65, 66), 3), "the first turn is left as it was"

    longer = extend(joined, (), written((70,), 4))
    assert longer.turns == (*joined.turns[:2], Turn(3, 7, text="CDEF"))
    third = extend(longer, (91, 92), written((71,), 5), "[]")
    assert third.turns[3:] == (Turn(7, 9, by_model=False, text="[]"), Turn(9, 10, text="G"))
    assert third.transcript == "ABZCDEF[]G"
    assert (third.length, third.text, third.last_version) == (7, "ABCDEFG", 5)
    assert third.length == sum(third.loss_mask)


def test_what_an_environment_says_is_neither_counted_nor_graded() -> None:
    class Answered(ScriptedSampler):
        def generate(
            self, requests: Sequence[Request], params: SamplingParams, done: Done | None = None
        ) -> list[list[Completion]]:
            found = [
                [extend(c, encode("heard you"), written((33,), 0)) for c in group]
                for group in super().generate(requests, params)
            ]
            for i, group in enumerate(found):
                assert done is not None
                done(i, group)
            return found

    task = GuardedTask(Counting(lambda i, text: "heard" in text), "counting", {})
    player = Player(task, Answered(lambda *_: "abc", encode, decode), encode, "compact")
    report = Collected()
    (group,) = player.play([task.problem("train", 0)], PARAMS, 0, report)
    assert [r.reward.value for r in group] == [0.0] * 3
    assert report.generated_tokens == 3 * 4
    assert completion_metrics(task, [group])["response_length"] == 4


def test_versions_come_along() -> None:
    one = sampler()
    one.load_weights((), 7)
    with pytest.raises(ValueError, match="not newer"):
        one.load_weights((), 7)
    (group,) = tiny.sample(one, [encode("5")], replace(PARAMS, n=2))
    assert {(c.first_version, c.last_version) for c in group} == {(7, 7)}


def filled_slowly(
    kept: list[bool], prompts: int, refills: int, ungraded: set[int]
) -> tuple[list[int], list[int], int, int, bool]:
    """Fill one batch by the rules, problem by problem: groups, surplus, next, rounds, refused."""
    chosen: list[int] = []
    last: list[int] = []
    position = rounds = 0
    while len(chosen) < prompts and rounds <= refills:
        last = list(range(position, position + prompts))
        chosen += [i for i in last if kept[i % len(kept)] and i not in ungraded]
        position += prompts
        rounds += 1
    if not chosen:
        return [i for i in last if i not in ungraded][:prompts], [], position, rounds, True
    return chosen[:prompts], chosen[prompts:], position, rounds, False


@settings(deadline=None, max_examples=60)
@given(
    kept=st.lists(st.booleans(), min_size=1, max_size=9),
    prompts=st.integers(1, 5),
    refills=st.integers(0, 3),
    raising=st.sets(st.integers(0, 30)),
    ungraded=st.sets(st.integers(0, 30)),
    steps=st.integers(1, 3),
)
def test_any_batch_is_filled_by_the_rules(
    kept: list[bool],
    prompts: int,
    refills: int,
    raising: set[int],
    ungraded: set[int],
    steps: int,
) -> None:
    def worth(i: int, text: str) -> Reward:
        if i in ungraded:
            raise Ungraded
        if i in raising:
            raise ValueError
        return Reward(float(i % 2))

    def keep(groups: list[Group]) -> list[Group]:
        return [g for g in groups if g and kept[g[0].problem.fields["i"] % len(kept)]]

    one = Player(GuardedTask(Counting(worth), "counting", {}), sampler(), encode, "compact")
    source = Source(one, keep, prompts=prompts, params=PARAMS, refills=refills)
    drawn = 0
    seen: list[int] = []
    for step in range(steps):
        before, surplus = source.cursor.next, ids(source.cursor.surplus)
        need = prompts - len(surplus)
        try:
            groups = source.take(step)
        except UserError:  # nothing at all could be graded
            return
        report = source.collected
        if need > 0:
            shifted = [kept[(before + i) % len(kept)] for i in range(prompts * (refills + 1))]
            unable = {i - before for i in ungraded}
            whole = [i for i in range(len(shifted)) if shifted[i] and i not in unable]
            rounds = next(
                (r for r in range(1, refills + 2) if sum(i < r * prompts for i in whole) >= need),
                refills + 1,
            )
            expected = surplus + [before + i for i in whole if i < rounds * prompts]
            assert source.cursor.next == before + rounds * prompts
            assert report.refill_rounds == rounds - 1
            assert report.refused == (not expected)
            drawn = rounds * prompts
            graded = [i for i in range(before, before + drawn) if i not in ungraded]
            assert report.graded == PARAMS.n * len(graded)
            assert report.ungraded == PARAMS.n * (drawn - len(graded))
            assert report.raised == PARAMS.n * len([i for i in graded if i in raising])
        else:
            expected = surplus
            assert source.cursor.next == before
        if not report.refused:
            assert ids(groups) == expected[:prompts]
            assert ids(source.cursor.surplus) == expected[prompts:]
            seen += ids(groups)
        for group in groups:
            assert len(group) == PARAMS.n
            if group[0].problem.fields["i"] in raising:
                assert {r.reward.failure for r in group} == {"raised"}
    assert len(seen) == len(set(seen)), "no draw is trained on twice"


def test_filling_from_the_start_agrees_with_a_slow_reference() -> None:
    rng = random.Random(0)
    for _ in range(50):
        kept = [rng.random() < 0.4 for _ in range(rng.randint(1, 9))]
        prompts, refills = rng.randint(1, 5), rng.randint(0, 3)

        def keep(groups: list[Group], kept: list[bool] = kept) -> list[Group]:
            return [g for g in groups if kept[g[0].problem.fields["i"] % len(kept)]]

        groups, cursor, report = gather(Counting(), keep=keep, prompts=prompts, refills=refills)
        found = (ids(groups), ids(cursor.surplus), cursor.next, report.refill_rounds + 1)
        assert (*found, report.refused) == filled_slowly(kept, prompts, refills, set())
