"""Player plays problems: problem, prompt, completions, rewards. Source fills a step's batch with groups.

An answer whose grader raises or hangs is wrong and is counted. Only an answer that could not be graded
for a reason of its own (`Ungraded`) is left out, after it was tried again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from tinyzero.errors import UserError, asking
from tinyzero.grading import Grader, LocalGrader, Verdict
from tinyzero.tasks.base import Task
from tinyzero.types import (
    Completion,
    Group,
    Learner,
    Problem,
    Prompt,
    Reward,
    Rollout,
    Sampler,
    SamplingParams,
    Turn,
    requests_for,
)

if TYPE_CHECKING:
    pass

TooLong = Literal["skip", "error"]

MOST_SKIPPED = 1000  # prompts in a row that do not fit

ATTEMPTS = 3  # at grading an answer that could not be graded


@dataclass
class Tally:
    """What it took to play some problems."""

    generated_tokens: int = 0
    graded: int = 0
    raised: int = 0
    timeouts: int = 0
    ungraded: int = 0
    first_error: str = ""

    @property
    def failed(self) -> int:
        """Answers whose grader raised or hung. They earned 0 and count as wrong."""
        return self.raised + self.timeouts

    def metrics(self) -> dict[str, int]:
        """The counts as records hold them."""
        return {
            "grading/raised": self.raised,
            "grading/timeout": self.timeouts,
            "grading/ungraded": self.ungraded,
        }

    def count(self, verdicts: Iterable[Verdict]) -> None:
        """Add the verdicts on some answers."""
        for verdict in verdicts:
            failure = verdict.reward.failure if verdict.reward else None
            self.graded += verdict.reward is not None
            self.ungraded += verdict.reward is None
            self.raised += failure == "raised"
            self.timeouts += failure == "timeout"
            self.first_error = self.first_error or verdict.error


@dataclass
class Cursor:
    """How far the train split is consumed, and surplus groups kept for the next step. Part of the checkpoint."""

    next: int = 0
    surplus: list[Group] = field(default_factory=list)

    def state_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "next": self.next,
            "surplus": [[asdict(r) for r in group] for group in self.surplus],
        }

    @staticmethod
    def from_state(state: dict[str, Any]) -> Cursor:
        """The inverse of `state_dict`."""

        def rollout(r: dict[str, Any]) -> Rollout:
            completion = {**r["completion"], "turns": [Turn(**t) for t in r["completion"]["turns"]]}
            return Rollout(
                Problem(**r["problem"]),
                tuple(r["prompt_ids"]),
                Completion(**{**completion, "turns": tuple(completion["turns"])}),
                Reward(**r["reward"]),
                r["group"],
            )

        return Cursor(state["next"], [[rollout(r) for r in group] for group in state["surplus"]])


class Player:
    """Plays problems of one task with one sampler: poses, samples, grades.

    Training, evaluation, `sample`, `play` and the web page all use it. `encode` turns a prompt into
    token ids, `template` names the prompt's form, and `grader` is where rewards are computed.
    A prompt and its answer must fit into `context` tokens (None: there is no limit); `too_long` says
    whether problems that do not fit are skipped, or an error.
    """

    def __init__(
        self,
        task: Task,
        sampler: Sampler,
        encode: Callable[[Prompt], Sequence[int]],
        template: str,
        grader: Grader | None = None,
        context: int | None = None,
        too_long: TooLong = "skip",
    ) -> None:
        self.task, self.sampler, self.encode, self.template = task, sampler, encode, template
        self.context, self.too_long = context, too_long
        self.grader = grader or LocalGrader(task)

    def prompt_ids(self, problem: Problem) -> tuple[int, ...]:
        """The token ids that pose `problem`."""
        return tuple(self.encode(self.task.prompt(problem, self.template)))

    def fits(self, problem: Problem, params: SamplingParams) -> bool:
        """Whether the prompt of `problem` and an answer of full length fit into the model's context.

        Raises UserError instead of returning False if `too_long` is "error".
        """
        if self.context is None:
            return True
        length = len(self.prompt_ids(problem))
        if length + params.max_tokens <= self.context:
            return True
        if self.too_long == "error":
            raise UserError(
                f"problem {problem.id!r} has a prompt of {length} tokens: with max_tokens "
                f"{params.max_tokens} it exceeds the model's context of {self.context}"
            )
        return False

    def play(
        self,
        problems: Sequence[Problem],
        params: SamplingParams,
        first_group: int,
        tally: Tally,
        sampled: Callable[[], None] | None = None,
    ) -> list[Group]:
        """One group of `params.n` rollouts for each problem. Answers that stay ungraded are left out.

        A group goes to the grader as soon as it is sampled, while others are still being written.
        """
        prompts = [self.prompt_ids(problem) for problem in problems]
        params = replace(params, stop=tuple(self.task.stop))

        handed: set[int] = set()

        def grade(i: int, completions: list[Completion]) -> None:
            handed.add(i)
            self._submit(i, problems[i], completions)
            if sampled:
                sampled()

        requests = requests_for(prompts, params.n, first_group)
        with asking(self.sampler):
            sampled = self.sampler.generate(requests, params, done=grade)
        if left := set(range(len(requests))) - handed:
            raise UserError(
                f"{type(self.sampler).__name__} never called done({min(left)}, completions): "
                "call it once for each request"
            )
        groups: list[Group] = []
        for i, (problem, prompt) in enumerate(zip(problems, prompts, strict=True)):
            verdicts = self._verdicts(i, problem, sampled[i], tally)
            groups.append(_group(problem, prompt, sampled[i], verdicts, first_group + i))
        return groups

    def stream(self, prompt_ids: Sequence[int], params: SamplingParams) -> Iterator[str]:
        """One answer as text that grows, token by token."""
        return self.sampler.stream(prompt_ids, replace(params, stop=tuple(self.task.stop)))

    def judge(self, problem: Problem, text: str) -> Verdict:
        """The verdict on one answer."""
        return judge(self.grader, problem, text)

    def _submit(self, key: int, problem: Problem, completions: Sequence[Completion]) -> None:
        self.grader.submit(key, [problem] * len(completions), [c.text for c in completions])

    def _verdicts(
        self, key: int, problem: Problem, completions: Sequence[Completion], tally: Tally
    ) -> list[Verdict]:
        """The group's verdicts; what could not be graded is tried again."""
        verdicts = self.grader.collect(key)
        for _ in range(ATTEMPTS - 1):
            if all(verdict.reward for verdict in verdicts):
                break
            self._submit(key, problem, completions)
            again = self.grader.collect(key)
            verdicts = [
                old if old.reward else new for old, new in zip(verdicts, again, strict=True)
            ]
        tally.count(verdicts)
        tally.generated_tokens += sum(c.length for c in completions)
        return verdicts


def judge(grader: Grader, problem: Problem, text: str) -> Verdict:
    """The verdict of `grader` on one answer."""
    key = object()  # other threads may ask at the same time
    grader.submit(key, [problem], [text])
    return grader.collect(key)[0]


def extend(
    completion: Completion, environment_ids: Sequence[int], next_completion: Completion
) -> Completion:
    """`completion` with what the environment answered and the model's next turn.

    The environment's tokens are there to be read: they are not trained on, and neither the length nor
    the text that a reward sees counts them. If there are none, the model's turn has only gone on, and
    the result equals one turn. Example: extending tokens 5 6 by (7,) and a turn of 8 9 gives tokens
    5 6 7 8 9, of which the 7 is masked, and turns 0-2, 2-3 (not by the model) and 3-5.
    """
    given = len(environment_ids)
    middle = len(completion.token_ids) + given
    end = middle + len(next_completion.token_ids)
    turns = completion.turns
    if given:
        before = turns or (Turn(0, middle - given),)
        turns = (*before, Turn(middle - given, middle, by_model=False), Turn(middle, end))
    elif turns:
        turns = (*turns[:-1], replace(turns[-1], end=end))
    return Completion(
        token_ids=(*completion.token_ids, *environment_ids, *next_completion.token_ids),
        loss_mask=(*completion.loss_mask, *[False] * given, *next_completion.loss_mask),
        sampled_logprobs=(
            *completion.sampled_logprobs,
            *[0.0] * given,
            *next_completion.sampled_logprobs,
        ),
        text=completion.text + next_completion.text,
        finish_reason=next_completion.finish_reason,
        first_version=completion.first_version,
        last_version=next_completion.last_version,
        turns=turns,
    )


@dataclass
class Collected(Tally):
    """What it took to fill one batch."""

    refill_rounds: int = 0
    dropped_groups: int = 0
    skipped_prompts: int = 0
    """Problems left out because they do not fit into the model's context."""
    refused: bool = False
    """The algorithm kept no group at all: those it was given are returned, to be looked at and not trained on."""


class Source:
    """Fills batches from the train split: `take` draws, plays and keeps groups until a batch is full.

    `cursor` counts the problems that were consumed and holds surplus groups. It numbers the groups, so
    (seed, group, sample) never repeats within a run.
    """

    def __init__(
        self,
        player: Player,
        keep: Callable[[list[Group]], list[Group]],
        *,
        prompts: int,
        params: SamplingParams,
        refills: int = 0,
        clock: Callable[[str], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self.player, self.keep = player, keep
        self.prompts, self.params, self.refills = prompts, params, refills
        self.clock = clock
        self.cursor = Cursor()
        self.collected = Collected()

    def take(self, step: int) -> list[Group]:
        """`prompts` groups of `params.n` rollouts each, for step `step`.

        Groups that `keep` drops are replaced by drawing on, at most `refills` times; then the batch stays
        short. If none at all was kept it holds the last ones drawn, and `collected.refused` is set.
        Surplus groups wait in the cursor for the next step. Raises UserError if no answer could be graded.
        """
        with self.clock("sample"):
            return self._take()

    def _take(self) -> list[Group]:
        kept, position, report = list(self.cursor.surplus), self.cursor.next, Collected()
        rounds, groups = 0, list[Group]()
        while len(kept) < self.prompts and rounds <= self.refills:
            problems, after = self._draw(position, report)
            groups = self.player.play(problems, self.params, position, report)
            position = after
            chosen = [g for g in self.keep(groups) if g]
            report.dropped_groups += len(groups) - len(chosen)
            kept += chosen
            rounds += 1
        report.refill_rounds = max(0, rounds - 1)

        if not kept:  # a solved task has no group worth keeping, and must not stop the run
            kept, report.refused = [g for g in groups if len(g) == self.params.n], True
        if not any(kept):
            raise UserError(
                f"{report.ungraded} answers could not be graded and no whole group is left, "
                f"first: {report.first_error}"
            )
        self.cursor, self.collected = Cursor(position, kept[self.prompts :]), report
        return kept[: self.prompts]

    def _draw(self, position: int, report: Collected) -> tuple[list[Problem], int]:
        """The next problems from index `position` on that fit the context, and the index after them."""
        problems = list[Problem]()
        skipped = 0  # in a row
        while len(problems) < self.prompts:
            problem = self.player.task.problem("train", position)
            position += 1
            if self.player.fits(problem, self.params):
                problems.append(problem)
                skipped = 0
                continue
            skipped += 1
            report.skipped_prompts += 1
            if skipped == MOST_SKIPPED:
                raise UserError(
                    f"{skipped} prompts in a row do not fit into the model's context: lower max_tokens"
                )
        return problems, position

    def publish(self, policy: Learner, version: int) -> None:
        """Give the sampler the policy's weights, or only their version if it shares them."""
        sampler = self.player.sampler
        with self.clock("publish"):
            weights = () if sampler.shares_weights else policy.named_weights()
            sampler.load_weights(weights, version)


def _group(
    problem: Problem,
    prompt: tuple[int, ...],
    completions: Sequence[Completion],
    verdicts: Sequence[Verdict],
    group: int,
) -> Group:
    """The rollouts of one draw; what could not be graded is left out."""
    return [
        Rollout(problem, prompt, completion, _with_truncation(verdict.reward, completion), group)
        for completion, verdict in zip(completions, verdicts, strict=True)
        if verdict.reward
    ]


def _with_truncation(reward: Reward, completion: Completion) -> Reward:
    """The reward with the part `truncated`."""
    truncated = float(completion.finish_reason == "length")
    return replace(reward, parts={**reward.parts, "truncated": truncated})
