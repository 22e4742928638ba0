"""The learner: micro-batches do not change the gradient, resume is exact, steps may be infinite."""

import io
import math
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, get_args

import pytest
import tiny
import torch
from torch import Tensor, nn

from tinyzero.algorithms import Algorithm, load_algorithm
from tinyzero.algorithms.grpo import GRPO, GRPOOptions
from tinyzero.algorithms.options import Aggregation
from tinyzero.algorithms.ppo import PPO, PPOOptions
from tinyzero.batching import Batch, Totals, collate
from tinyzero.config import OptimizerOptions
from tinyzero.errors import NonFiniteError, UserError
from tinyzero.learner import TorchLearner, policy_outputs, rate, value_outputs
from tinyzero.models import ValueModel, attention, backbone
from tinyzero.models.attention import causal_mask
from tinyzero.turns import extend
from tinyzero.types import Completion, Problem, Reward, Rollout, Scorer

NO_CLIP = OptimizerOptions(learning_rate=1e-6, grad_clip=1e9)
Metrics = dict[str, tuple[Tensor, Tensor]]


def rollouts(
    groups: int = 4, samples: int = 3, flat: frozenset[int] = frozenset()
) -> list[list[Rollout]]:
    """Random tokens and rewards; groups in `flat` earn the same throughout."""
    generator = torch.Generator().manual_seed(0)

    def draw(low: int, high: int, count: int) -> tuple[int, ...]:
        return tuple(torch.randint(low, high, (count,), generator=generator).tolist())

    made = []
    for g in range(groups):
        prompt, group = draw(1, 105, 2 + g), []
        for i in range(samples):
            ids = draw(0, 105, *draw(1, 14, 1))
            completion = Completion(ids, (True,) * len(ids), (-4.0,) * len(ids), "", "stop")
            value = 0.1 if g in flat else 0.1 * i * i + 0.05 * g
            reward = Reward(value, right=value > 0.2)
            group.append(Rollout(Problem("p", {}, "train", "p"), prompt, completion, reward, g))
        made.append(group)
    return made


def policy(options: OptimizerOptions | None = NO_CLIP, seed: int = 0, **more: Any) -> TorchLearner:
    return TorchLearner(tiny.model(seed=seed, layers=1), policy_outputs, options, **more)


def critic(options: OptimizerOptions | None = NO_CLIP, seed: int = 2, **more: Any) -> TorchLearner:
    model = ValueModel(tiny.model(seed=seed, layers=1))
    nn.init.normal_(model.head.weight)
    return TorchLearner(model, value_outputs, options, **more)


def annotated(algorithm: Algorithm, groups: list[list[Rollout]]) -> Batch:
    """A batch with old, reference and value outputs of models that are not being trained."""
    others: Mapping[str, Scorer] = {
        "policy": policy(None, 5, minibatches=2),
        "reference": policy(None, 6),
        "critic": critic(None, 7),
        "prm": policy(None, 8),
    }
    return algorithm.annotate(collate(groups, 16), others)[0]


def gradient(learner: TorchLearner, batch: Batch) -> tuple[list[Tensor], dict[str, float]]:
    metrics = learner.update(batch)
    return [
        torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in learner.parameters
    ], metrics


def padded(batch: Batch, columns: int) -> Batch:
    """The same batch with extra columns of junk, which nothing may read."""
    wider: dict[str, Any] = {}
    for field in fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, Tensor) and value.ndim == 2:
            junk = torch.full((batch.size, columns), 77).to(value.dtype)
            wider[field.name] = torch.cat(
                [value, torch.zeros_like(junk) if field.name == "mask" else junk], 1
            )
    return replace(batch, **wider)


def algorithms() -> list[Algorithm]:
    common = {"kl": 0.1, "entropy": 0.05}
    return [
        *(GRPO(GRPOOptions(aggregate=how, **common)) for how in get_args(Aggregation)),
        *(
            PPO(PPOOptions(aggregate=how, lam=0.9, kl_in_reward=0.1, **common))
            for how in get_args(Aggregation)
        ),
        GRPO(GRPOOptions(scale="none")),
        *(
            load_algorithm(preset, common | {"filter": "none"})
            for preset in ("rloo", "gspo", "cispo", "reinforce++")
        ),
        load_algorithm(
            "dapo",
            {"filter": "none", "overlong": 4, "correction": "truncate", "correction_cap": 1.1},
        ),
        load_algorithm("prime", {"filter": "none"}),
    ]


def name(algorithm: Algorithm) -> str:
    kind = getattr(algorithm, "name", type(algorithm).__name__)
    return f"{kind}-{algorithm.options.aggregate}-{algorithm.options.kl}"


@pytest.mark.parametrize("role", ["policy", "critic", "prm"])
@pytest.mark.parametrize("algorithm", algorithms(), ids=name)
def test_the_gradient_does_not_depend_on_how_the_batch_is_cut(
    algorithm: Algorithm, role: str
) -> None:
    if role not in ("policy", *algorithm.roles):
        return
    build: Callable[..., TorchLearner] = critic if role == "critic" else policy
    batch = annotated(algorithm, rollouts())
    loss = partial(algorithm.loss, role)
    expected, metrics = gradient(build(loss=loss, micro_tokens=10_000), batch)
    assert metrics["grad_norm"] > 0.01
    tolerance = 1e-6 * metrics["grad_norm"]
    shuffled = batch.select(torch.randperm(batch.size, generator=torch.Generator().manual_seed(3)))
    ways = {
        "two micro-batches": (200, batch),
        "four micro-batches": (80, batch),
        "one row each": (1, batch),
        "another order": (80, shuffled),
        "more padding": (10_000, padded(batch, 9)),
    }
    for way, (micro_tokens, other) in ways.items():
        found, again = gradient(build(loss=loss, micro_tokens=micro_tokens), other)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, atol=tolerance, rtol=1e-4, msg=way)
        assert again == pytest.approx(metrics, rel=1e-5, abs=1e-5), way


def conversations() -> list[list[Rollout]]:
    """The same rollouts, but an environment adds three tokens and then the model continues."""
    said = Completion((50, 51), (True,) * 2, (-3.0,) * 2, "", "stop")
    return [
        [replace(r, completion=extend(r.completion, (90, 91, 92), said)) for r in group]
        for group in rollouts()
    ]


@pytest.mark.parametrize("algorithm", algorithms(), ids=name)
def test_what_an_environment_says_is_never_trained_on(algorithm: Algorithm) -> None:
    groups = conversations()
    batch = annotated(algorithm, groups)
    by_environment = (batch.tokens[:, 1:] >= 90) & (batch.tokens[:, 1:] <= 92) & ~batch.mask
    assert int(by_environment.sum()) >= 3 * batch.size
    assert batch.totals().tokens == sum(r.completion.length for g in groups for r in g)
    assert batch.advantages is not None
    assert not batch.advantages[~batch.mask].any()
    for role in ("policy", *(r for r in algorithm.roles if r != "reference")):
        near = batch.values if role == "critic" else batch.old_logprobs
        assert near is not None
        main = (near + 0.01 * torch.randn(near.shape)).requires_grad_()
        entropy = torch.rand(near.shape).requires_grad_()
        outputs = {"values": main} if role == "critic" else {"logprobs": main, "entropy": entropy}
        loss, _ = algorithm.loss(role, outputs, batch, batch.totals())
        loss.backward()
        assert main.grad is not None
        assert main.grad[batch.mask].any(), "both turns of the model are trained on"
        assert not main.grad[~batch.mask].any()
        assert entropy.grad is None or not entropy.grad[~batch.mask].any()


@pytest.mark.parametrize("joined", ["alone", "packed", "shared"])
@pytest.mark.parametrize("algorithm", algorithms(), ids=name)
def test_the_host_does_not_wait_for_the_device(
    algorithm: Algorithm, joined: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A meta tensor has no numbers: whatever reads one on the host raises an error."""
    batch = annotated(algorithm, rollouts())
    for module in (attention, backbone):  # a GPU needs no mask
        monkeypatch.setattr(module, "causal_mask", lambda *size: causal_mask(*size).to("meta"))
    models = {"policy": policy(), "critic": critic(), "prm": policy(None, 8)}

    for role in ("policy", *({"critic", "prm"} & set(algorithm.roles))):
        learner = models[role]
        learner.model.to("meta").requires_grad_()
        learner.device = torch.device("meta")
        learner.micro_tokens, learner.loss = 60, partial(algorithm.loss, role)
        lm = getattr(learner.model, "backbone", learner.model)
        lm.pack, lm.share = joined == "packed", joined == "shared"
        learner.shares = joined == "shared"

        logged = learner._backward(batch, batch.totals())
        assert len(logged) > 1
        assert all(share.is_meta for share, _ in logged)
        assert all(parameter.grad is not None for parameter in lm.core.parameters())


class Read(Tensor):
    """Scores that say when they are read on the host."""

    events: ClassVar[list[str]] = []

    def cpu(self, *given: Any) -> Tensor:
        self.events.append("read")
        return self.as_subclass(Tensor)


def test_scores_are_read_after_all_have_been_computed() -> None:
    learner, batch = policy(micro_tokens=60), collate(rollouts(), 16)
    expected = learner.score(batch)

    def outputs(model: nn.Module, part: Batch) -> dict[str, Tensor]:
        Read.events.append("computed")
        return {"logprobs": policy_outputs(model, part)["logprobs"].as_subclass(Read)}

    learner.outputs = outputs
    assert torch.equal(learner.score(batch), expected)
    half = len(Read.events) // 2
    assert half > 1
    assert Read.events == ["computed"] * half + ["read"] * half


def test_scores_do_not_depend_on_how_the_batch_is_cut() -> None:
    batch = collate(rollouts(), 16)
    for build in (policy, critic):
        whole = build(micro_tokens=10_000).score(batch)
        assert whole.shape == batch.mask.shape
        for micro_tokens in (1, 80):
            found = build(micro_tokens=micro_tokens).score(batch)
            torch.testing.assert_close(found[batch.mask], whole[batch.mask], atol=1e-5, rtol=1e-5)
    assert not policy().score(batch)[~batch.mask].any()


def test_idle_rows_leave_the_gradient_as_it_is() -> None:
    algorithm = GRPO()
    batch = annotated(algorithm, rollouts(flat=frozenset({0, 2})))
    assert batch.idle is not None
    assert batch.idle.tolist() == [True] * 3 + [False] * 3 + [True] * 3 + [False] * 3
    skipping, a = gradient(policy(loss=partial(algorithm.loss, "policy")), batch)
    computing, b = gradient(
        policy(loss=partial(algorithm.loss, "policy")), replace(batch, idle=None)
    )
    for x, y in zip(skipping, computing, strict=True):
        torch.testing.assert_close(x, y, atol=1e-6, rtol=1e-4)
    assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-4)
    assert a["loss"] == pytest.approx(b["loss"], abs=1e-6)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_flat_groups_have_exactly_no_gradient(scale: Any) -> None:
    algorithm = GRPO(GRPOOptions(scale=scale))
    batch = annotated(algorithm, rollouts(flat=frozenset(range(4))))
    for some in (batch, replace(batch, idle=None)):
        learner = policy(loss=partial(algorithm.loss, "policy"))
        before = [p.clone() for p in learner.parameters]
        found, metrics = gradient(learner, some)
        assert not any(g.any() for g in found)
        assert metrics["grad_norm"] == 0
        assert metrics["skipped"] == 0
        assert all(torch.equal(p, q) for p, q in zip(learner.parameters, before, strict=True))


@pytest.mark.parametrize("preset", ["grpo", "dr_grpo", "rloo", "dapo", "gspo", "cispo"])
def test_flat_groups_have_exactly_no_gradient_in_any_preset(preset: str) -> None:
    algorithm = load_algorithm(preset, {"filter": "none", "overlong": 0})
    batch = replace(annotated(algorithm, rollouts(flat=frozenset(range(4)))), idle=None)
    found, _ = gradient(policy(loss=partial(algorithm.loss, "policy")), batch)
    assert not any(g.any() for g in found)


def test_another_learners_weights_are_taken_over() -> None:
    one, other = policy(seed=1, loss=scaled(1e-3)), policy(None, seed=2)
    batch = collate(rollouts(), 16)
    assert not torch.equal(one.score(batch), other.score(batch))
    other.load_weights(one.named_weights())
    assert torch.equal(one.score(batch), other.score(batch))
    one.update(batch)
    assert not torch.equal(one.score(batch), other.score(batch)), "they share no memory"


def test_updates_not_taken_count_for_the_schedule() -> None:
    options = OptimizerOptions(learning_rate=1.0, schedule="linear", final_share=0.0)
    learner = policy(options, loss=scaled(1e-3), total_updates=4)
    learner.skip(3)
    assert learner.update(collate(rollouts(), 16))["learning_rate"] == 0.25


def test_a_batch_that_fell_short_moves_the_schedule_as_a_whole_one_does() -> None:
    learner, batch = policy(loss=scaled(1e-3), minibatches=4, epochs=2), collate(rollouts(), 16)
    assert learner.updates == 8
    learner.update(batch)
    learner.update(batch.select(torch.arange(3)))
    assert (learner.steps, learner.batches) == (16, 2)
    assert learner.optimizer is not None
    assert {int(s["step"]) for s in learner.optimizer.state.values()} == {14}, (
        "the optimizer counts only the steps that were taken"
    )
    learner.skip(8)
    assert (learner.steps, learner.batches) == (24, 2), (
        "a skipped batch does not count as trained on"
    )


def test_kl_and_entropy_pull_on_flat_groups_too() -> None:
    for options in (GRPOOptions(kl=0.1), GRPOOptions(entropy=0.1)):
        algorithm = GRPO(options)
        batch = annotated(algorithm, rollouts(flat=frozenset(range(4))))
        assert batch.idle is None
        _, metrics = gradient(policy(loss=partial(algorithm.loss, "policy")), batch)
        assert metrics["grad_norm"] > 0.01


def test_minibatches_are_steps_of_their_own() -> None:
    seen: list[Totals] = []

    def loss(outputs: Mapping[str, Tensor], batch: Batch, totals: Totals) -> tuple[Tensor, Metrics]:
        seen.append(totals)
        return outputs["logprobs"].sum() / totals.tokens, {
            "rows": (torch.tensor(batch.size), torch.tensor(1))
        }

    batch = collate(rollouts(), 16)
    learner = policy(loss=loss, minibatches=5, epochs=2, micro_tokens=10_000)
    metrics = learner.update(batch)
    assert [t.sequences for t in seen] == [3, 3, 2, 2, 2] * 2
    assert sum(t.tokens for t in seen) == 2 * int(batch.mask.sum())
    assert {int(s["step"]) for s in learner.optimizer.state.values()} == {10}
    assert metrics["rows"] == pytest.approx(2.4)
    seen.clear()
    policy(loss=loss, minibatches=4).update(batch.select(torch.arange(2)))
    assert len(seen) == 2, "a batch with fewer rows than minibatches has one step per row"


def scaled(factor: float) -> Any:
    return lambda outputs, batch, totals: (outputs["logprobs"].sum() * factor, {})


@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_a_step_that_is_not_finite_is_skipped_and_several_stop(factor: float) -> None:
    batch = collate(rollouts(), 16)
    learner = policy(loss=scaled(factor), minibatches=2, patience=3)
    before = [p.clone() for p in learner.parameters]
    metrics = learner.update(batch)
    assert metrics["skipped"] == 2
    assert math.isnan(metrics["grad_norm"])
    assert all(torch.equal(p, q) for p, q in zip(learner.parameters, before, strict=True))
    learner.loss = scaled(1e-3)
    metrics = learner.update(batch)
    assert metrics["skipped"] == 0
    assert not torch.equal(learner.parameters[0], before[0])
    learner.loss = scaled(factor)
    learner.update(batch)  # counted from the last good step
    with pytest.raises(NonFiniteError, match="3 updates in a row"):
        learner.update(batch)
    assert all(p.isfinite().all() for p in learner.parameters)


def test_rates() -> None:
    options = OptimizerOptions(warmup=3, schedule="constant")
    assert [rate(options, step, 10) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    options = OptimizerOptions(warmup=2, schedule="linear", final_share=0.2)
    assert [rate(options, s, 10) for s in (2, 6, 10, 99)] == pytest.approx([1.0, 0.6, 0.2, 0.2])
    assert rate(OptimizerOptions(schedule="linear"), 0, 1) == 1.0
    assert rate(OptimizerOptions(schedule="linear", warmup=5), 5, 5) == 1.0
    waited = OptimizerOptions(schedule="linear", warmup=3, final_share=0.0)
    assert [rate(waited, s, 11, waited=5) for s in range(5, 11)] == pytest.approx(
        [0.25, 0.5, 0.5, 0.375, 0.25, 0.125]
    )


def test_the_rate_is_the_one_that_is_used() -> None:
    options = OptimizerOptions(
        learning_rate=0.01, warmup=1, schedule="linear", final_share=0.5, beta1=0, beta2=0
    )
    learner = policy(options, loss=scaled(1.0), total_updates=3)
    batch = collate(rollouts(), 16)
    rates = []
    for _ in range(4):
        before = learner.parameters[0].detach().clone()
        rates.append(learner.update(batch)["learning_rate"])
        # without memory, Adam moves each weight by the rate
        moved = (learner.parameters[0].detach() - before).abs().max()
        assert float(moved) == pytest.approx(rates[-1], rel=1e-3)
    assert rates == pytest.approx([0.005, 0.01, 0.0075, 0.005])


@pytest.mark.parametrize("build", [policy, critic])
def test_a_saved_learner_goes_on_bit_for_bit(build: Callable[..., TorchLearner]) -> None:
    options = OptimizerOptions(learning_rate=0.01, warmup=2, schedule="linear", weight_decay=0.1)
    algorithm = PPO()
    batch = annotated(algorithm, rollouts())
    role = "policy" if build is policy else "critic"
    taught: dict[str, Any] = {"loss": partial(algorithm.loss, role), "minibatches": 2}
    one = build(options, total_updates=6, **taught)
    for _ in range(2):
        one.update(batch)
    one.bad_in_a_row = 1
    file = io.BytesIO()
    torch.save(one.state_dict(), file)
    file.seek(0)
    other = build(options, seed=9, total_updates=6, **taught)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert (other.bad_in_a_row, other.batches) == (1, 2)
    for _ in range(2):
        a, b = one.update(batch), other.update(batch)
        assert a == b
    for x, y in zip(one.parameters, other.parameters, strict=True):
        assert torch.equal(x, y)


def test_a_parked_learner_takes_its_moments_to_where_it_computes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """AdamW puts them on the device of the weights, and a parked model's are in CPU memory."""
    learner, stays = policy(loss=scaled(1e-3), park=True), list[str]()
    learner.update(collate(rollouts(), 16))
    state = learner.state_dict()
    learner.device = "the GPU"  # type: ignore[assignment]
    assert learner.optimizer is not None
    load = learner.optimizer.load_state_dict
    monkeypatch.setattr(learner.model, "to", stays.append)
    monkeypatch.setattr(
        learner.optimizer, "load_state_dict", lambda given: (stays.append("moments"), load(given))
    )
    learner.load_state_dict(state)
    assert stays == ["the GPU", "moments", "cpu"]


def test_a_frozen_model_scores_and_nothing_else() -> None:
    learner = policy(None)
    batch = collate(rollouts(), 16)
    assert not learner.score(batch).requires_grad
    assert not any(p.requires_grad for p in learner.model.parameters())
    with pytest.raises(AssertionError, match="frozen"):
        learner.update(batch)


def test_weights_go_by_their_hugging_face_names() -> None:
    learner = policy()
    names = dict(learner.named_weights())
    assert names.keys() == learner.model.lm.state_dict().keys()  # type: ignore[union-attr]
    assert "model.layers.0.self_attn.q_proj.weight" in names


def test_the_critic_fits_its_returns() -> None:
    algorithm = PPO(PPOOptions(value_clip=100.0))
    batch = annotated(algorithm, rollouts())
    options = OptimizerOptions(learning_rate=3e-3, grad_clip=10.0)
    learner = critic(options, loss=partial(algorithm.loss, "critic"))
    errors = [learner.update(batch)["error"] for _ in range(60)]
    assert errors[-1] < 0.1 * errors[0]


def test_totals_from_outside_make_parts_add_up_to_the_whole() -> None:
    """Two ranks with half of the rows each: their gradients sum to that of all rows."""
    algorithm = GRPO(GRPOOptions(kl=0.1, entropy=0.05, aggregate="token-mean"))
    batch, loss = annotated(algorithm, rollouts()), partial(algorithm.loss, "policy")
    whole, metrics = gradient(policy(loss=loss), batch)
    sums = [torch.zeros_like(g) for g in whole]
    lost = 0.0
    for rows in (torch.arange(5), torch.arange(5, batch.size)):
        learner = policy(loss=loss)
        lost += learner.update(batch.select(rows), [batch.totals()])["loss"]
        for total, parameter in zip(sums, learner.parameters, strict=True):
            assert parameter.grad is not None
            total += parameter.grad
    tolerance = 1e-6 * metrics["grad_norm"]
    for a, b in zip(sums, whole, strict=True):
        torch.testing.assert_close(a, b, atol=tolerance, rtol=1e-4)
    assert lost == pytest.approx(metrics["loss"], abs=1e-6)


@pytest.mark.parametrize("build", [policy, critic])
def test_a_learner_in_a_folder_goes_on_bit_for_bit(
    build: Callable[..., TorchLearner], tmp_path: Path
) -> None:
    options = OptimizerOptions(learning_rate=0.01, warmup=2, schedule="linear", weight_decay=0.1)
    algorithm = PPO()
    batch, role = annotated(algorithm, rollouts()), "policy" if build is policy else "critic"
    taught: dict[str, Any] = {"loss": partial(algorithm.loss, role), "total_updates": 6}
    one = build(options, **taught)
    one.skip(1)
    for steps in range(3):  # as it was before its first step, and later
        one.save(tmp_path / str(steps))
        other = build(options, seed=9, **taught)
        other.load(tmp_path / str(steps))
        assert one.update(batch) == other.update(batch)
        assert (other.steps, other.batches, other.waited) == (steps + 2, steps + 1, 1)
        for x, y in zip(one.parameters, other.parameters, strict=True):
            assert torch.equal(x, y)
    assert {p.suffix for p in (tmp_path / "0").iterdir()} == {".safetensors", ".json"}


def test_a_frozen_learner_keeps_its_weights_in_a_folder(tmp_path: Path) -> None:
    one, other = policy(None, seed=1), policy(None, seed=2)
    one.save(tmp_path)
    other.load(tmp_path)
    batch = collate(rollouts(), 16)
    assert torch.equal(one.score(batch), other.score(batch))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: (folder / "counters.json").unlink(), "cannot read the learner in"),
        (lambda folder: (folder / "counters.json").write_text("[1"), "cannot read the learner in"),
        (lambda folder: (folder / "counters.json").write_text('{"steps": 1}'), "lacks steps"),
        (
            lambda folder: (folder / "weights.safetensors").write_bytes(b"x" * 99),
            "cannot read the learner in",
        ),
        (
            lambda folder: (folder / "moments.safetensors").write_bytes(
                (folder / "weights.safetensors").read_bytes()
            ),
            "lacks the moments",
        ),
    ],
)
def test_a_folder_that_holds_no_such_learner_is_refused(
    spoil: Callable[[Path], object], says: str, tmp_path: Path
) -> None:
    policy(loss=scaled(1.0)).save(tmp_path)
    spoil(tmp_path)
    with pytest.raises(UserError, match=says) as caught:
        policy(loss=scaled(1.0)).load(tmp_path)
    assert "\n" not in str(caught.value)


def test_another_models_folder_is_refused(tmp_path: Path) -> None:
    critic().save(tmp_path)
    with pytest.raises(UserError, match="holds another model"):
        policy().load(tmp_path)
    wider = TorchLearner(tiny.model(layers=1, width=64), policy_outputs, NO_CLIP)
    wider.save(tmp_path)
    with pytest.raises(UserError, match=r"is \[.*64\], not \[.*32\]"):
        policy().load(tmp_path)


@pytest.mark.parametrize("clip", [0.05, 0.5, 1e9])
def test_a_gradient_is_clipped_at_the_norm_that_is_asked_for(clip: float) -> None:
    """The reported norm is from before the clip. The optimizer gets a norm of at most `clip`."""
    options = OptimizerOptions(learning_rate=1e-6, grad_clip=clip)
    learner = policy(options, loss=scaled(1e-2))
    norm = learner.update(collate(rollouts(), 16))["grad_norm"]
    assert norm == pytest.approx(
        policy(loss=scaled(1e-2)).update(collate(rollouts(), 16))["grad_norm"]
    )
    assert 1 < norm < 100
    taken = math.sqrt(
        sum(float(p.grad.square().sum()) for p in learner.parameters if p.grad is not None)
    )
    assert taken == pytest.approx(min(clip, norm), rel=1e-4)


@pytest.mark.parametrize("logit_rows", [2048, 3])
def test_logits_are_divided_by_the_temperature(logit_rows: int) -> None:
    """The result equals the softmax of the model's logits, with chunks of logits and without."""
    model, batch = tiny.model(layers=1), collate(rollouts(), 16)
    logits = model.logits(batch.tokens)[:, :-1].detach()
    for temperature in (0.5, 1.0, 2.0):
        found = policy_outputs(model, batch, temperature, logit_rows)
        logprobs = (logits / temperature).log_softmax(-1)
        chosen = logprobs.gather(-1, batch.tokens[:, 1:, None]).squeeze(-1)
        entropy = -(logprobs.exp() * logprobs).sum(-1)
        for name, expected in (("logprobs", chosen), ("entropy", entropy)):
            torch.testing.assert_close(
                found[name][batch.mask].detach(), expected[batch.mask], atol=1e-4, rtol=1e-4
            )


def test_the_entropy_is_reported_whatever_the_loss_is() -> None:
    """It is the mean over all tokens of the mask for any micro-batches. A critic has no entropy."""
    batch = collate(rollouts(), 16)
    entropy = policy_outputs(tiny.model(layers=1), batch)["entropy"][batch.mask].mean()
    for micro_tokens in (10_000, 60):
        learner = policy(loss=scaled(0.0), micro_tokens=micro_tokens)
        assert learner.update(batch)["entropy"] == pytest.approx(float(entropy.detach()), rel=1e-5)
    algorithm = PPO()
    found = critic(loss=partial(algorithm.loss, "critic")).update(annotated(algorithm, rollouts()))
    assert "entropy" not in found
