"""`tinyzero plan`: what a recipe needs and costs."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from tinyzero import config as configs
from tinyzero.cli.arguments import (
    MOST_TOKENS,
    amount,
    recipe_arguments,
    run_options,
    trust_argument,
    up_to,
)
from tinyzero.errors import UserError

if TYPE_CHECKING:
    from tinyzero.cost.devices import Device

OWN_GPU = ("gpu_memory", "gpu_bandwidth", "gpu_tflops")

EXAMPLES = """\
  tinyzero plan qwen2.5-3b                   every GPU and profile that fits
  tinyzero plan qwen2.5-3b --gpu 4090,h100   only these
  tinyzero plan qwen2.5-3b --gpu h100        one in full, and what to change
  tinyzero plan qwen2.5-3b --gpu-memory 24 --gpu-bandwidth 936 --gpu-tflops 71
  tinyzero plan laptop --measure             run five steps here, and correct it"""


def add(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """The command and its arguments."""
    parser = verb(
        "plan",
        run,
        "estimate what a recipe needs and costs: memory, time and dollars",
        options=run_options,
        examples=EXAMPLES,
    )
    recipe_arguments(parser)
    trust_argument(parser)
    parser.add_argument(
        "--gpu",
        metavar="NAMES",
        help="one GPU in detail, such as 4090, or a table of several, such as a100,h100; cpu for "
        "the CPU (default: a table of all)",
    )
    parser.add_argument(
        "--gpu-memory", type=amount, metavar="GIB", help="memory of a GPU that is not in the table"
    )
    parser.add_argument("--gpu-bandwidth", type=amount, metavar="GB/S", help="its memory bandwidth")
    parser.add_argument(
        "--gpu-tflops",
        type=amount,
        metavar="TFLOPS",
        help="its dense rate in the recipe's data type",
    )
    parser.add_argument(
        "--price",
        metavar="DOLLARS",
        help="dollars per hour: 2.5, or h100=2.1,4090=0.4 (default: the usual prices)",
    )
    parser.add_argument(
        "--length",
        type=up_to(MOST_TOKENS),
        metavar="TOKENS",
        help="mean length of an answer over the run (default: 0.3 of the limit)",
    )
    parser.add_argument(
        "--measure",
        action="store_true",
        help="run five real steps on this machine, and correct the plan with them",
    )


def run(given: argparse.Namespace, overrides: dict[str, Any]) -> int:
    """Print the table of devices, or the page about one."""
    from tinyzero.run.check import check
    from tinyzero.tools.plan import command
    from tinyzero.tools.plan.page import grading_line
    from tinyzero.tools.plan.prices import read_prices
    from tinyzero.tools.plan.survey import wrapped

    devices = devices_of(given)
    prices = read_prices(given.price) if given.price else {}
    name = given.recipe or configs.DEFAULT_RECIPE
    configs.require_recipe(name, overrides, given.trust)
    recipe = configs.read_recipe(name)
    config = configs.resolve(recipe, overrides, given.profile)
    task = check(config, overrides, here=given.measure).task

    if "run.price" in overrides and not given.price:
        prices = {"": config.run.price}
    profiles = [] if given.profile else configs.profiles(recipe)
    others = {profile: configs.resolve(recipe, overrides, profile) for profile in profiles}
    candidates = {given.profile or "": config} | others

    if given.measure:
        print(command.measured(config, devices, prices, given.length))
    elif len(devices) == 1:
        print(command.in_full(config, candidates, devices, prices, given.length))
    else:
        print(command.table(config, candidates, devices, prices, given.length))
    if line := grading_line(config, task, given.length):
        print(wrapped(line))
    return 0


def devices_of(given: argparse.Namespace) -> Mapping[str, Device]:
    """The devices that the command line names or describes, by short name; empty for all.

    Raises UserError if it does both, or describes a GPU only in part.
    """
    from tinyzero.cost.devices import CPU, DEVICES, described_device, find_device

    numbers = [getattr(given, option) for option in OWN_GPU]
    if any(numbers):
        if None in numbers or given.gpu:
            raise UserError(
                "to describe a GPU, give all of --gpu-memory, --gpu-bandwidth and --gpu-tflops, "
                "and leave out --gpu"
            )
        return {"yours": described_device(*numbers)}

    names = [find_device(name) for name in given.gpu.split(",")] if given.gpu else []
    if given.measure and names:
        raise UserError("--measure measures this machine: leave out --gpu")
    return {name: DEVICES.get(name, CPU) for name in names}
