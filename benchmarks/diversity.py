"""Several models on the same problems, each many times: accuracy, and how many different answers there are.

    python benchmarks/diversity.py tiny runs/laptop-grpo-0 runs/overtrained/1000-steps-0

On test problems of the laptop recipe with three numbers, and with four: the base has read 4 in 100 of those, and no
reinforcement learning has posed one.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import common
import torch

from tinyzero import config, models
from tinyzero.evaluate import evaluate
from tinyzero.grading.answers import extract_answer
from tinyzero.rollouts import Player
from tinyzero.samplers.torch import TorchSampler
from tinyzero.tasks import load_task
from tinyzero.tasks.arithmetic import expressions
from tinyzero.types import Group, SamplingParams


def locate(model: str) -> str:
    """A run's newest checkpoint, or the model as it is named."""
    return common.open_run(model)[1] if (Path(model) / "config.toml").is_file() else model


def distinct(group: Group, only_right: bool) -> int:
    """Different answers among the completions of one problem; the order of terms and factors makes no difference."""
    found = (extract_answer(r.completion.text) for r in group if r.reward.right or not only_right)
    return len({form(answer) for answer in found if answer is not None})


def form(answer: str) -> str:
    """The same for expressions that differ in order and grouping; text that is no expression is itself."""
    expression = expressions.parse(answer)
    return answer if expression is None else expressions.canonical(expression)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+")
    parser.add_argument("--n", type=int, default=256, help="distinct test problems of each kind")
    parser.add_argument("--k", type=int, default=32, help="completions a problem")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    recipe = config.resolve(config.read_recipe("laptop"), {})
    figures, rows = [], []
    for name in given.models:
        model, tokenizer = models.load_model(locate(name)), models.load_tokenizer(locate(name))
        sampler = TorchSampler(
            model, models.decoder(tokenizer), models.end_ids(tokenizer, model, ("</answer>",))
        )
        encode = partial(models.encode_prompt, tokenizer)
        params = SamplingParams(max_tokens=recipe.eval_tokens, n=given.k)
        for count in (3, 4):
            task = load_task(
                "countdown", {**recipe.task.options, "min_count": count, "max_count": count}
            )
            player = Player(task, sampler, encode, "compact")
            result = evaluate(player, split="test", problems=given.n, params=params, greedy=True)
            scores = ("pass@1", f"pass@{given.k}", "greedy")
            lengths = ("response_length", "behaviour/repeat_rate")
            found = {"model": name, "numbers": count} | {
                key: result.metrics[key] for key in (*scores, *lengths)
            }
            groups = result.groups
            found["distinct answers"] = sum(distinct(g, False) for g in groups) / len(groups)
            solved = [g for g in groups if any(r.reward.right for r in g)]
            found["distinct right answers"] = sum(distinct(g, True) for g in solved) / max(
                len(solved), 1
            )
            limits = {
                f"{key}/{side}": result.metrics[f"{key}/{side}"]
                for key in scores
                for side in ("low", "high")
            }
            figures.append(found | limits)
            row = {
                key: f"{value:.3f}" if isinstance(value, float) else value
                for key, value in found.items()
            }
            row |= {
                key: f"{row[key]} [{limits[f'{key}/low']:.3f}, {limits[f'{key}/high']:.3f}]"
                for key in scores
            }
            rows.append(list(row.values()))
    text = (
        f"{given.n} distinct test problems of each kind, {given.k} completions each, with 95 % intervals; answers "
        "that differ in the order of terms or factors are one; right answers of the solved.\n\n"
    )
    text += common.table([key for key in figures[0] if not key.endswith(("/low", "/high"))], rows)
    common.write(
        "diversity", common.describe([given.threads], "torch", "transformers"), figures, text
    )


if __name__ == "__main__":
    main()
