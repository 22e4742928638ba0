"""The rules of docs/style.md that can be counted."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

COUNTED = (
    "answer|batch|cell|choice|completion|core|day|episode|file|folder|GPU|group|hour|key|line|"
    "minute|model|node|paragraph|problem|process|prompt|rank|rollout|row|run|sample|second|seed|"
    "sequence|split|step|task|token|turn|word"
)
UNITS = (
    "answers|attempts|bytes|calls|completions|dollars|FLOP|FLOPs|lines|milliseconds|minutes|objects|"
    "problems|prompts|rewards|rollouts|rows|samples|seconds|sequences|steps|times|tokens|words"
)

# What no native reader would write, or only rarely. The reading aloud is up to you.
NEVER = {
    "per": rf"\b(?:{UNITS}|one|once|object|line|row|file) an? (?:{COUNTED})\b",
    "is none": r"\b(?:is|are|was|were) none\b",
    "anew": r"\banew\b",
    "lest": r"\blest\b",
    "whoever": r"\bwhoever\b",
    "beside": r"\bbeside\b",
    "mend": r"\bmend(?:s|ed|ing)?\b",
    "for ever": r"\bfor ever\b",
    "likelier": r"\blikelier\b",
    "go on with": r"\b(?:go|goes|went|gone|going) on with\b",
    "so many": r"\bso many\b(?! that)",
    "in all": r"\bin all(?=[.,;:)]|$)",
    "refused is": r"\bRefused (?:is|are)\b",
    "hand on": r"\bhand(?:s|ed)? (?:it|them) on\b",
}
# Right in some sentences ("the folder where the run is"), but a habit if there are many.
MOST_PER_10_000_WORDS = {"where": (r"\bwhere\b", 6.0), "nobody": (r"\bnobody\b", 2.0)}

BAD_NAMES = {"found", "place", "tell", "told", "o", "r", "u", "settle", "asking", "look", "land"}
BLANK_LINES = 0.06  # at least this share of the lines inside functions of 8 lines and more
LONGEST_TEXT_LINE = 100

QUOTES_THE_PATTERNS = {"docs/style.md", "tests/test_style.py"}
NOT_OURS = ("vendor/", "results/", "tests/data/", "docs/example-report.html", "LICENSE")


def tracked(*suffixes: str) -> list[Path]:
    """Files of the repository with one of these suffixes that people read."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    names = [n for n in listed.stdout.splitlines() if n.endswith(suffixes) and (ROOT / n).exists()]
    kept = [n for n in names if n not in QUOTES_THE_PATTERNS and not any(x in n for x in NOT_OURS)]
    return [ROOT / name for name in kept]


def python_prose(source: str) -> Iterator[tuple[int, str]]:
    """Comments, docstrings and other strings with a space in them, each with its line number."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, node.value


def markdown_prose(source: str) -> Iterator[tuple[int, str]]:
    """Lines outside code fences, without code spans and link targets."""
    fenced = False
    for number, line in enumerate(source.splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced:
            yield number, re.sub(r"`[^`]*`|\]\([^)]*\)", " ", line)


def prose(path: Path) -> list[tuple[int, str]]:
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return list(python_prose(source))
    if path.suffix == ".md":
        return list(markdown_prose(source))
    return list(enumerate(source.splitlines(), 1))


@pytest.fixture(scope="module")
def texts() -> dict[Path, list[tuple[int, str]]]:
    return {path: prose(path) for path in tracked(".py", ".md", ".toml", ".js", ".html")}


@pytest.mark.parametrize("name", NEVER)
def test_foreign_phrases_do_not_come_back(
    name: str, texts: dict[Path, list[tuple[int, str]]]
) -> None:
    places = [
        f"{path.relative_to(ROOT)}:{number}: {match.group()}"
        for path, lines in texts.items()
        for number, text in lines
        for match in re.finditer(NEVER[name], text)
    ]
    assert not places, "see docs/style.md:\n" + "\n".join(places)


@pytest.mark.parametrize("name", MOST_PER_10_000_WORDS)
def test_habits_stay_rare(name: str, texts: dict[Path, list[tuple[int, str]]]) -> None:
    pattern, most = MOST_PER_10_000_WORDS[name]
    words, counts = 0, Counter[str]()
    for path, lines in texts.items():
        for _, text in lines:
            words += len(text.split())
            counts[str(path.relative_to(ROOT))] += len(re.findall(pattern, text))
    rate = counts.total() / words * 10_000
    assert rate <= most, f"{name!r} {rate:.1f} times per 10,000 words; {counts.most_common(10)}"


def test_names_say_what_they_hold() -> None:
    bad = []
    for path in tracked(".py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword):  # another library's argument
                continue
            name = getattr(node, "id", None) or getattr(node, "arg", None)
            name = node.name if isinstance(node, ast.FunctionDef) else name
            if name in BAD_NAMES and path.is_relative_to(ROOT / "src"):
                line = getattr(node, "lineno", 0)
                bad.append(f"{path.relative_to(ROOT)}:{line}: {name}")
    assert not bad, "\n".join(bad)


def test_functions_have_paragraphs() -> None:
    blank = total = 0
    for path in tracked(".py"):
        if not path.is_relative_to(ROOT / "src"):
            continue
        source = path.read_text(encoding="utf-8")
        lines = source.splitlines()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef):
                body = lines[node.body[0].lineno - 1 : node.end_lineno]
                if len(body) >= 8:
                    total += len(body)
                    blank += sum(not line.strip() for line in body)
    assert blank >= BLANK_LINES * total, f"only {blank / total:.1%} of {total} lines are blank"


def test_lines_of_text_fit_a_screen() -> None:
    long = []
    for path in tracked(".md"):
        for number, line in markdown_prose(path.read_text(encoding="utf-8")):
            if len(line) > LONGEST_TEXT_LINE and not line.startswith(("|", "![", "[")):
                long.append(f"{path.relative_to(ROOT)}:{number}: {len(line)} characters")
    assert not long, "\n".join(long)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("per", "two completions a prompt"),
        ("is none", "x.json is none of a run's records"),
        ("beside", "the file beside it"),
        ("so many", "after so many steps"),
        ("in all", "474 s in all; done"),
    ],
)
def test_a_pattern_is_found(name: str, text: str) -> None:
    assert re.search(NEVER[name], text)


@pytest.mark.parametrize(
    "text", ["completions per prompt", "besides", "so many that it fails", "in all cases"]
)
def test_good_sentences_pass(text: str) -> None:
    assert not any(re.search(pattern, text) for pattern in NEVER.values())
