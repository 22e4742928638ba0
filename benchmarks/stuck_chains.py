"""Does a model recover from wrong attempts? Share of problems solved after k supplied ones.

    python benchmarks/stuck_chains.py runs/laptop-grpo-0

The model continues from a problem and k wrong attempts, which are legal, judged rightly and drawn
at random. The test problems are the same for every k and for both models: those that have enough
wrong attempts to supply.
"""

from __future__ import annotations

import argparse
import random

import common
import torch

from tinyzero import models
from tinyzero.evaluate import distinct_problems, interval
from tinyzero.grading import judge_group
from tinyzero.samplers.torch import TorchSampler
from tinyzero.tasks import load_task
from tinyzero.tasks.countdown import corpus
from tinyzero.tasks.countdown import thinking as behaviours
from tinyzero.types import SamplingParams, requests_for


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run")
    parser.add_argument(
        "--n",
        type=int,
        default=1024,
        help="distinct test problems, before those with too few attempts are left out",
    )
    parser.add_argument(
        "--k", type=int, nargs="+", default=[0, 2, 4, 8], help="supplied wrong attempts"
    )
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()

    torch.set_num_threads(given.threads)
    recipe, trained = common.open_run(given.run)
    task, rng = load_task(recipe.task.name, recipe.task.options), random.Random(0)
    limit, most = int(recipe.task.options["max_intermediate"]), max(given.k)

    posed = []  # pairs of a problem and the wrong attempts to supply
    for problem in distinct_problems(task, "test", given.n):
        numbers, target = problem.fields["numbers"], problem.fields["target"]
        wrong = [
            f"{way.steps} vs {target} no\n"
            for way in corpus.tries(numbers, limit)
            if way.value != target
        ]
        if len(wrong) >= most:
            posed.append((problem, rng.sample(wrong, most)))

    figures, rows = [], []
    for name, folder in {"base": recipe.model.name, "trained": trained}.items():
        model, tokenizer = models.load_model(folder), models.load_tokenizer(folder)
        sampler = TorchSampler(
            model, models.decoder(tokenizer), models.end_ids(tokenizer, model, task.stop)
        )
        problems = [problem for problem, _ in posed]

        prompts = {
            k: [
                models.encode_prompt(tokenizer, f"{task.prompt(p, 'compact')}{''.join(wrong[:k])}")
                for p, wrong in posed
            ]
            for k in given.k
        }

        # The limit has to be the same for every k, so it is that of the longest prompt.
        longest = max(len(prompt) for row in prompts.values() for prompt in row)
        params = SamplingParams(
            max_tokens=min(recipe.eval_tokens, model.context - longest), stop=tuple(task.stop)
        )
        for k in given.k:
            continued = [c[0] for c in sampler.generate(requests_for(prompts[k]), params)]
            verdicts = judge_group(task, problems, [c.text for c in continued])

            right = [float(v.reward is not None and v.reward.right is True) for v in verdicts]
            searched = [
                bool(behaviours.measure(p, c.text)["lines"])
                for p, c in zip(problems, continued, strict=True)
            ]
            mean, (low, high) = sum(right) / len(right), interval(right, [p.key for p in problems])

            entry = {"model": name, "k": k, "solved": mean, "low": low, "high": high}
            entry |= {
                "searched on": sum(searched) / len(right),
                "tokens": sum(len(c.token_ids) for c in continued) / len(right),
            }
            figures.append(entry)

            row = [
                name,
                k,
                f"{mean:.3f} [{low:.3f}, {high:.3f}]",
                f"{entry['searched on']:.3f}",
                f"{entry['tokens']:.0f}",
            ]
            rows.append(row)

    text = f"{len(posed)} distinct test problems, the same for every row.\n\n"
    text += common.table(
        ["model", "wrong attempts supplied", "solved", "made another attempt", "tokens after them"],
        rows,
    )
    common.write(
        "stuck_chains", common.describe([given.threads], "torch", "transformers"), figures, text
    )


if __name__ == "__main__":
    main()
