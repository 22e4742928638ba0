"""A sampler that answers from a script: for tests, demos, and trying a reward without a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from tinyzero.samplers import require_newer
from tinyzero.types import Completion, FinishReason, SamplingParams

if TYPE_CHECKING:
    import torch


class ScriptedSampler:
    """Says `script(prompt_text, sample)` to each prompt.

    Text longer than `max_tokens` tokens is cut and finishes by length; the rest stops. Logprobs are 0.
    """

    shares_weights = True

    def __init__(
        self,
        script: Callable[[str, int], str],
        encode: Callable[[str], Sequence[int]],
        decode: Callable[[Sequence[int]], str],
    ) -> None:
        self.script, self.encode, self.decode = script, encode, decode
        self.version = 0

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Takes the version only; a script has no weights."""
        require_newer(version, self.version)
        self.version = version

    def generate(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, first_group: int = 0
    ) -> list[list[Completion]]:
        """`params.n` completions a prompt."""
        return [[self._say(self.decode(p), i, params) for i in range(params.n)] for p in prompts]

    def stream(self, prompt: Sequence[int], params: SamplingParams) -> Iterator[str]:
        """The same as text that grows, a token at a time."""
        for token in self._say(self.decode(prompt), 0, params).token_ids:
            yield self.decode((token,))

    def _say(self, prompt: str, sample: int, params: SamplingParams) -> Completion:
        full = list(self.encode(self.script(prompt, sample)))
        ids = tuple(full[: params.max_tokens])
        reason: FinishReason = "stop" if len(ids) == len(full) else "length"
        zeros = (0.0,) * len(ids)
        return Completion(
            ids, (True,) * len(ids), zeros, self.decode(ids), reason, self.version, self.version
        )
