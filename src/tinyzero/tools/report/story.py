"""Everything that a page shows about runs or a grid, as a dictionary for JSON."""

from __future__ import annotations

import ast
import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from tinyzero import config as configs
from tinyzero.errors import UserError
from tinyzero.evaluate import distinct_problems
from tinyzero.registry import module_name
from tinyzero.run.signs import mean
from tinyzero.tasks import TASKS, load_task
from tinyzero.tasks.base import Task
from tinyzero.tasks.tools import TOOL
from tinyzero.tools.report import alarms, samples
from tinyzero.tools.report.charts import described
from tinyzero.tools.report.columns import Columns, highest_so_far, number, thin
from tinyzero.tools.report.compare import comparison
from tinyzero.tools.report.read import Recorded

PACKAGE = Path(configs.__file__).parents[1]
CEILING = 4_096  # problems that are checked for the task's shortcut
POINTS = 600  # points per curve; several runs share five times as many
ROOM = 3_000_000  # bytes of marked completions, shared by all runs
RECENT = 5  # steps over which the current figures are averaged
PACE = 10  # steps over which the current pace is measured
AXES = {
    "step": "step",
    "samples": "answers sampled",
    "minutes": "minutes",
    "length": "tokens per answer",
}
PEAKS = ("memory/peak", "memory/gpu_peak")  # of a process; a resumed run has several


def page_data(runs: Sequence[Recorded], folder: Path | None = None) -> dict[str, Any]:
    """The page's data. `folder` is the grid's folder if the runs belong to one."""
    names = names_of([run.folder for run in runs])
    data = [run_data(run, name, len(runs)) for run, name in zip(runs, names, strict=True)]

    present: dict[str, set[str]] = {"steps": set(), "dev": set(), "test": set()}
    for run in data:
        for source, table in run["curves"].items():
            present[source] |= table.keys()

    tasks = [run.task for run in runs if run.task is not None]
    return {
        "axes": AXES,
        "sections": described(present, tasks),
        "marks": marks(tasks, data),
        "runs": data,
        "grid": grid(folder, names),
        "comparison": comparison(runs, names) if len(runs) > 1 else None,
    }


def names_of(folders: Sequence[Path]) -> list[str]:
    """A name for each run: the shortest end of its path that no other run has.

    The folders a/run and b/run keep both parts; a/one and b/two are called one and two.
    """
    paths = [folder.resolve().parts for folder in folders]
    names = []
    for path in paths:
        unique = len(path)
        for length in range(1, len(path)):
            if sum(other[-length:] == path[-length:] for other in paths) == 1:
                unique = length
                break
        names.append(str(Path(*path[-unique:])))
    return names


def run_data(run: Recorded, name: str, runs: int = 1) -> dict[str, Any]:
    """The data of one run of `runs`, which share the room for curves and answers."""
    config = run.config
    tests = [entry for entry in run.evals if entry["split"] == "test"]
    done = int(run.steps["step"][-1]) + 1 if run.steps.length else 0
    is_scored = any(e["step"] == config.steps for e in tests) or not config.eval.test_problems
    found_alarms = alarms.find_alarms({**run.steps, **run.samples.columns})
    return {
        "name": name,
        "steps": config.steps,
        "done": done,
        "finished": is_scored and done >= config.steps,
        "task": {
            "name": short_name(config.task.name),
            "says": first_line("tasks", config.task.name),
        },
        "shortcut": run.task.shortcut.says if run.task and run.task.shortcut else None,
        "algorithm": {
            "name": short_name(config.algorithm.name),
            "says": first_line("algorithms", config.algorithm.name),
        },
        "model": config.model.name,
        "seed": config.seed,
        "command": configs.repeating(run.folder),
        "config": configs.to_toml(config),
        "headline": headline(run),
        "alarms": [alarm._asdict() for alarm in found_alarms],
        "checks": list(alarms.CHECKS),
        "curves": curves(run, max(60, min(POINTS, 5 * POINTS // runs))),
        "kinds": kinds(run, tests),
        "baselines": baselines(run.folder),
        **shown_samples(run, ROOM // runs),
    }


def short_name(name: str) -> str:
    """The name of a task or algorithm for the page, without the folders of a user's own file.

    >>> short_name("mine/../examples/my_algorithm.py:RAFT")
    'RAFT (my_algorithm.py)'
    >>> short_name("grpo")
    'grpo'
    """
    module, colon, class_name = name.rpartition(":")
    return f"{class_name} ({Path(module).name})" if colon else name


def first_line(package: str, name: str) -> str:
    """The first docstring line of a bundled task or algorithm; "" for a user's own.

    Only bundled code is read, because a run's folder may come from anyone.
    """
    path = PACKAGE / package / module_name(name)
    path = path / "task.py" if path.is_dir() else path.with_suffix(".py")
    if ":" in name or not path.is_file():
        return ""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.split("\n")[0]


def headline(run: Recorded) -> dict[str, Any]:
    """Held-out scores before and after, the current training figures, and what the run took."""
    last = {key: finite(run.steps[key][-1]) for key in run.steps}
    highlights = dict(run.task.highlights) if run.task else {}
    evaluations = run.headline_evaluations()
    scores = [score(entry, ["response_length", *highlights]) for entry in evaluations]

    elapsed = last.get("time/elapsed")
    closing_seconds = sum(
        entry.get("time/evaluate", 0.0)
        for entry in run.evals
        if run.steps.length and entry["step"] == run.steps.length
    )
    return {
        "split": evaluations[0]["split"] if evaluations else "test",
        "highlights": highlights,
        "before": scores[0] if scores else None,
        "after": scores[-1] if len(scores) > 1 else None,
        "now": recent_figures(run, ["accuracy", "response_length", *highlights]),
        "left": minutes_left(run),
        "samples": last.get("samples/generated"),
        "tokens": last.get("tokens"),
        "minutes": None if elapsed is None else (elapsed + closing_seconds) / 60,
        "dollars": last.get("time/dollars"),
        "flops": last.get("flops"),
    }


def score(evaluation: Mapping[str, Any], more: Sequence[str]) -> dict[str, Any]:
    """The figures of an evaluation for the headline; `more` are other keys, used if present."""
    return {
        "step": evaluation["step"],
        "n": evaluation["n"],
        "value": evaluation["pass@1"],
        "low": evaluation["pass@1/low"],
        "high": evaluation["pass@1/high"],
        **{key: evaluation[key] for key in more if key in evaluation},
    }


def recent_figures(run: Recorded, keys: Sequence[str]) -> dict[str, float] | None:
    """Means of training figures over the last `RECENT` steps, and how many steps those are."""
    if "accuracy" not in run.steps:
        return None
    means = {key: mean(run.steps[key][-RECENT:]) for key in keys if key in run.steps}
    figures = {key: value for key, value in means.items() if value is not None}
    if "accuracy" not in figures:
        return None
    return {**figures, "steps": min(RECENT, run.steps.length)}


def minutes_left(run: Recorded) -> float | None:
    """Minutes until the end of the run at the pace of its last steps; None if that is not known.

    The pace includes evaluations and checkpoints among those steps. The last evaluations are
    expected to take as long as the earlier ones of the same split.
    """
    elapsed = [value for value in run.steps.get("time/elapsed", ()) if math.isfinite(value)]
    if len(elapsed) > 1:
        steps = min(PACE, len(elapsed) - 1)
        pace = (elapsed[-1] - elapsed[-1 - steps]) / steps
    else:
        pace = mean(run.steps.get("time/step", ())) or math.nan
    if not math.isfinite(pace):
        return None

    remaining = max(0, run.config.steps - run.steps.length)
    closing: dict[str, float] = {}
    for entry in run.evals:
        is_last = entry["step"] == run.config.steps
        closing[entry["split"]] = 0.0 if is_last else entry.get("time/evaluate", 0.0)
    return (pace * remaining + sum(closing.values())) / 60


def curves(run: Recorded, points: int) -> dict[str, dict[str, list[float | None]]]:
    """The curves by source and key, thinned to `points`; `x/NAME` are their positions on each axis.

    Steps count from 1, and 0 is before training. On the axes of samples and minutes, a step is
    placed where its answers were sampled: after the samples or minutes of all earlier steps.
    """
    steps = run.steps
    samples_before = [0.0, *steps.get("samples/generated", ())]
    minutes_before = [0.0, *(seconds / 60 for seconds in steps.get("time/elapsed", ()))]

    table: dict[str, Sequence[float]] = {
        key: steps[key] for key in steps if key not in ("step", "version")
    }
    table |= {key: highest_so_far(steps[key]) for key in PEAKS if key in steps}
    if "reward/format" not in steps:
        table.pop("malformed", None)  # the task's reward has no part for the form
    if {"tokens/generated", "time/sample"} <= steps.keys():
        table["tokens/s"] = [
            tokens / seconds if seconds > 0 else math.nan
            for tokens, seconds in zip(steps["tokens/generated"], steps["time/sample"], strict=True)
        ]
    table |= {
        "x/step": [step + 1 for step in steps.get("step", ())],
        "x/samples": samples_before[:-1],
        "x/minutes": minutes_before[:-1],
        "x/length": steps.get("response_length", ()),
    }
    by_source = {"steps": thinned(table, points)}

    for split in ("dev", "test"):
        scored = Columns()
        for entry in run.evals:
            if entry["split"] != split:
                continue
            at = min(entry["step"], len(samples_before) - 1)
            position = {
                "x/step": entry["step"],
                "x/samples": samples_before[at],
                "x/minutes": minutes_before[at],
                "x/length": entry.get("response_length", math.nan),
            }
            overall = {key: value for key, value in entry.items() if "=" not in key}
            scored.add(overall | position)
        by_source[split] = thinned({key: scored[key] for key in scored if key != "step"}, points)
    return by_source


def thinned(table: Mapping[str, Sequence[float]], points: int) -> dict[str, list[float | None]]:
    """Each column with at most `points` numbers of six digits, which is more than a chart shows."""
    return {key: [short(value) for value in thin(table[key], points)] for key in table}


def short(value: float | None) -> float | None:
    """The number rounded to six significant digits."""
    return None if value is None else float(f"{value:.6g}")


def required(value: object) -> float:
    """A number that a file must have. Raises ValueError if `value` is not a finite number."""
    checked = number(value)
    if checked is None:
        raise ValueError("not a finite number")
    return checked


def finite(value: float) -> float | None:
    """The number, or None if it is not finite."""
    return value if math.isfinite(value) else None


def kinds(run: Recorded, tests: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """First and last test score per type of problem, and what the task's shortcut solves."""
    if not tests:
        return []

    problems = min(int(tests[-1]["n"]), CEILING)
    ceilings = shortcut(json.dumps(run.config.task.model_dump()), problems)
    keys = [
        key
        for key in tests[-1]
        if key == "pass@1" or (key.startswith("pass@1/") and not key.endswith(("/low", "/high")))
    ]
    values_of_label = Counter(key.partition("=")[0] for key in keys)

    rows = []
    for key in keys:
        if "=" in key and values_of_label[key.partition("=")[0]] == 1:
            continue  # all problems are of this type
        label = key.removeprefix("pass@1").removeprefix("/")
        row: dict[str, Any] = {"label": label, "ceiling": ceilings.get(label)}
        for when, entry in (("before", tests[0]), ("after", tests[-1])):
            row[when] = {
                "value": entry.get(key),
                "low": entry.get(f"{key}/low"),
                "high": entry.get(f"{key}/high"),
            }
        rows.append(row)
    return rows


@lru_cache(maxsize=64)
def shortcut(task_settings: str, problems: int) -> dict[str, float]:
    """The share of test problems that the task's shortcut solves, by label; "" is all of them.

    `task_settings` is the task's table as JSON. Empty if the task is not bundled or has no
    shortcut, or if its problems come from a file that is not here: nothing is downloaded for a
    page.
    """
    settings = json.loads(task_settings)
    name = settings.pop("name")
    settings.pop(TOOL, None)  # its problems are the same, and a page runs no code of a folder
    if name not in TASKS:
        return {}
    named_files = [settings.get(option) for option in load_task(name).sources]
    if not all(Path(file).is_file() for file in named_files if isinstance(file, str) and file):
        return {}

    try:
        task = load_task(name, settings)
        return _shortcut(task, problems) if task.shortcut else {}
    except UserError:
        return {}


def _shortcut(task: Task, problems: int) -> dict[str, float]:
    assert task.shortcut is not None
    drawn = distinct_problems(task, "test", problems)
    if len(drawn) < problems:  # not the problems that were evaluated
        return {}

    solved_by_label: dict[str, list[bool]] = defaultdict(list)
    for problem in drawn:
        labels = task.describe(problem)
        is_solved = labels[task.shortcut.label] == task.shortcut.value
        for label in ("", *(f"{name}={value}" for name, value in labels.items())):
            solved_by_label[label].append(is_solved)
    return {
        label: sum(solved) / len(solved)
        for label, solved in solved_by_label.items()
        if label.partition("=")[0] != task.shortcut.label
    }


def baselines(folder: Path) -> list[dict[str, Any]]:
    """What the base model does without training for the same number of tokens.

    Empty unless benchmarks/what_training_added.py measured it. Raises UserError if the file is
    damaged.
    """
    path = folder / "baselines.json"
    if not path.is_file():
        return []

    keys = ("value", "low", "high", "tokens")
    try:
        measured = json.loads(path.read_text(encoding="utf-8"))["baselines"]
        return [
            {"label": name, **{key: required(baseline[key]) for key in keys}}
            for name, baseline in measured.items()
        ]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(
            f"{path} is not what benchmarks/what_training_added.py writes: remove it"
        ) from None


def marks(tasks: Sequence[Task], data: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What the marks in the shown answers mean, by name."""
    meanings = {kind: says for task in tasks for kind, says in task.kinds.items()}
    shown = {kind for run in data for sample in run["samples"] for kind in sample["kinds"]}
    if samples.ENVIRONMENT in shown:
        meanings[samples.ENVIRONMENT] = samples.ENVIRONMENT_SAYS
    return meanings


def shown_samples(run: Recorded, room: int) -> dict[str, Any]:
    """The rollouts to show, as many as fit in `room` bytes, and which of them come first.

    `opening` are a problem's answers before and after; `revision` is the first answer that checks
    and revises; `searched` is the number of right answers searched for it, or None if it is all of
    them.
    """
    chosen = run.samples.shown()
    fitting = set()
    for i in by_turns([record for record, _ in chosen]):
        record, sample = chosen[i]
        size = written_size(sample)
        if size <= room or record is run.samples.revision:
            fitting.add(i)
            room -= size

    kept = [chosen[i] for i in sorted(fitting)]
    revision = None
    for i, (record, _) in enumerate(kept):
        if record is run.samples.revision:
            revision = i
    shown = [sample for _, sample in kept]
    searched = None if run.samples.unread > 0 else run.samples.searched
    return {
        "samples": shown,
        "revision": revision,
        "searched": searched,
        "opening": opening(shown),
    }


def by_turns(records: Sequence[samples.Record]) -> list[int]:
    """The order in which rollouts get room: the first of every step, then the second, and so on.

    So one problem is followed to the end before another begins. The ends of the run come before
    its middle.
    """
    last_step = max((record["step"] for record in records), default=0)
    seen: Counter[tuple[int, str]] = Counter()
    turns = []
    for i, record in enumerate(records):
        at = (record["step"], record["split"])
        turns.append((seen[at], min(at[0], last_step - at[0]), i))
        seen[at] += 1
    return [i for *_, i in sorted(turns)]


def written_size(sample: Mapping[str, Any]) -> int:
    """Bytes that a sample takes in a page, at most: text that is not ASCII takes less."""
    return len(json.dumps(sample).replace("<", "\\u003c"))


def opening(shown: Sequence[Mapping[str, Any]]) -> dict[str, tuple[int, int]]:
    """For each split the positions of a problem's first and last answer.

    A problem that is wrong at first and right at the end is preferred, if possible one that is
    solved by checking and revising.
    """

    def worth(pair: tuple[int, int]) -> tuple[bool, bool]:
        before, after = shown[pair[0]], shown[pair[1]]
        return not before["right"] and after["right"], after["revises"]

    best: dict[str, tuple[int, int]] = {}
    for split in ("test", "dev"):
        by_problem: dict[str, list[int]] = defaultdict(list)
        for i, sample in enumerate(shown):
            if sample["split"] == split:
                by_problem[sample["problem"]].append(i)

        pairs = [
            (positions[0], positions[-1])
            for positions in by_problem.values()
            if shown[positions[0]]["step"] < shown[positions[-1]]["step"]
        ]
        if pairs:
            best[split] = max(pairs, key=worth)
    return best


def grid_differences(differences: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The differences of a grid's choices from its first choice, with only the keys of the page."""
    if not differences:
        return None
    choices = {
        choice: {key: required(entry[key]) for key in ("difference", "low", "high")}
        for choice, entry in differences["choices"].items()
    }
    return {"from": str(differences["from"]), "choices": choices}


def grid(folder: Path | None, names: Sequence[str]) -> dict[str, Any] | None:
    """What `tinyzero ablate` computed: each choice's mean over seeds, and how the choices differ.

    `differences` says what each choice but the first differs by from the choice `from`; it is None
    if the file is of a version that did not compute it.

    Raises UserError if its file is damaged.
    """
    path = folder / "ablation.json" if folder else None
    if path is None or not path.is_file():
        return None

    keys = ("before", "after", "after/low", "after/high", "length", "minutes", "samples")
    try:
        ablation = json.loads(path.read_text(encoding="utf-8"))
        choices = {}
        for choice, result in ablation["results"].items():
            runs = [f"{choice}-{seed}" for seed in result["seeds"]]
            choices[choice] = {
                "runs": [name for name in runs if name in names],
                **{key: required(result["mean"][key]) for key in keys},
            }
        return {
            "command": str(ablation["command"]),
            "axes": {axis: list(values) for axis, values in ablation["grid"]["axes"].items()},
            "seeds": [required(seed) for seed in ablation["grid"]["seeds"]],
            "choices": choices,
            "differences": grid_differences(ablation.get("differences")),
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{path} is not what `tinyzero ablate` writes: run it again") from None
