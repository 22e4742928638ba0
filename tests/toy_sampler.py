"""A sampler in one file that has what a run needs, but no model."""

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

from tinyzero.samplers import SamplerSpec
from tinyzero.types import Completion, Done, Request, SamplingParams


class Uniform:
    """Draws every token with the same probability. It asks for a copy of the weights."""

    shares_weights = False
    built: ClassVar[list[SamplerSpec]] = []
    pushed: ClassVar[list[tuple[int, list[str]]]] = []

    def __init__(self, size: int, spec: SamplerSpec) -> None:
        self.size, self.decode, self.end_ids = size, spec.decode, spec.end_ids
        self.version = 0

    @classmethod
    def for_model(cls, model: Any, spec: SamplerSpec) -> "Uniform":
        cls.built.append(spec)
        return cls(model.config.vocab_size, spec)

    def generate(
        self, requests: Sequence[Request], params: SamplingParams, done: Done | None = None
    ) -> list[list[Completion]]:
        found = []
        for i, request in enumerate(requests):
            found.append([self._write(request, sample, params) for sample in request.samples])
            if done is not None:
                done(i, found[-1])
        return found

    def stream(self, prompt: Sequence[int], params: SamplingParams) -> Iterator[str]:
        yield self._write(Request(tuple(prompt), 0), 0, params).text

    def load_weights(self, weights: Iterable[tuple[str, Any]], version: int) -> None:
        self.pushed.append((version, [name for name, _ in weights]))
        self.version = version

    def _write(self, request: Request, sample: int, params: SamplingParams) -> Completion:
        ids: list[int] = []
        while len(ids) < params.max_tokens and not (ids and ids[-1] in self.end_ids):
            key = (params.seed, request.group, sample, request.position + len(ids))
            ids.append(random.Random(repr(key)).randrange(self.size))
        ended = ids[-1] in self.end_ids
        return Completion(
            token_ids=tuple(ids),
            loss_mask=(True,) * len(ids),
            sampled_logprobs=(-math.log(self.size),) * len(ids),
            text=self.decode(ids[:-1] if ended else ids),
            finish_reason="stop" if ended else "length",
            first_version=self.version,
            last_version=self.version,
        )


class Unbuildable(Uniform):
    """A sampler that cannot be built."""

    @classmethod
    def for_model(cls, model: Any, spec: SamplerSpec) -> "Uniform":
        raise KeyError("no licence")


class Silent(Uniform):
    """A sampler that never calls `done`."""

    def generate(
        self, requests: Sequence[Request], params: SamplingParams, done: Done | None = None
    ) -> list[list[Completion]]:
        return super().generate(requests, params)


class Failing(Uniform):
    """A sampler that raises when it generates."""

    def generate(
        self, requests: Sequence[Request], params: SamplingParams, done: Done | None = None
    ) -> list[list[Completion]]:
        raise OSError("the server\nis gone")


class Unfinished:
    """A sampler that lacks most methods."""

    shares_weights = True
