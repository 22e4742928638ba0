"""The table of `tinyzero plan`: one row per device and per profile that fits on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from textwrap import fill
from typing import NamedTuple

from tinyzero import config as configs
from tinyzero.algorithms import load_algorithm
from tinyzero.config import Config
from tinyzero.cost.devices import LACKS, Device
from tinyzero.cost.shapes import find_shape
from tinyzero.cost.simulator import USABLE, Plan, make_plan, prompt_tokens
from tinyzero.errors import UserError
from tinyzero.tools.plan.prices import cost, price_of, rate

Planner = Callable[[Config, Device], Plan]

TIGHT = 0.05
"""With less than this share of the usable memory free, a plan that fits is marked as tight."""

AS_IT_IS = "-"
"""What the table shows in place of a profile for the recipe without one."""

SMALLER = ("qwen2.5-7b", "qwen2.5-3b", "qwen2.5-1.5b", "qwen2.5-0.5b")
"""Recipes to suggest for a device that is too small, the largest first."""

HEADINGS = [
    "device",
    "profile",
    "trains",
    "GB",
    "free",
    "answers",
    "step",
    "1,000",
    "run",
    "$/hour",
    "cost, $",
]
LEFT_ALIGNED = 3
WIDTH = 98


def planner_for(length: float | None) -> Planner:
    """A function that plans a configuration on a device, for a mean answer length."""
    prompts: dict[str, float] = {}

    def planner(config: Config, device: Device) -> Plan:
        task = config.task.model_dump_json() + config.model.prompt
        if task not in prompts:
            prompts[task] = prompt_tokens(config)
        algorithm = load_algorithm(config.algorithm.name, config.algorithm.options)
        shape = find_shape(config.model.name)
        return make_plan(config, algorithm, shape, device, prompts[task], length)

    return planner


class Choice(NamedTuple):
    """A profile that fits on a device, and its plan."""

    profile: str
    trains: str
    """"full" if every weight is trained, otherwise "LoRA"."""
    plan: Plan


def fitting(candidates: Mapping[str, Config], device: Device, planner: Planner) -> list[Choice]:
    """The candidates that fit on a device: full training before LoRA, then the fastest first.

    `candidates` are configurations by profile. Raises UserError if the device does not support
    their data type.
    """
    choices = []
    for profile, config in candidates.items():
        plan = planner(config, device)
        if plan.fits:
            trains = "LoRA" if config.lora.rank else "full"
            choices.append(Choice(profile or AS_IT_IS, trains, plan))

    return sorted(choices, key=lambda choice: (choice.trains == "LoRA", choice.plan.hours))


def survey(
    candidates: Mapping[str, Config],
    devices: Mapping[str, Device],
    planner: Planner,
    prices: Mapping[str, float],
) -> str:
    """The table: a row per device and per profile that fits on it, or the reason why none does.

    `candidates` holds the recipe without a profile under "", and its profiles by name. `prices` are
    dollars per hour that the user gave (see `read_prices`).
    """
    rows: list[list[str] | str] = [HEADINGS]
    for name, device in devices.items():
        try:
            choices = fitting(candidates, device, planner)
        except UserError:
            rows.append(wrapped(f"{name}: {without_type(candidates, device, planner)}"))
            continue
        if not choices:
            rows.append(wrapped(f"{name}: {too_small(candidates, device, planner)}"))
        price = price_of(name, device, prices)
        rows += [row_of(name, choice, price) for choice in choices]

    return "\n".join(aligned(rows))


def wrapped(text: str) -> str:
    """A sentence over as many lines as it takes, indented from the second on."""
    return fill(text, width=WIDTH, subsequent_indent="    ", break_on_hyphens=False)


def row_of(name: str, choice: Choice, price: tuple[float, float] | None) -> list[str]:
    """The cells of one row."""
    plan = choice.plan
    threads = f", {plan.threads} thread{'s' * (plan.threads != 1)}" if plan.threads else ""
    free = f"{plan.margin:.0%}" + (" tight" if plan.margin < TIGHT else "")
    answers = plan.load.answers

    return [
        name + threads,
        choice.profile,
        choice.trains,
        f"{plan.peak / 1e9:.1f}/{plan.device.memory / 1e9:.0f}",
        free,
        str(answers),
        short_time(plan.seconds),
        short_time(1000 * plan.seconds / answers),
        short_time(3600 * plan.hours),
        rate(price),
        cost(price, plan.hours),
    ]


def aligned(rows: Sequence[list[str] | str]) -> list[str]:
    """The rows as lines in columns; a row that is a text already stays as it is."""
    tables = [row for row in rows if not isinstance(row, str)]
    widths = [max(map(len, column)) for column in zip(*tables, strict=True)]

    lines = []
    for row in rows:
        if isinstance(row, str):
            lines.append(row)
            continue
        cells = [
            cell.ljust(width) if i < LEFT_ALIGNED else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def short_time(seconds: float) -> str:
    """A duration in its natural unit: "0.6 s", "12 s", "8.3 min", "35 h"."""
    number, unit = seconds / 3600, "h"
    if seconds < 100:
        number, unit = seconds, "s"
    elif seconds < 6000:
        number, unit = seconds / 60, "min"

    return f"{number:.1f} {unit}" if number < 10 else f"{number:,.0f} {unit}"


def without_type(candidates: Mapping[str, Config], device: Device, planner: Planner) -> str:
    """Why a device that lacks the recipe's data type cannot run it, and what it can run instead."""
    dtype = next(iter(candidates.values())).model.dtype
    lacks = f"not possible in {dtype}, {LACKS}"
    full_precision = {name: in_float32(config) for name, config in candidates.items()}
    choices = fitting(full_precision, device, planner)
    if choices:
        best = choices[0]
        profile = "" if best.profile == AS_IT_IS else f" --profile {best.profile}"
        time = short_time(3600 * best.plan.hours)
        return f"{lacks}; --model.dtype float32{profile} takes {time}"
    model = next(iter(candidates.values())).model.name
    return f"{lacks}, and too small in float32{smaller_recipe(model, device, planner)}"


def too_small(candidates: Mapping[str, Config], device: Device, planner: Planner) -> str:
    """How much memory the recipe needs at least, and the largest recipe that fits instead."""
    least = min(planner(config, device).peak for config in candidates.values())
    usable = USABLE * device.memory
    needs = f"not possible, it needs {least / 1e9:.1f} GB and {usable / 1e9:.1f} GB are usable"
    model = next(iter(candidates.values())).model.name
    return needs + smaller_recipe(model, device, planner)


def smaller_recipe(model: str, device: Device, planner: Planner) -> str:
    """The largest bundled recipe that fits on a device, as the end of a sentence.

    It trains `model` itself if possible, and never a larger one.
    """
    recipes = {name: configs.read_recipe(name) for name in SMALLER}
    models = [recipe["model"]["name"] for recipe in recipes.values()]
    first = models.index(model) if model in models else 0

    for name in SMALLER[first:]:
        recipe = recipes[name]
        for profile in configs.profiles(recipe):
            config = configs.resolve(recipe, {}, profile)
            in_bfloat16 = config.model.dtype in device.rates
            if planner(config if in_bfloat16 else in_float32(config), device).fits:
                dtype = "" if in_bfloat16 else " --model.dtype float32"
                return f"; {name} --profile {profile}{dtype} fits"
    return "; no recipe but laptop and multiplication fits"


def in_float32(config: Config) -> Config:
    """The same recipe with fp32 weights."""
    return config.model_copy(update={"model": config.model.model_copy(update={"dtype": "float32"})})
