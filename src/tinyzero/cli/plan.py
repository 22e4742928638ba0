"""`tinyzero plan`: what a recipe needs and costs."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from tinyzero import config as configs
from tinyzero.algorithms import load_algorithm
from tinyzero.cli.arguments import (
    MOST_TOKENS,
    amount,
    overrides_of,
    price,
    recipe_arguments,
    run_options,
    trust_argument,
    up_to,
)
from tinyzero.errors import UserError
from tinyzero.registry import suggest

EXAMPLES = """\
  tinyzero plan qwen2.5-3b                   every device and profile
  tinyzero plan qwen2.5-3b --gpu 4090 --profile 24gb
  tinyzero plan laptop --gpu cpu             this machine"""


def add(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """The command and its arguments."""
    parser = verb(
        "plan",
        run,
        "what a recipe needs and costs: memory, time, FLOPs and dollars, before it runs",
        options=run_options,
        examples=EXAMPLES,
    )
    recipe_arguments(parser)
    trust_argument(parser)
    parser.add_argument(
        "--gpu",
        metavar="NAME",
        help="one of h100, h200, a100, l40s, 4090, t4 ... or cpu (default: all)",
    )
    parser.add_argument(
        "--price",
        type=price,
        metavar="DOLLARS",
        help="an hour of it (default: the recipe's run.price)",
    )
    parser.add_argument(
        "--length",
        type=up_to(MOST_TOKENS),
        metavar="TOKENS",
        help="of an answer, on average (default: 0.4 of the limit)",
    )
    parser.add_argument(
        "--calibrate", action="store_true", help="measure this machine's CPU first, for about 20 s"
    )
    parser.add_argument(
        "--pretraining",
        nargs=2,
        type=amount,
        metavar=("ACTIVE", "TOKENS"),
        help="instead of a recipe",
    )
    parser.add_argument(
        "--hours", type=amount, metavar="HOURS", help="of one --gpu, which the pretraining took"
    )


def run(given: argparse.Namespace, rest: dict[str, Any]) -> int:
    from tinyzero.cost import devices, shapes
    from tinyzero.cost import simulator as plan
    from tinyzero.run.check import check
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
    overrides = overrides_of(given, rest)
    configs.require_recipe(given.recipe or configs.DEFAULT_RECIPE, overrides, given.trust)
    recipe = configs.read_recipe(given.recipe or configs.DEFAULT_RECIPE)
    config = configs.resolve(recipe, overrides, given.profile)
    check(config, overrides, here=False)

    shape, prompt = shapes.find_shape(config.model.name), plan.prompt_tokens(config)

    def planned(config: configs.Config, device: devices.Device) -> plan.Plan:
        algorithm = load_algorithm(config.algorithm.name, config.algorithm.options)
        return plan.make_plan(config, algorithm, shape, device, prompt, given.length)

    dollars = config.run.price if given.price is None else given.price
    if given.gpu is None and not given.calibrate:
        profiles = [] if given.profile else configs.profiles(recipe)
        tried = {given.profile or "": config} | {
            name: configs.resolve(recipe, overrides, name) for name in profiles
        }
        print(page.survey(tried, planned, dollars))
        return 0
    if given.calibrate:
        from tinyzero.tools.plan.calibrate import calibrate

        device = calibrate(config.model.threads)
    found = planned(config, device)
    print(page.describe(found, dollars))
    if not found.fits:
        changes = plan.remedies(config, lambda changed: planned(changed, device))
        said = " ".join(f"--{key} {str(value).lower()}" for key, value in changes.items())
        print(
            f"it fits with {said}"
            if said
            else "no option makes it fit: take a smaller model or a larger device"
        )
    return 0
