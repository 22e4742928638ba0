"""Batches equal one written by hand; cutting into micro-batches neither loses nor repeats a row."""

from dataclasses import fields, replace

import pytest
import torch

from tinyzero.batching import Batch, Totals, collate
from tinyzero.turns import extend
from tinyzero.types import Completion, Group, Problem, Reward, Rollout

PROBLEM = Problem("p", {}, "train", "p")


def rollout(
    prompt: list[int], ids: list[int], mask: list[bool], reward: float = 0.0, group: int = 0
) -> Rollout:
    logprobs = tuple(-i / 10 for i in ids)
    completion = Completion(tuple(ids), tuple(mask), logprobs, "", "stop")
    return Rollout(PROBLEM, tuple(prompt), completion, Reward(reward), group)


def by_hand() -> list[Group]:
    return [
        [rollout([8, 9], [1, 2], [True, True], 1.0, 4), rollout([8, 9], [3], [True], 0.5, 4)],
        [rollout([7], [4, 5, 6], [True, False, True], 0.25, 5), rollout([7], [2], [True], 0.0, 5)],
    ]


def test_columns_belong_to_the_token_they_predict() -> None:
    batch = collate(by_hand(), max_tokens=16)
    assert batch.tokens.tolist() == [[8, 9, 1, 2], [8, 9, 3, 0], [7, 4, 5, 6], [7, 2, 0, 0]]
    yes, no = True, False
    assert batch.mask.tolist() == [[no, yes, yes], [no, yes, no], [yes, no, yes], [yes, no, no]]
    expected = [[0, -0.1, -0.2], [0, -0.3, 0], [-0.4, -0.5, -0.6], [-0.2, 0, 0]]
    torch.testing.assert_close(batch.sampled_logprobs, torch.tensor(expected))
    # every trained token, nothing else
    assert batch.tokens[:, 1:][batch.mask].tolist() == [1, 2, 3, 4, 6, 2]
    assert batch.rewards.tolist() == [1.0, 0.5, 0.25, 0.0]
    assert batch.groups.tolist() == [4, 4, 5, 5]
    assert batch.lengths.tolist() == [4, 3, 4, 2]
    assert (batch.limits.tolist(), batch.size) == ([16] * 4, 4)
    assert batch.totals() == Totals(tokens=6, sequences=4, max_length=16)


def test_the_mask_does_not_come_from_token_ids() -> None:
    batch = collate([[rollout([0, 0], [0, 5, 0], [True, True, True])]], 8)
    assert batch.mask.tolist() == [[False, True, True, True]]


def test_columns_of_an_environment_are_read_and_not_trained_on() -> None:
    turns = [Completion((i, i), (True, True), (-0.5, -0.25), "", "stop") for i in (1, 2)]
    joined = extend(turns[0], (7, 7, 7), turns[1])
    batch = collate([[Rollout(PROBLEM, (9, 9), joined, Reward(0.0), 0)]], 1.0, 8)
    yes, no = True, False
    assert batch.tokens.tolist() == [[9, 9, 1, 1, 7, 7, 7, 2, 2]]
    assert batch.mask.tolist() == [[no, yes, yes, no, no, no, yes, yes]]
    assert batch.sampled_logprobs.tolist() == [[0, -0.5, -0.25, 0, 0, 0, -0.5, -0.25]]
    assert batch.totals().tokens == joined.length == 4
    assert batch.lengths.tolist() == [9]


def test_selected_rows_are_trimmed_to_the_longest_of_them() -> None:
    batch = replace(
        collate(by_hand(), 8),
        advantages=torch.arange(12.0).view(4, 3),
        idle=torch.zeros(4).bool(),
    )
    part = batch.select(torch.tensor([3, 1]))
    assert part.tokens.tolist() == [[7, 2, 0], [8, 9, 3]]
    assert part.mask.tolist() == [[True, False], [False, True]]
    assert part.advantages is not None
    assert part.advantages.tolist() == [[9, 10], [3, 4]]
    assert part.rewards.tolist() == [0.0, 0.5]
    assert part.idle is not None
    assert part.old_logprobs is None


def many() -> Batch:
    lengths = [1 + i * 7 % 13 for i in range(20)]
    return collate(
        [[rollout([3, 4], [1] * n, [True] * n, group=i) for i, n in enumerate(lengths)]], 16
    )


@pytest.mark.parametrize("max_tokens", [1, 16, 40, 10_000])
def test_micro_batches_hold_every_row_once(max_tokens: int) -> None:
    batch = many()
    seen: list[int] = []
    for rows, part in batch.micro_batches(max_tokens):
        seen += rows.tolist()
        assert part.tokens.numel() <= max_tokens or part.size == 1
        assert part.tokens.shape[1] == int(part.lengths.max())
        assert part.groups.tolist() == rows.tolist()
        for row, tokens in zip(rows, part.tokens, strict=True):
            assert torch.equal(tokens, batch.tokens[row, : part.tokens.shape[1]])
    assert sorted(seen) == list(range(20))
    assert [int(batch.lengths[i]) for i in seen] == sorted(batch.lengths.tolist(), reverse=True)


def test_idle_rows_are_counted_but_not_computed() -> None:
    idle = torch.arange(20) % 3 == 0
    batch = replace(many(), idle=idle)
    computed = [row for rows, _ in batch.micro_batches(32) for row in rows.tolist()]
    assert sorted(computed) == [i for i in range(20) if i % 3]
    every = [row for rows, _ in batch.micro_batches(32, skip_idle=False) for row in rows.tolist()]
    assert sorted(every) == list(range(20))
    assert batch.totals() == many().totals()


def test_computed_tokens_are_those_that_differ() -> None:
    """Rows of 4 and 3 tokens that begin with the same two, and rows of 4 and 2 that share one."""
    batch = collate(by_hand(), 16)
    assert batch.computed_tokens() == batch.computed_tokens(skip_idle=False) == 13
    assert batch.computed_tokens(share=True) == 13 - 2 - 1
    batch = replace(batch, idle=torch.tensor([False, False, True, False]))
    assert batch.computed_tokens(share=True) == 7 - 2 + 2
    assert batch.computed_tokens(skip_idle=False, share=True) == 10


def test_of_rows_that_are_all_idle_the_shortest_is_left() -> None:
    batch = replace(many(), idle=torch.ones(20, dtype=torch.bool))
    ((rows, part),) = batch.micro_batches(32)
    assert rows.tolist() == [0]
    assert part.lengths.tolist() == [3]


def test_rewards_may_be_whole_numbers() -> None:
    one = rollout([1], [2], [True])
    assert collate([[replace(one, reward=Reward(1))]], 8).rewards.dtype == torch.float32


def test_rows_of_an_earlier_policy_are_stale_even_when_all_are() -> None:
    one = rollout([1], [2], [True])
    old = replace(one, completion=replace(one.completion, last_version=3))
    new = replace(one, completion=replace(one.completion, last_version=4))
    assert collate([[old, old]], 8, version=3).stale is None
    for rows, expected in (
        ([old, old], [True, True]),
        ([old, new], [True, False]),
        ([new, old], [False, True]),
    ):
        batch = collate([rows], 8, version=4)
        assert batch.stale is not None
        assert batch.stale.tolist() == expected
        part = batch.select(torch.tensor([1]))
        assert part.stale is not None
        assert part.stale.tolist() == expected[1:]


def test_what_is_right_is_the_answer_whatever_the_reward() -> None:
    one = rollout([1], [2], [True])
    rewards = [Reward(1.0), Reward(0.9), Reward(0.6, {"answer": 1.0}), Reward(1.0, {"answer": 0.0})]
    batch = collate([[replace(one, reward=reward) for reward in rewards]], 8)
    assert batch.right.tolist() == [True, False, True, False]
    assert batch.graded.tolist() == [False, True, False, False]


def test_a_reward_of_more_than_one_is_not_right() -> None:
    one = rollout([1], [2], [True], reward=2.3)
    batch = collate([[one]], 8)
    assert (batch.right.tolist(), batch.graded.tolist()) == ([False], [True])


def test_a_batch_is_nothing_but_tensors() -> None:
    batch = collate(by_hand(), 16)
    values = [getattr(batch, f.name) for f in fields(batch)]
    assert all(value is None or isinstance(value, torch.Tensor) for value in values)
    names = {
        f.name
        for f in fields(batch.select(torch.tensor([0])))
        if getattr(batch, f.name) is not None
    }
    assert names == {
        "tokens",
        "mask",
        "sampled_logprobs",
        "rewards",
        "groups",
        "lengths",
        "limits",
        "right",
        "graded",
    }
