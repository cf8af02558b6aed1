"""Counts what the hot path costs: a guard against slow-downs that needs no clock.

    python -m tests.cost                       count, and compare with what is recorded
    python -m tests.cost --record              count, and record it as the new ceilings
    python -m tests.cost --calls 'an event'    which functions are called how often, by name

How it works. The real gateway runs under callgrind (`tests.cost.subject`), on real sockets. A
script is both its client and its engine and sends nothing before the last thing had its effect
(`tests.cost.script`), so the gateway takes the same steps each time. Each operation is done n times
and then 2n times; what the second round costs more, divided by n, is its cost. It is told in yards:
rounds of a fixed piece of work counted in the same run (`tests.cost.yardstick`), because Pythons
differ in the machine instructions that they need for the same line. Recorded are the yards, the
system calls and the memory of an open stream; `tests.cost.ceilings` says how much more is too much.

What it cannot see: what the kernel does, caches and branches, waiting, and the collector of cycles,
which is off. That is what `make bench` is for.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from pathlib import Path

from tests.cost.ceilings import judge, recording, table
from tests.cost.measure import count_calls, measure
from tests.cost.operations import OPERATIONS
from tests.support.debian import FetchError
from tests.support.ending import end_tidily

CEILINGS = Path(__file__).with_name("ceilings.json")
_SHOWN = 40


def main(words: list[str]) -> int:
    """Exit code 1 when something costs too much; 2 when this machine cannot count."""
    parser = argparse.ArgumentParser(prog="python -m tests.cost")
    parser.add_argument("--record", action="store_true", help="record what is counted")
    parser.add_argument("--calls", metavar="NAME", help="of operations with this in their name")
    asked = parser.parse_args(words)
    if asked.calls:
        return _show_calls(asked.calls)
    recorded = json.loads(CEILINGS.read_text()) if CEILINGS.exists() else {}
    try:
        figures = measure()
    except FetchError as exc:
        sys.stderr.write(f"cost: {exc}\n")
        return 2
    sys.stdout.write(f"{table(figures, recorded)}\n")
    if asked.record:
        python = f"{platform.python_implementation()} {platform.python_version()}"
        text = json.dumps(recording(figures, f"{python}, {platform.machine()}"), indent=2)
        CEILINGS.write_text(f"{text}\n")
        return 0
    verdict = judge(figures, recorded)
    for line in (*verdict.problems, *verdict.hints):
        sys.stdout.write(f"\n{line}\n")
    return 1 if verdict.problems else 0


def _show_calls(name: str) -> int:
    for operation in OPERATIONS:
        if name in operation.name:
            calls = count_calls(operation)
            sys.stdout.write(f"\n{operation.name}: {calls.total() / operation.times:.1f} calls\n")
            for function, count in calls.most_common(_SHOWN):
                sys.stdout.write(f"{count / operation.times:8.2f}  {function}\n")
    return 0


if __name__ == "__main__":
    end_tidily()
    sys.exit(main(sys.argv[1:]))
