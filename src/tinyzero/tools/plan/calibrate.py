"""A CPU for `tinyzero plan`: five timings of this machine, made with the bundled base.

One big matrix product gives its rate; one of a few rows, how fast weights are laid out for it. What a pass over the
laptop's base takes beyond its products at that rate is laid on its layers and channels; what a decode step takes at
many rows and at few tells its cost a row from its cost a layer. A fifth of a minute, and other widths, depths and
lengths follow from `plan`'s formulas.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch.nn import functional as F

from tinyzero import models
from tinyzero.batching import Batch
from tinyzero.config import OptimizerOptions
from tinyzero.cost.devices import CPU, Device
from tinyzero.cost.shapes import find_shape
from tinyzero.learner import TorchLearner, policy_outputs
from tinyzero.samplers.torch import TorchSampler
from tinyzero.types import SamplingParams, requests_for

MODEL = "tiny"
PROMPT, NEW = 14, 48  # tokens of what is decoded
FEW, MANY = 16, 256  # rows decoded at once
ROWS, COLUMNS = 48, 128  # of what is learned from
PRODUCTS = 20  # matrix products timed together
WIDTH, INNER = 512, 1536  # of the products that are timed by themselves: a small model's layer
LAYERS = 40  # of such weights, which no cache holds


def calibrate(threads: int, clock: Callable[[], float] = time.perf_counter) -> Device:
    """This machine's CPU with so many threads (0 for torch's choice), by `clock`'s seconds.

    Of several tries the fastest counts, which is the one that nothing else on the machine held up.
    """
    if threads:
        torch.set_num_threads(threads)
    shape = find_shape(MODEL)
    model, rate = models.load_model(MODEL), matrix_rate(clock)
    through = bandwidth(rate, clock)
    few, many = (fastest(decoding(model, rows), clock) / NEW for rows in (FEW, MANY))
    row = (many - few) / (MANY - FEW)
    context = PROMPT + NEW / 2
    channels = shape.channels(context)
    learning = fastest(updating(model), clock)
    tokens = ROWS * COLUMNS
    beyond = learning - 3 * shape.forward(tokens, COLUMNS) / rate
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return replace(
        CPU,
        name=f"this CPU with {torch.get_num_threads()} threads, calibrated",
        memory=float(memory),
        bandwidth=through,
        rates={"float32": rate},
        launch=max(0.0, few - FEW * row - 4 * shape.active / through) / shape.layers,
        reading=max(0.0, beyond) / (3 * tokens * shape.channels(COLUMNS / 2)),
        decoding=max(0.0, row - shape.forward(1, 2 * context) / rate) / channels,
    )


def fastest(work: Callable[[], object], clock: Callable[[], float], tries: int = 4) -> float:
    """Seconds of the fastest try, after one that warms up."""
    work()
    found = []
    for _ in range(tries):
        began = clock()
        work()
        found.append(clock() - began)
    return min(found)


def matrix_rate(clock: Callable[[], float]) -> float:
    """FLOPs a second of an fp32 product of the size that a small model's layers have at a few hundred rows."""
    rows = 512
    a, b = torch.randn(rows, WIDTH), torch.randn(WIDTH, INNER)

    def work() -> None:
        for _ in range(PRODUCTS):
            a @ b

    return PRODUCTS * 2 * rows * WIDTH * INNER / fastest(work, clock)


def bandwidth(rate: float, clock: Callable[[], float]) -> float:
    """Bytes of weights a second that go into products of FEW rows, beside the `rate` at which these compute."""
    rows, layers = torch.randn(FEW, WIDTH), [torch.randn(INNER, WIDTH) for _ in range(LAYERS)]

    def work() -> None:
        for weights in layers:
            F.linear(rows, weights)

    count, seconds = LAYERS * WIDTH * INNER, fastest(work, clock)
    return 4 * count / max(seconds - 2 * FEW * count / rate, 0.1 * seconds)


def decoding(model: models.Backbone, rows: int) -> Callable[[], object]:
    """NEW tokens for each of `rows` prompts, none of which ends early."""
    sampler = TorchSampler(model, lambda ids: "", end_ids=frozenset(), max_rows=rows)
    requests = requests_for([range(1, PROMPT + 1)] * rows)
    return lambda: sampler.generate(requests, SamplingParams(max_tokens=NEW, stop=()))


def updating(model: models.Backbone) -> Callable[[], object]:
    """One update on ROWS sequences of COLUMNS tokens, every one of which has a gradient; it moves nothing far."""
    learner = TorchLearner(
        model,
        policy_outputs,
        OptimizerOptions(learning_rate=1e-12),
        loss=lambda out, part, totals: (out["logprobs"].sum() / totals.tokens, {}),
        micro_tokens=2048,
    )
    tokens = torch.arange(ROWS * COLUMNS).view(ROWS, COLUMNS) % model.config.vocab_size
    flat = torch.zeros(ROWS, COLUMNS - 1)
    batch = Batch(
        tokens=tokens,
        mask=flat == 0,
        sampled_logprobs=flat,
        rewards=torch.zeros(ROWS),
        groups=torch.arange(ROWS),
        lengths=torch.full((ROWS,), COLUMNS),
        limits=torch.full((ROWS,), COLUMNS),
        right=torch.zeros(ROWS, dtype=torch.bool),
        graded=torch.zeros(ROWS, dtype=torch.bool),
    )
    return lambda: learner.update(batch)
