"""The Python API: what the command line does, for scripts and notebooks.

Every function raises `UserError` with one line that names the value and the fix. Options are those of
the command line: `steps=20`, `algorithm="ppo"`, a section as a dictionary, `rollout={"prompts": 8}`, or
its dotted name, `**{"rollout.prompts": 8}`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyzero import config as configs
from tinyzero.errors import UserError
from tinyzero.evaluate import EVAL_SEED
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
"""The least and the most of each whole number that the functions take."""


class Run:
    """A run on disk, finished or still going: what it recorded, as plain lists.

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

        `step` has the steps themselves. docs/metrics.md says what every key means.
        """
        steps = list(self._read("metrics.jsonl"))
        names = dict.fromkeys(name for step in steps for name in step)
        return {name: [step.get(name) for step in steps] for name in names}

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """Every evaluation: its step, split, pass@k with intervals, and so on."""
        return list(self._read("eval.jsonl"))

    @property
    def rollouts(self) -> list[dict[str, Any]]:
        """The rollouts that were written down: problem, prompt, text, reward and its parts."""
        return list(self._read("rollouts.jsonl"))

    @property
    def config(self) -> dict[str, Any]:
        """Every option of the run, by section."""
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
        for axes, name in zip(
            figure.subplots(len(chosen), squeeze=False)[:, 0], chosen, strict=True
        ):
            axes.plot(metrics["step"], [float("nan") if y is None else y for y in metrics[name]])
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

    `recipe` is a bundled recipe's name or a .toml file, `folder` is where the run is written (by
    default runs/RECIPE-ALGORITHM-SEED), and `task` is a name, a reference such as "my_task.py:MyTask",
    or a class. With `resume`, the run in `folder` continues from its newest checkpoint; if somebody
    else began it and it names code, `trust` lets that code run.

    Raises UserError if something is wrong with the recipe, an option or the task, and Interrupted (a
    KeyboardInterrupt) after Ctrl-C, once the state is saved.

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
        place, named = Path(folder), _named(task)
        config = configs.resumed(place, overrides, named, trust, flags="trust=True")
    else:
        if task is not None:
            overrides["task.name"] = _named(task)
        configs.require_recipe(recipe, overrides, trust, "trust=True")
        config = configs.resolve(configs.read_recipe(recipe), overrides)
        place = Path(folder or config.run.dir or f"runs/{configs.run_name(recipe, config)}")
    run_loop(config, place, resume, started, configs.Command(options=overrides))
    return Run(place)


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

    `model` is a run, a folder with a Hugging Face model, a hub id or a bundled base. Returns the
    figures of `tinyzero eval`: pass@1 to pass@k with /low and /high, reward, response_length, and so on.
    `settings` are those of `_opened`: task, recipe, temperature, max_tokens, trust, and options.

    Example: `tinyzero.evaluate("runs/laptop-grpo-0", problems=128, samples=4)["pass@4"]`
    """
    _check(problems=problems, split=split)
    with _opened(model, seed=seed, samples=samples, **settings) as (player, params):
        found = evaluation(
            player, split=split, problems=problems, params=params, greedy=greedy, seed=seed
        )
        return dict(found.metrics)


def sample(
    model: str | Path | Run,
    *,
    problems: int = 4,
    samples: int = 1,
    split: Split = "dev",
    seed: int = 0,
    **settings: Any,
) -> list[dict[str, Any]]:
    """Completions of `problems` problems with their rewards, as records like those of rollouts.jsonl.

    Example:

        for answer in tinyzero.sample("tiny", problems=2):
            print(answer["text"], answer["reward"])
    """
    from tinyzero.run.progress import rollout_record

    _check(problems=problems, split=split)
    with _opened(model, seed=seed, samples=samples, **settings) as (player, params):
        asked = [player.task.problem(split, i) for i in range(problems)]
        groups = player.play(asked, params, 0, Tally())
        return [
            rollout_record(0, split, r, player.task.prompt(r.problem, player.template))
            for group in groups
            for r in group
        ]


def check_task(task: str | type, **options: Any) -> list[str]:
    """Try what a model will try on a task's grader. Returns one line per failure; empty if it passes.

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
    task: str | type | None = None,
    recipe: str | None = None,
    temperature: float = 1.0,
    max_tokens: int | None = None,
    trust: bool = False,
    **options: Any,
) -> Iterator[tuple[Player, SamplingParams]]:
    """A player of `model` on its own task, or on `task`, and how it samples.

    `recipe` gives the task, its options and the prompt if the model has none of its own. `trust` lets
    code run that a stranger's folder names. `options` are the task's and the model's.
    """
    from tinyzero.run.opening import open_player, settings_for

    _check(samples=samples, seed=seed, temperature=temperature, max_tokens=max_tokens)
    name = str(model.folder if isinstance(model, Run) else model)
    config, place = settings_for(
        name, recipe, _named(task), _overrides(options), trust, flags="task=NAME or trust=True"
    )
    params = SamplingParams(
        temperature=temperature,
        max_tokens=max_tokens or config.eval_tokens,
        n=samples,
        seed=seed,
    )
    with open_player(config, place) as player:
        yield player, params


def _check(**given: Any) -> None:
    """Raise UserError if an argument is not what the command line would take."""
    for name, value in given.items():
        low, high = BOUNDS.get(name, (0, 0))
        whole = isinstance(value, int) and not isinstance(value, bool)
        if name == "split":
            if value not in SPLITS:
                raise UserError(f"split is {value!r}: use one of {', '.join(SPLITS)}")
        elif name == "temperature":
            if not isinstance(value, int | float) or not (value == 0 or 0.01 <= value <= 100):
                raise UserError(f"temperature is {value!r}: give 0, or a number from 0.01 to 100")
        elif not (value is None and name == "max_tokens") and not (whole and low <= value <= high):
            raise UserError(f"{name} is {value!r}: give a whole number from {low} to {high}")


def _named(task: str | type | None) -> str | None:
    """The name of a task, for a class the reference that loads it again."""
    return reference_of(task) if isinstance(task, type) else task


def _overrides(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as the command line has them, by dotted name."""
    return {configs.SHORT.get(key, key): value for key, value in configs.flat(options).items()}
