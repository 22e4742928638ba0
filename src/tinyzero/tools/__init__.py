"""Tools for runs: reports, plans, grids, exports, base models. Training imports none of them."""

__all__ = [
    "ablate",
    "convert",
    "export",
    "plan",
    "prefer",
    "pretrain",
    "probe",
    "report",
    "survey",
    "web",
]
