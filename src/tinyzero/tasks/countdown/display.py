"""How pages and tables show Countdown: the meaning of its metrics, its charts, and its marks."""

from __future__ import annotations

from tinyzero.tasks.base import Chart, Shortcut

GLOSSARY: dict[str, str] = {
    # docs/behaviours.md defines every word. "Compact grammar" is how the tiny bases write.
    "behaviour/attempts": "Mean number of attempts per completion. "
    "An attempt is a result that uses each given number exactly once.",
    "behaviour/distinct_attempts": "Mean number of different attempts per completion. "
    "Attempts that only reorder terms or factors are the same.",
    "behaviour/repeat_rate": "Share of attempts that the same completion has made before.",
    "behaviour/legal_rate": "Share of lines of steps that are attempts: they use each given number "
    "exactly once. Compact grammar only.",
    "behaviour/arithmetic_accuracy": "Share of the written calculations that are exactly true.",
    "behaviour/verifications": "Mean number of verdicts per completion. "
    "A verdict says that a result is the target, or that it is not.",
    "behaviour/verification_precision": "Share of the yes verdicts that are true: "
    "what they judge is an attempt that equals the target.",
    "behaviour/verification_recall": "Share of the attempts equal to the target that get a yes.",
    "behaviour/misjudged": "Share of verdicts that are false: "
    "a yes to a result that misses the target, or a no to one that equals it.",
    "behaviour/verdict_rate": "Share of lines of steps that end in a verdict, yes or no. "
    "Compact grammar only.",
    "behaviour/target_restated": "Share of verdicts that repeat the target correctly. "
    "Compact grammar only.",
    "behaviour/recognition_recall": "Share of the judged results written as the target that get a "
    "yes. Compact grammar only.",
    "behaviour/false_claim_rate": "Share of the judged results written as another number that get "
    "a yes. Compact grammar only.",
    "behaviour/backtracks": "Mean number of times per completion that one line of work is given up "
    "for another.",
    "behaviour/backtracks_said": "Mean number of backtracks per completion that words announce, "
    'such as "let\'s try another" (lexical backtracking).',
    "behaviour/backtracks_silent": "Mean number of backtracks per completion without such words: "
    "after a miss, the arithmetic starts again (structural backtracking). "
    "In the compact grammar all backtracks are silent.",
    "behaviour/subgoals": "Mean number of intermediate goals per completion, such as "
    '"I need to get 8". Free text only.',
    "behaviour/subgoals_made": "Share of the intermediate goals that are later made from the given "
    "numbers.",
    "behaviour/backward": "Mean number of sentences per completion that reason from the target. "
    "Free text only.",
    "behaviour/self_checked": "Share of completions that work out their solution a second time.",
    "behaviour/found_rate": "Share of completions in which some attempt equals the target.",
    "behaviour/first_hit": "Mean number of the first attempt that equals the target, from 1, "
    "over the completions that have one.",
    "behaviour/first_hit_characters": "Mean number of characters up to the first attempt that "
    "equals the target, over the completions that have one.",
    "behaviour/characters_per_attempt": "Characters of thinking per attempt, over all completions. "
    "`response_length` divided by `behaviour/attempts` is the same in tokens, with the answer.",
    "behaviour/continued_characters": "Mean number of characters of thinking after the first "
    "true yes, over the completions that have one.",
    "behaviour/early_hit_rate": "Share of the first three attempts per completion that equal the "
    "target.",
    "behaviour/gave_up": "Share of completions that search, accept nothing as a solution, and "
    "say so or answer anyway.",
    "behaviour/direct": "Share of completions that answer without any arithmetic before it.",
    "behaviour/faithful": "Share of answers that the thinking had accepted as a solution, "
    "over the completions that accepted one.",
}
"""The meaning of each metric, with its unit."""

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
"""The kinds of event that the report shows, in fewer words than `thinking.KINDS`."""

SHORTCUT = Shortcut("operators", "+-", "+ and − alone")

CHARTS = (
    Chart(
        "Attempts",
        "Full attempts per answer. More of them, and more different ones, mean more search.",
        (
            ("behaviour/attempts", "attempts"),
            ("behaviour/distinct_attempts", "different ones"),
            ("behaviour/first_hit", "the first that hits"),
        ),
    ),
    Chart(
        "Checks and new starts",
        "How often an answer compares a result with the target, and how often it starts again. "
        "In free text of an untrained real model, the rules find about 0.13 per answer that are "
        "not there.",
        (
            ("behaviour/verifications", "checks"),
            ("behaviour/backtracks", "new starts"),
            ("behaviour/subgoals", "subgoals"),
            ("behaviour/backward", "steps back from the target"),
            ("behaviour/backtracks_said", "announced new starts"),
            ("behaviour/backtracks_silent", "silent new starts"),
        ),
    ),
    Chart(
        "Does the search succeed?",
        "If an attempt hits the target, how soon, and if the answer is a solution that was found.",
        (
            ("behaviour/found_rate", "some attempt hits"),
            ("behaviour/early_hit_rate", "of the first three attempts"),
            ("behaviour/faithful", "answers found in the thinking"),
            ("behaviour/self_checked", "solutions worked out again"),
            ("behaviour/subgoals_made", "subgoals reached"),
        ),
        form="share",
    ),
    Chart(
        "Characters of thinking",
        "How much it writes before the first attempt that hits, per attempt, and after a true yes.",
        (
            ("behaviour/first_hit_characters", "to the first hit"),
            ("behaviour/characters_per_attempt", "per attempt"),
            ("behaviour/continued_characters", "after a true yes"),
        ),
    ),
    Chart(
        "Can its checks be trusted?",
        "Whether a yes is true, whether a hit is recognised, and how often a verdict is false.",
        (
            ("behaviour/verification_precision", "yes that is true"),
            ("behaviour/verification_recall", "hits recognised"),
            ("behaviour/misjudged", "verdicts that are false"),
        ),
        form="share",
    ),
    Chart(
        "Does it know the target?",
        "What it says about results that equal the target, and about others. Compact grammar only.",
        (
            ("behaviour/recognition_recall", "yes to the target"),
            ("behaviour/false_claim_rate", "yes to another number"),
            ("behaviour/target_restated", "target restated correctly"),
        ),
        form="share",
    ),
    Chart(
        "Is its writing sound?",
        "Whether it calculates correctly, and its lines are attempts that end in a verdict.",
        (
            ("behaviour/arithmetic_accuracy", "arithmetic that is true"),
            ("behaviour/legal_rate", "lines that are attempts"),
            ("behaviour/verdict_rate", "lines with a verdict"),
        ),
        form="share",
    ),
    Chart(
        "Search gone wrong",
        "Attempts made twice, answers without any search, and searches that end without a yes.",
        (
            ("behaviour/repeat_rate", "repeated attempts"),
            ("behaviour/direct", "answers without search"),
            ("behaviour/gave_up", "given up"),
        ),
        form="share",
    ),
)
