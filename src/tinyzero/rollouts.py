"""From problems to rewarded rollouts: a Player samples and grades, a Source fills a step's batch.

An answer whose grader raises or hangs counts as wrong. Only an answer that could not be graded for
another reason (`Ungraded`) is left out, after grading was tried again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from tinyzero.curriculum import NO_CURRICULUM, Curriculum, LevelState
from tinyzero.errors import UserError, guarding
from tinyzero.grading import Grader, LocalGrader, Verdict
from tinyzero.streams import Counts, Streams
from tinyzero.tasks.base import Task
from tinyzero.turns import ATTEMPTS, EncodeReply, Row, TurnPlayer, merged_turns
from tinyzero.types import (
    Completion,
    Group,
    Learner,
    Problem,
    Prompt,
    Request,
    Reward,
    Rollout,
    Sampler,
    SamplingParams,
    Turn,
)

TooLong = Literal["skip", "error"]

MOST_SKIPPED = 1000  # prompts in a row that may not fit before that is an error


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
    """Where a run is in the train split, and surplus groups for the next step.

    Checkpoints hold it, so a run that was killed continues with the same problems and levels.
    """

    next: int = 0
    """Problems drawn so far: the number of the next group, and the index of its problem."""
    surplus: list[Group] = field(default_factory=list)
    indices: dict[str, int] = field(default_factory=dict)
    """The next index within each task, if the task is a mixture."""
    level_states: dict[str, LevelState] = field(default_factory=dict)
    """The place of each task in its curriculum, if there is one."""

    def copy(self) -> Cursor:
        """A cursor that can be advanced while this one stays."""
        return Cursor(self.next, list(self.surplus), dict(self.indices), dict(self.level_states))

    def state_dict(self) -> dict[str, Any]:
        """The cursor as numbers, text, lists and dictionaries."""
        surplus = [[asdict(rollout) for rollout in group] for group in self.surplus]
        level_states = {name: asdict(state) for name, state in self.level_states.items()}
        return {
            "next": self.next,
            "surplus": surplus,
            "indices": dict(self.indices),
            "level_states": level_states,
        }

    @staticmethod
    def from_state(state: dict[str, Any]) -> Cursor:
        """The inverse of `state_dict`."""
        position, groups = state["next"], state["surplus"]
        surplus = [[_rollout_from(saved) for saved in group] for group in groups]
        level_states = {
            name: LevelState(**saved) for name, saved in state.get("level_states", {}).items()
        }
        return Cursor(position, surplus, dict(state.get("indices", {})), level_states)


def _rollout_from(saved: Mapping[str, Any]) -> Rollout:
    """The inverse of `asdict` for a rollout."""
    completion = dict(saved["completion"])
    completion["turns"] = tuple(Turn(**turn) for turn in completion["turns"])
    reward = saved["reward"]
    return Rollout(
        Problem(**saved["problem"]),
        tuple(saved["prompt_ids"]),
        Completion(**completion),
        Reward(**{**reward, "turns": tuple(reward.get("turns", ()))}),
        saved["group"],
    )


class Player:
    """Plays problems of one task with one sampler: it poses them, samples answers and grades them.

    Training, evaluation, `sample`, `play` and the web page all use it. `encode` turns a prompt into
    token ids, `template` names the form of the prompt, and `grader` computes the rewards. A prompt
    and its answer must fit into `context` tokens (None means no limit); `too_long` says whether a
    problem that does not fit is skipped or an error. `encode_reply` turns what the environment of
    an episode says into token ids; by default `encode` does.

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
        encode_reply: EncodeReply | None = None,
    ) -> None:
        self.task, self.sampler, self.encode, self.template = task, sampler, encode, template
        self.context, self.too_long = context, too_long
        self.grader = grader or LocalGrader(task)
        self.encode_reply = encode_reply or (lambda prompt, reply, last_id: encode(reply))

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

    def check_turns(self, problem: Problem) -> None:
        """Raise UserError if the task has several turns that the chat template cannot render."""
        if not self.task.plays_episodes or self.task.inline:
            return
        prompt = self.task.prompt(problem, self.template)
        if not isinstance(prompt, str):
            self.encode_reply(prompt, "Continue.", None)

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
        if self.task.plays_episodes:
            return self._play_episodes(problems, params, first_group, tally, sampled)

        numbered = dict(enumerate(problems, first_group))
        by_stop: defaultdict[tuple[str, ...], dict[int, Problem]] = defaultdict(dict)
        for number, problem in numbered.items():
            by_stop[stop_strings(self.task, problem)][number] = problem

        groups: dict[int, Group] = {}
        for stop, own in by_stop.items():  # a mixture's tasks take turns, and are sampled together
            groups |= self._play(own, replace(params, stop=stop), tally, sampled)
        return [groups[number] for number in numbered]

    def _play(
        self,
        numbered: Mapping[int, Problem],
        params: SamplingParams,
        tally: Tally,
        sampled: Callable[[], None] | None,
    ) -> dict[int, Group]:
        """`play`, for problems by group number whose completions end with the same strings."""
        problems = list(numbered.values())
        prompts = [self.prompt_ids(problem) for problem in problems]
        submitted: set[int] = set()

        def grade(i: int, completions: list[Completion]) -> None:
            submitted.add(i)
            self._submit(i, problems[i], completions)
            if sampled:
                sampled()

        samples = tuple(range(params.n))
        requests = [
            Request(prompt, number, samples)
            for number, prompt in zip(numbered, prompts, strict=True)
        ]
        with guarding(self.sampler):
            completions = self.sampler.generate(requests, params, done=grade)
        if missing := set(range(len(requests))) - submitted:
            raise UserError(
                f"{type(self.sampler).__name__} never called done({min(missing)}, completions): "
                "call it once for each request"
            )

        groups: dict[int, Group] = {}
        for i, (number, problem) in enumerate(numbered.items()):
            verdicts = self._verdicts(i, problem, completions[i], tally)
            groups[number] = _group(problem, prompts[i], completions[i], verdicts, number)
        return groups

    def _play_episodes(
        self,
        problems: Sequence[Problem],
        params: SamplingParams,
        first_group: int,
        tally: Tally,
        sampled: Callable[[], None] | None,
    ) -> list[Group]:
        """The same as `play`, for a task whose problems may take several turns."""
        rows_of_group = [
            [self._row(problem, first_group + i, sample) for sample in range(params.n)]
            for i, problem in enumerate(problems)
        ]
        rows = [row for group in rows_of_group for row in group]
        running = len(rows_of_group)

        for _ in self._rounds(rows, params):
            still_running = sum(any(not row.is_over for row in group) for group in rows_of_group)
            for _ in range(running - still_running):
                if sampled:
                    sampled()
            running = still_running

        tally.count([row.verdict for row in rows if row.verdict])
        tally.generated_tokens += sum(row.completion.length for row in rows if row.completion)
        return [_group_of_rows(group) for group in rows_of_group]

    def _row(self, problem: Problem, group: int, sample: int) -> Row:
        prompt = self.task.prompt(problem, self.template)
        return Row(problem, prompt, tuple(self.encode(prompt)), group, sample)

    def _rounds(self, rows: Sequence[Row], params: SamplingParams) -> Iterator[None]:
        """Play some rows to their end; pauses after each round of turns."""
        params = replace(params, stop=tuple(self.task.stop))
        turns = TurnPlayer(
            self.task, self.sampler, self.grader, self.encode_reply, params, self.context
        )
        return turns.play(rows)

    def perform(self, problem: Problem, params: SamplingParams) -> Iterator[Turn | Verdict]:
        """One answer that may take several turns: each turn when it is over, then the verdict.

        Example: the pieces for a guessing game are a Turn of the model, one of the environment, and
        so on, and a Verdict at the end.
        """
        row = self._row(problem, 0, 0)
        start = 0
        for _ in self._rounds([row], params):
            assert row.completion is not None
            end = len(row.completion.token_ids)
            yield Turn(start, end, text=row.said[-1])

            start = end + len(row.reply_ids)
            if row.reply_ids:
                yield Turn(end, start, by_model=False, text=row.replies[-1])
        assert row.verdict is not None
        yield row.verdict

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


def stop_strings(task: Task, problem: Problem) -> tuple[str, ...]:
    """The strings that end a completion of `problem`: in a mixture, those of its own task."""
    part = task.mixture.get(problem.task)
    return tuple(part.task.stop if part else task.stop)


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


def judge(grader: Grader, problem: Problem, text: str | Sequence[str]) -> Verdict:
    """The verdict of `grader` on one answer, or on the turns of one."""
    key = object()  # other threads may ask at the same time
    texts: list[Any] = [text]  # a list of turns for an episode
    grader.submit(key, [problem], texts)
    return grader.collect(key)[0]


@dataclass
class Collected(Tally):
    """Counts of what it took to fill one batch."""

    refill_rounds: int = 0
    dropped_groups: int = 0
    skipped_prompts: int = 0
    """Problems left out because they do not fit into the model's context."""
    refused: bool = False
    """The algorithm kept no group at all. The last ones drawn are returned, but not trained on."""
    by_task: dict[str, float] = field(default_factory=dict)
    """Metrics of the tasks of a mixture, and of the levels of a curriculum, by key."""


class Source:
    """Fills batches from the train split: draws problems, plays them, and keeps groups.

    `keep` is the algorithm's choice of the groups worth training on. `cursor` holds the position in
    the split, which also numbers the groups, so that (seed, group, sample) never repeats in a run.

    If more than `most_ungraded` of a step's answers cannot be graded, `take` raises UngradedStep.

    The tasks of a mixture are streams with a quota of each step: if groups are dropped, their own
    task is drawn from again. Any other task is a single stream without a name. `curriculum` moves
    the level of each stream whose task has levels.
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
        curriculum: Curriculum = NO_CURRICULUM,
    ) -> None:
        self.player, self.keep = player, keep
        self.prompts, self.params, self.refills = prompts, params, refills
        self.most_ungraded = most_ungraded
        self.clock = clock
        self.streams = Streams(player.task, curriculum)
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
            return self._take(step)

    def _take(self, step: int) -> list[Group]:
        streams, cursor = self.streams, self.cursor.copy()
        quotas = streams.quotas(step, self.prompts)
        kept, played = cursor.surplus, list[Group]()
        collected, counts = Collected(), Counts()
        rounds, groups = 0, list[Group]()

        while (short := streams.short(quotas, kept)) and rounds <= self.refills:
            first_group = cursor.next
            problems = self._draw({name: quotas[name] for name in short}, cursor, collected)
            groups = self.player.play(problems, self.params, first_group, collected)
            require_graded(collected, self.most_ungraded)
            played += groups

            chosen = [group for group in self.keep(groups) if group]
            collected.dropped_groups += len(groups) - len(chosen)
            counts.add(streams, short, groups, chosen, is_refill=rounds > 0)
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

        taken, cursor.surplus = streams.divide(quotas, kept)
        collected.by_task = counts.metrics() | streams.advance(cursor.level_states, played)
        self.cursor, self.collected = cursor, collected
        return taken

    def _draw(
        self, quotas: Mapping[str, int], cursor: Cursor, collected: Collected
    ) -> list[Problem]:
        """The next problems of each stream that fit the context. `cursor` moves past them."""
        problems = list[Problem]()
        for name, count in quotas.items():
            for level in self.streams.levels(name, cursor.level_states, count):
                problems.append(self._draw_one(name, level, cursor, collected))
        return problems

    def _draw_one(
        self, name: str, level: int | None, cursor: Cursor, collected: Collected
    ) -> Problem:
        """The next problem of a stream that fits the context."""
        for _ in range(MOST_SKIPPED):
            index = cursor.indices.get(name, 0) if name else cursor.next
            problem = self.streams.problem(name, level, index)
            cursor.next += 1
            if name:
                cursor.indices[name] = index + 1

            if self.player.fits(problem, self.params):
                return problem
            collected.skipped_prompts += 1

        raise UserError(
            f"{MOST_SKIPPED} prompts in a row do not fit into the model's context: lower max_tokens"
        )

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


def _group_of_rows(rows: Sequence[Row]) -> Group:
    """The rollouts of one draw of a problem that took several turns."""
    rollouts: Group = []
    for row in rows:
        if row.completion and row.verdict and row.verdict.reward:
            reward = _with_truncation(merged_turns(row.verdict.reward, row.ends), row.completion)
            rollouts.append(Rollout(row.problem, row.prompt_ids, row.completion, reward, row.group))
    return rollouts


def _with_truncation(reward: Reward, completion: Completion) -> Reward:
    """The reward with one more part, `truncated`: 1 if the completion was cut at the limit."""
    truncated = float(completion.finish_reason == "length")
    return replace(reward, parts={**reward.parts, "truncated": truncated})
