"""Training a reward model from pairs, with the Bradley-Terry loss.

The probability that an answer with the score a is chosen over one with the score b is
sigmoid(a - b) (Bradley and Terry, 1952). A margin asks for a difference of that size (Touvron et
al., Llama 2, 2023, equation 2). TRL's RewardTrainer minimises the same.
"""

from __future__ import annotations

import json
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from tinyzero import models
from tinyzero.errors import UserError, short_path
from tinyzero.evaluate import interval
from tinyzero.run import outputs
from tinyzero.tools.prefer.options import PreferOptions
from tinyzero.tools.prefer.pairs import Pair, held_out, read_pairs

WARMUP = 0.05  # share of the steps in which the learning rate rises
GRAD_CLIP = 1.0
SHOWN_EVERY = 5.0  # seconds between two lines of progress
FIX = "name another folder with --out"
FEWEST = 10  # held-out pairs, below which an accuracy says nothing


def bradley_terry(chosen: Tensor, rejected: Tensor, margin: Tensor) -> Tensor:
    """The mean of -log sigmoid(chosen - rejected - margin) over pairs; all have shape (pairs,).

    >>> zero = torch.zeros(1)
    >>> round(float(bradley_terry(zero, zero, zero)), 4)  # log 2: nothing is known
    0.6931
    """
    return -logsigmoid(chosen - rejected - margin).mean()


def prefer(
    source: Path, base: str, folder: Path, options: PreferOptions, say: Callable[[str], None]
) -> dict[str, Any]:
    """Train a classifier from the pairs in `source`, starting from `base`, and save it in `folder`.

    Returns what is also written to `prefer.json` there: the held-out accuracy with its interval.
    `say` shows progress. Raises UserError for what the user can fix, and if the held-out accuracy
    is below `options.least_accuracy`; nothing is saved then.
    """
    require_new(folder)
    pairs = read_pairs(source, say)
    training, testing = held_out(pairs)
    if not training or len(testing) < FEWEST:
        raise UserError(
            f"{short_path(source)} leaves {len(testing)} pairs to test with and {len(training)} to "
            f"train on: give at least {FEWEST} to test with, which takes about {8 * FEWEST} prompts"
        )

    classifier = models.new_classifier(base, options.seed, options.device, note=say)
    say(
        f"{len(training)} pairs to train on, {len(testing)} held out: no prompt is in both; "
        f"training on {classifier.device}"
    )
    train_classifier(classifier, training, options, say)

    result = measure(classifier, testing) | {"pairs": len(training), "base": base}
    low, high = result["low"], result["high"]
    say(f"held-out accuracy {result['accuracy']:.3f} [{low:.3f}, {high:.3f}]")
    if result["accuracy"] < options.least_accuracy:
        raise UserError(
            f"the held-out accuracy is {result['accuracy']:.3f} [{low:.3f}, {high:.3f}], below "
            f"{options.least_accuracy:g}, so nothing was saved: use more pairs or another model, "
            "or lower --least_accuracy"
        )

    save(classifier, folder, base, {**result, "options": options.model_dump()})
    return result


def train_classifier(
    classifier: models.Classifier,
    pairs: Sequence[Pair],
    options: PreferOptions,
    say: Callable[[str], None],
) -> None:
    """Train in place. The order of the pairs depends on the seed alone."""
    classifier.train()
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=options.learning_rate)
    epochs = range(options.epochs)
    batches = [batch for epoch in epochs for batch in _batches(pairs, epoch, options)]
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, len(batches))
    )

    started = shown = time.monotonic()
    for step, batch in enumerate(batches, 1):
        loss, right = pair_loss(classifier, batch)
        if not torch.isfinite(loss):
            raise UserError(f"the loss of step {step} is not finite: lower --learning_rate")
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(classifier.parameters(), GRAD_CLIP)
        optimizer.step()
        schedule.step()

        now = time.monotonic()
        if now - shown > SHOWN_EVERY or step in (1, len(batches)):
            shown, left = now, (now - started) / step * (len(batches) - step)
            say(
                f"step {step}/{len(batches)}  loss {loss.item():.3f}  accuracy {right:.2f}  "
                f"left {int(left) // 60}:{int(left) % 60:02d}"
            )
    classifier.eval()


def pair_loss(classifier: models.Classifier, batch: Sequence[Pair]) -> tuple[Tensor, float]:
    """The loss of a batch, and the share of its pairs that are in the right order."""
    rows = [classifier.encode(pair.prompt, pair.chosen) for pair in batch]
    rows += [classifier.encode(pair.prompt, pair.rejected) for pair in batch]
    chosen, rejected = classifier(rows).chunk(2)
    margin = torch.tensor([pair.margin for pair in batch], device=chosen.device)
    return bradley_terry(chosen, rejected, margin), float((chosen > rejected).float().mean())


def learning_rate_factor(step: int, steps: int) -> float:
    """The learning rate of a step as a share of the highest: it rises, then falls to zero.

    >>> [round(learning_rate_factor(step, 40), 2) for step in (0, 1, 2, 21, 39)]
    [0.5, 1.0, 1.0, 0.5, 0.03]
    """
    warmup = max(1, int(WARMUP * steps))
    if step < warmup:
        return (step + 1) / warmup
    return (steps - step) / max(1, steps - warmup)


def measure(classifier: models.Classifier, pairs: Sequence[Pair]) -> dict[str, Any]:
    """The share of pairs in the right order with a 95 % interval; pairs of a prompt are a cluster.

    Equal scores count as half.
    """
    prompts = [pair.prompt for pair in pairs]
    chosen = classifier.score(prompts, [pair.chosen for pair in pairs])
    rejected = classifier.score(prompts, [pair.rejected for pair in pairs])
    right = [0.5 if a == b else float(a > b) for a, b in zip(chosen, rejected, strict=True)]
    low, high = interval(right, [pair.key for pair in pairs])
    return {
        "accuracy": sum(right) / len(right),
        "low": low,
        "high": high,
        "held_out_pairs": len(pairs),
    }


def save(classifier: models.Classifier, folder: Path, base: str, result: dict[str, Any]) -> None:
    """Write the classifier to `folder`, whole or not at all, and read it back."""
    with outputs.whole(folder, _is_empty, FIX) as temporary:
        temporary.mkdir()
        models.save_classifier(classifier, temporary, base)
        text = json.dumps(result, indent=2) + "\n"
        (temporary / "prefer.json").write_text(text, encoding="utf-8")


def require_new(folder: Path) -> None:
    """Raise UserError if `folder` has content, or its parent cannot be written."""
    try:
        if folder.exists() and not _is_empty(folder):
            raise UserError(f"{short_path(folder)} exists: {FIX}")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".tmp-", dir=folder.parent):
            pass
    except OSError as error:
        raise UserError(f"cannot write {short_path(folder)}: {error.strerror}") from None


def _is_empty(folder: Path) -> bool:
    """Whether this is a folder without content."""
    return folder.is_dir() and not any(folder.iterdir())


def _batches(pairs: Sequence[Pair], epoch: int, options: PreferOptions) -> list[list[Pair]]:
    """The pairs of one epoch in an order of its own, in batches."""
    order = list(pairs)
    random.Random(f"{options.seed}:{epoch}").shuffle(order)
    starts = range(0, len(order), options.batch)
    return [order[start : start + options.batch] for start in starts]
