"""Advantages agree with numbers computed by hand, with plain Python, and with their own laws."""

import math
import random
import statistics
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tinyzero.algorithms.advantages import (
    at_end,
    broadcast,
    gae,
    group_advantages,
    length_adaptive_lambda,
    overlong_penalty,
    process_advantages,
    return_to_go,
    whiten,
)
from tinyzero.algorithms.options import Center, Scale

quick = settings(deadline=None, max_examples=50)
scores = st.floats(-10, 10, width=32)


def close(actual: Tensor, expected: object, atol: float = 1e-6) -> None:
    torch.testing.assert_close(
        actual, torch.as_tensor(expected, dtype=actual.dtype), atol=atol, rtol=0
    )


def full(*shape: int) -> Tensor:
    return torch.ones(shape, dtype=torch.bool)


# --- groups ---------------------------------------------------------------------------

ONE_RIGHT = torch.tensor([1.0, 0.0, 0.0, 0.0])
ONE_GROUP = torch.zeros(4, dtype=torch.int64)


@pytest.mark.parametrize(
    ("center", "scale", "expected"),
    [
        ("mean", "group", [1.499997, -0.499999, -0.499999, -0.499999]),  # GRPO, n-1
        ("mean", "none", [0.75, -0.25, -0.25, -0.25]),  # Dr. GRPO
        ("leave_one_out", "none", [1.0, -1 / 3, -1 / 3, -1 / 3]),  # RLOO
        ("mean", "batch", [1.499997, -0.499999, -0.499999, -0.499999]),
        ("none", "none", [1.0, 0.0, 0.0, 0.0]),
    ],
)
def test_group_advantages_by_hand(center: Center, scale: Scale, expected: list[float]) -> None:
    close(group_advantages(ONE_RIGHT, ONE_GROUP, center, scale), expected)


def slow_group_advantages(
    rewards: list[float], groups: list[int], center: Center, scale: Scale
) -> list[float]:
    result = []
    for reward, group in zip(rewards, groups, strict=True):
        members = [r for r, g in zip(rewards, groups, strict=True) if g == group]
        if center == "mean":
            advantage = reward - statistics.fmean(members)
        else:
            advantage = reward - (sum(members) - reward) / (len(members) - 1)
        spread = {
            "group": statistics.stdev(members) + 1e-6,
            "batch": statistics.stdev(rewards) + 1e-6,
            "none": 1.0,
        }
        result.append(advantage / spread[scale])
    return result


@pytest.mark.parametrize("center", ["mean", "leave_one_out"])
@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_group_advantages_against_slow_reference(center: Center, scale: Scale) -> None:
    """Groups differ in size, are mixed in the batch, and have large ids in any order."""
    rng = random.Random(0)
    groups = [9000] * 2 + [-3] * 5 + [17] * 3 + [4] * 8
    rng.shuffle(groups)
    rewards = [rng.choice([0.0, 0.1, 1.0]) + rng.random() for _ in groups]
    actual = group_advantages(
        torch.tensor(rewards, dtype=torch.float64), torch.tensor(groups), center, scale
    )
    close(actual, slow_group_advantages(rewards, groups, center, scale), atol=1e-9)


@pytest.mark.parametrize("center", ["mean", "leave_one_out"])
@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@quick
@given(reward=scores, size=st.integers(2, 40))
def test_a_flat_group_is_exactly_zero(
    center: Center, scale: Scale, reward: float, size: int
) -> None:
    """Equal rewards give exact zeros, even if their mean in floating point is another number.

    A second group makes sure that the rewards of the whole batch are not all equal.
    """
    rewards = torch.tensor([reward] * size + [0.0, 1.0])
    groups = torch.tensor([0] * size + [1, 1])
    advantages = group_advantages(rewards, groups, center, scale)
    assert (advantages[:size] == 0).all()
    assert advantages.isfinite().all()


def test_a_flat_batch_is_exactly_zero() -> None:
    assert (
        group_advantages(torch.full((6,), 0.1), torch.tensor([0, 0, 0, 1, 1, 1]), "mean", "batch")
        == 0
    ).all()


@quick
@given(rewards=st.lists(scores, min_size=2, max_size=16))
def test_leave_one_out_is_the_mean_baseline_stretched(rewards: list[float]) -> None:
    r = torch.tensor(rewards, dtype=torch.float64)
    one = torch.zeros(len(r), dtype=torch.int64)
    k = len(r)
    close(
        group_advantages(r, one, "leave_one_out", "none"),
        k / (k - 1) * group_advantages(r, one, "mean", "none"),
        1e-9,
    )


@pytest.mark.parametrize("scale", ["group", "none"])
def test_advantages_of_a_group_sum_to_zero_and_ignore_the_rewards_offset(scale: Scale) -> None:
    rewards, groups = torch.randn(12, dtype=torch.float64), torch.arange(12) % 3
    advantages = group_advantages(rewards, groups, "mean", scale)
    for group in range(3):
        assert abs(advantages[groups == group].sum()) < 1e-9
    close(group_advantages(rewards + 7, groups, "mean", scale), advantages, 1e-9)


def test_a_group_of_one_has_no_baseline() -> None:
    rewards, groups = torch.tensor([1.0, 0.0, 1.0]), torch.tensor([0, 0, 1])
    for center, scale in [("mean", "group"), ("leave_one_out", "none")]:
        with pytest.raises(ValueError, match="only one"):
            group_advantages(rewards, groups, center, scale)
    close(group_advantages(rewards, groups, "mean", "none"), [0.5, -0.5, 0.0])
    close(group_advantages(rewards[:1], groups[:1], "mean", "batch"), [0.0])


@pytest.mark.parametrize("scale", ["group", "batch"])
def test_uncentred_rewards_are_not_scaled(scale: Scale) -> None:
    with pytest.raises(ValueError, match="only centred rewards can be scaled"):
        group_advantages(ONE_RIGHT, ONE_GROUP, "none", scale)


# --- values ---------------------------------------------------------------------------

REWARDS, VALUES = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.5, 0.6, 0.8]])


@pytest.mark.parametrize(
    ("lam", "advantages", "returns"),
    [
        (1.0, [0.5, 0.4, 0.2], [1.0, 1.0, 1.0]),
        (0.95, [0.4705, 0.39, 0.2], [0.9705, 0.99, 1.0]),
        (0.0, [0.1, 0.2, 0.2], [0.6, 0.8, 1.0]),
    ],
)
def test_gae_by_hand(lam: float, advantages: list[float], returns: list[float]) -> None:
    actual = gae(REWARDS, VALUES, full(1, 3), gamma=1.0, lam=lam)
    close(actual[0], [advantages])
    close(actual[1], [returns])


def test_each_response_has_a_lambda_of_its_own() -> None:
    lengths = torch.tensor([100, 1000, 10])
    lam = length_adaptive_lambda(lengths, 0.05)
    # 1 - 1/(0.05 * 10) = -1 is raised to 0
    torch.testing.assert_close(lam, torch.tensor([0.8, 0.98, 0.0]))
    rewards, values, mask = REWARDS.expand(3, -1), VALUES.expand(3, -1), full(3, 3)
    together = gae(rewards, values, mask, 1.0, torch.tensor([1.0, 0.95, 0.0]))
    for i, one in enumerate((1.0, 0.95, 0.0)):
        alone = gae(REWARDS, VALUES, full(1, 3), 1.0, one)
        assert torch.equal(together[0][i], alone[0][0])
        assert torch.equal(together[1][i], alone[1][0])


def slow_gae(rewards: list[float], values: list[float], gamma: float, lam: float) -> list[float]:
    """Equation 16, taken literally, for one completion: A_t = sum_l (gamma lam)^l delta_{t+l}."""
    following = [*values[1:], 0.0]
    deltas = [r + gamma * n - v for r, n, v in zip(rewards, following, values, strict=True)]
    return [
        sum((gamma * lam) ** i * d for i, d in enumerate(deltas[t:])) for t in range(len(deltas))
    ]


def test_gae_steps_over_holes_and_padding() -> None:
    """Each row without its unmasked tokens is an ordinary completion. The rest is never read."""
    torch.manual_seed(0)
    mask = torch.rand(32, 11) < 0.6
    rewards, values = torch.randn(2, 32, 11, dtype=torch.float64)
    dirty_rewards, dirty_values = (torch.where(mask, x, torch.nan) for x in (rewards, values))
    advantages, returns = gae(dirty_rewards, dirty_values, mask, gamma=0.9, lam=0.7)
    for row in range(32):
        here = mask[row]
        expected = slow_gae(rewards[row, here].tolist(), values[row, here].tolist(), 0.9, 0.7)
        close(advantages[row, here], expected, 1e-9)
        close(returns[row, here], advantages[row, here] + values[row, here], 1e-9)
    assert (advantages[~mask] == 0).all()
    assert (returns[~mask] == 0).all()


def test_gae_with_gamma_and_lambda_one_is_reward_minus_value() -> None:
    torch.manual_seed(1)
    mask = torch.arange(9) < torch.randint(1, 10, (16, 1))
    last = mask & ~torch.nn.functional.pad(mask, (0, 1))[:, 1:]
    reward, values = (
        torch.randn(16, 1, dtype=torch.float64),
        torch.randn(16, 9, dtype=torch.float64),
    )
    advantages, returns = gae(torch.where(last, reward, 0.0), values, mask)
    close(advantages, torch.where(mask, reward - values, 0.0), 1e-9)
    close(returns, torch.where(mask, reward, 0.0), 1e-9)


def test_return_to_go_by_hand() -> None:
    """REINFORCE++: reward 1 at the end, KL of .1, 0 and -.2 in the reward, with weight .5."""
    shaped = torch.tensor([[0.0, 0.0, 1.0]]) - 0.5 * torch.tensor([[0.1, 0.0, -0.2]])
    close(shaped, [[-0.05, 0.0, 1.1]])
    close(return_to_go(shaped, full(1, 3)), [[1.05, 1.1, 1.1]])


def test_return_to_go_discounts_and_skips() -> None:
    rewards = torch.tensor([[1.0, 99.0, 2.0, 4.0, 99.0]])
    mask = torch.tensor([[True, False, True, True, False]])
    close(
        return_to_go(rewards, mask, gamma=0.5),
        [[1 + 0.5 * 2 + 0.25 * 4, 0.0, 2 + 0.5 * 4, 4.0, 0.0]],
    )


# --- whitening ------------------------------------------------------------------------


def test_whiten_by_hand() -> None:
    close(
        whiten(torch.tensor([[0.5, 0.4, 0.2]]), full(1, 3)),
        [[0.872871, 0.218218, -1.091089]],
        atol=1e-5,
    )


def test_reinforce_plus_plus_baseline_by_hand() -> None:
    """Groups [1, 0] and [1, 1] with lengths 2, 1, 1, 1: the long completion has more weight."""
    mask = torch.tensor([[True, True], [True, False], [True, False], [True, False]])
    centred = group_advantages(
        torch.tensor([1.0, 0.0, 1.0, 1.0]), torch.tensor([0, 0, 1, 1]), "mean", "none"
    )
    per_token = broadcast(centred, mask)
    close(per_token, [[0.5, 0.5], [-0.5, 0.0], [0.0, 0.0], [0.0, 0.0]])
    expected = [[0.956183, 0.956183], [-1.434274, 0.0], [-0.239046, 0.0], [-0.239046, 0.0]]
    close(whiten(per_token, mask), expected, atol=1e-5)


@quick
@given(offset=st.floats(-1e6, 1e6), seed=st.integers(0, 99))
def test_whiten_is_zero_mean_unit_variance_within_the_mask(offset: float, seed: int) -> None:
    torch.manual_seed(seed)
    mask = torch.rand(5, 7) < 0.7
    mask[0, :2] = True
    x = torch.randn(5, 7, dtype=torch.float64) + offset
    result = whiten(torch.where(mask, x, torch.nan), mask)
    assert math.isclose(result[mask].mean(), 0, abs_tol=1e-6)
    assert math.isclose(result[mask].std(), 1, abs_tol=1e-5)
    assert (result[~mask] == 0).all()


@quick
@given(value=st.floats(-1e6, 1e6, width=32), count=st.integers(0, 12))
def test_whiten_equal_or_too_few_tokens_gives_zeros(value: float, count: int) -> None:
    mask = (torch.arange(12) < count).reshape(3, 4)
    assert (whiten(torch.full((3, 4), value), mask) == 0).all()


def test_broadcast() -> None:
    mask = torch.tensor([[True, False, True], [False, False, False]])
    close(broadcast(torch.tensor([2.0, torch.nan]), mask), [[2.0, 0.0, 2.0], [0.0, 0.0, 0.0]])


def test_overlong_penalty_by_hand() -> None:
    lengths = torch.tensor([16384, 18432, 20480, 30000, 1])
    assert overlong_penalty(lengths, 20480, 4096).tolist() == [0.0, -0.5, -1.0, -1.0, 0.0]


def test_scores_stand_at_the_end() -> None:
    mask = torch.tensor([[False, True, True, False], [True, False, True, True]])
    assert at_end(torch.tensor([2.0, 3.0]), mask).tolist() == [[0, 0, 2, 0], [0, 0, 0, 3]]


Q = torch.tensor([[1 / 3, 2 / 3, 9.0], [-1 / 6, 1 / 6, -0.5]])
Q_MASK = torch.tensor([[True, True, False], [True, True, True]])


@pytest.mark.parametrize(
    ("baseline", "expected"),
    [
        ("paper", [[2.3333, 1.8333, 0], [-3, -2.3333, -2.0]]),
        ("code", [[2.3333, 2.0, 0], [-3, -2.3333, -2.3333]]),
    ],
)
def test_process_advantages_by_hand(baseline: Any, expected: list[list[float]]) -> None:
    process = process_advantages(Q, Q_MASK, torch.tensor([5, 5]), baseline)
    outcome = broadcast(torch.tensor([1.0, -1.0]), Q_MASK)
    torch.testing.assert_close(process + outcome, torch.tensor(expected), atol=1e-4, rtol=0)


def test_process_rewards_are_compared_within_their_group() -> None:
    rewards = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(4) < torch.tensor([[4], [2], [3], [1], [4], [2]])
    groups = torch.tensor([7, 3, 7, 3, 7, 3])
    found = process_advantages(rewards, mask, groups)
    for i in range(6):
        means = [
            float(rewards[j][mask[j]].mean()) for j in range(6) if j != i and groups[j] == groups[i]
        ]
        for t in range(4):
            wanted = sum(
                float(rewards[i, s]) - sum(means) / len(means) for s in range(t, 4) if mask[i, s]
            )
            assert float(found[i, t]) == pytest.approx(wanted if mask[i, t] else 0, abs=1e-5)
