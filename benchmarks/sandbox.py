"""How many programs per second does the sandbox run, and how many without its zygote?

    python benchmarks/sandbox.py

Each program has ten calls. Three ways are compared in each sandbox that works here, in turns, so
that other load on the machine disturbs all of them alike:

- zygote: one sandbox, in which a child is forked for each program. A grading worker starts it once
  per run, so its start is not included;
- process: a new Python in the same sandbox for each program, which reads the program and the calls
  as JSON, without any limits or filter: as little as a process per program can cost;
- sandbox: a new sandbox for each program, with all of the protection.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import common

from tinyzero.grading.sandbox import Limits, Sandbox
from tinyzero.grading.sandbox.tiers import PYTHON, SANDBOXES, Tier, bubblewrap, problem_with

SOURCE = "def f(x):\n    return [n * x for n in range(x) if n % 3 == 0]"
CALLS = [str(x) for x in range(3, 13)]
LIMITS = Limits(seconds=60)
ROUNDS = 4

BARE = """
import json, sys
request = json.load(sys.stdin)
names = {}
exec(request["source"], names)
print(json.dumps([names["f"](x) for x in request["calls"]]))
"""


def in_zygote(sandbox: Sandbox, programs: int) -> None:
    """Run the programs in one sandbox, which runs already."""
    for _ in range(programs):
        assert sandbox.run(SOURCE, "f", CALLS).failure is None


def in_process(sandbox: Sandbox, programs: int) -> None:
    """Run each program in a Python of its own."""
    command = [PYTHON, "-I", "-S", "-B", "-c", BARE]
    if sandbox.tier == "bwrap":
        command = [*bubblewrap(), *command]
    request = json.dumps({"source": SOURCE, "calls": [int(call) for call in CALLS]})
    for _ in range(programs):
        done = subprocess.run(
            command, input=request, capture_output=True, text=True, env={}, check=True
        )
        assert len(json.loads(done.stdout)) == len(CALLS)


def in_own_sandbox(sandbox: Sandbox, programs: int) -> None:
    """Run each program in a sandbox of its own."""
    for _ in range(programs):
        with closing(Sandbox(sandbox.tier, LIMITS)) as own:
            assert own.run(SOURCE, "f", CALLS).failure is None


WAYS: dict[str, Callable[[Sandbox, int], None]] = {
    "zygote": in_zygote,
    "process": in_process,
    "sandbox": in_own_sandbox,
}


def measure(tier: Tier, programs: int) -> dict[str, dict[str, float]]:
    """Seconds per program by the clock, for each way."""
    totals = dict.fromkeys(WAYS, 0.0)
    counts = dict.fromkeys(WAYS, 0)
    with closing(Sandbox(tier, LIMITS)) as sandbox:
        in_zygote(sandbox, 1)
        for _ in range(ROUNDS):
            for way, run in WAYS.items():
                count = programs if way == "zygote" else max(1, programs // 8)
                began = time.perf_counter()
                run(sandbox, count)
                totals[way] += time.perf_counter() - began
                counts[way] += count
    return {way: {"seconds": totals[way] / counts[way]} for way in WAYS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", type=int, default=64, help="in each of four rounds")
    given = parser.parse_args()

    load_before = os.getloadavg()[0]
    results: dict[str, Any] = {}
    rows = []
    for tier in SANDBOXES:
        if problem_with(tier):
            print(f"{tier} is left out: {problem_with(tier)}")
            continue
        results[tier] = measure(tier, given.programs)
        for way, one in results[tier].items():
            ratio = one["seconds"] / results[tier]["zygote"]["seconds"]
            one["times as long"] = ratio
            clock = [f"{1000 * one['seconds']:.1f}", f"{1 / one['seconds']:.1f}", f"{ratio:.1f}"]
            rows.append([tier, way, *clock])

    load = max(load_before, os.getloadavg()[0])
    results["load"] = load
    head = ["sandbox", "way", "ms per program", "programs per s", "times as long"]
    text = (
        f"Programs with {len(CALLS)} calls each, one after another. The machine was busy: its "
        f"load was {load:.1f}, so compare the ways with each other and not with other machines.\n\n"
        + common.table(head, rows)
    )
    common.write("sandbox", common.describe([1]), results, text)


if __name__ == "__main__":
    main()
