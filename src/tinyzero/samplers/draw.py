"""What a token becomes: one counter-based uniform through the inverse of the cumulative distribution.

It depends only on (seed, group, sample, position) and the logits, so batch size, order and placement do not change
what is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from tinyzero.types import FinishReason, SamplingParams

GOLDEN = -7046029254386353131  # 2**64 / the golden ratio, SplitMix64's increment, as int64
LARGE = 1 << 14  # vocabularies above this are summed in two stages
CHUNK = 128  # it divides the vocabularies of Qwen and Llama, which so need no padding


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


def uniforms(keys: Tensor, position: int | Tensor) -> Tensor:
    """A float64 in [0, 1) for each row's token at `position`, its own or that of all."""
    counter = torch.as_tensor(position, device=keys.device) + 1
    return _shift(mix(keys + counter * GOLDEN), 11).double() / 2**53


def distribution(logits: Tensor, params: SamplingParams) -> Tensor:
    """Log-probabilities (B, V) actually sampled from: temperature, then top-k, then top-p, renormalised."""
    logits = logits.float()
    logprobs = (logits if params.temperature == 1 else logits / params.temperature).log_softmax(-1)
    if params.top_k:
        kth = logprobs.topk(min(params.top_k, logprobs.shape[-1]), dim=-1).values[:, -1:]
        logprobs = logprobs.masked_fill(logprobs < kth, -torch.inf).log_softmax(-1)
    if params.top_p < 1:
        ordered, index = logprobs.sort(-1, descending=True)
        before = ordered.exp().cumsum(-1) - ordered.exp()
        dropped = torch.zeros_like(logprobs, dtype=torch.bool).scatter(
            -1, index, before >= params.top_p
        )
        logprobs = logprobs.masked_fill(dropped, -torch.inf).log_softmax(-1)
    return logprobs


def next_token(
    logits: Tensor, keys: Tensor, position: int | Tensor, params: SamplingParams
) -> tuple[Tensor, Tensor]:
    """The next token (B,) of each row and its log-probability: at temperature 0 the most likely one and 0.

    Where a row's logits are not finite its log-probability is NaN. Nothing here waits for a GPU.
    """
    if params.banned:
        logits = logits.index_fill(
            -1, torch.tensor(params.banned, device=logits.device), -torch.inf
        )
    if params.temperature == 0:
        token = logits.argmax(-1)
        return token, torch.zeros(len(token), device=logits.device)
    logprobs = distribution(logits, params)
    drawn = uniforms(keys, position).to(logits.device)
    token = (
        invert(logprobs.double().exp(), drawn)
        if logits.shape[-1] <= LARGE
        else invert_large(logprobs, drawn)
    )
    return token, logprobs.gather(-1, token[:, None]).squeeze(-1)


def invert(weights: Tensor, drawn: Tensor) -> Tensor:
    """Where the running sum of float64 weights (B, V) first exceeds the share `drawn` (B,) of the total."""
    cumulative = weights.cumsum(-1)
    threshold = drawn[:, None] * cumulative[:, -1:]
    # a threshold rounded up to the total is above all
    return (
        torch.searchsorted(cumulative, threshold, right=True)
        .squeeze(-1)
        .clamp(max=weights.shape[-1] - 1)
    )


def invert_large(logprobs: Tensor, drawn: Tensor) -> Tensor:
    """`invert` of exp(logprobs) (B, V) in two stages: the chunk, then the token within it.

    The whole vocabulary is read in fp32 and summed in float64, but no running sum of it is written.
    """
    if spare := -logprobs.shape[-1] % CHUNK:  # padding by nothing would copy them all the same
        logprobs = F.pad(logprobs, (0, spare), value=-torch.inf)
    weights = logprobs.exp().unflatten(-1, (-1, CHUNK))
    sums = weights.sum(-1, dtype=torch.double).cumsum(-1)  # (B, V / CHUNK)
    threshold = torch.minimum(drawn[:, None] * sums[:, -1:], _below(sums[:, -1:]))
    chunk = torch.searchsorted(sums, threshold, right=True).clamp(max=sums.shape[-1] - 1)
    before = torch.where(chunk > 0, sums.gather(-1, (chunk - 1).clamp(min=0)), 0.0)
    inner = weights.gather(1, chunk[..., None].expand(-1, -1, CHUNK)).squeeze(1).double().cumsum(-1)
    rest = torch.minimum(
        threshold - before, _below(inner[:, -1:])
    )  # the two stages round differently
    token = torch.searchsorted(inner, rest, right=True).clamp(max=CHUNK - 1)
    return (chunk * CHUNK + token).squeeze(-1)


def _below(x: Tensor) -> Tensor:
    """The next smaller number: what has this or less of the total before it has a probability."""
    return torch.nextafter(x, torch.zeros_like(x))


def ending(
    ids: tuple[int, ...],
    decode: Callable[[Sequence[int]], str],
    end_ids: Container[int],
    stop: tuple[str, ...],
) -> tuple[str, FinishReason]:
    """The text up to and including the first stop string, without an end token, and why it ended."""
    if ids[-1] in end_ids:
        return decode(ids[:-1]), "stop"
    text = decode(ids)
    cuts = [text.index(s) + len(s) for s in stop if s in text]
    return (text[: min(cuts)], "stop") if cuts else (text, "length")
