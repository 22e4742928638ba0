"""collect(): problems -> prompts -> completions -> rewards, until the algorithm has its batch.

A reward that raises is counted and reported, and its rollout is left out of training: it is never a
silent zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from tinyzero.errors import UserError, asking, brief
from tinyzero.types import (
    Completion,
    Group,
    Problem,
    Prompt,
    Reward,
    Rollout,
    Sampler,
    SamplingParams,
    Task,
)


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
            return Rollout(
                Problem(**r["problem"]),
                tuple(r["prompt_ids"]),
                Completion(**r["completion"]),
                Reward(**r["reward"]),
                r["group"],
            )

        return Cursor(state["next"], [[rollout(r) for r in group] for group in state["surplus"]])


@dataclass
class Collected:
    """What it took to fill one batch."""

    generated_tokens: int = 0
    refill_rounds: int = 0
    dropped_groups: int = 0
    refused: bool = False
    """The algorithm kept no group at all: those it was given are returned, to be looked at and not trained on."""
    reward_errors: int = 0
    first_error: str = ""

    def require(self, groups: Sequence[Group]) -> None:
        """Raise UserError where the reward function raised so often that no group is left."""
        if self.reward_errors and not any(groups):
            raise UserError(
                f"the reward function raised on {self.reward_errors} completions and no whole group is left, "
                f"first: {self.first_error}"
            )


def collect(
    task: Task,
    sampler: Sampler,
    cursor: Cursor,
    *,
    encode: Callable[[Prompt], Sequence[int]],
    template: str,
    prompts: int,
    params: SamplingParams,
    keep: Callable[[list[Group]], list[Group]],
    refills: int = 0,
) -> tuple[list[Group], Cursor, Collected]:
    """`prompts` groups of `params.n` rollouts each, from the train split at `cursor`.

    Groups that `keep` drops are replaced by drawing on, at most `refills` times; then the batch stays
    short, and where none at all was kept it holds the last ones drawn, `refused`. Surplus groups wait in
    the cursor for the next step. Raises UserError where the reward function raised and no group is left.
    """
    kept, position, report = list(cursor.surplus), cursor.next, Collected()
    rounds, groups = 0, list[Group]()
    while len(kept) < prompts and rounds <= refills:
        with asking(task):
            problems = [task.problem("train", position + i) for i in range(prompts)]
        groups = roll_out(task, sampler, problems, encode, template, params, position, report)
        position += prompts
        chosen = [g for g in keep(groups) if g]
        report.dropped_groups += len(groups) - len(chosen)
        kept += chosen
        rounds += 1
    report.refill_rounds = max(0, rounds - 1)
    if not kept:  # a solved task has no group worth keeping, and must not stop the run
        kept, report.refused = [g for g in groups if len(g) == params.n], True
    report.require(kept)
    return kept[:prompts], Cursor(position, kept[prompts:]), report


def roll_out(
    task: Task,
    sampler: Sampler,
    problems: Sequence[Problem],
    encode: Callable[[Prompt], Sequence[int]],
    template: str,
    params: SamplingParams,
    first_group: int,
    report: Collected,
) -> list[Group]:
    """One group for each problem: sample, judge, count. Rollouts whose reward raised are left out."""
    with asking(task):
        posed = [task.prompt(problem, template) for problem in problems]
    prompts = [tuple(encode(prompt)) for prompt in posed]
    sampled = sampler.generate(prompts, params, first_group=first_group)
    judged = judge(
        task,
        [p for p in problems for _ in range(params.n)],
        [c for cs in sampled for c in cs],
        report,
    )
    groups: list[Group] = []
    for i, (problem, prompt) in enumerate(zip(problems, prompts, strict=True)):
        rewards = judged[i * params.n : (i + 1) * params.n]
        groups.append(
            [
                Rollout(problem, prompt, c, r, first_group + i)
                for c, r in zip(sampled[i], rewards, strict=True)
                if r
            ]
        )
        report.generated_tokens += sum(len(c.token_ids) for c in sampled[i])
    return groups


def judge(
    task: Task, problems: Sequence[Problem], completions: Sequence[Completion], report: Collected
) -> list[Reward | None]:
    """The reward of each completion with the part `truncated` added, or None where the function raised.

    A task with `rewards(problems, texts)` is asked once for all.
    """
    texts = [c.text for c in completions]
    batched: Callable[..., Any] | None = getattr(task, "rewards", None)
    found: list[Any] = []
    if batched:
        try:
            found = list(batched(problems, texts))
            if len(found) != len(texts):
                raise ValueError(f"{len(found)} rewards for {len(texts)} completions")
        except Exception as error:  # whatever a user's reward raises is counted, not fatal
            _count(report, error, len(texts))
            return [None] * len(texts)
    rewards: list[Reward | None] = []
    for i, completion in enumerate(completions):
        try:
            reward = _sound(found[i] if batched else task.reward(problems[i], texts[i]))
        except Exception as error:  # as above
            _count(report, error, 1)
            rewards.append(None)
        else:
            truncated = float(completion.finish_reason == "length")
            rewards.append(replace(reward, parts={**reward.parts, "truncated": truncated}))
    return rewards


def _sound(reward: Any) -> Reward:
    """`reward` in Python's own numbers, unless it is none, or holds one that would spoil every mean it enters."""
    if not isinstance(reward, Reward):
        raise TypeError(f"the reward is {reward!r}, not a Reward")
    sound = Reward(
        float(reward.value), {str(name): float(part) for name, part in reward.parts.items()}
    )
    if not all(math.isfinite(value) for value in (sound.value, *sound.parts.values())):
        raise ValueError(f"the reward is not finite: {reward}")
    return sound


def _count(report: Collected, error: Exception, completions: int) -> None:
    report.reward_errors += completions
    report.first_error = report.first_error or brief(error)
