"""How the next token is drawn: a uniform number, looked up in the cumulative distribution.

The uniform number is a hash of (seed, group, sample, position), and not the next number of a
generator. So a token depends only on these four and on its logits: batch size, order and the slot
that decodes it do not change what is drawn.

Logits that are rounded differently, as in a batch of another size, can still change it, because
they move every bound between two tokens a little. Large vocabularies have many bounds, so there a
chunk of tokens is drawn first, then a token within it, each with a number of its own: of 49,152
tokens, one draw in 10,000 changes instead of one in 150.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from tinyzero.types import FinishReason, SamplingParams

GOLDEN = -7046029254386353131  # 2**64 / golden ratio as int64, the increment of SplitMix64
LARGE = 1 << 14  # larger vocabularies are searched in two stages
CHUNK = 128  # tokens per chunk of the first stage; it divides the vocabularies of Qwen and Llama


def mix(x: Tensor) -> Tensor:
    """The finaliser of SplitMix64 on int64 with overflow: a good hash (Steele et al., 2014)."""
    x = (x ^ _shift(x, 30)) * -4658895280553007687
    x = (x ^ _shift(x, 27)) * -7723592293110705685
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Shift int64 to the right and fill with zeros, as if it were unsigned."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def row_keys(seed: int, groups: Tensor, samples: Tensor) -> Tensor:
    """One int64 key per row, for its (group, sample) under `seed`: (B,), (B,) -> (B,)."""
    base = mix(torch.tensor(seed) + GOLDEN)
    return mix(mix(base ^ mix(groups + 1)) ^ mix(samples + 1))


def uniforms(keys: Tensor, position: int | Tensor) -> Tensor:
    """A uniform float64 in [0, 1) per row, for its token at `position`: (B,) -> (B,).

    `position` is one number, or one per row.

    >>> keys = row_keys(0, groups=torch.tensor([0, 0]), samples=torch.tensor([0, 1]))
    >>> uniforms(keys, position=0)
    tensor([0.5191, 0.5277], dtype=torch.float64)
    """
    counter = torch.as_tensor(position, device=keys.device) + 1
    return _shift(mix(keys + counter * GOLDEN), 11).double() / 2**53


def distribution(logits: Tensor, params: SamplingParams) -> Tensor:
    """Log-probabilities (B, V) of the distribution that tokens are drawn from, in float32.

    The temperature applies first, then top-k, then top-p. The result is normalised.
    """
    logprobs = _tempered(logits, params).log_softmax(-1)

    if params.top_k:
        count = min(params.top_k, logprobs.shape[-1])
        lowest_kept = logprobs.topk(count, dim=-1).values[:, -1:]
        logprobs = logprobs.masked_fill(logprobs < lowest_kept, -torch.inf).log_softmax(-1)

    if params.top_p < 1:
        descending, index = logprobs.sort(-1, descending=True)
        probs = descending.exp()
        before = probs.cumsum(-1) - probs  # the probability of all tokens that are more likely
        nothing_dropped = torch.zeros_like(logprobs, dtype=torch.bool)
        is_dropped = nothing_dropped.scatter(-1, index, before >= params.top_p)
        logprobs = logprobs.masked_fill(is_dropped, -torch.inf).log_softmax(-1)
    return logprobs


def _tempered(logits: Tensor, params: SamplingParams) -> Tensor:
    """float32 logits (B, V), divided by the temperature."""
    logits = logits.float()
    return logits if params.temperature == 1 else logits / params.temperature


def next_token(
    logits: Tensor, keys: Tensor, position: int | Tensor, params: SamplingParams
) -> tuple[Tensor, Tensor]:
    """The next token (B,) of each row, and its log-probability (B,).

    `logits` is (B, V), and `keys` (B,) comes from `row_keys`. At temperature 0 the token is the
    most likely one, and the log-probability is 0. If a row's logits are not finite, its
    log-probability is NaN. Nothing here makes the host wait for a GPU.
    """
    if params.banned:
        logits = logits.clone()
        for token_id in params.banned:  # a tensor of them could not be made in a CUDA graph
            logits[:, token_id] = -torch.inf
    if params.temperature == 0:
        token = logits.argmax(-1)
        return token, torch.zeros(len(token), device=logits.device)

    drawn = uniforms(keys, position).to(logits.device)
    is_large = logits.shape[-1] > LARGE
    if is_large:
        drawn_within = uniforms(mix(keys), position).to(logits.device)
    if is_large and not params.top_k and params.top_p == 1:
        # Each pass over a large vocabulary takes time: one softmax, and one logarithm per row.
        probs = _tempered(logits, params).softmax(-1)
        token = invert_large(probs, drawn, drawn_within)
        return token, _chosen(probs, token).log()

    logprobs = distribution(logits, params)
    if is_large:
        token = invert_large(logprobs.exp(), drawn, drawn_within)
    else:
        token = invert(logprobs.double().exp(), drawn)
    return token, _chosen(logprobs, token)


def _chosen(values: Tensor, token: Tensor) -> Tensor:
    """The value of each row's token: (B, V), (B,) -> (B,)."""
    return values.gather(-1, token[:, None]).squeeze(-1)


def invert(weights: Tensor, drawn: Tensor) -> Tensor:
    """The first token at which the running sum of `weights` exceeds the share `drawn` of it.

    `weights` is (B, V) float64, `drawn` is (B,) in [0, 1), and the result is (B,).

    >>> invert(torch.tensor([[0.5, 0.25, 0.25]]).double(), torch.tensor([0.6]).double())
    tensor([1])
    """
    cumulative = weights.cumsum(-1)
    threshold = drawn[:, None] * cumulative[:, -1:]
    token = torch.searchsorted(cumulative, threshold, right=True).squeeze(-1)
    return token.clamp(max=weights.shape[-1] - 1)  # the threshold may be rounded up to the total


def invert_large(weights: Tensor, drawn: Tensor, drawn_within: Tensor) -> Tensor:
    """A token drawn in two stages: the chunk that `drawn` selects, then the token within it.

    `weights` is (B, V) float32; `drawn` and `drawn_within` are (B,) in [0, 1). Each stage is like
    `invert`, and a token has the same probability as there. This avoids the running sum over a
    large vocabulary, in float64: only the sums of chunks of CHUNK tokens are added up. If a row is
    not finite, the token is the last one: an id outside of the vocabulary would end a program that
    runs on CUDA.
    """
    size = weights.shape[-1]
    missing = -size % CHUNK
    if missing:  # padding by 0 columns would copy the whole tensor too
        weights = F.pad(weights, (0, missing))
    chunks = weights.unflatten(-1, (-1, CHUNK))

    chunk = _first_above(chunks.sum(-1, dtype=torch.double).cumsum(-1), drawn)
    columns = chunk[..., None].expand(-1, -1, CHUNK)
    within = chunks.gather(1, columns).squeeze(1).double()
    token = _first_above(within.cumsum(-1), drawn_within)
    return (chunk * CHUNK + token).squeeze(-1).clamp(max=size - 1)


def _first_above(cumulative: Tensor, drawn: Tensor) -> Tensor:
    """The first column in which the running sum exceeds its share: (B, N), (B,) -> (B, 1)."""
    total = cumulative[:, -1:]
    # A threshold below the total only selects a column of positive weight.
    threshold = torch.minimum(drawn[:, None] * total, _below(total))
    return torch.searchsorted(cumulative, threshold, right=True).clamp(max=cumulative.shape[-1] - 1)


def _below(x: Tensor) -> Tensor:
    """The next smaller float."""
    return torch.nextafter(x, torch.zeros_like(x))


def ending(
    ids: tuple[int, ...],
    decode: Callable[[Sequence[int]], str],
    end_ids: Container[int],
    stop: tuple[str, ...],
) -> tuple[str, FinishReason]:
    """The text of a completion and why it ended: ("stop" or "length").

    The text goes up to and including the first stop string. It does not contain the end token.
    """
    if ids[-1] in end_ids:
        return decode(ids[:-1]), "stop"

    text = decode(ids)
    cuts = [text.index(string) + len(string) for string in stop if string in text]
    if cuts:
        return text[: min(cuts)], "stop"
    return text, "length"
