"""Rules for imports within the package, and a proof that each rule can fail."""

import ast
import subprocess
import sys
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

import tinyzero

ROOT = Path(tinyzero.__file__).parent
HEAVY = ["torch", "transformers", "ray", "vllm"]
LIGHT = [
    f"tinyzero.{name}"
    for name in (
        "tasks.*",
        "grading.*",
        "config.*",
        "errors",
        "registry",
        "tools.report.*",
        "tools.web.*",
    )
]
OURS = ["tinyzero.*"]

FLOORS = [
    ["types", "errors", "registry"],
    ["algorithms", "tasks", "grading", "models", "config"],
    [
        "samplers",
        "batching",
        "learner",
        "curriculum",
        "streams",
        "rollouts",
        "turns",
        "evaluate",
        "cost",
    ],
    ["run", "train", "cluster"],
    ["tools"],
    ["cli"],
]
"""A module imports from its own floor and from lower ones, never from a higher one."""


class Rule(NamedTuple):
    """Modules that match `who` import nothing that matches `never`, except what matches `but`."""

    who: list[str]
    never: list[str]
    but: list[str]


def named(names: list[str]) -> list[str]:
    """Patterns for modules of these names and everything within them."""
    return [f"tinyzero.{name}.*" for name in names]


INSIDE = named(
    [
        "grading.forks",
        *(f"grading.sandbox.{name}" for name in ("landlock", "seccomp", "values", "zygote")),
    ]
)
"""Modules that the process inside the sandbox loads."""

RULES = [
    Rule(["tinyzero.types"], [*OURS, *HEAVY], []),
    Rule(["tinyzero.errors"], OURS, []),
    Rule(LIGHT, HEAVY, []),
    Rule(
        named(["algorithms.advantages", "algorithms.losses"]),
        [*OURS, "transformers", "ray", "vllm"],
        [],
    ),
    Rule(named(["algorithms"]), OURS, named(["algorithms", "registry", "errors", "types"])),
    Rule(named(["grading"]), OURS, named(["grading", "registry", "errors", "types"])),
    # They are loaded inside the sandbox, which has the standard library alone.
    Rule(INSIDE, [*OURS, "pydantic", "numpy"], INSIDE),
    Rule(named(["tasks"]), OURS, named(["tasks", "grading", "registry", "errors", "types"])),
    Rule(named(["models.attention"]), OURS, named(["errors"])),
    Rule(named(["samplers"]), OURS, named(["samplers", "models", "registry", "errors", "types"])),
    Rule(named(["learner"]), named(["samplers", "tasks", "rollouts", "grading", "evaluate"]), []),
    *(
        Rule(named(floor), named([n for above in FLOORS[i + 1 :] for n in above]), [])
        for i, floor in enumerate(FLOORS)
    ),
]
ONLY_IMPORTER = {
    "transformers": "tinyzero.models.*",
    "ray": "tinyzero.cluster.*",
    "vllm": "tinyzero.samplers.vllm",
    "huggingface_hub": "tinyzero.tools.export",
    "peft": "tinyzero.models.lora",
    "math_verify": "tinyzero.grading.equivalence",
    "datasets": "tinyzero.tasks.*",
    "reasoning_gym": "tinyzero.tasks.reasoning_gym.serving",
    "httpx": "tinyzero.grading.endpoint",
}
ONE_IMPORTER = ["wandb", "tensorboard", "torch.utils.tensorboard", "trackio"]


@cache
def modules() -> dict[str, str]:
    """{module: source} of every module of the package."""
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text(
            encoding="utf-8"
        )
    return found


@cache
def imports(name: str, source: str, known: frozenset[str]) -> set[str]:
    """The modules that a module imports at run time, anywhere in its source.

    `from package import module` counts as an import of the module.
    """
    found: set[str] = set()

    def walk(node: ast.AST) -> None:
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for child in node.orelse:
                walk(child)
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            package = name.split(".")[: -node.level] if node.level else []
            base = ".".join([*package, *([node.module] if node.module else [])])
            found.update(
                f"{base}.{a.name}" if f"{base}.{a.name}" in known else base for a in node.names
            )
        for child in ast.iter_child_nodes(node):
            walk(child)

    walk(ast.parse(source))
    return found


def like(name: str, patterns: list[str]) -> bool:
    """Whether `name` is one of the modules, or within one, as torch.nn is within torch."""
    return any(fnmatchcase(f"{name}.", f"{pattern.removesuffix('.*')}.*") for pattern in patterns)


def broken(sources: dict[str, str]) -> list[str]:
    """One line per broken rule."""
    found = []
    graph = {name: imports(name, source, frozenset(sources)) for name, source in sources.items()}
    for name, imported in graph.items():
        for target in sorted(imported):
            for rule in RULES:
                if (
                    like(name, rule.who)
                    and like(target, rule.never)
                    and not like(target, [*rule.but, name])
                ):
                    found.append(f"{name} must not import {target}")
            for one, importer in ONLY_IMPORTER.items():
                if like(target, [one]) and not like(name, [importer]):
                    found.append(f"only {importer} may import {one}, not {name}")
    for tracker in ONE_IMPORTER:
        importers = [
            name for name, imported in graph.items() if any(like(t, [tracker]) for t in imported)
        ]
        if len(importers) > 1:
            found.append(f"{tracker} has several importers: {', '.join(importers)}")
    return found


def test_nobody_imports_what_he_must_not() -> None:
    assert broken(modules()) == []


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("types", "import torch"),
        ("types", "from tinyzero import grading"),
        ("errors", "from tinyzero.types import Problem"),
        ("tasks.mine", "import torch.nn as nn"),
        ("grading.sandbox.zygote", "from tinyzero.errors import UserError"),
        ("grading.forks", "import pydantic"),
        ("tasks", "from torch import Tensor"),
        ("tasks.mine", "from tinyzero.rollouts import Player"),
        ("grading.answers", "def f():\n    import transformers"),
        ("grading.answers", "from tinyzero.tasks import load_task"),
        ("tasks.prompts", "from transformers import AutoTokenizer"),
        ("tasks.countdown.thinking", "try:\n    import vllm\nexcept ImportError:\n    pass"),
        ("config", "import ray"),
        ("tools.web.play", "from torch import Tensor"),
        ("cli", "from huggingface_hub import HfApi"),
        ("tasks.judge.task", "def f():\n    import httpx"),
        ("tools.report.story", "from torch import Tensor"),
        ("algorithms.losses", "from tinyzero.types import Batch"),
        ("algorithms.advantages", "from . import losses"),
        ("algorithms.mine", "from tinyzero.config import Config"),
        ("algorithms.mine", "from tinyzero.samplers import torch"),
        ("algorithms.mine", "from ..tasks import load_task"),
        ("models.attention", "from tinyzero.models import Backbone"),
        ("samplers.mine", "import tinyzero.learner"),
        ("samplers.mine", "from tinyzero.tasks.countdown import Countdown"),
        ("samplers.mine", "from tinyzero.algorithms.grpo import GRPO"),
        ("learner", "from tinyzero.samplers.torch import TorchSampler"),
        ("learner", "from tinyzero import tasks"),
        ("learner", "import transformers"),
        ("learner", "import peft"),
        ("grading.maths", "import math_verify"),
        ("rollouts", "import datasets"),
        ("tasks.reasoning_gym.task", "import reasoning_gym"),
        ("samplers.torch", "from transformers import DynamicCache"),
        ("evaluate", "from tinyzero import train"),
        ("evaluate", "from tinyzero.run.parts import Run"),
        ("run.meter", "from tinyzero.tools import plan"),
        ("tools.plan", "import tinyzero.cli"),
        ("train", "from tinyzero.cli import main"),
        ("train", "import ray"),
        ("samplers.torch", "import vllm"),
        ("tools.report", "if True:\n    import wandb"),
    ],
)
def test_the_walk_would_notice(name: str, line: str) -> None:
    sources = dict(modules())
    sources[f"tinyzero.{name}"] = sources.get(f"tinyzero.{name}", "") + f"\n{line}\n"
    assert broken(sources)


def test_the_walk_lets_pass_what_is_allowed() -> None:
    sources = dict(modules())
    sources["tinyzero.tasks.mine"] = (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\n"
    )
    sources["tinyzero.samplers.vllm"] = (
        "def f():\n    import vllm\n    from tinyzero import models\n"
    )
    sources["tinyzero.cluster.pool"] = "import ray\nfrom tinyzero import learner\n"
    sources["tinyzero.torchlike"] = "import torchvision\n"
    assert broken(sources) == []


def test_nothing_heavy_is_loaded_by_what_must_answer_at_once() -> None:
    light = [
        "types",
        "errors",
        "tasks",
        "grading.arithmetic",
        "tasks.prompts",
        "config",
        "samplers.scripted",
        "cli",
    ]
    light += [
        "tasks.countdown.task",
        "tasks.multiplication.task",
        "tasks.countdown.corpus",
        "tasks.check",
        "tasks.judge",
        "tasks.scored_by_model",
        "tools.prefer.options",
        "rollouts",
    ]
    light += [
        "evaluate",
        "tools.report.page",
        "tools.report.watch",
        "run.trackers",
        "tools.web.play",
    ]
    code = "; ".join(f"import tinyzero.{name}" for name in light)
    heavy = "('torch', 'transformers', 'ray', 'vllm', 'httpx')"
    code += f"; import sys; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- public names


def packages(sources: dict[str, str]) -> set[str]:
    """Names of the packages within tinyzero."""
    return {name for name in sources if any(other.startswith(f"{name}.") for other in sources)} - {
        "tinyzero"
    }


def doors(package: str, sources: dict[str, str]) -> set[str]:
    """The `__all__` of a package: its public names, and modules that others may import from."""
    for node in ast.parse(sources[package]).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


def forced(sources: dict[str, str]) -> list[str]:
    """Imports of private names of a package by modules outside of it."""
    found = set()
    offered = {package: doors(package, sources) for package in packages(sources)}
    for name, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            if not isinstance(node, ast.ImportFrom) or node.level or not node.module:
                continue
            for package in offered:
                if like(name, [package]) or not like(node.module, [package]):
                    continue
                inner = node.module.removeprefix(package).lstrip(".").split(".")[0]
                wanted = [inner] if inner else [alias.name for alias in node.names]
                missing = [one for one in wanted if one not in offered[package]]
                found |= {f"{name}: {package} does not offer {one}" for one in missing}
    return sorted(found)


def test_a_package_is_entered_by_its_doors_only() -> None:
    assert forced(modules()) == []


@pytest.mark.parametrize(
    "line",
    [
        "from tinyzero.config.recipe import _literal",
        "from tinyzero.grading.arithmetic import MAX_DEPTH",
        "from tinyzero.models import _checked",
    ],
)
def test_a_door_that_is_not_there_would_be_noticed(line: str) -> None:
    assert forced({**modules(), "tinyzero.cli.mine": line})


def test_the_options_of_an_algorithm_do_not_need_torch() -> None:
    code = (
        "import sys\nfrom tinyzero.algorithms import NAMES, REGISTRY\n"
        "print(all(REGISTRY.find(name).Options() for name in NAMES), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True False"
