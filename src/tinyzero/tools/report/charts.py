"""Which curves the page draws, under which headings and with which explanations. Only data."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from tinyzero.run.glossary import define
from tinyzero.tasks.base import Task


class Line(NamedTuple):
    """One key of a source: `steps` (metrics.jsonl), or `dev` and `test` (eval.jsonl by split).

    A `*` in the key stands for any name without a slash, and a `*` in the label for that same name.
    """

    key: str
    label: str
    source: str = "steps"


class Chart(NamedTuple):
    """Lines over one axis. With several runs, the reader chooses the line that is drawn."""

    title: str
    says: str
    lines: tuple[Line, ...]
    form: str = "number"
    """How values are written: number, share, dollars, bytes."""
    least: int = 1
    """The chart is left out if it has fewer lines than this."""
    band: bool = False
    """Whether the mean over neighbouring steps has a band: its 95 % interval."""


def chart(title: str, says: str, *lines: Line | tuple[str, str], **more: Any) -> Chart:
    """A chart of lines, or of (key, label) pairs from metrics.jsonl."""
    return Chart(title, says, tuple(Line(*line) for line in lines), **more)


SECTIONS: dict[str, tuple[str, str, list[Chart]]] = {
    "accuracy": (
        "Accuracy",
        "Does it get better? Bands are 95 % intervals. For dev and test, whose problems are never "
        "trained on, they are over problems; for training they are over neighbouring steps.",
        [
            chart(
                "Right answers",
                "Share of answers that are right. Dev is what recipes are tuned on. Test is "
                "evaluated before and after training.",
                Line("pass@1", "dev, one answer", "dev"),
                Line("greedy", "dev, greedy", "dev"),
                Line("pass@1", "test, one answer", "test"),
                Line("accuracy", "training answers"),
                form="share",
                band=True,
            ),
            chart(
                "The best of several answers",
                "Share of dev problems that at least one of several answers solves: what the "
                "model can reach at best.",
                Line("pass@*", "one of *", "dev"),
                form="share",
                least=2,
            ),
            chart(
                "Reward",
                "What is optimized: the reward for the answer, and any other part that the task "
                "defines.",
                ("reward", "reward"),
                ("reward/answer", "for the answer"),
                ("reward/format", "well-formed"),
                ("reward/*", "*"),
                band=True,
            ),
        ],
    ),
    "length": (
        "Length of the answers",
        "Nothing rewards long answers. If the right ones grow, longer thinking has paid off.",
        [
            chart(
                "Tokens per answer",
                "Mean length of right and of wrong answers. Wrong answers that reach the token "
                "limit raise the mean of the wrong ones.",
                ("response_length/right", "right"),
                ("response_length/wrong", "wrong"),
                ("response_length", "all"),
            ),
        ],
    ),
    "tasks": (
        "Tasks and levels",
        "A mixture has a curve for each of its tasks, and a curriculum has its levels.",
        [
            chart(
                "Right answers per task",
                "Share of training answers that are right.",
                ("accuracy/task=*", "*"),
                form="share",
            ),
            chart("Reward per task", "What is optimized, for each task.", ("reward/task=*", "*")),
            chart(
                "Tokens per answer, per task",
                "Mean length of the answers.",
                ("response_length/task=*", "*"),
            ),
            chart(
                "Answers cut off, per task",
                "Share of answers that reach the token limit.",
                ("truncated/task=*", "*"),
                form="share",
            ),
            chart(
                "Groups per task",
                "How many groups of each task a step trains on. Too few mean that its problems are "
                "too easy or too hard.",
                ("groups/task=*", "*"),
            ),
            chart(
                "Groups dropped per task",
                "Groups that were sampled but teach nothing, and the extra rounds that replace "
                "them.",
                ("dropped_groups/task=*", "dropped: *"),
                ("refill_rounds/task=*", "extra rounds: *"),
            ),
            chart(
                "Level",
                "The level of the problems that the curriculum draws.",
                ("curriculum/level", "level"),
                ("curriculum/level/task=*", "*"),
            ),
            chart(
                "What moves the level",
                "Share of right answers among all that were sampled. A cut answer counts as wrong.",
                ("curriculum/accuracy", "right answers"),
                ("curriculum/accuracy/task=*", "*"),
                form="share",
            ),
        ],
    ),
    "behaviours": (
        "What it does while it thinks",
        "Counted by rules in the text of every training answer. No model is used as a judge.",
        [],  # see `charts_of`
    ),
    "health": (
        "Is training healthy?",
        "Signs of updates that are too large, or that change nothing.",
        [
            chart(
                "Entropy",
                "How uncertain the policy is about the next token, in nats. Near zero, it no "
                "longer explores.",
                ("entropy", ""),
            ),
            chart(
                "KL divergence",
                "How far the policy has moved from the frozen initial model, in nats.",
                ("kl", ""),
            ),
            chart(
                "Clipped tokens",
                "Share of tokens whose change was clipped. It is zero if every batch is used once.",
                ("clip_fraction", ""),
                form="share",
            ),
            chart(
                "Gradient norm",
                "Before clipping. A spike is an unusual batch; steady growth is a bad sign.",
                ("grad_norm", ""),
            ),
            chart(
                "Sampler against learner",
                "How far apart their log-probabilities of the same tokens are, in nats. Near zero "
                "they agree.",
                ("mismatch", "mean"),
            ),
            chart(
                "Weight of sampled tokens",
                "The weight that corrects for that difference. It is 1 if there is nothing to "
                "correct.",
                ("correction", "mean weight"),
            ),
            chart(
                "Learning rate", "The learning rate that the schedule sets.", ("learning_rate", "")
            ),
            chart("Critic", "How well the value model predicts the reward.", ("value/*", "*")),
            chart(
                "Process reward model",
                "The model that gives PRIME a reward for every token.",
                ("prm/*", "*"),
            ),
        ],
    ),
    "lessons": (
        "How much there is to learn from",
        "A group whose answers all have the same reward teaches nothing. A cut answer counts as "
        "wrong.",
        [
            chart(
                "Groups with equal rewards",
                "Share of groups in which every answer has the same reward.",
                ("flat_groups", "equal rewards"),
                form="share",
            ),
            chart(
                "Cut and malformed answers",
                "Share of answers cut at the token limit, and of answers that ended in a form that "
                "cannot be judged.",
                ("truncated", "cut"),
                ("malformed", "malformed"),
                form="share",
            ),
            chart(
                "Groups that were not used",
                "Groups that the algorithm dropped, and how often it sampled again to fill a "
                "batch.",
                ("dropped_groups", "dropped groups"),
                ("refill_rounds", "extra rounds of sampling"),
            ),
        ],
    ),
    "cost": (
        "Speed and cost",
        "Time, memory and computation.",
        [
            chart(
                "Tokens per second",
                "Sampled tokens divided by the time of sampling.",
                ("tokens/s", ""),
            ),
            chart(
                "Seconds per step",
                "Where the time goes.",
                ("time/step", "step"),
                ("time/sample", "sampling"),
                ("time/annotate", "scoring"),
                ("time/update", "learning"),
                ("time/publish", "publishing"),
            ),
            chart(
                "Peak memory",
                "The highest so far in this run, of the training process and of PyTorch on the "
                "GPU.",
                ("memory/peak", "process"),
                ("memory/gpu_peak", "GPU"),
                form="bytes",
            ),
            chart(
                "Computation",
                "Floating-point operations since the run began.",
                ("flops", "so far"),
                ("time/flops_total", "at the end, at this pace"),
            ),
            chart(
                "GPU-hours",
                "Hours of one GPU.",
                ("time/gpu_hours", "so far"),
                ("time/gpu_hours_total", "at the end, at this pace"),
            ),
            chart(
                "Use of the GPU",
                "Share of the speed in its data sheet.",
                ("time/utilisation", "utilisation"),
                form="share",
            ),
            chart(
                "Dollars",
                "At the price that the run was given.",
                ("time/dollars", "so far"),
                ("time/dollars_total", "at the end, at this pace"),
                form="dollars",
            ),
        ],
    ),
}
"""By name: heading, what it is about, charts."""


def described(
    present: Mapping[str, Collection[str]], tasks: Sequence[Task] = ()
) -> list[dict[str, Any]]:
    """The sections as the page takes them: the charts whose keys are `present`, by source.

    `tasks` are the bundled tasks of the runs. They say how their own metrics are drawn.
    """
    glossary = {key: means for task in tasks for key, means in task.glossary.items()}
    sections = []
    for name, (title, says, charts) in SECTIONS.items():
        if name == "behaviours":
            charts = charts_of(tasks, present["steps"])
        drawn = [drawing for c in charts if (drawing := drawn_chart(c, present, glossary))]
        if drawn:
            sections.append({"name": name, "title": title, "says": says, "charts": drawn})
    return sections


def drawn_chart(
    c: Chart, present: Mapping[str, Collection[str]], glossary: Mapping[str, str]
) -> dict[str, Any] | None:
    """A chart as the page takes it, or None if it has too few lines."""
    by_key: dict[tuple[str, str], Line] = {}
    for line in c.lines:
        for spelt in spell_out(line, present[line.source]):
            # a line with its own label goes before one that a * matches
            by_key.setdefault((spelt.source, spelt.key), spelt)
    lines = list(by_key.values())
    if len(lines) < c.least:
        return None

    return {
        "title": c.title,
        "says": c.says,
        "form": c.form,
        "band": c.band,
        "lines": [line._asdict() | {"label": line.label or c.title} for line in lines],
        "means": {
            line.key: DERIVED.get(line.key) or define(line.key, glossary) or OWN for line in lines
        },
    }


def charts_of(tasks: Sequence[Task], present: Collection[str]) -> list[Chart]:
    """The charts of the tasks' own metrics: those that the tasks define, then one for the rest."""
    by_title: dict[str, Chart] = {}
    for task in tasks:
        for own in task.charts:
            earlier = by_title[own.title].lines if own.title in by_title else ()
            new = [line for line in (Line(*pair) for pair in own.lines) if line not in earlier]
            by_title[own.title] = Chart(own.title, own.says, (*earlier, *new), form=own.form)

    drawn = {line.key for c in by_title.values() for line in c.lines}
    others = sorted(key for key in present if key.startswith("behaviour/") and key not in drawn)
    rest = tuple(Line(key, key.removeprefix("behaviour/")) for key in others)
    return [*by_title.values(), Chart("Other measurements of the task", OWN, rest)]


def spell_out(line: Line, present: Collection[str]) -> list[Line]:
    """The lines that exist: none, the line itself, or one for each name that a `*` matches."""
    pattern = re.compile(re.escape(line.key).replace(r"\*", "([^/=]+)"))
    matches = [pattern.fullmatch(key) for key in present if key not in LEFT_OUT]
    matched = [match for match in matches if match]
    if "*" not in line.key:
        return [line] if matched else []

    matched.sort(key=lambda match: (len(match[1]), match[1]))  # 2 before 16
    return [
        line._replace(key=match[0], label=line.label.replace("*", match[1])) for match in matched
    ]


OWN = "What the task measures in the completions of a step, as a mean."

LEFT_OUT: dict[str, str] = {
    **dict.fromkeys(("step", "samples/generated", "time/elapsed"), "it is an axis"),
    "time/elapsed_total": "the page says how much time is left",
    **dict.fromkeys(("samples", "tokens", "version", "time/cpu"), "it rises evenly"),
    **dict.fromkeys(("split", "n", "k", "temperature"), "it says how an evaluation was made"),
    **dict.fromkeys(("max_tokens", "problems", "right", "clusters"), "runs are compared by it"),
    **dict.fromkeys(("reward_errors", "skipped"), "an alarm reports it"),
    **dict.fromkeys(("sampler/graphs", "sampler/attention"), "the console says so if it is 0"),
    **dict.fromkeys(
        ("grading/raised", "grading/timeout", "grading/ungraded"), "an alarm reports it"
    ),
    **dict.fromkeys(
        (
            "problem",
            "prompt",
            "fields",
            "group",
            "text",
            "environment",
            "finish_reason",
            "parts",
            "failure",
        ),
        "a written answer shows it",
    ),
    **dict.fromkeys(
        ("pass@*/low", "pass@*/high", "greedy*/low", "greedy*/high"), "it is the band of a curve"
    ),
    **dict.fromkeys(("pass@*/*=*", "greedy/*=*"), "the table by type of problem shows it"),
    **dict.fromkeys(("accuracy/task=*/low", "accuracy/task=*/high"), "evaluations show intervals"),
    "reward/truncated": "it is the share of answers cut off, which has a curve",
    "loss": "its value says nothing about progress",
    "skipped_prompts": "the console reports it once",
    "refused": "every group has equal rewards then, which has a curve",
    "graded": "it stays the same in a run",
    "tokens/generated": "it is in the tokens per second and in the length",
    "tokens/trained": "it is in the length",
    **dict.fromkeys(("turns", "environment_tokens"), "a written answer shows its turns"),
}
"""What is recorded but not drawn, and why."""

DERIVED = {"tokens/s": "Completion tokens sampled in the step, divided by the seconds of sampling."}
"""What the report itself computes from a step's record."""
