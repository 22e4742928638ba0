"""The one-file example learns only from right answers. Its test problems are new to it."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "examples"))

import minimal_grpo


def test_it_gets_better_on_held_out_problems() -> None:
    before, after = minimal_grpo.main(steps=20, seed=0, pretraining=350)
    assert 0.1 < before < 0.4, "a base model is weak, but right sometimes"
    assert after > before + 0.05


@pytest.mark.slow
def test_it_gets_better_as_a_reader_runs_it() -> None:
    before, after = minimal_grpo.main(steps=20, seed=0)
    assert 0.1 < before < 0.4, "a base model is weak, but right sometimes"
    assert after > before + 0.05


def test_only_a_right_answer_is_rewarded() -> None:
    assert minimal_grpo.reward("358>11=", "8-3=05?11✗8+3=11?11✓#8+3\n") == 1
    for wrong in ("#8-3\n", "8+3=11?11✓\n", "#8+3", "#3+8\n", "#5+6\n", "#11\n", ""):
        assert minimal_grpo.reward("358>11=", wrong) == 0
