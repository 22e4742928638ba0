"""The training loop: sample, grade, learn, publish. The other modules hold what it calls."""

from __future__ import annotations

from pathlib import Path

from tinyzero.config import Command, Config
from tinyzero.run.parts import opened


def train(
    config: Config,
    folder: Path,
    resume: bool = False,
    started: float | None = None,
    command: Command | None = None,
) -> Path:
    """Train as `config` says and write the run to `folder`; returns the final checkpoint.

    With `resume`, the run in `folder` continues from its newest checkpoint. `started` is the
    time.perf_counter() at which the command began. `command` is the command behind the run,
    which asked.toml records.

    Raises UserError for what the user can fix, NonFiniteError if training broke down, and
    Interrupted after Ctrl-C, once the state of the last step was saved.
    """
    with opened(config, folder, resume, started, command) as run:
        for step in run.steps():
            groups = run.source.take(step)
            batch, lesson = run.annotate(groups)
            learned = run.models.update(batch, lesson)
            run.source.publish(run.models["policy"], version=step + 1)
            run.record(step, groups, batch, learned)
    return run.saved
