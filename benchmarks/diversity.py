"""Several models on the same problems, many times each: accuracy, and how many answers differ.

    python benchmarks/diversity.py tiny runs/laptop-grpo-0 runs/overtrained/1000-steps-0

The problems are test problems of the laptop recipe with three numbers and with four. In the base's
text 4 % of the problems have four numbers, and reinforcement learning never posed one.
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
    """The newest checkpoint if `model` is a run's folder; otherwise `model` itself."""
    return common.open_run(model)[1] if (Path(model) / "config.toml").is_file() else model


def distinct(group: Group, only_right: bool) -> int:
    """Number of different answers to one problem, ignoring the order of terms and factors."""
    chosen = [rollout for rollout in group if rollout.reward.right or not only_right]
    answers = [extract_answer(rollout.completion.text) for rollout in chosen]
    return len({form(answer) for answer in answers if answer is not None})


def form(answer: str) -> str:
    """A form that is equal for expressions that differ in order only; other text is unchanged."""
    expression = expressions.parse(answer)
    return answer if expression is None else expressions.canonical(expression)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+")
    parser.add_argument("--n", type=int, default=256, help="distinct test problems of each kind")
    parser.add_argument("--k", type=int, default=32, help="completions per problem")
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
            entry = {"model": name, "numbers": count} | {
                key: result.metrics[key] for key in (*scores, *lengths)
            }

            groups = result.groups
            entry["distinct answers"] = sum(distinct(g, False) for g in groups) / len(groups)
            solved = [g for g in groups if any(r.reward.right for r in g)]
            entry["distinct right answers"] = sum(distinct(g, True) for g in solved) / max(
                len(solved), 1
            )

            limits = {
                f"{key}/{side}": result.metrics[f"{key}/{side}"]
                for key in scores
                for side in ("low", "high")
            }
            figures.append(entry | limits)

            row = {
                key: f"{value:.3f}" if isinstance(value, float) else value
                for key, value in entry.items()
            }
            row |= {
                key: f"{row[key]} [{limits[f'{key}/low']:.3f}, {limits[f'{key}/high']:.3f}]"
                for key in scores
            }
            rows.append(list(row.values()))

    text = (
        f"{given.n} distinct test problems of each kind, {given.k} completions each, with 95 % "
        "intervals. Answers that differ only in the order of terms or factors count as one. "
        "Distinct right answers are those of solved problems.\n\n"
    )
    text += common.table([key for key in figures[0] if not key.endswith(("/low", "/high"))], rows)
    common.write(
        "diversity", common.describe([given.threads], "torch", "transformers"), figures, text
    )


if __name__ == "__main__":
    main()
