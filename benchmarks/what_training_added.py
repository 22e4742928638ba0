"""What did training add? The trained model compared with what its base can do with as many tokens.

    python benchmarks/what_training_added.py runs/laptop-grpo-0

Three baselines spend as many tokens per problem as the trained model does on average:

    blind search    every legal attempt once, in random order, judged without error, by no model
    forced base     the base, which may not stop thinking before it has said yes
    best of k       k completions of the base, of which the first that says yes counts

The table also has pass@1, pass@k and greedy accuracy of both models, and how they search. The
baselines are also written into the run's baselines.json, which `tinyzero report` reads.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import common
import torch

from tinyzero import config, models
from tinyzero.evaluate import distinct_problems, evaluate, interval
from tinyzero.grading import judge_group
from tinyzero.rollouts import Player
from tinyzero.samplers.torch import TorchSampler
from tinyzero.tasks import load_task
from tinyzero.tasks.countdown import corpus
from tinyzero.tasks.countdown import thinking as behaviours
from tinyzero.types import Completion, Problem, Request, SamplingParams, requests_for

SHOWN = (
    "attempts",
    "distinct_attempts",
    "early_hit_rate",
    "arithmetic_accuracy",
    "verification_precision",
)


class Bench:
    """One model with the task and the test problems of the run."""

    def __init__(self, folder: str, recipe: config.Config, problems: Sequence[Problem]) -> None:
        self.model, self.tokenizer = models.load_model(folder), models.load_tokenizer(folder)
        self.task = load_task(recipe.task.name, recipe.task.options)
        ends = models.end_ids(self.tokenizer, self.model, self.task.stop)
        self.sampler = TorchSampler(self.model, models.decoder(self.tokenizer), ends)
        self.recipe, self.problems = recipe, problems
        self.params = SamplingParams(max_tokens=recipe.eval_tokens, stop=tuple(self.task.stop))
        self.prompts = [self.encode(self.task.prompt(p, recipe.model.prompt)) for p in problems]

    def encode(self, prompt: Any) -> tuple[int, ...]:
        return models.encode_prompt(self.tokenizer, prompt)

    def evaluate(self, k: int) -> dict[str, Any]:
        return dict(
            evaluate(
                Player(self.task, self.sampler, self.encode, self.recipe.model.prompt),
                split="test",
                problems=len(self.problems),
                params=replace(self.params, n=k),
                greedy=True,
            ).metrics
        )

    def scores(self, problems: Sequence[Problem], completions: Sequence[Completion]) -> list[float]:
        verdicts = judge_group(self.task, problems, [c.text for c in completions])
        return [v.reward.value if v.reward else 0.0 for v in verdicts]


def tokens_of(bench: Bench, text: str) -> int:
    """How many tokens a text has."""
    return len(bench.tokenizer(text)["input_ids"])


def blind_search(bench: Bench, budget: float) -> tuple[list[float], float]:
    """Scores of a search that stops after a number of tokens, and the mean number of tokens.

    The limit is chosen so that the mean is `budget`.
    """
    rng, limit = random.Random(0), int(bench.recipe.task.options["max_intermediate"])

    costs: list[int] = []
    for problem in bench.problems:
        numbers, target = problem.fields["numbers"], problem.fields["target"]
        ways = corpus.tries(numbers, limit)
        rng.shuffle(ways)
        spent = 0
        for way in ways:
            hit = way.value == target
            spent += tokens_of(bench, f"{way.steps} vs {target} {'yes' if hit else 'no'}\n")
            if hit:
                break
        costs.append(spent)

    answer = 12  # tokens of </think>, <answer>, the expression and </answer>
    low, high = 0, 2000
    # Find the smallest cap whose mean cost reaches the budget.
    while low < high:
        cap = (low + high) // 2
        mean = sum(min(c, cap) + answer for c in costs) / len(costs)
        low, high = (cap + 1, high) if mean < budget else (low, cap)

    spent_mean = sum(min(c, low) + answer for c in costs) / len(costs)
    return [float(c <= low) for c in costs], spent_mean


def forced(bench: Bench, cap: int) -> tuple[list[float], float]:
    """Scores and mean tokens of the base if it has to think until a yes, or for `cap` tokens."""
    close = int(bench.tokenizer.convert_tokens_to_ids("</think>"))
    ends = tuple(bench.sampler.end_ids.tolist())
    first = replace(bench.params, banned=(close, *ends), stop=(" yes\n",), max_tokens=cap)
    thought = [cs[0] for cs in bench.sampler.generate(requests_for(bench.prompts), first)]

    said_yes = [i for i, c in enumerate(thought) if c.finish_reason == "stop"]
    rest = bench.sampler.generate(
        [
            Request(bench.prompts[i] + thought[i].token_ids, group=i, position=thought[i].length)
            for i in said_yes
        ],
        replace(bench.params, max_tokens=64),
    )

    scores, tokens = [0.0] * len(thought), [len(c.token_ids) for c in thought]
    whole = [
        replace(c[0], text=thought[i].text + c[0].text) for i, c in zip(said_yes, rest, strict=True)
    ]
    for i, c, value in zip(
        said_yes, rest, bench.scores([bench.problems[i] for i in said_yes], whole), strict=True
    ):
        scores[i] = float(value >= 1)
        tokens[i] += len(c[0].token_ids)
    return scores, sum(tokens) / len(tokens)


def forced_at(bench: Bench, budget: float) -> tuple[list[float], float]:
    """`forced` with the cap that comes closest to the budget, by bisection."""
    low, high = 16, bench.model.context - 128
    while high - low > 8:
        cap = (low + high) // 2
        low, high = (cap, high) if forced(bench, cap)[1] < budget else (low, cap)
    return forced(bench, high)


def best_of(bench: Bench, k: int) -> tuple[list[float], float]:
    """Scores of the first of k completions that says yes, and the mean tokens of those read."""
    sampled = bench.sampler.generate(requests_for(bench.prompts, k), replace(bench.params, seed=7))

    chosen, tokens = [], 0
    for problem, completions in zip(bench.problems, sampled, strict=True):
        numbers, target = problem.fields["numbers"], problem.fields["target"]
        claims = [
            any(a.verdict for a in behaviours.trace(numbers, target, c.text)) for c in completions
        ]
        pick = claims.index(True) if True in claims else 0
        chosen.append(completions[pick])
        tokens += sum(len(c.token_ids) for c in completions[: (pick + 1 if True in claims else k)])
    return [float(v >= 1) for v in bench.scores(bench.problems, chosen)], tokens / len(sampled)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run")
    parser.add_argument("--n", type=int, default=1024, help="distinct test problems")
    parser.add_argument("--k", type=int, default=8, help="completions per problem for pass@k")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()

    torch.set_num_threads(given.threads)
    recipe, folder = common.open_run(given.run)
    problems = distinct_problems(load_task(recipe.task.name, recipe.task.options), "test", given.n)

    base = Bench(recipe.model.name, recipe, problems)
    trained = Bench(folder, recipe, problems)
    figures = {"base": base.evaluate(given.k), "trained": trained.evaluate(given.k)}
    budget = figures["trained"]["response_length"]

    rows: list[list[str]] = []

    def row(name: str, value: float, low: float, high: float, tokens: float | None) -> None:
        spent = "" if tokens is None else f"{tokens:.0f}"
        rows.append([name, f"{value:.3f} [{low:.3f}, {high:.3f}]", spent])

    for name in ("base", "trained"):
        f = figures[name]
        for k in sorted({1, min(8, given.k), given.k}):
            row(
                f"{name}, pass@{k}",
                *(f[f"pass@{k}{end}"] for end in ("", "/low", "/high")),
                k * f["response_length"],
            )
        row(f"{name}, greedy", *(f[f"greedy{end}"] for end in ("", "/low", "/high")), None)

    k = max(1, round(budget / figures["base"]["response_length"]))
    # Reading stops at the first yes, so that more completions fit into the budget.
    while best_of(base, k)[1] < budget:
        k += 1

    clusters = [p.key for p in problems]
    baselines = {
        "blind search, no repeats": blind_search(base, budget),
        "base forced to go on": forced_at(base, budget),
        f"base, best of {k} by its own verdict": best_of(base, k),
    }

    drawn = {}
    for name, (scores, tokens) in baselines.items():
        value, (low, high) = sum(scores) / len(scores), interval(scores, clusters)
        row(name, value, low, high, tokens)
        drawn[name] = {"value": value, "low": low, "high": high, "tokens": tokens}

    text = (
        f"{given.n} distinct test problems. The 95 % intervals treat problems with the same "
        "numbers as one cluster.\n\n"
        + common.table(["", "solved", "tokens per problem"], rows)
        + "\n\n"
        + common.table(
            ["", *SHOWN],
            [
                [n, *(f"{figures[n][f'behaviour/{b}']:.3f}" for b in SHOWN)]
                for n in ("base", "trained")
            ],
        )
    )

    summary = {name: {"solved": sum(s) / len(s), "tokens": t} for name, (s, t) in baselines.items()}

    about = common.describe([given.threads], "torch", "transformers")
    common.write("what_training_added", about, {**figures, "baselines": summary}, text)
    (Path(given.run) / "baselines.json").write_text(
        json.dumps({"problems": given.n, "baselines": drawn}, indent=1)
    )


if __name__ == "__main__":
    main()
