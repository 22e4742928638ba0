"""Completions of several turns: episodes, tools, their limits, and what is trained and paid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import refused

from tinyzero.algorithms import load_algorithm, stages
from tinyzero.algorithms.advantages import gae
from tinyzero.batching import collate
from tinyzero.errors import Ungraded, UserError
from tinyzero.evaluate import completion_metrics
from tinyzero.grading import LocalGrader, TaskReference, WorkerPool
from tinyzero.rollouts import Cursor, Player, Source, Tally
from tinyzero.run.progress import rollout_record
from tinyzero.samplers.scripted import ScriptedSampler
from tinyzero.tasks import load_task
from tinyzero.tasks.base import Task
from tinyzero.tasks.check import examine
from tinyzero.tasks.guarded import GuardedTask
from tinyzero.types import Group, Problem, Prompt, Reward, SamplingParams, Split, Turn

EPISODES = str(Path(__file__).parent / "toy_episodes.py")
PARAMS = SamplingParams(max_tokens=60, n=1)


def encode(prompt: Prompt) -> list[int]:
    assert isinstance(prompt, str)
    return [ord(character) for character in prompt]


def decode(ids: Sequence[int]) -> str:
    return "".join(map(chr, ids))


def played(
    task: GuardedTask,
    script: Callable[[str, int], str],
    params: SamplingParams = PARAMS,
    problems: int = 1,
    **more: Any,
) -> tuple[list[Group], Tally]:
    """The groups of the first problems, when the model says what the script says."""
    player = Player(task, ScriptedSampler(script, encode, decode), encode, "compact", **more)
    tally = Tally()
    drawn = [task.problem("train", index) for index in range(problems)]
    return player.play(drawn, params, 0, tally), tally


def calculator(name: str = "multiplication", **options: Any) -> GuardedTask:
    return load_task(name, {"tool": "calculator", **options})


def product(task: GuardedTask) -> tuple[int, int]:
    fields = task.problem("train", 0).fields
    return fields["a"], fields["b"]


def test_a_calculator_continues_the_models_turn() -> None:
    task = calculator()
    a, b = product(task)
    [[rollout]], tally = played(task, lambda *_: f"{a}*{b}=\n</think>\n<answer>{a * b}</answer>")

    completion = rollout.completion
    assert completion.transcript == f"{a}*{b}={a * b}\n</think>\n<answer>{a * b}</answer>"
    assert completion.text == completion.transcript.replace(f"={a * b}", "=")
    assert [turn.by_model for turn in completion.turns] == [True, False, True]
    assert rollout.reward.value == 1
    assert tally.generated_tokens == completion.length == len(completion.text)

    for turn in completion.turns:
        mask = completion.loss_mask[turn.start : turn.end]
        assert set(mask) == {turn.by_model}
        assert decode(completion.token_ids[turn.start : turn.end]) == turn.text


@pytest.mark.parametrize("answer", ["<answer>{a}*{b}=</answer>", "<answer>{a}*{b}="])
def test_what_a_tool_says_is_never_paid(answer: str) -> None:
    task = calculator()
    a, b = product(task)
    said = "</think>" + answer.format(a=a, b=b)
    [[rollout]], _ = played(task, lambda *_: said)
    assert str(a * b) in rollout.completion.transcript
    assert rollout.reward.value == 0


def test_an_answer_echoed_by_a_tool_earns_nothing() -> None:
    task = load_task("multiplication", {"tool": f"{EPISODES}:Echo"})
    a, b = product(task)
    said = f"</think>echo <answer>{a * b}</answer>"  # the task's stop string comes first
    [[rollout]], _ = played(task, lambda *_: said, grader=LocalGrader(task))
    assert rollout.reward.value == 1

    [[rollout]], _ = played(task, lambda *_: "</think>Solve!", grader=LocalGrader(task))
    assert rollout.completion.transcript.endswith("<answer>1</answer>")
    assert rollout.reward.value == 0


def guessing(name: str = "Guess") -> GuardedTask:
    return load_task(f"{EPISODES}:{name}")


def test_the_environment_answers_until_it_is_over() -> None:
    task = guessing()
    script = ["50!", "75!", "62!x"]
    [[rollout]], _ = played(task, lambda *_: "".join(script), grader=LocalGrader(task), problems=1)
    assert rollout.completion.transcript == "50!higher 75!lower 62!"
    assert rollout.completion.finish_reason == "stop"
    assert rollout.reward.turns == pytest.approx((0.1, 0.1, 0.8))
    assert rollout.reward.value == pytest.approx(1.0)


def test_turns_are_counted_apart_from_what_the_environment_said() -> None:
    task = guessing()
    groups, _ = played(task, lambda *_: "50!62!", grader=LocalGrader(task))
    metrics = completion_metrics(task, groups)
    assert metrics["turns"] == 2
    assert metrics["response_length"] == len("50!62!")
    assert metrics["environment_tokens"] == len("higher ")

    record = rollout_record(0, "train", groups[0][0], "?")
    ((start, end),) = record["environment"]
    assert record["text"][start:end] == "higher "
    assert Cursor.from_state(Cursor(3, groups).state_dict()) == Cursor(3, groups)


@pytest.mark.parametrize(
    ("limit", "context", "turns", "reason"),
    [
        (6, None, 2, "length"),  # the budget counts the model's own tokens only
        (7, None, 3, "length"),
        (60, 4 + 3 + 7 + 3, 2, "length"),  # the context counts everything
        (60, 4 + 3 + 7, 1, "length"),
    ],
)
def test_budgets(limit: int, context: int | None, turns: int, reason: str) -> None:
    task = guessing()
    [[rollout]], _ = played(
        task,
        lambda *_: "50!75!50!75!",
        replace(PARAMS, max_tokens=limit),
        grader=LocalGrader(task),
        context=context,
    )
    completion = rollout.completion
    assert sum(turn.by_model for turn in completion.turns) == turns or turns == 1
    assert completion.length <= limit
    assert completion.finish_reason == reason
    if context is not None:
        assert len(rollout.prompt_ids) + len(completion.token_ids) <= context


def test_the_number_of_turns_is_limited() -> None:
    task = guessing()
    [[rollout]], _ = played(task, lambda *_: "50!" * 9, grader=LocalGrader(task))
    assert sum(turn.by_model for turn in rollout.completion.turns) == task.max_turns == 4
    assert rollout.completion.finish_reason == "length"
    assert rollout.completion.turns[-1].by_model


def test_the_end_token_ends_a_conversation_of_plain_text() -> None:
    task = guessing()
    [[rollout]], _ = played(task, lambda *_: "50!7", grader=LocalGrader(task))
    assert rollout.completion.transcript == "50!higher 7"
    assert rollout.completion.finish_reason == "stop"
    assert rollout.reward.right is False


@pytest.mark.parametrize("where", ["here", "workers"])
@pytest.mark.parametrize(
    ("word", "failure", "error"),
    [
        ("raise", "raised", "ValueError: no"),
        ("number", "raised", "TypeError: the environment said 5"),
        ("surrogate", "raised", "UnicodeEncodeError"),
        ("long", "raised", "ValueError: the environment said 30000 characters"),
        ("badreward", "raised", "ValueError: the rewards of the turns add up to 0.5"),
        ("shares", "raised", "ValueError: the reward is divided among 3 turns, not 1"),
        ("badclose", "raised", "OSError: cannot close"),
    ],
)
def test_an_episode_that_fails_is_wrong(
    where: str, word: str, failure: str, error: str, pool: WorkerPool
) -> None:
    task = guessing("Faulty")
    grader = LocalGrader(task) if where == "here" else pool
    groups, tally = played(
        task,
        lambda prompt, sample: "1!" if sample else f"{word}!",
        replace(PARAMS, n=2),
        grader=grader,
    )
    bad, good = groups[0]
    assert (bad.reward.value, bad.reward.right, bad.reward.failure) == (0, False, failure)
    assert good.reward.value == 1
    assert tally.failed == 1
    assert tally.first_error.startswith(error)


@pytest.fixture(scope="module")
def pool() -> Any:
    task = guessing("Faulty")
    reference = TaskReference("tinyzero.tasks:load_task", task.name, task.given)
    with closing(WorkerPool(task, reference, workers=1, timeout=8, memory=1)) as made:
        yield made


def test_workers_play_as_this_process_does(pool: WorkerPool) -> None:
    task = guessing("Faulty")
    here, _ = played(task, lambda *_: "a!b!1!", grader=LocalGrader(task), problems=2)
    there, _ = played(task, lambda *_: "a!b!1!", grader=pool, problems=2)
    assert here == there
    assert here[0][0].completion.transcript == "a!1b!21!"


def test_an_episode_that_changes_its_mind_is_noticed(pool: WorkerPool) -> None:
    [[rollout]], tally = played(guessing("Faulty"), lambda *_: "random!x!1!", grader=pool)
    assert rollout.reward.failure == "raised"
    assert "when it was played again" in tally.first_error


def test_an_episode_that_hangs_costs_its_limit() -> None:
    task = guessing("Faulty")
    reference = TaskReference("tinyzero.tasks:load_task", task.name, task.given)
    with closing(WorkerPool(task, reference, workers=1, timeout=0.5, memory=1)) as grader:
        groups, tally = played(
            task,
            lambda prompt, sample: ["hang!", "die!", "1!"][sample],
            replace(PARAMS, n=3),
            grader=grader,
        )
    assert [r.reward.failure for r in groups[0]] == ["timeout", "raised", None]
    assert tally.timeouts == 1
    assert "the episode took longer than 0.5 s" in tally.first_error


def test_what_nobody_could_judge_drops_the_rollout_and_not_the_group() -> None:
    task = guessing("Faulty")
    groups, tally = played(
        task,
        lambda prompt, sample: ["offline!", "1!"][sample],
        replace(PARAMS, n=2),
        grader=LocalGrader(task),
    )
    assert len(groups[0]) == 1
    assert (tally.ungraded, tally.failed) == (1, 0)


class Logged(Task):
    """Counts the episodes that are open. The first two attempts at a turn `flaky!` fail."""

    stop = ("!",)

    def __init__(self) -> None:
        self.open = self.opened = 0

    def problem(self, split: Split, index: int) -> Problem:
        return Problem(str(index), {"i": index}, split, str(index))

    def prompt(self, problem: Problem, template: str) -> str:
        return "say"

    def episode(self, problem: Problem) -> Any:
        self.open += 1
        self.opened += 1
        return LoggedEpisode(self)

    def solution(self, problem: Problem) -> str:
        return "1!"


class LoggedEpisode:
    def __init__(self, task: Logged) -> None:
        self.task = task

    def step(self, said: str) -> str | None:
        if said == "flaky!" and self.task.opened < 3:
            raise Ungraded("no network")
        if said == "fail!":
            raise ValueError("no")
        return None if said == "1!" else "on"

    def reward(self) -> float:
        return 1.0

    def close(self) -> None:
        self.task.open -= 1


@pytest.mark.parametrize("script", ["a!1!", "a!fail!", "a!b", "a!flaky!1!", "a!" * 30])
def test_episodes_are_always_closed(script: str) -> None:
    owner = Logged()
    task = GuardedTask(owner, "logged", {})
    groups, tally = played(task, lambda *_: script)
    assert owner.open == 0
    assert len(groups[0]) == 1
    assert tally.ungraded == 0


def test_episodes_are_closed_if_the_sampler_fails() -> None:
    owner = Logged()

    def script(prompt: str, sample: int) -> str:
        if owner.open:
            raise KeyError("lost")
        return "a!1!"

    with pytest.raises(Exception, match="lost"):
        played(GuardedTask(owner, "logged", {}), script)
    assert owner.opened == 1
    assert owner.open == 0


def test_a_sampler_that_ignores_the_budget_is_rejected() -> None:
    class Talkative(ScriptedSampler):
        def generate(self, requests: Any, params: Any, done: Any = None) -> Any:
            return super().generate([replace(r, max_tokens=None) for r in requests], params, done)

    task = guessing()
    sampler = Talkative(lambda *_: "5!1234567", encode, decode)
    player = Player(task, sampler, encode, "compact", LocalGrader(task))
    with pytest.raises(UserError, match="respect Request"):
        player.play([task.problem("train", 0)], replace(PARAMS, max_tokens=7), 0, Tally())


def test_gae_with_rewards_of_turns_equals_numbers_worked_out_by_hand() -> None:
    """Tokens: 50! (3), higher (7, not trained), 62! (3). The turns earned 0.1 and 0.9."""
    task = guessing()
    groups, _ = played(task, lambda *_: "50!62!", grader=LocalGrader(task))
    assert groups[0][0].reward.turns == pytest.approx((0.1, 0.9))

    batch = collate(groups, 60)
    options = load_algorithm("ppo", {}).options
    rewards = stages.token_rewards(batch, options)
    first = len(groups[0][0].prompt_ids) - 1
    expected = torch.zeros(1, rewards.shape[1])
    expected[0, first + 2], expected[0, first + 12] = 0.1, 0.9
    torch.testing.assert_close(rewards, expected)

    values = torch.full_like(rewards, 0.5)
    values[0, first + 3 : first + 10] = 7.0  # never read: these tokens are the environment's
    advantages, returns = gae(rewards, values, batch.mask, gamma=1.0, lam=0.5)
    # last turn: delta = 0, 0, 0.4; A = 0.1, 0.2, 0.4. First turn: delta = 0, 0, 0.1;
    # A = 0.1 + 0.5 * 0.1 = 0.15, then halves of it.
    by_hand = torch.zeros_like(rewards)
    by_hand[0, first : first + 3] = torch.tensor([0.0375, 0.075, 0.15])
    by_hand[0, first + 10 : first + 13] = torch.tensor([0.1, 0.2, 0.4])
    torch.testing.assert_close(advantages, by_hand)
    torch.testing.assert_close(returns[0, first : first + 3], torch.tensor([0.5375, 0.575, 0.65]))


def test_rewards_of_turns_with_nothing_between_them_are_added() -> None:
    task = guessing("Silent")
    [[rollout]], _ = played(task, lambda *_: "a!b!1!", grader=LocalGrader(task))
    assert rollout.completion.turns == ()
    assert rollout.reward.turns == pytest.approx((1.0,))
    batch = collate([[rollout]], 60)
    assert batch.turn_rewards is not None
    assert batch.turn_rewards[0].nonzero().tolist() == [[batch.mask[0].nonzero().max().item()]]


def test_groups_are_reported_as_they_end() -> None:
    task = guessing()
    sampler = ScriptedSampler(lambda prompt, sample: "62!" if sample else "50!62!", encode, decode)
    player = Player(task, sampler, encode, "compact", LocalGrader(task))
    problems = [task.problem("train", index) for index in range(2)]
    seen: list[int] = []
    player.play(problems, replace(PARAMS, n=2), 0, Tally(), lambda: seen.append(1))
    assert len(seen) == 2


def test_perform_shows_the_turns_one_by_one() -> None:
    task = guessing()
    sampler = ScriptedSampler(lambda *_: "50!62!", encode, decode)
    player = Player(task, sampler, encode, "compact", LocalGrader(task))
    *turns, verdict = player.perform(task.problem("train", 0), PARAMS)
    assert [turn.text for turn in turns if isinstance(turn, Turn)] == ["50!", "higher ", "62!"]
    assert [turn.end for turn in turns if isinstance(turn, Turn)] == [3, 10, 13]
    assert not isinstance(verdict, Turn)
    assert verdict.reward is not None
    assert verdict.reward.value == pytest.approx(1)

    silent = guessing("Silent")
    player = Player(silent, sampler, encode, "compact", LocalGrader(silent))
    *turns, verdict = player.perform(silent.problem("train", 0), PARAMS)
    assert "".join(turn.text for turn in turns if isinstance(turn, Turn)) == "50!62!"


def test_a_source_keeps_the_turns_of_a_surplus() -> None:
    task = guessing()
    sampler = ScriptedSampler(lambda *_: "50!62!", encode, decode)
    player = Player(task, sampler, encode, "compact", LocalGrader(task))
    source = Source(player, lambda groups: groups, prompts=2, params=replace(PARAMS, n=2))
    source.cursor = Cursor(4, player.play([task.problem("train", 9)], PARAMS, 9, Tally()))
    groups = source.take(0)
    assert len(groups) == 2
    assert groups[0][0].completion.turns


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("40*6=", "240"),
        ("40*6=240,7*6=", "42"),
        ("(1+6)/2=", "7/2"),
        ("so 3 + 4 =", "7"),
        ("3-10=", "-7"),
        ("3+4=7=", ""),
        ("x=", ""),
        ("x3+4=", ""),
        ("1.5*2=", ""),
        ("1/0=", ""),
        ("9**9=", ""),
        ("=", ""),
        ("+".join(["1"] * 200) + "=", ""),
        ("9" * 100_000 + "=", ""),
    ],
)
def test_what_the_calculator_answers(text: str, answer: str) -> None:
    assert load_task("countdown", {"tool": "calculator"}).tool.answer(text) == answer  # type: ignore[union-attr]


def test_the_option_is_kept_and_described(capsys: pytest.CaptureFixture[str]) -> None:
    task = calculator("countdown", max_count=3)
    assert task.given["tool"] == "calculator"
    assert "tool" not in load_task("countdown").given
    assert task.trusted
    assert not load_task("countdown", {"tool": f"{EPISODES}:Echo"}).trusted

    assert "unknown tool 'abacus'" in refused(
        capsys, "check-task", "countdown", "--task.tool", "abacus"
    )
    said = refused(capsys, "check-task", f"{EPISODES}:Guess", "--task.tool", "calculator")
    assert "has its own episode" in said


def test_a_tool_and_episodes_pass_the_check() -> None:
    task = calculator()
    assert examine(task, problems=3).failures == []
    assert examine(guessing(), problems=3).failures == []


def test_a_reward_for_several_turns_needs_several_turns() -> None:
    class Divided(Logged):
        def reward(self, problem: Problem, text: str) -> Reward:
            return Reward(1.0, turns=(0.5, 0.5))

        def episode(self, problem: Problem) -> Any:
            return None

    task = GuardedTask(Divided(), "divided", {})
    [[rollout]], tally = played(task, lambda *_: "1!")
    assert rollout.reward.failure == "raised"
    assert "divided among 2 turns, not 1" in tally.first_error
    verdict = LocalGrader(Divided())
    verdict.submit("a", [rollout.problem], ["1!"])
    assert "divided among 2 turns, not 1" in verdict.collect("a")[0].error


def test_a_solution_is_graded_turn_by_turn_or_as_one_text() -> None:
    task = guessing()
    problem = task.problem("train", 0)
    for text in (["50!", "62!"], "50!62!", "62!", "62!50!"):
        assert task.reward(problem, text).value == 1
    for text in (["50!"], "50!", "62", "1!2!3!4!62!"):
        assert task.reward(problem, text).value == 0
