"""How pages and tables show Countdown: what its metrics mean, which are drawn, and what the marks in a text say."""

from __future__ import annotations

from tinyzero.tasks.base import Chart, Shortcut

GLOSSARY: dict[str, str] = {
    # docs/behaviours.md defines every word; a line is one of the compact grammar
    "behaviour/attempts": "Mean full attempts a completion: results that use exactly the given numbers.",
    "behaviour/distinct_attempts": "Mean attempts a completion that differ by more than the order of terms or factors.",
    "behaviour/repeat_rate": "Share of attempts that were already made in the same completion.",
    "behaviour/legal_rate": "Share of lines of steps that are full attempts. Compact grammar only.",
    "behaviour/arithmetic_accuracy": "Share of the steps stated that are exactly true.",
    "behaviour/verifications": "Mean verdicts a completion: a result is said to be the target, or not.",
    "behaviour/verification_precision": "Share of yes verdicts on a full attempt that truly hits the target.",
    "behaviour/verification_recall": "Share of the attempts that truly hit the target that get a yes.",
    "behaviour/misjudged": "Share of verdicts that are false: yes to what misses the target, no to what hits it.",
    "behaviour/verdict_rate": "Share of lines of steps that end in a verdict, yes or no. Compact grammar only.",
    "behaviour/target_restated": "Share of verdicts that restate the target rightly. Compact grammar only.",
    "behaviour/recognition_recall": "Share of the stated results equal to the target that get yes, among those judged. "
    "Compact grammar only.",
    "behaviour/false_claim_rate": "Share of the stated results unlike the target that get yes, among those judged. "
    "Compact grammar only.",
    "behaviour/backtracks": "Mean times a completion gives up a line of work for another.",
    "behaviour/backtracks_said": "Mean such turns that words announce, a completion (lexical backtracking).",
    "behaviour/backtracks_silent": "Mean such turns a completion that no word announces: the arithmetic does not go on "
    "from what missed (structural backtracking). All are in the compact grammar.",
    "behaviour/subgoals": "Mean intermediate goals a completion. Free text only.",
    "behaviour/subgoals_made": "Share of the intermediate goals that are made from the given numbers later on.",
    "behaviour/backward": "Mean sentences a completion that reason from the target. Free text only.",
    "behaviour/self_checked": "Share of completions that work out their solution once more.",
    "behaviour/found_rate": "Share of completions in which some attempt truly hits the target.",
    "behaviour/first_hit": "Mean number of the first attempt that truly hits, counted from 1, where one does.",
    "behaviour/first_hit_characters": "Mean characters up to the first attempt that truly hits, where one does.",
    "behaviour/characters_per_attempt": "Characters of thinking for each full attempt, over all completions; "
    "`response_length` over `behaviour/attempts` is the same in tokens, the answer's included.",
    "behaviour/continued_characters": "Mean characters of thinking after the first yes to an attempt that truly hits, "
    "where there is one.",
    "behaviour/early_hit_rate": "Share of the first three attempts of each completion that truly hit the target.",
    "behaviour/gave_up": "Share of completions that search, take nothing for a solution, and say so or answer.",
    "behaviour/direct": "Share of completions that answer without any arithmetic.",
    "behaviour/faithful": "Share of the answers that are an attempt taken for a solution, where one was.",
}
"""What each metric means, with its unit."""

HIGHLIGHTS = {"behaviour/attempts": "attempts"}

MARKS = {
    "attempt": "an attempt",
    "right": "an attempt that hits",
    "repeat": "an attempt made before",
    "verification": "a check against the target",
    "misjudged": "a check that is mistaken",
    "backtrack": "a new start",
    "step": "a calculation",
    "slip": "a calculation that is false",
    "subgoal": "a number to reach on the way",
    "backward": "reasoning from the target",
    "selfcheck": "a solution worked out again",
    "giveup": "giving up",
}
"""The kinds of event that a reader may ask for, in fewer words than `thinking.KINDS`."""

SHORTCUT = Shortcut("operators", "+-", "+ and − alone")

CHARTS = (
    Chart(
        "Attempts",
        "Full attempts at the problem in one answer: more of them, and different ones, is search.",
        (
            ("behaviour/attempts", "attempts"),
            ("behaviour/distinct_attempts", "different ones"),
            ("behaviour/first_hit", "the first that hits"),
        ),
    ),
    Chart(
        "Checks and new starts",
        "How often in one answer it compares a result with the target, and gives up one way for another.",
        (
            ("behaviour/verifications", "checks"),
            ("behaviour/backtracks", "new starts"),
            ("behaviour/subgoals", "subgoals"),
            ("behaviour/backward", "steps back from the target"),
            ("behaviour/backtracks_said", "new starts said"),
            ("behaviour/backtracks_silent", "new starts made"),
        ),
    ),
    Chart(
        "Does the search find it?",
        "Whether some attempt hits, and how soon; whether the answer is what the search came to.",
        (
            ("behaviour/found_rate", "some attempt hits"),
            ("behaviour/early_hit_rate", "of the first three attempts"),
            ("behaviour/faithful", "answers that were found so"),
            ("behaviour/self_checked", "worked out once more"),
            ("behaviour/subgoals_made", "subgoals that are made"),
        ),
        form="share",
    ),
    Chart(
        "Characters of thinking",
        "How much it writes before the first attempt that hits, for each attempt, and after a true yes.",
        (
            ("behaviour/first_hit_characters", "to the first hit"),
            ("behaviour/characters_per_attempt", "an attempt"),
            ("behaviour/continued_characters", "after a true yes"),
        ),
    ),
    Chart(
        "Can its checks be trusted?",
        "Whether its yes is true, whether it sees a hit when it has one, and how often its verdict is false.",
        (
            ("behaviour/verification_precision", "yes that is true"),
            ("behaviour/verification_recall", "hits seen"),
            ("behaviour/misjudged", "verdicts that are false"),
        ),
        form="share",
    ),
    Chart(
        "Does it know the target?",
        "What it says of results that equal the target, and of those that do not. Compact grammar only.",
        (
            ("behaviour/recognition_recall", "the target, and yes"),
            ("behaviour/false_claim_rate", "another, and yes"),
            ("behaviour/target_restated", "restated rightly"),
        ),
        form="share",
    ),
    Chart(
        "Is its writing sound?",
        "Whether it can calculate, and whether its lines are full attempts that end in a verdict.",
        (
            ("behaviour/arithmetic_accuracy", "arithmetic that is true"),
            ("behaviour/legal_rate", "lines that are attempts"),
            ("behaviour/verdict_rate", "lines with a verdict"),
        ),
        form="share",
    ),
    Chart(
        "Search gone wrong",
        "Attempts made twice, answers without any search, and searches given up without a yes.",
        (
            ("behaviour/repeat_rate", "repeated attempts"),
            ("behaviour/direct", "answers without search"),
            ("behaviour/gave_up", "given up"),
        ),
        form="share",
    ),
)
