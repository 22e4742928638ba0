"""Grids of runs: train every choice on every seed, then compare the choices.

A grid is a TOML file. Each cell is one choice on every axis with one seed, and is trained by a
`tinyzero train` process of its own:

    recipe = "laptop"                    # a bundled recipe, or a .toml file next to the grid
    seeds = [0, 1, 2]
    [common]                             # overrides for every cell
    "eval.every" = 20
    [axes.algorithm]
    grpo = { "algorithm.name" = "grpo" }
    ppo = { "algorithm.name" = "ppo" }

Finished runs are kept and unfinished ones are resumed, so a grid that was stopped continues when
the same command is given again. The comparison is written into the folder of the runs, as
ablation.json, ablation.md and ablation.png.
"""

from tinyzero.tools.ablate.comparison import write
from tinyzero.tools.ablate.grid import Cell, Grid, read_grid
from tinyzero.tools.ablate.runs import run_grid

__all__ = ["Cell", "Grid", "read_grid", "run_grid", "write"]
