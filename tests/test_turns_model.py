"""Several turns with a real model: what is sampled is what is trained, and runs can be resumed."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from tinyzero import models
from tinyzero.batching import collate
from tinyzero.config import resolve
from tinyzero.learner import policy_outputs
from tinyzero.rollouts import Player, Tally
from tinyzero.run import records
from tinyzero.run.progress import rollout_record
from tinyzero.tasks import load_task
from tinyzero.tasks.guarded import GuardedTask
from tinyzero.tasks.tools import Tool
from tinyzero.tools.report import samples, story
from tinyzero.train import train
from tinyzero.types import Group, SamplingParams

EPISODES = str(Path(__file__).parent / "toy_episodes.py")
PARAMS = SamplingParams(max_tokens=24, n=3, seed=5)


class Digits(Tool):
    """Speaks after common characters, so that a random model meets it often."""

    stop = tuple("0123456789+-=")

    def answer(self, text: str) -> str:
        return "(7)" if len(text) % 2 else ""


class Nothing(Digits):
    def answer(self, text: str) -> str:
        return ""


def with_tool(tool: Tool | None) -> GuardedTask:
    return GuardedTask(load_task("multiplication").owner, "multiplication", {}, tool)


def sampled(tool: Tool | None, in_slots: bool = False, problems: int = 3) -> list[Group]:
    task = with_tool(tool)
    sampler = tiny.sampler(tiny.model(layers=1))
    sampler.in_slots = in_slots
    tokenizer = tiny.tokenizer()
    player = Player(
        task,
        sampler,
        partial(models.encode_prompt, tokenizer),
        "compact",
        context=128,
        encode_reply=partial(models.encode_reply, tokenizer),
    )
    drawn = [task.problem("train", index) for index in range(problems)]
    return player.play(drawn, PARAMS, 4, Tally())


@pytest.mark.parametrize("in_slots", [False, True])
def test_turns_with_nothing_between_them_equal_one_turn(in_slots: bool) -> None:
    """Token for token, through the Player."""
    one, several = sampled(None, in_slots), sampled(Nothing(), in_slots)
    for before, after in zip(one, several, strict=True):
        for single, joined in zip(before, after, strict=True):
            assert joined.completion.token_ids == single.completion.token_ids
            assert joined.completion.finish_reason == single.completion.finish_reason
            assert joined.completion.text == single.completion.text
            assert joined.completion.turns == ()
            torch.testing.assert_close(
                torch.tensor(joined.completion.sampled_logprobs),
                torch.tensor(single.completion.sampled_logprobs),
                atol=2e-5,
                rtol=0,
            )


@pytest.mark.parametrize(("pack", "share"), [(False, False), (True, False), (True, True)])
def test_the_learner_equals_the_sampler_on_trained_tokens(pack: bool, share: bool) -> None:
    """With environment tokens between the turns, padded, and packed with shared prefixes."""
    groups = sampled(Digits())
    assert any(r.completion.environment_length for group in groups for r in group)
    batch = collate(groups, PARAMS.max_tokens)
    model = tiny.model(layers=1)
    model.pack, model.share = pack, share
    outputs = policy_outputs(model, batch)
    error = (outputs["logprobs"] - batch.sampled_logprobs)[batch.mask].abs().max()
    assert error < 2e-5
    for row, rollout in enumerate(r for group in groups for r in group):
        assert int(batch.mask[row].sum()) == rollout.completion.length <= PARAMS.max_tokens


def test_other_rows_do_not_change_a_row() -> None:
    alone = sampled(Digits(), problems=1)
    among_others = sampled(Digits(), problems=3)
    for one, other in zip(alone[0], among_others[0], strict=True):
        assert one.completion.token_ids == other.completion.token_ids


TABLE: dict[str, Any] = {
    "steps": 3,
    "task": {"name": f"{EPISODES}:Letters", "tool": f"{EPISODES}:Often"},
    "algorithm": {"name": "grpo"},
    "rollout": {"prompts": 2, "samples": 3, "max_tokens": 16},
    "grading": {"workers": 1},
    "optimizer": {"learning_rate": 1e-3},
    "eval": {"every": 0, "test_problems": 2},
    "checkpoint": {"every": 1},
    "run": {"rollouts_every": 1},
}


def test_a_run_with_a_tool_is_resumed_bit_for_bit(base: Path, tmp_path: Path) -> None:
    table = {**TABLE, "model": {"name": str(base), "device": "cpu", "threads": 1}}
    train(resolve(table, {}), tmp_path / "whole")
    train(resolve({**table, "steps": 2}, {}), tmp_path / "parts")
    train(resolve(table, {}), tmp_path / "parts", resume=True)

    whole, parts = (list(records.read(tmp_path / n / "metrics.jsonl")) for n in ("whole", "parts"))
    untimed = [
        {key: value for key, value in step.items() if not key.startswith(("time/", "memory/"))}
        for step in whole
    ]
    for step, same in zip(untimed, parts, strict=True):
        assert {key: same[key] for key in step} == step
    assert all(step["environment_tokens"] > 0 for step in whole)
    assert all(step["response_length"] <= 16 for step in whole)

    evaluation = next(iter(records.read(tmp_path / "whole" / "eval.jsonl")))
    assert evaluation["turns"] > 1
    rollout = next(iter(records.read(tmp_path / "whole" / "rollouts.jsonl")))
    assert all(rollout["text"][a:b] == "(7)" for a, b in rollout["environment"])


def test_a_report_marks_what_the_environment_wrote() -> None:
    """In the text that the page shows, next to the task's own marks."""
    (group, *_) = sampled(Digits(), problems=1)
    rollout = max(group, key=lambda rollout: rollout.completion.environment_length)
    record = {**rollout_record(3, "train", rollout, "?"), "problem": "6*7"}

    page = samples.shown(record)
    marked = [piece[0] for piece in page["text"] if not isinstance(piece, str)]
    assert set(marked) == {"(7)"}
    assert page["kinds"] == ["environment"]
    assert story.marks([], [{"samples": [page]}]).keys() == {"environment"}
    assert story.marks([], [{"samples": []}]) == {}
