"""Every example in a docstring of the package gives the result that is written there."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[1] / "src"


def modules_with_examples() -> list[str]:
    """Names of the package's modules whose source contains a `>>>` prompt."""
    names = []
    for path in sorted(SOURCES.rglob("*.py")):
        if ">>> " in path.read_text(encoding="utf-8"):
            parts = path.relative_to(SOURCES).with_suffix("").parts
            names.append(".".join(parts).removesuffix(".__init__"))
    return names


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_are_true(name: str) -> None:
    failed, attempted = doctest.testmod(importlib.import_module(name))
    assert attempted > 0, f"{name} has examples, but none of them was run"
    assert failed == 0, f"{failed} of {attempted} examples in {name} are wrong (see the output)"


def test_the_advantages_and_losses_have_examples() -> None:
    assert {"tinyzero.algorithms.advantages", "tinyzero.algorithms.losses"} <= set(
        modules_with_examples()
    )


def test_a_wrong_example_is_noticed() -> None:
    examples = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, None)
    runner = doctest.DocTestRunner(verbose=False)
    assert runner.run(examples, out=lambda text: None).failed == 1
