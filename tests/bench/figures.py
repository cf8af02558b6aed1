"""PURE. Arithmetic of the bench: medians, percentiles, ratios of rounds, and verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

__all__ = ["middle", "percentile", "ratio"]


def percentile(values: Sequence[float], percent: int) -> float:
    """By interpolation between neighbours; 0 for no values."""
    if not values:
        return 0.0
    ordered = sorted(values)
    at = (len(ordered) - 1) * percent / 100
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def middle(values: Sequence[float]) -> float | None:
    """The median; None for no values."""
    return median(values) if values else None


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    """The median of the rounds' ratios, which a slow moment of the machine hits on both sides.

    Args:
        ours: One figure for each round.
        theirs: The same rounds' figures to compare with, all above 0.
    """
    return middle([mine / other for mine, other in zip(ours, theirs, strict=True) if other > 0])
