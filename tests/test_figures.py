"""Every figure in the documents is the one in the results file that docs/figures.toml names."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from helpers import BENCHMARKS

PAGE = """
| GRPO | 0.897 | 183 |
| PPO | 0.886 | 188 |

After training, the share of right
answers is 56 % and the difference −0.120. That took 12 minutes with 0.77 M parameters.
"""
ENTRY = {
    "statements": [
        "| GRPO | {grid.grpo.after:.3f} | {grid.grpo.length:.0f} |",
        "| PPO | {grid.ppo.after:.3f} | {grid.ppo.length:.0f} |",
        "share of right answers is {grid.0.8M.*.pass@1:.0%} and the difference {grid.change:+.3f}",
        "took {grid.minutes:.0f} minutes",
    ],
    "given": {"0.77 M": "the size of the base"},
}
RESULTS = {
    "grpo": {"after": 0.8971, "length": 182.7},
    "ppo": {"after": 0.8857, "length": 187.7},
    "0.8M": {"0": {"pass@1": 0.5}, "1": {"pass@1": 0.62}},
    "change": -0.12,
    "minutes": 12.3,
}


# The style guide, and pages that are generated from code which has its own tests.
NOT_CHECKED = {
    "docs/style.md",
    "docs/metrics.md",
    "docs/modules.md",
    "docs/reasoning-gym.md",  # its table is printed by `tinyzero check-task reasoning-gym --all`
}


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """benchmarks/figures.py with one results file."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import figures  # type: ignore[import-not-found]

    figures.results.cache_clear()
    monkeypatch.setattr(figures, "RESULTS", (tmp_path,))
    record = {"command": "tinyzero ablate", "commit": "abc", "results": RESULTS}
    (tmp_path / "grid.json").write_text(json.dumps(record))
    return figures


def test_the_documents_state_what_the_results_say() -> None:
    command = [sys.executable, str(BENCHMARKS / "figures.py")]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr

    listed = tomllib.loads((BENCHMARKS.parent / "docs" / "figures.toml").read_text("utf-8"))
    figures, documents = re.findall(r"\d+", answer.stdout)
    assert int(figures) > 100
    assert int(documents) == len(listed)


def test_every_page_is_checked() -> None:
    root = BENCHMARKS.parent
    listed = set(tomllib.loads((root / "docs" / "figures.toml").read_text(encoding="utf-8")))
    pages = {"README.md", "ARCHITECTURE.md", *(f"docs/{p.name}" for p in root.glob("docs/*.md"))}
    assert pages - NOT_CHECKED == listed


def test_a_page_with_the_right_figures_passes(script: Any) -> None:
    assert script.check("page.md", ENTRY, PAGE) == ([], PAGE)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [("0.897", "0.898"), ("| 188 |", "| 187 |"), ("56 %", "57 %"), ("−0.120", "+0.120")],
)
def test_a_wrong_figure_is_named_and_corrected(script: Any, right: str, wrong: str) -> None:
    problems, corrected = script.check("page.md", ENTRY, PAGE.replace(right, wrong))
    assert len(problems) == 1
    assert f"page.md: states {wrong.strip('| ')}, the file has {right.strip('| ')}" in problems[0]
    assert corrected == PAGE


@pytest.mark.parametrize(
    "sentence", ["It is 3.5 % faster.", "It takes 40 s.", "It needs 1.7 GiB.", "They reach 0.914."]
)
def test_a_figure_without_a_source_is_named(script: Any, sentence: str) -> None:
    problems, _ = script.check("page.md", ENTRY, PAGE + sentence)
    assert [problem.partition(" in ")[0] for problem in problems] == [
        f"page.md: no source for {script.MEASUREMENT.search(sentence)[0]}"
    ]


@pytest.mark.parametrize("text", ["`rate 0.25`", "```\n0.25 40 s\n```", "[x](0.25)", "5 seeds"])
def test_code_links_and_counts_need_no_source(script: Any, text: str) -> None:
    assert script.check("page.md", ENTRY, PAGE + text)[0] == []


def test_a_statement_that_is_gone_is_named(script: Any) -> None:
    problems, _ = script.check("page.md", ENTRY, PAGE.replace("| PPO |", "| RLOO |"))
    assert "page.md: not there, or not in this order: | PPO |" in problems[0]
    problems, _ = script.check("page.md", ENTRY | {"given": {"0.5 M": "no"}}, PAGE)
    assert problems[0] == "page.md: listed as given, but not there: 0.5 M"


def test_a_figure_that_the_file_lacks_is_named(script: Any) -> None:
    entry = {"statements": ["| GRPO | {grid.grpo.loss:.3f} |"]}
    problems, _ = script.check("page.md", entry, "| GRPO | 0.897 |")
    assert "no loss; there are after, length" in problems[0]


def test_a_file_must_say_what_made_it(script: Any, tmp_path: Path) -> None:
    (tmp_path / "bare.json").write_text(json.dumps({"command": "make", "results": {"a": 1}}))
    with pytest.raises(KeyError, match="does not say its command and commit"):
        script.value_of("bare.a")
    with pytest.raises(KeyError, match="no results file other"):
        script.value_of("other.a")
    with pytest.raises(KeyError, match="no loss"):
        script.value_of("grid.grpo.loss")
