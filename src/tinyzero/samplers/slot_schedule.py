"""Which row is decoded in which slot, and how the drawn tokens reach the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tinyzero.samplers.drawn import DrawnTokens
from tinyzero.samplers.slots import Slots
from tinyzero.types import Request, SamplingParams

# Slots are refilled if at least one in REFILL is free, so that several prompts are read together.
REFILL = 8


class Transfer(NamedTuple):
    """The tokens of one step on their way from the device to the host."""

    rows: Tensor  # (slots,) the row in each slot, -1 if the slot is free
    columns: Tensor  # (slots,) which token of its row it is
    token: Tensor  # (slots,)
    logprob: Tensor  # (slots,)
    arrived: torch.cuda.Event | None

    def wait(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Wait until everything has arrived: (rows, columns, token, logprob) on the host."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.rows, self.columns, self.token, self.logprob


class SlotSchedule:
    """Decides which row is decoded in which slot, until all rows have ended.

    A row is one completion of `drawn`. The state of the schedule is on the host.
    """

    def __init__(
        self,
        slots: Slots,
        drawn: DrawnTokens,
        requests: Sequence[Request],
        params: SamplingParams,
    ) -> None:
        self.slots = slots
        self.drawn = drawn
        self.params = params
        self.prompts = [request.prompt_ids for request in requests]
        self.keys = drawn.keys(params.seed)

        self.next_row = 0  # the first row that has not entered a slot yet
        self.size = slots.bucket(min(drawn.rows, slots.count))  # slots that are stepped together
        self.row_in = torch.full((self.size,), -1)  # the row in each slot, -1 if the slot is free
        self.columns = torch.zeros(self.size, dtype=torch.long)  # tokens drawn for it so far

    def release_ended(self) -> None:
        """Free the slots whose row has ended."""
        self.row_in[~self.drawn.running[self.row_in]] = -1

    def should_refill(self) -> bool:
        """Whether rows are waiting, and enough slots are free for them."""
        free_slots = int((self.row_in < 0).sum())
        return self.next_row < self.drawn.rows and free_slots * REFILL >= self.size

    def refill(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Put the next rows into the free slots, and draw their first tokens.

        Returns what a Transfer returns: (rows, columns, token, logprob) on the host.
        """
        free = (self.row_in < 0).nonzero().squeeze(1)
        rows = torch.arange(self.next_row, min(self.drawn.rows, self.next_row + len(free)))
        into = free[: len(rows)]
        self.next_row = int(rows[-1]) + 1

        requests = self.drawn.request[rows]
        first = int(requests[0])
        last = int(requests[-1])
        logits = self.slots.enter(
            into,
            self.prompts[first : last + 1],
            requests - first,
            self.keys[rows],
            self.drawn.position[rows],
        )
        token, logprob = self.slots.draw(into.to(logits.device), logits, self.params)

        self.row_in[into] = rows
        self.columns[into] = 1
        return rows, torch.zeros_like(rows), token.cpu(), logprob.cpu()

    def shrink(self) -> None:
        """Step fewer slots, if no row is waiting and the remaining ones fit into fewer."""
        live = (self.row_in >= 0).nonzero().squeeze(1)
        if self.next_row < self.drawn.rows or not len(live):
            return
        smaller = self.slots.bucket(len(live))
        if smaller >= self.size:
            return

        self.slots.gather(live)
        spare = smaller - len(live)
        self.row_in = torch.cat((self.row_in[live], torch.full((spare,), -1)))
        self.columns = torch.cat((self.columns[live], torch.zeros(spare, dtype=torch.long)))
        self.size = smaller

    def step(self) -> Transfer | None:
        """Draw the next token of every slot, without waiting for it. None if all slots are free."""
        if not (self.row_in >= 0).any():
            return None
        token, logprob = self.slots.step(self.size, self.params)
        transfer = _to_host(self.row_in.clone(), self.columns.clone(), token, logprob)
        self.columns += 1
        return transfer


def _to_host(rows: Tensor, columns: Tensor, token: Tensor, logprob: Tensor) -> Transfer:
    """Start to copy `token` and `logprob` to the host, without waiting for the copies."""
    if not token.is_cuda:
        return Transfer(rows, columns, token, logprob, None)

    host_token = torch.empty(token.shape, dtype=token.dtype, pin_memory=True)
    host_logprob = torch.empty(logprob.shape, dtype=logprob.dtype, pin_memory=True)
    host_token.copy_(token, non_blocking=True)
    host_logprob.copy_(logprob, non_blocking=True)

    arrived = torch.cuda.Event()
    arrived.record()
    return Transfer(rows, columns, host_token, host_logprob, arrived)
