"""The tokens drawn so far for the rows of a batch of requests, in the memory of the host."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from tinyzero.samplers.draw import row_keys
from tinyzero.types import Completion, Request, SamplingParams


class DrawnTokens:
    """The tokens drawn so far for some requests, in the memory of the host.

    There is one row per sample, in the order of the requests and of their samples.
    """

    def __init__(self, requests: Sequence[Request], params: SamplingParams) -> None:
        samples_per_request = torch.tensor([len(request.samples) for request in requests])
        positions = torch.tensor([request.position for request in requests])
        groups = torch.tensor([request.group for request in requests])
        limits = torch.tensor([request.limit(params) for request in requests])

        self.request = torch.arange(len(requests)).repeat_interleave(samples_per_request)  # (rows,)
        self.position = positions[self.request]
        self.group = groups[self.request]
        self.limit = limits[self.request]  # (rows,) the most new tokens of each row
        self.sample = torch.tensor([number for request in requests for number in request.samples])

        ends = samples_per_request.cumsum(0).tolist()
        self.rows_of_request = [range(start, end) for start, end in pairwise([0, *ends])]
        self.running_rows = samples_per_request.clone()  # (requests,) rows that have not ended yet

        self.rows = len(self.request)
        most = int(limits.max())
        self.tokens = torch.zeros(self.rows, most, dtype=torch.long)
        self.logprobs = torch.zeros(self.rows, most)
        self.lengths = self.limit.clone()  # valid for rows that have ended
        self.running = torch.ones(self.rows, dtype=torch.bool)
        self.completions: list[list[Completion]] = [[] for _ in requests]

    def keys(self, seed: int) -> Tensor:
        """(rows,) the keys of each row's randomness; the position of a token is added to them."""
        return row_keys(seed, self.group, self.sample)

    def stop(self, rows: Tensor) -> list[int]:
        """Mark running `rows` as ended. Returns the requests that have no running row any more."""
        self.running[rows] = False
        requests, counts = self.request[rows].unique(return_counts=True)
        self.running_rows[requests] -= counts
        finished: list[int] = requests[self.running_rows[requests] == 0].tolist()
        return finished
