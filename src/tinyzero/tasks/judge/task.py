"""The judge: its options, and how a group of answers gets its rewards."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from tinyzero.errors import Ungraded, UserError, brief, short_path
from tinyzero.grading import Endpoint, Rejected, VerdictStore, require_url, together
from tinyzero.tasks.base import Chart, LoadScorer
from tinyzero.tasks.judge.messages import (
    Messages,
    pair_messages,
    read_better,
    read_score,
    score_messages,
)
from tinyzero.tasks.questions import GLOSSARY, GradedOptions, GradedTask
from tinyzero.types import Problem, Reward

RUBRIC = "A good answer is correct, complete, and as short as it can be."
REPLY_TOKENS = 1024  # most tokens of a judge's reply, its reasons included
ASKED_AGAIN = 3  # times a judge is asked before a malformed verdict counts against the answer
START_ATTEMPTS = 2  # at reaching the judge before a run begins
CHARACTERS_PER_TOKEN = 4.0  # to price a run before it begins; English text has about that many
WRITTEN = 60.0  # tokens of a verdict with its reason, to price a run before it begins

COSTS = {
    "judge/requests": "Requests sent to the judge since the last record, retries included.",
    "judge/cached": "Verdicts since the last record that were kept from before, and cost nothing.",
    "judge/tokens_read": "Tokens the judge has read since the last record, as it counts them.",
    "judge/tokens_written": "Tokens the judge wrote since the last record, as it counts them.",
    "judge/seconds": (
        "Seconds spent waiting for the judge since the last record, summed over requests."
    ),
    "judge/dollars": (
        "What the judge has cost since the last record, by task.price_read and task.price_written."
    ),
}

Outcome = float | Exception

Score = Annotated[float, Field(ge=-1e6, le=1e6)]


class JudgeOptions(GradedOptions):
    """Who judges what, by which rubric, and how fast."""

    url: str = Field(
        default="http://127.0.0.1:8000/v1",
        description="the OpenAI-compatible endpoint, without /chat/completions",
    )
    model: str = Field(default="", description="the judge, as the endpoint calls it")
    key_env: str = Field(
        default="OPENAI_API_KEY",
        description="environment variable with the API key; the key itself is recorded nowhere",
    )
    rubric: str = Field(
        default="", description="text file that says what a good answer is; empty: a general one"
    )
    compare: Literal["single", "pairs"] = Field(
        default="single",
        description="score each answer by itself, or compare the answers of a group in pairs",
    )
    scale: tuple[Score, Score] = Field(
        default=(1.0, 10.0), description="worst and best score; rewards are scaled to 0 to 1"
    )
    opponents: int = Field(
        default=3,
        ge=1,
        le=1000,
        description="answers of its group that each answer is compared with",
    )
    concurrency: int = Field(default=16, ge=1, le=256, description="requests at the same time")
    requests_per_minute: float = Field(
        default=0.0, ge=0, le=1e6, description="most requests per minute; 0 for no limit"
    )
    timeout: float = Field(default=30.0, gt=0, le=3600, description="seconds per request")
    longest: int = Field(
        default=8000,
        ge=100,
        le=10_000_000,
        description="characters of a text that the judge sees at most",
    )
    cache: str = Field(
        default="judge.sqlite", description="file that keeps the verdicts; empty: none is kept"
    )
    price_read: float = Field(
        default=0.0, ge=0, le=1e6, description="dollars per million tokens that the judge reads"
    )
    price_written: float = Field(
        default=0.0, ge=0, le=1e6, description="dollars per million tokens that the judge writes"
    )

    @field_validator("scale", mode="before")
    @classmethod
    def _as_pair(cls, scale: object) -> object:
        return tuple(map(float, scale)) if isinstance(scale, list) else scale

    @field_validator("scale")
    @classmethod
    def _rises(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if not scale[0] < scale[1]:
            raise ValueError(f"{list(scale)} does not rise: give the worst score, then the best")
        return scale


class JudgeTask(GradedTask):
    """Rewards from a judge: see the docstring of the package."""

    Options = JudgeOptions
    glossary: Mapping[str, str] = GLOSSARY | COSTS
    sources = ("data", "data_options", "rubric")
    charts = (
        *GradedTask.charts,
        Chart(
            "Requests to the judge",
            "What each step asks of the judge, and what need not be asked again.",
            (("judge/requests", "sent"), ("judge/cached", "kept from before")),
        ),
        Chart(
            "Tokens of the judge",
            "What the judge reads and writes in each step.",
            (("judge/tokens_read", "read"), ("judge/tokens_written", "written")),
        ),
        Chart("Seconds of the judge", "Summed over requests.", (("judge/seconds", "seconds"),)),
        Chart("Cost of the judge", "Dollars per step.", (("judge/dollars", "dollars"),)),
    )
    options: JudgeOptions

    def __init__(self, options: JudgeOptions | None = None) -> None:
        super().__init__(options)
        require_url(self.options.url)
        self.rubric = read_rubric(self.options.rubric)
        self.concurrency = self.options.concurrency
        self._places = threading.BoundedSemaphore(self.options.concurrency)
        self._costs_told: dict[str, float] = {}

    @cached_property
    def endpoint(self) -> Endpoint:
        """The client, made when it is first needed."""
        options = self.options
        if not options.model:
            raise UserError("task.model is empty: name the judge as its endpoint calls it")
        return Endpoint(
            options.url,
            options.model,
            key=os.environ.get(options.key_env, "").strip(),
            timeout=options.timeout,
            per_minute=options.requests_per_minute,
            max_tokens=REPLY_TOKENS,
            connections=options.concurrency,
        )

    @cached_property
    def store(self) -> VerdictStore:
        """The verdicts that were paid for."""
        return VerdictStore(self.options.cache)

    def connect(self, load_scorer: LoadScorer) -> None:
        """Ask the judge once, so that whatever is wrong is found before a model is loaded.

        Raises UserError if the judge is out of reach, refuses, or gives no verdict.
        """
        _ = self.store
        question, answer = "What is 2 + 2?", "2 + 2 is 4."
        messages = score_messages(self.rubric, self.options.scale, question, answer, 1000)
        try:
            reply = self.endpoint.ask(messages, attempts=START_ATTEMPTS)
            read_score(reply.text, self.options.scale)
        except (Ungraded, Rejected) as error:
            raise UserError(f"the judge at {self.options.url} cannot be used: {error}") from None
        except ValueError as error:
            reason = self.endpoint.hide(str(error))
            raise UserError(
                f"the judge {self.options.model} does not reply as asked: {reason}; use a model "
                "that follows instructions"
            ) from None

    def reward(self, problem: Problem, text: str) -> Reward:
        """The reward of one answer, from 0 to 1. Raises Ungraded if the judge is out of reach."""
        reward = self.rewards([problem], [text])[0]
        if isinstance(reward, Exception):
            raise reward
        return reward

    def rewards(  # type: ignore[override]  # an exception is the verdict on one answer
        self, problems: Sequence[Problem], texts: Sequence[str]
    ) -> list[Reward | Exception]:
        """The rewards of a group, from 0 to 1; an exception for an answer that has none."""
        questions = [self.questions.asked(problem) for problem in problems]
        answers = [self.answer(text) for text in texts]
        judged = self._compared if self.options.compare == "pairs" else self._scored
        return [
            outcome
            if isinstance(outcome, Exception)
            else Reward(outcome, {"judge": outcome}, right=None)
            for outcome in judged(questions, answers)
        ]

    def costs(self) -> dict[str, float]:
        """What the judge has cost since this was called before, by the key of the record."""
        spent = self.endpoint.spent
        dollars = (
            spent.tokens_read * self.options.price_read
            + spent.tokens_written * self.options.price_written
        ) / 1e6
        now = {
            "judge/requests": float(spent.requests),
            "judge/cached": float(self.store.hits),
            "judge/tokens_read": float(spent.tokens_read),
            "judge/tokens_written": float(spent.tokens_written),
            "judge/seconds": spent.seconds,
            "judge/dollars": dollars,
        }
        since = {key: value - self._costs_told.get(key, 0.0) for key, value in now.items()}
        self._costs_told = now
        return since

    def expected_costs(self, answers: float, tokens: float, group: int) -> dict[str, float]:
        """What judging `answers` of `tokens` each, in groups of `group`, will cost, by key.

        It assumes four characters per token, a reply of 60 tokens and no verdict kept from before.
        """
        options = self.options
        requests, shown = answers, 1
        if options.compare == "pairs":
            requests, shown = answers * pairs_per_answer(group, options.opponents), 2

        frame = score_messages(self.rubric, options.scale, "", "", 100)
        fixed = sum(len(message["content"]) for message in frame) / CHARACTERS_PER_TOKEN
        question = self.questions.asked(self.problem("train", 0))
        longest = options.longest / CHARACTERS_PER_TOKEN
        per_request = (
            fixed
            + min(longest, len(question) / CHARACTERS_PER_TOKEN)
            + shown * min(longest, tokens)
        )

        read, written = requests * per_request, requests * WRITTEN
        return {
            "judge/requests": requests,
            "judge/tokens_read": read,
            "judge/tokens_written": written,
            "judge/dollars": (read * options.price_read + written * options.price_written) / 1e6,
        }

    def _scored(self, questions: Sequence[str], answers: Sequence[str]) -> list[Outcome]:
        """One outcome per answer, each scored by itself."""
        jobs = list(zip(questions, answers, strict=True))
        unique = list(dict.fromkeys(jobs))  # the same answer twice is judged once
        outcomes = dict(zip(unique, together(self._score, unique, self._places), strict=True))
        return [outcomes[job] for job in jobs]

    def _compared(self, questions: Sequence[str], answers: Sequence[str]) -> list[Outcome]:
        """One outcome per answer: the share of its comparisons that it wins."""
        pairs = ring(len(answers), self.options.opponents)
        jobs: list[tuple[str, str, str]] = []
        for i, j in pairs:
            first, second = sorted((answers[i], answers[j]))
            jobs.append((questions[i], first, second))
        unique = list(dict.fromkeys(jobs))
        outcomes = dict(zip(unique, together(self._compare, unique, self._places), strict=True))
        return win_shares(len(answers), pairs, answers, [outcomes[job] for job in jobs])

    def _score(self, job: tuple[str, str]) -> Outcome:
        question, answer = job
        options = self.options
        low, high = options.scale
        messages = score_messages(self.rubric, options.scale, question, answer, options.longest)
        score = self._verdict(messages, lambda reply: read_score(reply, options.scale))
        return score if isinstance(score, Exception) else (score - low) / (high - low)

    def _compare(self, job: tuple[str, str, str]) -> Outcome:
        """1 if the first of two answers is better, 0 if the second one is.

        Judges favour a position, so which answer is shown first is decided by their texts: half of
        the pairs are turned round, and a pair is always shown in the same order.
        """
        question, first, second = job
        if first == second:
            return 0.5
        turned = sum(f"{first}\0{second}".encode("utf-8", "replace")) % 2 == 1
        shown = (second, first) if turned else (first, second)
        messages = pair_messages(self.rubric, question, *shown, self.options.longest)
        outcome = self._verdict(messages, read_better)
        return 1 - outcome if turned and not isinstance(outcome, Exception) else outcome

    def _verdict(self, messages: Messages, read: Callable[[str], float]) -> Outcome:
        """The number in the judge's reply, from the store if it is there.

        A reply that is malformed every time counts against the answer (ValueError), because the
        model chose what the judge had to read. An endpoint out of reach does not (Ungraded).
        """
        asked = [self.options.model, *(message["content"] for message in messages)]
        if (kept := self.store.get(asked)) is not None:
            return kept

        problem: Exception = ValueError("the judge was not asked")
        for _ in range(ASKED_AGAIN):
            try:
                number = read(self.endpoint.ask(messages).text)
            except Rejected as error:
                reason = f"the judge refuses: {error}"
                return ValueError(reason) if error.blames_text else Ungraded(reason)
            except ValueError as error:
                problem = ValueError(self.endpoint.hide(str(error)))
                continue
            except Exception as error:
                return error if isinstance(error, Ungraded) else Ungraded(brief(error))
            self.store.put(asked, number)
            return number
        return problem


def ring(count: int, opponents: int) -> list[tuple[int, int]]:
    """Pairs in which each of `count` answers meets about `opponents` others, and none twice.

    >>> ring(4, 1), ring(3, 8)
    ([(0, 1), (1, 2), (2, 3), (3, 0)], [(0, 1), (1, 2), (2, 0)])
    """
    steps = range(1, min(max(1, (opponents + 1) // 2), count // 2) + 1)
    pairs = [(i, (i + step) % count) for step in steps for i in range(count)]
    return list({frozenset(pair): pair for pair in reversed(pairs)}.values())[::-1]


def pairs_per_answer(count: int, opponents: int) -> float:
    """How many comparisons there are per answer in a group of `count`.

    >>> pairs_per_answer(8, opponents=3)
    2.0
    """
    return len(ring(count, opponents)) / max(count, 1)


def win_shares(
    count: int,
    pairs: Sequence[tuple[int, int]],
    answers: Sequence[str],
    outcomes: Sequence[Outcome],
) -> list[Outcome]:
    """The share of its comparisons that each answer wins; half a win if they are equal.

    `outcomes` say for each pair whether the answer that sorts first is better. An answer without
    any outcome gets the exception of its last comparison. A group of one answer gets 0.5.
    """
    wins: list[list[float]] = [[] for _ in range(count)]
    failures: list[Exception | None] = [None] * count
    for (i, j), outcome in zip(pairs, outcomes, strict=True):
        if isinstance(outcome, Exception):
            failures[i] = failures[j] = outcome
            continue
        won = outcome if answers[i] <= answers[j] else 1 - outcome
        wins[i].append(won)
        wins[j].append(1 - won)

    shares: list[Outcome] = []
    for shares_won, failure in zip(wins, failures, strict=True):
        fallback: Outcome = failure if failure is not None else 0.5
        shares.append(sum(shares_won) / len(shares_won) if shares_won else fallback)
    return shares


def read_rubric(path: str) -> str:
    """The text of the rubric file, or a general rubric if no file is named.

    Raises UserError if the file cannot be read or is empty.
    """
    if not path:
        return RUBRIC
    try:
        rubric = Path(path).read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UserError(f"task.rubric: cannot read {short_path(Path(path))}: {reason}") from None
    if not rubric:
        raise UserError(f"task.rubric: {short_path(Path(path))} is empty: say what is good")
    return rubric
