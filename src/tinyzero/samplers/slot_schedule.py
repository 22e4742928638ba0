"""Which row is decoded in which slot and room, and how the drawn tokens reach the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tinyzero.samplers.drawn import DrawnTokens
from tinyzero.samplers.rooms import Rooms
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
    """Decides which row is decoded in which slot and room, until all rows have ended.

    A row is one completion of `drawn`. A row that has filled a short room is moved to a long one.
    If none is free, it waits until one is. Rows in long rooms never wait, so that there is always
    progress. The state of the schedule is on the host.
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
        self.rooms = Rooms(slots.layout)

        lengths = torch.tensor([len(request.prompt_ids) for request in requests])
        self.prompt_lengths = lengths[drawn.request]  # (rows,)

        self.next_row = 0  # the first row that has not entered a slot yet
        self.size = slots.bucket(min(drawn.rows, slots.count))  # slots that are stepped together
        self.row_in = torch.full((self.size,), -1)  # the row in each slot, -1 if the slot is free
        self.room_in = torch.full((self.size,), -1)  # the room of each slot, -1 if it is free
        self.columns = torch.zeros(self.size, dtype=torch.long)  # tokens drawn for it so far
        self.waiting = torch.zeros(self.size, dtype=torch.bool)  # for a long room
        self.placed = torch.empty(0)  # what the slots were told last
        layout = slots.layout
        self.start_of = torch.tensor([layout.start(room) for room in range(layout.count)])

    def release_ended(self) -> None:
        """Free the slots and the rooms of rows that have ended."""
        has_ended = (self.row_in >= 0) & ~self.drawn.running[self.row_in]
        for room in self.room_in[has_ended].tolist():
            self.rooms.free(room)
        self.row_in[has_ended] = -1
        self.room_in[has_ended] = -1
        self.waiting[has_ended] = False

    def entering(self) -> int:
        """How many rows can enter now. Rows that wait for a long room go first."""
        free_slots = int((self.row_in < 0).sum())
        free_rooms = len(self.rooms.short)
        if not self.waiting.any():
            free_rooms += len(self.rooms.long)
        return min(free_slots, free_rooms, self.drawn.rows - self.next_row)

    def should_refill(self) -> bool:
        """Whether rows are waiting to enter, and there is room for enough of them."""
        free_slots = int((self.row_in < 0).sum())
        return self.entering() > 0 and free_slots * REFILL >= self.size

    def refill(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Put the next rows into free slots, and draw their first tokens.

        Returns what a Transfer returns: (rows, columns, token, logprob) on the host.
        """
        free = (self.row_in < 0).nonzero().squeeze(1)
        into = free[: self.entering()]
        rows = torch.arange(self.next_row, self.next_row + len(into))
        self.next_row += len(into)

        self.row_in[into] = rows
        self.room_in[into] = torch.tensor([self.rooms.take() for _ in rows])
        self.columns[into] = 1
        self._assign_rooms()

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
        nothing = torch.full((spare,), -1)
        self.row_in = torch.cat((self.row_in[live], nothing))
        self.room_in = torch.cat((self.room_in[live], nothing))
        self.columns = torch.cat((self.columns[live], torch.zeros_like(nothing)))
        self.waiting = torch.cat((self.waiting[live], torch.zeros(spare, dtype=torch.bool)))
        self.size = smaller

    def move_outgrown(self) -> None:
        """Move rows that have filled their short room to long ones, as far as these are free."""
        layout = self.slots.layout
        filled = self.prompt_lengths[self.row_in] + self.columns - 1
        is_short = self.room_in >= layout.long
        outgrown = is_short & (self.row_in >= 0) & (filled >= layout.short_length)

        for slot in outgrown.nonzero().squeeze(1).tolist():
            self.waiting[slot] = not self.rooms.long
            if self.waiting[slot]:
                continue
            old = int(self.room_in[slot])
            new = self.rooms.long.pop()
            self.slots.move(layout.start(old), layout.start(new), layout.short_length)
            self.rooms.free(old)
            self.room_in[slot] = new

    def _assign_rooms(self) -> None:
        """Tell the slots about their rooms, if anything has changed."""
        starts = self.start_of[self.room_in.clamp(min=0)]
        is_decoded = (self.row_in >= 0) & ~self.waiting
        placed = torch.stack((starts, is_decoded.long()), 1)
        if not torch.equal(placed, self.placed):
            self.slots.assign_rooms(placed)
            self.placed = placed

    def step(self) -> Transfer | None:
        """Draw the next token of every slot, without waiting for it. None if all slots are free.

        Slots whose row waits for a room draw nothing.
        """
        if not (self.row_in >= 0).any():
            return None
        self.move_outgrown()
        self._assign_rooms()

        rows = self.row_in.masked_fill(self.waiting, -1)
        token, logprob = self.slots.step(self.size, self.params)
        transfer = _to_host(rows, self.columns.clone(), token, logprob)
        self.columns += ~self.waiting
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
