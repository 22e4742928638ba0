"""Completions of several turns: the model writes, the environment answers, the model continues.

All rows of a batch advance together: one call of the sampler per round, for the rows that are not
over. Every row keeps its own position in its randomness, so neither the other rows nor the rounds
change what is drawn. A later turn reads everything before it again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from tinyzero.errors import UserError, guarding
from tinyzero.grading import Grader, Heard, Reply, Verdict
from tinyzero.tasks.base import Task
from tinyzero.types import (
    Completion,
    Problem,
    Prompt,
    Request,
    Reward,
    Sampler,
    SamplingParams,
    Turn,
)

ATTEMPTS = 3  # at grading an answer, or at playing an episode

EncodeReply = Callable[[Prompt, str, int | None], Sequence[int]]
"""(prompt, reply, last token) to the token ids of what the environment says.

The prompt is messages if a chat template puts the reply into a turn of its own, and otherwise "".
The last token is the one that ended the model's turn, or None if a stop string did.
"""


@dataclass
class Row:
    """One completion that is being written turn by turn."""

    problem: Problem
    prompt: Prompt
    prompt_ids: tuple[int, ...]
    group: int
    sample: int
    completion: Completion | None = None
    """What was written so far; None before the first turn."""
    said: tuple[str, ...] = ()
    """The model's turns, as the environment heard them."""
    replies: tuple[str, ...] = ()
    """What the environment answered to them."""
    ends: list[int] = field(default_factory=list)
    """For each turn in `said`, the number of the model's turn in `completion` that it is part of.

    Turns with nothing between them are one turn of the completion.
    """
    reply_ids: tuple[int, ...] = ()
    """The tokens of the last reply, which the next turn continues."""
    verdict: Verdict | None = None

    @property
    def is_over(self) -> bool:
        """Whether the model has no further turn."""
        return self.verdict is not None

    @property
    def key(self) -> Hashable:
        """Names the row's episode to the grader, also if other threads play at the same time."""
        return id(self)

    @property
    def context_ids(self) -> tuple[int, ...]:
        """Everything that the next turn reads."""
        written = self.completion.token_ids if self.completion else ()
        return self.prompt_ids + written + self.reply_ids

    @property
    def drawn(self) -> int:
        """The tokens that the model wrote so far."""
        return self.completion.length if self.completion else 0

    def extended(self, turn: Completion) -> Completion:
        """The completion so far with one more turn of the model."""
        if self.completion is None:
            return turn
        return extend(self.completion, self.reply_ids, turn, self.replies[-1])

    def turns(self) -> tuple[Turn, ...]:
        """The turns so far, with the environment's last reply."""
        if self.completion is None:
            return ()
        end = len(self.completion.token_ids)
        turns = self.completion.turns or (Turn(0, end, text=self.completion.text),)
        if self.reply_ids:
            reply = Turn(end, end + len(self.reply_ids), False, self.replies[-1])
            turns = (*turns, reply)
        return turns


def play_turns(
    rows: Sequence[Row],
    params: SamplingParams,
    task: Task,
    sampler: Sampler,
    grader: Grader,
    encode_reply: EncodeReply,
    context: int | None,
) -> Iterator[None]:
    """Play the episodes of some rows to their end; yields after each round of turns.

    A completion has at most `params.max_tokens` tokens of the model. Together with the prompt and
    what the environment says, it fits into `context` tokens. A row whose episode could not be
    judged ends with a verdict without a reward.
    """
    try:
        active = list(rows)
        while active:
            turns = _sampled(active, params, sampler, context)
            _answer(active, turns, params, task, sampler, grader, encode_reply, context)
            yield
            active = [row for row in active if not row.is_over]
    finally:
        grader.leave([row.key for row in rows])


def _sampled(
    rows: Sequence[Row], params: SamplingParams, sampler: Sampler, context: int | None
) -> list[Completion]:
    """The next turn of each row, in order. The first prompt of a group is read only once."""
    requests: list[Request] = []
    for row in rows:
        room = params.max_tokens - row.drawn
        if context is not None and row.completion is not None:
            room = min(room, context - len(row.context_ids))
        last = requests[-1] if requests else None
        if row.completion is None and last is not None and last.group == row.group:
            requests[-1] = replace(last, samples=(*last.samples, row.sample))
        else:
            samples = (row.sample,)
            requests.append(Request(row.context_ids, row.group, samples, row.drawn, room))

    with guarding(sampler):
        completions = sampler.generate(requests, params)
    for request, answered in zip(requests, completions, strict=True):
        for completion in answered:
            if len(completion.token_ids) > request.limit(params):
                raise UserError(
                    f"{type(sampler).__name__} wrote {len(completion.token_ids)} tokens for a "
                    f"request of at most {request.limit(params)}: respect Request.max_tokens"
                )
    return [completion for answered in completions for completion in answered]


def _answer(
    rows: Sequence[Row],
    turns: Sequence[Completion],
    params: SamplingParams,
    task: Task,
    sampler: Sampler,
    grader: Grader,
    encode_reply: EncodeReply,
    context: int | None,
) -> None:
    """Let the environments answer the rows' last turns, and end the rows that are over."""
    asked: list[tuple[Row, Completion, bool]] = []
    heard: list[Heard] = []
    for row, turn in zip(rows, turns, strict=True):
        if turn.finish_reason == "abort":
            row.completion = row.extended(turn)
            row.verdict = Verdict(None, "the sampler aborted the completion")
            continue

        by_token = turn.finish_reason == "stop" and not _has_stop(turn, params)
        text = turn.text if by_token else sampler.decode(turn.token_ids)
        row.said += (text,)
        used = row.drawn + len(turn.token_ids)
        room = context is None or len(row.context_ids) + len(turn.token_ids) < context
        ends_it = by_token and not _in_chat(row, task)
        is_last = (
            turn.finish_reason == "length"
            or ends_it
            or len(row.said) == task.max_turns
            or used >= params.max_tokens
            or not room
        )
        asked.append((row, turn, by_token))
        heard.append(Heard(row.key, row.problem, row.said, row.replies, is_last))

    for (row, turn, by_token), one, reply in zip(
        asked, heard, _replies(grader, heard), strict=True
    ):
        if reply.verdict is None:
            assert reply.text is not None
            prompt = row.prompt if _in_chat(row, task) else ""
            last_id = turn.token_ids[-1] if by_token else None
            ids = tuple(encode_reply(prompt, reply.text, last_id)) if prompt or reply.text else ()
            length = len(row.context_ids) + len(turn.token_ids) + len(ids)
            if context is None or length < context:
                row.completion = row.extended(replace(turn, text=row.said[-1]))
                row.ends.append(_model_turns(row.completion) - 1)
                row.replies += (reply.text,)
                row.reply_ids = ids
                continue
            (reply,) = _replies(grader, [one._replace(is_last=True)])

        was_cut = reply.text is not None and not by_token
        ended = replace(turn, finish_reason="length") if was_cut else turn
        row.completion = row.extended(ended)
        row.ends.append(_model_turns(row.completion) - 1)
        row.reply_ids = ()
        row.verdict = reply.verdict


def _replies(grader: Grader, heard: Sequence[Heard]) -> list[Reply]:
    """The replies of some episodes. One that could not be judged is tried again, up to twice."""
    replies = grader.respond(heard)
    for _ in range(ATTEMPTS - 1):
        failed = [i for i, reply in enumerate(replies) if _is_ungraded(reply)]
        if not failed:
            break
        again = grader.respond([heard[i] for i in failed])
        for i, reply in zip(failed, again, strict=True):
            replies[i] = reply
    return replies


def _is_ungraded(reply: Reply) -> bool:
    return reply.verdict is not None and reply.verdict.reward is None


def _has_stop(turn: Completion, params: SamplingParams) -> bool:
    """Whether a stop string ended the turn, and not an end token."""
    return any(string in turn.text for string in params.stop)


def _in_chat(row: Row, task: Task) -> bool:
    """Whether a chat template puts the environment's words into a turn of its own."""
    return not task.inline and not isinstance(row.prompt, str)


def _model_turns(completion: Completion) -> int:
    """How many turns the model has in a completion."""
    return sum(turn.by_model for turn in completion.turns) if completion.turns else 1


def merged_turns(reward: Reward, ends: Sequence[int]) -> Reward:
    """The reward with the shares of turns joined that are one turn of the completion.

    `ends` has the number of the completion's turn for each turn that the episode heard.

    >>> merged_turns(Reward(1.0, turns=(0.2, 0.3, 0.5)), ends=[0, 0, 1]).turns
    (0.5, 0.5)
    """
    if not reward.turns:
        return reward
    shares = [0.0] * (max(ends) + 1)
    for share, end in zip(reward.turns, ends, strict=True):
        shares[end] += share
    return replace(reward, turns=tuple(shares))


def extend(
    completion: Completion,
    environment_ids: Sequence[int],
    next_completion: Completion,
    environment_text: str = "",
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
        before = turns or (Turn(0, middle - given, text=completion.text),)
        answer = Turn(middle - given, middle, by_model=False, text=environment_text)
        turns = (*before, answer, Turn(middle, end, text=next_completion.text))
    elif turns:
        text = turns[-1].text + next_completion.text
        turns = (*turns[:-1], replace(turns[-1], end=end, text=text))

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
