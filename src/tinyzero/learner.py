"""A learner: one model with its optimizer and loss, or a frozen model that only scores.

The loss and gradient of an update do not depend on how the batch is cut into micro-batches, because
every denominator is a total of the whole optimizer step. Rows that are known to have no gradient
are not computed at all.
"""

from __future__ import annotations

import json
import math
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
Metrics = dict[str, tuple[Tensor, Tensor]]

WEIGHTS, MOMENTS = "weights.safetensors", "moments.safetensors"
TENSORS = ("exp_avg", "exp_avg_sq")  # what AdamW keeps per weight, in addition to a step count
COUNTERS = ("steps", "batches", "waited", "bad_in_a_row")


def policy_outputs(
    model: nn.Module, batch: Batch, temperature: float = 1.0, logit_rows: int = 2048
) -> Outputs:
    """Logprobs and entropy (B, T) of the tokens in the mask; 0 elsewhere.

    `temperature` must be the one that the tokens were sampled at. Logits are computed only for
    masked columns, in fp32, and for at most `logit_rows` of them at a time. Without gradients there
    is no entropy: those who score a batch do not read it.

    The batch may stay in CPU memory if the model is on a GPU. The results are on the GPU, and the
    host does not wait for it.
    """
    assert isinstance(model, Backbone)

    # nothing is predicted after the last token of a row
    states, columns = model.states(batch.tokens[:, :-1], batch.lengths - 1, batch.groups)
    index = columns[batch.mask].to(states.device, non_blocking=True)
    hidden = nn.functional.embedding(index, states)  # (N, D)
    targets = batch.tokens[:, 1:][batch.mask].to(states.device, non_blocking=True)

    head = model.head
    if not torch.is_grad_enabled():
        logprobs = losses.scored_logprobs(
            hidden, head.weight, head.bias, targets, temperature, logit_rows
        )
        return {"logprobs": _scatter(logprobs, batch.mask)}

    if len(hidden) <= logit_rows and hidden.dtype == torch.float32:
        logits = model.logits_of(hidden) / temperature  # few enough to keep for the backward pass
        logprobs = logits.log_softmax(-1).gather(-1, targets[:, None]).squeeze(-1)
        entropy = losses.entropy(logits)
    else:
        logprobs, entropy = losses.chosen_logprobs(
            hidden, head.weight, head.bias, targets, temperature, logit_rows
        )

    return {"logprobs": _scatter(logprobs, batch.mask), "entropy": _scatter(entropy, batch.mask)}


def value_outputs(model: nn.Module, batch: Batch) -> Outputs:
    """Values (B, T): the return that the critic expects before each token is chosen."""
    assert isinstance(model, ValueModel)
    return {"values": model.values(batch.tokens[:, :-1], batch.lengths - 1, batch.groups)}


def _logged(outputs: Outputs, batch: Batch) -> Metrics:
    """The metrics that do not depend on the loss, as {name: (sum, count)} over trained tokens."""
    if "entropy" not in outputs:
        return {}
    entropy = outputs["entropy"].detach().float()
    return {"entropy": ((entropy * batch.mask).sum(), batch.mask.sum())}


def _detached(metrics: Metrics) -> Metrics:
    """The metrics without what is needed for their gradients, which takes memory."""
    return {name: (total.detach(), count.detach()) for name, (total, count) in metrics.items()}


def _scatter(values: Tensor, mask: Tensor) -> Tensor:
    """The (N,) values of the masked tokens as (B, T), 0 elsewhere, on the values' device."""
    zeros = torch.zeros(mask.shape, dtype=values.dtype, device=values.device)
    return zeros.masked_scatter(mask.to(values.device, non_blocking=True), values)


class TorchLearner:
    """One model with its loss and, unless it is frozen, its optimizer.

    Example: a policy that takes two optimizer steps per batch.

        learner = TorchLearner(model, policy_outputs, OptimizerOptions(), loss, minibatches=2)
        metrics = learner.update(batch)     # {"loss": ..., "grad_norm": ..., "entropy": ..., ...}
    """

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
        """`outputs` computes from the model what `loss` and `score` need.

        With `options` None the model is frozen. Otherwise its parameters that require a gradient
        minimise `loss` in `minibatches` optimizer steps per batch, `epochs` times over.
        `total_updates` is where a linear schedule ends. `micro_tokens` bounds the tokens computed
        at once, padding included. `patience` is how many updates in a row may have a gradient that
        is not finite before NonFiniteError is raised. With `park` the model waits in CPU memory
        while it is not used.
        """
        self.model, self.outputs, self.loss = model, outputs, loss
        self.trained = options is not None
        self.options, self.total_updates = options, total_updates
        self.minibatches, self.epochs, self.updates = minibatches, epochs, minibatches * epochs
        self.micro_tokens, self.patience = micro_tokens, patience
        self.shares = bool(getattr(model, "share", False))
        self.device = next(model.parameters()).device
        self.park = park

        self.steps = 0  # optimizer steps, skipped ones included
        self.batches = 0  # batches trained on
        self.waited = 0  # of the steps, those skipped before the first one that was taken
        self.bad_in_a_row = 0  # updates whose gradient was not finite

        if options is None:
            model.requires_grad_(False)
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.names, self.parameters = list(trained), list(trained.values())

        self.masters: list[Tensor] = []
        self.optimizer: torch.optim.Optimizer | None = None
        if options is not None:
            self.masters = [master_of(parameter, options.offload) for parameter in self.parameters]
            self.optimizer = torch.optim.AdamW(
                self.masters,
                lr=options.learning_rate,
                betas=(options.beta1, options.beta2),
                weight_decay=options.weight_decay,
                fused=True,
            )
        if park:
            self.model.to("cpu")

    @torch.no_grad()
    def score(self, batch: Batch) -> Tensor:
        """Logprobs or values (B, T) of every row, without gradient."""
        parts: list[tuple[Tensor, Tensor]] = []
        with self._in_place():
            for rows, part in batch.micro_batches(
                self.micro_tokens, skip_idle=False, share=self.shares
            ):
                outputs = self.outputs(self.model, part)
                name = "logprobs" if "logprobs" in outputs else "values"
                parts.append((rows, outputs[name]))

        scores = torch.zeros(batch.mask.shape)
        for rows, values in parts:  # only now, because this waits for a GPU
            scores[rows, : values.shape[1]] = values.cpu()
        return scores

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        """Have the model on its device; a parked one goes back to CPU memory afterwards."""
        if not self.park:
            yield
            return
        self.model.to(self.device)
        try:
            yield
        finally:
            self.model.to("cpu")

    def update(self, batch: Batch, totals: Sequence[Totals] | None = None) -> dict[str, float]:
        """Take optimizer steps on `batch`, split in order into `minibatches`, `epochs` times over.

        `totals` has the denominators of each minibatch if some of its rows are on other ranks; None
        means that the batch is complete. Returns each metric of the loss, and the entropy, as its
        sum divided by its count; `loss` and `grad_norm` averaged over the steps; the first step's
        `learning_rate`; and `skipped`. Raises NonFiniteError if the gradient was not finite
        `patience` times in a row.
        """
        sums: dict[str, list[float]] = {}
        norms: list[float] = []
        shares: list[float] = []  # each micro-batch's share of its step's loss
        skipped = 0
        taken = min(self.minibatches, batch.size)  # optimizer steps per epoch
        learning_rate = self._learning_rate()

        with self._in_place():
            for _ in range(self.epochs):
                for i, rows in enumerate(torch.arange(batch.size).tensor_split(taken)):
                    part = batch.select(rows) if self.minibatches > 1 else batch
                    part_totals = totals[i] if totals else part.totals()
                    norm = self._step(part, part_totals, sums, shares)
                    if norm is None:
                        skipped += 1
                    else:
                        norms.append(norm)

        self.batches += 1
        # a batch with fewer rows than minibatches leaves the schedule where it would have been
        self.skip((self.minibatches - taken) * self.epochs)

        metrics = {name: total / count if count else 0.0 for name, (total, count) in sums.items()}
        metrics["loss"] = sum(shares) / (taken * self.epochs)
        metrics["grad_norm"] = sum(norms) / len(norms) if norms else float("nan")
        return metrics | {"learning_rate": learning_rate, "skipped": float(skipped)}

    def _step(
        self, batch: Batch, totals: Totals, sums: dict[str, list[float]], shares: list[float]
    ) -> float | None:
        """Take one optimizer step; returns the gradient's norm, or None if it was not finite.

        Adds to `sums` the sum and count of each metric, and to `shares` the micro-batches' losses.
        """
        assert self.options is not None
        assert self.optimizer is not None

        self.optimizer.zero_grad(set_to_none=True)
        for share, metrics in self._backward(batch, totals):
            shares.append(float(share))
            for name, (total, count) in metrics.items():
                entry = sums.setdefault(name, [0.0, 0.0])
                entry[0] += float(total)
                entry[1] += float(count)

        norm = float(nn.utils.clip_grad_norm_(self.masters, self.options.grad_clip))
        is_finite = math.isfinite(norm)
        if is_finite:
            for group in self.optimizer.param_groups:
                group["lr"] = self._learning_rate()
            self.optimizer.step()
            self._take_masters()

        self.steps += 1
        self.bad_in_a_row = 0 if is_finite else self.bad_in_a_row + 1
        if self.bad_in_a_row >= self.patience:
            raise NonFiniteError(
                f"the gradient was not finite in {self.bad_in_a_row} updates in a row"
            )
        return norm if is_finite else None

    def _backward(self, batch: Batch, totals: Totals) -> list[tuple[Tensor, Metrics]]:
        """Add up the gradient of a step: (share of the loss, metrics) of each micro-batch.

        Nothing here is read on the host, so that it can prepare the next micro-batch while a GPU
        computes this one. What decides about rows and columns is in CPU memory.
        """
        assert self.loss is not None, "a model that is trained needs a loss"

        logged: list[tuple[Tensor, Metrics]] = []
        for _, part in batch.micro_batches(self.micro_tokens, share=self.shares):
            outputs = self.outputs(self.model, part)
            here = part.to(self.device)
            scalar, metrics = self.loss(outputs, here, totals)
            scalar.backward()
            logged.append((scalar.detach(), _detached(metrics | _logged(outputs, here))))
        return logged

    def _learning_rate(self) -> float:
        """Learning rate of the next step."""
        assert self.options is not None, "a frozen model cannot be updated"
        return self.options.learning_rate * rate(
            self.options, self.steps, self.total_updates, self.waited
        )

    def skip(self, updates: int) -> None:
        """Count `updates` that were not taken, so that the schedule stays in step with the run.

        The warm-up still begins with the first step that is taken.
        """
        self.waited += updates if self.steps == self.waited else 0
        self.steps += updates

    @torch.no_grad()
    def _take_masters(self) -> None:
        """Copy the masters, rounded, to the weights that are not their own masters."""
        for parameter, master in zip(self.parameters, self.masters, strict=True):
            if master is not parameter:
                # rounded first, so that fewer bytes go to another device
                parameter.copy_(master.to(parameter.dtype))

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Weights with their Hugging Face names; adapters are merged."""
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
        """Everything that `update` changes and depends on; for a frozen model its weights."""
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
        with self._in_place():  # so that the optimizer's moments are on the weights' device
            for name, weight in self._kept().items():
                weight.copy_(state["model"][name])
            if self.optimizer:
                self._take_masters()
                self.optimizer.load_state_dict(state["optimizer"])
        self.steps, self.bad_in_a_row = state["steps"], state["bad_in_a_row"]
        self.batches, self.waited = state["batches"], state["waited"]

    def save(self, folder: Path) -> None:
        """Write what `state_dict` holds: tensors as safetensors, counters as JSON, and no code."""
        folder.mkdir(parents=True, exist_ok=True)

        weights = {name: weight.detach().contiguous() for name, weight in self._kept().items()}
        save_file(weights, folder / WEIGHTS)
        if self.optimizer:
            save_file(self._moments(self.optimizer), folder / MOMENTS)

        counters = {name: getattr(self, name) for name in COUNTERS}
        (folder / "counters.json").write_text(json.dumps(counters) + "\n", encoding="utf-8")

    def load(self, folder: Path) -> None:
        """The inverse of `save`. Raises UserError if the folder holds another learner's state."""
        try:
            counters = json.loads((folder / "counters.json").read_text(encoding="utf-8"))
            weights = load_file(folder / WEIGHTS)
            moments = load_file(folder / MOMENTS) if self.optimizer else {}
        except (OSError, ValueError, SafetensorError) as error:
            raise UserError(f"cannot read the learner in {folder}: {brief(error)}") from None

        self._check(folder, counters, weights, moments)
        state: dict[str, Any] = {"model": weights, **counters}
        if self.optimizer:
            state["optimizer"] = self._optimizer_state(self.optimizer, moments)
        self.load_state_dict(state)

    def _check(self, folder: Path, counters: Any, *tensors: Mapping[str, Tensor]) -> None:
        """Raise UserError unless the files describe a model with the same tensors as this one."""
        is_complete = isinstance(counters, dict) and all(
            type(counters.get(name)) is int and counters[name] >= 0 for name in COUNTERS
        )
        if not is_complete:
            raise UserError(f"{folder}/counters.json lacks {', '.join(COUNTERS)}: save it again")

        own, (weights, moments) = self._kept(), tensors
        if weights.keys() != own.keys():
            differing = sorted(weights.keys() ^ own.keys())
            raise UserError(f"{folder} holds another model: only one of them has {differing[0]}")

        expected = {
            f"{kind}/{name}": weight.shape for name, weight in own.items() for kind in TENSORS
        }
        expected |= {f"step/{name}": torch.Size() for name in own}
        if moments and moments.keys() != expected.keys():
            raise UserError(f"{folder}/{MOMENTS} lacks the moments of some weights: save it again")

        shapes = {name: weight.shape for name, weight in own.items()} | expected
        for name, tensor in (*weights.items(), *moments.items()):
            if tensor.shape != shapes[name]:
                raise UserError(
                    f"{folder} holds another model: {name} is {list(tensor.shape)}, "
                    f"not {list(shapes[name])}"
                )

    def _moments(self, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
        """The optimizer's tensors by the names of the weights; empty before its first step."""
        state = optimizer.state_dict()["state"]
        return {
            f"{kind}/{self.names[i]}": tensor.contiguous()
            for i, tensors in state.items()
            for kind, tensor in tensors.items()
        }

    def _optimizer_state(
        self, optimizer: torch.optim.Optimizer, moments: Mapping[str, Tensor]
    ) -> dict[str, Any]:
        """The inverse of `_moments`, ready for `optimizer`, which keeps its own learning rates."""
        numbers = {name: i for i, name in enumerate(self.names)}
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in moments.items():
            kind, _, name = key.partition("/")
            state.setdefault(numbers[name], {})[kind] = tensor

        return {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}

    def _kept(self) -> dict[str, Tensor]:
        """What a checkpoint needs: the masters of trained weights, or a frozen model's weights."""
        masters = dict(zip(self.names, self.masters, strict=True))
        return masters or dict(self.model.named_parameters())


def master_of(parameter: nn.Parameter, offload: bool) -> Tensor:
    """The fp32 tensor that the optimizer changes: the parameter itself, or a copy of it.

    A copy is made if the parameter is not fp32, or if `offload` puts the copy into CPU memory. The
    copy's gradient is the fp32 sum over backward passes; the parameter keeps none.
    """
    device = torch.device("cpu") if offload else parameter.device
    if parameter.dtype == torch.float32 and parameter.device == device:
        return parameter
    master = parameter.detach().to(device, torch.float32, copy=True).requires_grad_()

    def move_gradient(weight: nn.Parameter) -> None:
        assert weight.grad is not None
        gradient = weight.grad.to(device)
        weight.grad = None

        # Both ways turn it into fp32 on the master's device, so that fewer bytes are moved. The sum
        # does this while it adds, without a copy in fp32.
        if master.grad is None:
            master.grad = gradient.to(torch.float32)
        else:
            master.grad.add_(gradient)

    parameter.register_post_accumulate_grad_hook(move_gradient)
    return master


def rate(options: OptimizerOptions, step: int, total: int, waited: int = 0) -> float:
    """Share of the peak learning rate at optimizer step `step` of `total`.

    The first `waited` steps were not taken, so the warm-up begins after them.

    >>> options = OptimizerOptions(warmup=0, schedule="linear", final_share=0.1)
    >>> round(rate(options, step=50, total=100), 3)
    0.55
    """
    warm = min(1.0, (step - waited + 1) / (options.warmup + 1))
    if options.schedule == "constant":
        return warm
    progress = min(1.0, max(0, step - options.warmup) / max(1, total - options.warmup))
    return min(warm, 1.0 - (1.0 - options.final_share) * progress)
