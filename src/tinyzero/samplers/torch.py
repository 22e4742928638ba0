"""The sampler that decodes with the learner's own weights, so that nothing has to be copied.

On a CPU all completions are decoded in step: each prompt is read once per group, and rows whose
completion has ended are dropped from time to time. On a GPU completions are decoded in slots
(slots.py), and a slot that becomes free is given to the next completion. Both ways draw the same
tokens (draw.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from tinyzero.errors import NonFiniteError, UserError
from tinyzero.models import Backbone, KeyValueCache, LibraryCache
from tinyzero.samplers import SamplerSpec, require_newer
from tinyzero.samplers.draw import LARGE, ending, next_token, row_keys
from tinyzero.samplers.drawn import DrawnTokens
from tinyzero.samplers.fused import FusedStep, fused_step
from tinyzero.samplers.memory import rows_that_fit
from tinyzero.samplers.rooms import layout_for
from tinyzero.samplers.slot_schedule import SlotSchedule, Transfer
from tinyzero.samplers.slots import Slots, flash_attention, supports
from tinyzero.types import Completion, Done, FinishReason, Request, SamplingParams

# On a CPU, rows that have ended are dropped if fewer than this share of the rows is still running.
DROP_BELOW = 0.8
# The logits of this many rows of a large vocabulary stay in a CPU's cache while tokens are drawn.
DRAWN_TOGETHER = 32
# Decoders write this for the first bytes of a character if its other bytes are missing.
INCOMPLETE_CHARACTER = "\ufffd"
NOT_FINITE = "the model's logits are not finite"


class TorchSampler:
    """Samples from `model`, which may be the very module that a learner is training."""

    shares_weights = True

    def __init__(
        self,
        model: Backbone,
        decode: Callable[[Sequence[int]], str],
        end_ids: frozenset[int],
        max_rows: int = 512,
        in_slots: bool | None = None,
    ) -> None:
        """`decode` turns token ids into text that includes special tokens.

        At most `max_rows` completions are decoded at the same time, and fewer if memory is short.
        `in_slots` decodes in slots instead of in step; by default it is on if the model is on a GPU
        and is supported.
        """
        if in_slots is None:
            in_slots = model.device.type == "cuda" and supports(model)
        self.model = model
        self.decode = decode
        self.end_ids = torch.tensor(sorted(end_ids), dtype=torch.long)
        self.max_rows = max_rows
        self.in_slots = in_slots
        self.version = 0
        self._slots: Slots | None = None
        self._sizes: tuple[int, ...] = (0, 0, 0)  # rows, prompt and new tokens, at most so far
        self._stop_tokens: dict[tuple[str, ...], Tensor] = {}

    @classmethod
    def for_model(cls, model: Backbone, spec: SamplerSpec) -> TorchSampler:
        """The sampler of a run that trains `model`."""
        return cls(model, spec.decode, spec.end_ids, spec.rows)

    def metrics(self) -> dict[str, float]:
        """Whether decoding uses what makes it fast on a GPU, for a step's record."""
        if self._slots is None or self.model.device.type != "cuda":
            return {}
        return {
            "sampler/graphs": float(self._slots.capturing),
            "sampler/attention": float(self._slots.attention is flash_attention),
        }

    def take_faults(self) -> list[str]:
        """What makes decoding slower than it should be; each fault is returned once."""
        if self._slots is None:
            return []
        faults = self._slots.faults
        self._slots.faults = []
        return faults

    def load_weights(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Take over the version, which must be newer, and copy `weights`, if there are any."""
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
        """One completion for each sample of each request. The prompt of a request is read once.

        `done(number, completions)` is called as soon as all samples of a request have ended. Raises
        UserError if a prompt and `max_tokens` do not fit into the model's context.
        """
        if not requests:
            return []
        self._check_lengths(
            (len(request.prompt_ids), request.limit(params)) for request in requests
        )
        params = replace(params, max_tokens=max(request.limit(params) for request in requests))
        if self.in_slots:
            return self._decode_in_slots(requests, params, done)

        longest = max(len(request.prompt_ids) for request in requests)
        rows = min(self.max_rows, rows_that_fit(self.model, longest + params.max_tokens))
        completions: list[list[Completion]] = [[] for _ in requests]
        for numbers, parts in batches(requests, rows):
            self._decode_in_step(parts, params, _whole(requests, numbers, completions, done))
        return completions

    @torch.inference_mode()
    def stream(self, prompt: Sequence[int], params: SamplingParams) -> Iterator[str]:
        """The text of the first completion of one prompt: what is new after each token."""
        self._check_lengths([(len(prompt), params.max_tokens)])
        logits, cache = self._read_prompts([prompt], params.max_tokens)
        fused = fused_step(self.model)
        zero = torch.zeros(1, dtype=torch.long)
        keys = row_keys(params.seed, groups=zero, samples=zero)

        ids: tuple[int, ...] = ()
        shown = 0
        for position in range(params.max_tokens):
            token, logprob = next_token(logits, keys, position, params)
            if logprob.isnan():
                raise NonFiniteError(NOT_FINITE)

            ids += (int(token),)
            text, reason = self._text(ids, params.stop)
            has_ended = reason == "stop" or len(ids) == params.max_tokens
            if not has_ended:
                text = text.rstrip(INCOMPLETE_CHARACTER)
            yield text[shown:]
            shown = len(text)

            if has_ended:
                return
            logits = self._read_token(token, cache, fused)

    def _check_lengths(self, lengths: Iterable[tuple[int, int]]) -> None:
        """Raise UserError if a prompt and its new tokens exceed the model's context.

        `lengths` has the number of both for each request.
        """
        prompt, new = max(lengths, key=sum)
        context = self.model.context
        if prompt + new > context:
            raise UserError(
                f"a prompt of {prompt} tokens and {new} new ones exceed the model's "
                f"context of {context}: lower max_tokens to {context - prompt} or less"
            )

    def _decode_in_step(
        self, requests: Sequence[Request], params: SamplingParams, done: Done | None
    ) -> list[list[Completion]]:
        """Decode all samples of some requests, so that every row gets its next token together."""
        device = self.model.device
        drawn = DrawnTokens(requests, params)
        prompts = [request.prompt_ids for request in requests]
        logits, cache = self._read_prompts(prompts, params.max_tokens)
        fused = fused_step(self.model, drawn.rows)  # the weights may have changed since last time

        cache.select(drawn.request.to(device))
        logits = logits[drawn.request]
        keys = drawn.keys(params.seed)
        rows = torch.arange(drawn.rows)  # those that are in the cache

        for step in range(params.max_tokens):
            token, logprob = drawn_tokens(logits, keys[rows], drawn.position[rows] + step, params)
            columns = torch.full_like(rows, step)
            self._record(drawn, rows, columns, token.cpu(), logprob.cpu(), params.stop, done)

            running = drawn.running[rows]
            if not running.any():
                break
            if running.float().mean() < DROP_BELOW:
                kept = running.nonzero().squeeze(1)
                rows = rows[kept]
                token = token[kept.to(device)]
                cache.select(kept.to(device))
            logits = self._read_token(token, cache, fused)
        return drawn.completions

    def _decode_in_slots(
        self, requests: Sequence[Request], params: SamplingParams, done: Done | None
    ) -> list[list[Completion]]:
        """Decode all samples of all requests in slots, which are refilled as they become free.

        The host records the tokens of a step while the device computes the next one. It therefore
        notices one step late that a row has ended, and ignores what was drawn for it since.
        """
        drawn = DrawnTokens(requests, params)
        longest = max(len(request.prompt_ids) for request in requests)
        slots = self._slots_for(drawn.rows, longest, params.max_tokens)
        schedule = SlotSchedule(slots, drawn, requests, params)

        in_flight: Transfer | None = None
        while True:
            schedule.release_ended()
            if schedule.should_refill():
                self._record(drawn, *schedule.refill(), params.stop, done)
                continue

            schedule.shrink()
            arriving = in_flight
            in_flight = schedule.step()
            if arriving is not None:
                self._record(drawn, *arriving.wait(), params.stop, done)
            elif in_flight is None:
                return drawn.completions

    def _slots_for(self, rows: int, prompt: int, new: int) -> Slots:
        """Slots for `rows` completions of up to `new` tokens, after up to `prompt` tokens.

        The slots of the last call are used again if they fit. They stay on the GPU while the
        learner trains, because capturing their CUDA graphs takes time. They are made for the most
        that was ever asked for, so that training and evaluations, which ask for different sizes,
        end up sharing them. They never take more memory than `max_rows` sequences of the greatest
        length.
        """
        sizes = (rows, prompt, new)
        self._sizes = tuple(map(max, self._sizes, sizes))
        most_rows, longest_prompt, most_new = self._sizes
        layout = layout_for(most_rows, self.max_rows, longest_prompt, most_new)

        if self._slots is None or not self._slots.fits(self.model, layout):
            self._slots = None  # free the memory of the old slots before new ones are allocated
            self._slots = Slots(self.model, layout)
        return self._slots

    def _read_prompts(
        self, prompts: Sequence[Sequence[int]], max_tokens: int
    ) -> tuple[Tensor, KeyValueCache | LibraryCache]:
        """Read each prompt once: logits (P, V) of the first new tokens, and a cache with room."""
        model = self.model
        width = max(map(len, prompts))
        padded = [[*[0] * (width - len(prompt)), *prompt] for prompt in prompts]
        ids = torch.tensor(padded, device=model.device)
        pads = torch.tensor([width - len(prompt) for prompt in prompts])

        length = width + max_tokens
        cache = model.new_cache(pads, length)
        last_hidden = model.step(ids, cache)[:, -1]
        return model.logits_of(last_hidden), cache

    def _read_token(
        self, token: Tensor, cache: KeyValueCache | LibraryCache, fused: FusedStep | None
    ) -> Tensor:
        """Read one token per row, (B,): logits (B, V) of the token after it."""
        if fused is not None and isinstance(cache, KeyValueCache):
            return fused.logits(token, cache)
        hidden = self.model.step(token[:, None], cache)
        return self.model.logits_of(hidden[:, -1])

    def _record(
        self,
        drawn: DrawnTokens,
        rows: Tensor,
        columns: Tensor,
        token: Tensor,
        logprob: Tensor,
        stop: tuple[str, ...],
        done: Done | None,
    ) -> None:
        """Write one drawn token per row into `drawn`, and finish the rows that end with it.

        Rows that are -1 or have ended already are ignored. Requests whose rows have all ended get
        their completions. Raises NonFiniteError if the logits were not finite.
        """
        kept = (rows >= 0) & drawn.running[rows]
        if not kept.all():
            rows, columns, token, logprob = rows[kept], columns[kept], token[kept], logprob[kept]
        if logprob.isnan().any():
            raise NonFiniteError(NOT_FINITE)
        drawn.tokens[rows, columns] = token
        drawn.logprobs[rows, columns] = logprob

        has_ended = torch.isin(token, self.end_ids)
        if stop:
            # A token is at least one character, or one of the at most four bytes of a character.
            reach = 4 * max(map(len, stop))
            for index in self._may_end_with(stop)[token].nonzero().squeeze(1).tolist():
                end = int(columns[index]) + 1
                recent = drawn.tokens[rows[index], max(0, end - reach) : end].tolist()
                text = self.decode(recent)
                has_ended[index] |= any(string in text for string in stop)

        drawn.lengths[rows[has_ended]] = columns[has_ended] + 1
        has_ended |= columns + 1 == drawn.limit[rows]
        if has_ended.any():
            self._finish(drawn, rows[has_ended], stop, done)

    def _finish(
        self, drawn: DrawnTokens, rows: Tensor, stop: tuple[str, ...], done: Done | None
    ) -> None:
        """Mark `rows` as ended, and make the completions of requests that have ended with them."""
        for request in drawn.stop(rows):
            completions = [
                self._completion(drawn, row, stop) for row in drawn.rows_of_request[request]
            ]
            drawn.completions[request] = completions
            if done is not None:
                with torch.inference_mode(mode=False):  # `done` may compute gradients
                    done(request, completions)

    def _may_end_with(self, stop: tuple[str, ...]) -> Tensor:
        """(V,) bool: tokens that can complete a stop string. Only after these is text decoded.

        They contain the last character of a stop string, or a part of a character.
        """
        if stop not in self._stop_tokens:
            last_characters = {string[-1] for string in stop} | {INCOMPLETE_CHARACTER}
            texts = [self.decode([token]) for token in range(int(self.model.config.vocab_size))]
            self._stop_tokens[stop] = torch.tensor(
                [any(character in text for character in last_characters) for text in texts]
            )
        return self._stop_tokens[stop]

    def _completion(self, drawn: DrawnTokens, row: int, stop: tuple[str, ...]) -> Completion:
        """The completion of a row that has ended."""
        length = int(drawn.lengths[row])
        ids = tuple(drawn.tokens[row, :length].tolist())
        text, reason = self._text(ids, stop)
        return Completion(
            token_ids=ids,
            loss_mask=(True,) * length,
            sampled_logprobs=tuple(drawn.logprobs[row, :length].tolist()),
            text=text,
            finish_reason=reason,
            first_version=self.version,
            last_version=self.version,
        )

    def _text(self, ids: tuple[int, ...], stop: tuple[str, ...]) -> tuple[str, FinishReason]:
        return ending(ids, self.decode, self.end_ids, stop)


def batches(requests: Sequence[Request], rows: int) -> Iterator[tuple[list[int], list[Request]]]:
    """(numbers of requests, requests) to decode together: at most `rows` samples.

    A request that has more samples than that is divided into several of fewer samples.
    """
    numbers: list[int] = []
    batch: list[Request] = []
    room = rows
    for number, request in enumerate(requests):
        for part in divided(request, rows):
            if len(part.samples) > room:
                yield numbers, batch
                numbers, batch, room = [], [], rows
            numbers.append(number)
            batch.append(part)
            room -= len(part.samples)
    yield numbers, batch


def divided(request: Request, rows: int) -> list[Request]:
    """Requests of at most `rows` samples that have the samples of `request`, in their order."""
    samples = request.samples
    starts = range(0, len(samples), rows)
    return [replace(request, samples=samples[start : start + rows]) for start in starts]


def _whole(
    requests: Sequence[Request],
    numbers: Sequence[int],
    completions: list[list[Completion]],
    done: Done | None,
) -> Done:
    """What to do with the completions of a batch's requests: add them to those of `requests`.

    `done` is called for those that have all of their samples.
    """

    def add(index: int, ended: list[Completion]) -> None:
        number = numbers[index]
        completions[number] += ended
        if done is not None and len(completions[number]) == len(requests[number].samples):
            done(number, completions[number])

    return add


def drawn_tokens(
    logits: Tensor, keys: Tensor, position: Tensor, params: SamplingParams
) -> tuple[Tensor, Tensor]:
    """`next_token` of each row, for a few rows of a large vocabulary at a time on a CPU."""
    if logits.is_cuda or logits.shape[-1] <= LARGE:
        return next_token(logits, keys, position, params)
    parts = zip(
        logits.split(DRAWN_TOGETHER),
        keys.split(DRAWN_TOGETHER),
        position.split(DRAWN_TOGETHER),
        strict=True,
    )
    drawn = [next_token(*part, params) for part in parts]
    token, logprob = (torch.cat(column) for column in zip(*drawn, strict=True))
    return token, logprob


SAMPLER = TorchSampler
