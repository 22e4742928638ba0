"""The task rows: reading files, layouts, splits, checks, prompts and functions."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from tinyzero.config import resolve, trust
from tinyzero.errors import UserError
from tinyzero.evaluate import distinct_problems
from tinyzero.grading import TaskReference, WorkerPool, judge_group
from tinyzero.tasks import load_task
from tinyzero.tasks.base import NoSolution
from tinyzero.tasks.check import examine
from tinyzero.tasks.prompts import TEMPLATES
from tinyzero.tasks.rows import splits
from tinyzero.tasks.splits import split_by_key
from tinyzero.tasks.tables import Row, plain, read_rows
from tinyzero.types import SPLITS

COUNT = 60
NUMBERS = [(3 * index + 2, 7 * index + 1) for index in range(COUNT)]
QUESTIONS = [f"What is {a} plus {b}?" for a, b in NUMBERS]
ANSWERS = [str(a + b) for a, b in NUMBERS]


def gsm8k() -> list[dict[str, Any]]:
    return [
        {"question": question, "answer": f"They are <<x={answer}>>{answer}.\n#### {answer}"}
        for question, answer in zip(QUESTIONS, ANSWERS, strict=True)
    ]


def verl() -> list[dict[str, Any]]:
    return [
        {
            "data_source": "sums",
            "prompt": [{"role": "user", "content": question}],
            "reward_model": {"style": "rule", "ground_truth": answer},
            "extra_info": {"index": index},
        }
        for index, (question, answer) in enumerate(zip(QUESTIONS, ANSWERS, strict=True))
    ]


def trl() -> list[dict[str, Any]]:
    return [
        {"prompt": question, "solution": answer}
        for question, answer in zip(QUESTIONS, ANSWERS, strict=True)
    ]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def rows(path: Path, content: list[dict[str, Any]], **options: Any) -> Any:
    return load_task("rows", {"data": write(path, content), **options})


def everything(task: Any) -> list[Any]:
    return [task.problem(split, index) for split in SPLITS for index in range(task.size(split))]


def value(task: Any, text: str, index: int = 0) -> float:
    (verdict,) = judge_group(task, [task.problem("train", index)], [text])
    assert verdict.reward is not None
    return verdict.reward.value


def test_three_layouts_of_one_set_give_equal_problems(tmp_path: Path) -> None:
    layouts = {"gsm8k": gsm8k(), "verl": verl(), "trl": trl()}
    tasks = [rows(tmp_path / f"{name}.jsonl", content) for name, content in layouts.items()]
    table = pyarrow.Table.from_pylist(verl())
    pyarrow.parquet.write_table(table, tmp_path / "verl.parquet")
    tasks.append(load_task("rows", {"data": str(tmp_path / "verl.parquet")}))

    first = everything(tasks[0])
    assert len(first) == COUNT
    assert {p.fields["question"]: p.fields["answers"] for p in first} == {
        question: [answer] for question, answer in zip(QUESTIONS, ANSWERS, strict=True)
    }
    assert all(everything(task) == first for task in tasks[1:])


def test_the_content_alone_decides_the_split(tmp_path: Path) -> None:
    task = rows(tmp_path / "rows.jsonl", gsm8k())
    backwards = rows(tmp_path / "backwards.jsonl", gsm8k()[::-1])
    for problem in everything(task):
        assert problem.split == split_by_key(problem.key)
    assert {p.id: p.split for p in everything(task)} == {
        p.id: p.split for p in everything(backwards)
    }


def test_each_epoch_is_another_permutation_that_its_number_determines(tmp_path: Path) -> None:
    import random

    task = rows(tmp_path / "rows.jsonl", gsm8k(), data_seed=5)
    size = task.size("train")
    file_order = [entry.id for entry in task.owner._entries[0]["train"]]

    def slow(index: int) -> str:
        """The reference: shuffle the rows of the epoch again, for each index."""
        shuffled = list(range(size))
        random.Random(f"rows:5:train:{index // size}").shuffle(shuffled)
        return file_order[shuffled[index % size]]

    indices = list(range(3 * size))
    random.Random(0).shuffle(indices)
    drawn = {index: task.problem("train", index).id for index in indices}
    assert drawn == {index: slow(index) for index in indices}
    epochs = [tuple(drawn[epoch * size + step] for step in range(size)) for epoch in range(3)]
    assert all(sorted(epoch) == sorted(file_order) for epoch in epochs)
    assert len(set(epochs)) == 3
    other = rows(tmp_path / "rows.jsonl", gsm8k(), data_seed=6)
    assert [other.problem("train", index).id for index in range(size)] != list(epochs[0])


def test_duplicates_and_contradictions_are_reported(tmp_path: Path) -> None:
    content = [*gsm8k(), gsm8k()[3], gsm8k()[3], {"question": QUESTIONS[4], "answer": "#### 1"}]
    task = rows(tmp_path / "rows.jsonl", content)
    assert len(everything(task)) == COUNT + 1
    copies, contradiction = task.notes()
    assert copies.startswith("2 rows repeat earlier ones, and count once: the first is line 61 of")
    assert contradiction.startswith("1 question with different answers in different rows, such as")


def test_a_question_of_the_test_file_is_never_trained_on(tmp_path: Path) -> None:
    test = [*gsm8k()[:5], {"question": QUESTIONS[5].upper() + " ", "answer": f"#### {ANSWERS[5]}"}]
    task = rows(tmp_path / "train.jsonl", gsm8k(), test_data=write(tmp_path / "test.jsonl", test))
    assert task.size("test") == 6
    assert sum(task.size(split) for split in SPLITS) == COUNT
    keys = [{p.key for p in everything(task) if p.split == split} for split in SPLITS]
    assert not keys[0] & keys[1] | keys[0] & keys[2] | keys[1] & keys[2]
    assert sum(int(note.split()[0]) for note in task.notes() if "question of test" in note) == 6
    assert task.size("dev") > 0, "dev has no file: it gets the rows whose key chooses it"


def test_a_column_may_say_the_split(tmp_path: Path) -> None:
    names = ("train", "Validation", "test")
    content = [row | {"part": names[index % 3]} for index, row in enumerate(gsm8k())]
    task = rows(tmp_path / "rows.jsonl", content, split_column="part")
    assert [task.size(split) for split in SPLITS] == [COUNT // 3] * 3
    content[7]["part"] = "tset"
    with pytest.raises(
        UserError, match=r"line 8 of .* has 'tset' in the column part: did you mean"
    ):
        everything(rows(tmp_path / "rows.jsonl", content, split_column="part"))


COMPRESSED: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.compress,
}


@pytest.mark.parametrize("ending", list(COMPRESSED))
def test_compressed_files_are_read_or_called_damaged(ending: str, tmp_path: Path) -> None:
    plain_text = "".join(json.dumps(row) + "\n" for row in gsm8k()).encode()
    path = tmp_path / f"rows.jsonl{ending}"
    path.write_bytes(COMPRESSED[ending](plain_text))
    assert [row.values for row in read_rows(path)] == gsm8k()
    for damaged in (path.read_bytes()[:-20], b"", b"\x00" * 50):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"rows.jsonl\..*: it is damaged or cut off|no rows"):
            read_rows(path)


LINES = '{"question": "a?", "answer": "1"}\n{"question": "b\u2028?", "answer": "2"}\n'


@pytest.mark.parametrize(
    "content",
    [
        LINES.encode(),
        b"\xef\xbb\xbf" + LINES.encode(),
        LINES.encode("utf-16"),
        LINES.replace("\n", "\r\n").encode(),
        LINES.replace("\n", "\n\n  \n").encode(),
        LINES.rstrip().encode(),
    ],
)
def test_the_same_rows_are_read_from_any_usual_text(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    assert [row.values["question"] for row in read_rows(path)] == ["a?", "b\u2028?"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "has no rows"),
        ("a.jsonl", b"\n \n", "has no rows"),
        ("a.json", b"[]", "has no rows"),
        (
            "a.jsonl",
            b'{"question": "a", "answer": "1"}\n{"ques',
            "line 2 of .* is not JSON .*cut off",
        ),
        ("a.jsonl", b"[" * 100_000, "line 1 of .* is not JSON .*nested too deeply"),
        ("a.jsonl", b'{"answer": ' + b"1" * 5000 + b"}", "line 1 of .* is not JSON .*4300 digits"),
        ("a.jsonl", b'{"a": 1}\n[1]\n', "line 2 of .* must be an object"),
        ("a.jsonl", b'{"a": 1}\n{"a": "caf\xe9"}\n', "line 2 of .* is not UTF-8 text: save"),
        ("a.json", b'[{"question": "a"', "is not JSON .*cut off"),
        ("a.parquet", b"PAR1 and nothing more", "as parquet"),
        ("a.csv", b"question,answer\na,1,2\n", "line 2 of .* another number of values"),
        ("a.txt", b"hello", r"a data file ends in \.jsonl"),
        ("a.jsonl", b'{"question": null, "answer": "1"}', "line 1 of .* has None in the column q"),
        ("a.jsonl", b'{"question": "a", "answer": null}', "line 1 of .* has None in the column a"),
        ("a.jsonl", b'{"question": "a", "answer": NaN}', "line 1 of .* has None in the column a"),
        ("a.jsonl", b'{"question": "a", "answer": {"x": 1}}', "line 1 of .* must be the answer"),
        ("a.jsonl", b'{"text": "a"}', "no column with the question .*its columns are text"),
        ("a.jsonl", b'{"question": "a"}', "no column with the answer .*its columns are question"),
    ],
)
def test_a_wrong_file_is_one_line(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        everything(load_task("rows", {"data": str(tmp_path / name)}))
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


def test_a_truncated_parquet_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(gsm8k()), path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UserError, match=r"cannot read .*rows.parquet as parquet"):
        read_rows(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "task.data is not set"),
        ({"data": "none.jsonl"}, "no data file none.jsonl: give a file that ends in"),
        ({"data": "x.jsonl", "check": "numbers"}, "no such check: did you mean number"),
        ({"data": "x.jsonl", "check": "none.py:f"}, "no file .*none.py"),
        ({"data": "x.jsonl", "full_marks": 1.0}, "full_marks has no effect"),
        ({"data": "x.jsonl", "question": "q"}, "no column 'q': it has question, answer"),
        ({"data": "x.jsonl", "check": "number"}, "answer 'red', which the check number cannot"),
        ({"data": "x.jsonl", "check": "choice"}, "answer 'red', which the check choice cannot"),
    ],
)
def test_a_wrong_option_is_one_line(
    options: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "x.jsonl", [{"question": "a", "answer": "red"}])
    with pytest.raises(UserError, match=message):
        load_task("rows", options).size("train")


def test_values_of_data_frames_become_plain() -> None:
    found = plain(
        {
            "array": np.array([[1, 2], [3, 4]]),
            "number": np.int64(7),
            "share": np.float32(0.5),
            "missing": float("nan"),
            "yes": np.bool_(True),
            "huge": 10**400,
            "text": b"abc",
            "messages": np.array([{"role": "user"}], dtype=object),
        }
    )
    assert found == {
        "array": [[1, 2], [3, 4]],
        "number": 7,
        "share": 0.5,
        "missing": None,
        "yes": True,
        "huge": 10**400,
        "text": "abc",
        "messages": [{"role": "user"}],
    }
    assert type(found["yes"]) is bool
    with pytest.raises(ValueError, match="bytes that are not text"):
        plain(b"\xff\xd8")


def test_huge_numbers_and_half_characters_reach_the_grader(tmp_path: Path) -> None:
    huge = 10**300 + 7
    content = [{"question": f"\ud800 {index}?", "answer": huge} for index in range(30)]
    task = rows(tmp_path / "rows.jsonl", content, check="number")
    assert value(task, f"</think><answer>{huge}</answer>") == 1
    assert value(task, f"</think><answer>{huge + 1}</answer>") == 0


def test_csv_and_a_saved_dataset_are_read(tmp_path: Path) -> None:
    import datasets

    (tmp_path / "rows.csv").write_text('question,answer\n"a, b?",1\n"two\nlines",2\n')
    assert [row.values for row in read_rows(tmp_path / "rows.csv")] == [
        {"question": "a, b?", "answer": "1"},
        {"question": "two\nlines", "answer": "2"},
    ]
    parts = {
        name: datasets.Dataset.from_list(verl()[first : first + 20])
        for name, first in (("train", 0), ("validation", 20), ("test", 40))
    }
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    task = load_task("rows", {"data": str(tmp_path / "saved")})
    assert [task.size(split) for split in SPLITS] == [20, 20, 20]
    assert task.problem("dev", 0).fields["question"] in QUESTIONS[20:40]


def test_the_rows_of_one_part_have_no_split_of_their_own(tmp_path: Path) -> None:
    assert read_rows(write(tmp_path / "a.jsonl", trl()[:1])) == [
        Row(f"line 1 of {tmp_path / 'a.jsonl'}", trl()[0])
    ]


def test_prompts_exist_in_all_templates(tmp_path: Path) -> None:
    task = rows(tmp_path / "rows.jsonl", gsm8k())
    problem = task.problem("train", 0)
    question = problem.fields["question"]
    for template in TEMPLATES:
        prompt = task.prompt(problem, template)
        text = (
            prompt
            if isinstance(prompt, str)
            else prompt[-2 if template != "instruct-short" else -1]["content"]
        )
        assert question in text
    assert "in <answer> </answer> tags" in task.prompt(problem, "base")
    boxed = rows(tmp_path / "rows.jsonl", gsm8k(), style="boxed", instruction="Box it.")
    assert "? Box it.\nAssistant" in boxed.prompt(problem, "base")
    with pytest.raises(UserError, match="unknown prompt template"):
        task.prompt(problem, "other")


def test_chat_messages_are_used_as_they_are(tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+3?"}]
    content = [
        {"prompt": [*messages[:1], {"role": "user", "content": f"{index}+1?"}], "answer": index + 1}
        for index in range(30)
    ]
    task = rows(tmp_path / "rows.jsonl", content)
    problem = task.problem("train", 0)
    assert task.prompt(problem, "base") == problem.fields["messages"]
    assert problem.fields["messages"][0] == messages[0]
    task = rows(tmp_path / "verl.jsonl", verl())
    problem = task.problem("train", 0)
    assert task.prompt(problem, "instruct") == [
        {"role": "user", "content": problem.fields["question"]}
    ]


def test_choices_are_listed_and_compared_by_letter(tmp_path: Path) -> None:
    colours = ["red", "blue", "green"]
    content = [
        {"question": f"Colour {index}?", "choices": colours, "answer": index % 3}
        for index in range(30)
    ]
    task = rows(tmp_path / "rows.jsonl", content, check="choice")
    problem = task.problem("train", 0)
    right = problem.fields["answers"][0]
    assert "\nA. red\nB. blue\nC. green" in task.prompt(problem, "base")
    colour = colours["ABC".index(right)]
    for text in (right, right.lower(), f"({right})", f"{right}. {colour}", f"**{right}**"):
        assert value(task, f"</think><answer>{text}</answer>") == 1, text
    for text in ("", "D", "A, B, C", "A or B or C", f"{right} or not", colour):
        assert value(task, f"</think><answer>{text}</answer>") == 0, text


TRL_FUNCTION = """
import os
def accuracy(prompts, completions, solution, **columns):
    assert len(prompts) == len(completions) == len(solution) == 1
    text = completions[0] if isinstance(completions[0], str) else completions[0][0]["content"]
    if "hang" in text:
        while True: pass
    if "raise" in text:
        raise ValueError("no")
    if "exit" in text:
        os._exit(1)
    return [float(text.endswith(f"<answer>{solution[0]}</answer>"))]

async def later(completions, **columns):
    return [0.5]
"""
VERL_FUNCTION = """
def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    assert data_source == "sums" and isinstance(extra_info["index"], int)
    right = f"<answer>{ground_truth}</answer>" in solution_str
    return {"score": 2.0 if right else -1.0, "acc": right, "length": len(solution_str)}
"""


def test_functions_of_trl_run_in_workers_with_limits(tmp_path: Path) -> None:
    (tmp_path / "reward.py").write_text(TRL_FUNCTION)
    check = f"{tmp_path / 'reward.py'}:accuracy"
    task = rows(tmp_path / "rows.jsonl", trl(), check=check)
    assert not task.trusted
    problem = task.problem("train", 0)
    texts = [task.solution(problem), "hang", "raise", "exit", "\ud800 half", task.solution(problem)]

    reference = TaskReference("tinyzero.tasks:load_task", "rows", task.given)
    pool = WorkerPool(task, reference, workers=1, timeout=20, memory=1.0)
    with closing(pool) as grader:
        grader.submit(0, [problem] * len(texts), texts)
        verdicts = grader.collect(0)
    assert [v.reward.value for v in verdicts if v.reward] == [1, 0, 0, 0, 0, 1]
    assert [v.reward.failure for v in verdicts if v.reward] == [
        None,
        "timeout",
        "raised",
        "raised",
        None,
        None,
    ]


def test_functions_of_verl_may_return_a_score_and_more(tmp_path: Path) -> None:
    (tmp_path / "reward.py").write_text(VERL_FUNCTION)
    task = rows(tmp_path / "rows.jsonl", verl(), check=f"{tmp_path / 'reward.py'}:compute_score")
    problem = task.problem("train", 0)
    right, wrong = (task.reward(problem, text) for text in (task.solution(problem), "no"))
    assert (right.value, right.right, set(right.parts)) == (2.0, True, {"length"})
    assert (wrong.value, wrong.right, wrong.parts) == (-1.0, False, {"length": 2.0})


def test_a_function_needs_no_answer_but_its_columns(tmp_path: Path) -> None:
    (tmp_path / "reward.py").write_text(TRL_FUNCTION)
    questions = [{"prompt": question} for question in QUESTIONS]
    task = rows(tmp_path / "rows.jsonl", questions, check=f"{tmp_path / 'reward.py'}:later")
    problem = task.problem("train", 0)
    assert task.reward(problem, "x").value == 0.5
    assert task.reward(problem, "x").right is None
    with pytest.raises(NoSolution):
        task.owner.solution(problem)
    full = rows(
        tmp_path / "rows.jsonl", questions, check=f"{tmp_path / 'reward.py'}:later", full_marks=0.5
    )
    assert full.reward(problem, "x").right is True
    with pytest.raises(UserError, match="has no column solution, which accuracy needs"):
        everything(
            rows(tmp_path / "a.jsonl", questions, check=f"{tmp_path / 'reward.py'}:accuracy")
        )


@pytest.mark.parametrize(
    ("check", "style"),
    [("exact", "boxed"), ("number", "tags"), ("number", "hashes"), ("number", "last-number")],
)
def test_check_task_passes(check: str, style: str, tmp_path: Path) -> None:
    task = rows(tmp_path / "rows.jsonl", gsm8k(), check=check, style=style)
    assert examine(task, 20, seconds=10).failures == []


def test_check_task_passes_on_functions_and_choices(tmp_path: Path) -> None:
    (tmp_path / "reward.py").write_text(TRL_FUNCTION.replace('"hang"', '"no hang"'))
    strict = TRL_FUNCTION.replace("text.endswith(", "text.partition('</think>')[2].strip() == (")
    (tmp_path / "reward.py").write_text(strict)
    task = rows(tmp_path / "a.jsonl", trl(), check=f"{tmp_path / 'reward.py'}:accuracy")
    assert examine(task, 20, seconds=10).failures == []
    letters = [{"question": q, "answer": "ABCD"[i % 4]} for i, q in enumerate(QUESTIONS)]
    task = rows(tmp_path / "b.jsonl", letters, check="choice")
    assert examine(task, 20, seconds=10).failures == []


def test_evaluation_takes_all_rows_of_a_split(tmp_path: Path) -> None:
    task = rows(tmp_path / "rows.jsonl", gsm8k())
    assert len(distinct_problems(task, "dev", 500)) == task.size("dev")


def test_the_division_of_a_plain_list() -> None:
    def one(question: str, split: Any) -> splits.Entry:
        return splits.entry({"question": question, "answers": ["1"]}, split, question)

    entries = [one("a", "train"), one("A ", "test"), one("b", "dev"), one("b", "train")]
    divided, notes = splits.divide(entries)
    assert {split: [entry.location for entry in part] for split, part in divided.items()} == {
        "train": [],
        "dev": ["b"],
        "test": ["A "],
    }
    assert len(notes) == 3


def test_the_function_of_a_strangers_run_needs_permission(tmp_path: Path) -> None:
    code = f"{tmp_path / 'reward.py'}:accuracy"
    config = resolve({"task": {"name": "rows", "data": "a.jsonl", "check": code}}, {})
    assert trust.names_of(config, "task") == [code]
    with pytest.raises(UserError, match=r"names the task '.*reward.py:accuracy', which would run"):
        trust.require(config, tmp_path / "config.toml", ["task"])

    trust.require(config, tmp_path / "config.toml", ["task"], allowed={code})
    other = resolve({"task": {"name": "rows", "check": "number"}}, {})
    assert trust.named_by_user(config, other, {"task.check": "number"}) >= {code}
    assert trust.named_by_user(config, config, {"task.name": "rows"}) == {"rows"}
