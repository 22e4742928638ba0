"""Which curves are drawn, under which heading, and what is said of them. Only data: page/ draws it."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from tinyzero.run.glossary import define
from tinyzero.tasks.base import Task


class Line(NamedTuple):
    """One key of a stream: `steps` (metrics.jsonl), or `dev` and `test` (eval.jsonl by split).

    A `*` in the key stands for a name without slash; the label's `*` for the same name.
    """

    key: str
    label: str
    source: str = "steps"


class Chart(NamedTuple):
    """Lines over one axis. Of several runs the first line is drawn, until the reader picks another."""

    title: str
    says: str
    lines: tuple[Line, ...]
    form: str = "number"
    """How values are written: number, share, dollars, bytes."""
    least: int = 1
    """Fewer lines than this are not drawn."""
    band: bool = False
    """Whether the mean over neighbouring steps is drawn with its 95 % interval, by their scatter."""


def chart(title: str, says: str, *lines: Line | tuple[str, str], **more: Any) -> Chart:
    return Chart(title, says, tuple(Line(*line) for line in lines), **more)


SECTIONS: dict[str, tuple[str, str, list[Chart]]] = {
    "accuracy": (
        "Accuracy",
        "Does it get better? Bands are 95 % intervals: of dev and test, which are never trained on, over their "
        "problems; of training over neighbouring steps.",
        [
            chart(
                "Right answers",
                "Share of problems answered rightly. Dev is what recipes are tuned on; test is scored at both ends.",
                Line("pass@1", "dev, one answer", "dev"),
                Line("greedy", "dev, greedy", "dev"),
                Line("pass@1", "test, one answer", "test"),
                Line("accuracy", "training answers"),
                form="share",
                band=True,
            ),
            chart(
                "The best of several",
                "Share of dev problems that at least one of so many answers solves: what the model can reach at all.",
                Line("pass@*", "one of *", "dev"),
                form="share",
                least=2,
            ),
            chart(
                "Reward",
                "What the policy is paid: the answer's part, and every other part that the task names.",
                ("reward", "reward"),
                ("reward/answer", "for the answer"),
                ("reward/format", "well-formed"),
                ("reward/*", "*"),
                band=True,
            ),
        ],
    ),
    "length": (
        "Length of the thinking",
        "Nothing asks for long answers. Where right ones grow, thinking longer has paid.",
        [
            chart(
                "Tokens an answer",
                "Mean length of right and of wrong answers. Wrong ones that run into the limit pull their mean up.",
                ("response_length/right", "right"),
                ("response_length/wrong", "wrong"),
                ("response_length", "all"),
            ),
        ],
    ),
    "behaviours": (
        "What it does while it thinks",
        "Counted by rule in the text of every training answer; no model judges another.",
        [],  # `charts_of` the tasks
    ),
    "health": (
        "Is training healthy?",
        "Signs that the updates are neither too bold nor without effect.",
        [
            chart(
                "Entropy",
                "How open the next token is, in nats. Near zero, nothing new is tried.",
                ("entropy", ""),
            ),
            chart("KL", "How far the policy has moved from the frozen start, in nats.", ("kl", "")),
            chart(
                "Clipped tokens",
                "Share of tokens whose change was cut; zero when every batch is used once.",
                ("clip_fraction", ""),
                form="share",
            ),
            chart(
                "Gradient norm",
                "Before clipping. Spikes are bad batches; growth is trouble.",
                ("grad_norm", ""),
            ),
            chart(
                "Sampler against learner",
                "How far apart their log-probabilities of the same tokens are, in nats. Near zero they agree.",
                ("mismatch", "mean"),
            ),
            chart(
                "Weight of sampled tokens",
                "What makes up for that difference; 1 where there is nothing to make up for.",
                ("correction", "mean weight"),
            ),
            chart("Learning rate", "What the schedule gave.", ("learning_rate", "")),
            chart("Critic", "How well the value model foresees the reward.", ("value/*", "*")),
            chart(
                "Process reward model", "What gives PRIME a reward at every token.", ("prm/*", "*")
            ),
        ],
    ),
    "lessons": (
        "What there was to learn from",
        "A group whose answers all earn the same teaches nothing; a cut answer counts as wrong.",
        [
            chart(
                "Flat groups",
                "Share of groups in which every answer earned the same.",
                ("flat_groups", "flat"),
                form="share",
            ),
            chart(
                "Cut and malformed",
                "Share of answers cut at the token limit, and of those that ended without one that can be judged.",
                ("truncated", "cut"),
                ("malformed", "malformed"),
                form="share",
            ),
            chart(
                "Sampled in vain",
                "Groups that the algorithm did not keep, and how often it had to sample more to fill a batch.",
                ("dropped_groups", "dropped groups"),
                ("refill_rounds", "extra rounds"),
            ),
        ],
    ),
    "cost": (
        "Speed and cost",
        "What it took.",
        [
            chart(
                "Tokens a second",
                "Sampled tokens over the time of the whole step.",
                ("tokens/s", ""),
            ),
            chart(
                "Seconds a step",
                "Where the time goes.",
                ("time/step", "step"),
                ("time/sample", "sampling"),
                ("time/annotate", "scoring"),
                ("time/update", "learning"),
                ("time/publish", "publishing"),
            ),
            chart(
                "Peak memory",
                "Of the training process, and of PyTorch on the GPU.",
                ("memory/peak", "process"),
                ("memory/gpu_peak", "GPU"),
                form="bytes",
            ),
            chart(
                "Computation",
                "Floating-point operations since the run began.",
                ("flops", "so far"),
                ("time/flops_total", "in the end, at this pace"),
            ),
            chart(
                "GPU-hours",
                "Of one GPU.",
                ("time/gpu_hours", "so far"),
                ("time/gpu_hours_total", "in the end, at this pace"),
            ),
            chart(
                "Use of the GPU",
                "Of what its data sheet allows.",
                ("time/utilisation", "utilisation"),
                form="share",
            ),
            chart(
                "Dollars",
                "At the price that the run was given.",
                ("time/dollars", "so far"),
                ("time/dollars_total", "in the end, at this pace"),
                form="dollars",
            ),
        ],
    ),
}
"""By name: heading, what it is about, charts."""


def described(
    present: Mapping[str, Collection[str]], tasks: Sequence[Task] = ()
) -> list[dict[str, Any]]:
    """The sections as the page takes them: lines whose key is in its source's `present`, with the glossary's words.

    `tasks` are the bundled ones among those of the runs. They say how their own metrics are drawn.
    """
    glossary = {key: means for task in tasks for key, means in task.glossary.items()}
    found = []
    for name, (title, says, charts) in SECTIONS.items():
        chosen = charts_of(tasks, present["steps"]) if name == "behaviours" else charts
        drawn = [d for c in chosen if (d := drawn_chart(c, present, glossary))]
        if drawn:
            found.append({"name": name, "title": title, "says": says, "charts": drawn})
    return found


def drawn_chart(
    c: Chart, present: Mapping[str, Collection[str]], glossary: Mapping[str, str]
) -> dict[str, Any] | None:
    """A chart as the page takes it, or None if it has too few lines."""
    by_key: dict[tuple[str, str], Line] = {}
    for line in c.lines:
        for spelt in spell_out(line, present[line.source]):
            # what is named goes before what a * finds
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
    """How the metrics of several tasks are drawn: as each says it, and then what none of them draws."""
    by_title: dict[str, Chart] = {}
    for task in tasks:
        for own in task.charts:
            lines = tuple(Line(*line) for line in own.lines)
            before = by_title.get(own.title)
            more = before.lines if before else ()
            lines = (*more, *(line for line in lines if line not in more))
            by_title[own.title] = Chart(own.title, own.says, lines, form=own.form)
    named = {line.key for c in by_title.values() for line in c.lines}
    others = sorted(key for key in present if key.startswith("behaviour/") and key not in named)
    rest = [Line(key, key.removeprefix("behaviour/")) for key in others]
    return [*by_title.values(), Chart("As the task measures it", OWN, tuple(rest))]


def spell_out(line: Line, present: Collection[str]) -> list[Line]:
    """The lines that are there: none, the one, or each that a `*` stands for."""
    pattern = re.compile(re.escape(line.key).replace(r"\*", "([^/=]+)"))
    found = [match for key in present if key not in LEFT_OUT and (match := pattern.fullmatch(key))]
    if "*" in line.key:
        found.sort(key=lambda m: (len(m[1]), m[1]))  # 2 before 16
        return [line._replace(key=m[0], label=line.label.replace("*", m[1])) for m in found]
    return [line] if found else []


OWN = "What the task measures in the completions of a step, as a mean."

LEFT_OUT: dict[str, str] = {
    **dict.fromkeys(("step", "samples/generated", "time/elapsed"), "an axis"),
    **dict.fromkeys(("samples", "tokens", "version", "time/cpu"), "it goes up evenly"),
    **dict.fromkeys(("split", "n", "k", "temperature"), "how an evaluation was made"),
    **dict.fromkeys(("reward_errors", "skipped"), "an alarm tells it"),
    **dict.fromkeys(("grading/raised", "grading/timeout", "grading/ungraded"), "an alarm tells it"),
    **dict.fromkeys(
        (
            "problem",
            "prompt",
            "fields",
            "group",
            "text",
            "finish_reason",
            "parts",
            "right",
            "failure",
        ),
        "a sample shows it",
    ),
    **dict.fromkeys(
        ("pass@*/low", "pass@*/high", "greedy*/low", "greedy*/high"), "the band of a curve"
    ),
    **dict.fromkeys(("pass@*/*=*", "greedy/*=*"), "the kinds of problem tell it"),
    "reward/truncated": "the share of answers cut off, which has its curve",
    "loss": "its value says nothing of progress",
    "skipped_prompts": "the console says it once",
    "refused": "every group is flat then, which has its curve",
    "graded": "it stays the same in a run",
    "tokens/generated": "it is in the tokens a second, and in the length",
    "tokens/trained": "it is in the length",
}
"""What is measured and has no curve, and why."""

DERIVED = {"tokens/s": "Completion tokens sampled in the step, over its seconds of wall time."}
"""What the report itself makes of a step's record."""
