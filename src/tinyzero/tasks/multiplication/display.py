"""How pages and tables show multiplication: the meaning of its metrics, and its charts."""

from __future__ import annotations

from tinyzero.tasks.base import Chart

GLOSSARY: dict[str, str] = {
    "behaviour/arithmetic_accuracy": "Share of the written calculations that are exactly true.",
    "behaviour/decomposed": "Share of completions that break the product down in full into smaller "
    "products, such as 47*36 into 40*36 and 7*36. A digit times a digit does not count.",
    "behaviour/decomposed_partly": "Share of the same completions that multiply some pairs of "
    "digits, but not all of them.",
}
"""The meaning of each metric, with its unit."""

HIGHLIGHTS = {"behaviour/decomposed": "broken down"}

CHARTS = (
    Chart(
        "Products broken down",
        "How often a product is broken down into smaller products, in full or in part.",
        (
            ("behaviour/decomposed", "broken down"),
            ("behaviour/decomposed_partly", "in part"),
        ),
        form="share",
    ),
    Chart(
        "Is its writing sound?",
        "Whether it calculates correctly.",
        (("behaviour/arithmetic_accuracy", "arithmetic that is true"),),
        form="share",
    ),
)
