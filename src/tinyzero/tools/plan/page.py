"""Plans as text: one device in full, every device a line each, and what pretraining takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tinyzero.config import Config
from tinyzero.cost.devices import CPU, DEVICES, Device
from tinyzero.cost.simulator import USABLE, Plan
from tinyzero.errors import UserError


def describe(plan: Plan, price: float) -> str:
    """The plan as a page: memory, a step, the run; `price` is dollars an hour, 0 for no word of it."""
    device, load = plan.device, plan.load
    sampler = "torch, for which auto is taken" if plan.sampler == "auto" else plan.sampler
    lines = [f"{device.name}, {plan.dtype}; sampler {sampler}; GB are 1e9 bytes", "", "memory"]
    slots = {"slots": {"cache": plan.slots}} if plan.slots else {}
    for name, parts in (
        plan.models | slots | {"sampling": plan.sampling, "learning": plan.learning}
    ).items():
        listed = "  ".join(f"{part} {_size(size)}" for part, size in parts.items())
        lines.append(f"  {name:<19} {_size(sum(parts.values())):>9}  {listed}")
    verdict = "it fits" if plan.fits else "IT DOES NOT FIT"
    lines.append(
        f"  {'at most':<19} {_size(plan.peak):>9}  {verdict} in {USABLE:.0%} of {_size(device.memory)}"
    )
    lines += [f"  {'in CPU memory':<19} {_size(plan.host):>9}"] if plan.host else []
    lines += [
        f"  {'checkpoints':<19} {_size(plan.disk):>9}  on disk",
        "",
        f"a step: {load.answers} answers of {load.length:.0f} tokens ({load.longest} at most) "
        f"to {load.prompts} prompts of {load.prompt:.0f}"
        + f", {load.kept:.0%} learned from"
        * (load.kept < 1),
    ]
    for name, part in plan.step.items():
        flops = f"  {part.flops:.1e} FLOP" * bool(part.flops)
        lines.append(
            f"  {name:<19} {_brief(part.seconds):>8}{flops}"
            + f" and {part.again:.1e} again" * bool(part.again)
        )
    lines += [
        f"  {'in all':<19} {_brief(plan.seconds):>8}  with a tenth for everything else",
        "",
        f"{plan.steps} steps and evaluations: {_time(plan.hours)}, {plan.flops:.1e} FLOP, "
        f"{plan.utilisation:.0%} of the device's rate"
        + f", {_dollars(price, plan)} at ${price:.2f} an hour"
        * bool(price),
    ]
    if not device.is_cpu:
        lines.append(
            f"assumed, not measured: {device.forward:.0%} of the rate reading, {device.update:.0%} learning, "
            f"{device.decode:.0%} of the bandwidth decoding"
        )
    return "\n".join(lines)


def _size(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def _brief(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 10 else f"{seconds:.2f} s"


def _time(hours: float) -> str:
    return f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes"


def _dollars(price: float, plan: Plan) -> str:
    return f"${price * plan.hours:,.2f}"


def survey(
    configs: Mapping[str, Config], planned: Callable[[Config, Device], Plan], price: float
) -> str:
    """A line for every device. `configs` holds the recipe as it is under "", and its profiles by name; shown is the
    fastest that fits, whole weights before adapters."""
    head = f"{'':<12} {'profile':<8} {'needs':>9} {'of':>9} {'a step':>9} {'the run':>12}"
    lines = [head + f" {'cost':>9}" * bool(price)]
    for name, device in (DEVICES | {"cpu": CPU}).items():
        try:
            plans = {profile: planned(config, device) for profile, config in configs.items()}
        except UserError as error:
            lines.append(f"{name:<12} {str(error).partition(':')[0]}")
            continue
        fitting = [profile for profile, plan in plans.items() if plan.fits]
        if not fitting:
            lines.append(f"{name:<12} does not fit")
            continue
        profile = min(fitting, key=lambda p: (configs[p].lora.rank > 0, plans[p].hours))
        plan = plans[profile]
        lines.append(
            f"{name:<12} {profile:<8} {_size(plan.peak):>9} {_size(device.memory):>9} {_brief(plan.seconds):>9} "
            f"{_time(plan.hours):>12}" + f" {_dollars(price, plan):>9}" * bool(price)
        )
    return "\n".join(lines)


def pretraining(active: float, tokens: float, device: Device, hours: float, price: float) -> str:
    """What pretraining takes, 6 FLOPs an active parameter and a token, as a few lines.

    Where `hours` of the device are told, the share of its rates that they mean; else the hours at its usual share.
    """
    flops = 6 * active * tokens
    lines = [
        f"6 x {active / 1e9:,.4g} billion active parameters x {tokens / 1e9:,.6g} billion tokens = {flops:.3g} FLOP"
    ]
    rates = {dtype: rate for dtype, rate in device.rates.items() if dtype != "float32"}
    if not hours:
        hours = flops / (device.update * device.rate("bfloat16")) / 3600
        lines.append(
            f"{device.name} at {device.update:.0%} of its bfloat16 rate: {hours:,.0f} hours"
        )
    else:
        shares = (
            f"{flops / (hours * 3600 * rate):.1%} of its {dtype} rate"
            for dtype, rate in rates.items()
        )
        lines.append(f"{hours:,.0f} hours of {device.name}: " + ", ".join(shares))
    return "\n".join(
        lines + [f"${hours * price / 1e6:,.3f} million at ${price:.2f} an hour"] * bool(price)
    )
