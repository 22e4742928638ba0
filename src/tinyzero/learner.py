"""A trained model: the policy, the critic, or (frozen) the reference.

`update` takes optimizer steps whose loss and gradient do not depend on how the batch is cut into
micro-batches: every denominator is a total of the whole step. Rows that are known to have no
gradient are not computed at all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tinyzero import models
from tinyzero.algorithms import losses
from tinyzero.batching import Batch, Totals
from tinyzero.config import OptimizerOptions
from tinyzero.errors import NonFiniteError, UserError, brief
from tinyzero.models import Backbone, ValueModel
from tinyzero.types import LossFunction

Outputs = dict[str, Tensor]

WEIGHTS, MOMENTS = "weights.safetensors", "moments.safetensors"
TENSORS = ("exp_avg", "exp_avg_sq")  # what AdamW keeps of each weight, beside its count of steps
COUNTERS = ("steps", "batches", "waited", "bad_in_a_row")


def policy_outputs(
    model: nn.Module, batch: Batch, temperature: float = 1.0, logit_rows: int = 2048
) -> Outputs:
    """Logprobs and entropy (B, T) of the tokens in the mask, under `temperature`; 0 elsewhere.

    `temperature` is the one that the tokens were sampled with, or their logprobs are others.

    Logits exist only for masked columns, in fp32, and at most `logit_rows` of them at a time.
    """
    assert isinstance(model, Backbone)
    hidden = model.hidden(batch.tokens, batch.lengths)[:, :-1][batch.mask]  # (N, D)
    targets = batch.tokens[:, 1:][batch.mask]
    if len(hidden) <= logit_rows and hidden.dtype == torch.float32:
        logits = model.logits_of(hidden) / temperature  # few enough to keep for the backward pass
        logprobs = logits.log_softmax(-1).gather(-1, targets[:, None]).squeeze(-1)
        entropy = losses.entropy(logits)
    else:
        head = model.head
        logprobs, entropy = losses.chosen_logprobs(
            hidden, head.weight, head.bias, targets, temperature, logit_rows
        )
    return {"logprobs": _scatter(logprobs, batch.mask), "entropy": _scatter(entropy, batch.mask)}


def value_outputs(model: nn.Module, batch: Batch) -> Outputs:
    """Values (B, T): what the critic expects before each token is chosen."""
    assert isinstance(model, ValueModel)
    return {"values": model.values(batch.tokens, batch.lengths)[:, :-1]}


def _logged(outputs: Outputs, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
    """What every model with an entropy reports, whatever its loss is: (sum, count) over tokens."""
    if "entropy" not in outputs:
        return {}
    entropy = outputs["entropy"].detach().float()
    return {"entropy": ((entropy * batch.mask).sum(), batch.mask.sum())}


def _scatter(found: Tensor, mask: Tensor) -> Tensor:
    """(N,) values of the masked places back into (B, T)."""
    return torch.zeros(mask.shape, dtype=found.dtype, device=found.device).masked_scatter(
        mask, found
    )


class TorchLearner:
    """One model, its outputs and, unless it is frozen, its optimizer."""

    def __init__(
        self,
        model: nn.Module,
        outputs: Callable[[nn.Module, Batch], Outputs],
        options: OptimizerOptions | None,
        loss: LossFunction | None = None,
        minibatches: int = 1,
        epochs: int = 1,
        total_updates: int = 1,
        micro_tokens: int = 8192,
        patience: int = 3,
        park: bool = False,
    ) -> None:
        """`options` None freezes the model; else its parameters that require a gradient minimise
        `loss`, in `minibatches` optimizer steps a batch, `epochs` times over. `total_updates` ends
        a linear schedule. `patience` is how many updates in a row may have a gradient that is not
        finite before NonFiniteError is raised. With `park` the model is in CPU memory while it is
        not used."""
        self.model, self.outputs, self.loss = model, outputs, loss
        self.trained = options is not None
        self.minibatches, self.epochs, self.updates = minibatches, epochs, minibatches * epochs
        self.micro_tokens, self.patience = micro_tokens, patience
        self.bad_in_a_row = 0
        self.steps = self.batches = (
            0  # steps: of the optimizer, those skipped included; batches: trained on
        )
        self.waited = 0  # of the steps, those skipped before the first one
        self.options, self.total_updates = options, total_updates
        self.device = next(model.parameters()).device
        self.park = park
        if options is None:
            model.requires_grad_(False)
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.names, self.parameters = list(trained), list(trained.values())
        self.masters: list[Tensor] = []
        self.optimizer: torch.optim.Optimizer | None = None
        if options is not None:
            self.masters = [master_of(p, options.offload) for p in self.parameters]
            betas = (options.beta1, options.beta2)
            self.optimizer = torch.optim.AdamW(
                self.masters,
                lr=options.learning_rate,
                betas=betas,
                weight_decay=options.weight_decay,
                fused=True,
            )
        if park:
            self.model.to("cpu")

    @torch.no_grad()
    def score(self, batch: Batch) -> Tensor:
        """Logprobs or values (B, T) of every row, without gradient."""
        found = torch.zeros(batch.mask.shape)
        with self._in_place():
            for rows, part in batch.micro_batches(self.micro_tokens, skip_idle=False):
                out = self.outputs(self.model, part.to(self.device))
                found[rows, : part.mask.shape[1]] = (
                    out["logprobs"] if "logprobs" in out else out["values"]
                ).cpu()
        return found

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        """The model where it computes; a parked one goes back to CPU memory afterwards."""
        if not self.park:
            yield
            return
        self.model.to(self.device)
        try:
            yield
        finally:
            self.model.to("cpu")

    def update(self, batch: Batch, totals: Sequence[Totals] | None = None) -> dict[str, float]:
        """Optimizer steps on `batch`, split in order into `minibatches`, `epochs` times over.

        `totals` are the denominators of each minibatch if it has rows elsewhere too; None if these
        are all. Returns each metric of the loss, and the entropy, as its sum over its count, `loss`
        and `grad_norm` averaged over the steps, the first `learning_rate`, and `skipped`. Raises
        NonFiniteError after `patience` bad gradients in a row.
        """
        minibatches, epochs = self.minibatches, self.epochs
        sums: dict[str, list[float]] = {}
        norms: list[float] = []
        shares: list[float] = []  # each micro-batch's share of its step's loss
        skipped, taken, learning_rate = 0, min(minibatches, batch.size), self._learning_rate()
        with self._in_place():
            for _ in range(epochs):
                for i, rows in enumerate(torch.arange(batch.size).tensor_split(taken)):
                    part = batch.select(rows) if minibatches > 1 else batch
                    norm = self._step(part, totals[i] if totals else part.totals(), sums, shares)
                    skipped += norm is None
                    norms += [norm] if norm is not None else []
        self.batches += 1
        self.skip(
            (minibatches - taken) * epochs
        )  # a batch that fell short leaves the schedule where it would be
        metrics = {name: total / count if count else 0.0 for name, (total, count) in sums.items()}
        metrics["loss"] = sum(shares) / (taken * epochs)
        metrics["grad_norm"] = sum(norms) / len(norms) if norms else float("nan")
        return metrics | {"learning_rate": learning_rate, "skipped": float(skipped)}

    def _step(
        self, batch: Batch, totals: Totals, sums: dict[str, list[float]], shares: list[float]
    ) -> float | None:
        """One optimizer step; the gradient's norm, or None if it was not finite and was skipped."""
        assert self.options is not None
        assert self.optimizer is not None
        assert self.loss is not None, "a model that is trained needs a loss"
        self.optimizer.zero_grad(set_to_none=True)
        for _, part in batch.micro_batches(self.micro_tokens):
            part = part.to(self.device)
            outputs = self.outputs(self.model, part)
            scalar, metrics = self.loss(outputs, part, totals)
            scalar.backward()
            metrics = metrics | _logged(outputs, part)
            shares.append(scalar.item())
            for name, (total, count) in metrics.items():
                entry = sums.setdefault(name, [0.0, 0.0])
                entry[0] += float(total)
                entry[1] += float(count)
        norm = float(nn.utils.clip_grad_norm_(self.masters, self.options.grad_clip))
        finite = norm == norm and abs(norm) != float("inf")
        if finite:
            for group in self.optimizer.param_groups:
                group["lr"] = self._learning_rate()
            self.optimizer.step()
            self._take_masters()
        self.steps += 1
        self.bad_in_a_row = 0 if finite else self.bad_in_a_row + 1
        if self.bad_in_a_row >= self.patience:
            raise NonFiniteError(
                f"the gradient was not finite in {self.bad_in_a_row} updates in a row"
            )
        return norm if finite else None

    def _learning_rate(self) -> float:
        """Of the next step."""
        assert self.options is not None, "a frozen model cannot be updated"
        return self.options.learning_rate * rate(
            self.options, self.steps, self.total_updates, self.waited
        )

    def skip(self, updates: int) -> None:
        """Count `updates` that were not taken, so that the schedule is the run's; but its warm-up begins with the first
        step that is taken."""
        self.waited += updates if self.steps == self.waited else 0
        self.steps += updates

    @torch.no_grad()
    def _take_masters(self) -> None:
        """Low-precision or distant weights become the rounded masters; elsewhere the two are one."""
        for parameter, master in zip(self.parameters, self.masters, strict=True):
            if master is not parameter:
                parameter.copy_(
                    master.to(parameter.dtype)
                )  # rounded first: fewer bytes to a distant one

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Weights under their Hugging Face names, adapters merged."""
        if isinstance(self.model, Backbone):
            yield from models.named_weights(self.model)
        else:
            yield from self.model.state_dict().items()

    @torch.no_grad()
    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Take over another learner's `named_weights`."""
        own = dict(self.named_weights())
        for name, tensor in weights:
            own[name].copy_(tensor)

    def state_dict(self) -> dict[str, Any]:
        """Everything `update` depends on that it changes; the weights of a frozen model."""
        return {
            "model": {name: weight.detach() for name, weight in self._kept().items()},
            "optimizer": self.optimizer.state_dict() if self.optimizer else None,
            "steps": self.steps,
            "batches": self.batches,
            "waited": self.waited,
            "bad_in_a_row": self.bad_in_a_row,
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        with self._in_place():  # the optimizer's moments go where the weights are then
            for name, weight in self._kept().items():
                weight.copy_(state["model"][name])
            if self.optimizer:
                self._take_masters()
                self.optimizer.load_state_dict(state["optimizer"])
        self.steps, self.bad_in_a_row = state["steps"], state["bad_in_a_row"]
        self.batches, self.waited = state["batches"], state["waited"]

    def save(self, folder: Path) -> None:
        """Write what `state_dict` holds as safetensors and counters as JSON: reading it runs no code."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: w.detach().contiguous() for name, w in self._kept().items()}
        save_file(weights, folder / WEIGHTS)
        if self.optimizer:
            save_file(self._moments(self.optimizer), folder / MOMENTS)
        counters = {name: getattr(self, name) for name in COUNTERS}
        (folder / "counters.json").write_text(json.dumps(counters) + "\n", encoding="utf-8")

    def load(self, folder: Path) -> None:
        """The inverse of `save`. Raises UserError if the folder does not hold this learner's state."""
        try:
            counters = json.loads((folder / "counters.json").read_text(encoding="utf-8"))
            weights = load_file(folder / WEIGHTS)
            moments = load_file(folder / MOMENTS) if self.optimizer else {}
        except (OSError, ValueError, SafetensorError) as error:
            raise UserError(f"{folder} holds no learner that can be read: {brief(error)}") from None
        self._check(folder, counters, weights, moments)
        state: dict[str, Any] = {"model": weights, **counters}
        if self.optimizer:
            state["optimizer"] = self._optimizer_state(self.optimizer, moments)
        self.load_state_dict(state)

    def _check(self, folder: Path, counters: Any, *tensors: Mapping[str, Tensor]) -> None:
        """Raise UserError unless the files describe a model with the same tensors as this one."""
        whole = isinstance(counters, dict) and all(
            type(counters.get(name)) is int and counters[name] >= 0 for name in COUNTERS
        )
        if not whole:
            raise UserError(f"{folder}/counters.json lacks {', '.join(COUNTERS)}: save it again")
        own, (weights, moments) = self._kept(), tensors
        if weights.keys() != own.keys():
            differing = sorted(weights.keys() ^ own.keys())
            raise UserError(f"{folder} holds another model: {differing[0]} is in one of them only")
        expected = {f"{kind}/{name}": w.shape for name, w in own.items() for kind in TENSORS}
        expected |= {f"step/{name}": torch.Size() for name in own}
        if moments and moments.keys() != expected.keys():
            raise UserError(f"{folder}/{MOMENTS} lacks the moments of some weights: save it again")
        shapes = {name: w.shape for name, w in own.items()} | expected
        for name, tensor in (*weights.items(), *moments.items()):
            if tensor.shape != shapes[name]:
                raise UserError(
                    f"{folder} holds another model: {name} is {list(tensor.shape)}, "
                    f"not {list(shapes[name])}"
                )

    def _moments(self, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
        """The optimizer's tensors by the weights' names; none before its first step."""
        state = optimizer.state_dict()["state"]
        return {
            f"{kind}/{self.names[i]}": tensor.contiguous()
            for i, tensors in state.items()
            for kind, tensor in tensors.items()
        }

    def _optimizer_state(
        self, optimizer: torch.optim.Optimizer, moments: Mapping[str, Tensor]
    ) -> dict[str, Any]:
        """The inverse of `_moments`: a state that `optimizer` can load. The rates are its own."""
        number = {name: i for i, name in enumerate(self.names)}
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in moments.items():
            kind, _, name = key.partition("/")
            state.setdefault(number[name], {})[kind] = tensor
        return {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}

    def _kept(self) -> dict[str, Tensor]:
        """What a checkpoint needs: the masters of what is trained, or a frozen model's weights."""
        return dict(zip(self.names, self.masters, strict=True)) or dict(
            self.model.named_parameters()
        )


def master_of(parameter: nn.Parameter, offload: bool) -> Tensor:
    """What the optimizer moves: the parameter itself where it is fp32 and stays where it is, else an fp32 copy.

    A copy's gradient is the sum, in fp32, of what each backward pass hands over; the parameter keeps none.
    """
    device = torch.device("cpu") if offload else parameter.device
    if parameter.dtype == torch.float32 and parameter.device == device:
        return parameter
    master = parameter.detach().to(device, torch.float32, copy=True).requires_grad_()

    def hand_over(p: Tensor) -> None:
        assert p.grad is not None
        gradient = p.grad.to(device).to(
            torch.float32
        )  # in this order fewer bytes go to a distant master
        master.grad = gradient if master.grad is None else master.grad.add_(gradient)
        p.grad = None

    parameter.register_post_accumulate_grad_hook(hand_over)
    return master


def rate(options: OptimizerOptions, step: int, total: int, waited: int = 0) -> float:
    """Share of the peak learning rate at optimizer step `step` of `total`, whose first `waited` were not taken."""
    warm = min(1.0, (step - waited + 1) / (options.warmup + 1))
    if options.schedule == "constant":
        return warm
    progress = min(1.0, max(0, step - options.warmup) / max(1, total - options.warmup))
    return min(warm, 1.0 - (1.0 - options.final_share) * progress)
