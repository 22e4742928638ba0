"""Prices of devices, as given on the command line or from the table of devices."""

from __future__ import annotations

from collections.abc import Mapping

from tinyzero.cost.devices import Device, find_device
from tinyzero.errors import UserError

EVERY = ""
"""The key of a price that holds for every device."""

HIGHEST = 1e6


def read_prices(text: str) -> dict[str, float]:
    """Dollars per hour by short name from "h100=2.1,4090=0.4", or from "2.5" for every device.

    Raises UserError if a part cannot be read.
    """
    prices = {}
    for part in text.split(","):
        name, _, number = part.rpartition("=")
        try:
            price = float(number)
        except ValueError:
            price = -1.0
        if not 0 <= price <= HIGHEST:
            raise UserError(
                f"--price {text!r}: {part!r} is not a price: give dollars per hour, "
                "as 2.5 or h100=2.1,4090=0.4"
            )
        prices[find_device(name) if name else EVERY] = price

    return prices


def price_of(name: str, device: Device, given: Mapping[str, float]) -> tuple[float, float] | None:
    """Lowest and highest dollars per hour of a device: the given price, or else the table's range.

    None if the price is unknown, or given as 0.
    """
    price = given.get(name, given.get(EVERY))
    if price is None:
        return device.price
    return (price, price) if price else None


def rate(price: tuple[float, float] | None) -> str:
    """Dollars per hour as text: "2.4-4.3", "2.15", or "-" if the price is unknown."""
    if price is not None and price[0] == price[1]:
        return f"{price[0]:g}"
    return _range(price, ".1f")


def cost(price: tuple[float, float] | None, hours: float) -> str:
    """Dollars for `hours` as text: "12-21", "3.1-5.6", "< 0.1", or "-" if `price` is unknown."""
    if price is None:
        return "-"
    low, high = price[0] * hours, price[1] * hours
    if high < 0.1:
        return "< 0.1"
    return _range((low, high), ",.0f" if high >= 10 else ".1f")


def _range(ends: tuple[float, float] | None, form: str) -> str:
    if ends is None:
        return "-"
    return "-".join(dict.fromkeys(format(end, form) for end in ends))
