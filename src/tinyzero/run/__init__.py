"""A run: its parts, its folder, its checkpoints and what it records."""

__all__ = [
    "check",
    "checkpoint",
    "console",
    "early",
    "glossary",
    "opening",
    "outputs",
    "parts",
    "progress",
    "records",
    "signs",
    "stopping",
    "summary",
]
