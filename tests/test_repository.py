"""The repository's own files: version, metadata, workflows, and the contents of packages."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import tinyzero

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_version_is_written_once() -> None:
    assert "version" in PROJECT["project"]["dynamic"]
    assert PROJECT["tool"]["hatch"]["version"]["path"] == "src/tinyzero/__init__.py"
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+)?", tinyzero.__version__)


def test_the_changelog_begins_with_what_is_not_released_or_with_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## (.+)$", changelog, re.MULTILINE)
    is_development = ".dev" in tinyzero.__version__

    assert sections[0] == "Unreleased" if is_development else tinyzero.__version__ in sections[0]
    dated = [section for section in sections if section != "Unreleased"]
    assert all(re.fullmatch(r"\d+\.\d+\.\d+, \d{4}-\d\d-\d\d", section) for section in dated)


@pytest.mark.parametrize(
    "name", sorted(str(p.relative_to(ROOT)) for p in ROOT.glob(".github/**/*.yml"))
)
def test_files_of_the_code_host_can_be_read(name: str) -> None:
    parsed = yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))

    assert isinstance(parsed, dict)
    for job in parsed.get("jobs", {}).values():
        assert job["timeout-minutes"] <= 120
        for step in job["steps"]:
            script = step.get("run", "").split()[-1:]
            if script and script[0].startswith(".ci/"):
                assert (ROOT / script[0]).exists(), f"{name} calls {script[0]}"


def test_the_citation_has_what_readers_of_the_format_require() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))

    assert {"cff-version", "title", "message", "authors", "license"} <= citation.keys()
    assert citation["license"] == PROJECT["project"]["license"]
    assert citation["repository-code"] == PROJECT["project"]["urls"]["Homepage"]


def test_the_source_distribution_leaves_results_and_tests_out() -> None:
    included = PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]

    assert all((ROOT / entry.lstrip("/")).exists() for entry in included)
    assert not {"/tests", "/docs", "/benchmarks", "/ablations"} & set(included)


def test_pictures_and_links_of_the_readme_are_absolute_in_the_package() -> None:
    """The substitutions of pyproject.toml leave no relative target in the built package's page."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    hook = PROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    for substitution in hook["substitutions"]:
        readme = re.sub(substitution["pattern"], substitution["replacement"], readme)

    targets = re.findall(r"\]\(([^)\s]+)\)", readme)
    assert targets
    assert all(target.startswith(("https://", "#")) for target in targets)
