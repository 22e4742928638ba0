"""A GRPO step, and training to a given accuracy, here and in TRL's GRPOTrainer, on a CPU.

    python benchmarks/laptop_vs_trl.py [MODEL_FOLDER] [--part step|accuracy|both]
    python benchmarks/laptop_vs_trl.py FOLDER --recipe real-laptop --part step

Both train the same model on the same problems in the same order, in fp32, with the recipe's
reward, group size, optimizer and hyper-parameters: fused AdamW, beta 0, one update per batch, the
recipe's clipped surrogate and mean over tokens, and advantages over the group's standard deviation.

step      Seconds per step at equal tokens. End tokens and stop strings are ignored, so that every
          completion reaches the limit. Ours also computes rows without a gradient, which it skips
          in training; their share is reported. First, TRL's settings are tried for a step each, and
          the fastest is kept. Then both take turns in processes of their own: a warm-up step, then
          timed steps.
accuracy  Training time until pass@1 on dev reaches the given accuracy, with normal stopping: at
          `</answer>` or the end token here, and at the end token in TRL, which the bundled base
          writes right after `</answer>`. Both are evaluated by TinyZero on the same problems, and
          the time of evaluations is not counted.

benchmarks/README.md says how to install TRL.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import common

KINDS = [("sdpa", "dynamic"), ("eager", "dynamic"), ("sdpa", "static")]
TUNE = [
    {"attention": a, "cache": c, "micro": micro} for (a, c), micro in product(KINDS, [256, 64, 16])
]


class Laps:
    """Seconds of named calls since the last `take`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call`, wrapped so that its time is added to `name`."""

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began

        return wrapped

    def take(self) -> dict[str, float]:
        """Return the seconds so far and start again from zero."""
        seconds, self.seconds = self.seconds, {}
        return seconds


class Referee:
    """TinyZero's evaluation on dev, for the weights of either trainer."""

    def __init__(self, given: argparse.Namespace) -> None:
        from tinyzero import models
        from tinyzero.samplers.torch import TorchSampler
        from tinyzero.tasks import load_task

        self.config = recipe(given)
        self.task = load_task(self.config.task.name, self.config.task.options)
        model, tokenizer = models.load_model(given.model), models.load_tokenizer(given.model)
        self.encode = partial(models.encode_prompt, tokenizer)
        decode = partial(tokenizer.decode, skip_special_tokens=False)
        self.sampler = TorchSampler(model, decode, models.end_ids(tokenizer, model, self.task.stop))
        self.problems = given.problems

    def accuracy(self, weights: Any) -> float:
        """pass@1 of the model with these weights, at temperature 1."""
        from tinyzero.evaluate import evaluate
        from tinyzero.rollouts import Player
        from tinyzero.types import SamplingParams

        self.sampler.load_weights(weights, self.sampler.version + 1)
        params = SamplingParams(max_tokens=self.config.eval_tokens)
        player = Player(self.task, self.sampler, self.encode, self.config.model.prompt)
        result = evaluate(player, split="dev", problems=self.problems, params=params)
        return float(result.metrics["pass@1"])


class Race:
    """The clock of the accuracy part: training time without the evaluations."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given, self.referee = given, Referee(given)
        self.curve: list[dict[str, float]] = []
        self.seconds, self.began = 0.0, 0.0

    def start(self) -> None:
        """Start the clock."""
        self.began = time.perf_counter()

    def over(self, step: int, last: int, weights: Any) -> bool:
        """Stop the clock after `step`, evaluate if it is due, and tell whether the race is over."""
        self.seconds += time.perf_counter() - self.began
        late = self.seconds > self.given.limit or step >= last
        reached = False
        if step % self.given.every == 0 or late:
            accuracy = self.referee.accuracy(weights)
            self.curve.append({"step": step, "seconds": self.seconds, "accuracy": accuracy})
            print(
                f"{self.given.worker} step {step}: {self.seconds:.0f} s, {accuracy:.3f}",
                file=sys.stderr,
                flush=True,
            )
            reached = accuracy >= self.given.accuracy
        self.start()
        return reached or late


def recipe(given: argparse.Namespace) -> Any:
    """The recipe with this benchmark's model, threads and limits."""
    from tinyzero.config import read_recipe, resolve

    overrides = {"model.name": given.model, "model.threads": given.threads, "seed": given.seed}
    if given.part == "step":
        fixed = {
            "prompts": given.prompts,
            "samples": given.samples,
            "max_tokens": given.tokens,
            "rows": 1024,
        }
        overrides |= {f"rollout.{key}": value for key, value in fixed.items()} | {
            "optimizer.schedule": "constant"
        }
    config = resolve(read_recipe(given.recipe), overrides)
    assert config.algorithm.name == "grpo", "TRL's side is written for GRPO"
    assert config.update.minibatches == config.update.epochs == 1, "and for one update per batch"
    return config


def train_ours(given: argparse.Namespace) -> dict[str, Any]:
    """The functions that train.py's loop is made of, in its order."""
    import torch

    from tinyzero.config import Command
    from tinyzero.run.parts import build
    from tinyzero.types import Group

    config = recipe(given)
    stopping = given.part == "accuracy"
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        started = time.perf_counter()
        run = build(config, Path(folder) / "run", False, started, Command(), stack)
    laps, idle = Laps(), 0.0
    sampler: Any = run.sampler
    generate = laps.timed("generation", sampler.generate)
    if not stopping:
        sampler.end_ids = torch.tensor([], dtype=torch.long)

        def without_stop(requests: Any, params: Any, done: Any = None) -> Any:
            return generate(requests, replace(params, stop=()), done)

        sampler.generate = without_stop

    def step(number: int) -> list[Group]:
        nonlocal idle
        groups = run.source.take(number)
        batch, lesson = run.annotate(groups)
        if not stopping and batch.idle is not None:
            idle = float(batch.idle.float().mean())
            batch = replace(batch, idle=None)
        laps.timed("update", run.models.update)(batch, lesson)
        run.source.publish(run.models["policy"], version=number + 1)
        return groups

    if stopping:
        race, number = Race(given), 0
        race.start()
        while not race.over(number, config.steps, run.models["policy"].named_weights()):
            step(number)
            number += 1
        return {"curve": race.curve}
    steps = []
    for number in range(given.warmup + given.steps):
        began = time.perf_counter()
        groups = step(number)
        seconds = time.perf_counter() - began
        tokens = sum(len(r.completion.token_ids) for g in groups for r in g)
        steps.append({"step": seconds, "tokens": tokens, "idle": idle} | laps.take())
    return {"steps": steps[given.warmup :]}


def train_trl(given: argparse.Namespace) -> dict[str, Any]:
    """What TRL's GRPOTrainer measures with the recipe's settings."""
    warnings.filterwarnings("ignore")
    sys.modules["vllm"] = None  # type: ignore[assignment]  # saves its import and memory
    import datasets
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from tinyzero import models
    from tinyzero.learner import rate
    from tinyzero.tasks import load_task

    datasets.disable_progress_bars()
    config = recipe(given)
    settings = json.loads(given.settings)
    rollout, o = config.rollout, config.optimizer
    task = load_task(config.task.name, config.task.options)
    rows = rollout.prompts * rollout.samples
    stopping = given.part == "accuracy"
    total = config.steps if stopping else given.warmup + given.steps
    problems = [task.problem("train", i) for i in range(rollout.prompts * total)]
    folder = models.locate(given.model)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    # as text, so that TRL does not render a chat in its own way
    encoded = [
        models.encode_prompt(tokenizer, task.prompt(problem, config.model.prompt))
        for problem in problems
    ]
    prompts = [tokenizer.decode(ids) for ids in encoded]
    assert tuple(tokenizer(prompts[0])["input_ids"]) == tuple(encoded[0])
    data = datasets.Dataset.from_dict({"prompt": prompts, "index": list(range(len(prompts)))})
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation=settings["attention"]
    )

    def reward(completions: list[str], index: list[int], **_: Any) -> list[float]:
        return [
            task.reward(problems[i], text).value for i, text in zip(index, completions, strict=True)
        ]

    options = getattr(config.algorithm, "options", {})
    micro = min(settings["micro"], rows)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=o.learning_rate,
        betas=(o.beta1, o.beta2),
        weight_decay=o.weight_decay,
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: rate(o, step, config.steps)
    )
    with tempfile.TemporaryDirectory() as out:
        arguments = GRPOConfig(
            output_dir=out,
            max_steps=total,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=rows // micro,
            num_generations=rollout.samples,
            max_completion_length=rollout.max_tokens,
            temperature=rollout.temperature,
            top_k=0,
            cache_implementation="static" if settings["cache"] == "static" else None,
            beta=options.get("kl", 0.0),
            epsilon=options.get("clip_low", 0.2),
            epsilon_high=options.get("clip_high", 0.2),
            num_iterations=1,
            loss_type={
                "seq-mean-token-mean": "grpo",
                "token-mean": "dapo",
                "constant-length": "dr_grpo",
            }[options.get("aggregate", "seq-mean-token-mean")],
            scale_rewards=options.get("scale", "group"),
            max_grad_norm=o.grad_clip,
            shuffle_dataset=False,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            use_vllm=False,
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            seed=given.seed,
        )
        trainer = GRPOTrainer(
            model,
            reward,
            args=arguments,
            train_dataset=data,
            processing_class=tokenizer,
            optimizers=(optimizer, schedule),
        )
        laps = Laps()
        trainer._generate_single_turn = laps.timed("generation", trainer._generate_single_turn)
        trainer._prepare_inputs = laps.timed("prepare", trainer._prepare_inputs)
        if not stopping:  # every completion runs to the limit
            trainer.eos_token_ids = [-1]
            model.generation_config = GenerationConfig()
            trainer.generation_config.eos_token_id = trainer.generation_kwargs["eos_token_id"] = (
                None
            )
        steps: list[dict[str, float]] = []
        race = Race(given) if stopping else None

        class Clock(TrainerCallback):
            began = 0.0
            tokens = 0.0

            def on_train_begin(self, *_: Any, **__: Any) -> None:
                if race is not None:
                    race.start()
                    race.over(0, total, model.state_dict().items())
                self.began = time.perf_counter()

            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                if race is not None:
                    control.should_training_stop = race.over(
                        state.global_step, total, model.state_dict().items()
                    )
                    return
                seconds, laps_of_step = time.perf_counter() - self.began, laps.take()
                made = trainer._metrics["train"]["completions/mean_length"][-1] * rows
                update = seconds - laps_of_step.pop("prepare")
                steps.append({"step": seconds, "tokens": made, "update": update} | laps_of_step)
                self.began = time.perf_counter()

        trainer.add_callback(Clock())
        trainer.train()
    return {"curve": race.curve} if race is not None else {"steps": steps[given.warmup :]}


def in_process(given: argparse.Namespace, who: str, part: str, **changed: Any) -> dict[str, Any]:
    """What one trainer measures in a process of its own, and its peak memory."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "measured.json"
        asked = vars(given) | {"part": part, "worker": who, "out": str(out)} | changed
        flags = [f"--{key}={value}" for key, value in asked.items() if key != "model"]
        done = subprocess.run(
            [sys.executable, __file__, given.model, *flags],
            env=os.environ | {"OMP_NUM_THREADS": str(given.threads)},
            stdout=sys.stderr,
        )
        if done.returncode:
            raise SystemExit(f"{who} ({part}) ended with code {done.returncode}")
        return dict(json.loads(out.read_text()))


def compare_steps(given: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """The figures and the text of the step part."""
    settings, tried = json.loads(given.settings), []
    if not settings:
        for settings in TUNE:
            trial = in_process(
                given, "trl", "step", warmup=1, steps=1, settings=json.dumps(settings)
            )
            tried.append(
                settings | {"seconds": trial["steps"][0]["step"], "memory": trial["memory"]}
            )
            print(f"trl {tried[-1]}", file=sys.stderr, flush=True)
        best = min(tried, key=lambda entry: float(entry["seconds"]))
        settings = {key: best[key] for key in ("attention", "cache", "micro")}
    runs: dict[str, list[dict[str, Any]]] = {"trl": [], "ours": []}
    for turn in range(given.rounds):
        for who, measured in runs.items():
            measured.append(in_process(given, who, "step", settings=json.dumps(settings)))
            times = [round(s["step"], 2) for s in measured[-1]["steps"]]
            print(f"round {turn + 1} {who}: {times} s", file=sys.stderr, flush=True)
    middle: dict[str, dict[str, float]] = {}
    for who, measured in runs.items():
        steps = [s for f in measured for s in f["steps"]]
        for s in steps:
            s["rest"] = s["step"] - s["generation"] - s["update"]
        middle[who] = {key: median(s[key] for s in steps) for key in steps[0]}
        middle[who]["memory"] = max(f["memory"] for f in measured)
    assert middle["trl"]["tokens"] == middle["ours"]["tokens"], "not the same number of tokens"
    columns = ("step", "generation", "update", "rest", "memory")
    rows = [
        [label, *(f"{middle[who][c]:.2f}" for c in columns)]
        for who, label in (("trl", "TRL GRPOTrainer"), ("ours", "TinyZero"))
    ]
    rows.append(
        [
            "TRL / TinyZero",
            *(f"{middle['trl'][c] / max(middle['ours'][c], 1e-9):.1f}" for c in columns),
        ]
    )
    text = (
        f"A step of {given.prompts} prompts × {given.samples} samples × {given.tokens} tokens, "
        f"{given.threads} threads: seconds, median of {given.rounds} × {given.steps} steps; peak "
        f"memory in GB. TRL with {settings}. In training, ours would have skipped "
        f"{middle['ours']['idle']:.0%} of the rows.\n\n"
        + common.table(
            ["", "s per step", "generation", "forward, backward, optimizer", "rest", "GB"], rows
        )
    )
    return {"settings": settings, "tried": tried, "median": middle, "runs": runs}, text


def compare_accuracy(
    given: argparse.Namespace, settings: dict[str, Any]
) -> tuple[dict[str, Any], str]:
    """The figures and the text of the accuracy part."""
    measured: dict[str, Any] = {}
    rows: list[list[object]] = []
    for who, label in (("ours", "TinyZero"), ("trl", "TRL GRPOTrainer")):
        measured[who] = in_process(given, who, "accuracy", settings=json.dumps(settings))
        curve = measured[who]["curve"]
        reached = next((e for e in curve if e["accuracy"] >= given.accuracy), None)
        measured[who]["reached"] = reached
        last = reached or curve[-1]
        when = f"{last['seconds']:.0f}" if reached else f"not in {last['seconds']:.0f}"
        rows.append(
            [
                label,
                when,
                int(last["step"]),
                f"{curve[0]['accuracy']:.1%}",
                f"{last['accuracy']:.1%}",
            ]
        )
    ends = [
        (measured[w]["reached"] or measured[w]["curve"][-1])["seconds"] for w in ("trl", "ours")
    ]
    at_least = "at least " if not measured["trl"]["reached"] else ""
    says = (
        f"{at_least}{ends[0] / ends[1]:.1f}"
        if measured["ours"]["reached"]
        else "ours did not reach it"
    )
    text = (
        f"Training time to {given.accuracy:.0%} pass@1 on {given.problems} dev problems, recipe "
        f"{given.recipe}, seed {given.seed}, {given.threads} threads, evaluated every "
        f"{given.every} steps. "
        f"TRL with {settings}. TRL / TinyZero: {says}.\n\n"
        + common.table(["", "seconds", "steps", "at the start", "at the end"], rows)
    )
    return measured | {"settings": settings}, text


def main() -> None:
    """Measure and write the table, or be one of the two trainers if started by this script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "model", nargs="?", default="tiny", help='a model folder, or "tiny" (default)'
    )
    parser.add_argument("--recipe", default="laptop", help="the recipe of both trainers")
    parser.add_argument("--part", choices=["step", "accuracy", "both"], default="both")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--settings",
        default="{}",
        help="TRL's, as JSON (attention, cache, micro); all are tried by default",
    )
    parser.add_argument(
        "--name",
        default="",
        help="name of the files in benchmarks/results (default: this script's and the part's)",
    )
    step = parser.add_argument_group("step")
    step.add_argument("--rounds", type=int, default=3)
    step.add_argument("--steps", type=int, default=3, help="timed steps per round (default: 3)")
    step.add_argument("--warmup", type=int, default=1)
    step.add_argument("--prompts", type=int, default=16)
    step.add_argument("--samples", type=int, default=16)
    step.add_argument("--tokens", type=int, default=128)
    race = parser.add_argument_group("accuracy")
    race.add_argument("--accuracy", type=float, default=0.5)
    race.add_argument(
        "--limit", type=float, default=900, help="seconds of training each (default: 900)"
    )
    race.add_argument("--every", type=int, default=5, help="steps between evaluations (default: 5)")
    race.add_argument("--problems", type=int, default=256)
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    parser.add_argument("--out", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        import torch

        torch.set_num_threads(given.threads)
        measured = (train_ours if given.worker == "ours" else train_trl)(given)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
            1 if sys.platform == "darwin" else 1024
        )
        Path(given.out).write_text(json.dumps(measured | {"memory": peak / 1e9}))
        return
    results: dict[str, Any] = {}
    texts = []
    settings = json.loads(given.settings)
    if given.part != "accuracy":
        results["step"], text = compare_steps(given)
        settings = results["step"]["settings"]
        texts.append(text)
    if given.part != "step":
        # Long completions of unequal length: the smaller micro-batch keeps TRL within memory.
        settings = settings or {"attention": "eager", "cache": "dynamic", "micro": 64}
        results["accuracy"], text = compare_accuracy(given, settings)
        texts.append(text)
    about = common.describe([given.threads], "torch", "transformers", "trl", "accelerate")
    name = given.name or "laptop_vs_trl" + ("" if given.part == "both" else f"_{given.part}")
    common.write(name, about, results, "\n\n".join(texts))


if __name__ == "__main__":
    main()
