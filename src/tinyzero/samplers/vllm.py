"""vLLM beside the learner, in the same process. The one importer of vllm, which is loaded late.

It holds a copy of the weights, so every update is pushed: in place, under Hugging Face names, and what arrived is
checked bit for bit before anything is sampled with it, since a push can report success and change nothing. On a GPU
vLLM sleeps between calls and the learner has its memory. Its log-probabilities are not quite the learner's (other
kernels, other roundings); a run records the difference as `mismatch` and corrects for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tinyzero.errors import UserError
from tinyzero.models import Backbone, first_line, locate
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

PROBES = 8  # columns of each layer that are looked at after a push
WAY_OUT = "go on with --sampler.name torch, and report vLLM's version and the model"
HASHED_AT_ONCE = 1 << 24  # numbers, whose hashes take eight bytes each


class VllmSampler:
    """Samples from vLLM's copy of `model`, loaded from `path`: a folder, or a hub id."""

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
        """`model` is the learner's: vLLM takes its device, precision and context from it. `rows` decode at once, over
        a key-value cache of `cache_bytes`. Raises UserError where vLLM is missing or cannot run the model."""
        self.decode, self.end_ids, self.version = decode, end_ids, 0
        self.tied = bool(model.config.tie_word_embeddings)
        self.vocabulary, self.dtype = int(model.config.vocab_size), model.dtype
        self.sleeps = model.device.type == "cuda"
        vllm = _import_vllm(on_cpu=not self.sleeps)
        self.vllm = vllm
        try:
            self.engine = vllm.LLM(
                model=path,
                dtype=str(model.dtype).removeprefix("torch."),
                max_model_len=model.context,
                max_num_seqs=rows,
                kv_cache_memory_bytes=cache_bytes,
                gpu_memory_utilization=0.01,  # says nothing beside the cache's size, but must be free at the start
                logprobs_mode="processed_logprobs",
                enable_sleep_mode=self.sleeps,
                enforce_eager=not self.sleeps,
                disable_log_stats=True,
                seed=0,
            )
        except (
            ValueError,
            RuntimeError,
        ) as error:  # a model it does not know, or memory that does not suffice
            hint = "give the cache another sampler.cache_gb, or take --sampler.name torch"
            raise UserError(f"vLLM cannot run {path!r}: {first_line(error)}; {hint}") from error
        self._rest()

    @classmethod
    def for_model(cls, model: Backbone, spec: SamplerSpec) -> VllmSampler:
        """The sampler of a run; its cache holds `rows` completions of full length unless told otherwise."""
        # room for the prompts too, which their groups share
        tokens = spec.rows * spec.max_tokens + model.context
        cache_bytes = int(spec.cache_gb * 1e9) or tokens * model.cache_bytes
        path = locate(spec.model_name)
        return cls(path, model, spec.decode, spec.end_ids, spec.rows, cache_bytes)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Push `weights` in place and take the version, which must go up.

        Raises UserError where what vLLM holds afterwards, or what its layers compute with, is not what was pushed.
        """
        require_newer(version, self.version)
        hashes: list[int] = []
        if self.sleeps:
            self.engine.wake_up(tags=["weights"])
        self.engine.collective_rpc(
            "reload_weights", kwargs={"weights_iterator": self._hashed(weights, hashes)}
        )
        self.engine.reset_prefix_cache()  # its keys and values were made by the old weights
        (arrived,) = self.engine.apply_model(_held)
        if arrived != sum(hashes) % 2**64:
            raise UserError(
                f"the weights of version {version} did not arrive in vLLM, which holds others: {WAY_OUT}"
            )
        (stale,) = self.engine.apply_model(lambda model: stale_layers(model, version))
        if stale:
            raise UserError(
                f"the weights of version {version} arrived in vLLM, but {len(stale)} of its layers compute with "
                f"others, first {stale[0]}: {WAY_OUT}"
            )
        self.version = version

    def stream(self, prompt: Sequence[int], params: SamplingParams) -> Iterator[str]:
        """The completion of one prompt, all at once."""
        yield self.generate(requests_for([prompt]), params)[0][0].text

    def _hashed(
        self, weights: Iterable[tuple[str, Tensor]], hashes: list[int]
    ) -> Iterator[tuple[str, Tensor]]:
        """`weights` as vLLM names them, each hashed as it passes: a merged weight exists no longer than its push."""
        for name, weight in weights:
            if not (self.tied and name == "lm_head.weight"):
                hashes.append(fingerprint([weight.to(self.dtype)]))
                yield name, weight

    def generate(
        self, requests: Sequence[Request], params: SamplingParams, done: Done | None = None
    ) -> list[list[Completion]]:
        """One completion for each sample of each request.

        vLLM draws by one seed for each completion, so the rest of the batch does not matter. A later
        turn has a seed of its own: it repeats nothing, and differs from what one long turn draws.
        `done` is called at the end, when vLLM answers.
        """
        asked = [
            self._request(params, seed)
            for request in requests
            for seed in seeds_of(request, params.seed)
        ]
        inputs = [
            self.vllm.TokensPrompt(prompt_token_ids=list(request.prompt_ids))
            for request in requests
            for _ in request.samples
        ]
        if self.sleeps:
            self.engine.wake_up()
        try:
            answers = iter(self.engine.generate(inputs, asked, use_tqdm=False))
        finally:
            self._rest()
        found = []
        for i, request in enumerate(requests):
            outputs = [next(answers).outputs[0] for _ in request.samples]
            found.append([self._completion(output, params) for output in outputs])
            if done is not None:
                done(i, found[-1])
        return found

    def _rest(self) -> None:
        """Give the GPU's memory back until the next call; the weights wait in the host's."""
        if self.sleeps:
            self.engine.sleep(level=1)

    def _request(self, params: SamplingParams, seed: int) -> Any:
        allowed = (
            sorted(set(range(self.vocabulary)) - set(params.banned)) if params.banned else None
        )
        return self.vllm.SamplingParams(
            temperature=params.temperature,
            top_p=params.top_p,
            top_k=params.top_k,
            max_tokens=params.max_tokens,
            stop=list(params.stop),
            stop_token_ids=sorted(self.end_ids),
            ignore_eos=True,  # the end tokens are those just given, for every sampler the same
            allowed_token_ids=allowed,
            skip_special_tokens=False,  # a stop string may be one
            logprobs=0,  # that of the token sampled, and no other
            seed=seed,
        )

    def _completion(self, output: Any, params: SamplingParams) -> Completion:
        """The ids are kept whole, the text is cut by the rule of every sampler."""
        ids = tuple(output.token_ids)
        logprobs = tuple(
            found[token].logprob for found, token in zip(output.logprobs, ids, strict=True)
        )
        if params.temperature == 0:
            logprobs = (0.0,) * len(ids)
        text, _ = ending(ids, self.decode, self.end_ids, params.stop)
        reason: FinishReason = (
            output.finish_reason if output.finish_reason in ("stop", "length") else "abort"
        )
        return Completion(
            ids, (True,) * len(ids), logprobs, text, reason, self.version, self.version
        )


def _import_vllm(on_cpu: bool) -> Any:
    """vLLM, so set that it stays in this process. Raises UserError where it is missing or does not import."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the weights are handed over as they are
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    if on_cpu:
        os.environ.setdefault(
            "VLLM_CPU_OMP_THREADS_BIND", "nobind"
        )  # the learner's threads are the same ones
    try:
        import vllm

        if on_cpu:
            # its CPU layers compute with a packed copy of their weights that no push reaches; these have none
            import vllm._custom_ops

            vllm._custom_ops._supports_onednn = False
    except (
        ImportError,
        RuntimeError,
    ) as error:  # RuntimeError: a torchvision built for another torch
        raise UserError(
            f"the vllm sampler needs vLLM: pip install tinyzero[vllm], or --sampler.name torch ({first_line(error)})"
        ) from error
    return vllm


def seeds_of(request: Request, seed: int) -> list[int]:
    """What vLLM's generators start from: a number of 63 bits for each sample of a request."""
    samples = torch.tensor(request.samples)
    keys = row_keys(seed, torch.full_like(samples, request.group), samples)
    if request.position:
        keys = mix(keys ^ mix(torch.full_like(samples, request.position)))
    return [key & (2**63 - 1) for key in keys.tolist()]


def fingerprint(tensors: Iterable[Tensor]) -> int:
    """A hash of all numbers of `tensors`, in whatever order and whatever tensors they lie.

    vLLM joins and pads a model's weights: the same numbers have the same fingerprint, and zeros count for nothing.
    A number that differs in its last bit makes another.
    """
    total = 0
    for tensor in tensors:
        for part in tensor.detach().reshape(-1).split(HASHED_AT_ONCE):
            bits = part.float().view(torch.int32).long()  # exact from bf16 and fp16
            total += int(torch.where(part == 0, 0, mix(bits)).sum())
    return total % 2**64


def _held(model: nn.Module) -> int:
    """The hash of what vLLM's model holds. Runs inside vLLM."""
    return fingerprint(model.parameters())


@torch.inference_mode()
def stale_layers(model: nn.Module, offset: int) -> list[str]:
    """Layers of vLLM's model that do not compute with the weight they show. Runs inside vLLM.

    A row with a single one brings out one column of the weight exactly, whatever the kernel; other columns with each
    `offset`.
    """
    found = []
    for name, layer in model.named_modules():
        method, weight = getattr(layer, "quant_method", None), getattr(layer, "weight", None)
        if method is None or weight is None or weight.ndim != 2:
            continue
        width = weight.shape[1]
        columns = (
            torch.arange(PROBES, device=weight.device) * (width // PROBES + 1) + offset
        ) % width
        rows = nn.functional.one_hot(columns, width).to(weight.dtype)
        if not torch.equal(method.apply(layer, rows).to(weight.dtype), weight[:, columns].T):
            found.append(name)
    return found


SAMPLER = VllmSampler
