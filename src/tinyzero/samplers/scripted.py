"""A sampler that answers from a script, for tests, demos, and trying a reward without a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from tinyzero.samplers import require_newer
from tinyzero.types import Completion, Done, FinishReason, Request, SamplingParams

if TYPE_CHECKING:
    import torch


class ScriptedSampler:
    """Answers each prompt with `script(prompt, sample)`, where `sample` is the sample's number.

    A turn ends after a stop string or at the end of the scripted text; a later turn continues with
    the rest of it. A turn of more than `max_tokens` tokens is cut and has the finish reason
    "length". All log-probabilities are 0.
    """

    shares_weights = True

    def __init__(
        self,
        script: Callable[[str, int], str],
        encode: Callable[[str], Sequence[int]],
        decode: Callable[[Sequence[int]], str],
    ) -> None:
        self.script = script
        self.encode = encode
        self.decode = decode
        self.version = 0
        self._first_prompts: dict[int, tuple[int, ...]] = {}  # by group

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Take over the version; a script has no weights."""
        require_newer(version, self.version)
        self.version = version

    def generate(
        self, requests: Sequence[Request], params: SamplingParams, done: Done | None = None
    ) -> list[list[Completion]]:
        """One completion for each sample of each request."""
        all_completions = []
        for number, request in enumerate(requests):
            prompt = self.decode(self._first_prompt(request))
            own_params = replace(params, max_tokens=request.limit(params))
            completions = [
                self._answer(prompt, sample, request.position, own_params)
                for sample in request.samples
            ]
            all_completions.append(completions)
            if done is not None:
                done(number, completions)
        return all_completions

    def stream(self, prompt: Sequence[int], params: SamplingParams) -> Iterator[str]:
        """The text of the first completion, token by token."""
        completion = self._answer(self.decode(prompt), 0, 0, params)
        for token in completion.token_ids:
            yield self.decode((token,))

    def _first_prompt(self, request: Request) -> tuple[int, ...]:
        """The prompt of the first turn of the request's group.

        If another sampler answered the first turn, it is the prompt without the tokens drawn since.
        """
        if not request.position:
            self._first_prompts[request.group] = request.prompt_ids
        return self._first_prompts.get(request.group, request.prompt_ids[: -request.position])

    def _answer(
        self, prompt: str, sample: int, position: int, params: SamplingParams
    ) -> Completion:
        """The turn of the script that begins at token `position`."""
        rest = list(self.encode(self.script(prompt, sample)))[position:]
        turn = rest[: self._turn_length(rest, params.stop)]
        ids = tuple(turn[: params.max_tokens])

        reason: FinishReason = "stop" if len(ids) == len(turn) else "length"
        return Completion(
            token_ids=ids,
            loss_mask=(True,) * len(ids),
            sampled_logprobs=(0.0,) * len(ids),
            text=self.decode(ids),
            finish_reason=reason,
            first_version=self.version,
            last_version=self.version,
        )

    def _turn_length(self, ids: Sequence[int], stop: tuple[str, ...]) -> int:
        """Tokens up to and including the first stop string, or all tokens."""
        whole_text = self.decode(ids)
        if not any(string in whole_text for string in stop):
            return len(ids)

        for length in range(1, len(ids) + 1):
            text = self.decode(ids[:length])
            if any(string in text for string in stop):
                return length
        return len(ids)
