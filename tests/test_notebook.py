"""Every cell of the notebook runs, with fewer steps, and shows what the text says."""

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
    code_cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    sources = ["".join(cell["source"]) for cell in code_cells]
    return [source for source in sources if not source.startswith("%")]


def test_every_cell_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    train_in_full = tinyzero.train

    def train(recipe: str = "laptop", **options: Any) -> tinyzero.Run:
        options["eval"] = {"test_problems": min(4, options["eval"]["test_problems"])}
        return train_in_full(recipe, **{**options, **SMALLER})

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
