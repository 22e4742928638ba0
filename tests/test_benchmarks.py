"""The benchmarks of trained models run on a few problems and write what they promise."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import BENCHMARKS, benchmark

from tinyzero import config, models
from tinyzero.run import checkpoint


def run(
    name: str, arguments: list[str], results: Path, monkeypatch: pytest.MonkeyPatch
) -> list[dict[str, Any]]:
    """The results that the script writes, in a folder of the test."""
    module = benchmark(name, monkeypatch, results)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments, "--threads", "1"])
    module.main()
    assert (results / f"{name}.md").read_text().startswith("4 distinct test problems")
    found: list[dict[str, Any]] = json.loads((results / f"{name}.json").read_text())["results"]
    return found


@pytest.fixture
def trained(tmp_path: Path) -> str:
    """A run whose model is the base itself, and whose answers are short."""
    folder = tmp_path / "run"
    folder.mkdir()
    settings = config.resolve(config.read_recipe("laptop"), {"eval.max_tokens": 40})
    (folder / "config.toml").write_text(config.to_toml(settings))
    model, tokenizer = models.load_model("tiny"), models.load_tokenizer("tiny")
    checkpoint.save(folder, 1, lambda path: models.save_model(model, tokenizer, path), {}, 1)
    return str(folder)


def test_diversity(trained: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = run("diversity", [trained, "--n", "4", "--k", "2"], tmp_path, monkeypatch)
    assert [(row["model"], row["numbers"]) for row in found] == [(trained, 3), (trained, 4)]
    for row in found:
        for key in ("pass@1", "pass@2", "greedy"):
            assert 0 <= row[f"{key}/low"] <= row[key] <= row[f"{key}/high"] <= 1
        assert row["distinct right answers"] <= 2
    table = (tmp_path / "diversity.md").read_text()
    assert (
        f"{found[0]['pass@1']:.3f} [{found[0]['pass@1/low']:.3f}, {found[0]['pass@1/high']:.3f}]"
        in table
    )


def test_answers_in_another_order_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import diversity  # type: ignore[import-not-found]

    assert diversity.form("12*(5-3)") == diversity.form("(5-3)*12") != diversity.form("12*(3-5)")
    assert diversity.form("twelve") == "twelve"


def test_stuck_chains(trained: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = run("stuck_chains", [trained, "--n", "4", "--k", "0", "2"], tmp_path, monkeypatch)
    assert [(row["model"], row["k"]) for row in found] == [
        (m, k) for m in ("base", "trained") for k in (0, 2)
    ]
    assert [row["solved"] for row in found[:2]] == [row["solved"] for row in found[2:]], (
        "they are the same model"
    )


def test_shared_prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two groups of three rows: prompts of 5 tokens, completions of 4, whose last is not read."""
    module = benchmark("shared_prefix", monkeypatch, tmp_path)
    sizes = {"groups": 2, "samples": 3, "prompt": 5, "length": 4, "rounds": 1}
    arguments = [f"--{name}={value}" for name, value in sizes.items()]
    monkeypatch.setattr(sys, "argv", ["shared_prefix.py", "tiny", *arguments])
    module.main()

    (found,) = json.loads((tmp_path / "shared_prefix.json").read_text())["results"]
    assert found["tokens"] == [6 * (5 + 3), 2 * 5 + 6 * 3]
    layers = 4 * (2 * 128 * 128 + 2 * 128 * 32 + 3 * 128 * 384)
    head = 24 * 105 * 128
    assert found["flops"] == [6 * (layers * tokens + head) for tokens in found["tokens"]]
    assert found["seconds"].keys() == {"padded", "joined", "shared"}
    assert 0 < found["bound"] < found["seconds"]["padded"]
