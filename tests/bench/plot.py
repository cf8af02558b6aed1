"""The picture of the bench: CPU of nginx and of the gateway side by side, and the goals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

from tests.bench.figures import Rounds, cost
from tests.bench.goals import Goal, goals
from tests.bench.workloads import Workload

__all__ = ["draw"]

_COLOURS = {"nginx": "#8a8f98", "gateway": "#2563eb"}
_LONGEST = 3.0
_VERDICTS = {"met": "#15803d", "acceptable": "#ca8a04", "missed": "#b91c1c"}


def draw(path: Path, workloads: Sequence[Workload], rounds: Rounds, title: str) -> bool:
    """Write the picture to *path*; False, and an older one is gone, without matplotlib."""
    path.unlink(missing_ok=True)
    try:
        import matplotlib  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot  # type: ignore[import-not-found, unused-ignore]

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(16, 7), layout="constrained")
    _draw_costs(left, workloads, rounds)
    _draw_goals(right, [goal for goal in goals(rounds) if goal.figure is not None])
    figure.suptitle("\n".join(wrap(title, 190)), fontsize=10)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return True


def _draw_costs(axes: Any, workloads: Sequence[Workload], rounds: Rounds) -> None:
    shown = [w for w in workloads if w.unit and rounds.get(w.name, {}).get("gateway")]
    every: list[float] = []
    for offset, door in ((-0.2, "nginx"), (0.2, "gateway")):
        costs = [cost(rounds[w.name].get(door, ())) or 0.0 for w in shown]
        every += costs
        places = [at + offset for at in range(len(shown))]
        bars = axes.barh(places, costs, height=0.38, color=_COLOURS[door], label=door)
        axes.bar_label(bars, [f"{each:.1f}" if each else "" for each in costs], padding=3)
    axes.set_yticks(range(len(shown)), [f"{w.name} ({w.unit})" for w in shown])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(0.5, 16 * max([1.0, *every]))
    axes.set_xlabel("CPU of the proxy, microseconds (logarithmic)")
    axes.set_title("CPU per request or event")
    axes.legend()


def _draw_goals(axes: Any, shown: Sequence[Goal]) -> None:
    parts = [min(max(goal.figure or 0.0, 0.0) / goal.goal, _LONGEST) for goal in shown]
    colours = [_VERDICTS[goal.verdict] for goal in shown]
    axes.barh(range(len(shown)), parts, color=colours)
    labels = [
        f"{goal.figure:.2f} {goal.unit}, {goal.verdict}{' (disturbed)' * goal.disturbed}"
        for goal in shown
    ]
    for place, label in enumerate(labels):  # outside: no frame and no line goes through them
        axes.text(1.02, place, label, transform=axes.get_yaxis_transform(), va="center")
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_yticks(range(len(shown)), [goal.name for goal in shown])
    axes.invert_yaxis()
    axes.set_xlim(0, _LONGEST)
    axes.set_xlabel(f"measured, as a share of the goal (cut at {_LONGEST:g})")
    axes.set_title("Goals: left of the line is met")
