"""How the cache of the slots should be divided into long and short rooms: a simulation of steps.

    python benchmarks/rooms.py

It decodes 640 completions of a 3B model with the memory of 192 long rooms, by the rules of
`SlotSchedule`. A step takes the time of its bytes and FLOPs on an H100 (3.35 TB/s, 650 TFLOP/s
usable) and a fixed time for its many small operations, which is an assumption. Nothing here is a
measurement: the table says which division is robust, and what to expect on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence

import common
import torch

from tinyzero.cost.shapes import SHAPES
from tinyzero.samplers import rooms

PROMPT, LIMIT, ROWS, MOST_ROWS = 192, 1024, 640, 192
SHAPE = SHAPES["Qwen/Qwen2.5-3B"]
BANDWIDTH, RATE, FIXED = 3.35e12, 650e12, 2.5e-3


def distributions() -> dict[str, list[int]]:
    """Lengths of the completions by name."""
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(ROWS, generator=generator)
    short, long = (-mean * uniform.log() for mean in (150, 300))
    bell = torch.exp(5.8 + 0.6 * torch.randn(ROWS, generator=generator))
    is_cut = torch.rand(ROWS, generator=generator) < 0.3

    tensors = {
        "mean 150": short,
        "mean 300": long,
        "bell around 330": bell,
        "a third at the limit": torch.where(is_cut, LIMIT, short),
        "all at the limit": torch.full((ROWS,), float(LIMIT)),
    }
    return {name: t.clamp(5, LIMIT).int().tolist() for name, t in tensors.items()}


def step_seconds(rows: int, tokens: int) -> float:
    """Seconds of a step of `rows` slots that reads `tokens` tokens of the cache."""
    weights = max(2 * SHAPE.active / BANDWIDTH, rows * 2 * SHAPE.active / RATE)
    return weights + tokens * SHAPE.cache(2) / BANDWIDTH + FIXED


def tokens_per_second(lengths: Sequence[int], layout: rooms.Layout) -> float:
    """The rate at which completions of these lengths are decoded with this layout."""
    free = rooms.Rooms(layout)
    entering = list(lengths)
    rows: list[dict[str, int]] = []
    seconds = 0.0

    while entering or rows:
        for row in rows:
            outgrown = free.is_short(row["room"]) and row["drawn"] >= layout.short_length - PROMPT
            row["waits"] = int(outgrown and not free.long)
            if outgrown and free.long:
                free.free(row["room"])
                row["room"] = free.long.pop()

        may_take_long = not any(row["waits"] for row in rows)
        while entering and (free.short or (free.long and may_take_long)):
            rows.append({"room": free.take(), "drawn": 0, "waits": 0, "length": entering.pop()})

        decoded = [row for row in rows if not row["waits"]]
        seconds += step_seconds(len(rows), sum(PROMPT + row["drawn"] for row in decoded))
        for row in decoded:
            row["drawn"] += 1
        for row in rows:
            if row["drawn"] >= row["length"]:
                free.free(row["room"])
        rows = [row for row in rows if row["drawn"] < row["length"]]
    return sum(lengths) / seconds


def layouts() -> dict[str, rooms.Layout]:
    """The divisions to compare, all of the same memory."""
    length = rooms.aligned(PROMPT + LIMIT)
    kinds = {"long rooms only": rooms.Layout(MOST_ROWS, length)}
    for long_share in (1 / 3, 1 / 2, 2 / 3):
        for short_share in (1 / 4, 3 / 8, 1 / 2):
            short_length = rooms.aligned(PROMPT + int(short_share * LIMIT))
            long = int(MOST_ROWS * long_share)
            short = (MOST_ROWS - long) * length // short_length
            name = f"{long} of {length}, {short} of {short_length}"
            kinds[name] = rooms.Layout(long, length, short, short_length)
    return kinds


def main() -> None:
    """Simulate all layouts, and write the table."""
    lengths = distributions()
    chosen = rooms.layout_for(ROWS, MOST_ROWS, PROMPT, LIMIT)
    results: dict[str, dict[str, float]] = {}
    for name, layout in layouts().items():
        label = f"**{name}**" if layout == chosen else name
        results[label] = {kind: tokens_per_second(each, layout) for kind, each in lengths.items()}

    base = results["long rooms only"]
    rows = [
        [name, *(f"{rates[kind] / base[kind]:.2f}" for kind in lengths)]
        for name, rates in results.items()
    ]
    text = "Tokens per second by simulation, relative to long rooms only. In bold: the choice.\n\n"
    text += common.table(["rooms", *lengths], rows)
    common.write("rooms", common.describe([1], "torch"), results, text)


if __name__ == "__main__":
    main()
