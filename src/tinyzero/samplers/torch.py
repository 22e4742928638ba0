"""The sampler that runs the learner's own weights: no copy, nothing to synchronise.

On a CPU the whole batch goes in lock-step over a pre-allocated cache, a group's prompt is read once, finished
rows are dropped as they go. On a GPU sequences decode in slots (slots.py) that are refilled as they become free.
What a token becomes (draw.py) is the same either way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from tinyzero.errors import NonFiniteError, UserError
from tinyzero.models import Backbone, KeyValueCache
from tinyzero.samplers import SamplerSpec, require_newer
from tinyzero.samplers.draw import ending, next_token, row_keys
from tinyzero.samplers.fused import FusedStep, fused_step
from tinyzero.samplers.slots import Slots, supports
from tinyzero.types import Completion, Done, FinishReason, Request, SamplingParams

DROP_BELOW = 0.8  # rows are dropped from the cache when fewer than this share of them is live

HALF = (
    "\ufffd"  # how a decoder writes the first bytes of a character whose others are still to come
)
REFILL = (
    8  # waiting sequences enter when one slot in so many is free: their prompts are read together
)
NOT_FINITE = "the model's logits are not finite"


class Drawn:
    """All that was drawn so far for some requests, on the host: one row for each sample, in order."""

    def __init__(self, requests: Sequence[Request], max_tokens: int) -> None:
        counts = torch.tensor([len(request.samples) for request in requests])
        positions = torch.tensor([request.position for request in requests])
        groups = torch.tensor([request.group for request in requests])
        self.request = torch.arange(len(requests)).repeat_interleave(counts)  # (rows,)
        ends = counts.cumsum(0).tolist()
        self.rows_of = [range(a, b) for a, b in pairwise([0, *ends])]  # by request
        self.unfinished = counts.clone()  # (requests,) rows of each that still run
        self.group, self.position = groups[self.request], positions[self.request]
        self.sample = torch.tensor([s for request in requests for s in request.samples])

        rows = len(self.request)
        self.tokens = torch.zeros(rows, max_tokens, dtype=torch.long)
        self.logprobs = torch.zeros(rows, max_tokens)
        self.ends = torch.full((rows,), max_tokens)  # tokens of each row that no longer runs
        self.running = torch.ones(rows, dtype=torch.bool)
        self.completions: list[list[Completion]] = [[] for _ in requests]

    def keys(self, seed: int) -> Tensor:
        """(rows,) what keys the randomness of each row, beside the position."""
        return row_keys(seed, self.group, self.sample)

    def stop(self, rows: Tensor) -> list[int]:
        """Mark `rows`, which still ran, as ended; the requests of which no row runs any more."""
        self.running[rows] = False
        requests, counts = self.request[rows].unique(return_counts=True)
        self.unfinished[requests] -= counts
        result: list[int] = requests[self.unfinished[requests] == 0].tolist()
        return result


class Flight(NamedTuple):
    """What a step drew, on its way to the host."""

    rows: Tensor  # (count,) the row in each slot, -1 where there was none
    at: Tensor  # (count,) which token of its row it is
    token: Tensor  # (count,)
    logprob: Tensor  # (count,)
    arrived: torch.cuda.Event | None

    def land(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Wait for it."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.rows, self.at, self.token, self.logprob


class TorchSampler:
    """Samples from `model`, which may be the very module a learner is training."""

    shares_weights = True

    def __init__(
        self,
        model: Backbone,
        decode: Callable[[Sequence[int]], str],
        end_ids: frozenset[int],
        max_rows: int = 512,
        in_slots: bool | None = None,
    ) -> None:
        """`decode` turns token ids to text, special tokens included; `max_rows` decode at once, in slots or in
        lock-step (None: in slots on a GPU)."""
        self.model = model
        self.decode = decode
        self.end_ids = torch.tensor(sorted(end_ids), dtype=torch.long)
        self.max_rows = max_rows
        self.version = 0
        self.in_slots = (
            model.device.type == "cuda" and supports(model) if in_slots is None else in_slots
        )
        self._slots: Slots | None = None
        self._closers: dict[tuple[str, ...], Tensor] = {}

    @classmethod
    def for_model(cls, model: Backbone, spec: SamplerSpec) -> TorchSampler:
        """The sampler of a run, which trains this very `model`."""
        return cls(model, spec.decode, spec.end_ids, spec.rows)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Copy `weights` (none where they are shared) and take the version, which must go up."""
        require_newer(version, self.version)
        own = self.model.lm.state_dict()
        with torch.no_grad():
            for name, tensor in weights:
                own[name].copy_(tensor)
        self.version = version

    @torch.inference_mode()
    def generate(
        self, requests: Sequence[Request], params: SamplingParams, done: Done | None = None
    ) -> list[list[Completion]]:
        """One completion for each sample of each request; each prompt is read once.

        Raises UserError if a prompt and `max_tokens` do not fit the model's context.
        """
        self._check_length([request.prompt_ids for request in requests], params)
        if not requests:
            return []
        if self.in_slots:
            return self._refilled(requests, params, done)
        completions: list[list[Completion]] = []
        for first, some in self._at_once(requests):
            later = partial(_shifted, done, first) if done else None
            completions += self._decode(some, params, later)
        return completions

    def _at_once(self, requests: Sequence[Request]) -> Iterator[tuple[int, Sequence[Request]]]:
        """Requests that decode together, and the number of the first: of `max_rows` samples or fewer.

        A request of more samples than that decodes alone.
        """
        first, rows = 0, 0
        for i, request in enumerate(requests):
            if i > first and rows + len(request.samples) > self.max_rows:
                yield first, requests[first:i]
                first, rows = i, 0
            rows += len(request.samples)
        yield first, requests[first:]

    @torch.inference_mode()
    def stream(self, prompt: Sequence[int], params: SamplingParams) -> Iterator[str]:
        """The completion that `generate` makes of one prompt, as text that grows: what is new after each token."""
        self._check_length([prompt], params)
        logits, cache = self._prefill([prompt], params.max_tokens)
        fused = fused_step(self.model)
        keys = row_keys(
            params.seed, torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.long)
        )
        ids: tuple[int, ...] = ()
        shown = 0
        for t in range(params.max_tokens):
            token, logprob = next_token(logits, keys, t, params)
            if logprob.isnan():
                raise NonFiniteError(NOT_FINITE)
            ids += (int(token),)
            text, reason = self._text(ids, params.stop)
            ended = reason == "stop" or t + 1 == params.max_tokens
            text = text if ended else text.rstrip(HALF)
            yield text[shown:]
            shown = len(text)
            if ended:
                return
            logits = self._next(token, cache, fused)

    def _check_length(self, prompts: Sequence[Sequence[int]], params: SamplingParams) -> None:
        longest = max(map(len, prompts), default=0)
        if longest + params.max_tokens > self.model.context:
            raise UserError(
                f"a prompt of {longest} tokens and {params.max_tokens} new ones exceed the model's context of "
                f"{self.model.context}: lower max_tokens to {self.model.context - longest} or less"
            )

    def _decode(
        self, requests: Sequence[Request], params: SamplingParams, done: Done | None
    ) -> list[list[Completion]]:
        """All samples of some requests, in lock-step."""
        device = self.model.device
        drawn = Drawn(requests, params.max_tokens)
        logits, cache = self._prefill([r.prompt_ids for r in requests], params.max_tokens)
        fused = fused_step(self.model)  # the weights may have changed since the last call
        cache.select(drawn.request.to(device))
        logits = logits[drawn.request]
        keys, live = drawn.keys(params.seed), torch.arange(len(drawn.request))
        for t in range(params.max_tokens):
            token, logprob = next_token(logits, keys[live], drawn.position[live] + t, params)
            at = torch.full_like(live, t)
            self._note(drawn, live, at, token.cpu(), logprob.cpu(), params.stop, done)
            running = drawn.running[live]
            if not running.any():
                break
            if running.float().mean() < DROP_BELOW:
                kept = running.nonzero().squeeze(1)
                live, token = live[kept], token[kept.to(device)]
                cache.select(kept.to(device))
            logits = self._next(token, cache, fused)
        return drawn.completions

    def _refilled(
        self, requests: Sequence[Request], params: SamplingParams, done: Done | None
    ) -> list[list[Completion]]:
        """All samples of all requests, in slots. The host looks at a step while the next one runs."""
        drawn, device = Drawn(requests, params.max_tokens), self.model.device
        prompts, rows = [r.prompt_ids for r in requests], len(drawn.request)
        slots = self._slots_for(
            min(rows, self.max_rows), max(map(len, prompts)) + params.max_tokens
        )
        keys, waiting, flying = drawn.keys(params.seed), 0, None
        size = slots.bucket(min(rows, slots.count))
        owner = torch.full((size,), -1)  # the row in each slot
        at = torch.zeros(size, dtype=torch.long)  # tokens drawn for it, one in flight included
        while True:
            owner[~drawn.running[owner]] = -1
            free, live = (owner < 0).nonzero().squeeze(1), (owner >= 0).nonzero().squeeze(1)
            if waiting < rows and len(free) * REFILL >= size:
                new = torch.arange(waiting, min(rows, waiting + len(free)))
                into, waiting = free[: len(new)], int(new[-1]) + 1
                asked = drawn.request[new]
                first, last = int(asked[0]), int(asked[-1])
                logits = slots.enter(
                    into, prompts[first : last + 1], asked - first, keys[new], drawn.position[new]
                )
                token, logprob = slots.draw(into.to(device), logits, params)
                owner[into], at[into] = new, 1
                start = torch.zeros_like(new)
                self._note(drawn, new, start, token.cpu(), logprob.cpu(), params.stop, done)
                continue
            if waiting == rows and len(live) and slots.bucket(len(live)) < size:
                size = slots.bucket(len(live))
                slots.gather(live)
                owner = torch.cat((owner[live], torch.full((size - len(live),), -1)))
                at = torch.cat((at[live], torch.zeros(size - len(live), dtype=torch.long)))
            landing, flying = flying, None
            if len(live):
                flying = _take_off(owner.clone(), at.clone(), *slots.step(size, params))
                at += 1
            if landing is not None:
                self._note(drawn, *landing.land(), params.stop, done)
            elif flying is None:
                return drawn.completions

    def _slots_for(self, count: int, length: int) -> Slots:
        """Slots for so many sequences of that length: those of the last call where they do.

        They stay on the GPU between calls, while the learner learns, for their graphs are worth keeping. New ones are
        no smaller either way, so that training and evaluations, which differ, share them: in all they come to
        `max_rows` sequences of the greatest length asked for, and no more.
        """
        if self._slots is None or not self._slots.fits(self.model, count, length):
            if self._slots is not None:
                count, length = max(count, self._slots.count), max(length, self._slots.length)
            self._slots = None  # the old ones' memory is free before the new ones are made
            self._slots = Slots(self.model, count, length)
        return self._slots

    def _prefill(
        self, prompts: Sequence[Sequence[int]], max_tokens: int
    ) -> tuple[Tensor, KeyValueCache]:
        """Read each prompt once: logits (P, V) of the first new token, and the cache."""
        model, device = self.model, self.model.device
        width = max(map(len, prompts))
        ids = torch.tensor([[*[0] * (width - len(p)), *p] for p in prompts], device=device)
        pads = torch.tensor([width - len(p) for p in prompts])
        cache = KeyValueCache(model.config, pads, width + max_tokens, model.dtype, device)
        return model.logits_of(model.step(ids, cache)[:, -1]), cache

    def _next(self, token: Tensor, cache: KeyValueCache, fused: FusedStep | None) -> Tensor:
        """Read one token a row; logits (B, V) of the one after."""
        hidden = (
            fused(token, cache)
            if fused is not None
            else self.model.step(token[:, None], cache)[:, -1]
        )
        return self.model.logits_of(hidden)

    def _note(
        self,
        drawn: Drawn,
        rows: Tensor,
        at: Tensor,
        token: Tensor,
        logprob: Tensor,
        stop: tuple[str, ...],
        done: Done | None,
    ) -> None:
        """Write down the `at`-th tokens of `rows`, and which of these end with it; rows that do not run draw nothing.

        Requests of which no row runs any more get their completions. Raises NonFiniteError if the
        logits were not finite.
        """
        kept = (rows >= 0) & drawn.running[rows]
        if not kept.all():
            rows, at, token, logprob = rows[kept], at[kept], token[kept], logprob[kept]
        if logprob.isnan().any():
            raise NonFiniteError(NOT_FINITE)
        drawn.tokens[rows, at], drawn.logprobs[rows, at] = token, logprob
        ended = torch.isin(token, self.end_ids)
        if stop:
            reach = max(map(len, stop))  # a token is at least a character or a byte of one
            for i in self._closes(stop)[token].nonzero().squeeze(1).tolist():
                end = int(at[i]) + 1
                tail = self.decode(drawn.tokens[rows[i], max(0, end - 4 * reach) : end].tolist())
                ended[i] |= any(s in tail for s in stop)
        drawn.ends[rows[ended]] = at[ended] + 1
        ended |= at + 1 == drawn.tokens.shape[1]
        if not ended.any():
            return
        for request in drawn.stop(rows[ended]):
            found = [self._completion(drawn, row, stop) for row in drawn.rows_of[request]]
            drawn.completions[request] = found
            if done is not None:
                with torch.inference_mode(mode=False):  # it may be anybody's code
                    done(request, found)

    def _closes(self, stop: tuple[str, ...]) -> Tensor:
        """(V,) bool: tokens that hold the last character of a stop string, or a part of one; only these rows are
        decoded."""
        if stop not in self._closers:
            last = {s[-1] for s in stop} | {HALF}
            size = int(self.model.config.vocab_size)
            self._closers[stop] = torch.tensor(
                [any(c in self.decode([i]) for c in last) for i in range(size)]
            )
        return self._closers[stop]

    def _completion(self, drawn: Drawn, row: int, stop: tuple[str, ...]) -> Completion:
        """What became of one row."""
        end = int(drawn.ends[row])
        ids = tuple(drawn.tokens[row, :end].tolist())
        said = tuple(drawn.logprobs[row, :end].tolist())
        text, reason = self._text(ids, stop)
        return Completion(ids, (True,) * end, said, text, reason, self.version, self.version)

    def _text(self, ids: tuple[int, ...], stop: tuple[str, ...]) -> tuple[str, FinishReason]:
        return ending(ids, self.decode, self.end_ids, stop)


def _shifted(done: Done, first: int, request: int, completions: list[Completion]) -> None:
    """`done` for a request whose number counts from the `first`."""
    done(first + request, completions)


def _take_off(rows: Tensor, at: Tensor, token: Tensor, logprob: Tensor) -> Flight:
    """Send what was drawn to the host without waiting for it."""
    if not token.is_cuda:
        return Flight(rows, at, token, logprob, None)
    ids, said = (torch.empty(x.shape, dtype=x.dtype, pin_memory=True) for x in (token, logprob))
    ids.copy_(token, non_blocking=True)
    said.copy_(logprob, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()
    return Flight(rows, at, ids, said, arrived)


SAMPLER = TorchSampler
