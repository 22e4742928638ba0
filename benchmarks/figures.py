"""Check that the figures in the documents are those in the results files that they come from.

    python benchmarks/figures.py            # list the figures that differ or have no source
    python benchmarks/figures.py --write    # correct the figures in the documents

docs/figures.toml lists, in their order, the sentences and table rows that state figures. A figure
is written there as {FILE.KEY...:FORMAT}; the key * stands for the mean over all keys. So this line

    "| GRPO | {algorithms.grpo.mean.after:.3f} |"

says that the document has a row such as `| GRPO | 0.897 |`, and that the figure is
results["grpo"]["mean"]["after"] of algorithms.json with three decimals. FILE is a file in
ablations/results or benchmarks/results.

Other numbers that look like measurements have to be listed under `given`, with the reason why they
need no file. These are numbers outside code and links that have a percent sign, a unit of time or
memory, or two or more decimals. Other numbers, such as counts, are checked only if they are listed.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

ROOT = Path(__file__).parents[1]
LIST = ROOT / "docs" / "figures.toml"
RESULTS = (ROOT / "ablations" / "results", ROOT / "benchmarks" / "results")

SHOWN = 70  # characters of a statement in a message
PLACEHOLDER = re.compile(r"\{([^{}:]+):([^{}]*)\}")
NUMBER = r"[+−-]?\d[\d,]*(?:\.\d+)?(?: ?%)?"
MEASUREMENT = re.compile(
    r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?: %|%| (?:s|ms|seconds?|minutes?|hours?|GiB|GB|MB|kB)\b)"
    r"|(?<![\w.])\d[\d,]*\.\d{2,}"
)
EVERYWHERE = re.compile(r"95 %\s+(?:confidence )?intervals?|with 95 %|Python 3\.\d+")
CODE = re.compile(r"```.*?```|`[^`\n]*`|\]\([^)\s]*\)|arXiv:\S+", re.DOTALL)


@dataclass(frozen=True)
class Statement:
    """A sentence or table row of a document, and the figures that it should state."""

    template: str
    figures: tuple[str, ...]

    @property
    def pattern(self) -> re.Pattern[str]:
        """Finds the statement in a document, whatever its figures and its line breaks are."""
        pieces = [re.escape(piece) for piece in PLACEHOLDER.split(self.template)[::3]]
        text = f"({NUMBER})".join(pieces)
        if self.template.startswith("|"):  # a table row is one whole line
            return re.compile(f"^{text}$", re.MULTILINE)
        return re.compile(text.replace("\\ ", r"\s+"))


def read_statement(template: str) -> Statement:
    """The statement of a line of figures.toml, with its figures from the results files."""
    figures = [
        formatted(value_of(source), style) for source, style in PLACEHOLDER.findall(template)
    ]
    return Statement(template, tuple(figures))


def formatted(value: float, style: str) -> str:
    """The figure as the documents write it, with a space before % and a true minus sign.

    >>> formatted(-0.56, ".0%")
    '−56 %'
    """
    return format(value, style).replace("%", " %").replace("-", "−")


def value_of(source: str) -> float:
    """The number at a path such as `sampler.0.median.ours`. Raises KeyError if it is missing."""
    name, _, path = source.partition(".")
    record = results(name)
    inner = record["results"]
    parts = path.split(".")
    value = look_up(record if parts[0] in record and parts[0] not in inner else inner, parts)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise KeyError(f"{source} is {value!r}, not a number")
    return value


def look_up(value: Any, parts: list[str]) -> Any:
    """Follow the parts of a path. `*` is the mean over all keys; a key may contain dots: `0.1M`."""
    if not parts:
        return value
    if parts[0] == "*":
        return mean(look_up(inner, parts[1:]) for inner in value.values())
    if isinstance(value, list):
        return look_up(value[int(parts[0])], parts[1:])
    for length in range(len(parts), 0, -1):
        key = ".".join(parts[:length])
        if isinstance(value, Mapping) and key in value:
            return look_up(value[key], parts[length:])
    raise KeyError(f"no {'.'.join(parts)}; there are {', '.join(value)}"[:200])


@cache
def results(name: str) -> dict[str, Any]:
    """The record in the results file called `name`, which must say what made it."""
    for folder in RESULTS:
        path = folder / f"{name}.json"
        if path.is_file():
            record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if not (record.get("command") and record.get("commit")):
                raise KeyError(f"{path} does not say its command and commit")
            return record
    raise KeyError(f"no results file {name}.json")


def check(document: str, entry: Mapping[str, Any], text: str) -> tuple[list[str], str]:
    """What is wrong with the figures of one document, and its text with the right figures."""
    problems: list[str] = []
    covered: list[tuple[int, int]] = [match.span() for match in CODE.finditer(text)]
    covered += [match.span() for match in EVERYWHERE.finditer(text)]
    corrections: list[tuple[int, int, str]] = []
    end_of_last = 0

    for template in entry.get("statements", ()):
        try:
            statement = read_statement(template)
        except (KeyError, IndexError, ValueError) as error:
            problems.append(f"{document}: {error} in {template}")
            continue
        match = statement.pattern.search(text, end_of_last)
        if match is None:
            problems.append(f"{document}: not there, or not in this order: {template[:SHOWN]}")
            continue

        covered.append(match.span())
        end_of_last = match.end()
        for i, figure in enumerate(statement.figures, 1):
            if match[i] != figure:
                problem = f"{document}: states {match[i]}, the file has {figure}"
                problems.append(f"{problem}: {template[:SHOWN]}")
                corrections.append((*match.span(i), figure))

    for literal in entry.get("given", {}):
        places = [match.span() for match in re.finditer(re.escape(literal), text)]
        if not places:
            problems.append(f"{document}: listed as given, but not there: {literal}")
        covered += places

    problems += [f"{document}: no source for {figure}" for figure in unlisted(text, covered)]
    for start, end, figure in sorted(corrections, reverse=True):
        text = text[:start] + figure + text[end:]
    return problems, text


def unlisted(text: str, covered: list[tuple[int, int]]) -> Iterator[str]:
    """Numbers that look like measurements outside the covered spans, with the words around them."""
    for match in MEASUREMENT.finditer(text):
        if not any(start <= match.start() and match.end() <= end for start, end in covered):
            around = text[max(0, match.start() - 30) : match.end() + 20]
            yield f'{match[0]} in "{" ".join(around.split())}"'


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="correct the figures in the documents")
    given = parser.parse_args()

    documents = tomllib.loads(LIST.read_text(encoding="utf-8"))
    problems: list[str] = []
    figures = 0
    for document, entry in documents.items():
        path = ROOT / document
        wrong, corrected = check(document, entry, path.read_text(encoding="utf-8"))
        if given.write:
            path.write_text(corrected, encoding="utf-8")
            wrong, _ = check(document, entry, corrected)
        problems += wrong
        figures += sum(len(PLACEHOLDER.findall(text)) for text in entry.get("statements", ()))

    if problems:
        sys.exit("\n".join(problems))
    print(f"{figures} figures in {len(documents)} documents are those of their results files")


if __name__ == "__main__":
    main()
