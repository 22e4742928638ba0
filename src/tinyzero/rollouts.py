"""From problems to rewarded rollouts: a Player samples and grades, a Source fills a step's batch.

An answer whose grader raises or hangs counts as wrong. Only an answer that could not be graded for
another reason (`Ungraded`) is left out, after grading was tried again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from tinyzero.errors import UserError, guarding
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

TooLong = Literal["skip", "error"]

MOST_SKIPPED = 1000  # prompts in a row that may not fit before that is an error

ATTEMPTS = 3  # at grading an answer


class UngradedStep(UserError):
    """Too many answers of a step could not be graded, so nothing may be learned from it."""


@dataclass
class Tally:
    """Counts of what was generated and graded while some problems were played."""

    generated_tokens: int = 0
    graded: int = 0
    raised: int = 0
    timeouts: int = 0
    ungraded: int = 0
    first_error: str = ""
    first_ungraded: str = ""

    @property
    def failed(self) -> int:
        """Number of answers whose grader raised or hung. They earned 0 and count as wrong."""
        return self.raised + self.timeouts

    def metrics(self) -> dict[str, int]:
        """The counts by their keys in the records."""
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
            if verdict.reward is None:
                self.first_ungraded = self.first_ungraded or verdict.error


@dataclass
class Cursor:
    """Position in the train split, and surplus groups for the next step. Checkpoints have both."""

    next: int = 0
    surplus: list[Group] = field(default_factory=list)

    def state_dict(self) -> dict[str, Any]:
        """The cursor as numbers, text, lists and dictionaries."""
        surplus = [[asdict(rollout) for rollout in group] for group in self.surplus]
        return {"next": self.next, "surplus": surplus}

    @staticmethod
    def from_state(state: dict[str, Any]) -> Cursor:
        """The inverse of `state_dict`."""

        position, groups = state["next"], state["surplus"]
        return Cursor(position, [[_rollout_from(saved) for saved in group] for group in groups])


def _rollout_from(saved: Mapping[str, Any]) -> Rollout:
    """The inverse of `asdict` for a rollout."""
    completion = dict(saved["completion"])
    completion["turns"] = tuple(Turn(**turn) for turn in completion["turns"])
    return Rollout(
        Problem(**saved["problem"]),
        tuple(saved["prompt_ids"]),
        Completion(**completion),
        Reward(**saved["reward"]),
        saved["group"],
    )


class Player:
    """Plays problems of one task with one sampler: it poses them, samples answers and grades them.

    Training, evaluation, `sample`, `play` and the web page all use it. `encode` turns a prompt into
    token ids, `template` names the form of the prompt, and `grader` computes the rewards. A prompt
    and its answer must fit into `context` tokens (None means no limit); `too_long` says whether a
    problem that does not fit is skipped or an error.

    Example: one group of four rollouts, all for problem 0 of the train split.

        player = Player(task, sampler, encode, "compact")
        problem = task.problem("train", 0)
        (group,) = player.play([problem], SamplingParams(n=4), first_group=0, tally=Tally())
        [rollout.reward.value for rollout in group]     # such as [0.0, 1.0, 0.0, 0.1]
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
        """Whether the prompt of `problem` and a full-length answer fit into the model's context.

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
        """One group of `params.n` rollouts per problem. Answers that stay ungraded are left out.

        Groups are numbered from `first_group` on. Each goes to the grader as soon as it is sampled,
        while others are still being written; `sampled` is then called. `tally` is added to.
        """
        prompts = [self.prompt_ids(problem) for problem in problems]
        params = replace(params, stop=tuple(self.task.stop))
        submitted: set[int] = set()

        def grade(i: int, completions: list[Completion]) -> None:
            submitted.add(i)
            self._submit(i, problems[i], completions)
            if sampled:
                sampled()

        requests = requests_for(prompts, params.n, first_group)
        with guarding(self.sampler):
            completions = self.sampler.generate(requests, params, done=grade)
        if missing := set(range(len(requests))) - submitted:
            raise UserError(
                f"{type(self.sampler).__name__} never called done({min(missing)}, completions): "
                "call it once for each request"
            )

        groups: list[Group] = []
        for i, (problem, prompt) in enumerate(zip(problems, prompts, strict=True)):
            verdicts = self._verdicts(i, problem, completions[i], tally)
            groups.append(_group(problem, prompt, completions[i], verdicts, first_group + i))
        return groups

    def stream(self, prompt_ids: Sequence[int], params: SamplingParams) -> Iterator[str]:
        """One answer as text that grows, token by token."""
        return self.sampler.stream(prompt_ids, replace(params, stop=tuple(self.task.stop)))

    def judge(self, problem: Problem, text: str) -> Verdict:
        """The verdict of this player's grader on one answer."""
        return judge(self.grader, problem, text)

    def _submit(self, key: int, problem: Problem, completions: Sequence[Completion]) -> None:
        texts = [completion.text for completion in completions]
        self.grader.submit(key, [problem] * len(completions), texts)

    def _verdicts(
        self, key: int, problem: Problem, completions: Sequence[Completion], tally: Tally
    ) -> list[Verdict]:
        """The verdicts on a group. What could not be graded is graded again, up to twice."""
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
        tally.generated_tokens += sum(completion.length for completion in completions)
        return verdicts


def require_graded(tally: Tally, most: float) -> None:
    """Raise UngradedStep if more than the share `most` of the answers could not be graded.

    >>> require_graded(Tally(graded=80, ungraded=20), most=0.2)
    """
    answers = tally.graded + tally.ungraded
    if tally.ungraded > most * answers:
        raise UngradedStep(
            f"{tally.ungraded} of {answers} answers could not be graded, first: "
            f"{tally.first_ungraded}; see to the grader"
        )


def judge(grader: Grader, problem: Problem, text: str) -> Verdict:
    """The verdict of `grader` on one answer."""
    key = object()  # other threads may ask at the same time
    grader.submit(key, [problem], [text])
    return grader.collect(key)[0]


def extend(
    completion: Completion, environment_ids: Sequence[int], next_completion: Completion
) -> Completion:
    """`completion`, then what the environment answered, then the model's next turn.

    The environment's tokens are only read: they are not trained on, and count neither for the
    length nor for the text that is graded. Without such tokens the model's turn simply continues,
    and the result equals one turn.

    Example: extending tokens 5 6 by (7,) and a turn of 8 9 gives tokens 5 6 7 8 9, and the 7 is
    masked. The turns are 0-2, 2-3 (not by the model) and 3-5.
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

    not_trained, no_logprobs = (False,) * given, (0.0,) * given
    return Completion(
        token_ids=(*completion.token_ids, *environment_ids, *next_completion.token_ids),
        loss_mask=(*completion.loss_mask, *not_trained, *next_completion.loss_mask),
        sampled_logprobs=(
            *completion.sampled_logprobs,
            *no_logprobs,
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
    """Counts of what it took to fill one batch."""

    refill_rounds: int = 0
    dropped_groups: int = 0
    skipped_prompts: int = 0
    """Problems left out because they do not fit into the model's context."""
    refused: bool = False
    """The algorithm kept no group at all. The last ones drawn are returned, but not trained on."""


class Source:
    """Fills batches from the train split: draws problems, plays them, and keeps groups.

    `keep` is the algorithm's choice of the groups worth training on. `cursor` holds the position in
    the split, which also numbers the groups, so that (seed, group, sample) never repeats in a run.
    If more than `most_ungraded` of a step's answers cannot be graded, `take` raises UngradedStep.
    """

    def __init__(
        self,
        player: Player,
        keep: Callable[[list[Group]], list[Group]],
        *,
        prompts: int,
        params: SamplingParams,
        refills: int = 0,
        most_ungraded: float = 1.0,
        clock: Callable[[str], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self.player, self.keep = player, keep
        self.prompts, self.params, self.refills = prompts, params, refills
        self.most_ungraded = most_ungraded
        self.clock = clock
        self.cursor = Cursor()
        self.collected = Collected()

    def take(self, step: int) -> list[Group]:
        """`prompts` groups of `params.n` rollouts each, for step `step`.

        If `keep` drops groups, more problems are drawn, at most `refills` times; after that the
        batch stays short. If no group at all was kept, the last ones drawn are returned and
        `collected.refused` is set. Surplus groups wait in the cursor for the next step. Raises
        UserError if no answer could be graded.
        """
        with self.clock("sample"):
            return self._take()

    def _take(self) -> list[Group]:
        kept, position = list(self.cursor.surplus), self.cursor.next
        collected = Collected()
        rounds, groups = 0, list[Group]()

        while len(kept) < self.prompts and rounds <= self.refills:
            problems, next_position = self._draw(position, collected)
            groups = self.player.play(problems, self.params, position, collected)
            position = next_position
            require_graded(collected, self.most_ungraded)

            chosen = [group for group in self.keep(groups) if group]
            collected.dropped_groups += len(groups) - len(chosen)
            kept += chosen
            rounds += 1
        collected.refill_rounds = max(0, rounds - 1)

        if not kept:  # a solved task has no group worth keeping, and that must not stop the run
            kept = [group for group in groups if len(group) == self.params.n]
            collected.refused = True
        if not any(kept):
            raise UserError(
                f"{collected.ungraded} answers could not be graded and no whole group is left, "
                f"first: {collected.first_error}"
            )

        self.cursor, self.collected = Cursor(position, kept[self.prompts :]), collected
        return kept[: self.prompts]

    def _draw(self, position: int, collected: Collected) -> tuple[list[Problem], int]:
        """The next problems from `position` that fit the context, and the position after them."""
        problems = list[Problem]()
        skipped_in_a_row = 0

        while len(problems) < self.prompts:
            problem = self.player.task.problem("train", position)
            position += 1
            if self.player.fits(problem, self.params):
                problems.append(problem)
                skipped_in_a_row = 0
                continue

            skipped_in_a_row += 1
            collected.skipped_prompts += 1
            if skipped_in_a_row == MOST_SKIPPED:
                raise UserError(
                    f"{skipped_in_a_row} prompts in a row do not fit into the model's context: "
                    "lower max_tokens"
                )
        return problems, position

    def publish(self, policy: Learner, version: int) -> None:
        """Give the sampler the policy's weights, or only their version if it reads them itself."""
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
    """The rollouts of one draw of a problem; answers that could not be graded are left out."""
    rollouts: Group = []
    for completion, verdict in zip(completions, verdicts, strict=True):
        if verdict.reward:
            reward = _with_truncation(verdict.reward, completion)
            rollouts.append(Rollout(problem, prompt, completion, reward, group))
    return rollouts


def _with_truncation(reward: Reward, completion: Completion) -> Reward:
    """The reward with one more part, `truncated`: 1 if the completion was cut at the limit."""
    truncated = float(completion.finish_reason == "length")
    return replace(reward, parts={**reward.parts, "truncated": truncated})
