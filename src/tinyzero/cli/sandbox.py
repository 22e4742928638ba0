"""`tinyzero sandbox`: which sandbox works on this machine, and whether programs escape from it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

EXAMPLES = """\
  tinyzero sandbox                    the strongest sandbox that works here
  tinyzero sandbox --tier landlock    the one without namespaces"""


def add(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command and its arguments."""
    from tinyzero.grading.sandbox.tiers import SANDBOXES

    parser = verb(
        "sandbox",
        run,
        "say which sandbox works here, and try to escape from it",
        examples=EXAMPLES,
    )
    parser.add_argument(
        "--tier",
        choices=("auto", *SANDBOXES),
        default="auto",
        help="the sandbox to try: bwrap, landlock, or the stronger one that works [default: auto]",
    )


def run(given: argparse.Namespace, overrides: dict[str, Any]) -> int:
    """Print the sandboxes, and what each program that tries to escape achieves. 1 if one escapes.

    Raises UserError if no sandbox works here.
    """
    from tinyzero.grading.sandbox import pick_tier
    from tinyzero.grading.sandbox.escapes import try_escapes
    from tinyzero.grading.sandbox.tiers import PLAIN, SANDBOXES, problem_with

    for tier in SANDBOXES:
        print(f"{tier:<9} {problem_with(tier) or 'works here'}")
    print(f"{'plain':<9} works here, but is not a sandbox: {PLAIN}\n")

    tier = pick_tier(given.tier)
    results = try_escapes(tier)
    for result in results:
        print(f"{'ESCAPED' if result.escaped else 'held':<8} {result.name:<36} {result.what}")

    count = sum(result.escaped for result in results)
    held = f"{tier} held against all {len(results) - 1} programs, and the honest one was paid"
    print(f"\n{tier}: {count} of {len(results)} programs escaped" if count else f"\n{held}")
    return 1 if count else 0
