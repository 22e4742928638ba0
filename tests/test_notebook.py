"""The notebook runs from top to bottom, in small: what it says a reader will see is there."""

import json
from pathlib import Path
from typing import Any

import pytest

import tinyzero

NOTEBOOK = Path(__file__).parents[1] / "examples" / "notebook.ipynb"
SMALLER = {
    "steps": 2,
    "rollout.prompts": 2,
    "rollout.samples": 2,
    "rollout.max_tokens": 32,
    "eval.max_tokens": 32,
    "model.threads": 1,
}


def cells() -> list[str]:
    """The code of the notebook's cells, without the one that installs."""
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    sources = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    return [source for source in sources if not source.startswith("%")]


def test_it_goes_from_installation_to_a_curve_and_a_task_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    whole = tinyzero.train

    def train(recipe: str = "laptop", **options: Any) -> tinyzero.Run:
        options["eval"] = {"test_problems": min(4, options["eval"]["test_problems"])}
        return whole(recipe, **{**options, **SMALLER})

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tinyzero, "train", train)
    names: dict[str, Any] = {"__name__": "__main__"}
    for source in cells():
        exec(compile(source, "notebook", "exec"), names)
    assert len(names["run"].metrics["accuracy"]) == 2
    assert names["own"].metrics["reward"]
    assert tinyzero.check_task(names["BeatTheSum"]) == []
    assert "after 2 steps" in capsys.readouterr().out


def test_its_outputs_are_not_stored() -> None:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert all(not cell.get("outputs") for cell in notebook["cells"])
