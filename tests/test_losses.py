"""Losses agree with numbers computed by hand, with plain Python, and with their own laws."""

import math
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tinyzero.algorithms import losses
from tinyzero.algorithms.advantages import group_advantages
from tinyzero.algorithms.losses import (
    Estimator,
    aggregate,
    clipped_surrogate,
    clipped_value_loss,
    entropy,
    kl,
)
from tinyzero.algorithms.options import Aggregation

AGGREGATIONS: list[Aggregation] = [
    "token-mean",
    "seq-mean-token-mean",
    "seq-mean-token-sum",
    "constant-length",
]
MAX_LENGTH = 16


def close(actual: Tensor, expected: object, atol: float = 1e-6) -> None:
    torch.testing.assert_close(
        actual, torch.as_tensor(expected, dtype=actual.dtype), atol=atol, rtol=0
    )


def gradient_of(loss: Tensor, at: Tensor) -> Tensor:
    return torch.autograd.grad(loss, at, retain_graph=True)[0]


def whole(per_token: Tensor, mask: Tensor, how: Aggregation) -> Tensor:
    """Aggregate a whole step as one micro-batch."""
    return aggregate(
        per_token, mask, how, tokens=int(mask.sum()), sequences=len(mask), max_length=MAX_LENGTH
    )


def right_padded(rows: int, width: int) -> Tensor:
    return torch.arange(width) < torch.randint(1, width + 1, (rows, 1))


# --- policy ---------------------------------------------------------------------------


def surrogate_of_ratios(
    ratios: list[float], advantages: list[float], **options: float
) -> tuple[Tensor, Tensor, Tensor]:
    logprobs = torch.tensor([ratios], dtype=torch.float64).log().requires_grad_()
    loss, active = clipped_surrogate(
        logprobs, torch.zeros_like(logprobs), torch.tensor([advantages]), **options
    )
    return loss.detach(), active, gradient_of(loss.sum(), logprobs)


def test_clipped_surrogate_by_hand() -> None:
    loss, active, gradient = surrogate_of_ratios([1.5, 0.5, 1.5, 0.5], [1.0, 1.0, -1.0, -1.0])
    close(loss, [[-1.2, -0.5, 1.5, 0.8]])
    assert active.tolist() == [[True, False, False, True]]
    close(gradient, [[0.0, -0.5, 1.5, 0.0]])


def test_clip_higher_by_hand() -> None:
    loss, active, _ = surrogate_of_ratios(
        [1.5, 1.25, 0.75], [1.0, 1.0, -1.0], clip_low=0.2, clip_high=0.28
    )
    close(loss, [[-1.28, -1.25, 0.8]])
    assert active.tolist() == [[True, False, True]]


def test_dual_clip_by_hand() -> None:
    """The bound acts only if the advantage is negative and the ratio is above it."""
    ratios, advantages = [5.0, 2.0, 5.0, 0.5], [-1.0, -1.0, 1.0, -1.0]
    loss, active, gradient = surrogate_of_ratios(ratios, advantages, dual_clip=3.0)
    close(loss, [[3.0, 2.0, -1.2, 0.8]])
    assert active.tolist() == [[True, False, True, True]]
    close(gradient, [[0.0, 2.0, 0.0, 0.0]])
    close(surrogate_of_ratios(ratios, advantages)[0], [[5.0, 2.0, -1.2, 0.8]])


def test_active_is_where_the_gradient_is_cut() -> None:
    torch.manual_seed(0)
    logprobs = torch.randn(64, 8, requires_grad=True)
    advantages = torch.randn(64, 8)
    loss, active = clipped_surrogate(
        logprobs, torch.randn(64, 8), advantages, 0.2, 0.3, dual_clip=2.0
    )
    assert 0 < active.float().mean() < 1
    assert torch.equal(gradient_of(loss.sum(), logprobs) == 0, active)


@pytest.mark.parametrize("how", AGGREGATIONS)
def test_on_policy_the_gradient_is_reinforces(how: Aggregation) -> None:
    torch.manual_seed(0)
    logprobs = -torch.rand(6, 9).double()
    logprobs.requires_grad_()
    mask, advantages = right_padded(6, 9), torch.randn(6, 1, dtype=torch.float64).expand(6, 9)
    loss, active = clipped_surrogate(logprobs, logprobs.detach(), advantages)
    surrogate = gradient_of(whole(loss, mask, how), logprobs)
    reinforce = gradient_of(whole(-advantages * logprobs, mask, how), logprobs)
    assert not active.any()
    assert surrogate.abs().sum() > 0
    close(surrogate, reinforce, 1e-12)


def test_a_flat_group_gives_exactly_zero_policy_gradient() -> None:
    logprobs = torch.randn(4, 5, requires_grad=True)
    advantages = group_advantages(torch.full((4,), 0.1), torch.zeros(4, dtype=torch.int64))
    loss, _ = clipped_surrogate(logprobs, torch.randn(4, 5), advantages[:, None])
    assert (gradient_of(loss.sum(), logprobs) == 0).all()


# --- KL -------------------------------------------------------------------------------


def test_kl_by_hand() -> None:
    logprobs, ref = torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.5, -1.0]])
    close(kl(logprobs, ref, "k1"), [[0.5, -1.0]])
    close(kl(logprobs, ref, "k2"), [[0.125, 0.5]])
    close(kl(logprobs, ref, "k3"), [[0.106531, 0.718282]])
    close(kl(logprobs, ref, "k3+"), [[0.106531, 0.718282]])


@pytest.mark.parametrize(
    ("estimator", "gradient"),
    [
        ("k1", [1.0, 1.0]),
        ("k2", [0.5, -1.0]),
        ("k3", [1 - math.exp(-0.5), 1 - math.e]),
        ("k3+", [0.5, -1.0]),
    ],
)
def test_kl_gradient_by_hand(estimator: Estimator, gradient: list[float]) -> None:
    logprobs = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    estimates = kl(logprobs, torch.tensor([[-1.5, -1.0]]), estimator)
    close(gradient_of(estimates.sum(), logprobs), [gradient])


def test_k3_is_finite_where_the_policies_are_far_apart() -> None:
    difference = torch.tensor([[-1e4, -90.0, -1e-4, 0.0, 1e-4, 90.0, 1e4]], requires_grad=True)
    value = kl(difference, torch.zeros_like(difference), "k3")
    assert value.isfinite().all()
    assert (value >= 0).all()
    # The gradient never pushes the policies apart: it has the sign of the difference, or is 0.
    assert (gradient_of(value.sum(), difference) * difference >= 0).all()
    close(value[0, 2], 0.5e-8, 1e-11)  # exp(-d) + d - 1 in float32 would be lost in rounding here


def exact_kl(logits: Tensor, ref_logits: Tensor) -> Tensor:
    p = logits.log_softmax(-1)
    return (p.exp() * (p - ref_logits.log_softmax(-1))).sum()


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3", "k3+"])
def test_the_expected_value_of_an_estimator(estimator: Estimator) -> None:
    """k1, k3 and k3+ are unbiased; k2 is close if the two policies are."""
    torch.manual_seed(0)
    ref_logits = torch.randn(6, dtype=torch.float64)
    p, q = (ref_logits + 0.1 * torch.randn(6)).log_softmax(-1), ref_logits.log_softmax(-1)
    expected = (p.exp() * kl(p, q, estimator)).sum()
    close(expected, exact_kl(p, q), 2e-4 if estimator == "k2" else 1e-12)


def expected_gradient(logits: Tensor, ref_logits: Tensor, estimator: Estimator) -> Tensor:
    """The gradient of the estimator as a loss; the sampling of tokens is not differentiated."""
    logits = logits.clone().requires_grad_()
    p = logits.log_softmax(-1)
    return gradient_of(
        (p.exp().detach() * kl(p, ref_logits.log_softmax(-1), estimator)).sum(), logits
    )


@pytest.mark.parametrize("estimator", ["k2", "k3", "k3+"])
def test_a_step_on_the_kl_loss_alone_lowers_the_kl(estimator: Estimator) -> None:
    """Subtracting the KL instead of adding it, a known mistake, would drive the policy away."""
    for seed in range(20):
        torch.manual_seed(seed)
        logits, ref_logits = torch.randn(2, 5, dtype=torch.float64)
        stepped = logits - 0.01 * expected_gradient(logits, ref_logits, estimator)
        assert exact_kl(stepped, ref_logits) < exact_kl(logits, ref_logits)


@pytest.mark.parametrize("estimator", ["k2", "k3+"])
def test_k2_has_the_gradient_of_the_kl_itself(estimator: Estimator) -> None:
    torch.manual_seed(0)
    logits, ref_logits = torch.randn(2, 5, dtype=torch.float64)
    logits.requires_grad_()
    exact = gradient_of(exact_kl(logits, ref_logits), logits)
    close(expected_gradient(logits.detach(), ref_logits, estimator), exact, 1e-12)


def test_k1_as_a_loss_teaches_nothing() -> None:
    logits, ref_logits = torch.randn(2, 5, dtype=torch.float64)
    close(expected_gradient(logits, ref_logits, "k1"), [0.0] * 5, 1e-12)


# --- value ----------------------------------------------------------------------------


def test_value_loss_by_hand() -> None:
    values, old = torch.tensor([[0.7, 0.6, 0.2]]), torch.tensor([[0.5, 0.6, 0.8]])
    loss = clipped_value_loss(values, old, torch.ones(1, 3), clip=0.5)
    close(loss, [[0.045, 0.08, 0.32]])
    close(whole(loss, torch.ones(1, 3, dtype=torch.bool), "token-mean"), 0.148333)


def test_value_clip_cuts_the_gradient_of_a_value_that_went_too_far() -> None:
    """From 0.5 a clip of 0.1 allows a move to 0.6; beyond that the error is constant."""
    values = torch.tensor([[0.9, 0.55]], requires_grad=True)
    loss = clipped_value_loss(values, torch.full((1, 2), 0.5), torch.ones(1, 2), clip=0.1)
    close(gradient_of(loss.sum(), values), [[0.0, -0.45]])


# --- aggregation ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "expected"), list(zip(AGGREGATIONS, [4 / 3, 1.5, 4.0, 1.0], strict=True))
)
def test_aggregate_by_hand(how: Aggregation, expected: float) -> None:
    per_token = torch.tensor([[1.0, 1, 1, 1], [2, 2, torch.nan, torch.nan]])
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    close(aggregate(per_token, mask, how, tokens=6, sequences=2, max_length=4), expected)


@pytest.mark.parametrize("how", AGGREGATIONS)
@pytest.mark.parametrize("seed", range(5))
def test_micro_batches_padding_and_order_do_not_matter(how: Aggregation, seed: int) -> None:
    """Value and gradient do not depend on how rows are shuffled, divided and padded."""
    torch.manual_seed(seed)
    mask = right_padded(12, 10)
    weights = torch.randn(12, 10, dtype=torch.float64, requires_grad=True)
    tokens, sequences = int(mask.sum()), len(mask)

    def share(rows: Tensor, padding: int) -> Tensor:
        per_token = torch.nn.functional.pad(weights[rows].square(), (0, padding), value=torch.nan)
        return aggregate(
            per_token,
            torch.nn.functional.pad(mask[rows], (0, padding)),
            how,
            tokens,
            sequences,
            MAX_LENGTH,
        )

    one = share(torch.arange(12), padding=0)
    parts = torch.randperm(12).tensor_split(sorted(random.Random(seed).sample(range(1, 12), 3)))
    many = torch.stack([share(rows, padding) for padding, rows in enumerate(parts)]).sum()
    close(many, one.detach(), 1e-12)
    expected, actual = gradient_of(one, weights), gradient_of(many, weights)
    assert expected[mask].abs().min() > 0
    close(actual, expected, 1e-12)


@pytest.mark.parametrize("how", AGGREGATIONS)
@pytest.mark.parametrize("junk", [torch.nan, torch.inf, -torch.inf])
def test_junk_outside_the_mask_leaves_no_trace(how: Aggregation, junk: float) -> None:
    mask = torch.tensor([[True, True, False], [True, False, False]])
    clean = torch.randn(2, 3)
    dirty = torch.where(mask, clean, junk).requires_grad_()
    loss = whole(dirty, mask, how)
    close(loss, whole(clean, mask, how))
    assert torch.equal(gradient_of(loss, dirty) > 0, mask)
    assert (gradient_of(loss, dirty)[~mask] == 0).all()


@pytest.mark.parametrize("junk", [torch.nan, torch.inf, -torch.inf, 1e4])
@pytest.mark.parametrize("loss", ["surrogate", "k3"])
def test_junk_in_padded_logprobs_leaves_no_trace_in_the_exponentials(
    junk: float, loss: str
) -> None:
    mask = torch.tensor([[True, False]])
    logprobs = torch.tensor([[-1.0, -1.0]], requires_grad=True)
    other = torch.tensor([[-1.1, junk]])
    if loss == "surrogate":
        per_token, _ = clipped_surrogate(logprobs, other, torch.ones(1, 2))
    else:
        per_token = kl(logprobs, other, "k3")
    assert (gradient_of(whole(per_token, mask, "token-mean"), logprobs) != 0).tolist() == [
        [True, False]
    ]


@pytest.mark.parametrize("how", AGGREGATIONS)
def test_a_micro_batch_without_masked_tokens_gives_zero(how: Aggregation) -> None:
    per_token = torch.randn(2, 3, requires_grad=True)
    loss = aggregate(
        per_token, torch.zeros(2, 3, dtype=torch.bool), how, tokens=0, sequences=0, max_length=0
    )
    assert loss.item() == 0
    assert (gradient_of(loss, per_token) == 0).all()


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="token-mean"):
        whole(torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool), "mean")
    with pytest.raises(ValueError, match="k3"):
        kl(torch.zeros(1, 1), torch.zeros(1, 1), "k4")


# --- entropy --------------------------------------------------------------------------


def test_entropy_by_hand() -> None:
    close(entropy(torch.zeros(2, 3, 8)), torch.full((2, 3), math.log(8)))
    close(
        entropy(torch.tensor([0.25, 0.75], dtype=torch.float64).log()),
        0.25 * math.log(4) - 0.75 * math.log(0.75),
    )


def test_entropy_of_extreme_logits_and_forbidden_tokens() -> None:
    logits = torch.tensor(
        [[1e4, 0.0, -1e4], [0.0, 0.0, -torch.inf], [3.0, -torch.inf, -torch.inf]],
        requires_grad=True,
    )
    value = entropy(logits)
    close(value, [0.0, math.log(2), 0.0])
    assert gradient_of(value.sum(), logits).isfinite().all()


def test_entropy_is_computed_in_float32_at_least() -> None:
    logits = torch.randn(4, 1000)
    assert entropy(logits.bfloat16()).dtype == torch.float32
    close(entropy(logits.bfloat16()), entropy(logits.bfloat16().double()), 1e-5)


# --- everything together, against formulas in plain Python ----------------------------


def slow_log_softmax(logits: list[float]) -> list[float]:
    top = max(logits)
    normaliser = top + math.log(sum(math.exp(z - top) for z in logits))
    return [z - normaliser for z in logits]


def slow_loss(
    logits: list[list[list[float]]],
    tokens: list[list[int]],
    old: list[list[float]],
    ref: list[list[float]],
    advantages: list[float],
    lengths: list[int],
    how: Aggregation,
) -> float:
    """Clipped surrogate + 0.1 k3 - 0.05 entropy in plain Python.

    Only the first `lengths[i]` tokens of row i count.
    """
    total = 0.0
    for i, length in enumerate(lengths):
        row = 0.0
        for t in range(length):
            logprobs = slow_log_softmax(logits[i][t])
            logprob = logprobs[tokens[i][t]]
            ratio = math.exp(logprob - old[i][t])
            a = advantages[i]
            surrogate = -min(ratio * a, min(max(ratio, 0.8), 1.28) * a)
            if a < 0:
                surrogate = min(surrogate, -a * 3.0)
            d = logprob - ref[i][t]
            h = -sum(math.exp(p) * p for p in logprobs)
            row += surrogate + 0.1 * (math.exp(-d) - 1 + d) - 0.05 * h
        total += row / length if how == "seq-mean-token-mean" else row
    denominators = {
        "token-mean": sum(lengths),
        "seq-mean-token-mean": len(lengths),
        "seq-mean-token-sum": len(lengths),
        "constant-length": len(lengths) * MAX_LENGTH,
    }
    return total / denominators[how]


def slow_gradient(
    loss: Callable[[], float], logits: list[list[list[float]]], step: float = 1e-5
) -> Tensor:
    """The gradient computed by central differences, one logit at a time."""
    gradient = torch.zeros(len(logits), len(logits[0]), len(logits[0][0]), dtype=torch.float64)
    for i, j, v in torch.ones_like(gradient).nonzero().tolist():
        at = logits[i][j][v]
        logits[i][j][v] = at + step
        above = loss()
        logits[i][j][v] = at - step
        below = loss()
        logits[i][j][v] = at
        gradient[i, j, v] = (above - below) / (2 * step)
    return gradient


@pytest.mark.parametrize("how", AGGREGATIONS)
def test_loss_and_gradient_against_formulas_in_plain_python(how: Aggregation) -> None:
    torch.manual_seed(0)
    rows, width, vocabulary = 5, 4, 5
    logits = torch.randn(rows, width, vocabulary, dtype=torch.float64, requires_grad=True)
    sampled = torch.randint(vocabulary, (rows, width))
    logprobs = logits.log_softmax(-1).gather(-1, sampled[..., None]).squeeze(-1)
    old = logprobs.detach() + 0.7 * torch.randn(rows, width, dtype=torch.float64)
    ref = logprobs.detach() + 0.7 * torch.randn(rows, width, dtype=torch.float64)
    advantages = torch.tensor([1.5, -0.5, -2.0, 0.3, -1.0], dtype=torch.float64)
    lengths = [4, 1, 4, 2, 3]
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]

    surrogate, active = clipped_surrogate(
        logprobs, old, advantages[:, None], 0.2, 0.28, dual_clip=3.0
    )
    assert 0 < active[mask].sum() < mask.sum()  # some tokens are clipped, and some are not
    loss = whole(surrogate + 0.1 * kl(logprobs, ref, "k3") - 0.05 * entropy(logits), mask, how)

    numbers = logits.tolist()
    plain = (sampled.tolist(), old.tolist(), ref.tolist(), advantages.tolist(), lengths, how)
    assert math.isclose(loss.item(), slow_loss(numbers, *plain), abs_tol=1e-12)
    close(
        gradient_of(loss, logits), slow_gradient(lambda: slow_loss(numbers, *plain), numbers), 1e-7
    )


def test_cispo_by_hand() -> None:
    ratios, advantages = (
        torch.tensor([[1.5, 0.5, 1.5, 0.5]]),
        torch.tensor([[1.0, 1.0, -1.0, -1.0]]),
    )
    logprobs = (ratios.log() - 1.0).requires_grad_()
    loss, clipped = losses.cispo(
        logprobs, torch.full((1, 4), -1.0), advantages, clip_low=10.0, clip_high=0.2
    )
    loss.sum().backward()
    assert logprobs.grad is not None
    close(logprobs.grad, [[-1.2, -0.5, 1.2, 0.5]])  # all four tokens keep their weight
    assert clipped.tolist() == [[True, False, True, False]]


def test_gspo_is_a_surrogate_in_the_ratio_of_the_sequence() -> None:
    """Value and gradient of mean_i max(-A s, -A clip(s)), with s written as in the paper."""
    torch.manual_seed(0)
    old = torch.randn(5, 6, dtype=torch.float64)
    logprobs = (old + 0.3 * torch.randn(5, 6, dtype=torch.float64)).requires_grad_()
    mask = torch.arange(6) < torch.tensor([[6], [3], [1], [4], [5]])
    advantages = torch.tensor([1.0, -1.0, 0.5, -2.0, 0.1], dtype=torch.float64)
    ratio = ((torch.where(mask, logprobs - old, 0.0)).sum(1) / mask.sum(1)).exp()
    expected = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(0.9, 1.1)).mean()
    per_token, _ = clipped_surrogate(
        logprobs,
        losses.sequence_ratio(logprobs, old, mask),
        advantages[:, None].expand(5, 6),
        0.1,
        0.1,
    )
    found = aggregate(
        per_token, mask, "seq-mean-token-mean", tokens=int(mask.sum()), sequences=5, max_length=6
    )
    assert float(found.detach()) == pytest.approx(float(expected.detach()))
    torch.testing.assert_close(gradient_of(found, logprobs), gradient_of(expected, logprobs))
    gaps = torch.tensor([[0.3, -0.1, 0.1]])
    whole = torch.ones(1, 3, dtype=torch.bool)
    s = (gaps - losses.sequence_ratio(gaps, torch.zeros(1, 3), whole)).exp()
    close(s, [[1.105171] * 3])


def test_importance_weights_by_hand() -> None:
    gaps, zero = torch.tensor([[0.5, -0.5, 1.0, 9.0]]), torch.zeros(1, 4)
    mask = torch.tensor([[True, True, True, False]])
    close(
        losses.importance_weights(gaps, zero, mask, "truncate", "token", 2.0),
        [[1.648721, 0.606531, 2, 0]],
    )
    close(
        losses.importance_weights(gaps, zero, mask, "mask", "token", 2.0),
        [[1.648721, 0.606531, 0, 0]],
    )
    close(
        losses.importance_weights(gaps, zero, mask, "truncate", "sequence", 3.0),
        [[math.e, math.e, math.e, 0]],
    )
    close(losses.importance_weights(gaps, zero, mask, "mask", "sequence", 2.0), [[0, 0, 0, 0]])


def test_implicit_reward_loss_by_hand() -> None:
    ratios = torch.tensor([[0.2, 0.4, 7.0], [-0.1, 0.1, -0.3]], requires_grad=True)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    right = torch.tensor([1.0, 0.0])
    loss = losses.implicit_reward_loss(ratios, mask, right, beta=0.05, sequences=2)
    assert float(loss.detach()) == pytest.approx(0.681967, abs=1e-6)
    half = losses.implicit_reward_loss(ratios[:1], mask[:1], right[:1], beta=0.05, sequences=2)
    rest = losses.implicit_reward_loss(ratios[1:], mask[1:], right[1:], beta=0.05, sequences=2)
    assert float((half + rest - loss).detach()) == pytest.approx(0, abs=1e-7)
    gradient = gradient_of(loss, ratios)
    assert (gradient[0, :2] < 0).all()
    assert gradient[0, 2] == 0
    assert (gradient[1] > 0).all(), (
        "the tokens of a wrong answer should become less likely under the reward model"
    )


@pytest.mark.parametrize("temperature", [0.7, 1.0])
@pytest.mark.parametrize("pulled", ["logprobs", "entropy", "both"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 3, 100])
def test_chosen_logprobs_and_their_gradients(
    rows: int, bias: bool, pulled: str, temperature: float
) -> None:
    """Any chunk size agrees with autograd through all logits at once."""
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 6, generator=generator).requires_grad_() for n in (8, 11))
    shift = torch.randn(11, generator=generator).requires_grad_() if bias else None
    targets = torch.randint(0, 11, (8,), generator=generator)
    pull = torch.randn(2, 8, generator=generator)
    inputs = [x for x in (hidden, weight, shift) if x is not None]

    def gradient(logprobs: Tensor, entropy: Tensor) -> tuple[Tensor, ...]:
        pulls = {"logprobs": (logprobs * pull[0]).sum(), "entropy": (entropy * pull[1]).sum()}
        pulls["both"] = pulls["logprobs"] + pulls["entropy"]
        return torch.autograd.grad(pulls[pulled], inputs)

    head = (hidden, weight, shift, targets, temperature, rows)
    found = losses.chosen_logprobs(*head)
    logits = (hidden @ weight.T + (0 if shift is None else shift)) / temperature
    slow = logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0], losses.entropy(logits)

    torch.testing.assert_close(found, slow, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradient(*found), gradient(*slow), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(losses.scored_logprobs(*head), slow[0], atol=1e-5, rtol=1e-5)


def test_a_nearly_certain_logprob_keeps_its_digits() -> None:
    """The logprob is near -e⁻¹⁰, only 12 times the spacing of float32 numbers near the logit."""
    weight = torch.tensor([[40.0], [30.0]])
    logprobs, entropy = losses.chosen_logprobs(
        torch.ones(1, 1), weight, None, torch.tensor([0]), 1.0, 1
    )
    assert logprobs.item() == pytest.approx(-math.exp(-10), rel=3e-3)
    assert entropy.item() == pytest.approx(11 * math.exp(-10), rel=3e-3)


class FullWrites(TorchDispatchMode):
    """Counts the operations that write a tensor of a given number of elements."""

    def __init__(self, elements: int) -> None:
        super().__init__()
        self.elements, self.names = elements, list[str]()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = function(*args, **(kwargs or {}))
        is_full = isinstance(out, Tensor) and out.numel() == self.elements
        if is_full and not function.is_view and "empty" not in str(function):
            self.names.append(str(function).removeprefix("aten."))
        return out


def test_the_head_writes_its_logits_few_times() -> None:
    """What is written at the size of the logits, forward and backward, with an unused entropy."""
    hidden, weight = (torch.randn(n, 4, requires_grad=True) for n in (8, 50))
    targets = torch.zeros(8, dtype=torch.long)
    with FullWrites(8 * 50) as writes:
        logprobs, _ = losses.chosen_logprobs(hidden, weight, None, targets, 1.0, 8)
    assert writes.names == ["mm.default", "_softmax.default", "special_entr.out"]

    with FullWrites(8 * 50) as writes:
        logprobs.sum().backward()
    changed = ["sub_.Tensor", "exp_.default", "scatter_add_.default", "mul.out"]
    assert writes.names == ["mm.default", *changed]

    with FullWrites(8 * 50) as writes:
        losses.scored_logprobs(hidden, weight, None, targets, 1.0, 8)
    assert writes.names == ["mm.default", "_log_softmax.default"]


def test_the_gradient_of_the_head_is_added_inside_the_product() -> None:
    """No second tensor of the weight's size is written for any chunk but the last conversion."""
    hidden, weight = (torch.randn(n, 4, requires_grad=True) for n in (8, 50))
    targets = torch.zeros(8, dtype=torch.long)
    logprobs, _ = losses.chosen_logprobs(hidden, weight, None, targets, 1.0, 2)
    with FullWrites(50 * 4) as writes:
        logprobs.sum().backward()
    assert writes.names.count("addmm_.default") == 4
    assert "mm.default" not in writes.names
    assert not any(name.startswith("add") for name in set(writes.names) - {"addmm_.default"})


class OnGpu(Tensor):
    """A tensor in CPU memory that says it is on a GPU."""

    is_cuda = True


def on_a_gpu(tensor: Tensor) -> Tensor:
    return tensor.as_subclass(OnGpu)


def absent_addmm(*_: Any, **__: Any) -> Tensor:
    raise NotImplementedError("no addmm.dtype_out on this device\nand more lines")


def addmm_in_float32(total: Tensor, a: Tensor, b: Tensor, *, out_dtype: Any, out: Tensor) -> Tensor:
    return out.copy_(total + a.float() @ b.float())


def addmm_that_rounds(
    total: Tensor, a: Tensor, b: Tensor, *, out_dtype: Any, out: Tensor
) -> Tensor:
    return out.copy_(total + (a @ b).float())


def addmm_that_forgets(
    total: Tensor, a: Tensor, b: Tensor, *, out_dtype: Any, out: Tensor
) -> Tensor:
    return out.copy_(a.float() @ b.float())


@pytest.mark.parametrize(
    ("operator", "fault"),
    [
        (addmm_in_float32, ""),
        (absent_addmm, "no addmm.dtype_out on this device"),
        (addmm_that_rounds, "its numbers are wrong"),
        (addmm_that_forgets, "its numbers are wrong"),
        (torch.addmm, None),  # a build of PyTorch for CPUs has no such operator
    ],
)
def test_an_operator_of_the_head_is_tried_before_it_is_used(
    operator: Any, fault: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the operator does, the product that is added is right."""
    calls = 0

    def counted(*given: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        return operator(*given, **more)

    losses.product_fault.cache_clear()
    monkeypatch.setattr(torch, "addmm", counted)
    monkeypatch.setattr(torch, "mm", lambda a, b, out_dtype: a.to(out_dtype) @ b.to(out_dtype))
    found = losses.product_fault(torch.device("cpu"), torch.bfloat16)
    assert found == fault if fault is not None else found
    assert "\n" not in found

    a, b = torch.randn(30, 7).bfloat16(), torch.randn(30, 5).bfloat16()
    total = torch.randn(7, 5)
    expected = total + a.T.float() @ b.float()
    for _ in range(2):
        again = total.clone()
        losses.add_product_(again, on_a_gpu(a).T, on_a_gpu(b))
        torch.testing.assert_close(again, expected)
    assert calls == (1 if found else 3), "it is tried once"
    losses.product_fault.cache_clear()


def test_chosen_logprobs_hold_few_logits_at_a_time() -> None:
    class Largest(TorchDispatchMode):
        seen = 0

        def __torch_dispatch__(
            self, function: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            out = function(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, tuple | list) else (out,):
                self.seen = max(
                    self.seen, tensor.numel() if isinstance(tensor, torch.Tensor) else 0
                )
            return out

    hidden, weight = torch.randn(64, 4, requires_grad=True), torch.randn(500, 4, requires_grad=True)
    targets = torch.zeros(64, dtype=torch.long)
    with Largest() as largest:
        losses.chosen_logprobs(hidden, weight, None, targets, 1.0, 8)[0].sum().backward()
    assert largest.seen == 8 * 500


def test_chosen_logprobs_of_bf16_are_not_rounded() -> None:
    """The gradient of the head is summed in float32.

    The sum of 1,000 equal small gradients would stop growing in bfloat16.
    """
    hidden = torch.full((1000, 1), 1.0, dtype=torch.bfloat16)
    weight = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    logprobs, entropy = losses.chosen_logprobs(
        hidden, weight, None, torch.zeros(1000, dtype=torch.long), 1.0, 1
    )
    logprobs.sum().backward()
    assert logprobs.dtype == entropy.dtype == torch.float32
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad.float(), torch.tensor([[500.0], [-500.0]]))


def test_chosen_logprobs_where_a_token_is_forbidden() -> None:
    hidden, weight = (
        torch.tensor([[1.0]], requires_grad=True),
        torch.tensor([[0.0], [1.0], [-torch.inf]]),
    )
    logprobs, entropy = losses.chosen_logprobs(hidden, weight, None, torch.tensor([1]), 1.0, 4)
    p = 1 / (1 + math.exp(-1))
    assert logprobs.item() == pytest.approx(math.log(p))
    assert entropy.item() == pytest.approx(-p * math.log(p) - (1 - p) * math.log(1 - p))
