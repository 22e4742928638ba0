"""Every output is written whole or not at all, replaces only its own kind, and nothing else."""

import json
import os
import stat
from pathlib import Path

import fake_run
import pytest
from helpers import largest_file, refused

from tinyzero import cli
from tinyzero.errors import UserError
from tinyzero.run import outputs


def everything(folder: Path) -> dict[str, bytes]:
    """Every file in a folder, with its content."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_a_new_file_is_written_as_anybody_would(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        with outputs.whole(tmp_path / "x.txt") as temporary:
            temporary.write_text("new")
            assert not (tmp_path / "x.txt").exists()
            assert temporary.suffix == ".txt"
    finally:
        os.umask(before)
    assert everything(tmp_path) == {"x.txt": b"new"}
    assert stat.S_IMODE((tmp_path / "x.txt").stat().st_mode) == 0o644


def test_a_new_folder_too(tmp_path: Path) -> None:
    with outputs.whole(tmp_path / "x") as temporary:
        temporary.mkdir()
        (temporary / "a").write_text("new")
    assert everything(tmp_path) == {"x/a": b"new"}


def half_written(path: Path, error: BaseException) -> None:
    with outputs.whole(path, lambda path: True) as temporary:
        temporary.write_text("half")
        raise error


def test_whatever_breaks_off_leaves_what_was(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("old")
    for error in (ValueError("ours"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            half_written(tmp_path / "x", error)
    with (
        largest_file(10),
        pytest.raises(UserError, match=r"cannot write .*x: File too large"),
        outputs.whole(tmp_path / "x", lambda path: True) as temporary,
    ):
        temporary.write_text("x" * 11)
    assert everything(tmp_path) == {"x": b"old"}


def test_what_nobody_wrote_is_no_output(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match=r"cannot write .*x: No such file"),
        outputs.whole(tmp_path / "x"),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_only_its_own_kind_is_replaced(tmp_path: Path) -> None:
    def is_ours(path: Path) -> bool:
        return path.read_text() == "old"

    path = tmp_path / "x"
    for text, replaced in (("old", True), ("mine", False)):
        path.write_text(text)
        if replaced:
            with outputs.whole(path, is_ours) as temporary:
                temporary.write_text("new")
            assert path.read_text() == "new"
        else:
            with (
                pytest.raises(UserError, match="was not written by this command: name another"),
                outputs.whole(path, is_ours),
            ):
                pytest.fail("it began")
            assert path.read_text() == text


def test_what_appears_meanwhile_stays(tmp_path: Path) -> None:

    def race() -> None:
        with outputs.whole(tmp_path / "x") as temporary:
            temporary.write_text("new")
            (tmp_path / "x").write_text("theirs")

    with pytest.raises(UserError, match="x exists"):
        race()
    assert everything(tmp_path) == {"x": b"theirs"}


@pytest.mark.parametrize("kind", ["pipe", "link", "dangling", "folder"])
def test_what_is_no_plain_file_is_left_alone(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "page.html"
    (tmp_path / "target").write_text(f"<!doctype html>{outputs.REPORT}")
    {
        "pipe": lambda: os.mkfifo(path),
        "link": lambda: path.symlink_to("target"),
        "dangling": lambda: path.symlink_to("nowhere"),
        "folder": path.mkdir,
    }[kind]()
    with pytest.raises(UserError), outputs.whole(path, outputs.is_report):
        pytest.fail("it began")


def test_a_folder_gives_way_to_a_folder_of_its_kind(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.mkdir()
    (path / "README.md").write_text("Made by `tinyzero pretrain`")
    (path / "old").touch()
    with outputs.whole(path, outputs.is_base) as temporary:
        temporary.mkdir()
        (temporary / "new").touch()
    assert everything(tmp_path) == {"model/new": b""}
    with pytest.raises(UserError, match="not written by this command"):
        outputs.refuse_others(path, outputs.is_base)


# ---- the commands


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return fake_run.write(tmp_path / "run", steps=4, every=2)


def test_a_report_never_destroys_a_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = everything(run)
    for name in before:
        assert "name another file with --out" in refused(capsys, "report", run, "--out", run / name)
    assert everything(run) == before


def test_a_report_replaces_a_report(run: Path) -> None:
    page = run / "report.html"
    for _ in range(2):
        assert cli.main(["report", str(run)]) == 0
        assert outputs.is_report(page)
    # in the format of version 0.1
    page.write_text("<!doctype html>\n<title>run · TinyZero</title>")
    assert cli.main(["report", str(run)]) == 0
    assert outputs.REPORT in page.read_text()


def test_a_page_of_ones_own_stays(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "report.html").write_text("<!doctype html><title>my notes on TinyZero</title>")
    refused(capsys, "report", run)
    assert "my notes" in (run / "report.html").read_text()


def test_figures_replace_figures_only(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "figures.json"
    words = ["eval", str(base), "--task", "countdown", "--n", "2", "--max-tokens", "4"]
    words += ["--model.prompt", "compact", "--json", str(path)]
    for _ in range(2):
        assert cli.main(words) == 0
    assert json.loads(path.read_text())["model"] == str(base)
    for text in ("seed = 1\n", "[1]", '{"a": 1}', "[" * 100_000):
        path.write_text(text)
        assert "name another file with --json" in refused(capsys, *words)
        assert path.read_text() == text


def test_an_export_deletes_nothing_of_anybodys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A user's folder next to it may have any name."""
    mine = tmp_path / ".tmp-pre"
    mine.mkdir()
    (mine / "thesis").write_text("years")
    assert cli.main(["export", "tiny", str(tmp_path / "pre")]) == 0
    assert (tmp_path / "pre" / "model.safetensors").is_file()
    refused(capsys, "export", "tiny", tmp_path / "pre")
    assert everything(mine) == {"thesis": b"years"}
    assert sorted(path.name for path in tmp_path.iterdir()) == [".tmp-pre", "pre"]


def test_samples_and_problems_replace_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine.jsonl"
    mine.write_text("{}\n")
    refused(capsys, "sample", "tiny", "--n", 1, "--out", mine)
    refused(capsys, "data", "--n", 2, "--out", mine)
    assert mine.read_text() == "{}\n"
    assert cli.main(["data", "--n", "2", "--out", str(tmp_path / "new.jsonl")]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.jsonl", "new.jsonl"]


def test_a_grid_replaces_its_own_comparison_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = tmp_path / "grid.toml"
    grid.write_text(
        'seeds = [0]\n[common]\n"eval.every" = 1\n[axes.algorithm]\n'
        'grpo = { "algorithm.name" = "grpo" }\n'
    )
    out = tmp_path / "out"
    out.mkdir()
    for name in ("ablation.json", "ablation.md", "ablation.png", "grpo-0.toml"):
        (out / name).write_text("my own")
        assert name in refused(capsys, "ablate", grid, "--out", out)
        assert (out / name).read_text() == "my own"
        (out / name).unlink()
