"""Is the bundled base worth training? What it can do before any reinforcement learning.

    python benchmarks/base.py                      # the bundled base
    python benchmarks/base.py runs/base/model

On distinct dev problems of the laptop recipe, this measures pass@1 and pass@32 at temperature 1,
how often stated arithmetic is right, also after eleven supplied wrong attempts, how often a value
that equals the target is recognised, and how often another value is claimed to equal it.
"""

from __future__ import annotations

import argparse
import random
from functools import partial

import common
import torch

from tinyzero import config, models
from tinyzero.evaluate import distinct_problems, evaluate
from tinyzero.rollouts import Player
from tinyzero.samplers.torch import TorchSampler
from tinyzero.tasks import load_task
from tinyzero.tasks.countdown import corpus
from tinyzero.tasks.countdown import thinking as behaviours
from tinyzero.types import SamplingParams, requests_for


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", default="tiny")
    parser.add_argument("--n", type=int, default=1024)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()

    torch.set_num_threads(given.threads)

    recipe = config.resolve(config.read_recipe("laptop"), {})
    task = load_task(recipe.task.name, recipe.task.options)
    model, tokenizer = models.load_model(given.model), models.load_tokenizer(given.model)
    sampler = TorchSampler(
        model, models.decoder(tokenizer), models.end_ids(tokenizer, model, task.stop)
    )

    encode = partial(models.encode_prompt, tokenizer)
    params = SamplingParams(max_tokens=recipe.eval_tokens, n=given.k)
    player = Player(task, sampler, encode, "compact")
    metrics = evaluate(player, split="dev", problems=given.n, params=params).metrics

    figures = {
        key: metrics[key]
        for key in ("pass@1", "pass@1/low", "pass@1/high", f"pass@{given.k}", "response_length")
    }
    names = (
        "arithmetic_accuracy",
        "recognition_recall",
        "false_claim_rate",
        "attempts",
        "legal_rate",
        "repeat_rate",
    )
    figures |= {f"behaviour/{name}": metrics[f"behaviour/{name}"] for name in names}

    prompts, problems, limit, rng = (
        [],
        [],
        int(recipe.task.options["max_intermediate"]),
        random.Random(0),
    )
    for problem in distinct_problems(task, "dev", given.n):
        numbers, target = problem.fields["numbers"], problem.fields["target"]
        wrong = [way for way in corpus.tries(numbers, limit) if way.value != target]
        if len(wrong) >= 12:
            chosen = rng.sample(wrong, 11)
            supplied = "".join(f"{way.steps} vs {target} no\n" for way in chosen)
            text = task.prompt(problem, "compact")
            assert isinstance(text, str)
            prompts.append(models.encode_prompt(tokenizer, text + supplied))
            problems.append(problem)

    params = SamplingParams(max_tokens=200, stop=("</answer>",))
    after = sampler.generate(requests_for(prompts), params)
    counts = [behaviours.measure(p, c[0].text) for p, c in zip(problems, after, strict=True)]
    summary = behaviours.summarise(counts)
    figures["arithmetic after eleven wrong tries"] = summary["behaviour/arithmetic_accuracy"]
    figures["continuations"] = len(prompts)

    text = f"{given.n} distinct dev problems, {given.k} completions each.\n\n"
    text += common.table(
        ["figure", "value"], [[key, f"{value:.4g}"] for key, value in figures.items()]
    )
    common.write("base", common.describe([given.threads], "torch", "transformers"), figures, text)


if __name__ == "__main__":
    main()
