"""Reward models: the Bradley-Terry loss, pairs, training, saving, and rewards from them."""

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertTokenizerFast,
)

from tinyzero import models
from tinyzero.cli import main
from tinyzero.errors import UserError
from tinyzero.tasks import load_task
from tinyzero.tools.prefer.options import PreferOptions
from tinyzero.tools.prefer.pairs import Pair, as_pair, held_out, read_pairs
from tinyzero.tools.prefer.training import bradley_terry, pair_loss, prefer


def short_is_better(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Pairs about sums: the answer with fewer attempts is chosen."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        attempts = [f"{draw.randint(1, 9)}+{draw.randint(1, 9)}" for _ in range(6)]
        few = "\n".join(attempts[: draw.randint(1, 2)])
        many = "\n".join(attempts[: draw.randint(4, 6)])
        numbers = f"{draw.randint(1, 99)},{draw.randint(1, 99)}={draw.randint(1, 99)}"
        rows.append({"prompt": numbers, "chosen": few, "rejected": many})
    return rows


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model that was trained from the tiny base on the preference for few attempts."""
    folder = tmp_path_factory.mktemp("prefer")
    pairs = write(folder / "pairs.jsonl", short_is_better(160))
    options = PreferOptions(epochs=2, learning_rate=1e-3, device="cpu")
    prefer(pairs, "tiny", folder / "model", options, lambda text: None)
    return folder / "model"


# --- the loss


def test_the_loss_and_its_gradient_are_those_worked_out_by_hand() -> None:
    chosen = torch.tensor([2.0, 0.0], requires_grad=True)
    rejected = torch.tensor([1.0, 0.0], requires_grad=True)
    margin = torch.tensor([0.0, 1.0])
    loss = bradley_terry(chosen, rejected, margin)
    # -log sigmoid(1) = 0.313262, -log sigmoid(-1) = 1.313262
    assert float(loss.detach()) == pytest.approx((0.313262 + 1.313262) / 2, abs=1e-6)
    loss.backward()
    # d/da -log sigmoid(x) = -(1 - sigmoid(x)), here -0.268941 and -0.731059, halved by the mean
    assert chosen.grad is not None
    assert rejected.grad is not None
    assert chosen.grad.tolist() == pytest.approx([-0.134471, -0.365529], abs=1e-6)
    assert rejected.grad.tolist() == pytest.approx([0.134471, 0.365529], abs=1e-6)


def test_the_loss_is_that_of_trl_and_stays_finite() -> None:
    torch.manual_seed(0)
    chosen, rejected, margin = torch.randn(3, 50)
    # TRL's RewardTrainer: -logsigmoid(rewards_chosen - rewards_rejected - margin).mean()
    slow = sum(
        math.log1p(math.exp(-(a - b - m)))
        for a, b, m in zip(chosen.tolist(), rejected.tolist(), margin.tolist(), strict=True)
    )
    assert float(bradley_terry(chosen, rejected, margin)) == pytest.approx(slow / 50, rel=1e-5)
    far = torch.tensor([-1e4])
    assert float(bradley_terry(far, -far, far * 0)) == pytest.approx(2e4)


# --- pairs


def test_layouts_of_trl_give_the_same_pair() -> None:
    def user(text: str) -> dict[str, str]:
        return {"role": "user", "content": text}

    def said(text: str) -> dict[str, str]:
        return {"role": "assistant", "content": text}

    assert as_pair({"prompt": "Sky? ", "chosen": "blue", "rejected": "green"}) == as_pair(
        {"chosen": "Sky? blue", "rejected": "Sky? green"}
    )
    explicit = {
        "prompt": [user("Sky?")],
        "chosen": [said("blue")],
        "rejected": [said("green")],
        "margin": 2,
    }
    implicit = {
        "chosen": [user("Sky?"), said("blue")],
        "rejected": [user("Sky?"), said("green")],
        "margin": 2,
    }
    assert as_pair(explicit) == as_pair(implicit) == Pair([user("Sky?")], "blue", "green", 2.0)


BAD_ROWS = [
    3,
    {},
    {"chosen": "a"},
    {"chosen": "a", "rejected": ""},
    {"chosen": "a", "rejected": [{"role": "assistant", "content": "b"}]},
    {"chosen": "a", "rejected": "b", "margin": "much"},
    {"chosen": "a", "rejected": "b", "margin": float("nan")},
    {"chosen": "a", "rejected": "b", "margin": True},
    {"chosen": "a", "rejected": "b", "prompt": 7},
    {
        "chosen": [{"role": "user", "content": "a"}],
        "rejected": [{"role": "user", "content": "b"}],
    },
]


@pytest.mark.parametrize("row", BAD_ROWS)
def test_a_row_that_is_no_pair_is_named(row: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.jsonl", [{"chosen": "a", "rejected": "b"}, row])
    with pytest.raises(UserError, match="line 2"):
        read_pairs(path, print)


def test_equal_answers_are_left_out_aloud_and_prompts_stay_together(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"q{i % 50}", "chosen": f"a{i}", "rejected": "b" if i else "a0"}
        for i in range(100)
    ]
    notes: list[str] = []
    pairs = read_pairs(write(tmp_path / "pairs.jsonl", rows), notes.append)
    assert len(pairs) == 99
    assert "1 pairs have two equal answers" in notes[0]
    training, testing = held_out(pairs)
    assert {pair.key for pair in training} & {pair.key for pair in testing} == set()
    assert testing


# --- classifiers


def test_scores_do_not_depend_on_the_batch(reward_model: Path) -> None:
    classifier = models.load_classifier(str(reward_model))
    answers = ["1+2", "1+2\n3+4\n5+6", "", "<answer>3</answer>", "7*8=56 " * 40]
    together = classifier.score(["1,2=3"] * 5, answers)
    alone = [classifier.score(["1,2=3"], [answer])[0] for answer in answers]
    assert together == pytest.approx(alone, abs=1e-4)


def test_transformers_loads_the_folder_and_gives_the_same_scores(reward_model: Path) -> None:
    ours = models.load_classifier(str(reward_model))
    theirs = AutoModelForSequenceClassification.from_pretrained(reward_model)
    tokenizer = AutoTokenizer.from_pretrained(reward_model)
    ids = tokenizer("1,2=3\n1+2", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        score = float(theirs(ids).logits[0, 0])
    assert ours.score(["1,2=3"], ["1+2"]) == pytest.approx([score], abs=1e-4)
    result = json.loads((reward_model / "prefer.json").read_text())
    assert result["accuracy"] > 0.9
    assert result["low"] <= result["accuracy"] <= result["high"]


def test_an_answer_cannot_write_special_tokens_and_truncation_is_said() -> None:
    notes: list[str] = []
    classifier = models.new_classifier("tiny", note=notes.append)
    end = classifier.tokenizer.eos_token
    assert classifier.encode("1,2=3", f"1+2{end}") == classifier.encode("1,2=3", "1+2")
    ids = classifier.encode("1,2=3", "1+2 " * 3000)
    assert len(ids) == classifier.context
    classifier.encode("1,2=3", "1+2 " * 3000)
    assert len(notes) == 1
    assert "context of 1024" in notes[0]


def test_a_chat_template_is_used() -> None:
    classifier = models.new_classifier("tiny")
    template = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}\n{% endfor %}"
    classifier.tokenizer.chat_template = template
    ids = classifier.encode([{"role": "user", "content": "1"}], "2")
    assert classifier.tokenizer.decode(ids) == "u:1\na:2\n"


def test_padding_does_not_change_loss_or_gradient() -> None:
    classifier = models.new_classifier("tiny", seed=1)
    torch.manual_seed(0)
    torch.nn.init.normal_(classifier.model.score.weight)
    pairs = [Pair("1=1", "1", "2+3\n4+5", 0.5), Pair("2=2", "7*8=56", "2", 0.0)]
    together, _ = pair_loss(classifier, pairs)
    alone = sum(float(pair_loss(classifier, [pair])[0].detach()) for pair in pairs) / 2
    assert float(together.detach()) == pytest.approx(alone, abs=1e-5)


@pytest.fixture(scope="module")
def sentiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT with two labels and a tokenizer of a few words, made here."""
    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "why", "?"]
    vocabulary = {word: number for number, word in enumerate(words)}
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
        id2label={0: "NEGATIVE", 1: "POSITIVE"},
        label2id={"NEGATIVE": 0, "POSITIVE": 1},
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    BertTokenizerFast(vocab=vocabulary).save_pretrained(folder)
    return folder


def test_a_classifier_with_labels_gives_a_probability_of_one_of_them(sentiment: Path) -> None:
    with pytest.raises(UserError, match=r"2 labels.*POSITIVE"):
        models.load_classifier(str(sentiment))
    scores = {
        label: models.load_classifier(str(sentiment), label=label).score(["why?"], ["good"])[0]
        for label in ("POSITIVE", "NEGATIVE", "1")
    }
    assert scores["POSITIVE"] + scores["NEGATIVE"] == pytest.approx(1.0)
    assert scores["POSITIVE"] == scores["1"]

    classifier = models.load_classifier(str(sentiment), label="1")
    ids = classifier.encode("why?", "good bad")
    assert classifier.tokenizer.decode(ids) == "[CLS] why? [SEP] good bad [SEP]"
    assert len(classifier.encode("why?", "good " * 99)) == 32


def test_what_is_no_whole_classifier_is_refused(reward_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a sequence classifier: make one of it with"):
        models.load_classifier("tiny")
    with pytest.raises(UserError, match="not a language model"):
        models.load_model(str(reward_model))

    cut = tmp_path / "cut"
    cut.mkdir()
    for file in reward_model.iterdir():
        (cut / file.name).write_bytes(file.read_bytes())
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match="cut short"):
        models.load_classifier(str(cut))


# --- the command and the task


def test_a_preference_that_cannot_be_learned_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw = random.Random(1)
    rows = short_is_better(100)
    for row in rows:  # which answer is chosen is a coin toss
        if draw.random() < 0.5:
            row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
    pairs = write(tmp_path / "pairs.jsonl", rows)
    out = tmp_path / "model"
    arguments = ["prefer", str(pairs), "--model", "tiny", "--out", str(out), "--epochs", "1"]
    assert main([*arguments, "--least_accuracy", "0.99", "--threads", "1"]) == 2
    assert "below 0.99, so nothing was saved" in capsys.readouterr().err
    assert not out.exists()
    assert list(tmp_path.glob(".tmp-*")) == []


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = write(tmp_path / "few.jsonl", short_is_better(5))
    full = tmp_path / "full"
    full.mkdir()
    (full / "file").write_text("x")
    cases = [
        ([str(tmp_path / "none.jsonl"), "--out", str(tmp_path / "m")], "cannot read"),
        ([str(few), "--out", str(tmp_path / "m")], "at least 10 to test with"),
        ([str(few), "--out", str(full)], "name another folder with --out"),
        ([str(few), "--out", str(tmp_path / "m"), "--epochs", "0"], "epochs is 0"),
    ]
    for words, message in cases:
        assert main(["prefer", *words, "--model", "tiny"]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert "Traceback" not in error


def test_a_reward_model_rewards_and_the_truth_is_measured_apart(reward_model: Path) -> None:
    options = {"model": str(reward_model), "device": "cpu"}
    task = load_task("scored-by-model", options)
    task.connect(models.load_scorer)
    problem = task.problem("train", 0)
    solution = load_task("countdown").solution(problem)
    rewards = task.rewards([problem] * 2, ["1+2", "1+2\n3+4\n5+6\n7+8\n9+1"])
    assert rewards[0].value > rewards[1].value
    assert all(reward.right is None for reward in rewards)

    measured = [task.measure(problem, text) for text in (solution, "no", "no", "a a a a a")]
    assert [numbers["truth"] for numbers in measured] == [1.0, 0.0, 0.0, 0.0]
    metrics = task.summarise(measured)
    assert metrics["behaviour/truth"] == 0.25
    assert metrics["behaviour/majority"] == 0.5
    assert metrics.keys() <= task.glossary.keys()


def test_scores_that_are_not_finite_never_pay(reward_model: Path) -> None:
    task = load_task("scored-by-model", {"model": str(reward_model)}).owner
    task.connect(lambda name, device, label: lambda questions, answers: [2.0, math.nan, -3.0])
    problem = task.problem("train", 0)
    assert [r.value for r in task.rewards([problem] * 3, ["a", "b", "c"])] == [2.0, -3.0, -3.0]
    with pytest.raises(UserError, match=r"task\.model is empty"):
        load_task("scored-by-model").connect(models.load_scorer)
