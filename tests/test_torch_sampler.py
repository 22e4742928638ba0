"""The torch sampler agrees with the learner, with transformers, and with its distribution."""

import copy
import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from torch import Tensor

from tinyzero.batching import collate
from tinyzero.errors import UserError
from tinyzero.learner import policy_outputs
from tinyzero.models import Backbone, KeyValueCache
from tinyzero.samplers import draw, fused, memory
from tinyzero.samplers import torch as torch_sampler
from tinyzero.samplers.draw import distribution, next_token, row_keys, uniforms
from tinyzero.samplers.torch import TorchSampler
from tinyzero.turns import extend
from tinyzero.types import (
    Completion,
    Problem,
    Request,
    Reward,
    Rollout,
    SamplingParams,
    requests_for,
)

PROMPTS = [[5, 6, 7], [9] * 11, [30, 31, 32, 33, 34, 35], [8]]
ENDS = frozenset(range(8))  # many, so that rows end at different times
PARAMS = SamplingParams(max_tokens=24, n=6, stop=())


def sampler_of(model: Backbone, ends: frozenset[int] = ENDS, max_rows: int = 512) -> TorchSampler:
    return TorchSampler(model, lambda ids: "".join(f" {i}" for i in ids), ends, max_rows)


def flat(found: list[list[Completion]]) -> list[Completion]:
    return [c for group in found for c in group]


def draws(found: list[list[Completion]]) -> list[list[tuple[int, ...]]]:
    return [[c.token_ids for c in group] for group in found]


def logits_of(model: Backbone, prompt: Sequence[int], completion: Completion) -> Tensor:
    """The model's logits (L, V) for each token of a completion, from one forward pass."""
    tokens = torch.tensor([[*prompt, *completion.token_ids]])
    return model.logits(tokens)[0, len(prompt) - 1 : -1].detach()


@pytest.fixture(params=["fused", "plain"])
def step(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Decode with the fused step, and with the step of transformers."""
    if request.param == "plain":
        monkeypatch.setattr(torch_sampler, "fused_step", lambda *_: None)
    return str(request.param)


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.3])
@pytest.mark.parametrize("shape", tiny.SHAPES)
def test_sampled_logprobs_are_the_learners(shape: str, temperature: float, step: str) -> None:
    model = tiny.model(shape)
    assert (torch_sampler.fused_step(model) is not None) == (step == "fused" and shape != "qwen3")
    found = tiny.sample(sampler_of(model), PROMPTS, replace(PARAMS, temperature=temperature))
    lengths = sorted(len(c.token_ids) for c in flat(found))
    assert lengths[len(lengths) // 3] < 15, "some rows must end early, so that rows are dropped"
    problem = Problem("p", {}, "train", "p")
    groups = [
        [Rollout(problem, tuple(prompt), c, Reward(0.0), g) for c in completions]
        for g, (prompt, completions) in enumerate(zip(PROMPTS, found, strict=True))
    ]
    batch = collate(groups, PARAMS.max_tokens)
    learned = policy_outputs(model, batch, temperature)["logprobs"]
    assert int(batch.mask.sum()) == sum(lengths)
    torch.testing.assert_close(learned, batch.sampled_logprobs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", tiny.SHAPES)
def test_greedy_is_transformers_generate(shape: str) -> None:
    model = tiny.model(shape)
    reference = copy.deepcopy(model.lm)
    reference.set_attn_implementation("eager")
    found = tiny.sample(sampler_of(model), PROMPTS, replace(PARAMS, temperature=0.0, n=1))
    for prompt, (completion,) in zip(PROMPTS, found, strict=True):
        ids = torch.tensor([prompt])
        expected = reference.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=PARAMS.max_tokens,
            eos_token_id=sorted(ENDS),
            pad_token_id=0,
        )
        assert completion.token_ids == tuple(expected[0, len(prompt) :].tolist())
    assert len({c.token_ids for c in flat(found)}) > 1


@pytest.mark.parametrize("shape", tiny.SHAPES)
def test_the_fused_step_draws_what_the_models_own_draws(
    shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = sampler_of(tiny.model(shape))
    fused = tiny.sample(sampler, PROMPTS, PARAMS)
    monkeypatch.setattr(torch_sampler, "fused_step", lambda *_: None)
    assert draws(tiny.sample(sampler, PROMPTS, PARAMS)) == draws(fused)


def test_the_fused_step_is_for_what_it_knows() -> None:
    for change in (
        {"hidden_act": "gelu"},
        {"model_type": "mistral"},
        {"use_sliding_window": True},
        {"mlp_bias": True},
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}},
    ):
        model = tiny.model(layers=1)
        for name, value in change.items():
            setattr(model.config, name, value)
        assert torch_sampler.fused_step(model) is None
    assert torch_sampler.fused_step(tiny.model(layers=1).to(torch.bfloat16)) is None


def test_batch_size_and_order_do_not_change_what_is_drawn() -> None:
    model = tiny.model()
    together = tiny.sample(sampler_of(model), PROMPTS, PARAMS)
    for max_rows in (1, 6, 13):
        assert draws(tiny.sample(sampler_of(model, max_rows=max_rows), PROMPTS, PARAMS)) == draws(
            together
        )
    for i in reversed(range(len(PROMPTS))):
        alone = tiny.sample(sampler_of(model), [PROMPTS[i]], PARAMS, first_group=i)
        assert draws(alone) == [draws(together)[i]]
        for a, b in zip(alone[0], together[i], strict=True):
            assert a.sampled_logprobs == pytest.approx(b.sampled_logprobs, abs=1e-5)
    fewer = tiny.sample(sampler_of(model), PROMPTS, replace(PARAMS, n=2))
    assert draws(fewer) == [group[:2] for group in draws(together)]
    shorter = tiny.sample(sampler_of(model), PROMPTS, replace(PARAMS, max_tokens=10))
    assert draws(shorter) == [[ids[:10] for ids in group] for group in draws(together)]


MIXED = [
    Request((5, 6, 7), group=4, samples=(2,)),
    Request((9,) * 11, group=9, samples=(0, 1, 5)),
    Request((8,), group=0, samples=(7, 3), position=3),
]


@pytest.mark.parametrize("in_slots", [False, True])
@pytest.mark.parametrize("max_rows", [1, 2, 4, 512])
def test_requests_may_differ_in_everything(in_slots: bool, max_rows: int) -> None:
    """Each sample is the same as alone, and each request is done once."""
    model = tiny.model()
    sampler = TorchSampler(model, words, ENDS, max_rows, in_slots)
    done: list[tuple[int, list[Completion]]] = []
    found = sampler.generate(MIXED, PARAMS, done=lambda i, made: done.append((i, made)))
    assert [len(group) for group in found] == [1, 3, 2]
    assert sorted(i for i, _ in done) == [0, 1, 2]
    assert all(made == found[i] for i, made in done)
    for request, completions in zip(MIXED, found, strict=True):
        for sample, completion in zip(request.samples, completions, strict=True):
            alone = sampler_of(model).generate([replace(request, samples=(sample,))], PARAMS)
            assert alone[0][0].token_ids == completion.token_ids


@pytest.mark.parametrize("in_slots", [False, True])
def test_a_request_is_done_while_others_are_still_written(
    in_slots: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    note = TorchSampler._record
    monkeypatch.setattr(
        TorchSampler, "_record", lambda *given: (events.append("step"), note(*given))[1]
    )
    sampler = TorchSampler(tiny.model(), words, ENDS, in_slots=in_slots)

    def done(i: int, completions: list[Completion]) -> None:
        assert not torch.is_inference_mode_enabled(), "a grader may compute gradients"
        events.append(f"{i} of {len(completions)}")

    found = sampler.generate(requests_for(PROMPTS, 1), PARAMS, done)
    lengths = [group[0].length for group in found]
    assert len(set(lengths)) > 1
    for i, length in enumerate(lengths):
        assert events[: events.index(f"{i} of 1")].count("step") == length


def in_two_turns(
    sampler: TorchSampler, request: Request, first: int, restarts: bool = False
) -> list[Completion]:
    """The request's completions in two turns: `first` tokens, then the rest.

    Only completions that have not stopped get a second turn.
    """
    joined = []
    (begun,) = sampler.generate([request], replace(PARAMS, max_tokens=first))
    for sample, turn in zip(request.samples, begun, strict=True):
        if turn.finish_reason == "length":
            prompt, position = request.prompt_ids + turn.token_ids, request.position + turn.length
            later = Request(prompt, request.group, (sample,), 0 if restarts else position)
            left = replace(PARAMS, max_tokens=PARAMS.max_tokens - first)
            ((rest,),) = sampler.generate([later], left)
            turn = extend(turn, (), rest)
        joined.append(turn)
    return joined


@pytest.mark.parametrize("in_slots", [False, True])
@pytest.mark.parametrize("first", [1, 7, 23])
def test_two_turns_with_nothing_between_them_equal_one_turn(in_slots: bool, first: int) -> None:
    sampler = TorchSampler(tiny.model(), words, ENDS, in_slots=in_slots)
    for request, whole in zip(MIXED, sampler.generate(MIXED, PARAMS), strict=True):
        joined = in_two_turns(sampler, request, first)
        for one, two in zip(whole, joined, strict=True):
            assert two.sampled_logprobs == pytest.approx(one.sampled_logprobs, abs=1e-5)
            assert replace(two, sampled_logprobs=()) == replace(one, sampled_logprobs=())
    assert any(c.length > first for c in whole), "no completion had a second turn"


@pytest.mark.parametrize("in_slots", [False, True])
def test_a_second_turn_does_not_repeat_the_draws_of_the_first(in_slots: bool) -> None:
    """A second turn repeats the draws of the first one only if its position starts again."""
    sampler = TorchSampler(tiny.model(), words, frozenset(), in_slots=in_slots)
    requests = [Request((5, 6, 7), 0, (0, 1, 2)), Request((5, 6, 7), 0, (0, 1, 2), position=24)]
    first, second = sampler.generate(requests, PARAMS)
    assert not {c.token_ids[:8] for c in first} & {c.token_ids[:8] for c in second}
    (again,) = sampler.generate([replace(requests[1], position=0)], PARAMS)
    assert draws([again]) == draws([first])
    whole = sampler.generate(requests[:1], PARAMS)
    restarted = in_two_turns(sampler, requests[0], 9, restarts=True)
    assert draws([restarted]) != draws(whole), "the position must matter within a completion too"


def test_a_request_without_a_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="group 3 names no sample"):
        Request((5,), group=3, samples=())


def test_seed_group_and_sample_each_make_a_difference() -> None:
    sampler = sampler_of(tiny.model(), ends=frozenset())
    first = tiny.sample(sampler, PROMPTS, PARAMS)
    assert draws(tiny.sample(sampler, PROMPTS, PARAMS)) == draws(first)
    other = tiny.sample(sampler, PROMPTS, replace(PARAMS, seed=1))
    assert not {c.token_ids for c in flat(first)} & {c.token_ids for c in flat(other)}
    same = [[20, 21]] * 4
    assert len({c.token_ids for c in flat(tiny.sample(sampler, same, PARAMS))}) == 4 * PARAMS.n


def chi_square(tokens: Tensor, probabilities: Tensor) -> None:
    """`tokens` follow `probabilities`: Pearson's statistic is within five standard deviations."""
    expected = probabilities.double() * len(tokens)
    rare = expected < 10
    counts = torch.bincount(tokens, minlength=len(expected)).double()
    expected = torch.cat([expected[~rare], expected[rare].sum()[None]])
    counts = torch.cat([counts[~rare], counts[rare].sum()[None]])
    free = len(expected) - 1
    statistic = float(((counts - expected).square() / expected.clamp(min=1e-9)).sum())
    assert abs(statistic - free) < 5 * (2 * free) ** 0.5, (statistic, free)


def test_tokens_follow_the_softmax() -> None:
    model, prompt = tiny.model(), [5, 6, 7]
    found = tiny.sample(
        sampler_of(model), [prompt], replace(PARAMS, n=4000, max_tokens=2, temperature=1.3)
    )
    probabilities = (model.logits(torch.tensor([prompt]))[0, -1] / 1.3).softmax(-1).detach()
    chi_square(torch.tensor([c.token_ids[0] for c in found[0]]), probabilities)
    commonest = int(probabilities[8:].argmax()) + 8  # not an end token
    second = torch.tensor([c.token_ids[1] for c in found[0] if c.token_ids[0] == commonest])
    chi_square(
        second,
        (model.logits(torch.tensor([[*prompt, commonest]]))[0, -1] / 1.3).softmax(-1).detach(),
    )


@pytest.mark.parametrize("seed", [0, 1, 2**40])
def test_uniforms_are_uniform_and_independent(seed: int) -> None:
    groups, samples = torch.meshgrid(torch.arange(200), torch.arange(50), indexing="ij")
    drawn = [uniforms(row_keys(seed, groups.flatten(), samples.flatten()), t) for t in range(3)]
    drawn.append(uniforms(row_keys(seed + 1, groups.flatten(), samples.flatten()), 0))
    for u in drawn:
        assert float(u.min()) >= 0
        assert float(u.max()) < 1
        chi_square((u * 50).long(), torch.full((50,), 0.02))
        by_group = u.view(200, 50) - 0.5
        for a, b in ((by_group[1:], by_group[:-1]), (by_group[:, 1:], by_group[:, :-1])):
            assert abs(float((a * b).mean())) < 5 / 12 / a.numel() ** 0.5
    for a, b in itertools.combinations(drawn, 2):
        assert abs(float(((a - 0.5) * (b - 0.5)).mean())) < 5 / 12 / 100


def test_a_token_of_probability_zero_is_never_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]]).expand(5000, -1)
    keys = row_keys(0, torch.zeros(5000, dtype=torch.long), torch.arange(5000))
    token, logprob = next_token(logits, keys, 0, SamplingParams())
    assert set(token.tolist()) == {1, 3}
    torch.testing.assert_close(logprob, torch.full((5000,), 0.5).log())
    for extreme, expected in ((0.0, 1), (1 - 2.0**-53, 3)):
        drawn = torch.full((5000,), extreme, dtype=torch.double)
        monkeypatch.setattr(draw, "uniforms", lambda keys, position, drawn=drawn: drawn)
        assert set(next_token(logits, keys, 0, SamplingParams())[0].tolist()) == {expected}


def allowed_by_hand(logits: Sequence[float], params: SamplingParams) -> dict[int, float]:
    """{token: probability} after the temperature, top_k and top_p, in plain Python."""
    weights = torch.tensor(logits, dtype=torch.double).div(params.temperature).softmax(0).tolist()
    ranked = sorted(range(len(weights)), key=lambda i: -weights[i])[: params.top_k or None]
    total = sum(weights[i] for i in ranked)
    kept: list[int] = []
    while sum(weights[i] for i in kept) < params.top_p * total and len(kept) < len(ranked):
        kept.append(ranked[len(kept)])
    mass = sum(weights[i] for i in kept)
    return {i: weights[i] / mass for i in kept}


@pytest.mark.parametrize(
    ("top_k", "top_p"), [(5, 1.0), (1, 1.0), (0, 0.5), (0, 0.9), (0, 1e-9), (8, 0.7), (500, 1.0)]
)
def test_top_k_and_top_p(top_k: int, top_p: float) -> None:
    model = tiny.model()
    params = replace(PARAMS, top_k=top_k, top_p=top_p, temperature=1.2)
    found = tiny.sample(sampler_of(model), PROMPTS, params)
    for prompt, completions in zip(PROMPTS, found, strict=True):
        for c in completions[:3]:
            for logits, token, logprob in zip(
                logits_of(model, prompt, c), c.token_ids, c.sampled_logprobs, strict=True
            ):
                allowed = allowed_by_hand(logits.tolist(), params)
                assert token in allowed
                assert logprob == pytest.approx(float(torch.tensor(allowed[token]).log()), abs=1e-4)
                ours = distribution(logits[None], params)[0].exp()
                assert set(ours.nonzero().flatten().tolist()) == set(allowed)
                assert float(ours.sum()) == pytest.approx(1, abs=1e-5)


def test_banned_tokens_are_never_drawn() -> None:
    model = tiny.model()
    banned = tuple(range(50))
    found = tiny.sample(
        sampler_of(model, ends=frozenset()), PROMPTS[:2], replace(PARAMS, banned=banned, n=3)
    )
    for prompt, completions in zip(PROMPTS, found, strict=False):
        for c in completions:
            assert min(c.token_ids) >= 50
            expected = logits_of(model, prompt, c)[:, 50:].log_softmax(-1)
            tokens = torch.tensor(c.token_ids)[:, None] - 50
            torch.testing.assert_close(
                expected.gather(1, tokens)[:, 0], torch.tensor(c.sampled_logprobs)
            )
    greedy = tiny.sample(
        sampler_of(model), PROMPTS, replace(PARAMS, banned=banned, temperature=0.0, n=1)
    )
    assert all(min(c.token_ids) >= 50 for c in flat(greedy))


def test_the_end_token_is_there_exactly_when_it_was_sampled() -> None:
    found = flat(tiny.sample(sampler_of(tiny.model()), PROMPTS, replace(PARAMS, n=20)))
    for c in found:
        assert not ENDS & set(c.token_ids[:-1])
        assert (c.finish_reason == "stop") == (c.token_ids[-1] in ENDS)
        assert c.finish_reason == "stop" or len(c.token_ids) == PARAMS.max_tokens
        assert len(c.token_ids) == len(c.loss_mask) == len(c.sampled_logprobs)
        assert all(c.loss_mask)
        shown = c.token_ids[:-1] if c.finish_reason == "stop" else c.token_ids
        assert c.text == "".join(f" {i}" for i in shown)
    assert {c.finish_reason for c in found} == {"stop", "length"}


def test_without_an_end_everything_is_cut_at_the_limit() -> None:
    for c in flat(tiny.sample(sampler_of(tiny.model(), ends=frozenset()), PROMPTS, PARAMS)):
        assert (c.finish_reason, len(c.token_ids)) == ("length", PARAMS.max_tokens)


def test_ending_with_the_last_token_allowed_is_a_stop() -> None:
    sampler = sampler_of(tiny.model(), ends=frozenset(range(105)))
    for c in flat(tiny.sample(sampler, PROMPTS, replace(PARAMS, max_tokens=1))):
        assert (c.finish_reason, len(c.token_ids), c.text) == ("stop", 1, "")


def words(ids: Sequence[int]) -> str:
    """The stop string ends inside a token: even tokens are `<e`, odd ones are `nd>x`."""
    return "".join("nd>x" if i % 2 else "<e" for i in ids)


def half_letters(ids: Sequence[int]) -> str:
    """Tokens are bytes. A letter has two bytes, and the second token may contain more."""
    return b"".join((b"\xa9!" if i % 2 else b"\xc3") for i in ids).decode(errors="replace")


@pytest.mark.parametrize(
    ("decode", "stop"), [(words, "<end>"), (half_letters, "é"), (half_letters, "é!\ufffdé")]
)
def test_a_stop_string_that_ends_inside_a_token(decode: object, stop: str) -> None:
    sampler = TorchSampler(tiny.model(), decode, frozenset())  # type: ignore[arg-type]
    params = replace(PARAMS, stop=(stop,), max_tokens=12)
    found = flat(tiny.sample(sampler, PROMPTS, params))
    for c in found:
        whole = sampler.decode(c.token_ids)
        if c.finish_reason == "stop":
            assert c.text == whole[: whole.index(stop) + len(stop)]
            assert stop not in sampler.decode(c.token_ids[:-1]), (
                "it continued after the stop string"
            )
        else:
            assert c.text == whole
            assert stop not in whole
            assert len(c.token_ids) == params.max_tokens
        assert len(c.token_ids) == len(c.sampled_logprobs)
    assert (
        any(c.finish_reason == "stop" and c.text != sampler.decode(c.token_ids) for c in found)
        or stop == "é"
    )


def test_the_first_of_several_stop_strings_ends_the_text() -> None:
    sampler = TorchSampler(tiny.model(), words, frozenset())
    found = flat(tiny.sample(sampler, PROMPTS, replace(PARAMS, stop=("d>x<", "<end>x"))))
    for c in found:
        assert c.finish_reason == "stop"
        assert c.text.endswith(("d>x<", "<end>x"))
        assert c.text.count("d>x<") + c.text.count("<end>x") == 1


def test_a_real_tokenizer_stops_at_the_closing_tag() -> None:
    tokenizer, model = tiny.tokenizer(), tiny.model()
    sampler = tiny.sampler(model)
    (group,) = tiny.sample(
        sampler,
        [tokenizer("1 from 2\n")["input_ids"]],
        SamplingParams(max_tokens=64, n=32, stop=("</answer>",)),
    )
    close = tokenizer("</answer>")["input_ids"][0]
    for c in group:
        assert (close in c.token_ids) == c.text.endswith("</answer>")
        assert (c.finish_reason == "stop") == (c.token_ids[-1] in (0, close))
        assert "<|endoftext|>" not in c.text
    assert any(c.text.endswith("</answer>") for c in group)


def test_the_context_is_the_limit() -> None:
    sampler = sampler_of(tiny.model(context=64))
    tiny.sample(sampler, [[9] * 60], replace(PARAMS, max_tokens=4))
    with pytest.raises(UserError, match="lower max_tokens to 3 or less"):
        tiny.sample(sampler, [[9] * 61], replace(PARAMS, max_tokens=4))
    with pytest.raises(UserError, match="lower max_tokens to 3 or less"):
        next(sampler.stream([9] * 61, replace(PARAMS, max_tokens=4)))


def test_nothing_asked_nothing_sampled() -> None:
    assert tiny.sample(sampler_of(tiny.model()), [], PARAMS) == []


def test_new_weights_change_the_next_sample_and_versions_only_go_up() -> None:
    old, new = tiny.model(), tiny.model(seed=1)
    before, expected = (
        tiny.sample(sampler_of(old), PROMPTS, PARAMS),
        tiny.sample(sampler_of(new), PROMPTS, PARAMS),
    )
    sampler = sampler_of(old)
    sampler.load_weights(new.lm.state_dict().items(), version=3)
    after = tiny.sample(sampler, PROMPTS, PARAMS)
    assert draws(after) == draws(expected) != draws(before)
    assert {(c.first_version, c.last_version) for c in flat(after)} == {(3, 3)}
    assert {(c.first_version, c.last_version) for c in flat(before)} == {(0, 0)}
    for version in (3, 2, 0):
        with pytest.raises(ValueError, match="not newer"):
            sampler.load_weights((), version)
    assert sampler.version == 3


def test_shared_weights_need_no_copy() -> None:
    model = tiny.model()
    sampler = sampler_of(model)
    before = tiny.sample(sampler, PROMPTS, PARAMS)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape))
    sampler.load_weights((), version=1)
    assert draws(tiny.sample(sampler, PROMPTS, PARAMS)) != draws(before)


@pytest.mark.parametrize("decode", [words, half_letters])
def test_streaming_says_what_generate_says(decode: object) -> None:
    sampler = TorchSampler(tiny.model(), decode, ENDS)  # type: ignore[arg-type]
    for stop, prompt, seed in itertools.product(
        (("<end>x<end>", "é!é"), ()), PROMPTS[:2], range(2)
    ):
        params = replace(PARAMS, stop=stop, seed=seed, n=1)
        ((expected,),) = tiny.sample(sampler, [prompt], params)
        pieces = list(sampler.stream(prompt, params))
        assert "".join(pieces) == expected.text
        assert len(pieces) == len(expected.token_ids)


# Memory, and how requests are divided to fit into it


def test_requests_are_divided_into_batches_of_the_rows_that_fit() -> None:
    requests = [
        Request((5,), group=0, samples=(0, 1)),
        Request((6,), group=1, samples=(0, 1, 2, 3, 4)),
        Request((7,), group=2),
    ]
    found = [
        (numbers, [part.samples for part in parts])
        for numbers, parts in torch_sampler.batches(requests, rows=3)
    ]
    assert found == [
        ([0], [(0, 1)]),
        ([1], [(0, 1, 2)]),
        ([1, 2], [(3, 4), (0,)]),
    ]


def test_a_request_of_more_samples_than_fit_is_complete_and_done_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sampler = sampler_of(tiny.model())
    whole = draws(tiny.sample(sampler, PROMPTS, PARAMS))
    monkeypatch.setattr(torch_sampler, "rows_that_fit", lambda model, length: 4)
    ended: dict[int, list[Completion]] = {}

    def done(number: int, completions: list[Completion]) -> None:
        assert number not in ended
        ended[number] = completions

    parts = sampler.generate(requests_for(PROMPTS, PARAMS.n), PARAMS, done)
    assert draws(parts) == whole
    assert [ended[number] for number in range(len(PROMPTS))] == parts


def test_rows_that_fit_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.model(layers=3)
    row = 1.5 * 100 * (2 * 3 * 1 * 8 * 4) + 2 * 4 * model.config.vocab_size
    monkeypatch.setattr(memory, "machine_memory", lambda device: int(4 * 7.5 * row))
    assert memory.rows_that_fit(model, 100) == 7
    monkeypatch.setattr(memory, "machine_memory", lambda device: 0)
    assert memory.rows_that_fit(model, 100) == 1


def test_a_container_limits_the_memory_of_the_machine(tmp_path: Path) -> None:
    assert memory.container_limit(tmp_path) == memory.NO_LIMIT
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.container_limit(tmp_path) == memory.NO_LIMIT
    (tmp_path / "memory.max").write_text("5000\n")
    assert memory.container_limit(tmp_path) == 5000
    cpu = torch.device("cpu")
    assert 2**20 < memory.machine_memory(cpu) == memory.machine_memory(cpu) < 2**50


# Weights in oneDNN's own order


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch has no oneDNN here")
@pytest.mark.parametrize("shape", ["llama", "qwen2"])
def test_reordered_weights_compute_the_same(shape: str) -> None:
    model = tiny.model(shape)
    logits = []
    for reorder in (False, True):
        cache = KeyValueCache(
            model.config, torch.tensor([0, 2, 1]), 8, torch.float32, torch.device("cpu")
        )
        with torch.inference_mode():
            step = fused.FusedStep(model, reorder)
            assert step.layers[0].down.is_mkldnn == reorder
            token = torch.tensor([5, 6, 7])
            logits.append(torch.stack([step.logits(token + i, cache) for i in range(4)]))
    torch.testing.assert_close(logits[1], logits[0], rtol=1e-4, atol=1e-5)


def test_only_large_models_with_memory_to_spare_are_reordered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny.model()
    assert not fused.should_reorder(model)
    monkeypatch.setattr(fused, "SMALLEST_WIDTH", 1)
    assert fused.should_reorder(model) == torch.backends.mkldnn.is_available()
    monkeypatch.setattr(fused, "machine_memory", lambda device: 10_000)
    assert not fused.should_reorder(model)


def test_large_vocabularies_are_drawn_from_a_few_rows_at_a_time() -> None:
    logits = torch.randn(70, draw.LARGE + 5)
    keys = row_keys(3, torch.arange(70), torch.zeros(70, dtype=torch.long))
    positions = torch.arange(70)
    params = SamplingParams(max_tokens=1, temperature=0.7)
    found = torch_sampler.drawn_tokens(logits, keys, positions, params)
    expected = next_token(logits, keys, positions, params)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
