"""Data is never code: no command runs a name that a folder from elsewhere contains."""

import io
import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import fake_run
import pytest
from helpers import refused

from tinyzero import cli, config
from tinyzero.config import trust
from tinyzero.run import checkpoint
from tinyzero.tools.report.watch import Live

CODE = """
import pathlib
pathlib.Path({mark!r}).touch()
from tinyzero.algorithms.grpo import GRPO
from tinyzero.tasks.countdown.task import Countdown
class T(Countdown): pass
class A(GRPO): pass
"""
SHORT = ["--max-tokens", "8"]
SMALL = {
    "steps": 1,
    "rollout.max_tokens": 8,
    "eval.max_tokens": 8,
    "rollout.prompts": 2,
    "rollout.samples": 2,
    "eval.every": 0,
    "eval.test_problems": 0,
    "model.threads": 1,
}


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that a stranger's code would create. The working directory and the home are new."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "it-ran"


KEYS = {
    "task": "task.name",
    "algorithm": "algorithm.name",
    "sampler": "sampler.name",
    "tool": "task.tool",
}


def code(mark: Path, name: str = "evil.py") -> Path:
    path = mark.parent / name
    path.write_text(CODE.format(mark=str(mark)))
    return path


def strange_run(folder: Path, base: Path, **names: str) -> Path:
    """A complete run whose configuration names a stranger's code."""
    named = {KEYS[kind]: name for kind, name in names.items()}
    short = {"rollout.max_tokens": 8, "eval.max_tokens": 8}
    fake_run.write(folder, steps=2, every=1, **{"model.name": str(base), **short, **named})

    def write_model(path: Path) -> None:
        shutil.copytree(base, path, dirs_exist_ok=True)

    checkpoint.save(folder, 2, write_model, {"step": 2}, keep=1)
    return folder


def strange_model(folder: Path, base: Path, **names: str) -> Path:
    """An exported model whose recipe names a stranger's code."""
    shutil.copytree(base, folder)
    named = {KEYS[kind]: name for kind, name in names.items()}
    settings = config.resolve(config.read_recipe("laptop"), named | {"eval.max_tokens": 8})
    (folder / "recipe.toml").write_text(config.to_toml(settings))
    return folder


def watch(folder: Path) -> int:
    Live(folder).data()
    return 0


def own_recipe(folder: Path) -> Path:
    """The file that says how a run or an exported model was made."""
    return folder / ("recipe.toml" if (folder / "recipe.toml").exists() else "config.toml")


def commands(folder: Path, grid: Path) -> dict[str, Callable[[], int]]:
    """Every command that takes a folder."""
    lines = {
        "eval": ["eval", folder, "--n", 2],
        "sample": ["sample", folder, "--n", 2, "--out", "out.jsonl"],
        "play": ["play", folder],
        "play --web": ["play", "--web", folder, "tiny", "--port", 0],
        "play --web, second": ["play", "--web", "tiny", folder, "--port", 0],
        "export": ["export", folder, "exported"],
        "resume": ["train", "--resume", folder],
        "resume, dry": ["train", "--resume", folder, "--dry-run"],
        "report": ["report", folder],
        "plan": ["plan", "laptop", f"--model.name={folder}"],
        "train": ["train", f"--model.name={folder}", "--dry-run"],
        "ablate": ["ablate", grid, "--out", folder.parent],
        "data": ["data", "--stats", folder / "config.toml"],
        "its recipe": ["train", own_recipe(folder), "--dry-run"],
        "its recipe, planned": ["plan", own_recipe(folder)],
        "its recipe, in a grid": ["ablate", grid.with_name("theirs.toml")],
    }

    def caller(line: list[object]) -> Callable[[], int]:
        return lambda: cli.main([str(word) for word in line])

    found = {name: caller(line) for name, line in lines.items()}
    return found | {"watch": lambda: watch(folder), "watch a grid": lambda: watch(folder.parent)}


@pytest.mark.parametrize("kind", ["task", "algorithm"])
@pytest.mark.parametrize("form", ["file", "module"])
@pytest.mark.parametrize("made", [strange_run, strange_model])
def test_no_command_runs_what_a_folder_names(
    mark: Path,
    base: Path,
    kind: str,
    form: str,
    made: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """If a command needs the code, it says so in one line. Otherwise it works without it."""
    stem = f"evil_{kind}_{made.__name__}"
    path = code(mark, f"{stem}.py")
    place = str(path) if form == "file" else stem
    folder = made(mark.parent / "grid" / "a-0", base, **{kind: f"{place}:{kind[0].upper()}"})
    grid = mark.parent / "grid.toml"
    grid.write_text("seeds = [0]\n[axes.x]\na = {}\n")
    theirs = grid.with_name("theirs.toml")
    theirs.write_text(f'recipe = "{own_recipe(folder)}"\nseeds = [0]\n[axes.x]\na = {{}}\n')
    for served in ("tinyzero.tools.web.play.Server.serve_forever",):
        monkeypatch.setattr(served, lambda self: None)
    monkeypatch.setattr("tinyzero.tools.ablate.runs.start", lambda *given: pytest.fail("it began"))
    monkeypatch.setattr("builtins.input", lambda prompt: (_ for _ in ()).throw(EOFError))
    tried = commands(folder, grid)
    if made is strange_model:
        del tried["ablate"]  # it would start a run there
    for name, act in tried.items():
        answer = act()
        said = capsys.readouterr().err
        assert not mark.exists(), name
        assert len(said.splitlines()) <= 1, (name, said)
        uses_task = name.startswith(("eval", "sample", "play", "export", "resume"))
        resumed = name.startswith("resume")
        if (resumed and made is strange_run) or (kind == "task" and uses_task and not resumed):
            assert answer == 2, name
            assert str(path) in said, name
            assert "--trust" in said, name
        if name.startswith("its recipe"):
            assert answer == 2, name
            assert str(path) in said, name


def test_a_checkpoint_by_its_own_path_is_no_way_round(
    mark: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = strange_run(mark.parent / "run", base, task=f"{code(mark)}:T")
    for path in ("checkpoints/step_000002", "checkpoints/step_000002/model"):
        assert "--trust" in refused(capsys, "eval", run / path, "--n", 2)
    assert not mark.exists()


def test_what_is_inherited_or_chosen_by_a_table_is_the_folders_word_too(
    mark: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = strange_model(mark.parent / "model", base)
    evil = code(mark)
    (folder / "other.toml").write_text(f'[tasks.countdown.task]\nname = "{evil}:T"\n')
    (folder / "recipe.toml").write_text('inherit = "other.toml"\n[task]\nname = "countdown"\n')
    assert str(evil) in refused(capsys, "eval", folder, "--n", 2)
    assert cli.main(["eval", str(folder), "--task", "countdown", "--n", "2", *SHORT]) == 0
    assert not mark.exists()


@pytest.mark.parametrize("allowed", [["--task", "{name}"], ["--trust"], ["--recipe", "{recipe}"]])
def test_what_is_named_here_runs(mark: Path, base: Path, allowed: list[str]) -> None:
    name = f"{code(mark, f'named{len(allowed[0])}.py')}:T"
    folder = strange_model(mark.parent / "model", base, task=name)
    words = [word.format(name=name, recipe=folder / "recipe.toml") for word in allowed]
    assert cli.main(["eval", str(folder), "--n", "2", "--max-tokens", "4", *words]) == 0
    assert mark.exists()


def trained(folder: Path, base: Path, *named: str) -> int:
    options = SMALL | {"model.name": base, "run.dir": folder}
    return cli.main(["train", *named, *(f"--{key}={value}" for key, value in options.items())])


def test_ones_own_run_asks_nothing_and_anothers_does(
    mark: Path, base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only the user who started a run matters, so moving the folder changes nothing."""
    evil = code(mark, "own.py")
    run, moved = mark.parent / "run", mark.parent / "moved"
    assert trained(run, base, "laptop", f"--task={evil}:T", f"--algorithm={evil}:A") == 0
    run.rename(moved)
    assert cli.main(["train", "--resume", str(moved), "--steps", "2"]) == 0
    assert cli.main(["train", "--resume", str(moved)]) == 0, "also with its new number of steps"
    assert cli.main(["eval", str(moved), "--n", "2"]) == 0
    assert cli.main(["export", str(moved), str(mark.parent / "model")]) == 0
    assert cli.main(["eval", str(mark.parent / "model"), "--n", "2"]) == 0

    monkeypatch.setenv("XDG_STATE_HOME", str(mark.parent / "somebody-else"))
    for words in (["train", "--resume", moved], ["eval", moved], ["eval", mark.parent / "model"]):
        assert str(evil) in refused(capsys, *words)


def test_ones_own_runs_files_repeat_it_without_asking(
    mark: Path, base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = code(mark, "repeated.py")
    run = mark.parent / "run"
    assert trained(run, base, "laptop", f"--task={evil}:T", f"--algorithm={evil}:A") == 0
    for name in ("config.toml", "asked.toml"):
        assert cli.main(["train", str(run / name), "--dry-run"]) == 0, name
    text = (run / "asked.toml").read_text()
    (run / "asked.toml").write_text(text.replace("repeated.py", "other.py"))
    assert "other.py" in refused(capsys, "train", run / "asked.toml", "--dry-run")
    (run / "asked.toml").write_text(text)
    monkeypatch.setenv("XDG_STATE_HOME", str(mark.parent / "somebody-else"))
    for name in ("config.toml", "asked.toml"):
        assert str(evil) in refused(capsys, "train", run / name, "--dry-run")
        assert cli.main(["train", str(run / name), "--dry-run", "--trust"]) == 0


def test_a_recipe_that_the_user_names_is_his_word(mark: Path, base: Path) -> None:
    recipe = mark.parent / "mine.toml"
    recipe.write_text(f'inherit = "laptop"\n[task]\nname = "{code(mark, "by_recipe.py")}:T"\n')
    assert trained(mark.parent / "run", base, str(recipe)) == 0
    assert mark.exists()
    assert cli.main(["train", "--resume", str(mark.parent / "run")]) == 0


def test_another_configuration_or_another_file_is_not_trusted(mark: Path) -> None:
    evil = code(mark)
    mine = config.resolve({}, {"task.name": f"{evil}:T"})
    trust.remember(mine)
    trust.require(mine, "config.toml")
    for changed in ({"task.name": f"{code(mark, 'worse.py')}:T"}, {"seed": 7}, {"task.x": 1}):
        other = config.resolve(mine.model_dump(), changed)
        with pytest.raises(Exception, match="would run"):
            trust.require(other, "config.toml")
    os.chdir("/")
    trust.require(mine, "config.toml")


def test_a_relative_name_is_the_file_it_means_here(
    mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = config.resolve({}, {"task.name": "evil.py:T"})
    trust.remember(mine)
    trust.require(mine, "config.toml")
    (mark.parent / "elsewhere").mkdir()
    monkeypatch.chdir(mark.parent / "elsewhere")
    trust.require(mine, "config.toml")  # it still means the same file
    with pytest.raises(Exception, match=r"elsewhere/evil\.py"):
        trust.require(config.resolve({}, {"task.name": "evil.py:T"}), "config.toml")


def test_the_note_is_for_its_owner_alone(mark: Path) -> None:
    mine = config.resolve({}, {"task.name": "evil.py:T"})
    trust.remember(mine)
    trust.remember(mine)
    path = mark.parent / "state" / "tinyzero" / "trusted"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    lines = path.read_text().splitlines()
    assert len(lines) == 1
    assert len(lines[0]) == 64
    path.chmod(0o666)  # anyone could have written it
    with pytest.raises(Exception, match="would run"):
        trust.require(mine, "config.toml")


def test_bundled_names_need_no_leave_and_leave_no_note(mark: Path) -> None:
    trust.require(config.Config(), "config.toml")
    trust.remember(config.Config())
    assert not (mark.parent / "state").exists()


def test_without_a_home_it_asks(mark: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(mark))
    mark.touch()  # no folder can be made there
    mine = config.resolve({}, {"task.name": "evil.py:T"})
    trust.remember(mine)
    with pytest.raises(Exception, match="would run"):
        trust.require(mine, "config.toml")


def test_trust_is_for_folders(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--resume" in refused(capsys, "train", "laptop", "--trust", "--dry-run")


@pytest.mark.parametrize("kind", ["strange", "qwen2"])
def test_a_model_that_brings_its_own_code_is_refused_without_asking(
    mark: Path,
    base: Path,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No prompt appears that typed input could answer. Known kinds use transformers' own code."""
    folder = Path(shutil.copytree(base, mark.parent / "model"))
    settings = json.loads((folder / "config.json").read_text())
    settings |= {"model_type": kind}
    settings["auto_map"] = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.T"}
    (folder / "config.json").write_text(json.dumps(settings))
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    tokenizer["auto_map"] = {"AutoTokenizer": ["evil.T", None]}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    code(mark).rename(folder / "evil.py")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    monkeypatch.setattr("builtins.input", lambda *prompt: pytest.fail("it asked"))
    command = ["eval", str(folder), "--task", "countdown", "--n", "2", *SHORT]
    command += ["--model.prompt", "compact"]
    if kind == "strange":
        assert "needs its own code, which is never run" in refused(capsys, *command)
        refused(capsys, "export", folder, "out")
        refused(capsys, "train", f"--model.name={folder}")
    else:
        assert cli.main(command) == 0
    assert not mark.exists()


def test_a_name_cannot_draw_on_the_terminal(
    mark: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = strange_model(mark.parent / "model", base, task="\x1b[2J\n\0.py:T")
    said = refused(capsys, "eval", folder, "--n", 2)
    assert "\x1b" not in said
    assert "--trust" in said


def test_a_tool_that_a_folder_names_needs_permission(
    mark: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = strange_run(mark.parent / "run", base, tool=f"{code(mark)}:T")
    for command in (
        ["eval", folder],
        ["eval", folder, "--task", "countdown"],
        ["sample", folder, "--out", "samples.jsonl"],
        ["train", "--resume", folder],
        ["train", folder / "config.toml"],
    ):
        assert "names the task" in refused(capsys, *command)
    assert cli.main(["report", str(folder)]) == 0
    assert not mark.exists()
