"""What only a GPU can show: graphs, flash attention, rounding. `pytest -m cuda tests/test_cuda.py`.

Everything here is skipped without a GPU that has bf16. Tolerances are for bf16, relative to norms.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from tinyzero import models
from tinyzero.algorithms.losses import chosen_logprobs
from tinyzero.models import Backbone
from tinyzero.samplers.draw import next_token, row_keys
from tinyzero.samplers.rooms import Layout
from tinyzero.samplers.slot_schedule import SlotSchedule
from tinyzero.samplers.slots import Slots, flash_attention, masked_attention
from tinyzero.samplers.torch import TorchSampler
from tinyzero.types import Completion, SamplingParams, requests_for

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here"),
]
PARAMS = SamplingParams()
VOCABULARY = 151_936


def random_model(layers: int = 4, vocabulary: int = VOCABULARY, **sizes: int) -> Backbone:
    """A Qwen2 model on the GPU with random weights, large enough for every kernel of a real one."""
    config = AutoConfig.for_model(
        model_type="qwen2",
        num_hidden_layers=layers,
        hidden_size=1024,
        intermediate_size=2048,
        num_attention_heads=sizes.get("heads", 16),
        num_key_value_heads=sizes.get("groups", 2),
        vocab_size=vocabulary,
        tie_word_embeddings=True,
        max_position_embeddings=4096,
        rope_theta=1e6,
        bos_token_id=None,
    )
    torch.manual_seed(0)
    with torch.device("cuda"):
        lm = AutoModelForCausalLM.from_config(
            config, attn_implementation="tinyzero", dtype=torch.bfloat16
        )
    with torch.no_grad():
        for parameter in lm.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return Backbone(lm.eval(), pack=True)


def relative(found: Tensor, expected: Tensor) -> float:
    """The norm of the difference, divided by the norm of `expected`."""
    expected = expected.detach().double()
    return float((found.detach().double() - expected).norm() / expected.norm())


def sampler_of(model: Backbone, rows: int) -> TorchSampler:
    return TorchSampler(model, lambda ids: "", frozenset(), max_rows=rows, in_slots=True)


def sample(
    sampler: TorchSampler, prompts: list[list[int]], samples: int, new: int
) -> list[list[Completion]]:
    params = SamplingParams(max_tokens=new, stop=())
    return sampler.generate(requests_for(prompts, samples), params)


def filled_slots(model: Backbone, layout: Layout) -> Slots:
    """Slots that have read prompts of different lengths."""
    slots = Slots(model, layout)
    rows = torch.arange(layout.count)
    prompts = [[row + 5] * (3 + row % 60) for row in rows.tolist()]
    logits = slots.enter(rows, prompts, rows, row_keys(0, rows, rows), torch.zeros_like(rows))
    slots.draw(rows.cuda(), logits, PARAMS)
    return slots


@pytest.mark.parametrize("shape", [(16, 2, 128), (14, 2, 64), (9, 3, 64), (8, 8, 128)])
@pytest.mark.parametrize("count", [1, 4, 16, 64, 128, 192, 512])
def test_flash_equals_masked_attention_at_every_size(
    shape: tuple[int, int, int], count: int
) -> None:
    """Flash attention has one kernel for small batches and another one for large ones."""
    heads, groups, width = shape
    layout = Layout(count, 1216)
    slots: Any = type("Sizes", (), {})()
    slots.length, slots.layout = layout.length, layout
    slots.edges = torch.arange(count + 1, dtype=torch.int32, device="cuda")

    def numbers(*size: int) -> Tensor:
        return torch.randn(*size, device="cuda", dtype=torch.bfloat16)

    query, cache = numbers(count, heads, width), numbers(2, layout.tokens, groups, width)
    starts = torch.tensor([layout.start(room) for room in range(count)], device="cuda").flip(0)
    full = torch.full((count,), 1216, device="cuda")
    random = torch.randint(1, 1217, (count,), device="cuda")
    for used in (full, random, torch.ones_like(full)):
        flash = flash_attention(slots, starts, used)(query, *cache)
        masked = masked_attention(slots, starts, used)(query, *cache)
        assert relative(flash, masked) < 1e-2


@torch.inference_mode()
def test_a_graph_equals_its_operations_and_follows_the_weights() -> None:
    model = random_model()
    graphed = filled_slots(model, Layout(64, 256, 32, 128))
    eager = filled_slots(model, Layout(64, 256, 32, 128))
    assert graphed.attention is flash_attention
    eager.capturing = False

    for count in graphed.buckets():
        for _ in range(3):
            found, expected = graphed.step(count, PARAMS), eager.step(count, PARAMS)
            assert (found[0] == expected[0]).float().mean() > 0.9, "rounding may change a few"
            for name in ("token", "filled", "position"):
                getattr(eager, name).copy_(getattr(graphed, name))
            eager.keys.copy_(graphed.keys)
            eager.values.copy_(graphed.values)
        assert relative(found[1], expected[1]) < 0.05
    assert graphed.capturing, graphed.faults
    assert len(graphed.graphs) == len(graphed.buckets())

    for parameter in model.parameters():
        parameter.mul_(1.01)
    found, expected = graphed.step(96, PARAMS), eager.step(96, PARAMS)
    assert (found[0] == expected[0]).float().mean() > 0.9, "the graph reads the new weights"


@pytest.mark.parametrize(
    "params",
    [SamplingParams(temperature=0.0), SamplingParams(temperature=0.7, top_k=50, top_p=0.9)],
)
@torch.inference_mode()
def test_every_kind_of_draw_can_be_captured(params: SamplingParams) -> None:
    slots = filled_slots(random_model(layers=1), Layout(32, 256))
    slots.step(32, params)
    assert slots.capturing, slots.faults


def test_sampled_logprobs_are_the_learners() -> None:
    """With refills, graphs and short rooms on one side, and joined sequences on the other."""
    model = random_model()
    prompts = [[7 + i] * (5 + 9 * i) for i in range(8)]
    groups = sample(sampler_of(model, 16), prompts, 5, 200)

    gaps = []
    with torch.no_grad():
        for prompt, group in zip(prompts, groups, strict=True):
            for completion in group:
                tokens = torch.tensor([[*prompt, *completion.token_ids]], device="cuda")
                hidden = model.hidden(tokens, torch.tensor([tokens.shape[1]]))
                learned, _ = chosen_logprobs(
                    hidden[0, len(prompt) - 1 : -1],
                    model.head.weight,
                    None,
                    tokens[0, len(prompt) :],
                    1.0,
                    512,
                )
                sampled = torch.tensor(completion.sampled_logprobs)
                gaps.append((learned.cpu() - sampled).abs())
    assert float(torch.cat(gaps).mean()) < 0.03


def test_two_kinds_of_rooms_draw_the_models_tokens() -> None:
    """In bf16 another batch may round to another token, so only most first tokens agree."""
    model = random_model()
    prompts = [[9] * 20, [8] * 40]
    short_rooms, long_rooms = sampler_of(model, 9), sampler_of(model, 32)
    found = sample(short_rooms, prompts, 16, 300)
    expected = sample(long_rooms, prompts, 16, 300)
    assert short_rooms._slots is not None
    assert short_rooms._slots.layout.short > 0
    assert all(len(c.token_ids) == 300 for group in found for c in group)

    firsts = [
        a.token_ids[:4] == b.token_ids[:4]
        for group, others in zip(found, expected, strict=True)
        for a, b in zip(group, others, strict=True)
    ]
    assert sum(firsts) >= 0.8 * len(firsts)


@torch.inference_mode()
def test_idle_slots_keep_their_state() -> None:
    slots = filled_slots(random_model(layers=1), Layout(32, 256))
    is_decoded = torch.tensor([1, 0]).repeat(16)
    slots.assign_rooms(torch.stack((slots.placed[:, 0].cpu(), is_decoded), 1))
    before = slots.token.clone(), slots.filled.clone(), slots.position.clone()
    for _ in range(5):
        slots.step(32, PARAMS)

    idle = is_decoded.cuda() == 0
    for state, earlier in zip((slots.token, slots.filled, slots.position), before, strict=True):
        assert torch.equal(state[idle], earlier[idle])
    assert torch.equal(slots.filled[~idle], before[1][~idle] + 5)


def test_a_slow_host_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens then arrive late. A pinned buffer that is used again too early would show."""
    import time

    sampler = sampler_of(random_model(layers=2), 32)
    expected = sample(sampler, [[5] * 9, [6] * 30], 16, 60)
    step = SlotSchedule.step

    def slow_step(schedule: SlotSchedule) -> Any:
        time.sleep(0.02)
        return step(schedule)

    monkeypatch.setattr(SlotSchedule, "step", slow_step)
    assert sample(sampler, [[5] * 9, [6] * 30], 16, 60) == expected


def test_joined_sequences_have_the_gradient_of_padded_ones() -> None:
    model = random_model(layers=2, vocabulary=1024)
    lengths = torch.tensor([5, 64, 300, 1])
    tokens = torch.randint(1, 1000, (4, 300), device="cuda")
    is_real = (torch.arange(300) < lengths[:, None]).cuda()
    weights = torch.randn(4, 300, 1024, device="cuda")

    results = []
    for pack in (True, False):
        model.pack = pack
        model.zero_grad()
        hidden = model.hidden(tokens, lengths if pack else None)
        (hidden.float() * weights)[is_real].sum().backward()
        gradients = [parameter.grad for parameter in model.core.layers.parameters()]
        results.append((hidden[is_real].detach(), torch.cat([g.flatten() for g in gradients])))
    for packed, padded in zip(*results, strict=True):
        assert relative(packed, padded) < 2e-2


def test_the_chunked_head_is_its_formula() -> None:
    torch.manual_seed(0)
    hidden = torch.randn(1100, 1024, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    weight = (0.05 * torch.randn(VOCABULARY, 1024, device="cuda")).bfloat16().requires_grad_()
    targets = torch.randint(0, VOCABULARY, (1100,), device="cuda")
    factor = torch.randn(1100, device="cuda")
    logprobs, entropy = chosen_logprobs(hidden, weight, None, targets, 0.7, 512)
    assert entropy is not None
    (logprobs * factor + 0.01 * entropy).sum().backward()

    exact_hidden = hidden.detach().double().requires_grad_()
    exact_weight = weight.detach().double().requires_grad_()
    exact = (exact_hidden @ exact_weight.T / 0.7).log_softmax(-1)
    exact_logprobs = exact.gather(1, targets[:, None])[:, 0]
    exact_entropy = -(exact.exp() * exact).sum(-1)
    (exact_logprobs * factor + 0.01 * exact_entropy).sum().backward()

    for found, expected in (
        (logprobs, exact_logprobs),
        (entropy, exact_entropy),
        (hidden.grad, exact_hidden.grad),
        (weight.grad, exact_weight.grad),
    ):
        assert found is not None
        assert expected is not None
        assert relative(found, expected) < 1e-2


@pytest.mark.parametrize("precision", ["highest", "high"])
@pytest.mark.parametrize("batch", [1, 8])
def test_positions_are_not_rounded_by_tf32(precision: str, batch: int) -> None:
    """Some versions of transformers multiply frequencies and positions as matrices."""
    model = random_model(layers=1, vocabulary=1024)
    positions = torch.arange(4096, device="cuda")
    exact = positions[:, None].double() * model.core.rotary_emb.inv_freq.double()
    earlier = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        like = torch.zeros(1, device="cuda", dtype=torch.float32)
        cos, _ = model.core.rotary_emb(like, positions[None].expand(batch, -1))
    finally:
        torch.set_float32_matmul_precision(earlier)
    assert float((cos[0, :, : exact.shape[1]].double() - exact.cos()).abs().max()) < 1e-2


def test_draws_follow_the_distribution() -> None:
    """Chi-square of 200,000 draws over the 200 most likely of 151,936 tokens."""
    torch.manual_seed(0)
    logits = 3 * torch.randn(1, VOCABULARY, device="cuda")
    draws = 200_000
    keys = row_keys(1, torch.arange(draws), torch.zeros(draws, dtype=torch.long)).cuda()
    tokens = torch.cat(
        [next_token(logits.expand(500, -1), part, 0, PARAMS)[0] for part in keys.split(500)]
    )
    probs = logits[0].double().softmax(-1)
    likely = probs.topk(200).indices
    observed = torch.bincount(tokens, minlength=VOCABULARY)[likely].double()
    expected = probs[likely] * draws
    assert float(((observed - expected) ** 2 / expected).sum()) < 290  # mean 200, deviation 20


@pytest.mark.parametrize("size", [300, VOCABULARY])
def test_draws_are_those_of_a_cpu(size: int) -> None:
    """A draw on the edge between two tokens may round to the neighbour."""
    torch.manual_seed(0)
    logits = 3 * torch.randn(200, size)
    keys = row_keys(1, torch.arange(200), torch.zeros(200, dtype=torch.long))
    token, logprob = next_token(logits, keys, 3, PARAMS)
    on_gpu, logprob_on_gpu = next_token(logits.cuda(), keys.cuda(), 3, PARAMS)
    assert (on_gpu.cpu() == token).float().mean() > 0.97
    same = on_gpu.cpu() == token
    torch.testing.assert_close(logprob_on_gpu.cpu()[same], logprob[same], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [300, 1000 + 16_384, 50_257, 151_665, VOCABULARY])
def test_logits_that_are_not_finite_do_not_kill_the_context(size: int) -> None:
    keys = torch.zeros(2, dtype=torch.long, device="cuda")
    logits = torch.full((2, size), float("nan"), device="cuda")
    token, logprob = next_token(logits, keys, 0, PARAMS)
    assert (token < size).all()
    assert logprob.isnan().all()


def test_narrow_products_are_summed_in_float32() -> None:
    """`load_model` turns off sums in bf16, which only the sampler's narrow products would have."""
    models.load_model(models.BUNDLED[0], device="cuda")
    assert not torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
