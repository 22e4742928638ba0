"""Learners are built from a spec with the configured options, here and in another process."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_learner import rollouts

from tinyzero import config, models
from tinyzero.algorithms import load_algorithm
from tinyzero.batching import collate
from tinyzero.errors import UserError
from tinyzero.learner import TorchLearner
from tinyzero.run.learners import LearnerSpec, build_learner, make_learners

OWN = Path(__file__).parent.parent / "examples" / "my_algorithm.py"


def settings(base: Path, **more: object) -> config.Config:
    asked = {"model.name": str(base), "rollout.temperature": 0.5, "update.minibatches": 3}
    return config.resolve({}, asked | {"update.epochs": 2, "steps": 7} | more)


def test_a_learner_is_what_its_spec_says(base: Path) -> None:
    asked = settings(base, **{"optimizer.grad_clip": 0.25})
    learner, batch = build_learner(LearnerSpec("policy", asked)), collate(rollouts(), 16)
    assert (learner.updates, learner.total_updates, learner.trained) == (6, 42, True)
    assert learner.options is not None
    assert learner.options.grad_clip == 0.25
    assert not build_learner(LearnerSpec("reference", asked)).trained
    logits = models.load_model(str(base)).logits(batch.tokens)[:, :-1] / 0.5
    expected = logits.log_softmax(-1).gather(-1, batch.tokens[:, 1:, None]).squeeze(-1)
    found = learner.score(batch)[batch.mask]
    torch.testing.assert_close(found, expected[batch.mask].detach(), atol=1e-4, rtol=1e-4)


def test_the_policys_learner_trains_the_model_that_the_sampler_has(base: Path) -> None:
    asked = settings(base, **{"algorithm.name": "ppo"})
    policy = models.load_model(str(base))
    learners = make_learners(asked, load_algorithm("ppo"), policy)
    assert list(learners) == ["policy", "critic"]
    assert isinstance(learners["policy"], TorchLearner)
    assert learners["policy"].model is policy


def test_an_unknown_role_is_refused(base: Path) -> None:
    with pytest.raises(UserError, match="asks for a model 'judge'"):
        build_learner(LearnerSpec("judge", settings(base)))


CHILD = """
import pickle, sys
sys.path.insert(0, sys.argv[1])
from test_learner import rollouts
from tinyzero.batching import collate
from tinyzero.run.learners import build_learner

learner = build_learner(pickle.load(sys.stdin.buffer))
batch, _ = learner.loss.func.__self__.annotate(collate(rollouts(), 16), {"policy": learner})
print(learner.update(batch)["imitated"])
learner.save(__import__("pathlib").Path(sys.argv[2]))
"""


def test_a_plug_in_learns_in_another_process(base: Path, tmp_path: Path) -> None:
    """The spec is sent as bytes. The process that builds the learner reads the plug-in's file."""
    spec = LearnerSpec("policy", settings(base, **{"algorithm.name": f"{OWN}:RAFT"}))
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(Path(__file__).parent), str(tmp_path)],
        input=pickle.dumps(spec),
        env=dict(os.environ),
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert child.returncode == 0, child.stderr.decode()
    here = build_learner(spec)
    batch, _ = load_algorithm(f"{OWN}:RAFT").annotate(collate(rollouts(), 16), {"policy": here})
    assert float(child.stdout) == here.update(batch)["imitated"] > 0
    there = build_learner(spec)
    there.load(tmp_path)
    assert there.steps == 6
    for a, b in zip(here.parameters, there.parameters, strict=True):
        assert torch.equal(a, b)
