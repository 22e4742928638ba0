"""`tinyzero explain`: what a metric or an option means."""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Callable, Iterable
from typing import Any

from tinyzero import config as configs
from tinyzero.algorithms import NAMES
from tinyzero.errors import UserError
from tinyzero.registry import near
from tinyzero.run.glossary import GLOSSARY, define
from tinyzero.tasks import TASKS, load_task
from tinyzero.tasks.base import Task

EXAMPLES = """\
  tinyzero explain rollout.samples      an option
  tinyzero explain response_length      a metric in metrics.jsonl or eval.jsonl
  tinyzero explain time/                every metric that begins with time/
  tinyzero explain optimizer            every option of a section
  tinyzero explain behaviour/ --task my_task.py:MyTask"""

MOST_HINTS = 6


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
    task_names = [given.task] if given.task else list(TASKS)
    tasks = {name: load_task(name) for name in task_names}
    glossaries = {name: task.glossary for name, task in tasks.items()}
    key = given.key.lstrip("-").lower()
    key = _headings(tasks.values()).get(key, key)

    meanings = _metrics(key, glossaries) + _options(key, task_names)
    if not meanings:
        meanings = _below(key, glossaries, task_names)
    if not meanings:
        raise UserError(
            f"no metric or option is called {given.key!r}{_hint(key, glossaries, task_names)}"
        )

    for name, meaning in dict.fromkeys(meanings):
        print(f"{name}\n{textwrap.indent(textwrap.fill(meaning, 76), '    ')}")
    return 0


def _headings(tasks: Iterable[Task]) -> dict[str, str]:
    """The metric behind each heading that the console prints, such as length and attempts."""
    from tinyzero.run.console import COLUMNS

    shown = {heading: key for key, (heading, _) in COLUMNS.items()}
    for task in tasks:
        shown |= {heading: key for key, heading in task.highlights.items()}
    return shown


def _hint(key: str, glossaries: dict[str, Any], task_names: list[str]) -> str:
    """The end of the message about an unknown key: similar keys, or those that mention it."""
    options = dict(_all_options(task_names))
    metrics = _all_metrics(glossaries)
    mentioning = [
        name.split(" ")[0]
        for name, meaning in (metrics | options).items()
        if re.search(rf"\b{re.escape(key)}", meaning, re.IGNORECASE)
    ]
    if mentioning:
        listed = ", ".join(list(dict.fromkeys(mentioning))[:MOST_HINTS])
        return f"; these mention it: {listed}"

    known = [name.split(" ")[0] for name in options]
    if "." not in key:
        known += metrics
    return near(key, known) or ": see docs/metrics.md, or `tinyzero train --help`"


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
