"""Losses: one number per token, and the sum that makes a scalar of them.

All functions are pure functions of tensors. In the shapes, B counts sequences, T tokens, and V the
entries of the vocabulary. Functions that return a loss per token take no mask: `aggregate` drops
what lies outside it. Their inputs should be finite in the padding all the same, because the
derivative of a square at infinity, times the zero that `aggregate` passes back, is NaN.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

if TYPE_CHECKING:
    from tinyzero.algorithms.options import Aggregation, Level

Estimator = Literal["k1", "k2", "k3", "k3+"]
Correction = Literal["truncate", "mask"]

# A ratio of probabilities beyond exp(20) = 5e8 is a bug and not a policy, and exp(89) overflows
# float32. Beyond the limit the gradient of the clamp is exactly zero, which also keeps junk in the
# padding out of the gradient.
LOG_RATIO_LIMIT = 20.0

# The logprob of an impossible token is -inf, which must not be multiplied by its probability 0.
FP32_LOWEST = torch.finfo(torch.float32).min

# Two orders of summing 64 products differ by about 1e-7. One rounding to bfloat16 adds 2e-3.
ROUNDING = 1e-4


def _ratio(logprobs: Tensor, old_logprobs: Tensor) -> Tensor:
    """exp(logprobs - old_logprobs), with the difference held within LOG_RATIO_LIMIT."""
    return (logprobs - old_logprobs).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()


def clipped_surrogate(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
) -> tuple[Tensor, Tensor]:
    """PPO's clipped policy loss (B, T), and a mask (B, T) of the tokens that the clip cuts off.

    With r = exp(logprobs - old_logprobs) the loss of a token with advantage A is

        max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high))

    (arXiv:1707.06347, equation 7, with two separate bounds as in DAPO, arXiv:2503.14476). A token
    that is cut off has no gradient: its ratio has already moved far enough in the direction that
    its advantage asks for.

    If A is negative, nothing above bounds r. `dual_clip`, a number c > 1, limits the loss to -A c
    in this case (arXiv:1912.09729). All three inputs are (B, T).

    On-policy r is 1, so no token is cut off and the gradient is that of REINFORCE.

    The ratio is 1.5 in both columns. Only the first token, which should become more likely, is cut:

    >>> old, new = torch.zeros(1, 2), torch.full((1, 2), 1.5).log()
    >>> loss, cut = clipped_surrogate(new, old, advantages=torch.tensor([[1.0, -1.0]]))
    >>> loss
    tensor([[-1.2000,  1.5000]])
    >>> cut
    tensor([[ True, False]])
    """
    ratio = _ratio(logprobs, old_logprobs)
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip_low, 1 + clip_high)

    loss = torch.maximum(unclipped, clipped)
    is_cut = clipped > unclipped
    if dual_clip is None:
        return loss, is_cut

    too_far = (advantages < 0) & (ratio > dual_clip)
    return torch.where(too_far, -advantages * dual_clip, loss), is_cut | too_far


def importance_sampled(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor
) -> tuple[Tensor, Tensor]:
    """The policy loss without a clip (B, T), and a mask (B, T) that is False everywhere.

    The loss of a token with advantage A is -A exp(logprobs - old_logprobs). On-policy the gradient
    is that of REINFORCE, -A grad logprobs (Williams, 1992). The mask has the meaning that it has in
    `clipped_surrogate`. All inputs are (B, T).

    >>> old, new = torch.zeros(1, 2), torch.full((1, 2), 1.5).log()
    >>> importance_sampled(new, old, advantages=torch.tensor([[1.0, -1.0]]))[0]
    tensor([[-1.5000,  1.5000]])
    """
    ratio = _ratio(logprobs, old_logprobs)
    return -advantages * ratio, torch.zeros_like(ratio, dtype=torch.bool)


def cispo(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip_low: float, clip_high: float
) -> tuple[Tensor, Tensor]:
    """CISPO's policy loss (B, T), and a mask (B, T) of the tokens whose weight is clipped.

    The loss is -sg(clip(r, 1 - clip_low, 1 + clip_high)) A logprobs, where sg stops the gradient
    (arXiv:2506.13585, equation 4). The ratio r is only a weight here. It is held within bounds, so
    unlike with PPO's clip every token keeps a gradient. The value of this loss has no meaning; only
    its gradient has.

    >>> old, new = torch.zeros(1, 1), torch.full((1, 1), 1.5).log()
    >>> loss, clipped = cispo(new, old, torch.tensor([[1.0]]), clip_low=0.2, clip_high=0.2)
    >>> clipped, torch.allclose(loss, -1.2 * new)
    (tensor([[True]]), True)
    """
    ratio = _ratio(logprobs.detach(), old_logprobs)
    weight = ratio.clamp(1 - clip_low, 1 + clip_high)
    return -weight * advantages * logprobs, weight != ratio


def sequence_ratio(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor) -> Tensor:
    """Old logprobs (B, T) that give every token the ratio of its whole sequence, for GSPO.

    GSPO (arXiv:2507.18071, equations 7 and 13) replaces the ratio of a token by that of its
    sequence i of L_i masked tokens:

        s_i = exp(1/L_i sum_t (logprobs_t - old_logprobs_t))

    The result `old` is such that `logprobs - old` has the value log s_i at every token of the mask,
    and the gradient of the token's own logprob. With one advantage per sequence and the aggregation
    seq-mean-token-mean, the gradient is then that of a surrogate in s_i. All inputs are (B, T).

    Two tokens with log-ratios 0.2 and 0.4, whose mean is 0.3:

    >>> old, new = torch.tensor([[-1.0, -2.0]]), torch.tensor([[-0.8, -1.6]])
    >>> new - sequence_ratio(new, old, torch.tensor([[True, True]]))
    tensor([[0.3000, 0.3000]])
    """
    log_ratios = torch.where(mask, logprobs - old_logprobs, 0.0).detach()
    lengths = mask.sum(dim=1, keepdim=True).clamp(min=1)
    mean = log_ratios.sum(dim=1, keepdim=True) / lengths
    return logprobs.detach() - mean


def importance_weights(
    old_logprobs: Tensor,
    sampled_logprobs: Tensor,
    mask: Tensor,
    how: Correction,
    level: Level,
    cap: float,
) -> Tensor:
    """Weights (B, T) that correct for a sampler whose probabilities differ from the learner's.

    The raw weight is w = exp(old_logprobs - sampled_logprobs): the learner's probability of the
    token before the update, divided by the sampler's. With `level` "token" each token has its own,
    with "sequence" all tokens of a sequence have the product of its tokens' weights. `how` limits
    them:

    - "truncate": min(w, cap) (truncated importance sampling, Yao et al., 2025)
    - "mask": w if 1 / cap <= w <= cap, else 0 (IcePop)

    Multiply the loss of the tokens by the result. It has no gradient, and is 0 outside the mask.
    All inputs are (B, T).

    >>> sampled, old = torch.zeros(1, 3), torch.tensor([[0.1, 1.0, 3.0]]).log()
    >>> mask = torch.ones(1, 3, dtype=torch.bool)
    >>> importance_weights(old, sampled, mask, "truncate", "token", cap=2.0)
    tensor([[0.1000, 1.0000, 2.0000]])
    >>> importance_weights(old, sampled, mask, "mask", "token", cap=2.0)
    tensor([[0., 1., 0.]])
    """
    log_ratios = torch.where(mask, old_logprobs - sampled_logprobs, 0.0).detach()
    if level == "sequence":
        log_ratios = log_ratios.sum(dim=1, keepdim=True).expand_as(log_ratios)
    weights = log_ratios.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()

    if how == "truncate":
        return torch.where(mask, weights.clamp(max=cap), 0.0)
    within_bounds = (weights <= cap) & (weights >= 1 / cap)
    return torch.where(mask & within_bounds, weights, 0.0)


def implicit_reward_loss(
    log_ratios: Tensor, mask: Tensor, right: Tensor, beta: float, sequences: int
) -> Tensor:
    """PRIME's loss for its reward model: cross-entropy against right or wrong answers, a scalar.

    `log_ratios` (B, T) are log(reward model / reference). The model's probability that an answer is
    right is sigmoid(beta sum_t log_ratios_t), and `right` (B,) bool says whether it was
    (arXiv:2502.01456, equation 5). The result is this micro-batch's share of the mean over all
    `sequences` of the optimizer step.

    A model that still equals its reference is undecided, so its loss is log 2:

    >>> mask = torch.tensor([[True, True]])
    >>> implicit_reward_loss(torch.zeros(1, 2), mask, torch.tensor([True]), beta=0.05, sequences=1)
    tensor(0.6931)
    """
    scores = beta * torch.where(mask, log_ratios, 0.0).sum(dim=1)
    total = binary_cross_entropy_with_logits(scores, right.to(scores.dtype), reduction="sum")
    return total / max(sequences, 1)


def kl(logprobs: Tensor, ref_logprobs: Tensor, estimator: Estimator) -> Tensor:
    """Estimates (B, T) of KL(policy || reference), from tokens sampled by the policy.

    With d = logprobs - ref_logprobs at each token (http://joschu.net/blog/kl-approx.html):

    | estimator | value           | gradient                                               |
    |-----------|-----------------|--------------------------------------------------------|
    | k1        | d               | averages to zero: for the reward, never for the loss   |
    | k2        | d² / 2          | that of the KL divergence itself                       |
    | k3        | exp(-d) - 1 + d | biased, but the value varies least                     |
    | k3+       | that of k3      | that of k2                                             |

    As a loss the result is *added*, since the divergence should be small. Both inputs are (B, T).

    >>> kl(torch.tensor([[-1.0]]), torch.tensor([[-1.5]]), "k1")
    tensor([[0.5000]])
    >>> kl(torch.tensor([[-1.0]]), torch.tensor([[-1.5]]), "k3")
    tensor([[0.1065]])

    Raises ValueError if there is no estimator of this name.
    """
    d = logprobs - ref_logprobs
    k2 = d.square() / 2

    # For k3, d is at least -20, because exp(-d) could overflow. The clamp applies to both places of
    # d: if only the exponential were clamped, the gradient of "+ d" would be left, which pushes the
    # policy further away from the reference.
    bounded = d.clamp(min=-LOG_RATIO_LIMIT)
    k3 = torch.expm1(-bounded) + bounded

    match estimator:
        case "k1":
            return d
        case "k2":
            return k2
        case "k3":
            return k3
        case "k3+":
            return k2 - k2.detach() + k3.detach()
    raise ValueError(f"unknown KL estimator {estimator!r}: use k1, k2, k3 or k3+")


def clipped_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip: float) -> Tensor:
    """The critic's loss per token, half a squared error: (B, T), (B, T), (B, T) -> (B, T).

    There are two errors: that of `values`, and that of `values` held within `clip` of `old_values`.
    The larger one counts (PPO's reference implementation; arXiv:2005.12729, section 3).

    The value moved from 0 to the return of 1, but only a move of 0.5 counts:

    >>> one = torch.tensor([[1.0]])
    >>> clipped_value_loss(one, old_values=0 * one, returns=one, clip=0.5)
    tensor([[0.1250]])
    """
    bounded = old_values + (values - old_values).clamp(-clip, clip)
    error = torch.maximum((values - returns).square(), (bounded - returns).square())
    return error / 2


def aggregate(
    per_token: Tensor, mask: Tensor, how: Aggregation, tokens: int, sequences: int, max_length: int
) -> Tensor:
    """This micro-batch's share of the loss of one optimizer step: (B, T), (B, T) bool -> scalar.

    The denominators belong to the *whole* step, over all of its micro-batches: `tokens` is the
    number of masked tokens, `sequences` the number of sequences, and `max_length` the most tokens
    that a completion may have. Therefore the shares add up to the loss of the whole step, however
    its rows are divided into micro-batches, and so do their gradients.

    | how                 | mean over                                                           |
    |---------------------|---------------------------------------------------------------------|
    | token-mean          | all tokens (DAPO, arXiv:2503.14476)                                 |
    | seq-mean-token-mean | sequences, of the mean over their tokens (GRPO, arXiv:2402.03300)   |
    | seq-mean-token-sum  | sequences, of the sum over their tokens (RLOO, arXiv:2402.14740)    |
    | constant-length     | the same, divided by max_length (Dr. GRPO, arXiv:2503.20783)        |

    A loss of 1 for each of three tokens, in sequences of one and two tokens:

    >>> loss, mask = torch.ones(2, 2), torch.tensor([[True, False], [True, True]])
    >>> ways = ("token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "constant-length")
    >>> [aggregate(loss, mask, how, tokens=3, sequences=2, max_length=6).item() for how in ways]
    [1.0, 1.0, 1.5, 0.25]

    Outside the mask even NaN has no effect, neither on the value nor on the gradient with respect
    to `per_token`. Raises ValueError if `how` is not one of the four.
    """
    kept = torch.where(mask, per_token, 0.0)  # a product would keep NaN: NaN times zero is NaN
    match how:
        case "token-mean":
            return kept.sum() / max(tokens, 1)
        case "seq-mean-token-mean":
            lengths = mask.sum(dim=1).clamp(min=1)
            return (kept.sum(dim=1) / lengths).sum() / max(sequences, 1)
        case "seq-mean-token-sum":
            return kept.sum() / max(sequences, 1)
        case "constant-length":
            return kept.sum() / max(sequences * max_length, 1)
    raise ValueError(
        f"unknown aggregation {how!r}: use token-mean, seq-mean-token-mean, seq-mean-token-sum "
        "or constant-length"
    )


def entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of softmax(logits): (..., V) -> (...), in float32 or better.

    It is computed from log_softmax, which stays exact when a probability underflows. A forbidden
    token (logit -inf) adds nothing, because 0 log 0 is 0 here, in the value and in the gradient.

    >>> entropy(torch.tensor([0.0, 0.0, -torch.inf]))  # two equally likely tokens: log 2
    tensor(0.6931)
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    logprobs = torch.log_softmax(logits, dim=-1, dtype=dtype)
    finite = logprobs.clamp(min=torch.finfo(logprobs.dtype).min)  # 0 times -inf would be NaN
    return -(logprobs.exp() * finite).sum(dim=-1)


def chosen_logprobs(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    temperature: float,
    rows: int,
) -> tuple[Tensor, Tensor]:
    """Logprobs (N,) of `targets`, and entropies (N,), of the distributions that a head computes.

    The distribution of row n is softmax((hidden_n weightᵀ + bias) / temperature). Shapes: `hidden`
    (N, D), `weight` (V, D), `bias` (V,) or None, `targets` (N,). Both results are float32 and have
    gradients with respect to hidden, weight and bias.

    At most `rows` rows of logits exist at a time, forward and backward. With a vocabulary of
    151,936 entries they would otherwise take most of the memory. The price is that the backward
    pass computes them again. Logits are float32 whatever the precision of the inputs, and the
    gradient of the weight is summed in float32.

    Two entries of the vocabulary whose logits are always equal:

    >>> hidden, weight = torch.ones(1, 3), torch.ones(2, 3)
    >>> chosen_logprobs(hidden, weight, None, torch.tensor([0]), temperature=1.0, rows=1)
    (tensor([-0.6931]), tensor([0.6931]))
    """
    logprobs, entropies = _ChosenLogprobs.apply(  # type: ignore[no-untyped-call]
        hidden, weight, bias, targets, temperature, rows
    )
    return logprobs, entropies


@torch.no_grad()
def scored_logprobs(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    temperature: float,
    rows: int,
) -> Tensor:
    """The logprobs (N,) of `chosen_logprobs` alone: no entropy and no gradient.

    It takes the same arguments, and reads the logits half as often.

    >>> hidden, weight = torch.ones(1, 3), torch.ones(2, 3)
    >>> scored_logprobs(hidden, weight, None, torch.tensor([0]), temperature=1.0, rows=1)
    tensor([-0.6931])
    """
    chosen = hidden.new_empty(len(hidden), dtype=torch.float32)
    for chunk in _chunks(len(hidden), rows):
        logprobs = _head_logits(hidden[chunk], weight, bias, temperature).log_softmax(-1)
        chosen[chunk] = _at(logprobs, targets[chunk])
    return chosen


class _ChosenLogprobs(torch.autograd.Function):
    """`chosen_logprobs` with its gradient, computed chunk by chunk.

    With p = softmax(logits), log p its logarithm and H its entropy:

        d logprob / d logits = onehot(target) - p
        d entropy / d logits = -p (log p + H)

    Logits are by far the largest tensors here, so time goes by how often they are read and written.
    Therefore the forward pass keeps the logarithm of the sum of exponentials, from which the
    backward pass has p without another sum.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        rows: int,
    ) -> tuple[Tensor, Tensor]:
        chosen = hidden.new_empty(len(hidden), dtype=torch.float32)
        entropies, log_sums = torch.empty_like(chosen), torch.empty_like(chosen)

        for chunk in _chunks(len(hidden), rows):
            logits = _head_logits(hidden[chunk], weight, bias, temperature)
            probs = logits.softmax(-1)

            # The likeliest token's probability is never too small to have a logarithm.
            likeliest = logits.argmax(-1)
            highest, log_highest = _at(logits, likeliest), _at(probs, likeliest).log()
            log_sums[chunk] = highest - log_highest

            # This difference is exact near 0, unlike that of a logit and the logarithm of the sum.
            chosen[chunk] = _at(logits, targets[chunk]) - highest + log_highest
            entropies[chunk] = torch.special.entr(probs, out=probs).sum(-1)

        ctx.save_for_backward(hidden, weight, bias, targets, entropies, log_sums)
        ctx.set_materialize_grads(False)
        ctx.temperature = temperature
        ctx.rows = rows
        return chosen, entropies

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, entropies, log_sums = ctx.saved_tensors
        to_chosen, to_entropies = grads
        if to_chosen is None:
            to_chosen = torch.zeros_like(entropies)
        trains_weight = ctx.needs_input_grad[1]

        to_hidden = torch.empty_like(hidden)
        to_weight = torch.zeros_like(weight, dtype=torch.float32) if trains_weight else None
        to_bias = None if bias is None else torch.zeros_like(bias, dtype=torch.float32)

        for chunk in _chunks(len(hidden), ctx.rows):
            logits = _head_logits(hidden[chunk], weight, bias, ctx.temperature)
            logprobs = logits.sub_(log_sums[chunk, None])
            pull, entropy_pull = to_chosen[chunk, None] / ctx.temperature, None
            if to_entropies is not None:
                entropy_pull = to_entropies[chunk, None] / ctx.temperature

            to_logits = _to_logits(
                logprobs, targets[chunk], entropies[chunk], pull, entropy_pull, weight.dtype
            )
            to_hidden[chunk] = to_logits @ weight
            if to_weight is not None:
                add_product_(to_weight, to_logits.T, hidden[chunk])
            if to_bias is not None:
                to_bias += to_logits.sum(0, dtype=torch.float32)

        return (
            to_hidden,
            None if to_weight is None else to_weight.to(weight.dtype),
            None if to_bias is None else to_bias.to(bias.dtype),
            None,
            None,
            None,
        )


def _to_logits(
    logprobs: Tensor,
    targets: Tensor,
    entropies: Tensor,
    pull: Tensor,
    entropy_pull: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """The gradient with respect to logits (N, V), rounded to `dtype`. `logprobs` is overwritten.

    `pull` (N, 1) is the gradient with respect to the targets' logprobs, and `entropy_pull` (N, 1)
    that with respect to the entropies (N,), if they have one. With g and h for these two it is

        onehot(target) g - p (g + (log p + H) h)
    """
    if entropy_pull is None:
        # -g (p - onehot): the product also rounds, which saves writing it in float32 first
        difference = logprobs.exp_()
        difference.scatter_add_(-1, targets[:, None], torch.full_like(pull, -1.0))
        is_rounded = dtype != difference.dtype
        rounded = torch.empty_like(difference, dtype=dtype) if is_rounded else difference
        return torch.mul(difference, -pull, out=rounded)

    probs = logprobs.exp()
    factor = logprobs.clamp_(min=FP32_LOWEST).add_(entropies[:, None]).mul_(entropy_pull).add_(pull)
    to_logits = probs.mul_(factor).neg_()
    to_logits.scatter_add_(-1, targets[:, None], pull)
    return to_logits.to(dtype)


def _at(rows: Tensor, columns: Tensor) -> Tensor:
    """The entry of each row (N, V) that is in the column (N,) given for it: (N,)."""
    return rows.gather(-1, columns[:, None]).squeeze(-1)


def _head_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float) -> Tensor:
    """(hidden weightᵀ + bias) / temperature in float32: (N, D) -> (N, V)."""
    logits = fp32_logits(hidden, weight, bias)
    return logits if temperature == 1 else logits.div_(temperature)


def fp32_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Logits in float32: hidden (N, D), weight (V, D), bias (V,) or None -> (N, V).

    Low-precision inputs are multiplied and summed in float32, and the result is never rounded.
    """
    logits = fp32_product(hidden, weight.T)
    return logits if bias is None else logits + bias


def fp32_product(a: Tensor, b: Tensor) -> Tensor:
    """The matrix product (N, K), (K, M) -> (N, M) in float32, for inputs of any precision."""
    if a.dtype == torch.float32:
        return a @ b
    if a.is_cuda:
        return torch.mm(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()


def add_product_(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add the matrix product of (N, K) and (K, M), in any precision, to `total` (N, M) in float32.

    The sum is part of the product, so that no other tensor as large as `total` is written. On a GPU
    this takes an operator that not every version of PyTorch has (see `product_fault`). Without it
    the product is written before it is added.

    >>> total = torch.ones(1, 1)
    >>> add_product_(total, torch.tensor([[2.0]]), torch.tensor([[3.0]]))
    >>> total
    tensor([[7.]])
    """
    if not a.is_cuda or a.dtype == torch.float32:
        total.addmm_(a.float(), b.float())
    elif product_fault(a.device, a.dtype):
        total += fp32_product(a, b)
    else:
        _add_low_precision_(total, a, b)


def _add_low_precision_(total: Tensor, a: Tensor, b: Tensor) -> None:
    """`add_product_` by one operator for 16-bit inputs on a GPU."""
    torch.addmm(total, a, b, out_dtype=torch.float32, out=total)


@functools.cache
def product_fault(device: torch.device, dtype: torch.dtype) -> str:
    """Why products in `dtype` cannot be added to float32 by one operator; empty if they can.

    It is tried once per process and device on small numbers, with the first matrix transposed, as
    the gradient of a head needs it.
    """
    numbers = torch.arange(3 * 64 * 64, dtype=torch.float32).mul_(0.7).sin_().view(3, 64, 64)
    total, a, b = numbers.to(device)
    a, b = a.to(dtype).T, b.to(dtype)
    expected = total + fp32_product(a, b)

    try:
        _add_low_precision_(total, a, b)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError) as error:  # the device, or this version of torch, lacks it
        sentence = str(error).partition("\n")[0].partition(". ")[0]
        return sentence or type(error).__name__
    gap = (total - expected).norm() / expected.norm()
    return "" if bool(gap < ROUNDING) else "its numbers are wrong"


def _chunks(length: int, size: int) -> list[slice]:
    """Slices of at most `size` rows that cover `length` rows.

    >>> _chunks(5, 2)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 6, None)]
    """
    return [slice(start, start + size) for start in range(0, length, size)]
