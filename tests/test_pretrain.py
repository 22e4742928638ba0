"""The corpora are correct and leak nothing; pretraining resumes exactly and lowers its loss."""

import os
import random
import re
import signal
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from tinyzero import models
from tinyzero.errors import NonFiniteError, UserError
from tinyzero.grading.answers import extract_answer
from tinyzero.grading.arithmetic import evaluate_expression
from tinyzero.registry import validate
from tinyzero.run import checkpoint
from tinyzero.tasks import corpora
from tinyzero.tasks.arithmetic.expressions import Step
from tinyzero.tasks.countdown import corpus
from tinyzero.tasks.countdown.corpus import CorpusOptions, tries
from tinyzero.tasks.countdown.question import prompt as countdown_prompt
from tinyzero.tasks.countdown.task import split_of
from tinyzero.tasks.multiplication import corpus as products
from tinyzero.tasks.multiplication import task as multiplication
from tinyzero.tasks.multiplication import thinking
from tinyzero.tasks.multiplication.corpus import ProductsOptions
from tinyzero.tools.pretrain import base
from tinyzero.tools.pretrain.base import PretrainOptions, pretrain
from tinyzero.tools.pretrain.muon import Muon, orthogonalise

STEP = re.compile(r"(\d+)([-+*/])(\d+)=(\d+)")
OPTIONS = [
    CorpusOptions(),
    CorpusOptions(four_numbers=0.5, long=0.5, guesses=0.1),
    CorpusOptions(jumps=0, drills=0),
]


def documents(o: CorpusOptions, count: int = 400) -> Iterator[tuple[str, str]]:
    rng = random.Random("documents")
    for _ in range(count):
        prompt, text = corpus.document(rng, o)
        assert text.endswith(corpora.END)
        yield prompt, text.removesuffix(corpora.END)


def question(prompt: str) -> tuple[int, list[int]]:
    target, *numbers = prompt.removesuffix("\n<think>\n").replace(" from ", " ").split()
    return int(target), [int(n) for n in numbers]


@pytest.mark.parametrize("o", OPTIONS, ids=["default", "long", "no jumps"])
def test_every_result_and_every_verdict_is_true(o: CorpusOptions) -> None:
    steps = verdicts = claims = 0
    for _, text in documents(o):
        for a, operator, b, result in STEP.findall(text):
            value = {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}.get(operator)
            assert (
                Fraction(int(a), int(b)) == int(result) if operator == "/" else value == int(result)
            ), text
            assert 0 < int(result) <= o.max_target
            steps += 1
        for line in text.split("\n"):
            if judged := re.fullmatch(r"(?:.*=)?(\d+) vs (\d+) (yes|no)", line):
                assert (judged[1] == judged[2]) == (judged[3] == "yes"), line
                verdicts += 1
                claims += judged[3] == "yes"
            else:
                assert " vs " not in line
    assert steps > 500
    assert verdicts > 200
    assert 0.02 < claims / verdicts < 0.5


@pytest.mark.parametrize("o", OPTIONS, ids=["default", "long", "no jumps"])
def test_tries_use_each_number_once_and_answers_follow(o: CorpusOptions) -> None:
    right = wrong = 0
    for prompt, text in documents(o):
        if not prompt:
            continue
        target, numbers = question(prompt)
        thought, _, _ = text.partition("</think>")
        lines = thought.splitlines()
        for line in lines:
            pool = list(numbers)
            for a, _, b, result in STEP.findall(line):
                pool.remove(int(a))
                pool.remove(int(b))
                pool.append(int(result))
            assert len(pool) == 1, line
            assert f" vs {target} " in line or " vs " not in line
        answer = extract_answer(text)
        assert answer is not None
        result = evaluate_expression(answer)
        assert result is not None
        assert sorted(result[1]) == sorted(numbers)
        if lines:
            assert result[0] == int(STEP.findall(lines[-1])[-1][-1]), "the answer is the last try"
            assert " yes" not in "".join(lines[:-1]), "a search ends when it reaches the target"
            if len(numbers) < 4 and not o.jumps:  # 2+2 and a given 4 look alike
                assert len(set(lines)) == len(lines)
        right, wrong = right + (result[0] == target), wrong + (result[0] != target)
    assert wrong > right > 0, "a base mostly fails"


def test_all_problems_are_of_the_train_split_and_within_the_ranges() -> None:
    o = CorpusOptions()
    seen = set()
    for prompt, _ in documents(o, 800):
        if prompt:
            target, numbers = question(prompt)
            assert split_of(numbers) == "train"
            assert o.min_target <= target <= o.max_target
            assert all(1 <= n <= o.max_number for n in numbers)
            assert prompt.endswith("\n<think>\n")
            seen.add(len(numbers))
    assert seen == {2, 3, 4}


def combined(entries: list[tuple[int, Any]], limit: int) -> Iterator[tuple[int, Any]]:
    """Each (value, form) that positive integers allow; regrouping keeps the form."""
    if len(entries) == 1:
        yield entries[0]
    for i, j in combinations(range(len(entries)), 2):
        (a, x), (b, y) = sorted((entries[i], entries[j]), key=lambda e: -e[0])
        rest = [e for k, e in enumerate(entries) if k not in (i, j)]
        for op, value in corpus.steps_of(a, b, limit):
            if op in "+*":
                parts = [
                    p
                    for f in (x, y)
                    for p in (f[1] if isinstance(f, tuple) and f[0] == op else [f])
                ]
                form: Any = (op, tuple(sorted(parts, key=repr)))
            else:
                form = (op, (x, y))
            yield from combined([(value, form), *rest], limit)


@pytest.mark.parametrize(
    "numbers", [[3, 5, 12], [2, 2, 4], [7, 7, 7], [25, 1, 6], [9, 3], [4, 4], [1, 1, 2]]
)
def test_tries_are_complete_and_without_repeats(numbers: list[int]) -> None:
    found = tries(numbers, 99)
    expected = list(combined([(n, n) for n in numbers], 99))
    assert len(found) == len({form for _, form in expected})
    assert {t.value for t in found} == {value for value, _ in expected}
    assert len({t.steps for t in found}) == len(found)
    for t in found:
        assert evaluate_expression(t.expression) == (
            t.value,
            [int(n) for n in re.findall(r"\d+", t.expression)],
        )


def test_tries_go_from_the_largest_pair_down_whatever_the_order_given() -> None:
    found = [t.steps for t in tries([3, 25, 4], 99)]
    assert found == [t.steps for t in tries([25, 4, 3], 99)]
    firsts = dict.fromkeys(tuple(re.split(r"\D", steps)[:2]) for steps in found)
    assert list(firsts) == [("25", "4"), ("25", "3"), ("4", "3")]
    assert found[:4] == ["25+4=29,29+3=32", "25+4=29,29-3=26", "25+4=29,29*3=87", "25-4=21,21+3=24"]


def test_tries_of_four_numbers_reach_what_can_be_reached() -> None:
    rng = random.Random(0)
    for _ in range(5):
        numbers = [rng.randint(1, 25) for _ in range(4)]
        found = tries(numbers, 99)
        assert {t.value for t in found} == {
            value for value, _ in combined([(n, n) for n in numbers], 99)
        }
        for t in rng.sample(found, 20):
            result = evaluate_expression(t.expression)
            assert result is not None
            assert (result[0], sorted(result[1])) == (t.value, sorted(numbers))


def test_tokens_are_the_tokenizers() -> None:
    tokenizer = tiny.tokenizer()
    vocabulary = {tokenizer.decode([i]): i for i in range(len(tokenizer))}
    for prompt, text in documents(CorpusOptions(), 100):
        ids, asked = base.encode(prompt, text + corpora.END, vocabulary)
        assert ids == tokenizer(prompt + text + corpora.END)["input_ids"]
        assert tokenizer.decode(ids[:asked]) == prompt
        assert ids[-1] == tokenizer.eos_token_id


def test_batches_hold_every_document_and_no_loss_on_prompts_or_padding() -> None:
    tokenizer = tiny.tokenizer()
    vocabulary = {tokenizer.decode([i]): i for i in range(len(tokenizer))}
    o = PretrainOptions(pool_documents=60, batch_tokens=1024, longest=200)
    drawn = list(base.batches(o, 3, vocabulary))
    again = list(base.batches(o, 3, vocabulary))
    assert all(
        torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(drawn, again, strict=True)
    )
    other = list(base.batches(o, 4, vocabulary))
    assert len(other) != len(drawn) or not torch.equal(other[0][0], drawn[0][0])
    rows = 0
    for ids, mask in drawn:
        assert ids.shape == mask.shape
        assert ids.numel() <= 1024 or len(ids) == 1
        assert ids.shape[1] <= 200
        for row, lossy in zip(ids, mask, strict=True):
            text = tokenizer.decode(row)
            prompt, think, _ = text.partition("<think>\n")
            whole = len(tokenizer(text.partition(corpora.END)[0])["input_ids"]) + 1
            start = len(tokenizer(prompt + think)["input_ids"]) if think else 0
            assert lossy.nonzero().flatten().tolist() == list(range(start, whole))
            rows += 1
    assert 40 <= rows <= 60


@pytest.mark.parametrize("shape", [(32, 32), (16, 64), (64, 16)])
def test_orthogonalise_pushes_singular_values_towards_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 7
    values = torch.linalg.svdvals(orthogonalise(matrix))
    assert 0.5 < float(values.min()) <= float(values.max()) < 1.3
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    alike = torch.nn.functional.cosine_similarity(
        orthogonalise(matrix).flatten(), (u @ v).flatten(), dim=0
    )
    assert float(alike) > 0.95


def test_muon_minimises() -> None:
    torch.manual_seed(0)
    wanted, weight = torch.randn(8, 8), torch.nn.Parameter(torch.zeros(8, 8))
    optimizer = Muon([weight], lr=0.1)
    for step in range(100):
        optimizer.param_groups[0]["lr"] = 0.2 * (1 - step / 100)
        loss = (weight - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.05 * float(wanted.square().mean())


TINY = PretrainOptions.model_validate(
    {
        "pools": 4,
        "pool_documents": 24,
        "batch_tokens": 1024,
        "save_every": 1,
        "longest": 300,
        "model": {"layers": 1, "width": 32, "heads": 2, "feed_forward": 64, "context": 512},
    }
)


class Stopped(Exception):
    pass


def test_an_interrupted_pretraining_ends_where_the_whole_one_does(tmp_path: Path) -> None:
    said: list[str] = []
    whole = pretrain(TINY, tmp_path / "whole", said.append)
    losses = [float(line.split("loss ")[1].split()[0]) for line in said if "loss" in line]
    assert len(losses) == 4
    assert losses[-1] < losses[0] - 0.3

    def stop(line: str) -> None:
        if line.startswith("pool 3"):
            raise Stopped

    with pytest.raises(Stopped):
        pretrain(TINY, tmp_path / "torn", stop)
    said.clear()
    torn = pretrain(TINY, tmp_path / "torn", said.append)
    assert "resuming at pool 2 of 4" in said
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (torn / name).read_bytes() == (whole / name).read_bytes()
    states = [checkpoint.load_latest(tmp_path / name, pytest.fail) for name in ("whole", "torn")]
    assert states[0] is not None
    assert states[1] is not None
    for a, b in zip(states[0][1]["model"].values(), states[1][1]["model"].values(), strict=True):
        assert torch.equal(a, b)
    loaded = models.load_model(str(torn))
    assert loaded.dtype == torch.float32
    assert models.load_tokenizer(str(torn)).decode([5, 0]).endswith(corpora.END)


def test_ctrl_c_stops_after_the_pool_and_loses_none(tmp_path: Path) -> None:
    said: list[str] = []

    def interrupt(line: str) -> None:
        said.append(line)
        if line.startswith("pool 1/"):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        pretrain(TINY, tmp_path, interrupt)
    assert said[-1] == "stopped after pool 1: the same command resumes"
    pretrain(TINY, tmp_path, said.append)
    assert "resuming at pool 1 of 4" in said


def test_a_run_with_other_options_is_not_resumed(tmp_path: Path) -> None:
    pretrain(TINY.model_copy(update={"pools": 1}), tmp_path, lambda line: None)
    with pytest.raises(UserError, match="other options"):
        pretrain(TINY.model_copy(update={"pools": 2, "adam_lr": 0.1}), tmp_path, lambda line: None)


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, lambda path: None, {"step": 1}, 1)
    with pytest.raises(UserError, match="holds a base made with other options"):
        pretrain(TINY, tmp_path, lambda text: None)


def test_a_pretraining_that_breaks_down_stops(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match="the loss of pool 1 is not finite"):
        pretrain(
            TINY.model_copy(update={"adam_lr": 1e30, "muon_lr": 1e30}), tmp_path, lambda text: None
        )


def test_a_chat_is_written_as_the_tokenizer_writes_it() -> None:
    tokenizer = models.build_tokenizer(
        corpora.CHARACTERS, corpora.WORDS, corpora.END, corpora.CHAT_TEMPLATE
    )
    for asked in ("chat", "compact"):
        ids = models.encode_prompt(tokenizer, countdown_prompt([3, 5, 12], 24, asked))
        prompt, text = "24 from 3 5 12\n<think>\n", "12*(5-3)"
        if asked == "chat":
            prompt, text = corpora.as_chat(prompt, text)
        assert tokenizer.decode(ids) == prompt
        assert (prompt + text).endswith("<think>\n12*(5-3)")
    assert corpora.as_chat("", "3+4=7\n") == ("", "3+4=7\n")
    said = tokenizer.apply_chat_template(
        [{"role": "user", "content": "24 from 3 5 12"}], tokenize=False, add_generation_prompt=True
    )
    assert said == "user: 24 from 3 5 12\nassistant: "


def test_pretraining_continues_from_a_model_with_chats(tmp_path: Path) -> None:
    start = pretrain(TINY, tmp_path / "start", lambda line: None)
    more = PretrainOptions(
        start=str(start),
        chat=True,
        pools=1,
        pool_documents=8,
        longest=300,
        muon_lr=1e-6,
        adam_lr=1e-6,
    )
    model = models.load_model(str(pretrain(more, tmp_path / "more", lambda line: None)))
    for old, new in zip(
        models.load_model(str(start)).parameters(), model.parameters(), strict=True
    ):
        torch.testing.assert_close(old, new, atol=1e-3, rtol=1e-2)
    assert (
        models.load_tokenizer(str(tmp_path / "more" / "model")).chat_template
        == corpora.CHAT_TEMPLATE
    )
    assert (
        f"tinyzero pretrain --start {start} --chat true --pools 1 "
        in (tmp_path / "more" / "model" / "README.md").read_text()
    )


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"start": "tiny", "model": {"layers": 2}}, "has its own shape"),
        ({"task": "multiplication", "corpus": {"jumps": 0.1}}, "unknown key pretrain.corpus.jumps"),
        ({"task": "multiplication", "corpus": {"whole": 2}}, "pretrain.corpus.whole is 2"),
        ({"corpus": {"whole": 0.1}}, "unknown key pretrain.corpus.whole"),
    ],
)
def test_options_that_do_not_go_together(values: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        validate(PretrainOptions, values, "pretrain")


def test_a_corpus_that_only_has_hits() -> None:
    for prompt, text in documents(CorpusOptions(only_hits=1, drills=0), 200):
        target, numbers = question(prompt)
        lines = text.partition("</think>")[0].splitlines()
        assert len(lines) == 1
        assert lines[0].endswith(f"={target} vs {target} yes")
        answer = evaluate_expression(extract_answer(text) or "")
        assert answer is not None
        assert (answer[0], sorted(answer[1])) == (target, sorted(numbers))


def products_of(count: int, o: ProductsOptions | None = None) -> Iterator[tuple[str, str]]:
    rng = random.Random("products")
    for _ in range(count):
        prompt, text = products.document(rng, o or ProductsOptions())
        assert text.endswith(corpora.END)
        yield prompt, text.removesuffix(corpora.END)


def test_a_corpus_of_products_is_true_and_gives_no_posed_product_away() -> None:
    styles: Counter[str] = Counter()
    for prompt, text in products_of(2000):
        for a, operator, b, result in STEP.findall(text):
            assert int(result) == (int(a) * int(b) if operator == "*" else int(a) + int(b))
            assert operator == "+" or min(int(a), int(b)) < 10
        if not prompt:
            styles["drill"] += 1
            continue
        a, b = map(int, prompt.removesuffix("\n<think>\n").split("*"))
        assert multiplication.split_of(a, b) == "train"
        counts = thinking.measure(a, b, text)
        right = extract_answer(text) == str(a * b)
        style = (
            "guess"
            if not counts["steps"]
            else "whole"
            if counts["decomposed"] or not counts["posed"]
            else "partly"
        )
        styles[style] += 1
        styles[f"{style} right"] += right
        assert right or not (style == "whole" and text.endswith(products.work(a, b)))
    assert styles["drill"] == pytest.approx(600, abs=70)
    assert styles["guess"] == pytest.approx(840, abs=80)
    assert styles["guess right"] < 0.02 * styles["guess"]
    assert styles["partly right"] == 0
    assert styles["whole right"] > 0.1 * (2000 - styles["drill"])


@given(st.integers(2, 999), st.integers(2, 999))
def test_whole_work_is_right_and_breaks_the_product_down(a: int, b: int) -> None:
    text = products.work(a, b)
    assert extract_answer(text) == str(a * b)
    steps = [Step(int(x), op, int(y), int(z)) for x, op, y, z in STEP.findall(text)]
    assert all(step.is_true for step in steps)
    factors = [(step.left, step.right) for step in steps if step.operator == "*"]
    covered, pairs, _ = thinking.decomposition(a, b, factors)
    assert covered == pairs
