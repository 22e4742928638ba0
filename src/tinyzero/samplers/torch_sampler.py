"""The sampler that runs the learner's own weights: no copy, nothing to synchronise.

A pre-allocated cache, the whole batch in lock-step, a group's prompt read once, finished rows
dropped as they go. What a token becomes depends only on (seed, group, sample, position) and the
weights: one counter-based uniform a token goes through the inverse of the cumulative distribution,
so batch size, order and placement do not change what is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from tinyzero.models import Backbone, KeyValueCache
from tinyzero.samplers.fused import FusedStep, fused_step
from tinyzero.types import Completion, FinishReason, NonFiniteError, SamplingParams, UserError

DROP_BELOW = 0.8  # rows are dropped from the cache when fewer than this share of them is live

HALF = "\ufffd"  # how a decoder writes the first bytes of a character whose others are still to come

GOLDEN = -7046029254386353131  # 2**64 / the golden ratio, SplitMix64's increment, as int64


def mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64 (wrapping): a good hash of a counter. Steele et al., 2014."""
    x = (x ^ _shift(x, 30)) * -4658895280553007687
    x = (x ^ _shift(x, 27)) * -7723592293110705685
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def row_keys(seed: int, groups: Tensor, samples: Tensor) -> Tensor:
    """One int64 key for each (group, sample) under `seed`."""
    base = mix(torch.tensor(seed) + GOLDEN)
    return mix(mix(base ^ mix(groups + 1)) ^ mix(samples + 1))


def uniforms(keys: Tensor, position: int) -> Tensor:
    """A float64 in [0, 1) for each row's token at `position`."""
    return _shift(mix(keys + torch.tensor(position + 1) * GOLDEN), 11).double() / 2**53


def distribution(logits: Tensor, params: SamplingParams) -> Tensor:
    """Log-probabilities (B, V) actually sampled from: temperature, then top-k, then top-p, renormalised."""
    logprobs = (logits.float() / params.temperature).log_softmax(-1)
    if params.top_k:
        kth = logprobs.topk(min(params.top_k, logprobs.shape[-1]), dim=-1).values[:, -1:]
        logprobs = logprobs.masked_fill(logprobs < kth, -torch.inf).log_softmax(-1)
    if params.top_p < 1:
        ordered, index = logprobs.sort(-1, descending=True)
        before = ordered.exp().cumsum(-1) - ordered.exp()
        dropped = torch.zeros_like(logprobs, dtype=torch.bool).scatter(-1, index, before >= params.top_p)
        logprobs = logprobs.masked_fill(dropped, -torch.inf).log_softmax(-1)
    return logprobs


def choose(logits: Tensor, keys: Tensor, position: int, params: SamplingParams) -> tuple[Tensor, Tensor]:
    """The next token of each row and its log-probability; temperature 0 is the most likely one, at 0.

    Raises NonFiniteError where the logits are not.
    """
    if params.banned:
        logits = logits.index_fill(-1, torch.tensor(params.banned, device=logits.device), -torch.inf)
    if params.temperature == 0:
        token = logits.argmax(-1)
        return token, torch.zeros(len(token), device=logits.device)
    logprobs = distribution(logits, params)
    cumulative = logprobs.double().exp().cumsum(-1)
    threshold = uniforms(keys, position).to(logits.device)[:, None] * cumulative[:, -1:]
    token = torch.searchsorted(cumulative, threshold, right=True).squeeze(-1)
    if bool((token == logits.shape[-1]).any()):  # the threshold was rounded up to the total, or there is no total
        if not bool(cumulative.isfinite().all()):
            raise NonFiniteError("the model's logits are not finite")
        token = token.clamp(max=logits.shape[-1] - 1)
    return token, logprobs.gather(-1, token[:, None]).squeeze(-1)


def ending(
    ids: tuple[int, ...], decode: Callable[[Sequence[int]], str], end_ids: Container[int], stop: tuple[str, ...]
) -> tuple[str, FinishReason]:
    """The text up to and including the first stop string, without an end token, and why it ended."""
    if ids[-1] in end_ids:
        return decode(ids[:-1]), "stop"
    text = decode(ids)
    cuts = [text.index(s) + len(s) for s in stop if s in text]
    return (text[: min(cuts)], "stop") if cuts else (text, "length")


class TorchSampler:
    """Samples from `model`, which may be the very module a learner is training."""

    def __init__(
        self,
        model: Backbone,
        decode: Callable[[Sequence[int]], str],
        end_ids: frozenset[int],
        max_rows: int = 512,
    ) -> None:
        """`decode` turns token ids to text, special tokens included; `max_rows` decode at once."""
        self.model = model
        self.decode = decode
        self.end_ids = torch.tensor(sorted(end_ids), dtype=torch.long)
        self.max_rows = max_rows
        self.version = 0
        self._closers: dict[tuple[str, ...], Tensor] = {}

    def load_weights(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Copy `weights` (none where they are shared) and take the version, which must go up."""
        if version <= self.version:
            raise ValueError(f"weights of version {version} are not newer than version {self.version}, held now")
        own = self.model.lm.state_dict()
        with torch.no_grad():
            for name, tensor in weights:
                own[name].copy_(tensor)
        self.version = version

    @torch.inference_mode()
    def generate(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, first_group: int = 0
    ) -> list[list[Completion]]:
        """`params.n` completions a prompt. Prompt i draws the randomness of group `first_group + i`.

        Raises UserError where a prompt and `max_tokens` do not fit the model's context.
        """
        self._check_length(prompts, params)
        at_once = max(1, self.max_rows // params.n)
        completions: list[list[Completion]] = []
        for start in range(0, len(prompts), at_once):
            completions += self._decode(prompts[start : start + at_once], params, first_group + start)
        return completions

    @torch.inference_mode()
    def stream(self, prompt: Sequence[int], params: SamplingParams) -> Iterator[str]:
        """The completion that `generate` makes of one prompt, as text that grows: what is new after each token."""
        self._check_length([prompt], params)
        logits, cache = self._prefill([prompt], params.max_tokens)
        fused = fused_step(self.model)
        keys = row_keys(params.seed, torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.long))
        ids: tuple[int, ...] = ()
        shown = 0
        for t in range(params.max_tokens):
            token, _ = choose(logits, keys, t, params)
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
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, first_group: int
    ) -> list[list[Completion]]:
        """All samples of some prompts, in lock-step."""
        count, n, device = len(prompts), params.n, self.model.device
        logits, cache = self._prefill(prompts, params.max_tokens)
        fused = fused_step(self.model)  # the weights may have changed since the last call
        rows = torch.arange(count).repeat_interleave(n)
        cache.select(rows.to(device))
        logits = logits[rows]
        keys = row_keys(params.seed, rows + first_group, torch.arange(n).repeat(count))
        live = torch.arange(count * n)
        tokens = torch.zeros(count * n, params.max_tokens, dtype=torch.long)
        logprobs = torch.zeros(count * n, params.max_tokens)
        ends = torch.full((count * n,), params.max_tokens)
        for t in range(params.max_tokens):
            token, logprob = choose(logits, keys[live], t, params)
            tokens[live, t], logprobs[live, t] = token.cpu(), logprob.cpu()
            done = self._finished(token.cpu(), tokens, live, t, params.stop)
            ends[live[done & (ends[live] == params.max_tokens)]] = t + 1
            running = ends[live] == params.max_tokens
            if not running.any():
                break
            if running.float().mean() < DROP_BELOW:
                kept = running.nonzero().squeeze(1)
                live, token = live[kept], token[kept.to(device)]
                cache.select(kept.to(device))
            logits = self._next(token, cache, fused)
        return [
            [self._completion(tokens[r, : ends[r]], logprobs[r, : ends[r]], params) for r in range(p * n, (p + 1) * n)]
            for p in range(count)
        ]

    def _prefill(self, prompts: Sequence[Sequence[int]], max_tokens: int) -> tuple[Tensor, KeyValueCache]:
        """Read each prompt once: logits (P, V) of the first new token, and the cache."""
        model, device = self.model, self.model.device
        width = max(map(len, prompts))
        ids = torch.tensor([[*[0] * (width - len(p)), *p] for p in prompts], device=device)
        pads = torch.tensor([width - len(p) for p in prompts])
        cache = KeyValueCache(model.config, pads, width + max_tokens, model.dtype, device)
        return model.logits_of(model.step(ids, cache)[:, -1]), cache

    def _next(self, token: Tensor, cache: KeyValueCache, fused: FusedStep | None) -> Tensor:
        """Read one token a row; logits (B, V) of the one after."""
        hidden = fused(token, cache) if fused is not None else self.model.step(token[:, None], cache)[:, -1]
        return self.model.logits_of(hidden)

    def _finished(self, token: Tensor, tokens: Tensor, live: Tensor, t: int, stop: tuple[str, ...]) -> Tensor:
        """Which live rows ended with this token: an end token, or one that completes a stop string."""
        done = torch.isin(token, self.end_ids)
        if stop:
            reach = max(map(len, stop))  # a token is at least a character or a byte of one
            for i in self._closes(stop)[token].nonzero().squeeze(1).tolist():
                tail = self.decode(tokens[live[i], max(0, t + 1 - 4 * reach) : t + 1].tolist())
                done[i] |= any(s in tail for s in stop)
        return done

    def _closes(self, stop: tuple[str, ...]) -> Tensor:
        """(V,) bool: tokens that hold the last character of a stop string, or a part of one; only these rows are
        decoded."""
        if stop not in self._closers:
            last = {s[-1] for s in stop} | {HALF}
            size = int(self.model.config.vocab_size)
            self._closers[stop] = torch.tensor([any(c in self.decode([i]) for c in last) for i in range(size)])
        return self._closers[stop]

    def _completion(self, tokens: Tensor, logprobs: Tensor, params: SamplingParams) -> Completion:
        ids = tuple(tokens.tolist())
        text, reason = self._text(ids, params.stop)
        return Completion(ids, (True,) * len(ids), tuple(logprobs.tolist()), text, reason, self.version, self.version)

    def _text(self, ids: tuple[int, ...], stop: tuple[str, ...]) -> tuple[str, FinishReason]:
        return ending(ids, self.decode, self.end_ids, stop)
