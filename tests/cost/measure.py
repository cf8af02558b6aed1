"""Counts what the gateway's hot path costs, in machine instructions under callgrind."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.cost.dump import Dump, read_dump
from tests.cost.operations import OPERATIONS, Operation
from tests.cost.session import YARDS, YARDSTICK, session
from tests.cost.switch import compile_switch
from tests.support.debian import tool

__all__ = ["BUILD", "Cost", "Figures", "count_calls", "measure"]

BUILD = Path(__file__).parents[2] / "build" / "cost"
"""Callgrind's files stay here, two for each operation; each run begins with an empty folder."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one operation."""

    instructions: float
    system_calls: float
    functions: Counter[str]
    """Instructions by C function, without those that it calls."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What one run has found."""

    yard: float
    """Instructions of one round of the yardstick."""
    operations: dict[str, Cost]
    blocks: float
    """Python's small pieces of memory in one open stream, its two connections included."""
    large_bytes: float
    """Memory of one open stream besides."""

    def yards(self, name: str) -> float:
        """What an operation costs as a multiple of the yardstick."""
        return self.operations[name].instructions / self.yard


def measure(
    operations: Sequence[Operation] = OPERATIONS, *, burden: bool = False, build: Path = BUILD
) -> Figures:
    """Count everything once; takes some ten seconds.

    Args:
        operations: What to count.
        burden: Whether the gateway should do more than it has to for each event of a stream.
        build: Where callgrind's files go.

    Raises:
        FetchError: There is no valgrind or no C compiler, and none could be had.
    """
    shutil.rmtree(build, ignore_errors=True)
    build.mkdir(parents=True)
    valgrind = tool("valgrind", ["valgrind"], "usr/bin/valgrind")
    library = {} if valgrind.root is None else {"VALGRIND_LIB": _library(valgrind.root)}
    under = [
        *(str(valgrind.path), "-q", "--tool=callgrind", "--instr-atstart=no"),
        *("--separate-threads=yes", "--collect-systime=yes"),
        f"--callgrind-out-file={build}/callgrind.out",
    ]
    how = [str(compile_switch(valgrind.path, build)), *(["burden"] if burden else [])]
    with session(under, how, library) as counted:
        counted.count(operations)
        blocks, large_bytes = counted.memory_of_a_stream()
    dumps = _dumps(build)
    return Figures(
        yard=_difference(dumps, YARDSTICK, YARDS).instructions,
        operations={each.name: _difference(dumps, each.name, each.times) for each in operations},
        blocks=blocks,
        large_bytes=large_bytes,
    )


def count_calls(operation: Operation, build: Path = BUILD) -> Counter[str]:
    """Calls of each function that *times* of an operation make, C functions included."""
    build.mkdir(parents=True, exist_ok=True)
    with session((), ("calls", str(build))) as counted:
        counted.count((operation,))
    once, twice = (
        Counter[str](json.loads((build / f"{operation.name}-{round_}.calls.json").read_text()))
        for round_ in (1, 2)
    )
    twice.subtract(once)
    return +twice


def _library(root: Path) -> str:
    return str(root / "usr" / "libexec" / "valgrind")


def _dumps(build: Path) -> dict[str, Dump]:
    """What the first thread has done, by the mark's name. The log's thread goes by the clock."""
    dumps = (read_dump(path.read_text(errors="replace")) for path in build.glob("*.out.*-01"))
    return {dump.title: dump for dump in dumps}


def _difference(dumps: dict[str, Dump], name: str, times: int) -> Cost:
    once, twice = dumps[f"{name}-1"], dumps[f"{name}-2"]
    functions = twice.instructions.copy()
    functions.subtract(once.instructions)
    return Cost(
        functions.total() / times,
        (twice.system_calls.total() - once.system_calls.total()) / times,
        Counter({name: count // times for name, count in functions.items()}),
    )
