"""The Python API: what the command line does, for scripts and notebooks.

Options are those of the command line. Give them by name, as in `steps=20` or `algorithm="ppo"`; as
a section, `rollout={"prompts": 8}`; or by their dotted name, `**{"rollout.prompts": 8}`. Every
function raises `UserError`, one line that names the value and the fix.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyzero import config as configs
from tinyzero.errors import UserError
from tinyzero.evaluate import EVAL_SEED, distinct_problems
from tinyzero.evaluate import evaluate as evaluation
from tinyzero.registry import reference_of
from tinyzero.rollouts import Player, Tally
from tinyzero.run import records
from tinyzero.tasks import load_task as _load_task
from tinyzero.tasks.guarded import GuardedTask
from tinyzero.types import SPLITS, SamplingParams, Split

if TYPE_CHECKING:
    from matplotlib.figure import Figure


BOUNDS = {
    "problems": (1, 10**6),
    "samples": (1, 2**14),
    "seed": (0, 2**32 - 1),
    "max_tokens": (1, 2**20),
}
"""The smallest and the largest value of each whole number that the functions take."""


class Run:
    """A run on disk, finished or still running: what it recorded, as plain lists.

    Example:

        run = tinyzero.Run("runs/laptop-grpo-0")
        run.metrics["accuracy"][-1], run.evaluations[-1]["pass@1"]
    """

    def __init__(self, folder: str | Path) -> None:
        """Raises UserError if `folder` is not a run."""
        self.folder = Path(folder)
        if not (self.folder / "config.toml").is_file():
            raise UserError(f"{self.folder} is not a run: it has no config.toml")

    @property
    def metrics(self) -> dict[str, list[float | None]]:
        """Each metric as a list with one entry per step; None if a step did not record it.

        `step` has the numbers of the steps, counted from 0. docs/metrics.md explains every key.
        """
        steps = list(self._read("metrics.jsonl"))
        names = dict.fromkeys(name for step in steps for name in step)
        return {name: [step.get(name) for step in steps] for name in names}

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """Every evaluation as recorded: steps taken before it, split, pass@k with intervals, ..."""
        return list(self._read("eval.jsonl"))

    @property
    def rollouts(self) -> list[dict[str, Any]]:
        """The rollouts that were recorded: problem, prompt, text, reward and its parts."""
        return list(self._read("rollouts.jsonl"))

    @property
    def config(self) -> dict[str, Any]:
        """Every option of the run, by section, such as `config["rollout"]["samples"]`."""
        return configs.read_toml(self.folder / "config.toml")

    def plot(self, *names: str) -> Figure:
        """A figure with one curve per metric over the steps; `accuracy` if none is named.

        Raises UserError if matplotlib is missing or a metric was not recorded.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise UserError("plots need matplotlib: pip install 'tinyzero[report]'") from error

        metrics, chosen = self.metrics, names or ("accuracy",)
        for name in chosen:
            if name not in metrics:
                raise UserError(
                    f"the run recorded no {name!r}: it has {', '.join(sorted(metrics))}"
                )

        figure = Figure(figsize=(6, 2.5 * len(chosen)), layout="constrained")
        rows = figure.subplots(len(chosen), squeeze=False)[:, 0]
        for axes, name in zip(rows, chosen, strict=True):
            # None, and an integer larger than any float, leave a gap
            values = [
                math.nan if value is None or abs(value) > sys.float_info.max else value
                for value in metrics[name]
            ]
            axes.plot(metrics["step"], values)
            axes.set(xlabel="step", ylabel=name)
        return figure

    def _read(self, name: str) -> Iterator[dict[str, Any]]:
        return records.read(self.folder / name)

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"


def train(
    recipe: str = configs.DEFAULT_RECIPE,
    *,
    folder: str | Path | None = None,
    task: str | type | None = None,
    resume: bool = False,
    trust: bool = False,
    **options: Any,
) -> Run:
    """Train a model as `recipe` says, with `options` on top, and return the finished run.

    `recipe` is the name of a bundled recipe or a .toml file. `folder` is where the run is written,
    by default runs/RECIPE-ALGORITHM-SEED. `task` is a name, a reference such as
    "my_task.py:MyTask", or a class. With `resume`, the run in `folder` continues from its newest
    checkpoint. If someone else began that run and it names code, `trust` allows that code to run.

    Raises UserError if something is wrong with the recipe, an option or the task.

    Ctrl-C (or the stop button of a notebook) stops after the current step or evaluation. The state
    is saved, and KeyboardInterrupt is raised with a message that says how to continue:

        tinyzero.train(folder="runs/laptop-grpo-1", resume=True)

    Example:

        run = tinyzero.train("laptop", steps=20, seed=1, rollout={"prompts": 8})
        run.metrics["accuracy"]
    """
    from tinyzero.train import train as run_loop

    started = time.perf_counter()
    overrides = _overrides(options)

    if resume:
        if folder is None:
            raise UserError("resume needs the folder of the run to continue: give folder=")
        run_folder, note = Path(folder), None
        config = configs.resumed(run_folder, overrides, _named(task), trust, flags="trust=True")
    else:
        if task is not None:
            overrides["task.name"] = _named(task)
        configs.require_recipe(recipe, overrides, trust, "trust=True")
        tables = configs.read_recipe(recipe)
        config = configs.resolve(tables, overrides)
        note = configs.adapter_note(tables, overrides)
        default_folder = f"runs/{configs.run_name(recipe, config)}"
        run_folder = Path(folder or config.run.dir or default_folder)

    run_loop(config, run_folder, resume, started, configs.Command(options=overrides, note=note))
    return Run(run_folder)


def evaluate(
    model: str | Path | Run,
    *,
    problems: int = 256,
    samples: int = 1,
    split: Split = "test",
    greedy: bool = False,
    seed: int = EVAL_SEED,
    **settings: Any,
) -> dict[str, Any]:
    """Score a model on `problems` distinct problems of `split`, with `samples` completions each.

    `model` is a run, a folder with a Hugging Face model, a hub id or a bundled base. With `greedy`,
    the most likely completion is scored too. `settings` may be:

    - `task`: another task than the model's own
    - `recipe`: where to take the task, its options and the prompt from
    - `temperature` and `max_tokens` (default: the recipe's)
    - `trust`: allow code that someone else's folder names to run
    - any option of the task or the model, such as `model={"device": "cpu"}`

    Returns the figures of `tinyzero eval`: pass@1 to pass@k with /low and /high, reward,
    response_length and so on. docs/metrics.md explains every key.

    Example: `tinyzero.evaluate("runs/laptop-grpo-0", problems=128, samples=4)["pass@4"]`
    """
    _check(problems=problems, split=split)
    asked = (split, problems)
    with _opened(model, seed=seed, samples=samples, distinct=asked, **settings) as (player, params):
        result = evaluation(
            player, split=split, problems=problems, params=params, greedy=greedy, seed=seed
        )
        return dict(result.metrics)


def sample(
    model: str | Path | Run,
    *,
    problems: int = 4,
    samples: int = 1,
    split: Split = "dev",
    seed: int = 0,
    **settings: Any,
) -> list[dict[str, Any]]:
    """Completions with their rewards, as records like those in rollouts.jsonl.

    There are `samples` completions for each of `problems` problems. `settings` are the same as for
    `evaluate`.

    Example:

        for answer in tinyzero.sample("tiny", problems=2):
            print(answer["text"], answer["reward"])
    """
    from tinyzero.run.progress import rollout_record

    _check(problems=problems, split=split)
    with _opened(model, seed=seed, samples=samples, **settings) as (player, params):
        drawn = [player.task.problem(split, index) for index in range(problems)]
        groups = player.play(drawn, params, 0, Tally())

        rollouts = [rollout for group in groups for rollout in group]
        prompts = [player.task.prompt(rollout.problem, player.template) for rollout in rollouts]
        return [
            rollout_record(0, split, rollout, prompt)
            for rollout, prompt in zip(rollouts, prompts, strict=True)
        ]


def check_task(task: str | type, **options: Any) -> list[str]:
    """Attack a task's grader as a model would in training; returns one line per failure.

    Example: `assert tinyzero.check_task("my_task.py:MyTask") == []`
    """
    from tinyzero.tasks.check import check_task as check

    return check(load_task(task, **options))


def load_task(task: str | type, **options: Any) -> GuardedTask:
    """A task by name, by reference or by class, with its options.

    Example:

        task = tinyzero.load_task("countdown", max_number=25)
        problem = task.problem("train", 0)
        task.reward(problem, task.solution(problem)).value
    """
    return _load_task(_named(task) or "", options)


def recipes() -> list[str]:
    """The names of the bundled recipes.

    Example: `"laptop" in tinyzero.recipes()`
    """
    return configs.recipes()


@contextmanager
def _opened(
    model: str | Path | Run,
    *,
    seed: int,
    samples: int,
    distinct: tuple[Split, int] | None = None,
    task: str | type | None = None,
    recipe: str | None = None,
    temperature: float | None = None,
    max_tokens: int | None = None,
    trust: bool = False,
    **options: Any,
) -> Iterator[tuple[Player, SamplingParams]]:
    """A player of `model` on its own task, or on `task`, and how it samples.

    `recipe` gives the task, its options and the prompt if the model has none of its own. `trust`
    lets code run that someone else's folder names. `options` are the task's and the model's.
    Raises UserError before the model is loaded if the task has fewer than `distinct` problems.
    """
    from tinyzero.run.opening import open_player, settings_for

    _check(samples=samples, seed=seed, temperature=temperature, max_tokens=max_tokens)

    name = str(model.folder if isinstance(model, Run) else model)
    config, model_folder = settings_for(
        name, recipe, _named(task), _overrides(options), trust, flags="task=NAME or trust=True"
    )
    params = SamplingParams(
        temperature=config.eval_temperature if temperature is None else temperature,
        max_tokens=max_tokens or config.eval_tokens,
        n=samples,
        seed=seed,
    )
    if distinct:
        distinct_problems(_load_task(config.task.name, config.task.options), *distinct)
    with open_player(config, model_folder) as player:
        yield player, params


def _check(**given: Any) -> None:
    """Raise UserError if an argument is not what the command line would take."""
    for name, value in given.items():
        if name == "split":
            if value not in SPLITS:
                raise UserError(f"split is {value!r}: use one of {', '.join(SPLITS)}")
        elif name == "temperature":
            is_number = isinstance(value, int | float)
            if value is not None and not (is_number and (value == 0 or 0.01 <= value <= 100)):
                raise UserError(f"temperature is {value!r}: give 0, or a number from 0.01 to 100")
        elif value is not None or name != "max_tokens":
            low, high = BOUNDS[name]
            is_whole = isinstance(value, int) and not isinstance(value, bool)
            if not (is_whole and low <= value <= high):
                raise UserError(f"{name} is {value!r}: give a whole number from {low} to {high}")


def _named(task: str | type | None) -> str | None:
    """The name of a task; for a class, the reference that loads it again."""
    return reference_of(task) if isinstance(task, type) else task


def _overrides(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options by dotted name, as on the command line."""
    return {configs.SHORT.get(key, key): value for key, value in configs.flat(options).items()}
