"""Counted values on their way out: Prometheus text and JSON. No clock, no input or output.

The values are plain numbers that one thread writes and any thread may read. What is read while a
request is being counted may miss that request, never more; a histogram's count is taken from the
same copy as its buckets, so the two always agree.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prometheus_client.core import (
    CollectorRegistry,
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

__all__ = ["Histogram", "as_dict", "as_text", "counters", "gauges", "histograms"]

Labels = tuple[str, ...]


class Histogram:
    """Counts of observations by upper bound; about a microsecond per observation."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def __repr__(self) -> str:
        return f"<Histogram {sum(self.counts)} observations>"

    def observe(self, value: float) -> None:
        """Count *value*; a bound belongs to the bucket below it."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """Upper bounds as text and cumulated counts, ``+Inf`` last."""
        found: list[tuple[str, float]] = []
        running = 0
        for bound, count in zip((*self.bounds, None), list(self.counts), strict=True):
            running += count
            found.append(("+Inf" if bound is None else repr(float(bound)), running))
        return found


def counters(
    name: str, text: str, labels: Labels, values: Mapping[Labels, float]
) -> CounterMetricFamily:
    """A counter family; *name* without ``_total``."""
    family = CounterMetricFamily(name, text, labels=labels)
    for key, value in list(values.items()):
        family.add_metric(key, value)
    return family


def gauges(
    name: str, text: str, labels: Labels, values: Mapping[Labels, float]
) -> GaugeMetricFamily:
    """A gauge family."""
    family = GaugeMetricFamily(name, text, labels=labels)
    for key, value in list(values.items()):
        family.add_metric(key, value)
    return family


def histograms(
    name: str, text: str, labels: Labels, values: Mapping[Labels, Histogram]
) -> HistogramMetricFamily:
    """A histogram family."""
    family = HistogramMetricFamily(name, text, labels=labels)
    for key, value in list(values.items()):
        family.add_metric(key, buckets=value.buckets(), sum_value=value.total)
    return family


class _Families(Collector):
    """Families that are already made, in the shape the client library asks for."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def as_text(families: Iterable[Metric], process: CollectorRegistry | None = None) -> bytes:
    """
    The Prometheus text, format 0.0.4.

    Args:
        families: What was counted.
        process: A registry whose families follow, such as the process's memory.
    """
    text = generate_latest(_Families(families))
    return text if process is None else text + generate_latest(process)


def as_dict(families: Iterable[Metric]) -> dict[str, Any]:
    """Sample name -> its value, or a list of labels and value where it has labels."""
    found: dict[str, Any] = {}
    for family in families:
        for sample in family.samples:
            if not sample.labels:
                found[sample.name] = sample.value
                continue
            entry = {"labels": dict(sample.labels), "value": sample.value}
            found.setdefault(sample.name, []).append(entry)
    return found
