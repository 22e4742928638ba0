"""`tinyzero VERB ...`: what the command line offers, a verb each (`tinyzero --help` lists them).

Heavy imports wait until the command line is understood, so help and mistakes answer at once. A user's
mistake is one line and exit code 2, never a traceback.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from tinyzero import config as configs
from tinyzero.algorithms import NAMES, composition, load_algorithm
from tinyzero.errors import NonFiniteError, UserError, brief
from tinyzero.evaluate import EVAL_SEED, distinct_problems, evaluate
from tinyzero.grading import Verdict
from tinyzero.registry import near, suggest, validate
from tinyzero.rollouts import Player, Tally
from tinyzero.run import records
from tinyzero.tasks import load_task
from tinyzero.types import SPLITS, Algorithm, SamplingParams

RESUMABLE = (
    "steps",
    "eval.",
    "checkpoint.",
    "run.rollouts",
    "run.price",
    "run.track",
    "model.threads",
)
"""What may change when a run is resumed."""

USED = ("task.", "model.device", "model.dtype", "model.prompt", "model.threads", "eval.max_tokens")
"""What a command that uses a model as it is takes of a recipe."""

BASES = {"tiny": "laptop", "tiny-multiplication": "multiplication"}
"""The recipe that each bundled base is made for."""


class Parser(argparse.ArgumentParser):
    """argparse, with mistakes in one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    started = time.perf_counter()
    try:
        plain, dotted = _set_apart(list(sys.argv[1:] if arguments is None else arguments))
        given, bare = _parser().parse_known_args(plain)
        given.started = started
        rest = {"none": [], "sections": dotted, "any": [*bare, *dotted]}[given.options]
        unknown = {"none": [*bare, *dotted], "sections": bare, "any": []}[given.options]
        if unknown:
            known = [*configs.option_keys(), *configs.SHORT] if given.run is _train else []
            likely = near(unknown[0].lstrip("-"), known)
            raise UserError(
                f"unknown argument {unknown[0]}{likely} (see tinyzero {given.verb} --help)"
            )
        return int(given.run(given, rest))
    except UserError as error:
        print(f"tinyzero: error: {error}", file=sys.stderr)
        return 2
    except NonFiniteError as error:
        print(f"tinyzero: stopped: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output went away
        sys.stderr.close()
        return 1
    except OSError as error:
        print(
            f"tinyzero: error: {error.filename or 'the system'}: {error.strerror or brief(error)}",
            file=sys.stderr,
        )
        return 2


def _set_apart(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Arguments for argparse, and the `--section.option value` pairs, whose values it would take for its own."""
    known: list[str] = []
    dotted: list[str] = []
    while arguments:
        argument = arguments.pop(0)
        if not (argument.startswith("--") and "." in argument.partition("=")[0]):
            known.append(argument)
            continue
        dotted.append(argument)
        if "=" not in argument and arguments and not arguments[0].startswith("--"):
            dotted.append(arguments.pop(0))
    return known, dotted


def _parser() -> Parser:
    parser = Parser(prog="tinyzero", description=__doc__.split("\n\n")[0], allow_abbrev=False)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=Parser)

    def verb(name: str, run: Callable[..., int], text: str, **more: Any) -> argparse.ArgumentParser:
        made = verbs.add_parser(
            name,
            help=text,
            description=text.replace("%%", "%"),
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **more,
        )
        made.set_defaults(run=run, options="sections")
        return made

    train = verb("train", _train, "train a model by rewards alone", epilog=_options_help())
    _recipe_arguments(train)
    train.add_argument(
        "--resume", metavar="DIR", help="go on with this run from its newest whole checkpoint"
    )
    train.add_argument(
        "--dry-run", action="store_true", help="print the resolved configuration and stop"
    )

    plan = verb(
        "plan",
        _plan,
        "what a recipe needs and costs: memory, time, FLOPs and dollars, before it runs",
    )
    _recipe_arguments(plan)
    plan.add_argument(
        "--gpu",
        metavar="NAME",
        help="one of h100, h200, a100, l40s, 4090, t4 ... or cpu (default: all)",
    )
    plan.add_argument(
        "--price",
        type=_number,
        metavar="DOLLARS",
        help="an hour of it (default: the recipe's run.price)",
    )
    plan.add_argument(
        "--length",
        type=_positive,
        metavar="TOKENS",
        help="of an answer, on average (default: 0.4 of the limit)",
    )
    plan.add_argument(
        "--calibrate", action="store_true", help="measure this machine's CPU first, for about 20 s"
    )
    plan.add_argument(
        "--pretraining",
        nargs=2,
        type=_amount,
        metavar=("ACTIVE", "TOKENS"),
        help="instead of a recipe",
    )
    plan.add_argument(
        "--hours", type=_amount, metavar="HOURS", help="of one --gpu, which the pretraining took"
    )

    evaluation = verb(
        "eval", _eval, "score a model: pass@1, pass@k and greedy, with 95 %% intervals"
    )
    _model_arguments(evaluation, seed=EVAL_SEED)
    evaluation.add_argument(
        "--n", type=_positive, default=256, help="distinct problems (default: 256)"
    )
    evaluation.add_argument(
        "--k", type=_positive, default=1, help="completions a problem (default: 1)"
    )
    evaluation.add_argument("--split", choices=SPLITS, default="test", help="(default: test)")
    evaluation.add_argument("--json", metavar="FILE", help="write every figure here too")

    play = verb("play", _play, "pose problems to a model and watch it think")
    _model_arguments(play)
    play.add_argument(
        "other", nargs="?", metavar="model2", help="another model to ask beside it, with --web"
    )
    play.add_argument("--web", action="store_true", help="on a page in the browser")
    play.add_argument(
        "--host",
        help="address the page listens on, with --web (default: 127.0.0.1, this machine only)",
    )
    play.add_argument(
        "--port", type=_port, help="port the page listens on, with --web; 0 for any (default: 8000)"
    )

    sample = verb("sample", _sample, "write completions with their rewards to a JSONL file")
    _model_arguments(sample)
    sample.add_argument(
        "--n", type=_positive, default=16, help="completions, one a problem (default: 16)"
    )
    sample.add_argument("--split", choices=SPLITS, default="dev", help="(default: dev)")
    sample.add_argument("--out", required=True, metavar="FILE", help="the JSONL file to write")

    export = verb(
        "export",
        _export,
        "write a model as a folder for transformers, vLLM and the hub, with its card",
    )
    export.add_argument(
        "model", help="a run, a folder with a Hugging Face model, a hub id, or a bundled base"
    )
    export.add_argument("out", help="the new folder")
    export.add_argument(
        "--push",
        metavar="NAME",
        help="publish it on the Hugging Face hub too, as this new repository",
    )
    export.add_argument("--private", action="store_true", help="with --push: for your eyes only")

    data = verb("data", _data, "write problems in the public layout, or describe such a file")
    data.add_argument("task", nargs="?", default="countdown", help="(default: countdown)")
    data.add_argument("--n", type=_positive, default=1000, help="distinct problems (default: 1000)")
    data.add_argument("--split", choices=SPLITS, default="train", help="(default: train)")
    data.add_argument("--out", metavar="FILE", help="a .parquet or .jsonl file to write")
    data.add_argument(
        "--stats", metavar="FILE", help="describe this file (or hub dataset id) instead"
    )

    ablate = verb("ablate", _ablate, "run a grid of trainings over seeds and compare them")
    ablate.add_argument("grid", help="a TOML file: recipe, seeds, common, axes")
    ablate.add_argument(
        "--out", metavar="DIR", help="folder of the runs (default: runs/NAME of the grid's file)"
    )
    ablate.add_argument("--jobs", type=_positive, default=1, help="runs at a time (default: 1)")

    report = verb(
        "report",
        _report,
        "write a page that tells a run, or compares several: pictures and samples",
    )
    report.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="a run's folder, or a folder of runs, such as a grid's",
    )
    report.add_argument(
        "--out", metavar="FILE", help="(default: report.html in the run, or beside the runs)"
    )

    watch = verb("watch", _watch, "the same page, live in the browser while the run goes on")
    watch.add_argument(
        "folder", metavar="RUN", help="a run's folder, or a folder of runs; it may be empty still"
    )
    watch.add_argument(
        "--port", type=_port, default=8765, help="0 for any that is free (default: 8765)"
    )
    watch.add_argument(
        "--host",
        default="127.0.0.1",
        help="who may look: 0.0.0.0 lets others in (default: 127.0.0.1)",
    )

    algorithms = verb(
        "algorithms",
        _algorithms,
        "print what each algorithm is made of: its stages, constants and source",
    )

    check = verb(
        "check-task",
        _check_task,
        "prove that a task grades its own solutions, garbage and nonsense as it should",
    )
    check.add_argument(
        "task", help="countdown, multiplication, package.module:Name or path/file.py:Name"
    )

    pretrain = verb(
        "pretrain",
        _pretrain,
        "make a base model such as the bundled ones, from a seed or from another",
    )
    pretrain.add_argument(
        "--out",
        default="runs/base",
        metavar="DIR",
        help="folder to work in; resumes what is there (default: runs/base)",
    )
    pretrain.add_argument(
        "--task",
        default="countdown",
        choices=["countdown", "multiplication"],
        help="the task the base is made for",
    )
    pretrain.add_argument("--threads", type=_positive, default=2, help="CPU threads (default: 2)")

    # options beyond these are written --section.option; four commands take none, and two take any
    for made in (export, report, watch, algorithms):
        made.set_defaults(options="none")
    for made in (ablate, pretrain):
        made.set_defaults(options="any")
    return parser


def _recipe_arguments(parser: argparse.ArgumentParser) -> None:
    names = ", ".join(configs.recipes())
    parser.add_argument(
        "recipe",
        nargs="?",
        help=f"{names}, one of them with -TASK-ALGORITHM, or a .toml file (default: {configs.DEFAULT_RECIPE})",
    )
    parser.add_argument(
        "--profile", metavar="NAME", help="one of the recipe's profiles, such as 24gb"
    )
    for short, full in configs.SHORT.items():
        parser.add_argument(
            f"--{short}",
            metavar="VALUE",
            help=f"short for --{full}" if short != full else "see below",
        )


def _model_arguments(parser: argparse.ArgumentParser, seed: int = 0) -> None:
    parser.add_argument(
        "model",
        help="a run, a folder with a Hugging Face model, a hub id, or a bundled base, tiny or tiny-multiplication",
    )
    parser.add_argument("--task", help="the task (default: the run's own)")
    parser.add_argument(
        "--recipe", help="take task, options and prompt from this recipe (default: the run's own)"
    )
    parser.add_argument(
        "--temperature", type=_temperature, default=1.0, help="0 is greedy (default: 1)"
    )
    parser.add_argument("--top-p", type=_share, default=1.0, help="(default: 1)")
    parser.add_argument("--top-k", type=_natural, default=0, help="0 for all (default: 0)")
    parser.add_argument(
        "--max-tokens", type=_positive, help="limit on new tokens (default: the recipe's)"
    )
    parser.add_argument("--seed", type=_natural, default=seed, help=f"(default: {seed})")


def _checked(
    kind: Callable[[str], Any], fits: Callable[[Any], bool], wanted: str
) -> Callable[[str], Any]:
    """A type for argparse: `kind` of the text, if it fits."""

    def read(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not fits(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
        return value

    return read


_positive = _checked(int, lambda value: value >= 1, "a whole number from 1 up")
_natural = _checked(int, lambda value: 0 <= value < 2**32, "a whole number from 0 to 4294967295")
_port = _checked(int, lambda value: 0 <= value < 2**16, "a port: a whole number from 0 to 65535")
_temperature = _checked(
    float, lambda value: value == 0 or 0.01 <= value < float("inf"), "0, or a number from 0.01 up"
)
_number = _checked(float, lambda value: 0 <= value < float("inf"), "a number from 0 up")
_amount = _checked(float, lambda value: 0 < value < float("inf"), "a number above 0")
_share = _checked(float, lambda value: 0 < value <= 1, "a number above 0 and at most 1")


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


def _overrides(given: argparse.Namespace, rest: list[str]) -> dict[str, Any]:
    """Of a recipe, short ones included."""
    short = [
        f"--{name}={value}" for name in configs.SHORT if (value := getattr(given, name)) is not None
    ]
    return configs.parse_overrides([*short, *rest])


def _train(given: argparse.Namespace, rest: list[str]) -> int:
    overrides = _overrides(given, rest)
    if given.resume:
        folder = Path(given.resume)
        if extra := given.recipe or given.profile:
            raise UserError(f"--resume {folder} has its own recipe: leave out {extra!r}")
        if not (folder / "config.toml").is_file():
            raise UserError(f"no run at {folder}: it has no config.toml")
        for key in overrides:
            if not key.startswith(RESUMABLE):
                raise UserError(
                    f"{key} cannot change when a run is resumed: start another run with it"
                )
        config = configs.read_recorded(folder)
        config = configs.resolve(config.model_dump(), overrides)
    else:
        name = given.recipe or configs.DEFAULT_RECIPE
        config = configs.resolve(configs.read_recipe(name), overrides, given.profile)
        folder = Path(
            config.run.dir or f"runs/{_run_name(name, config, given.task, given.profile)}"
        )
    configs.refuse_idle(overrides, config, _check_plugins(config))
    if given.dry_run:
        print(configs.to_toml(config), end="")
        return 0
    from tinyzero.train import train

    train(config, folder, resume=bool(given.resume), started=given.started)
    _summary(folder, given.started)
    return 0


def _run_name(name: str, config: configs.Config, task: str | None, profile: str | None) -> str:
    """RECIPE-ALGORITHM-SEED; after the recipe the task and after the algorithm the profile, where one was chosen."""
    recipe, named_task, _ = configs.split_name(name)
    recipe = Path(recipe).stem if recipe.endswith(".toml") else recipe
    task = task or named_task
    names = [
        recipe,
        *([task] if task else []),
        config.algorithm.name,
        *([profile] if profile else []),
    ]
    return "-".join([*(re.split("[/:]", part)[-1] for part in names), str(config.seed)])


def _check_plugins(config: configs.Config) -> Algorithm:
    """Names and options of the task and the algorithm, before anything slow happens; the algorithm."""
    load_task(config.task.name, config.task.options)
    return load_algorithm(config.algorithm.name, config.algorithm.options)


def _plan(given: argparse.Namespace, rest: list[str]) -> int:
    from tinyzero.cost import devices, shapes
    from tinyzero.cost import simulator as plan
    from tinyzero.tools.plan import page

    if given.gpu not in (None, "cpu", *devices.DEVICES):
        raise UserError(
            f"unknown --gpu {given.gpu!r}{suggest(given.gpu, [*devices.DEVICES, 'cpu'])}"
        )
    device = devices.DEVICES.get(given.gpu, devices.CPU)
    if given.pretraining:
        others = (
            given.recipe,
            given.profile,
            given.length,
            given.calibrate,
            *(getattr(given, n) for n in configs.SHORT),
        )
        if (
            rest
            or device.is_cpu
            or any(value is not None and value is not False for value in others)
        ):
            raise UserError(
                "--pretraining takes no recipe but a --gpu, its --price and perhaps the --hours it took"
            )
        active, tokens = given.pretraining
        print(page.pretraining(active, tokens, device, given.hours or 0.0, given.price or 0.0))
        return 0
    if given.hours:
        raise UserError("--hours goes with --pretraining: a recipe's hours are what is planned")
    if given.calibrate and not device.is_cpu:
        raise UserError(
            f"--calibrate measures this CPU, not --gpu {given.gpu}: leave one of the two out"
        )
    recipe, overrides = (
        configs.read_recipe(given.recipe or configs.DEFAULT_RECIPE),
        _overrides(given, rest),
    )
    config = configs.resolve(recipe, overrides, given.profile)
    _check_plugins(config)

    shape, prompt = shapes.find_shape(config.model.name), plan.prompt_tokens(config)

    def planned(config: configs.Config, device: devices.Device) -> plan.Plan:
        algorithm = load_algorithm(config.algorithm.name, config.algorithm.options)
        return plan.make_plan(config, algorithm, shape, device, prompt, given.length)

    price = config.run.price if given.price is None else given.price
    if given.gpu is None and not given.calibrate:
        profiles = [] if given.profile else configs.profiles(recipe)
        tried = {given.profile or "": config} | {
            name: configs.resolve(recipe, overrides, name) for name in profiles
        }
        print(page.survey(tried, planned, price))
        return 0
    if given.calibrate:
        from tinyzero.tools.plan.calibrate import calibrate

        device = calibrate(config.model.threads)
    found = planned(config, device)
    print(page.describe(found, price))
    if not found.fits:
        changes = plan.remedies(config, lambda changed: planned(changed, device))
        said = " ".join(f"--{key} {str(value).lower()}" for key, value in changes.items())
        print(
            f"it fits with {said}"
            if said
            else "no option makes it fit: take a smaller model or a larger device"
        )
    return 0


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
                    f"\n--- {title}: {record['problem']}, reward {record['reward']:g}\n{record['text']}"
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


def _open(
    given: argparse.Namespace, config: configs.Config, model: str
) -> tuple[Player, SamplingParams]:
    """A player of the model and its task, and how it samples, as the command and `config` say."""
    import torch

    from tinyzero import models
    from tinyzero.samplers.torch import TorchSampler

    task = load_task(config.task.name, config.task.options)
    if config.model.threads:
        torch.set_num_threads(config.model.threads)
    device = models.pick_device(config.model.device)
    lm, tokenizer = (
        models.load_model(model, getattr(torch, config.model.dtype), device),
        models.load_tokenizer(model),
    )
    sampler = TorchSampler(lm, models.decoder(tokenizer), models.end_ids(tokenizer, lm))
    params = SamplingParams(
        temperature=given.temperature,
        top_p=given.top_p,
        top_k=given.top_k,
        max_tokens=given.max_tokens or config.eval_tokens,
        seed=given.seed,
    )
    encode = partial(models.encode_prompt, tokenizer)
    return Player(task, sampler, encode, config.model.prompt), params


def _settings(given: argparse.Namespace, rest: list[str]) -> tuple[configs.Config, str]:
    """The recipe of a command that uses a model as it is, and the folder to load the model from."""
    source, model = _locate(given.model)
    name = given.recipe or source
    recipe = configs.read_recipe(name) if name else {"model": {"prompt": "base"}}
    overrides = configs.parse_overrides(rest)
    for key in overrides:
        if not key.startswith(USED):
            raise UserError(
                f"{key} has no effect: the model is used as it is (see tinyzero {given.verb} --help)"
            )
    if given.task:
        overrides["task.name"] = given.task
    return configs.resolve(recipe, overrides), model


def _locate(model: str) -> tuple[str | None, str]:
    """(the recipe that made `model`, the folder to load): a run means its newest whole checkpoint."""
    from tinyzero.run import checkpoint

    if model in BASES:
        return BASES[model], model
    folder = Path(model)
    if (folder / "config.toml").is_file():
        found = checkpoint.load_latest(folder, lambda text: print(text, file=sys.stderr))
        if found is None:
            raise UserError(f"{folder} has no checkpoint yet: train on, or name a model folder")
        return str(folder / "config.toml"), str(found[0] / "model")
    if (folder / "recipe.toml").is_file() and (
        folder / "config.json"
    ).is_file():  # an exported model
        return str(folder / "recipe.toml"), model
    for parent in folder.resolve().parents[:3]:
        if (parent / "config.toml").is_file() and (parent / "checkpoints").is_dir():
            return str(parent / "config.toml"), model
    return None, model


def _eval(given: argparse.Namespace, rest: list[str]) -> int:
    player, params = _open(given, *_settings(given, rest))
    params = replace(params, n=given.k)
    result = evaluate(
        player,
        split=given.split,
        problems=given.n,
        params=params,
        greedy=params.temperature > 0,
        seed=given.seed,
    )
    figures = {"model": given.model, **result.metrics}
    print(
        f"{given.model}: {given.n} {given.split} problems, {given.k} completions each "
        f"at temperature {params.temperature:g}"
    )
    for key, value in figures.items():
        if f"{key}/low" in figures:
            print(
                f"  {key:<28} {value:.3f}  [{figures[f'{key}/low']:.3f}, {figures[f'{key}/high']:.3f}]"
            )
        elif (
            isinstance(value, float)
            and not key.endswith(("/low", "/high"))
            and key != "temperature"
        ):
            print(f"  {key:<28} {value:.3f}")
    if result.metrics["reward_errors"]:
        print(
            f"  the reward function raised on {result.metrics['reward_errors']} completions, which count as wrong"
        )
    if given.json:
        try:
            Path(given.json).write_text(json.dumps(figures, indent=2) + "\n")
        except OSError as error:
            raise UserError(f"cannot write {given.json}: {error.strerror}") from None
    return 0


def _play(given: argparse.Namespace, rest: list[str]) -> int:
    if given.web:
        return _play_on_a_page(given, rest)
    for name, value in (
        ("a second model", given.other),
        ("--host", given.host),
        ("--port", given.port),
    ):
        if value is not None:
            raise UserError(f"{name} ({value}) is for the page: add --web")
    player, params = _open(given, *_settings(given, rest))
    if player.task.is_posable:
        example = player.task.line(player.task.problem("test", 0))
        print(f"a problem, as in `{example}` (Enter alone draws one; Ctrl-D ends)")
    else:
        print("Enter draws a problem (Ctrl-D ends)")
    drawn = 0
    while True:
        try:
            line = input("> ").strip()
            _think(player, params, line, drawn)
            drawn += 1
        except UnicodeDecodeError as error:
            print(f"this line is no UTF-8: {error.reason}")
        except UserError as error:
            print(error)
        except EOFError:
            print()
            return 0


def _think(player: Player, params: SamplingParams, line: str, drawn: int) -> None:
    """Pose what `line` says, or if nothing the next problem; show the model's answer and whether it is right.

    Raises UserError if it cannot be posed.
    """
    task = player.task
    problem = task.pose(line) if line and task.is_posable else task.problem("test", drawn)
    ids = player.prompt_ids(problem)
    print(*(f"{name} {value}" for name, value in problem.fields.items()), sep="  ")
    text = ""
    for piece in player.stream(ids, replace(params, seed=params.seed + drawn + 1)):
        print(piece, end="", flush=True)
        text += piece
    print(f"\n[{_said(player.judge(problem, text))}]")


def _said(verdict: Verdict) -> str:
    """A verdict in words."""
    if verdict.error:
        return f"the reward function raised {verdict.error}"
    assert verdict.reward is not None
    right = verdict.reward.right
    return f"reward {verdict.reward.value:g}" if right is None else "right" if right else "wrong"


def _play_on_a_page(given: argparse.Namespace, rest: list[str]) -> int:
    from tinyzero.tools.web.play import MAX_TEMPERATURE, Candidate, Playground, Server

    if given.temperature > MAX_TEMPERATURE:
        raise UserError(
            f"--temperature is {given.temperature:g}: the page goes up to {MAX_TEMPERATURE}"
        )
    names = [given.model, *([given.other] if given.other else [])]
    asked = [argparse.Namespace(**vars(given) | {"model": name}) for name in names]
    settings = [_settings(one, rest) for one in asked]
    first, last = settings[0][0], settings[-1][0]
    if configs.unsettled(last, first).task != first.task:
        raise UserError(
            f"{given.model} and {given.other} were made for different tasks or with different options of one: "
            "name one with --task, or a recipe with --recipe"
        )
    players = []
    for one, (config, model) in zip(asked, settings, strict=True):
        player, params = _open(one, config, model)
        size = sum(p.numel() for p in player.sampler.model.parameters())  # type: ignore[attr-defined]
        players.append(Candidate(one.model, size, player, params))
    host = given.host or "127.0.0.1"
    with Server(Playground(players), host, 8000 if given.port is None else given.port) as server:
        print(f"the page is at {server.url} (Ctrl-C ends)", flush=True)
        if not server.is_private:
            print("whoever reaches this machine can use it: there is no password")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
    return 0


def _sample(given: argparse.Namespace, rest: list[str]) -> int:
    player, params = _open(given, *_settings(given, rest))
    from tinyzero.train import rollout_record

    out = Path(given.out)
    if out.exists():
        raise UserError(f"{out} exists: name another file with --out")
    if not out.parent.is_dir():
        raise UserError(f"{out.parent} is no folder: make it, or name another file with --out")
    problems = [player.task.problem(given.split, i) for i in range(given.n)]
    tally = Tally()
    rollouts = [r for group in player.play(problems, params, 0, tally) for r in group]
    if tally.failed or tally.ungraded:
        print(
            f"the grader failed on {tally.failed} answers and could not grade {tally.ungraded}, "
            f"first: {tally.first_error}"
        )
    for rollout in rollouts:
        prompt = player.task.prompt(rollout.problem, player.template)
        records.append(out, rollout_record(0, given.split, rollout, prompt))
    print(f"wrote {len(rollouts)} completions to {out}")
    return 0


def _export(given: argparse.Namespace, rest: list[str]) -> int:
    from tinyzero.tools.export import check_hub, export, push

    if given.private and not given.push:
        raise UserError("--private is for the repository on the hub: add --push NAME")
    if given.push:
        check_hub(given.push)
    recipe, model = _locate(given.model)
    out = Path(given.out)
    export(model, recipe, out, given.push or out.name)
    print(f"wrote {out}: its card is {out / 'README.md'}")
    if given.push:
        print(f"pushed to {push(out, given.push, given.private)}")
    return 0


def _data(given: argparse.Namespace, rest: list[str]) -> int:
    from tinyzero.tasks.countdown import data as countdown_data

    if given.stats:
        if given.out:
            raise UserError(f"--stats {given.stats} writes nothing: leave out --out {given.out}")
        if rest:
            raise UserError(
                f"{rest[0]} is for problems that are written, and --stats writes none: leave one out"
            )
        print(json.dumps(countdown_data.stats(countdown_data.read_rows(given.stats)), indent=2))
        return 0
    if given.task != "countdown":
        raise UserError(f"the public layout holds countdown problems only, not {given.task}")
    if not given.out:
        raise UserError(
            "nothing to do: give --out FILE to write problems, or --stats FILE to describe a file"
        )
    if Path(given.out).exists():
        raise UserError(f"{given.out} exists: name another file with --out")
    config = configs.resolve({}, _of_the_task(rest))
    task = load_task("countdown", config.task.options)
    problems = distinct_problems(task, given.split, given.n)
    rows = [countdown_data.Row(p.fields["target"], tuple(p.fields["numbers"])) for p in problems]
    countdown_data.write_rows(given.out, rows)
    print(f"wrote {len(rows)} problems of split {given.split} to {given.out}")
    return 0


def _of_the_task(rest: list[str]) -> dict[str, Any]:
    """The task's options of a command that takes no others."""
    overrides = configs.parse_overrides(rest)
    if other := [key for key in overrides if not key.startswith("task.")]:
        raise UserError(
            f"{other[0]} has no effect: only the task's options have, as --task.max_number 25"
        )
    return overrides


def _ablate(given: argparse.Namespace, rest: list[str]) -> int:
    from tinyzero.tools.ablate import run_grid

    if rest:
        raise UserError(
            f"unknown argument {rest[0]}: what cells have in common stands in the grid, under [common]"
        )
    path = Path(given.grid)
    run_grid(
        path,
        Path(given.out or f"runs/{path.stem}"),
        given.jobs,
        lambda text: print(text, flush=True),
    )
    return 0


def _report(given: argparse.Namespace, rest: list[str]) -> int:
    from tinyzero.tools.report.page import write_report

    paths = [Path(run) for run in given.runs]
    out = (
        Path(given.out)
        if given.out
        else Path(os.path.commonpath(map(os.path.abspath, paths))) / "report.html"
    )
    size = write_report(paths, out)
    print(f"wrote {out} ({size / 1e6:.1f} MB): open it in a browser")
    return 0


def _watch(given: argparse.Namespace, rest: list[str]) -> int:
    from tinyzero.tools.report.watch import watch

    watch(Path(given.folder), given.host, given.port, lambda text: print(text, flush=True))
    return 0


def _algorithms(given: argparse.Namespace, rest: list[str]) -> int:
    for name in NAMES:
        title, formulas, stages = composition(name)
        print(f"{name}: {title}\n\n{textwrap.indent(formulas, '    ')}\n")
        for stage, choices in stages.items():
            print(f"    {stage:<16} {choices}")
        print()
    return 0


def _check_task(given: argparse.Namespace, rest: list[str]) -> int:
    from tinyzero.tasks.check import check_task

    config = configs.resolve({"task": {"name": given.task}}, _of_the_task(rest))
    failures = check_task(load_task(given.task, config.task.options))
    for failure in failures:
        print(f"FAILED: {failure}")
    if not failures:
        print(f"{given.task}: every check passed")
    return 1 if failures else 0


def _pretrain(given: argparse.Namespace, rest: list[str]) -> int:
    values: dict[str, Any] = {"task": given.task}
    for key, value in configs.parse_overrides(rest).items():
        configs.place(values, key, value)
    import torch

    from tinyzero.tools.pretrain.base import PretrainOptions, pretrain

    options = validate(PretrainOptions, values, "pretrain")
    torch.set_num_threads(given.threads)
    path = pretrain(options, Path(given.out), lambda text: print(text, flush=True))
    print(f"the base is in {path}")
    return 0
