"""The grid file: which recipe, which seeds, and which choices on each axis."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from tinyzero import config
from tinyzero.errors import UserError
from tinyzero.registry import validate

MOST_RUNS = 10_000
PLUGINS = ("task.name", "algorithm.name", "sampler.name")


class Grid(BaseModel):
    """The contents of a grid file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    recipe: str = Field(config.DEFAULT_RECIPE, description="the recipe that every cell starts from")
    seeds: list[int] = Field(
        [0, 1, 2], min_length=1, max_length=1_000, description="seeds that every choice is run on"
    )
    common: dict[str, Any] = Field(default_factory=dict, description="overrides for every cell")
    axes: dict[str, dict[str, dict[str, Any]]] = Field(
        description="overrides by axis and choice", min_length=1
    )


@dataclass(frozen=True)
class Cell:
    """One run of a grid: a choice on every axis, and a seed."""

    choices: tuple[str, ...]
    seed: int
    config: config.Config
    given: tuple[str, ...] = ()
    """The configuration keys that the choices set."""

    @property
    def choice(self) -> str:
        """The choices without the seed, joined: `ppo-fast`."""
        return "-".join(self.choices)

    @property
    def name(self) -> str:
        """The name of the run's folder: `ppo-fast-0`."""
        return f"{self.choice}-{self.seed}"


def read_grid(path: Path) -> tuple[Grid, list[Cell]]:
    """Return the grid in `path` and its cells, seeds varying fastest.

    Relative paths in the grid (its recipe, and plug-ins such as `raft.py:RAFT`) are relative to the
    grid's own folder. The cells have plug-ins by absolute path. Raises UserError if the file is not
    a valid grid.
    """
    grid = validate(Grid, config.read_toml(path), "grid")
    _check_choices(path, grid)

    name = str(path.parent / grid.recipe) if grid.recipe.endswith(".toml") else grid.recipe
    config.require_recipe(name, {}, False, "a copy of it next to your grid")
    recipe = config.read_recipe(name)
    common = _with_absolute_paths(path, config.flat(grid.common))

    cells: list[Cell] = []
    for choices in product(*(axis.items() for axis in grid.axes.values())):
        given: dict[str, Any] = {}
        for _, overrides in choices:
            given |= _with_absolute_paths(path, config.flat(overrides))
        if reserved := {"seed", "run.dir"} & (common | given).keys():
            raise UserError(f"{path} sets {reserved.pop()}, which the grid itself sets: use seeds")

        names = tuple(name for name, _ in choices)
        for seed in grid.seeds:
            resolved = config.resolve(recipe, common | given | {"seed": seed})
            cells.append(Cell(names, seed, resolved, tuple(given)))

    _check_cells(path, cells)
    return grid, cells


def _with_absolute_paths(path: Path, overrides: dict[str, Any]) -> dict[str, Any]:
    """The overrides of the grid in `path`, with the files of plug-ins as absolute paths.

    The runs record these paths, so they can be repeated from any folder. Raises UserError if a file
    does not exist.
    """
    located = dict(overrides)
    for key in PLUGINS:
        source, _, name = str(overrides.get(key, "")).rpartition(":")
        if not source.endswith(".py"):
            continue

        file = os.path.abspath(path.parent / source)
        if not os.path.isfile(file):
            raise UserError(
                f"{path} sets {key} to {overrides[key]!r}, but there is no file {file}: "
                "write a path that is relative to the folder of the grid"
            )
        located[key] = f"{file}:{name}"
    return located


def _check_choices(path: Path, grid: Grid) -> None:
    """Raise UserError if an axis is empty, a choice is not a folder name, or there are too many."""
    for axis, choices in grid.axes.items():
        if not choices:
            raise UserError(
                f"{path} has no choice on the axis {axis!r}: write NAME = {{}} below [axes.{axis}]"
            )
        for choice in choices:
            if not choice or set(choice) & set("/|"):
                raise UserError(
                    f"{path} names a choice {choice!r}: give it a name, without a slash or a bar"
                )

    runs = prod(map(len, grid.axes.values())) * len(grid.seeds)
    if runs > MOST_RUNS:
        raise UserError(
            f"{path} asks for {runs:,} runs, and {MOST_RUNS:,} is the most: remove choices or seeds"
        )


def _check_cells(path: Path, cells: list[Cell]) -> None:
    """Raise UserError if a cell has no evaluations to compare, or two cells share a name."""
    for cell in cells:
        if not (cell.config.eval.dev_problems and cell.config.eval.test_problems):
            raise UserError(
                f"{path} has nothing to compare: "
                "set eval.every and eval.test_problems above 0 in [common]"
            )

    names = [cell.name for cell in cells]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise UserError(
            f"{path} names a run {repeated[0]!r} twice: change the names of choices, or the seeds"
        )
