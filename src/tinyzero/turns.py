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

    def add(self, turn: Completion) -> None:
        """Add the model's next turn, after the environment's last reply."""
        if self.completion is None:
            self.completion = turn
        else:
            self.completion = extend(self.completion, self.reply_ids, turn, self.replies[-1])
        self.reply_ids = ()
        self.ends.append(_model_turns(self.completion) - 1)

    def end(self, turn: Completion, verdict: Verdict) -> None:
        """Add the model's last turn, and the verdict on the whole conversation."""
        self.add(turn)
        self.verdict = verdict


@dataclass(frozen=True)
class TurnPlayer:
    """What rows are played with. `params.stop` holds the task's stop strings."""

    task: Task
    sampler: Sampler
    grader: Grader
    encode_reply: EncodeReply
    params: SamplingParams
    context: int | None

    def play(self, rows: Sequence[Row]) -> Iterator[None]:
        """Play the episodes of some rows to their end; yields after each round of turns.

        A completion has at most `params.max_tokens` tokens of the model. Together with the prompt
        and what the environment says, it fits into `context` tokens. A row whose episode could not
        be judged ends with a verdict without a reward.
        """
        active = list(rows)
        try:
            while active:
                turns = self._sample(active)
                self._answer(active, turns)
                yield
                active = [row for row in active if not row.is_over]
        finally:
            self.grader.leave([row.key for row in rows])

    def _sample(self, rows: Sequence[Row]) -> list[Completion]:
        """The next turn of each row, in order."""
        requests = self._requests(rows)
        with guarding(self.sampler):
            completions = self.sampler.generate(requests, self.params)

        for request, answered in zip(requests, completions, strict=True):
            longest = max(len(completion.token_ids) for completion in answered)
            if longest > request.limit(self.params):
                raise UserError(
                    f"{type(self.sampler).__name__} wrote {longest} tokens for a request of at "
                    f"most {request.limit(self.params)}: respect Request.max_tokens"
                )
        return [completion for answered in completions for completion in answered]

    def _requests(self, rows: Sequence[Row]) -> list[Request]:
        """A request per row. The rows of a group share the one for their first turn."""
        requests: list[Request] = []
        for row in rows:
            last = requests[-1] if requests else None
            if row.completion is None and last is not None and last.group == row.group:
                requests[-1] = replace(last, samples=(*last.samples, row.sample))
                continue

            limit = self.params.max_tokens - row.drawn
            if row.completion is not None and self.context is not None:
                limit = min(limit, self.context - len(row.context_ids))
            requests.append(Request(row.context_ids, row.group, (row.sample,), row.drawn, limit))
        return requests

    def _answer(self, rows: Sequence[Row], turns: Sequence[Completion]) -> None:
        """Let the environments hear the rows' last turns, and answer or end the conversation."""
        for row, turn in zip(rows, turns, strict=True):
            if turn.finish_reason == "abort":
                row.end(turn, Verdict(None, "the sampler aborted the completion"))
        answered = [(row, turn) for row, turn in zip(rows, turns, strict=True) if not row.is_over]
        heard = [self._hear(row, turn) for row, turn in answered]

        for (row, turn), one, reply in zip(answered, heard, self._replies(heard), strict=True):
            if reply.verdict is None and not self._go_on(row, turn, reply):
                (reply,) = self._replies([one._replace(is_last=True)])
            if reply.verdict is not None:
                was_cut = reply.text is not None and not self._by_token(turn)
                row.end(replace(turn, finish_reason="length") if was_cut else turn, reply.verdict)

    def _hear(self, row: Row, turn: Completion) -> Heard:
        """What the episode of a row hears of its last turn, which is added to `row.said`."""
        by_token = self._by_token(turn)
        # a last token that goes beyond the stop string was said too
        text = turn.text if by_token else self.sampler.decode(turn.token_ids)
        row.said += (text,)

        length = len(row.context_ids) + len(turn.token_ids)
        is_last = (
            turn.finish_reason == "length"
            or (by_token and not self._in_chat(row))
            or len(row.said) == self.task.max_turns
            or row.drawn + len(turn.token_ids) >= self.params.max_tokens
            or (self.context is not None and length >= self.context)
        )
        return Heard(row.key, row.problem, row.said, row.replies, is_last)

    def _go_on(self, row: Row, turn: Completion, reply: Reply) -> bool:
        """Add a turn and the environment's reply to a row; False if they leave no room."""
        assert reply.text is not None
        last_id = turn.token_ids[-1] if self._by_token(turn) else None
        ids: Sequence[int] = ()
        if self._in_chat(row):
            ids = self.encode_reply(row.prompt, reply.text, last_id)
        elif reply.text:
            ids = self.encode_reply("", reply.text, last_id)

        length = len(row.context_ids) + len(turn.token_ids) + len(ids)
        if self.context is not None and length >= self.context:
            return False
        row.add(replace(turn, text=row.said[-1]))
        row.replies += (reply.text,)
        row.reply_ids = tuple(ids)
        return True

    def _replies(self, heard: Sequence[Heard]) -> list[Reply]:
        """The replies of some episodes. What could not be judged is tried again, up to twice."""
        replies = list(self.grader.respond(heard))
        for _ in range(ATTEMPTS - 1):
            failed = [i for i, reply in enumerate(replies) if _is_ungraded(reply)]
            if not failed:
                break
            again = self.grader.respond([heard[i] for i in failed])
            for i, reply in zip(failed, again, strict=True):
                replies[i] = reply
        return replies

    def _by_token(self, turn: Completion) -> bool:
        """Whether an end token ended the turn, and not a stop string or a limit."""
        has_stop = any(string in turn.text for string in self.params.stop)
        return turn.finish_reason == "stop" and not has_stop

    def _in_chat(self, row: Row) -> bool:
        """Whether a chat template puts the environment's words into a turn of its own."""
        return not self.task.inline and not isinstance(row.prompt, str)


def _is_ungraded(reply: Reply) -> bool:
    return reply.verdict is not None and reply.verdict.reward is None


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
