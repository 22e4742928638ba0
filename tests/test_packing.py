"""What a group's rows have in common is computed once, and nothing but the time changes."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import folders
import pytest
import tiny
import torch
from folders import FAMILIES
from test_learner import NO_CLIP, algorithms, annotated, conversations, gradient, rollouts
from test_learner import name as name_of
from test_real_models import by_the_formula
from torch import Tensor, nn
from transformers import AttentionInterface

from tinyzero import models
from tinyzero.algorithms import Algorithm, load_algorithm
from tinyzero.batching import Batch, collate
from tinyzero.config import LoraSection
from tinyzero.learner import TorchLearner, policy_outputs, value_outputs
from tinyzero.models import Backbone, ValueModel, attention, contracts, lora, packing
from tinyzero.types import Completion, Problem, Reward, Rollout

CPU = torch.device("cpu")


def rows_of(sequences: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Sequences padded on the right, and their lengths."""
    lengths = [len(sequence) for sequence in sequences]
    padded = [sequence + [0] * (max(lengths) - len(sequence)) for sequence in sequences]
    return torch.tensor(padded), torch.tensor(lengths)


class TestJoinedRows:
    def test_the_example_of_the_docstring(self) -> None:
        tokens, lengths = rows_of([[10, 11, 1, 2], [10, 11, 3], [20, 4]])
        joined = packing.join_rows(tokens, lengths, torch.tensor([7, 7, 8]))

        assert joined.tokens.tolist() == [10, 11, 1, 2, 3, 20, 4]
        assert joined.positions.tolist() == [0, 1, 2, 3, 2, 0, 1]
        assert joined.columns.tolist() == [[0, 1, 2, 3], [0, 1, 4, 0], [5, 6, 0, 0]]
        assert [piece.seen for piece in joined.packing.pieces] == [
            [0, 1],
            [0, 1, 2, 3],
            [0, 1, 4],
            [5, 6],
        ]
        assert joined.packing.edges.tolist() == [0, 2, 4, 5, 7]
        assert joined.packing.key_edges.tolist() == [0, 2, 6, 9, 11]
        assert joined.packing.keys is not None
        assert joined.packing.keys.tolist() == [0, 1, 0, 1, 2, 3, 0, 1, 4, 5, 6]
        assert (joined.packing.longest_query, joined.packing.longest_key) == (2, 4)

    def test_without_groups_nothing_is_shared(self) -> None:
        tokens, lengths = rows_of([[10, 11, 1], [10, 11, 3]])
        joined = packing.join_rows(tokens, lengths)
        assert joined.tokens.tolist() == [10, 11, 1, 10, 11, 3]
        assert joined.packing.keys is None

    def test_rows_of_a_group_need_not_be_neighbours(self) -> None:
        tokens, lengths = rows_of([[5, 1], [6, 2], [5, 3], [6, 4]])
        joined = packing.join_rows(tokens, lengths, torch.tensor([0, 1, 0, 1]))
        assert joined.tokens.tolist() == [5, 1, 3, 6, 2, 4]
        assert joined.columns.tolist() == [[0, 1], [3, 4], [0, 2], [3, 5]]

    @pytest.mark.parametrize(
        ("sequences", "shared"),
        [
            ([[5, 6, 1], [5, 6, 2]], [2, 2]),
            ([[5, 6, 1], [5, 7, 1]], [1, 1]),
            ([[5, 6], [6, 6]], [0, 0]),
            ([[5, 6, 1], [5, 6]], [2, 2]),  # the second row is all prefix
            ([[5, 6], [5, 6]], [2, 2]),  # as are both
            ([[5, 0, 0, 1], [5]], [1, 1]),  # padding is no token, though 0 is one
            ([[5, 6]], [0]),
        ],
    )
    def test_what_is_shared(self, sequences: list[list[int]], shared: list[int]) -> None:
        tokens, lengths = rows_of(sequences)
        groups = torch.zeros(len(sequences), dtype=torch.long)
        assert packing.shared_lengths(tokens, lengths, groups) == shared

        joined = packing.join_rows(tokens, lengths, groups)
        for row, sequence in enumerate(sequences):
            columns = joined.columns[row, : len(sequence)]
            assert joined.tokens[columns].tolist() == sequence
            assert joined.positions[columns].tolist() == list(range(len(sequence)))

    def test_blocks_hold_every_token_once(self) -> None:
        tokens, lengths = random_rows()[:2]
        joined = packing.join_rows(tokens, lengths, random_rows()[2])
        computed = torch.cat([block.queries.flatten() for block in joined.packing.blocks])
        assert computed[joined.packing.order].tolist() == list(range(len(joined.tokens)))
        assert len(computed) < len(joined.tokens) / packing.SHORTEST_SHARE


def random_rows(vocabulary: int = 90) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, lengths and groups of every kind of group there is, in mixed order."""
    generator = torch.Generator().manual_seed(0)

    def draw(count: int) -> list[int]:
        return torch.randint(1, vocabulary, (count,), generator=generator).tolist()

    long, shared, single = draw(7), draw(4), draw(1)
    rows = [
        *((0, long + draw(n)) for n in (1, 12, 5, 11)),
        (1, draw(3)),  # alone in its group
        *((2, single + draw(n)) for n in (1, 1, 2)),  # a prompt of one token
        *((3, draw(n)) for n in (4, 6)),  # nothing in common
        *((4, shared + more) for more in ([], [3, 4], [3, 4])),  # one is all prefix, two are equal
        *((5, draw(5) + draw(140)) for _ in range(2)),  # longer than a block of queries
    ]
    order = torch.randperm(len(rows), generator=generator).tolist()
    tokens, lengths = rows_of([rows[i][1] for i in order])
    return tokens, lengths, torch.tensor([rows[i][0] for i in order])


def exact(model: Backbone) -> Backbone:
    """The model in fp64 throughout; the norms of transformers would compute in fp32."""
    for module in model.double().modules():
        if type(module).__name__.endswith("RMSNorm"):
            norm: Any = module
            norm.forward = partial(
                nn.functional.rms_norm,
                normalized_shape=norm.weight.shape,
                weight=norm.weight,
                eps=norm.variance_epsilon,
            )
    return model


def loss_and_gradients(
    model: Backbone, tokens: Tensor, lengths: Tensor, groups: Tensor | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The sum of weighted log-probabilities of all tokens but the first, and its gradients."""
    weights = torch.randn(tokens.shape, generator=torch.Generator().manual_seed(1))
    is_real = torch.arange(tokens.shape[1] - 1) < lengths[:, None] - 1

    hidden = model.hidden(tokens[:, :-1], lengths - 1, groups)
    logprobs = model.head(hidden).log_softmax(-1).gather(-1, tokens[:, 1:, None]).squeeze(-1)
    loss = (logprobs * weights[:, 1:])[is_real].sum()
    loss.backward()

    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return loss.detach(), found


@pytest.mark.parametrize("shape", ["qwen2", "llama", "qwen3"])
@pytest.mark.parametrize("pack", [False, True])
def test_sharing_changes_neither_loss_nor_gradient(shape: str, pack: bool) -> None:
    model = exact(tiny.model(shape, context=256))
    tokens, lengths, groups = random_rows()
    model.pack = pack
    loss, gradients = loss_and_gradients(model, tokens, lengths, None)

    model.share = True
    shared_loss, shared_gradients = loss_and_gradients(model, tokens, lengths, groups)
    assert float(shared_loss) == pytest.approx(float(loss), rel=1e-10)
    assert shared_gradients.keys() == gradients.keys() == {n for n, _ in model.named_parameters()}
    for name, expected in gradients.items():
        found = shared_gradients[name]
        assert (found - expected).norm() <= 1e-10 * expected.norm(), name


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("families")
    return {name: str(folders.write(root / name, name)) for name in FAMILIES}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_shares_by_itself(family: str, written: dict[str, str]) -> None:
    model = models.load_model(written[family])
    assert model.share
    tokens, lengths, groups = random_rows()
    real = torch.arange(tokens.shape[1]) < lengths[:, None]
    found, alone = model.hidden(tokens, lengths, groups), model.hidden(tokens)
    torch.testing.assert_close(found[real], alone[real], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("way", ["adapters", "recomputed"])
def test_adapters_and_recomputed_layers_learn_the_same(way: str, written: dict[str, str]) -> None:
    tokens, lengths, groups = random_rows()
    found = []
    for share in (False, True):
        model = models.load_model(written["qwen2"], recompute=way == "recomputed")
        if way == "adapters":
            lora.add_adapter(model, LoraSection(rank=4, alpha=8))
            generator = torch.Generator().manual_seed(2)
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
        exact(model).share = share
        found.append(loss_and_gradients(model, tokens, lengths, groups))

    (loss, gradients), (shared_loss, shared_gradients) = found
    assert float(shared_loss) == pytest.approx(float(loss), rel=1e-10)
    assert all(("lora" in name) == (way == "adapters") for name in gradients)
    for name, expected in gradients.items():
        assert (shared_gradients[name] - expected).norm() <= 1e-10 * expected.norm(), name


def learner(role: str, share: bool, **more: Any) -> TorchLearner:
    backbone = tiny.model(seed=2 if role == "critic" else 0, layers=1)
    backbone.share = share
    if role != "critic":
        return TorchLearner(backbone, policy_outputs, NO_CLIP, **more)

    torch.manual_seed(3)
    model = ValueModel(backbone)
    nn.init.normal_(model.head.weight)
    return TorchLearner(model, value_outputs, NO_CLIP, **more)


def presets() -> list[Algorithm]:
    """Every algorithm, with KL and entropy in some."""
    others = [
        load_algorithm(name, {"filter": "none"}) for name in ("dr_grpo", "reinforce++-baseline")
    ]
    return [*algorithms(), *others]


@pytest.mark.parametrize("kind", [rollouts, conversations])
@pytest.mark.parametrize("algorithm", presets(), ids=name_of)
def test_every_algorithm_learns_the_same(
    algorithm: Algorithm, kind: Callable[[], list[list[Rollout]]]
) -> None:
    batch = annotated(algorithm, kind())
    for role in ("policy", *(role for role in algorithm.roles if role != "reference")):
        loss = partial(algorithm.loss, role)
        expected, metrics = gradient(learner(role, False, loss=loss), batch)
        tolerance = 1e-6 * metrics["grad_norm"]

        for micro_tokens in (10_000, 120, 1):
            made = learner(role, True, loss=loss, micro_tokens=micro_tokens)
            found, again = gradient(made, batch)
            for a, b in zip(found, expected, strict=True):
                torch.testing.assert_close(a, b, atol=tolerance, rtol=1e-4)
            assert again == pytest.approx(metrics, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("role", ["policy", "critic"])
def test_scores_are_the_same(role: str) -> None:
    batch = collate(conversations(), 32)
    expected = learner(role, False).score(batch)
    for micro_tokens in (10_000, 80, 1):
        found = learner(role, True, micro_tokens=micro_tokens).score(batch)
        torch.testing.assert_close(found[batch.mask], expected[batch.mask], atol=1e-5, rtol=1e-5)


def test_idle_rows_are_not_computed() -> None:
    batch = annotated(load_algorithm("grpo", {}), rollouts())
    half = replace(batch, idle=torch.arange(batch.size) % 2 == 0)
    alone = batch.select(torch.arange(1, batch.size, 2))
    loss = partial(load_algorithm("grpo", {}).loss, "policy")
    found, _ = gradient(learner("policy", True, loss=loss), half)

    made = learner("policy", False, loss=loss)
    made.update(alone, [batch.totals()])
    for a, parameter in zip(found, made.parameters, strict=True):
        torch.testing.assert_close(a, parameter.grad, atol=1e-6, rtol=1e-4)


class TestMicroBatches:
    def batch(self, samples: int = 4) -> Batch:
        """Three groups with prompts of 10 tokens and answers of 1, 2, 3, ... tokens."""
        groups = []
        for group in range(3):
            answers = [[50 + i] * (i + 1) for i in range(samples)]
            groups.append([self.rollout(group, answer) for answer in answers])
        return collate(groups, 16)

    def rollout(self, group: int, answer: list[int]) -> Rollout:
        count = len(answer)
        completion = Completion(tuple(answer), (True,) * count, (-1.0,) * count, "", "stop")
        prompt = tuple(range(group, group + 10))
        return Rollout(Problem("p", {}, "train", "p"), prompt, completion, Reward(0.0), group)

    @pytest.mark.parametrize(
        ("max_tokens", "sizes"),
        [
            (60, [12]),  # 3 * (10 + 1 + 2 + 3 + 4)
            (59, [11, 1]),
            (40, [8, 4]),
            (20, [4, 4, 4]),
            (16, [3, 1, 3, 1, 3, 1]),  # 10 + 1 + 2 + 3
            (1, [1] * 12),
        ],
    )
    def test_a_prompt_is_counted_once(self, max_tokens: int, sizes: list[int]) -> None:
        found = list(self.batch().micro_batches(max_tokens, share=True))
        assert [part.size for _, part in found] == sizes
        assert [row for rows, _ in found for row in rows.tolist()] == list(range(12))

    def test_no_more_tokens_are_computed_than_allowed(self) -> None:
        model = tiny.model(layers=1)
        model.share = True
        computed: list[int] = []
        model.core.layers[0].register_forward_pre_hook(
            lambda _, given: computed.append(given[0].shape[1])
        )
        for _, part in self.batch().micro_batches(40, share=True):
            policy_outputs(model, part)
        # two groups, then one; the last token of each row predicts nothing
        assert computed == [2 * (10 + 0 + 1 + 2 + 3), 10 + 0 + 1 + 2 + 3]

    def test_idle_rows_are_left_out(self) -> None:
        batch = replace(self.batch(), idle=torch.arange(12) % 3 > 0)
        ((rows, _),) = batch.micro_batches(1000, share=True)
        assert rows.tolist() == [0, 3, 6, 9]
        batch = replace(batch, idle=torch.ones(12, dtype=torch.bool))
        ((rows, _),) = batch.micro_batches(1000, share=True)
        assert rows.tolist() == [0]


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (4, 1)])
def test_the_way_for_a_gpu_agrees(heads: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Flash attention gets the keys of a prefix once per piece, in value and in gradient."""
    joined = packing.join_rows(*random_rows())
    generator, (H, G) = torch.Generator().manual_seed(0), heads
    given = [
        torch.randn(1, n, len(joined.tokens), 16, generator=generator, dtype=torch.float64)
        for n in (H, G, G)
    ]

    def attended() -> tuple[Tensor, ...]:
        query, key, value = (tensor.clone().requires_grad_() for tensor in given)
        result = packing.packed_attention(query, key, value, joined.packing, 0.3)
        (result * torch.arange(16)).sum().backward()
        assert query.grad is not None
        assert key.grad is not None
        assert value.grad is not None
        return result.detach(), query.grad, key.grad, value.grad

    blocks = attended()
    monkeypatch.setattr(packing, "has_flash", lambda *_: True)
    monkeypatch.setattr(packing, "flash_attention", differentiable_formula)
    for a, b in zip(attended(), blocks, strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)


def differentiable_formula(query: Tensor, *given: Any, **more: Any) -> Tensor:
    """`by_the_formula` writes into its result, which must not be a leaf."""
    return by_the_formula(query, *given, **more)


def test_fused_kernels_align_the_last_query_with_the_last_key() -> None:
    query, key, value = torch.randn(2, 4, 3, 8), torch.randn(2, 2, 9, 8), torch.randn(2, 2, 9, 8)
    expected, _ = attention.grouped_attention(nn.Identity(), query, key, value, None, 0.3)
    found = attention.fused_attention(query, key, value, None, 0.3)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)

    edges = torch.tensor([0, 3], dtype=torch.int32), torch.tensor([0, 9], dtype=torch.int32)
    first = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]
    formula = by_the_formula(*first, *edges, 3, 9, causal=True, scaling=0.3)
    torch.testing.assert_close(expected[0], formula, atol=1e-6, rtol=1e-5)


class TestWhatCannotShare:
    def test_a_model_that_drops_the_packing(
        self, written: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def forgetful(*given: Any, packing: Any = None, **more: Any) -> Any:
            return attention.grouped_attention(*given, **more)

        monkeypatch.setitem(AttentionInterface._global_mapping, "tinyzero", forgetful)
        assert not models.load_model(written["qwen2"]).share

    def test_a_model_that_counts_positions_itself(self) -> None:
        model = tiny.model()
        forward = model.core.forward
        model.core.forward = lambda position_ids=None, **more: forward(**more)
        assert not contracts.can_share_prefixes(model, contracts.EXACT)

    def test_a_model_whose_neighbours_mix_outside_attention(self) -> None:
        model = tiny.model()
        assert contracts.can_share_prefixes(model, contracts.EXACT)
        layer = model.core.layers[0]
        forward = layer.forward

        def convolved(hidden: Tensor, **more: Any) -> Tensor:
            mixed: Tensor = hidden + 0.02 * hidden.roll(1, dims=1)
            result: Tensor = forward(mixed, **more)
            return result

        layer.forward = convolved
        assert not contracts.can_share_prefixes(model, contracts.EXACT)
        assert not model.share

    def test_the_model_is_left_as_it_was(self) -> None:
        model = tiny.model()
        model.pack = True
        contracts.can_share_prefixes(model, contracts.EXACT)
        assert (model.pack, model.share) == (True, False)
