"""The documents are correct: the glossary, the list of modules, the quoted code, the links.

`python tests/test_docs.py` writes the generated parts: docs/metrics.md, docs/modules.md, and the
table of modules in ARCHITECTURE.md.
"""

import ast
import importlib.util
import re
import shutil
import subprocess
import textwrap
import tomllib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
from test_imports import FLOORS

from tinyzero.run.glossary import GLOSSARY
from tinyzero.tasks import TASKS, load_task
from tinyzero.types import Problem

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "tinyzero"
ARCHITECTURE = ROOT / "ARCHITECTURE.md"
METRICS = ROOT / "docs" / "metrics.md"
MODULES = ROOT / "docs" / "modules.md"

TABLE_STARTS = "<!-- modules: written by `python tests/test_docs.py` from the docstrings -->"
TABLE_ENDS = "<!-- end of modules -->"


# What is generated


def rows(entries: Mapping[str, str]) -> str:
    """Entries of a glossary as rows of a table."""
    return "\n".join(f"| `{key}` | {meaning} |" for key, meaning in entries.items())


def glossary() -> str:
    """docs/metrics.md as it should be."""
    own = "\n\n".join(
        f"## {name.capitalize()}\n\n| key | meaning |\n|---|---|\n{rows(load_task(name).glossary)}"
        for name in TASKS
        if load_task(name).glossary
    )
    return f"""# Metrics

This page explains every key of a run's records. There are three files: `metrics.jsonl` has one
object per step, `eval.jsonl` one per evaluation, and `rollouts.jsonl` one per rollout.

Steps are counted from 0 in `metrics.jsonl`. In `eval.jsonl`, `step` is the number of steps taken
before the evaluation, so 0 is the untrained model and the last one equals `steps`. The console and
the names of checkpoints count steps from 1.

`*` stands for any text. If several entries match a key, the most specific one defines it.
`python tests/test_docs.py` writes this page from `tinyzero.run.glossary.GLOSSARY` and the
`glossary` of each bundled task: change it there.

| key | meaning |
|---|---|
{rows(GLOSSARY)}

Each section below explains the metrics of one task. [Behaviours](behaviours.md) defines the words
that Countdown uses.

{own}
"""


def summary(path: Path) -> str:
    """The first line of a module's docstring, for a cell of a table."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    first_line, _, _ = docstring.partition("\n")
    return first_line.replace("|", "\\|")


def module_cells(path: Path, to_root: str) -> str:
    """A module's link and purpose. `to_root` leads from the page to the root of the project."""
    link = path.relative_to(PACKAGE).as_posix().removesuffix("__init__.py")
    return f"[{link or '__init__.py'}]({to_root}src/tinyzero/{link}) | {summary(path)}"


def top_module(name: str) -> Path:
    """The file of a module or a package directly in src/tinyzero."""
    file = PACKAGE / f"{name}.py"
    return file if file.exists() else PACKAGE / name / "__init__.py"


def floors_table() -> str:
    """The modules and packages directly in src/tinyzero, the highest floor first."""
    floors = [*FLOORS, ["api"]]  # the Python API may import everything
    lines = ["| floor | module | what it is for |", "|---|---|---|"]
    for number, floor in reversed(list(enumerate(floors, 1))):
        paths = [top_module(name) for name in floor]
        lines += [
            f"| {number} | {module_cells(path, to_root='')} |" for path in paths if path.exists()
        ]
    return "\n".join(lines)


def modules_page() -> str:
    """docs/modules.md as it should be."""
    paths = sorted(PACKAGE.rglob("*.py"))
    listed = "\n".join(f"| {module_cells(path, to_root='../')} |" for path in paths)
    return f"""# Every module

`python tests/test_docs.py` writes this page from the first line of each module's docstring.
[Architecture](../ARCHITECTURE.md) shows how they fit together.

| module | what it is for |
|---|---|
{listed}
"""


def architecture() -> str:
    """ARCHITECTURE.md with the table of modules as it should be."""
    text = ARCHITECTURE.read_text(encoding="utf-8")
    start, end = text.index(TABLE_STARTS), text.index(TABLE_ENDS)
    return f"{text[:start]}{TABLE_STARTS}\n\n{floors_table()}\n\n{text[end:]}"


PAGES: dict[Path, Callable[[], str]] = {
    METRICS: glossary,
    MODULES: modules_page,
    ARCHITECTURE: architecture,
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_generated_page_is_up_to_date(page: Path) -> None:
    assert page.read_text(encoding="utf-8") == PAGES[page](), "run python tests/test_docs.py"


def test_every_module_is_on_a_floor() -> None:
    names = {path.stem for path in PACKAGE.glob("*.py")}
    names |= {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert names - {name for floor in FLOORS for name in floor} == {"__init__", "api"}


def test_every_module_says_what_it_is_for() -> None:
    silent = [path.name for path in PACKAGE.rglob("*.py") if not summary(path)]
    assert silent == ["__main__.py"] or silent == []


# Links


@cache
def files() -> tuple[Path, ...]:
    """The project's text files."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z"]
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("git tells which files are the project's")
    names = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\0")
    paths = [ROOT / name for name in names if name]
    texts = [path for path in paths if path.is_file() and b"\0" not in path.read_bytes()[:8192]]
    return tuple(sorted(texts))


LINK = re.compile(r"\]\(([^()\s]+)\)|^\[[^\]]+\]: (\S+)|\b(?:src|href)=\"([^\"]+)\"", re.MULTILINE)


def broken_links(page: Path, text: str) -> list[str]:
    """Relative links of a Markdown text to files or headings that do not exist."""
    plain = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    links = [link for match in LINK.finditer(plain) for link in match.groups() if link]
    return [link for link in links if "://" not in link and not leads_somewhere(page, link)]


def leads_somewhere(page: Path, link: str) -> bool:
    """Whether a relative link of a page leads to a file, and to a heading if it names one."""
    name, _, heading = link.partition("#")
    target = page.parent / name if name else page
    if not target.exists():
        return False
    return not heading or heading in anchors(target.read_text(encoding="utf-8"))


def anchors(text: str) -> set[str]:
    """The anchors of the headings, as code hosts make them."""
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_relative_link_leads_somewhere() -> None:
    pages = [path for path in files() if path.suffix == ".md"]
    broken = {str(page.relative_to(ROOT)): broken_links(page, page.read_text()) for page in pages}
    assert {page: links for page, links in broken.items() if links} == {}


def test_a_broken_link_is_seen() -> None:
    text = (
        "[a](README.md) [b](nothing.md) ![c](docs/none.png) `[d](code.md)` "
        "[e](https://x.org/y) [f](README.md#none)"
    )
    assert broken_links(ROOT / "README.md", text) == [
        "nothing.md",
        "docs/none.png",
        "README.md#none",
    ]


# Notes outside the project, personal folders, package registries.
OUTSIDE = re.compile(
    r"\.\./shared|(?<![\w.}/-])/(?:home|Users|root|work)/\w"
    r"|pypi\.org|pythonhosted\.|download\.pytorch|npmjs\."
)


def test_nothing_points_out_of_the_project() -> None:
    texts = {str(p.relative_to(ROOT)): p.read_text(errors="replace") for p in files()}
    matches = {name: OUTSIDE.findall(text) for name, text in texts.items()}
    assert {name: phrases for name, phrases in matches.items() if phrases} == {}


@pytest.mark.parametrize(
    "text",
    ["see ../" + "shared/x.md", "cd /" + "home/ada", "=/" + "work/x", "pypi" + ".org/simple"],
)
def test_what_points_out_of_the_project_is_seen(text: str) -> None:
    assert OUTSIDE.search(text)


@pytest.mark.parametrize("text", ["src/work/x", "https://pytorch.org", "runs/x", "a/root/b"])
def test_what_stays_within_is_allowed(text: str) -> None:
    assert not OUTSIDE.search(text)


# The documentation site


def site_hooks() -> ModuleType:
    """docs/links.py, which mkdocs loads as a file."""
    spec = importlib.util.spec_from_file_location("links", ROOT / "docs" / "links.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("link", "on_site"),
    [
        ("models.md#memory", "models.md#memory"),
        ("#below", "#below"),
        ("https://x.org/y.md", "https://x.org/y.md"),
        ("../ARCHITECTURE.md#floors", "architecture.md#floors"),
        ("../src/tinyzero/train.py", "https://host/blob/main/src/tinyzero/train.py"),
        ("../src/tinyzero/tasks/countdown", "https://host/tree/main/src/tinyzero/tasks/countdown"),
    ],
)
def test_links_of_a_page_work_on_the_site(link: str, on_site: str) -> None:
    site = {"docs/models.md", "docs/tutorial.md"}
    text = f"`[a]({link})` [b]({link})\n```\n[c]({link})\n```\n"
    rewritten = site_hooks().rewritten(
        text, "docs/tutorial.md", "tutorial.md", site, "https://host"
    )
    assert rewritten == f"`[a]({link})` [b]({on_site})\n```\n[c]({link})\n```\n"


def test_links_of_a_page_outside_docs_work_on_the_site() -> None:
    site = {"docs/models.md"}
    text = "[a](docs/models.md) [b](CONTRIBUTING.md) [c](src/tinyzero/)"
    rewritten = site_hooks().rewritten(
        text, "ARCHITECTURE.md", "architecture.md", site, "https://host"
    )
    assert rewritten == (
        "[a](models.md) [b](contributing.md) [c](https://host/tree/main/src/tinyzero)"
    )


# What is quoted


def test_the_grid_on_its_page_is_the_file_it_names() -> None:
    page = (ROOT / "docs" / "grids.md").read_text(encoding="utf-8")
    shown = re.search(r"This\s+one\s+is\s+\[(ablations/\S+)\].*?```toml\n(.*?)```", page, re.DOTALL)
    assert shown is not None
    assert tomllib.loads(shown[2]) == tomllib.loads((ROOT / shown[1]).read_text())


def loop() -> str:
    """The training loop in train.py."""
    source = (PACKAGE / "train.py").read_text(encoding="utf-8")
    body = source[source.index("    with opened(") : source.index("    return run.saved")]
    return textwrap.dedent(body).strip()


@pytest.mark.parametrize("page", ["README.md", "ARCHITECTURE.md"])
def test_the_loop_that_is_quoted_is_the_loop(page: str) -> None:
    assert f"```python\n{loop()}\n```" in (ROOT / page).read_text(encoding="utf-8")
    assert len(loop().splitlines()) < 10


def test_the_code_on_the_page_about_behaviours_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "behaviours.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    problem = Problem("p", {"numbers": [3, 5, 12], "target": 24}, "train", "3,5,12")
    exec(compile(code, "behaviours.md", "exec"), {"problem": problem, "text": "12 - 3 = 9</think>"})
    assert "step 12 - 3 = 9" in capsys.readouterr().out


@pytest.mark.parametrize("page", ["README.md", "ARCHITECTURE.md"])
def test_a_page_to_read_first_is_short(page: str) -> None:
    assert len((ROOT / page).read_text(encoding="utf-8").splitlines()) <= 150


if __name__ == "__main__":
    for generated, write in PAGES.items():
        generated.write_text(write(), encoding="utf-8")
