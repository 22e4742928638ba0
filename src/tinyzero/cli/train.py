"""`tinyzero train`: train a model by rewards alone."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tinyzero import config as configs
from tinyzero.cli.arguments import overrides_of, recipe_arguments, trust_argument
from tinyzero.errors import UserError, printable
from tinyzero.run import records


def add(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """The command and its arguments."""
    parser = verb("train", run, "train a model by rewards alone", epilog=_options_help())
    recipe_arguments(parser)
    parser.add_argument(
        "--resume", metavar="DIR", help="go on with this run from its newest whole checkpoint"
    )
    trust_argument(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="print the resolved configuration and stop"
    )


def run(given: argparse.Namespace, rest: list[str]) -> int:
    overrides = overrides_of(given, rest)
    if given.trust and not (given.resume or (given.recipe or "").endswith(".toml")):
        raise UserError("--trust goes with --resume, or with a recipe that lies in a folder")
    if given.resume:
        folder = Path(given.resume)
        if extra := given.recipe or given.profile:
            raise UserError(f"--resume {folder} has its own recipe: leave out {extra!r}")
        config = configs.resumed(folder, overrides, None, given.trust, "--trust")
    else:
        name = given.recipe or configs.DEFAULT_RECIPE
        configs.require_recipe(name, overrides, given.trust)
        config = configs.resolve(configs.read_recipe(name), overrides, given.profile)
        folder = Path(
            config.run.dir or f"runs/{configs.run_name(name, config, given.task, given.profile)}"
        )
    if given.dry_run:
        from tinyzero.run.check import check

        print(configs.to_toml(check(config, overrides, here=False).config), end="")
        return 0
    from tinyzero.train import train

    command = configs.Command(given.command, overrides)
    train(config, folder, bool(given.resume), given.started, command)
    _summary(folder, given.started)
    return 0


def _options_help() -> str:
    """Every option of a recipe with its default and one line."""
    lines = ["options, written --section.option value:"]
    short = {full: name for name, full in configs.SHORT.items()}
    default = configs.Config()
    for key in configs.option_keys():
        value: Any = default
        field: Any = None
        for part in key.split("."):
            field = type(value).model_fields[part]
            value = getattr(value, part)
        lines.append(f"  --{short.get(key, key):<24} {field.description} (default: {value!r})")
    return "\n".join(
        [
            *lines,
            "and the task's and the algorithm's own, as --task.max_number 25 or --algorithm.kl 0.001",
        ]
    )


def _summary(folder: Path, started: float) -> None:
    """Before and after: scores, one problem's two answers, and what to do next."""
    tests = [e for e in records.read(folder / "eval.jsonl") if e["split"] == "test"]
    samples = [r for r in records.read(folder / "rollouts.jsonl") if r["split"] == "test"]
    if len(tests) > 1:
        first, last = tests[0], tests[-1]
        before = {r["problem"]: r for r in samples if r["step"] == first["step"]}
        after = [r for r in samples if r["step"] == last["step"] and r["problem"] in before]
        shown = next(
            (r for r in after if r["reward"] == 1 and before[r["problem"]]["reward"] < 1), None
        )
        if shown:
            for title, record in (("before", before[shown["problem"]]), ("after", shown)):
                print(
                    f"\n--- {title}: {printable(record['problem'])}, reward {record['reward']:g}\n"
                    f"{printable(record['text'])}"
                )
        print()
        for title, e in (("before", first), ("after", last)):
            print(
                f"{title:>7}: test pass@1 {e['pass@1']:.3f} [{e['pass@1/low']:.3f}, {e['pass@1/high']:.3f}], "
                f"{e['n']} problems"
            )
    if spent := _spent(list(records.read(folder / "metrics.jsonl"))):
        print(spent)
    print(f"{time.perf_counter() - started:.0f} s in all; the run is in {folder}")
    print(f"next: tinyzero play {folder}   |   tinyzero eval {folder}")


def _spent(records: list[dict[str, Any]]) -> str:
    """FLOPs, utilisation, GPU-hours and dollars of a whole run, as far as they are known."""
    last = records[-1] if records else {}
    shares = [e["time/utilisation"] for e in records if "time/utilisation" in e]
    return ", ".join(
        [
            *([f"{last['flops']:.2e} FLOP"] if "flops" in last else []),
            *([f"{sum(shares) / len(shares):.0%} of the GPU's rate"] if shares else []),
            *([f"{last['time/gpu_hours']:.2f} GPU-hours"] if "time/gpu_hours" in last else []),
            *([f"${last['time/dollars']:.2f}"] if "time/dollars" in last else []),
        ]
    )
