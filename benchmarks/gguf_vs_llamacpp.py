"""Compares a converted GGUF model with llama.cpp: token ids, and log-probabilities of next tokens.

llama.cpp comes from the package xllamacpp, which has wheels. It computes with quantised weights and
rounds activations too, so log-probabilities agree only to about 0.2 nats.

    tinyzero convert model.gguf converted
    pip install xllamacpp
    python benchmarks/gguf_vs_llamacpp.py model.gguf converted
"""

from __future__ import annotations

import argparse
import json
from typing import Any
from urllib.request import Request, urlopen

import common
import torch
import xllamacpp

from tinyzero import models

TEXTS = (
    "The capital of France is",
    "a1b2 7 * 8 = 56, 1234567890 ½ ² ٣",
    "two  spaces,\ttab\nand\n\nlines; I'm, you'RE, it's",
    "<think>\n(7 - 3) * 6 = 24\n</think>\n<answer> (7 - 3) * 6 </answer>",
    "Ünïcode, 日本語, 🙂! Ελληνικά",
    "<|im_start|>system\n<|im_end|>\n<|im_start|>user\nWhat is 7 * 8? Answer with the number only."
    "<|im_end|>\n<|im_start|>assistant\n",
)
SHOWN = 5  # likeliest tokens to compare


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", help="the GGUF file")
    parser.add_argument("folder", help="what `tinyzero convert` made of it")
    given = parser.parse_args()

    torch.set_num_threads(1)
    model, tokenizer = models.load_model(given.folder), models.load_tokenizer(given.folder)
    server = started(given.file)
    rows = [compared(server, model, tokenizer, text) for text in TEXTS]

    head = ["text", "tokens", "llama.cpp's", "same ids", "same best", "largest difference"]
    about = common.describe([1], "xllamacpp", "torch", "transformers", "gguf")
    results = [dict(zip(head, row, strict=True)) for row in rows]
    common.write("gguf_vs_llamacpp", about, results, common.table(head, rows))


def started(file: str) -> Any:
    """llama.cpp with the model in `file`, on one thread."""
    params = xllamacpp.CommonParams()
    params.model.path = file
    params.n_ctx, params.n_parallel, params.warmup = 1024, 1, False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    return xllamacpp.Server(params)


def compared(server: Any, model: Any, tokenizer: Any, text: str) -> list[object]:
    """One row: token counts, whether ids and the best next token agree, and the difference."""
    ours = tokenizer(text)["input_ids"]
    asked = {"content": text, "add_special": True, "parse_special": True}
    theirs = post(server, "/tokenize", asked)["tokens"]

    completion = {"prompt": ours, "n_predict": 1, "n_probs": SHOWN, "temperature": 0.0}
    (first,) = post(server, "/completion", completion)["completion_probabilities"]
    with torch.no_grad():
        logprobs = model.logits(torch.tensor([ours]))[0, -1].log_softmax(-1)
    differences = [
        abs(likely["logprob"] - float(logprobs[likely["id"]])) for likely in first["top_logprobs"]
    ]
    is_best = first["top_logprobs"][0]["id"] == int(logprobs.argmax())
    largest = round(max(differences), 3)
    return [repr(text[:24]), len(ours), len(theirs), ours == theirs, is_best, largest]


def post(server: Any, path: str, body: dict[str, Any]) -> Any:
    request = Request(
        server.listening_address + path,
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urlopen(request) as answer:
        return json.load(answer)


if __name__ == "__main__":
    main()
