"""Every command of docs/tutorial.md runs, in order and in one folder.

Options appended to a command make it small, as a reader could append them. The lines that install
are not run: the README must have them too.
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
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
INSTALLS = ("python3 -m venv", "pip install")
SHORT = shlex.split(
    "--steps 2 --rollout.prompts 2 --rollout.samples 2 --rollout.max_tokens 32 "
    "--eval.problems 4 --eval.test_problems 4 --eval.max_tokens 48 --model.threads 1"
)
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
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [block for its_language, block in fenced if its_language == language]


def commands(text: str) -> list[list[str]]:
    """Every line of the blocks without a language, as words and without comments."""
    lines = [line for block in blocks(text) for line in block.splitlines()]
    split = [shlex.split(line, comments=True) for line in lines]
    return [words for words in split if words]


def smaller(command: list[str]) -> list[str]:
    """The command with options that shrink it. Raises ValueError if this test does not know it."""
    known = [name for name in SMALLER if " ".join(command).startswith(name)]
    return command + SMALLER[max(known, key=len)]


def test_every_command_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = blocks(TUTORIAL, "python")
    (name,) = re.findall(r"Save this as\s+`(\S+\.py)`:", TUTORIAL)
    Path(name).write_text(code, encoding="utf-8")
    pages = []

    def opened(server: PageServer) -> None:
        players = server.playground.candidates if isinstance(server, play.Server) else []
        pages.append((type(server), [player.name for player in players]))
        raise KeyboardInterrupt

    monkeypatch.setattr(PageServer, "serve_forever", opened)
    ran = []
    for program, *command in commands(TUTORIAL):
        if program != "tinyzero":
            assert program in ("python3", "pip")
            continue
        monkeypatch.setattr(sys, "stdin", io.StringIO("24 from 3 5 12\n\n"))
        assert cli.main(smaller(command)) == 0, command
        ran.append(command[0])

    torch.set_num_threads(1)
    said = capsys.readouterr().out
    lines = TUTORIAL.count("\ntinyzero ")
    assert len(ran) == lines >= 12, "every line that begins with tinyzero, and no fewer"
    assert pages == [(watch.Server, []), (play.Server, ["tiny", "runs/laptop-grpo-0"])]
    assert (tmp_path / "runs" / "laptop-grpo-0" / "report.html").is_file()
    assert f"{name}:Fifty: every check passed" in said
    posed = said.count("type a problem such as")
    assert posed == 1, "only Countdown's problems can be typed"
    assert (tmp_path / "countdown-tiny" / "README.md").is_file()
    runs = {path.name for path in (tmp_path / "runs").iterdir()}
    assert runs == {"laptop-grpo-0", "laptop-Fifty-grpo-0"}


def test_it_installs_as_the_readme_does() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = [line for block in blocks(TUTORIAL) for line in block.splitlines()]
    installing = [line for line in lines if line.startswith(INSTALLS)]
    assert len(installing) == 2
    assert [line for line in installing if line not in readme] == []
