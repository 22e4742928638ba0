"""A probe's estimate equals a sum over the beta distribution, and it keeps to its time."""

import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from helpers import refused

from tinyzero import cli
from tinyzero.errors import UserError
from tinyzero.rollouts import Player, Tally
from tinyzero.samplers.scripted import ScriptedSampler
from tinyzero.tasks import load_task
from tinyzero.tools import probe
from tinyzero.types import Group, Problem, SamplingParams

SUMS = Path(__file__).with_name("own_sums.py")


def encode(text: str) -> list[int]:
    return list(text.encode())


def decode(ids: Sequence[int]) -> str:
    return bytes(ids).decode()


def player(right_of: dict[int, int]) -> Player:
    """Answers problem i rightly in `right_of[i % len]` of 8 samples; the others are endless."""
    task = load_task(f"{SUMS}:Sums")
    numbers: dict[str, int] = {}

    def script(prompt: str, sample: int) -> str:
        number = numbers.setdefault(prompt, len(numbers)) % len(right_of)
        left, right = prompt.removesuffix("=").split("+")
        return str(int(left) + int(right)) if sample < right_of[number] else "9" * 99

    sampler = ScriptedSampler(script, encode, decode)
    return Player(task, sampler, lambda prompt: encode(str(prompt)), "base")


def test_the_expected_share_is_that_of_the_beta_distribution() -> None:
    right, size = [0, 1, 1, 2, 5, 8], 12
    mean = sum(right) / (8 * len(right))
    square = sum(count * (count - 1) for count in right) / (56 * len(right))
    weight = mean * (1 - mean) / (square - mean**2) - 1

    rng = random.Random(0)
    chances = [rng.betavariate(mean * weight, (1 - mean) * weight) for _ in range(200_000)]
    drawn = sum(1 - p**size - (1 - p) ** size for p in chances) / len(chances)
    assert probe.expected_mixed(right, 8, size) == pytest.approx(drawn, abs=0.005)


def test_without_spread_every_problem_has_the_same_chance() -> None:
    assert probe.expected_mixed([2, 2, 2], 8, 4) == pytest.approx(1 - 0.25**4 - 0.75**4)
    assert probe.expected_mixed([0, 0], 8, 16) == 0
    assert probe.expected_mixed([8, 8], 8, 16) == 0
    assert probe.expected_mixed([8, 0, 0], 8, 16) == 0


def test_a_probe_measures_what_the_model_does() -> None:
    params = SamplingParams(max_tokens=5)
    problems, sampled, tally = probe.sample_in_time(player({0: 8, 1: 0, 2: 4}), params, 1e9)
    assert [part.temperature for part in sampled] == [0.6, 0.8, 1.0]
    assert len(problems) == len({problem.id for problem in problems}) <= probe.MOST_PROBLEMS
    assert {problem.split for problem in problems} == {"dev"}
    assert tally.failed == 0

    starts = probe.starts_of(player({0: 1}), problems, sampled, 16)
    counts = [(8, 0, 4)[i % 3] for i in range(len(problems))]
    for start in starts:
        assert start.figures["pass@1"] == pytest.approx(sum(counts) / (8 * len(counts)))
        assert start.figures["pass@8"] == pytest.approx(sum(c > 0 for c in counts) / len(counts))
        assert start.figures["truncated"] == pytest.approx(1 - start.figures["pass@1"])
        assert start.mixed == probe.expected_mixed(counts, 8, 16)
    heading, *rows = probe.table(starts, 16)
    assert heading.split()[-3:] == ["mixed", "of", "16"]
    assert "ended" in heading, "the task says nothing about form"
    assert len(rows) == 3


def slow_player(seconds: float) -> Player:
    """Every call takes `seconds` per problem."""
    slow = player({0: 0})
    play = slow.play

    def slowly(
        problems: Sequence[Problem], params: SamplingParams, first: int, tally: Tally
    ) -> list[Group]:
        for _ in range(round(1000 * seconds * len(problems))):
            time.sleep(0.001)
        return play(problems, params, first, tally)

    slow.play = slowly  # type: ignore[method-assign]
    return slow


def test_a_probe_keeps_to_its_time() -> None:
    seen: list[int] = []
    started = time.perf_counter()
    problems, sampled, _ = probe.sample_in_time(
        slow_player(0.02), SamplingParams(max_tokens=5), 0.6, lambda done, _: seen.append(done)
    )
    assert time.perf_counter() - started < 1
    assert seen[-1] == len(problems) < probe.MOST_PROBLEMS
    assert [len(part.groups) for part in sampled] == [len(problems)] * 3


def test_a_model_that_is_too_slow_for_one_problem_is_interrupted() -> None:
    before = signal.getsignal(signal.SIGALRM)
    started = time.perf_counter()
    with pytest.raises(UserError) as rejected:
        probe.sample_in_time(slow_player(60.0), SamplingParams(max_tokens=5), 0.2)
    assert time.perf_counter() - started < 1
    assert str(rejected.value) == (
        "no problem was answered in 0:00, with 8 answers of up to 5 tokens at each of 3 "
        "temperatures: lower --max-tokens, or give more --minutes"
    )
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def start(mixed: float, pass_1: float, cut: float = 0.0, temperature: float = 1.0) -> probe.Start:
    return probe.Start(temperature, {"pass@1": pass_1, "truncated": cut}, mixed)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (start(0.5, 0.1), "training can start here: about 50% of the groups of 8"),
        (start(0.2, 0.05), "training may start slowly"),
        (start(0.0, 0.0), "training cannot start here: only about 0% of the groups of 8"),
        (start(0.05, 0.95), "there is little left to learn"),
    ],
)
def test_the_verdict_follows_from_the_share_of_mixed_groups(found: probe.Start, said: str) -> None:
    (line,) = probe.verdict(found, 20, 8, 12, ["max_number"])
    assert line.startswith(said)
    assert ("(--task.max_number)" in line) == (found.mixed < 0.3 and found.figures["pass@1"] < 0.8)


def test_a_verdict_says_that_answers_are_cut() -> None:
    _, cut = probe.verdict(start(0.5, 0.1, cut=0.81), 20, 8, 12, [])
    assert cut == "81% of the answers are cut at 12 tokens: compare with --max-tokens 24"


def test_few_problems_are_no_verdict() -> None:
    (line,) = probe.verdict(start(0.0, 0.0), 1, 8, 12, [])
    assert line == "only 1 problem was answered, which is too few to tell: give more --minutes"


def test_the_best_start_has_many_mixed_groups_few_cut_answers_and_the_usual_temperature() -> None:
    few, cut, usual, other = (
        start(0.2, 0.1, temperature=0.6),
        start(0.55, 0.1, cut=0.8, temperature=1.0),
        start(0.5, 0.1, temperature=0.8),
        start(0.52, 0.1, temperature=0.6),
    )
    assert probe.best_of([few, cut, usual, other], usual=1.0) is usual


def test_a_probe_of_an_own_task_without_options_prints_a_command(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--task", f"{SUMS}:Sums", "--model.prompt", "base", "--max-tokens", "3"]
    assert cli.main(["probe", str(base), *words, "--minutes", "1"]) == 0
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines()[1:-1])) <= 80, "only names may be longer"
    assert "training cannot start here" in said
    command = said.splitlines()[-1]
    assert command.startswith("  tinyzero train ")
    assert f"--model.name {base}" in command
    assert f"--task {SUMS}:Sums" in command
    assert "--rollout.max_tokens 3" in command

    assert "unknown option" in refused(capsys, "probe", base, "--optimizer.learning_rate", "1")
