"""One device in full: what a recipe needs there, what a step takes, and what was assumed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tinyzero.config import Config
from tinyzero.cost.simulator import LENGTH, OTHERWISE, Plan
from tinyzero.cost.words import size_text, usable_text
from tinyzero.tasks.base import Task
from tinyzero.tools.plan.prices import cost, rate
from tinyzero.tools.plan.survey import AS_IT_IS, TIGHT, Choice, short_time, wrapped

if TYPE_CHECKING:  # it imports torch, which a plan does not need
    from tinyzero.tools.plan.measure import Correction

NAME, SIZE = 19, 9
"""Widths of the columns of names and of sizes."""


def describe(
    plan: Plan, price: tuple[float, float] | None = None, correction: Correction | None = None
) -> str:
    """The plan as text: memory, one step, the whole run.

    `price` is the lowest and the highest dollars per hour. `correction` is what was measured, which
    `plan` already contains.
    """
    sampler = "auto (planned as torch)" if plan.sampler == "auto" else plan.sampler
    threads = f", {plan.threads} thread{'s' * (plan.threads != 1)}" if plan.threads else ""
    lines = [f"{plan.device.name}{threads}, {plan.dtype}, sampler {sampler}", ""]

    lines += ["memory (1 GB is 1e9 bytes)", *memory_lines(plan), ""]
    lines += [*step_lines(plan), ""]
    lines += [run_line(plan, price)]
    if correction is not None:
        lines += ["", *map(wrapped, measured_lines(plan, correction))]

    return "\n".join(lines)


def memory_lines(plan: Plan) -> list[str]:
    """What is on the device, part by part, and whether it fits."""
    slots = {"slots": {"cache": plan.slots}} if plan.slots else {}
    phases = {"sampling": plan.sampling, "learning": plan.learning}

    lines = []
    for name, parts in (plan.models | slots | phases).items():
        listed = "  ".join(f"{part} {size_text(size)}" for part, size in parts.items())
        lines.append(memory_line(name, sum(parts.values()), listed))
    lines.append(memory_line("peak", plan.peak, verdict(plan)))
    if plan.host:
        lines.append(memory_line("in CPU memory", plan.host))
    lines.append(memory_line("checkpoints", plan.disk, "on disk"))

    return lines


def memory_line(name: str, size: float, text: str = "") -> str:
    """A name, its size, and what there is to say about it."""
    return f"  {name:<{NAME}} {size_text(size):>{SIZE}}  {text}".rstrip()


def verdict(plan: Plan) -> str:
    """Whether the plan fits, and how much memory it leaves."""
    usable = usable_text(plan)
    if not plan.fits:
        return f"does not fit in {usable}"
    tight = "but tight: " if plan.margin < TIGHT else ""
    return f"fits, {tight}{plan.margin:.0%} of {usable} stays free"


def step_lines(plan: Plan) -> list[str]:
    """The load of a step, and the time of each of its parts."""
    load = plan.load
    answers = f"{load.answers} answers of {load.length:.0f} tokens on average"
    prompts = f"{load.prompts} prompts of {load.prompt:.0f} tokens"
    kept = f", {load.kept:.0%} of them learned from" if load.kept < 1 else ""
    lines = [f"one step: {answers}, up to {load.longest}, to {prompts}{kept}"]

    for name, part in plan.step.items():
        work = f"  {work_text(part.flops)}" if part.flops else ""
        again = f", and {work_text(part.again)} computed again" if part.again else ""
        lines.append(f"  {name:<{NAME}} {seconds_text(part.seconds):>{SIZE}}{work}{again}")

    everything = f"with {OTHERWISE - 1:.0%} for everything else"
    lines.append(f"  {'total':<{NAME}} {seconds_text(plan.seconds):>{SIZE}}  {everything}")
    per_thousand = 1000 * plan.seconds / load.answers
    lines.append(f"  {'per 1,000 answers':<{NAME}} {seconds_text(per_thousand):>{SIZE}}")

    return lines


def run_line(plan: Plan, price: tuple[float, float] | None) -> str:
    """Time, work and price of the whole run."""
    parts = [
        f"{plan.steps} steps and evaluations: {short_time(3600 * plan.hours)}",
        f"{plan.flops:.1e} FLOP",
        f"{plan.utilisation:.0%} of the peak rate",
    ]
    if price:
        parts.append(f"${cost(price, plan.hours)} at ${rate(price)} per hour")
    return ", ".join(parts)


def measured_lines(plan: Plan, correction: Correction) -> list[str]:
    """What was measured, and what is extrapolated from it."""
    first, last = correction.lengths
    lines = [
        f"measured here: {correction.steps} steps after one to warm up, with answers of "
        f"{first:.0f} to {last:.0f} tokens: {correction.seconds:.1f} s per step, "
        f"{correction.planned:.1f} s planned",
        f"extrapolated: answers of {plan.load.length:.0f} tokens on average, and evaluations, with "
        f"sampling at {correction.sampling:.2f} and learning at {correction.learning:.2f} times "
        "the plan",
    ]
    if correction.busy:
        lines.append(
            f"this machine was busy: the run had a processor for {correction.share:.0%} of the "
            "time. With nothing else running, the whole run takes about "
            f"{short_time(3600 * plan.hours * correction.share)} or less"
        )
    return lines


def assumptions(plan: Plan, config: Config, length: float | None) -> list[str]:
    """The assumptions behind the times, one sentence each."""
    device, load = plan.device, plan.load
    kept = "every group" if load.kept == 1 else f"{load.kept:.0%} of the groups"
    why = "" if length else f" ({LENGTH:g} of the limit; --length TOKENS changes it)"
    lines = [
        f"assumed: answers of {load.length:.0f} tokens on average{why}, and one of {load.longest} "
        f"in every step; learning from {kept}"
    ]

    if device.is_cpu:
        lines.append(
            f"assumed: {device.name} with model.threads = {config.model.threads} and nothing else "
            "running; --measure runs five steps on this machine instead"
        )
    else:
        lines.append(
            f"assumed: {device.forward:.0%} of the GPU's rate when reading, {device.update:.0%} "
            f"when learning, {device.decode:.0%} of its bandwidth when decoding, and at least "
            f"{1e6 * device.launch:.0f} µs per layer and {1e3 * device.step:.1f} ms per token; "
            "no GPU has been measured yet, so run --measure on yours"
        )
    return lines


def grading_line(config: Config, task: Task, length: float | None) -> str:
    """What a judge will be asked and paid in the whole run; empty if grading costs nothing.

    Evaluations count too. Verdicts that are already kept make it cheaper.
    """
    samples, every = config.rollout.samples, config.eval.every
    judged = config.eval.samples + config.eval.greedy
    evaluations = 2 + (config.steps - 1) // every if every else 0
    problems = evaluations * config.eval.dev_problems + 2 * config.eval.test_problems
    answers = config.steps * config.rollout.prompts * samples + judged * problems

    tokens = length or LENGTH * config.rollout.max_tokens
    costs = task.expected_costs(answers, tokens, samples)
    if not costs:
        return ""
    listed = [
        f"${value:,.2f}"
        if key.endswith("/dollars")
        else f"{value:,.0f} {key.partition('/')[2].replace('_', ' ')}"
        for key, value in costs.items()
    ]
    return f"the judge, for {answers:,} answers at most: {', '.join(listed)}"


def device_note(config: Config, on_cpu: bool) -> str:
    """A hint if the recipe names another kind of device than the planned one, otherwise ""."""
    named = config.model.device
    if named == "cpu" and not on_cpu:
        return "the recipe names model.device cpu: to use a GPU, add --model.device cuda"
    if named.startswith("cuda") and on_cpu:
        return f"the recipe names model.device {named}: to use the CPU, add --model.device cpu"
    return ""


def profiles_line(choices: Sequence[Choice]) -> str:
    """The profiles that fit on a device, with what they train and take."""
    if not choices:
        return "none of the recipe's profiles fits"
    listed = [
        f"{'the recipe as it is' if choice.profile == AS_IT_IS else choice.profile} "
        f"({choice.trains}, {short_time(3600 * choice.plan.hours)})"
        for choice in choices
    ]
    return f"profiles that fit: {', '.join(listed)}"


def seconds_text(seconds: float) -> str:
    """Seconds as "12.3 s" or "0.58 s"."""
    return f"{seconds:.1f} s" if seconds >= 10 else f"{seconds:.2f} s"


def work_text(flops: float) -> str:
    """FLOPs as "2,640 TFLOP" or "68 GFLOP"."""
    if flops >= 1e13:
        return f"{flops / 1e12:,.0f} TFLOP"
    return f"{flops / 1e9:,.0f} GFLOP" if flops >= 1e10 else f"{flops / 1e9:.2g} GFLOP"
