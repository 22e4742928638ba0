"""What `tinyzero plan` prints: the table of devices, one device in full, or a measured plan."""

from __future__ import annotations

from collections.abc import Mapping

from tinyzero.config import Config
from tinyzero.cost.devices import CPU, DEVICES, PRICES_FROM, Device
from tinyzero.cost.simulator import USABLE, remedies
from tinyzero.cost.words import remedy_line
from tinyzero.errors import UserError
from tinyzero.tools.plan import page, survey
from tinyzero.tools.plan.prices import price_of

Devices = Mapping[str, Device]
Prices = Mapping[str, float]


def table(
    config: Config,
    candidates: Mapping[str, Config],
    devices: Devices,
    prices: Prices,
    length: float | None,
) -> str:
    """A row per device and profile that fits, then what the columns mean and what was assumed.

    `candidates` are the recipe under "" and its profiles by name; no `devices` means all.
    """
    planner = survey.planner_for(length)
    if not devices:
        cpu_first = config.model.device == "cpu"
        devices = {"cpu": CPU} | DEVICES if cpu_first else DEVICES | {"cpu": CPU}

    rows = survey.survey(candidates, devices, planner, prices)
    notes = [
        f"GB: needed/total. free: share of the usable {USABLE:.0%} that stays free; tight: less "
        f"than {survey.TIGHT:.0%}, so try it first. answers: answers per step. 1,000: time per "
        "1,000 answers, to compare algorithms.",
    ]
    if not prices:
        notes.append(f"$/hour: {PRICES_FROM}. --price sets your own.")
    notes += dict.fromkeys(
        sentence
        for device in (next(iter(devices.values())), list(devices.values())[-1])
        if config.model.dtype in device.rates
        for sentence in page.assumptions(planner(config, device), config, length)
    )
    if note := page.device_note(config, on_cpu=False):
        notes.append(note)

    return "\n".join([rows, "", *map(survey.wrapped, notes)])


def in_full(
    config: Config,
    candidates: Mapping[str, Config],
    devices: Devices,
    prices: Prices,
    length: float | None,
) -> str:
    """The page about one device: the plan, the profiles that fit, what to change, what was assumed.

    Raises UserError if the device does not compute in the recipe's data type.
    """
    planner = survey.planner_for(length)
    ((name, device),) = devices.items()
    if config.model.dtype not in device.rates:
        raise UserError(f"{name}: {survey.without_type(candidates, device, planner)}")

    plan = planner(config, device)
    lines = [page.describe(plan, price_of(name, device, prices)), ""]

    if len(candidates) > 1:
        choices = survey.fitting(candidates, device, planner)
        lines.append(page.profiles_line(choices))
    if not plan.fits:
        changes = remedies(config, lambda changed: planner(changed, device))
        lines.append(remedy_line(changes))
    lines += page.assumptions(plan, config, length)
    if note := page.device_note(config, device.is_cpu):
        lines.append(note)

    return "\n".join([lines[0], *map(survey.wrapped, lines[1:])])


def measured(config: Config, devices: Devices, prices: Prices, length: float | None) -> str:
    """The page about this machine, after five steps on it.

    `devices` may hold the description of its GPU. Raises UserError if the recipe cannot run here.
    """
    from tinyzero.algorithms import load_algorithm
    from tinyzero.cost.shapes import find_shape
    from tinyzero.tools.plan import measure

    device = measure.this_device(config, described=next(iter(devices.values()), None))
    name = next((key for key, known in DEVICES.items() if known == device), "cpu")
    algorithm = load_algorithm(config.algorithm.name, config.algorithm.options)

    print(f"running {measure.STEPS} steps in a temporary folder, without evaluations", flush=True)
    steps = measure.measured_steps(config, algorithm)
    shape = find_shape(config.model.name)
    correction = measure.compare(steps, config, algorithm, shape, device)
    plan = measure.corrected(survey.planner_for(length)(config, device), correction)

    return "\n" + page.describe(plan, price_of(name, device, prices), correction)
