"""Every command of docs/tutorial.md, in order, in one folder: as it stands there, in small.

Sizes are shrunk by options appended to a command, as a reader could append them. The lines that install are not run,
but held to the README's.
"""

import io
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch

from tinyzero import cli
from tinyzero.tools.report import watch
from tinyzero.tools.web import play
from tinyzero.tools.web.server import PageServer

ROOT = Path(__file__).resolve().parent.parent
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text()
INSTALLS = ("python -m venv", "pip install")
SHORT = [
    "--steps",
    "2",
    "--rollout.prompts",
    "2",
    "--rollout.samples",
    "2",
    "--rollout.max_tokens",
    "32",
]
SHORT += [
    "--eval.problems",
    "4",
    "--eval.test_problems",
    "4",
    "--eval.max_tokens",
    "48",
    "--model.threads",
    "1",
]
SMALLER = {
    "train": SHORT,
    "train --resume": ["--steps", "3", "--eval.test_problems", "4", "--model.threads", "1"],
    "train --dry-run": [],
    "eval": ["--n", "4", "--max-tokens", "48", "--model.threads", "1"],
    "play": ["--max-tokens", "48", "--model.threads", "1"],
    "play --web": ["--port", "0", "--model.threads", "1"],
    "watch": ["--port", "0"],
    "report": [],
    "export": [],
    "algorithms": [],
    "check-task": [],
}


def blocks(text: str, language: str = "") -> list[str]:
    """The fenced blocks of a Markdown text in this language."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [block for its_language, block in found if its_language == language]


def commands(text: str) -> list[list[str]]:
    """Every line of its blocks without a language, as words, comments left out."""
    lines = [line for block in blocks(text) for line in block.splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def smaller(command: list[str]) -> list[str]:
    """The command with options that shrink it; KeyError for one that this test does not know."""
    return (
        command
        + SMALLER[max((known for known in SMALLER if " ".join(command).startswith(known)), key=len)]
    )


def test_every_command_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = blocks(TUTORIAL, "python")
    (name,) = re.findall(r"Save this as `(\S+\.py)`:", TUTORIAL)
    Path(name).write_text(code)
    pages = []

    def opened(server: PageServer) -> None:
        asked = (
            [player.name for player in server.playground.candidates]
            if isinstance(server, play.Server)
            else []
        )
        pages.append((type(server), asked))
        raise KeyboardInterrupt

    monkeypatch.setattr(PageServer, "serve_forever", opened)
    ran = []
    for program, *command in commands(TUTORIAL):
        if program != "tinyzero":
            assert program in ("python", "pip")
            continue
        monkeypatch.setattr(sys, "stdin", io.StringIO("24 from 3 5 12\n\n"))
        assert cli.main(smaller(command)) == 0, command
        ran.append(command[0])
    torch.set_num_threads(1)
    said = capsys.readouterr().out
    assert len(ran) == TUTORIAL.count("\ntinyzero ") >= 12, (
        "every line that begins with tinyzero, and no fewer"
    )
    assert pages == [(watch.Server, []), (play.Server, ["tiny", "runs/laptop-grpo-0"])]
    assert (tmp_path / "runs" / "laptop-grpo-0" / "report.html").is_file()
    assert f"{name}:Fifty: every check passed" in said
    assert said.count("numbers [3, 5, 12]  target 24") == 1, (
        "only Countdown's problems can be typed"
    )
    assert (tmp_path / "countdown-tiny" / "README.md").is_file()
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {
        "laptop-grpo-0",
        "laptop-Fifty-grpo-0",
    }


def test_it_installs_as_the_readme_does() -> None:
    readme = (ROOT / "README.md").read_text()
    lines = [
        line
        for block in blocks(TUTORIAL)
        for line in block.splitlines()
        if line.startswith(INSTALLS)
    ]
    assert len(lines) == 3
    assert [line for line in lines if line not in readme] == []
