"""What pretraining costs, at 6 FLOPs per active parameter and token: the price of DeepSeek-V3.

    python examples/pretraining_cost.py

The figures are those of its technical report (arXiv:2412.19437). docs/cost.md discusses them.
"""

from __future__ import annotations

from tinyzero.cost.devices import DEVICES

ACTIVE, ALL, TOKENS = 37e9, 671e9, 14.8e12
REPORTED_HOURS = 2.664e6  # of H800s, for pretraining alone
PRICE = 2.0  # dollars per hour
UTILISATION = 0.4  # an ordinary share of the bf16 rate


def hours(parameters: float, tokens: float, rate: float, utilisation: float) -> float:
    """Hours on one device with this rate, of which training reaches a share.

    >>> round(hours(37e9, 14.8e12, 989.4e12, 0.4))
    2306111
    """
    return 6 * parameters * tokens / (rate * utilisation) / 3600


def main() -> None:
    """Print the reported cost, and the cost at an ordinary utilisation, sparse and dense."""
    h800 = DEVICES["h800"]
    flops = 6 * ACTIVE * TOKENS
    reported = flops / (3600 * REPORTED_HOURS)
    shares = [f"{reported / h800.rate(dtype):.1%} of {dtype}" for dtype in ("bfloat16", "float8")]

    print(f"6 x 37e9 active parameters x 14.8e12 tokens = {flops:.3g} FLOP")
    print(f"{REPORTED_HOURS:,.0f} H800 hours reported: {' or '.join(shares)} rates")
    print(f"${PRICE * REPORTED_HOURS / 1e6:.2f} million at ${PRICE:.2f} per hour")

    for name, parameters in (("mixture of experts", ACTIVE), ("dense model of that size", ALL)):
        expected = hours(parameters, TOKENS, h800.rate("bfloat16"), UTILISATION)
        millions = PRICE * expected / 1e6
        print(
            f"at {UTILISATION:.0%} of bfloat16, {name}: {expected:,.0f} h, ${millions:.2f} million"
        )


if __name__ == "__main__":
    main()
