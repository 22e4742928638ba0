"""What the documents say is so: the glossary, the links, and that nothing points out of the house.

`python tests/test_docs.py` writes docs/metrics.md anew.
"""

import re
import shutil
import subprocess
import textwrap
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest

from tinyzero.run.glossary import GLOSSARY
from tinyzero.tasks import TASKS, load_task

ROOT = Path(__file__).resolve().parent.parent
METRICS = ROOT / "docs" / "metrics.md"


def rows(entries: Mapping[str, str]) -> str:
    """Entries of a glossary as lines of a table."""
    return "\n".join(f"| `{key}` | {meaning} |" for key, meaning in entries.items())


def glossary() -> str:
    """docs/metrics.md as it should be."""
    own = "\n\n".join(
        f"## {name.capitalize()}\n\n| key | meaning |\n|---|---|\n{rows(load_task(name).glossary)}"
        for name in TASKS
    )
    return f"""# Metrics

What every key of a run's records means. There are three files: `metrics.jsonl` has one object per
step, `eval.jsonl` one per evaluation, and `rollouts.jsonl` one per rollout.

Steps are counted from 0 in `metrics.jsonl`. In `eval.jsonl`, `step` is the number of steps taken
before the evaluation, so 0 is the untrained model and the last one equals `steps`. The console and
the names of checkpoints count steps from 1.

`*` stands for any text. If several entries match a key, the one that spells out most of it defines
it. This page is written by `python tests/test_docs.py` from `tinyzero.run.glossary.GLOSSARY` and
the `glossary` of each bundled task, so change it there.

| key | meaning |
|---|---|
{rows(GLOSSARY)}

What only one task measures is below; [behaviours.md](behaviours.md) defines the words of Countdown.

{own}
"""


def test_the_page_of_metrics_is_the_glossary() -> None:
    assert METRICS.read_text() == glossary(), "run python tests/test_docs.py"


@cache
def files() -> tuple[Path, ...]:
    """The project's text files."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z"]
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("git tells which files are the project's")
    names = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\0")
    found = (ROOT / name for name in names if name)
    return tuple(sorted(p for p in found if p.is_file() and b"\0" not in p.read_bytes()[:8192]))


LINK = re.compile(r"\]\(([^()\s]+)\)|^\[[^\]]+\]: (\S+)|\b(?:src|href)=\"([^\"]+)\"", re.MULTILINE)


def broken_links(page: Path, text: str) -> list[str]:
    """Relative links of a Markdown text to files or headings that do not exist."""
    plain = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    links = [link for match in LINK.finditer(plain) for link in match.groups() if link]
    return [link for link in links if "://" not in link and not _leads_somewhere(page, link)]


def _leads_somewhere(page: Path, link: str) -> bool:
    name, _, heading = link.partition("#")
    place = page.parent / name if name else page
    return place.exists() and (not heading or heading in _anchors(place.read_text()))


def _anchors(text: str) -> set[str]:
    """The anchors of the headings, as code hosts make them."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_relative_link_leads_somewhere() -> None:
    broken = {
        str(p.relative_to(ROOT)): broken_links(p, p.read_text())
        for p in files()
        if p.suffix == ".md"
    }
    assert {page: links for page, links in broken.items() if links} == {}


def test_a_broken_link_is_seen() -> None:
    text = "[a](README.md) [b](nothing.md) ![c](docs/none.png) `[d](code.md)` [e](https://x.org/y) [f](README.md#none)"
    assert broken_links(ROOT / "README.md", text) == [
        "nothing.md",
        "docs/none.png",
        "README.md#none",
    ]


# Notes of another checkout, somebody's own folders, package registries.
OUTSIDE = re.compile(
    r"\.\./shared|(?<![\w.}/-])/(?:home|Users|root|work)/\w|pypi\.org|pythonhosted\.|download\.pytorch|npmjs\."
)


def test_nothing_points_out_of_the_project() -> None:
    found = {
        str(p.relative_to(ROOT)): OUTSIDE.findall(p.read_text(errors="replace")) for p in files()
    }
    assert {name: places for name, places in found.items() if places} == {}


@pytest.mark.parametrize(
    "text",
    ["see ../" + "shared/x.md", "cd /" + "home/ada", "=/" + "work/x", "pypi" + ".org/simple"],
)
def test_what_points_out_of_the_project_is_seen(text: str) -> None:
    assert OUTSIDE.search(text)


@pytest.mark.parametrize("text", ["src/work/x", "https://pytorch.org", "runs/x", "a/root/b"])
def test_what_stays_within_is_let_pass(text: str) -> None:
    assert not OUTSIDE.search(text)


def test_the_grid_in_the_readme_is_the_file_it_names() -> None:
    shown = re.search(
        r"This one is \[(ablations/\S+)\].*?```toml\n(.*?)```",
        (ROOT / "README.md").read_text(),
        re.DOTALL,
    )
    assert shown is not None
    assert tomllib.loads(shown[2]) == tomllib.loads((ROOT / shown[1]).read_text())


if __name__ == "__main__":
    METRICS.write_text(glossary())


def loop() -> str:
    """The loop as train.py has it."""
    source = (ROOT / "src/tinyzero/train.py").read_text()
    body = source[source.index("    with opened(") : source.index("    return run.saved")]
    return textwrap.dedent(body).strip()


@pytest.mark.parametrize("page", ["README.md", "ARCHITECTURE.md"])
def test_the_loop_that_is_quoted_is_the_loop(page: str) -> None:
    assert f"```python\n{loop()}\n```" in (ROOT / page).read_text()
    assert len(loop().splitlines()) < 10
