"""How pages and tables show multiplication: what its metrics mean, and which are drawn."""

from __future__ import annotations

from tinyzero.tasks.base import Chart

GLOSSARY: dict[str, str] = {
    "behaviour/arithmetic_accuracy": "Share of the steps stated that are exactly true.",
    "behaviour/decomposed": "Share of products of more than one pair of digits that are broken down by the "
    "distributive rule: products of parts are stated for every pair.",
    "behaviour/decomposed_partly": "Share of those products of which some pairs of digits are multiplied, not all.",
}
"""What each metric means, with its unit."""

HIGHLIGHTS = {"behaviour/decomposed": "broken down"}

CHARTS = (
    Chart(
        "Products broken down",
        "Products taken apart by the distributive rule, wholly or in part.",
        (
            ("behaviour/decomposed", "broken down"),
            ("behaviour/decomposed_partly", "in part"),
        ),
        form="share",
    ),
    Chart(
        "Is its writing sound?",
        "Whether it can calculate.",
        (("behaviour/arithmetic_accuracy", "arithmetic that is true"),),
        form="share",
    ),
)
