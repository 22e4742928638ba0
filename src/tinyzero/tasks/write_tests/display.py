"""How pages and tables show `write-tests`: the meaning of its metrics, and its charts."""

from __future__ import annotations

from tinyzero.tasks.base import Chart

GLOSSARY: dict[str, str] = {
    "reward/true": "Share of completions whose tests are all true of the function.",
    "behaviour/tests": "Mean number of tests per completion, over those whose tests can be read.",
    "behaviour/tests_true": "Share of the tests that are true of the function.",
    "behaviour/tests_repeated": "Share of the tests that repeat an input.",
    "behaviour/boundary_caught": "Share of the mutants with another number in a condition that a "
    "true test catches. Such a mutant mostly differs for a single input.",
    "behaviour/value_caught": "Share of the mutants with another number in a value that a true "
    "test catches. Nearly every input of the branch shows them.",
    "behaviour/guessed": "Share of completions that work nothing out before they answer. "
    "Compact grammar only.",
    "behaviour/steps_true": "Share of the comparisons and calculations in the thinking that are "
    "true. Compact grammar only.",
}
"""The meaning of each metric, with its unit."""

HIGHLIGHTS = {"behaviour/boundary_caught": "boundaries"}

MARKS = {
    "boundary": "a true test that catches a mutant of a condition",
    "test": "another true test",
    "false": "a test that is false",
}
"""The kinds of event that the report shows."""

CHARTS = (
    Chart(
        "Bugs that the tests catch",
        "Mutants with another number in a condition, which show for few inputs, and in a value.",
        (
            ("behaviour/boundary_caught", "in a condition"),
            ("behaviour/value_caught", "in a value"),
        ),
        form="share",
    ),
    Chart(
        "Tests per answer",
        "How many tests an answer has.",
        (("behaviour/tests", "tests"),),
    ),
    Chart(
        "Are its tests sound?",
        "Whether tests are true, repeat an input, and are worked out before they are written.",
        (
            ("behaviour/tests_true", "tests that are true"),
            ("behaviour/tests_repeated", "repeated inputs"),
            ("behaviour/guessed", "answers without any work"),
            ("behaviour/steps_true", "steps that are true"),
        ),
        form="share",
    ),
)
