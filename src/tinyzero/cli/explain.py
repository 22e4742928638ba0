"""`tinyzero explain`: what a metric or an option means."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable
from typing import Any

from tinyzero import config as configs
from tinyzero.algorithms import NAMES
from tinyzero.errors import UserError
from tinyzero.registry import near
from tinyzero.run.glossary import GLOSSARY, define
from tinyzero.tasks import TASKS, load_task

EXAMPLES = """\
  tinyzero explain rollout.samples      an option
  tinyzero explain response_length      a metric in metrics.jsonl or eval.jsonl
  tinyzero explain time/                every metric that begins with time/
  tinyzero explain optimizer            every option of a section
  tinyzero explain behaviour/ --task my_task.py:MyTask"""


def add(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command and its arguments."""
    parser = verb("explain", run, "say what a metric or an option means", examples=EXAMPLES)
    parser.add_argument(
        "key", metavar="KEY", help="a metric, an option, or the beginning of a name"
    )
    parser.add_argument(
        "--task", metavar="NAME", help="your own task, to include its metrics and options"
    )


def run(given: argparse.Namespace, overrides: dict[str, Any]) -> int:
    """Print what the key means, or what every key means that begins with it."""
    key = given.key.lstrip("-")
    task_names = [given.task] if given.task else list(TASKS)
    glossaries = {name: load_task(name).glossary for name in task_names}

    meanings = _metrics(key, glossaries) + _options(key, task_names)
    if not meanings:
        meanings = _below(key, glossaries, task_names)
    if not meanings:
        known = [name.split(" ")[0] for name, _ in _all_options(task_names)]
        if "." not in key:
            known += _all_metrics(glossaries)
        likely = near(key, known) or ": see docs/metrics.md, or `tinyzero train --help`"
        raise UserError(f"no metric or option is called {given.key!r}{likely}")

    for name, meaning in dict.fromkeys(meanings):
        print(f"{name}\n{textwrap.indent(textwrap.fill(meaning, 76), '    ')}")
    return 0


def _metrics(key: str, glossaries: dict[str, Any]) -> list[tuple[str, str]]:
    """What a metric means, by the general glossary or by that of a task."""
    if key.endswith("/"):
        return []

    own = {name: define(key, glossary) for name, glossary in glossaries.items()}
    general = define(key)
    if general and set(own.values()) == {general}:
        return [(f"{key} (metric)", general)]
    return [
        (f"{key} (metric of {name})", meaning)
        for name, meaning in own.items()
        if meaning and meaning != general
    ] or ([(f"{key} (metric)", general)] if general else [])


def _options(key: str, task_names: list[str]) -> list[tuple[str, str]]:
    """What an option means, for every task or algorithm that has it."""
    key = configs.SHORT.get(key, key)
    return [(name, text) for name, text in _all_options(task_names) if name.split(" ")[0] == key]


def _below(key: str, glossaries: dict[str, Any], task_names: list[str]) -> list[tuple[str, str]]:
    """Every metric and option that begins with `key` as a whole part."""
    metrics = _all_metrics(glossaries)
    prefix = key.rstrip("/.*")
    options = _all_options(task_names)
    return [
        *((name, text) for name, text in metrics.items() if name.startswith(f"{prefix}/")),
        *((name, text) for name, text in options if name.startswith(f"{prefix}.")),
    ]


def _all_metrics(glossaries: dict[str, Any]) -> dict[str, str]:
    """Every entry of the glossaries."""
    metrics = dict(GLOSSARY)
    for glossary in glossaries.values():
        metrics |= glossary
    return metrics


def _all_options(task_names: list[str]) -> list[tuple[str, str]]:
    """Every option with its meaning; those of a task or an algorithm say whose they are."""
    options = [
        (option.key, _meaning(option))
        for option in configs.describe(configs.Config(), begin=SECTIONS)
    ]
    for section, names in (("task", task_names), ("algorithm", NAMES)):
        options.append((f"{section}.name", configs.Named.model_fields["name"].description or ""))
        by_meaning: dict[tuple[str, str], list[str]] = {}
        for name in names:
            for option in configs.own_options(section, name):
                by_meaning.setdefault((option.key, _meaning(option)), []).append(name)
        options += [
            (f"{key} ({', '.join(names)})", text) for (key, text), names in by_meaning.items()
        ]
    return options


def _meaning(option: configs.Option) -> str:
    """What an option means, its default, and what it can be."""
    choices = f" One of {', '.join(option.choices)}." if option.choices else ""
    default = "not set" if option.value is None else f"{option.value!r}"
    return f"{option.meaning} [default: {default}]{choices}"


SECTIONS = tuple(
    name if name in ("seed", "steps") else f"{name}."
    for name in configs.Config.model_fields
    if name not in ("task", "algorithm")
)
