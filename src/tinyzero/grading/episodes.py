"""Playing an episode: the environment hears what the model said, answers, and judges at the end.

Episodes of bundled tasks are played in the training process. Those of a user's task are played in
worker processes with limits, and from the beginning for each turn: a worker that was killed loses
nothing, and an episode that does not answer the same again is noticed. If an episode raises, hangs
or returns nonsense, its completion earns 0 and counts as wrong, as with every grader.
"""

from __future__ import annotations

from collections.abc import Hashable
from copy import deepcopy
from typing import Any, NamedTuple, Protocol

from tinyzero.grading.verdicts import Verdict, sound_turns, verdict_on_error
from tinyzero.types import Problem

MAX_REPLY = 20_000  # characters of what an environment says at once


class Heard(NamedTuple):
    """What the model said in an episode up to now."""

    key: Hashable
    """Names the episode."""
    problem: Problem
    said: tuple[str, ...]
    """The model's turns."""
    replies: tuple[str, ...]
    """What the environment answered to each turn but the last."""
    is_last: bool
    """Whether the model gets no further turn, whatever the environment answers."""


class Reply(NamedTuple):
    """What an environment answers to the model's last turn."""

    text: str | None
    """None if the conversation is over."""
    verdict: Verdict | None = None
    """The verdict on the whole conversation; None if the model has another turn."""


class EpisodeTask(Protocol):
    """The part of a task that plays episodes."""

    def episode(self, problem: Problem) -> Any:
        """The episode about `problem`, or None if one turn is all."""
        ...

    def reward(self, problem: Problem, text: str) -> Any:
        """The reward of one completion, for a problem without an episode."""
        ...


class Stage:
    """One episode that is being played in this process. Whatever it raises becomes a verdict.

    Example:

        stage = Stage(task, problem)
        stage.hear("<guess>50</guess>").text        # "higher"
        stage.hear("<guess>63</guess>").verdict     # Verdict(Reward(1.0))
    """

    def __init__(self, task: EpisodeTask, problem: Problem) -> None:
        self.task, self.problem = task, problem
        self.turns = 0
        """How many turns the episode has heard."""
        self._episode: Any = None

    def hear(self, said: str, is_last: bool = False) -> Reply:
        """Pass the model's next turn to the episode. The episode is closed if it is over."""
        try:
            if self._episode is None:
                self._episode = _opened(self.task, self.problem)
            self.turns += 1
            text = _sound_reply(self._episode.step(said))
            if text is not None and not is_last:
                return Reply(text)
            verdict = Verdict(sound_turns(self._episode.reward(), self.turns))
        except BaseException as error:
            text, verdict = None, verdict_on_error(error)
        return Reply(text, self.close() or verdict)

    def close(self) -> Verdict | None:
        """Close the episode, once. Returns a verdict if that fails, or else None."""
        episode, self._episode = self._episode, None
        try:
            if episode is not None:
                episode.close()
        except BaseException as error:
            return verdict_on_error(error)
        return None


def play_again(task: EpisodeTask, heard: Heard) -> tuple[Stage, Reply]:
    """Play an episode from its beginning up to its last turn.

    If it answers otherwise than it did before, the reply is a verdict that says so.
    """
    stage = Stage(task, heard.problem)
    *earlier, last = heard.said
    for said, expected in zip(earlier, heard.replies, strict=True):
        reply = stage.hear(said)
        if reply.verdict is not None and reply.verdict.error:
            return stage, reply
        if reply.text != expected:
            stage.close()
            error = ValueError(
                f"the episode answered {expected!r:.80}, and when it was played again "
                f"{reply.text!r:.80}: let it depend on the problem and on the model's words only"
            )
            return stage, Reply(None, verdict_on_error(error))
    return stage, stage.hear(last, heard.is_last)


class _OneTurn:
    """The episode of a problem that has none: the reward of the only turn."""

    def __init__(self, task: EpisodeTask, problem: Problem) -> None:
        self.task, self.problem, self.said = task, problem, ""

    def step(self, said: str) -> None:
        self.said = said

    def reward(self) -> Any:
        return self.task.reward(deepcopy(self.problem), self.said)

    def close(self) -> None:
        pass


def _opened(task: EpisodeTask, problem: Problem) -> Any:
    """The task's episode about a copy of `problem`, or one of a single turn."""
    episode = task.episode(deepcopy(problem))
    return _OneTurn(task, problem) if episode is None else episode


def _sound_reply(reply: Any) -> str | None:
    """The reply of an environment. Raises TypeError or ValueError unless it is text or None."""
    if reply is None:
        return None
    if not isinstance(reply, str):
        raise TypeError(f"the environment said {reply!r:.80}: return text, or None at the end")
    if len(reply) > MAX_REPLY:
        raise ValueError(f"the environment said {len(reply)} characters, more than {MAX_REPLY}")
    reply.encode()  # raises UnicodeEncodeError, a ValueError, if half of a character is missing
    return str(reply)
