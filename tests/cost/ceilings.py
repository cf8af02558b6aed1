"""PURE. Compares what was counted with what is recorded in ceilings.json."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.cost.measure import Cost, Figures

__all__ = ["Verdict", "judge", "recording", "table"]

_HEADROOM = 0.06
"""Of what is recorded; runs on idle and busy machines lie within 0.02 of each other."""
_STRANGE_HEADROOM = 0.12
"""For another Python than the one that was there when it was recorded, see the yardstick."""
_SAME_YARD = 0.02
"""The yardstick is known to be that Python's by its own length."""
_MEMORY_ROOM = 0.10
_CALLS_ROOM = 0.25
"""System calls; one more in each operation is too many."""
_BYTES_ROOM = 1024
_LOWER = 0.10
"""So much below, and the ceiling should come down, or half of it can be lost again unseen."""
_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Verdict:
    """What there is to say about one run."""

    problems: tuple[str, ...]
    """What costs too much, and how to look at it."""
    hints: tuple[str, ...]
    """What is recorded too high."""


def judge(figures: Figures, recorded: dict[str, Any]) -> Verdict:
    """Compare; an operation that is not recorded is a problem, too."""
    problems, hints = [], []
    same = abs(figures.yard / recorded["yard"] - 1) < _SAME_YARD
    headroom = _HEADROOM if same else _STRANGE_HEADROOM
    for name, cost in figures.operations.items():
        old = recorded["operations"].get(name)
        if old is None:
            problems.append(f"{name} is not recorded: run 'make cost-record'")
            continue
        ceiling = old["yards"] * (1 + headroom)
        if figures.yards(name) > ceiling:
            problems.append(_too_dear(name, cost, figures, old, ceiling))
        if cost.system_calls > old["system_calls"] + _CALLS_ROOM:
            problems.append(
                f"{name} makes {cost.system_calls:.1f} system calls; recorded are "
                f"{old['system_calls']:.1f}"
            )
        if figures.yards(name) < old["yards"] * (1 - _LOWER):
            hints.append(
                f"{name} costs {figures.yards(name):.4f} yards, recorded are {old['yards']:.4f}: "
                "run 'make cost-record', or what was won can be lost again unseen"
            )
    problems += _memory_problems(figures, recorded["open stream"])
    return Verdict(tuple(problems), tuple(hints))


def _memory_problems(figures: Figures, old: dict[str, float]) -> list[str]:
    problems = []
    if figures.blocks > old["blocks"] * (1 + _MEMORY_ROOM):
        problems.append(
            f"an open stream holds {figures.blocks:.0f} blocks of memory; recorded are "
            f"{old['blocks']:.0f}"
        )
    if figures.large_bytes > old["large_bytes"] * (1 + _MEMORY_ROOM) + _BYTES_ROOM:
        problems.append(
            f"an open stream holds {figures.large_bytes:.0f} bytes besides its small blocks; "
            f"recorded are {old['large_bytes']:.0f}"
        )
    return problems


def _too_dear(
    name: str, cost: Cost, figures: Figures, old: dict[str, float], ceiling: float
) -> str:
    dearest = ", ".join(f"{what} {count:,}" for what, count in cost.functions.most_common(_SHOWN))
    return (
        f"{name} costs {figures.yards(name):.4f} yards ({cost.instructions:,.0f} instructions); "
        f"recorded are {old['yards']:.4f} ({old['instructions']:,.0f} there), the ceiling is "
        f"{ceiling:.4f}.\n"
        f"  Most of it goes into: {dearest}.\n"
        f"  What is called how often, to compare with an older commit: "
        f"python -m tests.cost --calls '{name}'\n"
        f"  All of it: callgrind_annotate on the files of build/cost/ that have the name in them.\n"
        f"  If it is worth that much: make cost-record"
    )


def recording(figures: Figures, python: str) -> dict[str, Any]:
    """What to write into ceilings.json."""
    return {
        "recorded_with": python,
        "yard": round(figures.yard),
        "operations": {
            name: {
                "yards": round(figures.yards(name), 4),
                "instructions": round(cost.instructions),
                "system_calls": round(cost.system_calls, 1),
            }
            for name, cost in figures.operations.items()
        },
        "open stream": {
            "blocks": round(figures.blocks),
            "large_bytes": round(figures.large_bytes),
        },
    }


def table(figures: Figures, recorded: dict[str, Any]) -> str:
    """For a person: each operation, and what is recorded of it."""
    lines = [f"{'':36}{'instructions':>13}{'yards':>9}{'recorded':>10}{'system calls':>14}"]
    for name, cost in figures.operations.items():
        old = recorded.get("operations", {}).get(name, {}).get("yards")
        lines.append(
            f"{name:36}{cost.instructions:>13,.0f}{figures.yards(name):>9.4f}"
            f"{'-' if old is None else format(old, '.4f'):>10}{cost.system_calls:>14.1f}"
        )
    lines.append(
        f"an open stream holds {figures.blocks:.0f} blocks and {figures.large_bytes:,.0f} bytes; "
        f"a yard is {figures.yard:,.0f} instructions"
    )
    return "\n".join(lines)
