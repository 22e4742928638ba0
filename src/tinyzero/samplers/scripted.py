"""A sampler that answers from a script: for tests, demos, and trying a reward without a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from tinyzero.samplers import require_newer
from tinyzero.types import Completion, Done, FinishReason, Request, SamplingParams

if TYPE_CHECKING:
    import torch


class ScriptedSampler:
    """Says `script(prompt, sample)` to each prompt; a later turn goes on where the last one ended.

    A turn ends with a stop string, or with the text. It is cut at `max_tokens` tokens, and then ends
    by length. Log-probabilities are 0.
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
        self._posed: dict[int, tuple[int, ...]] = {}  # the prompt of each group's first turn

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Takes the version only; a script has no weights."""
        require_newer(version, self.version)
        self.version = version

    def generate(
        self, requests: Sequence[Request], params: SamplingParams, done: Done | None = None
    ) -> list[list[Completion]]:
        """One completion for each sample of each request."""
        found = []
        for i, request in enumerate(requests):
            prompt = self.decode(self._first_prompt(request))
            found.append([self._say(prompt, s, request.position, params) for s in request.samples])
            if done is not None:
                done(i, found[-1])
        return found

    def stream(self, prompt: Sequence[int], params: SamplingParams) -> Iterator[str]:
        """The same as text that grows, a token at a time."""
        for token in self._say(self.decode(prompt), 0, 0, params).token_ids:
            yield self.decode((token,))

    def _first_prompt(self, request: Request) -> tuple[int, ...]:
        """What the group was first asked. If that was elsewhere, it is all but what it drew since."""
        if not request.position:
            self._posed[request.group] = request.prompt_ids
        return self._posed.get(request.group, request.prompt_ids[: -request.position])

    def _say(self, prompt: str, sample: int, position: int, params: SamplingParams) -> Completion:
        rest = list(self.encode(self.script(prompt, sample)))[position:]
        turn = rest[: self._turn_length(rest, params.stop)]
        ids = tuple(turn[: params.max_tokens])
        reason: FinishReason = "stop" if len(ids) == len(turn) else "length"
        zeros = (0.0,) * len(ids)
        return Completion(
            ids, (True,) * len(ids), zeros, self.decode(ids), reason, self.version, self.version
        )

    def _turn_length(self, ids: Sequence[int], stop: tuple[str, ...]) -> int:
        """Tokens up to and including the first stop string; all of them if there is none."""
        if not any(s in self.decode(ids) for s in stop):
            return len(ids)
        lengths = range(1, len(ids) + 1)
        return next(n for n in lengths if any(s in self.decode(ids[:n]) for s in stop))
