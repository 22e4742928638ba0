"""benchmarks/real_shape.py: it notices if the compared ways do not do the same work."""

from pathlib import Path
from typing import Any

import pytest
from helpers import benchmark


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    return benchmark("real_shape", monkeypatch, tmp_path)


def figures(**trained: int) -> dict[str, list[dict[str, int]]]:
    return {
        name.replace("_", " "): [{"tokens/generated": 9, "tokens/trained": n}]
        for name, n in trained.items()
    }


def test_ways_of_the_same_samples_have_equal_tokens(script: Any) -> None:
    others = {"packed, bf16": figures(x=7)["x"], "packed, vLLM": figures(x=6)["x"]}
    said = script.agreeing(figures(padded=8, packed=8) | others)
    assert said.endswith("are checked to be equal in: padded; packed.")


@pytest.mark.parametrize("key", ["tokens/generated", "tokens/trained"])
def test_other_tokens_are_an_error(script: Any, key: str) -> None:
    found = figures(padded=8, packed=8)
    found["packed"][0][key] = 5
    with pytest.raises(SystemExit, match=f"{key} differ at step 1 .*'packed': 5"):
        script.agreeing(found)
