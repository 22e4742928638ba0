"""Pairs in which the shorter of two answers is chosen, for `tinyzero prefer`.

The bundled base answers Countdown problems several times. Of each problem, its shortest answer is
chosen over its longest one, whether they are right or not. A model that is trained against this
preference learns to stop early, and solves no more problems: docs/judges.md shows how that looks.

    python examples/short_answers.py pairs.jsonl
    tinyzero prefer pairs.jsonl --model tiny --out runs/short --learning_rate 0.001
"""

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import tinyzero

PROBLEMS, SAMPLES = 256, 4


def make_pairs(records: list[dict[str, Any]]) -> list[dict[str, str]]:
    """One pair per problem whose answers differ in length."""
    texts: dict[str, list[str]] = defaultdict(list)
    for record in records:
        question = record["prompt"].removesuffix("\n<think>\n")
        texts[question].append(record["text"].strip())

    pairs = []
    for question, answers in texts.items():
        chosen, rejected = min(answers, key=len), max(answers, key=len)
        if len(chosen) < len(rejected):
            pairs.append({"prompt": question, "chosen": chosen, "rejected": rejected})
    return pairs


if __name__ == "__main__":
    answers = tinyzero.sample("tiny", problems=PROBLEMS, samples=SAMPLES, split="train")
    lines = [json.dumps(pair) + "\n" for pair in make_pairs(answers)]
    Path(sys.argv[1]).write_text("".join(lines), encoding="utf-8")
    print(f"{len(lines)} pairs in {sys.argv[1]}")
