"""What is minimised: a loss for every token, and the one sum that makes a scalar of them.

Pure functions on tensors. Shapes: B sequences, T tokens, V vocabulary. The per-token functions know no mask;
`aggregate` drops what lies outside it. Padding in their inputs should be finite all the same: the derivative of a
square at infinity, times the zero that `aggregate` sends back, is NaN.
"""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

Estimator = Literal["k1", "k2", "k3", "k3+"]
Correction = Literal["truncate", "mask"]
Level = Literal["token", "sequence"]
Aggregation = Literal["token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "constant-length"]

# exp(20) is 5e8: a probability ratio beyond it is a fault, not a policy, and exp(89) overflows float32. The clamp's
# derivative there is exactly zero, which also keeps junk in the padding out of the gradient.
LOG_RATIO_LIMIT = 20.0


def _ratio(logprobs: Tensor, old_logprobs: Tensor) -> Tensor:
    """exp(logprobs - old_logprobs), within LOG_RATIO_LIMIT."""
    return (logprobs - old_logprobs).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()


def clipped_surrogate(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
) -> tuple[Tensor, Tensor]:
    """PPO's pessimistic policy loss -> loss (B, T), and where the clip cuts the gradient (B, T) bool.

    logprobs, old_logprobs, advantages: (B, T). With r = exp(logprobs - old_logprobs) the loss is
    max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high)) (arXiv:1707.06347, eq. 7; the two sides apart as in DAPO,
    arXiv:2503.14476). `dual_clip` c > 1 bounds it by -A c where A < 0, since there the ratio has no upper limit
    (arXiv:1912.09729). On-policy r is 1, nothing is clipped and the gradient is REINFORCE's.
    """
    ratio = _ratio(logprobs, old_logprobs)
    free = -advantages * ratio
    bound = -advantages * ratio.clamp(1 - clip_low, 1 + clip_high)
    loss, active = torch.maximum(free, bound), bound > free
    if dual_clip is None:
        return loss, active
    too_far = (advantages < 0) & (ratio > dual_clip)
    return torch.where(too_far, -advantages * dual_clip, loss), active | too_far


def importance_sampled(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor
) -> tuple[Tensor, Tensor]:
    """The policy loss without a clip, -A exp(logprobs - old_logprobs) -> loss (B, T), and False (B, T).

    On-policy its gradient is REINFORCE's, -A grad logprobs (Williams, 1992).
    """
    ratio = _ratio(logprobs, old_logprobs)
    return -advantages * ratio, torch.zeros_like(ratio, dtype=torch.bool)


def cispo(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip_low: float, clip_high: float
) -> tuple[Tensor, Tensor]:
    """CISPO's policy loss (arXiv:2506.13585, eq. 4) -> loss (B, T), and where the weight is clipped (B, T) bool.

    -sg(clip(r, 1 - clip_low, 1 + clip_high)) A logprobs, with sg the stop of the gradient: the ratio is a weight that
    is held within bounds, so no token is cut out of the gradient, as PPO's clip does. The value is no objective.
    """
    ratio = _ratio(logprobs.detach(), old_logprobs)
    weight = ratio.clamp(1 - clip_low, 1 + clip_high)
    return -weight * advantages * logprobs, weight != ratio


def sequence_ratio(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor) -> Tensor:
    """Old logprobs (B, T) that make every token's ratio the sequence's: GSPO, arXiv:2507.18071, eq. 7 and 13.

    With s_i = exp(1/L_i sum_t (logprobs - old_logprobs)), the returned `old` is such that logprobs - old has the value
    log s_i at every token of the mask and the gradient of its own logprob. Under seq-mean-token-mean and one advantage
    a sequence, that is the gradient of a surrogate in s_i.
    """
    gaps = torch.where(mask, logprobs - old_logprobs, 0.0).detach()
    mean = gaps.sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True).clamp(min=1)
    return logprobs.detach() - mean


def importance_weights(
    old_logprobs: Tensor,
    sampled_logprobs: Tensor,
    mask: Tensor,
    how: Correction,
    level: Level,
    cap: float,
) -> Tensor:
    """Weights (B, T) for a sampler whose probabilities differ from the learner's: w = exp(old - sampled).

    A token's own ratio, or with level "sequence" the product of all of a response's. "truncate": min(w, cap)
    (truncated importance sampling, Yao et al., 2025); "mask": w where 1/cap <= w <= cap, else 0 (IcePop).
    Detached; multiply the token loss by them. 0 outside the mask.
    """
    gaps = torch.where(mask, old_logprobs - sampled_logprobs, 0.0).detach()
    if level == "sequence":
        gaps = gaps.sum(dim=1, keepdim=True).expand_as(gaps)
    weights = gaps.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    if how == "truncate":
        return torch.where(mask, weights.clamp(max=cap), 0.0)
    return torch.where(mask & (weights <= cap) & (weights >= 1 / cap), weights, 0.0)


def implicit_reward_loss(
    log_ratios: Tensor, mask: Tensor, right: Tensor, beta: float, sequences: int
) -> Tensor:
    """PRIME's reward model against the outcome (arXiv:2502.01456, eq. 5): this micro-batch's share, a scalar.

    log_ratios (B, T) are log(PRM / reference); the chance of a right answer is sigmoid(beta sum_t log_ratios). `right`
    (B,) bool. The mean is over all `sequences` of the optimizer step.
    """
    scores = beta * torch.where(mask, log_ratios, 0.0).sum(dim=1)
    return binary_cross_entropy_with_logits(scores, right.to(scores.dtype), reduction="sum") / max(
        sequences, 1
    )


def kl(logprobs: Tensor, ref_logprobs: Tensor, estimator: Estimator) -> Tensor:
    """Estimates of KL(policy || reference) at tokens sampled from the policy: (B, T), (B, T) -> (B, T).

    With d = logprobs - ref_logprobs (http://joschu.net/blog/kl-approx.html): k1 = d, k2 = d²/2, k3 = exp(-d) - 1 + d.
    To be *added* to a loss. An estimator's value and its gradient are different questions: k1's gradient averages to
    zero, so k1 belongs in the reward and never in the loss; k2's is the KL's own; k3's value is the steadiest and its
    gradient biased. "k3+" has the value of k3 and the gradient of k2.

    k3 takes d no lower than -20, lest exp(-d) overflow. It is d itself that is clamped, not the exponential alone: that
    would leave the gradient of "+ d", which pushes the policy further from the reference.
    """
    d = logprobs - ref_logprobs
    k2 = d.square() / 2
    above = d.clamp(min=-LOG_RATIO_LIMIT)
    k3 = torch.expm1(-above) + above
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
    """Half the squared error of the critic: (B, T) each -> (B, T).

    The larger of the errors of `values` and of `values` held within `clip` of `old_values` (PPO's reference
    implementation; arXiv:2005.12729, section 3).
    """
    held = old_values + (values - old_values).clamp(-clip, clip)
    return torch.maximum((values - returns).square(), (held - returns).square()) / 2


def aggregate(
    per_token: Tensor, mask: Tensor, how: Aggregation, tokens: int, sequences: int, max_length: int
) -> Tensor:
    """This micro-batch's share of the loss of one optimizer step: (B, T), (B, T) bool -> scalar.

    The denominators belong to the *whole* step, over all micro-batches: `tokens` masked tokens, `sequences`
    sequences, and `max_length`, the most tokens that a response may have. So the shares of any partition into
    micro-batches (a row stays whole) add up to the loss of the whole, and so do their gradients.

    - token-mean: every token counts alike (DAPO, arXiv:2503.14476)
    - seq-mean-token-mean: every sequence counts alike (GRPO, arXiv:2402.03300, eq. 3)
    - seq-mean-token-sum: the sequence is one action (RLOO, arXiv:2402.14740)
    - constant-length: as before, over a constant (Dr. GRPO, arXiv:2503.20783)

    Outside the mask even NaN leaves no trace, neither in the value nor in the gradient with respect to `per_token`:
    hence `where` and not a product, for NaN times zero is NaN.
    """
    kept = torch.where(mask, per_token, 0.0)
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
        f"unknown aggregation {how!r}: use token-mean, seq-mean-token-mean, seq-mean-token-sum or constant-length"
    )


def entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of softmax(logits): (..., V) -> (...).

    In float32 at least, and from log_softmax, which stays exact where a probability underflows. A forbidden token
    (logit -inf) adds nothing: 0 · log 0 is 0, which the finite floor makes true in the gradient too.
    """
    logprobs = torch.log_softmax(
        logits, dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32)
    )
    return -(logprobs.exp() * logprobs.clamp(min=torch.finfo(logprobs.dtype).min)).sum(dim=-1)


def chosen_logprobs(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    temperature: float,
    rows: int,
) -> tuple[Tensor, Tensor]:
    """Logprob of each target under softmax((hidden weightᵀ + bias) / temperature), and that softmax's entropy.

    hidden (N, D), weight (V, D), bias (V,) or None, targets (N,) -> (N,), (N,), both fp32, with gradients to hidden,
    weight and bias. At most `rows` rows of logits exist at a time, forward and backward: with a vocabulary of 151,936
    they would otherwise be most of the memory. They are made in fp32 whatever the precision of the inputs, and
    computed once more backward; the weight's gradient is summed in fp32.
    """
    logprobs, entropy = _ChosenLogprobs.apply(  # type: ignore[no-untyped-call]
        hidden, weight, bias, targets, temperature, rows
    )
    return logprobs, entropy


class _ChosenLogprobs(torch.autograd.Function):
    """d logprob / d logits = onehot - p and d entropy / d logits = -p (log p + entropy), a chunk of rows at a time."""

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
        logprobs = hidden.new_empty(len(hidden), dtype=torch.float32)
        entropy = torch.empty_like(logprobs)
        for part in _parts(len(hidden), rows):
            found = fp32_logits(hidden[part], weight, bias).div_(temperature).log_softmax(-1)
            logprobs[part] = found.gather(-1, targets[part, None]).squeeze(-1)
            entropy[part] = -torch.linalg.vecdot(
                found.exp(), found.clamp(min=torch.finfo(found.dtype).min)
            )
        ctx.save_for_backward(hidden, weight, bias, targets, entropy)
        ctx.temperature, ctx.rows = temperature, rows
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, entropy = ctx.saved_tensors
        to_logprobs, to_entropy = grads
        to_hidden = torch.empty_like(hidden)
        to_weight = (
            torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        )
        to_bias = None if bias is None else torch.zeros_like(bias, dtype=torch.float32)
        for part in _parts(len(hidden), ctx.rows):
            logp = fp32_logits(hidden[part], weight, bias).div_(ctx.temperature).log_softmax(-1)
            p = logp.exp()
            logp = logp.clamp_(min=torch.finfo(logp.dtype).min).add_(entropy[part, None])
            d = p.mul_(logp.mul_(-to_entropy[part, None]).sub_(to_logprobs[part, None]))
            d.scatter_add_(-1, targets[part, None], to_logprobs[part, None])
            d.div_(ctx.temperature)
            low = d.to(weight.dtype)
            to_hidden[part] = low @ weight
            if to_weight is not None:
                to_weight += fp32_product(low.T, hidden[part])
            if to_bias is not None:
                to_bias += d.sum(0)
        return (
            to_hidden,
            None if to_weight is None else to_weight.to(weight.dtype),
            None if to_bias is None else to_bias.to(bias.dtype),
            None,
            None,
            None,
        )


def fp32_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(N, D), (V, D), (V,) or None -> (N, V) in fp32: products of low-precision numbers, never rounded to it again."""
    logits = fp32_product(hidden, weight.T)
    return logits if bias is None else logits + bias


def fp32_product(a: Tensor, b: Tensor) -> Tensor:
    """The matrix product in fp32, whatever the precision of (N, K) and (K, M)."""
    if a.dtype == torch.float32:
        return a @ b
    return torch.mm(a, b, out_dtype=torch.float32) if a.is_cuda else a.float() @ b.float()


def _parts(length: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, length, size)]
