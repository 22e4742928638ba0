"""Where sequences lie in a cache of two kinds of rooms: long ones, and more short ones.

Most completions end early. If every sequence had a room of the greatest length, two thirds of the
cache would stay empty. A sequence therefore begins in a short room if there is one. When it has
filled the room it is moved to a long one, once.
"""

from __future__ import annotations

from dataclasses import dataclass

ALIGNMENT = 64  # the length of a room is a multiple of this
SPARE = ALIGNMENT  # the first tokens of the cache; slots that are not decoded write there

# Chosen by simulating steps of 640 completions with several distributions of their length, so that
# no distribution becomes slower and most become faster (benchmarks/rooms.py).
LONG_SHARE = 2 / 3  # share of the cache that is given to long rooms
SHORT_SHARE = 3 / 8  # a short room holds this share of the longest completion


@dataclass(frozen=True)
class Layout:
    """How many rooms a cache has, and how many tokens fit into each.

    Rooms are numbered: first the long ones, then the short ones.
    """

    long: int
    length: int
    short: int = 0
    short_length: int = 0

    @property
    def count(self) -> int:
        """The number of rooms, which is the number of sequences that are decoded together."""
        return self.long + self.short

    @property
    def tokens(self) -> int:
        """The tokens that the whole cache holds."""
        return SPARE + self.long * self.length + self.short * self.short_length

    def start(self, room: int) -> int:
        """The first token of a room.

        >>> [Layout(2, 192, 2, 64).start(room) for room in range(4)]
        [64, 256, 448, 512]
        """
        short = max(0, room - self.long)
        return SPARE + min(room, self.long) * self.length + short * self.short_length


def aligned(length: int) -> int:
    """`length`, rounded up to a multiple of ALIGNMENT."""
    return -(-length // ALIGNMENT) * ALIGNMENT


def layout_for(rows: int, most_rows: int, prompt: int, new: int) -> Layout:
    """Rooms for `rows` completions of up to `new` tokens, after up to `prompt` tokens.

    They take at most the memory of `most_rows` long rooms. A short room always holds the prompt.

    >>> layout_for(rows=640, most_rows=192, prompt=192, new=1024)
    Layout(long=128, length=1216, short=135, short_length=576)
    """
    length = aligned(prompt + new)
    short_length = aligned(prompt + int(new * SHORT_SHARE))
    if rows <= most_rows or 4 * short_length > 3 * length:
        return Layout(min(rows, most_rows), length)

    long = -int(-most_rows * LONG_SHARE // 1)
    short = (most_rows - long) * length // short_length
    return Layout(long, length, min(short, rows - long), short_length)


class Rooms:
    """Which rooms are free."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.long = list(range(layout.long))
        self.short = list(range(layout.long, layout.count))

    def is_short(self, room: int) -> bool:
        """Whether this is a short room, which its sequence may outgrow."""
        return room >= self.layout.long

    def take(self) -> int:
        """A free room, a short one if possible. Raises IndexError if all rooms are taken."""
        return self.short.pop() if self.short else self.long.pop()

    def free(self, room: int) -> None:
        """Give a room back."""
        (self.short if self.is_short(room) else self.long).append(room)
