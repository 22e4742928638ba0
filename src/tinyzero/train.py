"""The loop: sample, grade, learn, publish. The rest of the package is what its names refer to."""

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
    """Train as `config` says in `folder`; returns the final checkpoint.

    `started` is when the command began (time.perf_counter), for the clock; `command` is what asked for
    the run, as asked.toml records it. Raises UserError on what the
    user can fix, NonFiniteError if training broke down, Interrupted after a clean stop.
    """
    with opened(config, folder, resume, started, command) as run:
        for step in run.steps():
            groups = run.source.take(step)
            batch, lesson = run.annotate(groups)
            learned = run.models.update(batch, lesson)
            run.source.publish(run.models["policy"], version=step + 1)
            run.record(step, groups, batch, learned)
    return run.saved
