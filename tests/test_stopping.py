"""Signals, and a console that nobody reads any more, end no run before its work is saved."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tinyzero.run import console

MAIN = "import tinyzero.cli as c; raise SystemExit(c.main())"
OPTIONS = {
    "eval.every": 0,
    "eval.test_problems": 0,
    "rollout.prompts": 2,
    "rollout.samples": 4,
    "rollout.max_tokens": 16,
    "model.threads": 1,
}


def command(folder: Path, steps: int) -> list[str]:
    options = OPTIONS | {"run.dir": folder, "steps": steps}
    words = [f"--{key}={value}" for key, value in options.items()]
    return [sys.executable, "-c", MAIN, "train", *words]


def steps_of(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def wait_for_a_step(folder: Path) -> None:
    deadline = time.monotonic() + 120
    while not steps_of(folder):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_run_whose_output_nobody_reads_goes_on_to_its_end(tmp_path: Path) -> None:
    run = subprocess.Popen(
        command(tmp_path / "run", steps=3), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert run.stdout
    run.stdout.close()
    assert run.stderr
    with run.stderr:
        said = run.stderr.read().decode()
    assert run.wait() == 0, said
    assert said.count("cannot show any more output") == 1
    assert steps_of(tmp_path / "run") == 3
    assert (tmp_path / "run" / "checkpoints" / "step_000003").is_dir()


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
def test_a_run_whose_terminal_is_closed_is_saved(tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    run = subprocess.Popen(
        command(tmp_path / "run", steps=10**6),
        stdout=theirs,
        stderr=theirs,
        stdin=theirs,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # if nohup runs the tests
    )
    os.close(theirs)
    wait_for_a_step(tmp_path / "run")
    os.close(ours)  # from now on every print to the terminal is an error
    run.send_signal(signal.SIGHUP)
    run.wait(timeout=60)
    (saved,) = (tmp_path / "run" / "checkpoints").glob("step_*")
    assert int(saved.name.removeprefix("step_")) == steps_of(tmp_path / "run")


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
def test_a_run_that_was_told_to_ignore_the_signal_ignores_it(tmp_path: Path) -> None:
    run = subprocess.Popen(
        command(tmp_path / "run", steps=30),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),  # as nohup does
    )
    wait_for_a_step(tmp_path / "run")
    run.send_signal(signal.SIGHUP)
    assert run.wait() == 0
    assert steps_of(tmp_path / "run") == 30


def test_what_cannot_be_written_to_swallows_what_follows(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as broken:
        console.say("lost", broken)
        console.say("lost as well", broken)

    closed = (tmp_path / "closed").open("w")
    closed.close()
    console.say("lost", closed)
    shown = console.Console(2, file=closed)
    shown.note("lost")
    assert shown.lost_output
