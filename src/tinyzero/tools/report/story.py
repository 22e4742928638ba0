"""What a page tells, as one small dictionary that JSON can hold: of one run, of several, of a grid."""

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
from tinyzero.tasks import TASKS, load_task
from tinyzero.tasks.base import Task
from tinyzero.tools.report import alarms, samples
from tinyzero.tools.report.charts import described
from tinyzero.tools.report.columns import Columns, number, thin
from tinyzero.tools.report.read import Recorded

PACKAGE = Path(configs.__file__).parents[1]
CEILING = 4_096  # problems that are looked at for what + and - alone can solve
POINTS = 600  # of a curve; several runs share five times as many
ROOM = 3_000_000  # bytes of marked completions, all runs together
AXES = {
    "step": "steps",
    "samples": "answers sampled",
    "minutes": "minutes",
    "length": "tokens an answer",
}


def tell(runs: Sequence[Recorded], folder: Path | None = None) -> dict[str, Any]:
    """The page's data. `folder` is the grid's, where the runs are one."""
    names = names_of([run.folder for run in runs])
    told = [tell_run(run, name, len(runs)) for run, name in zip(runs, names, strict=True)]
    present: dict[str, set[str]] = {"steps": set(), "dev": set(), "test": set()}
    for run in told:
        for source, table in run["curves"].items():
            present[source] |= table.keys()
    tasks = [run.task for run in runs if run.task is not None]
    return {
        "axes": AXES,
        "sections": described(present, tasks),
        "marks": {kind: says for task in tasks for kind, says in task.kinds.items()},
        "runs": told,
        "grid": grid(folder, names),
    }


def names_of(folders: Sequence[Path]) -> list[str]:
    """What to call each run: the end of its path, as much of it as no other run's path ends in."""
    paths = [folder.resolve().parts for folder in folders]
    names = []
    for path in paths:
        lengths = (
            n for n in range(1, len(path)) if sum(other[-n:] == path[-n:] for other in paths) == 1
        )
        names.append(str(Path(*path[-next(lengths, len(path)) :])))
    return names


def tell_run(run: Recorded, name: str, of: int = 1) -> dict[str, Any]:
    """One run; `of` so many, which share the room."""
    config = run.config
    tests = [e for e in run.evals if e["split"] == "test"]
    done = int(run.steps["step"][-1]) + 1 if run.steps.length else 0
    scored = any(e["step"] == config.steps for e in tests) or not config.eval.test_problems
    return {
        "name": name,
        "steps": config.steps,
        "done": done,
        "finished": scored and done >= config.steps,
        "task": {"name": config.task.name, "says": first_line("tasks", config.task.name)},
        "shortcut": run.task.shortcut.says if run.task and run.task.shortcut else None,
        "algorithm": {
            "name": config.algorithm.name,
            "says": first_line("algorithms", config.algorithm.name),
        },
        "model": config.model.name,
        "seed": config.seed,
        "command": configs.repeating(run.folder),
        "config": configs.to_toml(config),
        "headline": headline(run),
        "alarms": [alarm._asdict() for alarm in alarms.look({**run.steps, **run.samples.columns})],
        "checks": list(alarms.CHECKS),
        "curves": curves(run, max(60, min(POINTS, 5 * POINTS // of))),
        "kinds": kinds(run, tests),
        "baselines": baselines(run.folder),
        **shown_samples(run, ROOM // of),
    }


def first_line(room: str, name: str) -> str:
    """What a bundled task or algorithm says of itself in a line; nothing of a user's own, whose code is not read."""
    path = PACKAGE / room / f"{module_name(name)}.py"
    if (PACKAGE / room / module_name(name)).is_dir():
        path = PACKAGE / room / module_name(name) / "task.py"
    if ":" in name or not path.is_file():
        return ""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n")[0]


def headline(run: Recorded) -> dict[str, Any]:
    """Before and after on held-out problems (test, or dev where there is no test), and what it took."""
    last = {key: finite(run.steps[key][-1]) for key in run.steps}
    by_split = {split: [e for e in run.evals if e["split"] == split] for split in ("test", "dev")}
    split = "test" if len(by_split["test"]) > 1 or not by_split["dev"] else "dev"
    highlights = dict(run.task.highlights) if run.task else {}
    scores = [
        {
            "step": e["step"],
            "n": e["n"],
            "value": e["pass@1"],
            "low": e["pass@1/low"],
            "high": e["pass@1/high"],
        }
        | {key: e[key] for key in ("response_length", *highlights) if key in e}
        for e in by_split[split]
    ]
    elapsed = last.get("time/elapsed")
    closing = sum(
        e.get("time/evaluate", 0.0)
        for e in run.evals
        if run.steps.length and e["step"] == run.steps.length
    )
    return {
        "split": split,
        "highlights": highlights,
        "before": scores[0] if scores else None,
        "after": scores[-1] if len(scores) > 1 else None,
        "samples": last.get("samples/generated"),
        "tokens": last.get("tokens"),
        "minutes": None if elapsed is None else (elapsed + closing) / 60,  # to the final score
        "dollars": last.get("time/dollars"),
        "flops": last.get("flops"),
    }


def curves(run: Recorded, points: int) -> dict[str, dict[str, list[float | None]]]:
    """By source and key the numbers, thinned to `points`; `x/NAME` are where they stand on each axis.

    A step's record stands where its answers were sampled: after the batches, answers and minutes before it; on the axis
    of length, at their own.
    """
    steps = run.steps
    samples, elapsed = ([0.0, *steps.get(key, ())] for key in ("samples/generated", "time/elapsed"))
    table: dict[str, Sequence[float]] = {
        key: steps[key] for key in steps if key not in ("step", "version")
    }
    if {"tokens/generated", "time/step"} <= steps.keys():
        table["tokens/s"] = [
            n / s if s > 0 else math.nan
            for n, s in zip(steps["tokens/generated"], steps["time/step"], strict=True)
        ]
    table |= {
        "x/step": steps.get("step", ()),
        "x/samples": samples[:-1],
        "x/minutes": [e / 60 for e in elapsed[:-1]],
    }
    table |= {"x/length": steps.get("response_length", ())}
    found = {
        "steps": {key: [short(v) for v in thin(values, points)] for key, values in table.items()}
    }
    for split in ("dev", "test"):
        scored = Columns()
        for e in run.evals:
            if e["split"] == split:
                at = min(e["step"], len(samples) - 1)
                axes = {
                    "x/step": e["step"],
                    "x/samples": samples[at],
                    "x/minutes": elapsed[at] / 60,
                }
                axes |= {"x/length": e.get("response_length", math.nan)}
                scored.add({k: v for k, v in e.items() if "=" not in k} | axes)
        found[split] = {
            key: [short(v) for v in thin(scored[key], points)] for key in scored if key != "step"
        }
    return found


def short(value: float | None) -> float | None:
    """Six digits, which is more than a chart shows."""
    return None if value is None else float(f"{value:.6g}")


def counted(value: object) -> float:
    """A number that a file must have. Raises ValueError if it is none."""
    found = number(value)
    if found is None:
        raise ValueError("no finite number")
    return found


def finite(value: float) -> float | None:
    """The number, where there is one."""
    return value if math.isfinite(value) else None


def kinds(run: Recorded, tests: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """First and last pass@1 on test by each kind of problem, with the share that the task's shortcut solves."""
    if not tests:
        return []
    posed = min(int(tests[-1]["n"]), CEILING)
    ceilings = shortcut(json.dumps(run.config.task.model_dump()), posed)
    rows = []
    bounds = ("/low", "/high")
    keys = [
        k
        for k in tests[-1]
        if k == "pass@1" or (k.startswith("pass@1/") and not k.endswith(bounds))
    ]
    several = Counter(key.partition("=")[0] for key in keys)
    for key in [
        k for k in keys if "=" not in k or several[k.partition("=")[0]] > 1
    ]:  # all of one kind is all
        label = key.removeprefix("pass@1").removeprefix("/")
        row: dict[str, Any] = {"label": label, "ceiling": ceilings.get(label)}
        for when, e in (("before", tests[0]), ("after", tests[-1])):
            row[when] = {
                end or "value": e.get(f"{key}/{end}" if end else key) for end in ("", "low", "high")
            }
        rows.append(row)
    return rows


@lru_cache(maxsize=64)
def shortcut(options: str, problems: int) -> dict[str, float]:
    """By label of a bundled task's test problems, and "" for all: the share that its shortcut solves.

    Nothing for another task, nor if the problems were read from a file that is not here: nothing is fetched.
    """
    given = json.loads(options)
    name = given.pop("name")
    if name not in TASKS:
        return {}
    named = (given.get(option) for option in load_task(name).sources)
    if not all(Path(source).is_file() for source in named if source):
        return {}
    try:
        task = load_task(name, given)
        return _shortcut(task, problems) if task.shortcut else {}
    except UserError:
        return {}


def _shortcut(task: Task, problems: int) -> dict[str, float]:
    assert task.shortcut is not None
    found: dict[str, list[bool]] = defaultdict(list)
    posed = distinct_problems(task, "test", problems)
    if len(posed) < problems:  # not those that were evaluated
        return {}
    for problem in posed:
        labels = task.describe(problem)
        for label in ("", *(f"{name}={value}" for name, value in labels.items())):
            found[label].append(labels[task.shortcut.label] == task.shortcut.value)
    return {
        label: sum(can) / len(can)
        for label, can in found.items()
        if label.partition("=")[0] != task.shortcut.label
    }


def baselines(folder: Path) -> list[dict[str, Any]]:
    """What the base does without training for as many tokens, where benchmarks/what_training_added.py measured it."""
    path = folder / "baselines.json"
    if not path.is_file():
        return []
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["baselines"]
        return [
            {"label": name, **{k: counted(b[k]) for k in ("value", "low", "high", "tokens")}}
            for name, b in found.items()
        ]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{path} is not what benchmarks/what_training_added.py writes: remove it"
        ) from None


def shown_samples(run: Recorded, room: int) -> dict[str, Any]:
    """The rollouts to show, no more than fit; which problem to open with; the first that checks and revises, and how
    many right answers were searched for it where that was not all of them."""
    chosen, fitting = run.samples.shown(), set()
    for i in by_turns([record for record, _ in chosen]):
        if (size := written_size(chosen[i][1])) <= room or chosen[i][0] is run.samples.revision:
            fitting.add(i)
            room -= size
    kept = [chosen[i] for i in sorted(fitting)]
    found = [sample for _, sample in kept]
    revision = next(
        (i for i, (record, _) in enumerate(kept) if record is run.samples.revision), None
    )
    searched = None if run.samples.unread > 0 else run.samples.searched
    return {"samples": found, "revision": revision, "searched": searched, "opening": opening(found)}


def by_turns(records: Sequence[samples.Record]) -> list[int]:
    """In which order rollouts are given room: of every evaluation and step the first, then of every one the second, so
    that one problem is followed to the end before another is begun; the ends of the run before its middle."""
    last = max((record["step"] for record in records), default=0)
    seen: Counter[tuple[int, str]] = Counter()
    turns = []
    for i, record in enumerate(records):
        at = (record["step"], record["split"])
        turns.append((seen[at], min(at[0], last - at[0]), i))
        seen[at] += 1
    return [i for *_, i in sorted(turns)]


def written_size(sample: Mapping[str, Any]) -> int:
    """Bytes that it takes in a page, or a little more: what is not ASCII takes less there."""
    return len(json.dumps(sample).replace("<", "\\u003c"))


def opening(found: Sequence[Mapping[str, Any]]) -> dict[str, tuple[int, int]]:
    """By split one problem before and after: wrong at first, right at the end, by a search where there is one."""

    def worth(pair: tuple[int, int]) -> tuple[bool, bool]:
        before, after = found[pair[0]], found[pair[1]]
        return not before["right"] and after["right"], after["revises"]

    best: dict[str, tuple[int, int]] = {}
    for split in ("test", "dev"):
        by_problem: dict[str, list[int]] = defaultdict(list)
        for i, sample in enumerate(found):
            if sample["split"] == split:
                by_problem[sample["problem"]].append(i)
        pairs = [
            (rows[0], rows[-1])
            for rows in by_problem.values()
            if found[rows[0]]["step"] < found[rows[-1]]["step"]
        ]
        if pairs:
            best[split] = max(pairs, key=worth)
    return best


def grid(folder: Path | None, names: Sequence[str]) -> dict[str, Any] | None:
    """What `tinyzero ablate` found of these runs: each choice's mean over seeds with its interval."""
    path = folder / "ablation.json" if folder else None
    if path is None or not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        axes = {axis: list(choices) for axis, choices in found["grid"]["axes"].items()}
        choices = {
            choice: {
                "runs": [
                    name
                    for name in (f"{choice}-{seed}" for seed in result["seeds"])
                    if name in names
                ],
                **{
                    k: counted(result["mean"][k])
                    for k in (
                        "before",
                        "after",
                        "after/low",
                        "after/high",
                        "length",
                        "minutes",
                        "samples",
                    )
                },
            }
            for choice, result in found["results"].items()
        }
        return {
            "command": str(found["command"]),
            "axes": axes,
            "seeds": [counted(seed) for seed in found["grid"]["seeds"]],
            "choices": choices,
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path} is not what `tinyzero ablate` writes: run it again") from None
