"""Decoding in slots agrees with decoding in step and with the learner (without CUDA graphs)."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from test_real_models import by_the_formula
from torch.nn import functional as F

from tinyzero.config import LoraSection
from tinyzero.errors import NonFiniteError
from tinyzero.models import Backbone, attention, lora
from tinyzero.run.progress import sampler_metrics
from tinyzero.samplers import draw as draw_room
from tinyzero.samplers import rooms
from tinyzero.samplers import slots as slots_room
from tinyzero.samplers.draw import distribution, invert, invert_large, next_token, row_keys
from tinyzero.samplers.rooms import Layout
from tinyzero.samplers.slot_schedule import SlotSchedule, _to_host
from tinyzero.samplers.slots import Slots, fault_of, flash_attention, masked_attention, supports
from tinyzero.samplers.torch import TorchSampler
from tinyzero.types import Completion, SamplingParams

PROMPTS = [[5, 6, 7], [9] * 11, [30, 31, 32, 33, 34, 35], [8], [40] * 5, [41, 42]]
ENDS = frozenset(range(8))  # many, so that slots become free at different times
PARAMS = SamplingParams(max_tokens=24, n=6, stop=())


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make limits small, so that a few rows need several buckets and several prefills."""
    monkeypatch.setattr(slots_room, "SMALLEST", 2)
    monkeypatch.setattr(slots_room, "PREFILL_TOKENS", 30)
    monkeypatch.setattr(rooms, "ALIGNMENT", 4)


def sampler_of(
    model: Backbone, in_slots: bool, ends: frozenset[int] = ENDS, max_rows: int = 512
) -> TorchSampler:
    return TorchSampler(model, lambda ids: "".join(f" {i}" for i in ids), ends, max_rows, in_slots)


def flat(found: list[list[Completion]]) -> list[Completion]:
    return [c for group in found for c in group]


def same(found: list[list[Completion]], expected: list[list[Completion]]) -> None:
    """Tokens, texts and finish reasons are equal, log-probabilities up to 1e-5."""
    assert [len(group) for group in found] == [len(group) for group in expected]
    for a, b in zip(flat(found), flat(expected), strict=True):
        assert a.sampled_logprobs == pytest.approx(b.sampled_logprobs, abs=1e-5)
        assert replace(a, sampled_logprobs=()) == replace(b, sampled_logprobs=())


@pytest.mark.parametrize("shape", tiny.SHAPES)
def test_slots_draw_what_lock_step_draws(shape: str) -> None:
    model = tiny.model(shape)
    assert supports(model)
    for params in (
        PARAMS,
        replace(PARAMS, temperature=0.7, seed=3),
        replace(PARAMS, temperature=0.0, n=1),
    ):
        expected = tiny.sample(sampler_of(model, in_slots=False), PROMPTS, params, first_group=4)
        same(
            tiny.sample(sampler_of(model, in_slots=True), PROMPTS, params, first_group=4), expected
        )
    assert {c.finish_reason for c in flat(expected)} == {"stop", "length"}


def join_weights(model: Backbone, biases: bool) -> None:
    """Let weights that are multiplied by the same input be the rows of one matrix."""
    for block in model.lm.model.layers:
        attention, mlp = block.self_attn, block.mlp
        queries = [attention.q_proj, attention.k_proj, attention.v_proj]
        for modules in (queries, [mlp.gate_proj, mlp.up_proj]):
            names = ["weight"]
            if biases and modules[0].bias is not None:
                names += ["bias"]
            for name in names:
                parts = [getattr(module, name).data for module in modules]
                rows = torch.cat(parts).split([len(part) for part in parts])
                for module, part in zip(modules, rows, strict=True):
                    getattr(module, name).data = part


@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("shape", tiny.SHAPES)
def test_joined_weights_are_one_product(shape: str, biases: bool) -> None:
    """Weights that lie next to each other are read in place, and follow the learner's updates."""
    model = tiny.model(shape)
    expected = tiny.sample(sampler_of(model, in_slots=False), PROMPTS, PARAMS)
    apart = Slots(model, Layout(2, 36)).products[0]
    assert apart.joined_weight is None
    assert apart.gate_and_up is None

    join_weights(model, biases)
    sampler = sampler_of(model, in_slots=True)
    same(tiny.sample(sampler, PROMPTS, PARAMS), expected)
    assert sampler._slots is not None
    for block, products in zip(model.lm.model.layers, sampler._slots.products, strict=True):
        assert products.joined_weight is not None
        assert products.gate_and_up is not None
        assert products.joined_weight.data_ptr() == block.self_attn.q_proj.weight.data_ptr()
        assert (products.joined_bias is not None) == (biases and bool(products.biases))

    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    same(
        tiny.sample(sampler, PROMPTS, PARAMS),
        tiny.sample(sampler_of(model, in_slots=False), PROMPTS, PARAMS),
    )


def test_only_neighbours_are_joined() -> None:
    whole = torch.arange(24.0).view(6, 4)
    parts = whole.split([3, 1, 2])
    found = slots_room.joined(parts)
    assert found is not None
    assert found.data_ptr() == whole.data_ptr()
    assert torch.equal(found, whole)
    assert slots_room.joined([parts[0], parts[2], parts[1]]) is None
    assert slots_room.joined([parts[0], parts[1].clone()]) is None
    assert slots_room.joined([parts[0], None]) is None
    assert slots_room.joined([whole[:2, :2], whole[2:, :2]]) is None


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 16, 35, 36, 100])
def test_refilling_changes_nothing(rows: int) -> None:
    model = tiny.model()
    sampler = sampler_of(model, in_slots=True, max_rows=rows)
    same(
        tiny.sample(sampler, PROMPTS, PARAMS),
        tiny.sample(sampler_of(model, in_slots=False), PROMPTS, PARAMS),
    )
    assert sampler._slots is not None
    layout = sampler._slots.layout
    assert layout.count == 36 if rows >= 36 else layout.count >= rows
    assert (layout.short > 0) == (3 <= rows < 36)
    assert layout.tokens - rooms.SPARE <= rows * 36, "no more memory than one kind of rooms"


def test_slots_are_refilled_before_all_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """36 rows in 8 slots take hardly more steps than their tokens divided by the slots."""
    steps: list[int] = []
    step = Slots.step
    monkeypatch.setattr(
        Slots,
        "step",
        lambda self, count, params: (steps.append(count), step(self, count, params))[1],
    )
    found = flat(tiny.sample(sampler_of(tiny.model(), in_slots=True, max_rows=8), PROMPTS, PARAMS))
    tokens = sum(len(c.token_ids) - 1 for c in found)  # the first token comes from the prompt
    longest = sum(max(len(c.token_ids) for c in found[i : i + 8]) for i in range(0, 36, 8))
    assert max(steps) == 9, "6 long rooms and 3 short ones take the memory of 8 long ones"
    assert set(steps) > {9}, "the last rows should be decoded in fewer slots"
    assert all(a >= b for a, b in pairwise(steps)), "the number of slots must never grow"
    assert len(steps) < 0.8 * longest, (
        "groups of 8 would take as many steps as the longest row of each"
    )
    assert sum(steps) < 1.6 * tokens


@pytest.mark.parametrize("kind", ["masked", "flash"])
@pytest.mark.parametrize(
    "layout",
    [Layout(1, 36, 6, 20), Layout(2, 36, 12, 12), Layout(6, 36, 3, 20), Layout(5, 36, 30, 16)],
)
def test_short_rooms_change_nothing(
    layout: Layout, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that outgrow their room are moved, and wait until a long one is free."""
    model = tiny.model()
    ends = frozenset({1, 2})  # few, so that most rows outgrow a short room
    expected = tiny.sample(sampler_of(model, in_slots=False, ends=ends), PROMPTS, PARAMS)
    monkeypatch.setattr("tinyzero.samplers.torch.layout_for", lambda *_: layout)
    if kind == "flash":
        monkeypatch.setattr(attention, "flash_attention", by_the_formula)
        monkeypatch.setattr(slots_room, "fastest_attention", lambda _: flash_attention)

    moves, waits = watch(monkeypatch, layout)
    same(tiny.sample(sampler_of(model, in_slots=True, ends=ends), PROMPTS, PARAMS), expected)
    outgrown = sum(
        len(prompt) + len(c.token_ids) - 1 > layout.short_length
        for prompt, group in zip(PROMPTS, expected, strict=True)
        for c in group
    )
    assert 0 < len(moves) <= outgrown
    assert any(waits), "there are fewer long rooms than rows that outgrow a short one"


def watch(monkeypatch: pytest.MonkeyPatch, layout: Layout) -> tuple[list[int], list[int]]:
    """Lists that get the moves to long rooms, and the number of waiting rows at each step.

    Before each step it checks that no two rows share a room, and that none writes past its own.
    """
    moves: list[int] = []
    waits: list[int] = []
    step, move = SlotSchedule.step, Slots.move
    ends = {layout.start(room): layout.start(room + 1) for room in range(layout.count)}

    def checked_step(slots: Slots, count: int, params: SamplingParams) -> Any:
        starts, active = slots.placed[:count].T
        decoded = starts[active > 0].tolist()
        assert len(set(decoded)) == len(decoded)
        for start, filled in zip(decoded, slots.filled[:count][active > 0].tolist(), strict=True):
            assert start + filled < ends[start]
        return Slots._step(slots, count, params)

    def counted_step(schedule: SlotSchedule) -> Any:
        transfer = step(schedule)
        waits.append(int(schedule.waiting.sum()))
        return transfer

    def counted_move(slots: Slots, old: int, new: int, tokens: int) -> None:
        moves.append(new)
        move(slots, old, new, tokens)

    monkeypatch.setattr(Slots, "step", checked_step)
    monkeypatch.setattr(Slots, "move", counted_move)
    monkeypatch.setattr(SlotSchedule, "step", counted_step)
    return moves, waits


def test_a_cache_takes_no_more_memory_than_long_rooms_alone() -> None:
    for rows in (1, 100, 192, 193, 640, 5000):
        for most_rows in (1, 2, 16, 192, 512):
            for prompt, new in ((192, 1024), (20, 64), (600, 100), (10, 4000)):
                layout = rooms.layout_for(rows, most_rows, prompt, new)
                long_only = rooms.SPARE + most_rows * rooms.aligned(prompt + new)
                assert layout.tokens <= long_only
                assert min(rows, most_rows) * 2 // 3 <= layout.count <= rows
                assert layout.short == 0 or layout.short_length > prompt
                assert layout.long > 0


def test_a_rehearsal_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps before a capture warm up the libraries. They must not change what is drawn."""
    model = tiny.model()
    expected = tiny.sample(sampler_of(model, in_slots=True, max_rows=8), PROMPTS, PARAMS)
    step = Slots.step

    def rehearsed(slots: Slots, count: int, params: SamplingParams) -> Any:
        slots.rehearse(count, params)
        slots.rehearse(count, params)
        return step(slots, count, params)

    monkeypatch.setattr(Slots, "step", rehearsed)
    found = tiny.sample(sampler_of(model, in_slots=True, max_rows=8), PROMPTS, PARAMS)
    assert found == expected


def test_slots_that_are_not_decoded_read_one_token_and_keep_their_state() -> None:
    """Their attention would otherwise read ever more of a room that nobody needs."""
    slots = Slots(tiny.model(), Layout(3, 36))
    lengths: list[list[int]] = []

    def counted(slots: Slots, starts: torch.Tensor, used: torch.Tensor) -> Any:
        lengths.append(used.tolist())
        return masked_attention(slots, starts, used)

    slots.attention = counted
    zeros = torch.zeros(3, dtype=torch.long)
    with torch.no_grad():
        slots.enter(torch.arange(3), PROMPTS[:3], torch.arange(3), torch.arange(3), zeros)
        before = [state[1].clone() for state in (slots.token, slots.filled, slots.position)]
        slots.assign_rooms(slots.placed * torch.tensor([[1, 1], [1, 0], [1, 1]]))
        room = slots.keys[:, 64 + 36 : 64 + 72].clone()
        for _ in range(4):
            slots.step(3, PARAMS)

    assert lengths == [[3 + n, 1, 6 + n] for n in (1, 2, 3, 4)]
    assert [int(s[1]) for s in (slots.token, slots.filled, slots.position)] == before
    assert torch.equal(slots.keys[:, 64 + 36 : 64 + 72], room), "it writes to the spare tokens"


def test_slots_serve_again_while_they_fit() -> None:
    model = tiny.model()
    sampler, reference = sampler_of(model, in_slots=True), sampler_of(model, in_slots=False)
    expected = tiny.sample(reference, PROMPTS, PARAMS)
    same(tiny.sample(sampler, PROMPTS, PARAMS), expected)
    first = sampler._slots
    same(
        tiny.sample(sampler, PROMPTS[:2], replace(PARAMS, max_tokens=9, n=2)),
        [[replace(c, **cut(c, 9)) for c in group[:2]] for group in expected[:2]],
    )
    assert sampler._slots is first
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.1)
    sampler.load_weights((), 1)
    reference.load_weights((), 1)
    same(tiny.sample(sampler, PROMPTS, PARAMS), tiny.sample(reference, PROMPTS, PARAMS))
    assert sampler._slots is first, "new values at the same addresses need no new slots"
    tiny.sample(sampler, PROMPTS[:2], replace(PARAMS, max_tokens=100, n=2))
    assert sampler._slots is not None
    assert sampler._slots is not first
    assert sampler._slots.layout == Layout(36, 112), "the larger of both sizes, and no more"
    again = sampler._slots
    model.lm.model.norm.weight = torch.nn.Parameter(2 * model.lm.model.norm.weight.detach())
    same(tiny.sample(sampler, PROMPTS, PARAMS), tiny.sample(reference, PROMPTS, PARAMS))
    assert sampler._slots is not again, "a CUDA graph would read the old addresses"
    assert sampler._slots.layout == Layout(36, 112)


def cut(c: Completion, length: int) -> dict[str, object]:
    """The beginning of a completion, as a lower limit would leave it."""
    ids = c.token_ids[:length]
    whole = len(c.token_ids) <= length
    text = c.text if whole else "".join(f" {i}" for i in ids)
    reason = c.finish_reason if whole else "length"
    return {
        "token_ids": ids,
        "loss_mask": c.loss_mask[:length],
        "sampled_logprobs": c.sampled_logprobs[:length],
        "text": text,
        "finish_reason": reason,
    }


def test_stop_strings_end_a_slot() -> None:
    def words(ids: Sequence[int]) -> str:
        return "".join("nd>x" if i % 2 else "<e" for i in ids)

    model, params = tiny.model(), replace(PARAMS, stop=("<end>",))
    found = [
        tiny.sample(TorchSampler(model, words, frozenset(), 9, in_slots), PROMPTS, params)
        for in_slots in (True, False)
    ]
    same(*found)
    assert any(c.finish_reason == "stop" for c in flat(found[0]))


def test_bf16_follows_the_learner() -> None:
    """Rounding may lead to other tokens than in step, but logprobs are still the model's."""
    model = tiny.model("llama").to(torch.bfloat16)
    found = tiny.sample(
        sampler_of(model, in_slots=True, ends=frozenset(), max_rows=10), PROMPTS, PARAMS
    )
    gaps = []
    for prompt, group in zip(PROMPTS, found, strict=True):
        for c in group:
            tokens = torch.tensor([[*prompt, *c.token_ids]])
            logprobs = model.logits(tokens)[0, len(prompt) - 1 : -1].log_softmax(-1)
            learned = logprobs.gather(1, torch.tensor(c.token_ids)[:, None])[:, 0].detach()
            gaps.append((learned - torch.tensor(c.sampled_logprobs)).abs())
    assert float(torch.cat(gaps).mean()) < 0.02
    assert float(torch.cat(gaps).max()) < 0.3


def test_adapters_are_read_too() -> None:
    pytest.importorskip("peft")
    model = tiny.model("llama")
    plain = tiny.sample(sampler_of(model, in_slots=True), PROMPTS, PARAMS)
    lora.add_adapter(model, LoraSection(rank=4, alpha=64))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if ".lora_B" in name:
                p.add_(0.1 * torch.randn(p.shape))
    found = tiny.sample(sampler_of(model, in_slots=True), PROMPTS, PARAMS)
    same(found, tiny.sample(sampler_of(model, in_slots=False), PROMPTS, PARAMS))
    assert [c.token_ids for c in flat(found)] != [c.token_ids for c in flat(plain)]


def test_what_a_slot_does_not_use_does_not_matter() -> None:
    """Keys and values of earlier sequences stay in a slot, and must not be read."""
    model = tiny.model()
    slots = Slots(model, Layout(6, 40))
    slots.keys.fill_(1e4)
    slots.values.fill_(1e4)
    with torch.no_grad():
        slots.enter(
            torch.tensor([4, 1]),
            PROMPTS[:2],
            torch.tensor([1, 0]),
            torch.tensor([7, 8]),
            torch.tensor([0, 0]),
        )
        slots.token[[4, 1]] = torch.tensor([50, 51])
        logits = slots.forward(6)
        for slot, prompt, token in ((4, PROMPTS[1], 50), (1, PROMPTS[0], 51)):
            expected = model.logits(torch.tensor([[*prompt, token]]))[0, -1]
            torch.testing.assert_close(logits[slot].float(), expected, atol=1e-5, rtol=1e-5)


def test_gathered_slots_go_on_as_they_were() -> None:
    model = tiny.model()
    slots = Slots(model, Layout(5, 40))
    with torch.no_grad():
        slots.enter(
            torch.tensor([4, 1, 3]),
            PROMPTS[:3],
            torch.tensor([0, 1, 2]),
            torch.tensor([7, 8, 9]),
            torch.tensor([0, 20, 5]),
        )
        slots.token[[4, 1, 3]] = torch.tensor([50, 51, 52])
        before = slots.forward(5)[[1, 3, 4]]
        slots.gather(torch.tensor([1, 3, 4]))
        torch.testing.assert_close(slots.forward(3), before)
    assert slots.seeds[:3].tolist() == [8, 9, 7]
    assert slots.position[:3].tolist() == [20, 5, 0]


def test_buckets_halve() -> None:
    slots = Slots(tiny.model(layers=1), Layout(13, 10))
    assert slots.buckets() == [13, 7, 4, 2]
    assert {n: slots.bucket(n) for n in (13, 8, 7, 4, 3, 2, 1)} == {
        13: 13,
        8: 13,
        7: 7,
        4: 4,
        3: 4,
        2: 2,
        1: 2,
    }


def test_masked_attention_by_the_formula() -> None:
    slots = Slots(tiny.model("llama"), Layout(3, 64))
    query, cache = torch.randn(3, 4, 8), torch.randn(2, slots.layout.tokens, 2, 8)
    used, starts = torch.tensor([1, 64, 17]), torch.tensor([192, 64, 0])
    found = masked_attention(slots, starts, used)(query, *cache)
    keys, values = ([part[start : start + 64] for start in starts.tolist()] for part in cache)
    for i, n in enumerate(used.tolist()):
        for h in range(4):
            weights = F.softmax(keys[i][:n, h // 2] @ query[i, h] / 8**0.5, -1)
            torch.testing.assert_close(
                found[i, h], weights @ values[i][:n, h // 2], atol=1e-5, rtol=1e-5
            )


@pytest.mark.parametrize("attention", [masked_attention, flash_attention])
@pytest.mark.parametrize("shape", tiny.SHAPES)
def test_a_step_reads_nothing_back_and_makes_nothing_on_the_host(
    shape: str, attention: Any
) -> None:
    """A step neither waits for the GPU nor copies from it: on "meta" both are errors."""
    slots = Slots(tiny.model(shape).to(torch.bfloat16).to("meta"), Layout(6, 40))
    slots.attention = attention
    with torch.inference_mode():
        into = torch.tensor([4, 1, 0])
        which, seeds, positions = torch.tensor([[1, 0, 1], [7, 8, 9], [0, 3, 5]])
        logits = slots.enter(into, PROMPTS[:2], which, seeds, positions)
        assert logits.shape == (3, len(tiny.tokenizer()))
        for params in (
            PARAMS,
            replace(PARAMS, temperature=0.0),
            replace(PARAMS, temperature=0.7, top_k=5, top_p=0.9),
        ):
            token, logprob = slots.draw(into.to("meta"), logits, params)
            assert token.shape == logprob.shape == (3,)
            token, logprob = slots.step(3, params)
            assert (token.shape, token.dtype, logprob.shape) == ((3,), torch.long, (3,))
            assert token.device.type == logprob.device.type == "meta"
        slots.gather(torch.tensor([1, 4]))


def test_flash_attention_reads_what_is_used_of_each_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    """The call of flash attention, computed by its formula, agrees with masked attention."""
    monkeypatch.setattr(attention, "flash_attention", by_the_formula)
    slots = Slots(tiny.model("llama"), Layout(3, 64))
    assert fault_of(flash_attention, slots) == ""


def test_attention_that_is_wrong_or_missing_is_left_with_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slots = Slots(tiny.model("llama"), Layout(3, 64))
    assert slots.attention is masked_attention, "a CPU has no flash attention"
    assert fault_of(masked_attention, slots) == ""
    assert "_flash_attention_forward" in fault_of(flash_attention, slots), "a CPU lacks it"
    monkeypatch.setattr(attention, "flash_attention", lambda query, *_, **__: query)
    assert fault_of(flash_attention, slots) == "its numbers are wrong with 3 slots"
    on_gpu: Any = SimpleNamespace(
        keys=SimpleNamespace(is_cuda=True, dtype=torch.bfloat16),
        report=lambda fault: slots.report(fault),
    )
    for fault, expected in (("", flash_attention), ("it is missing", masked_attention)):
        monkeypatch.setattr(slots_room, "fault_of", lambda *_, fault=fault: fault)
        with pytest.warns(match="it is missing") if fault else nullcontext():
            assert slots_room.fastest_attention(on_gpu) is expected
    on_gpu.keys.dtype = torch.float32
    assert slots_room.fastest_attention(on_gpu) is masked_attention, (
        "flash attention does not support float32"
    )


def test_faults_are_reported_once_and_only_a_gpu_has_metrics(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sampler = sampler_of(tiny.model(), in_slots=True)
    assert sampler.take_faults() == []
    tiny.sample(sampler, PROMPTS, PARAMS)
    assert sampler.metrics() == {}, "a CPU run's records stay as they are"

    assert sampler._slots is not None
    with pytest.warns(match="without CUDA graphs"):
        sampler._slots.report("decoding without CUDA graphs")
    assert sampler.take_faults() == ["decoding without CUDA graphs"]
    assert sampler.take_faults() == []

    monkeypatch.setattr(Backbone, "device", torch.device("cuda"))
    assert sampler.metrics() == {"sampler/graphs": 0.0, "sampler/attention": 0.0}
    sampler._slots.capturing, sampler._slots.attention = True, flash_attention
    assert sampler.metrics() == {"sampler/graphs": 1.0, "sampler/attention": 1.0}


def test_a_run_shows_faults_as_alarms() -> None:
    sampler = sampler_of(tiny.model(), in_slots=True)
    tiny.sample(sampler, PROMPTS, PARAMS)
    assert sampler._slots is not None
    sampler._slots.faults = ["decoding without CUDA graphs"]
    notes: list[str] = []
    run: Any = SimpleNamespace(sampler=sampler, console=SimpleNamespace(note=notes.append))
    assert sampler_metrics(run) == sampler_metrics(run) == {}
    assert notes == ["alarm: decoding without CUDA graphs"]


@pytest.mark.parametrize(
    ("error", "raised"),
    [(torch.OutOfMemoryError("no memory"), True), (RuntimeError("cannot capture"), False)],
)
def test_only_memory_stops_a_run_whose_step_cannot_be_captured(
    error: RuntimeError, raised: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a graph decoding is slower. Without memory the next allocation would fail too."""

    def capture(*_: Any) -> None:
        raise error

    slots = Slots(tiny.model(), Layout(2, 36))
    slots.capturing = True
    monkeypatch.setattr(Slots, "_capture", capture)
    with torch.no_grad(), pytest.raises(type(error)) if raised else pytest.warns(match="slower"):
        slots.step(2, PARAMS)
    assert slots.capturing is raised
    assert slots.faults == (
        [] if raised else ["decoding without CUDA graphs, which is slower: cannot capture"]
    )


def test_a_transfer_delivers_what_was_sent() -> None:
    drawn = (
        torch.tensor([3, -1]),
        torch.tensor([5, 0]),
        torch.tensor([7, 8]),
        torch.tensor([-1.0, 0.0]),
    )
    flight = _to_host(*drawn)
    assert flight.arrived is None, "on a CPU there is nothing to wait for"
    for landed, sent in zip(flight.wait(), drawn, strict=True):
        assert torch.equal(landed, sent)


def test_models_with_another_step_are_left_to_lock_step() -> None:
    for change in (
        {"model_type": "gemma3"},
        {"use_sliding_window": True},
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}},
    ):
        model = tiny.model(layers=1)
        for name, value in change.items():
            setattr(model.config, name, value)
        assert not supports(model)
    model.lm.config = SimpleNamespace(model_type="gpt2")  # it has no rotary positions
    assert not supports(model)
    assert not sampler_of(tiny.model(layers=1), in_slots=False).in_slots
    assert not TorchSampler(tiny.model(layers=1), str, ENDS).in_slots, (
        "on a CPU the default is to decode in step"
    )


def test_logits_that_are_not_finite_are_an_error() -> None:
    model = tiny.model()
    with torch.no_grad():
        model.lm.model.norm.weight[0] = torch.inf
    for in_slots in (True, False):
        with pytest.raises(NonFiniteError):
            tiny.sample(sampler_of(model, in_slots), PROMPTS, PARAMS)


def test_a_vocabulary_of_whole_chunks_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(draw_room.F, "pad")
    numbers = torch.tensor([[0.5], [0.25]], dtype=torch.double)
    assert invert_large(torch.ones(1, 256), *numbers).item() == 128 + 32


@pytest.mark.parametrize("size", [300, 1000 + 16_384, 50_257, 151_665, 151_936])
@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
def test_logits_that_are_not_finite_name_a_token_of_the_vocabulary(
    size: int, broken: float
) -> None:
    """A chunk may reach over the vocabulary's end. On CUDA an id from there ends the process."""
    token, logprob = next_token(torch.full((2, size), broken), torch.tensor([1, 2]), 0, PARAMS)
    assert (token < size).all()
    assert logprob.isnan().all()


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("size", [20_000, 151_936])
def test_a_large_vocabulary_gives_the_logprob_of_its_distribution(
    size: int, temperature: float
) -> None:
    """It is the logarithm of the drawn probability, which is not banned and not rare."""
    params = replace(PARAMS, temperature=temperature, banned=(5, size - 1))
    logits = 4 * torch.randn(60, size)
    keys = row_keys(3, torch.arange(60), torch.zeros(60, dtype=torch.long))
    token, logprob = next_token(logits, keys, 7, params)

    logits[:, [5, size - 1]] = -torch.inf
    expected = distribution(logits, params).gather(1, token[:, None]).squeeze(1)
    torch.testing.assert_close(logprob, expected, atol=2e-6, rtol=2e-6)
    assert not torch.isin(token, torch.tensor(params.banned)).any()


@pytest.mark.parametrize("size", [128, 151_936, 20_000, 50_257])
def test_two_stages_choose_a_chunk_and_then_a_token_of_it(size: int) -> None:
    """Each stage alone is the search of `invert`, in float64."""
    weights = (3 * torch.randn(40, size)).softmax(-1)
    drawn, within = torch.rand(2, 40, dtype=torch.double)
    drawn[:3] = torch.tensor([0.0, 1 - 2.0**-53, 0.5])
    token = invert_large(weights, drawn, within)

    chunks = F.pad(weights.double(), (0, -size % 128)).view(40, -1, 128)
    chunk = invert(chunks.sum(-1), drawn)
    column = invert(chunks[torch.arange(40), chunk], within)
    assert (token == (chunk * 128 + column).clamp(max=size - 1)).float().mean() >= 0.95
    assert (token // 128 == chunk).float().mean() >= 0.95, "rounding may select a neighbour"


def test_two_stages_give_every_token_its_probability() -> None:
    """All pairs of two grids of numbers draw each token exactly as often as its weight says."""
    weights = torch.zeros(1, 300)
    weights[0, [3, 100, 130, 256, 299]] = torch.tensor([2.0, 14.0, 24.0, 18.0, 6.0])
    drawn = (torch.arange(64, dtype=torch.double) + 0.5) / 64
    pairs = torch.cartesian_prod(drawn, drawn)

    token = invert_large(weights.expand(len(pairs), -1), *pairs.T)
    counts = torch.bincount(token, minlength=300)
    assert (counts == 64 * weights[0]).all()


@pytest.mark.parametrize("size", [20_000, 50_257])
def test_tokens_of_no_probability_are_never_drawn(size: int) -> None:
    weights = torch.zeros(1, size)
    weights[0, [7, size - 1]] = torch.tensor([0.25, 0.75])
    for drawn, token in ((0.0, 7), (0.24, 7), (0.26, size - 1), (1 - 2.0**-53, size - 1)):
        for within in (0.0, 0.5, 1 - 2.0**-53):
            numbers = torch.tensor([[drawn], [within]], dtype=torch.double)
            assert invert_large(weights, *numbers).item() == token


def test_the_two_numbers_of_a_draw_are_independent() -> None:
    """If they were the same number, only the first token of one chunk would be drawn, and so on."""
    logits = torch.full((1, 20_000), -torch.inf)
    likely = [3, 100, 19_000, 19_020]
    logits[0, likely] = 0.0

    keys = row_keys(0, torch.arange(2000), torch.zeros(2000, dtype=torch.long))
    token = torch.cat(
        [next_token(logits.expand(500, -1), part, 5, PARAMS)[0] for part in keys.split(500)]
    )
    shares = torch.bincount(token, minlength=20_000)[likely] / 2000
    assert ((shares - 0.25).abs() < 0.05).all(), "five standard deviations"


def test_rounding_rarely_changes_a_draw_from_a_large_vocabulary() -> None:
    """Weights that differ by 1e-3 change a tenth of the draws if a single number decides."""
    weights = torch.randn(1, 49_152).softmax(-1).expand(256, -1)
    rounded = weights * (1 + 1e-3 * torch.randn(256, 49_152))
    keys = row_keys(0, torch.arange(256), torch.zeros(256, dtype=torch.long))

    changed = [
        (next_token(logits.log(), keys, t, PARAMS)[0] for logits in (weights, rounded))
        for t in range(2)
    ]
    share = torch.stack([one != two for one, two in changed]).float().mean()
    assert share < 0.03
