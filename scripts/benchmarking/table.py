"""PURE. Figures -> text for a terminal, and the remarks that belong to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .figures import EndpointFigures, LevelFigures, Ratio, Run, Spread, ratios

__all__ = ["RATIO_COLUMNS", "ratio_cells", "remarks", "render", "total"]

_BUSY_SHARE = 0.7
_FEW = 100
_LIMITED = "- limited"
_HEADS = (
    "                        TTFT, ms            between tokens, ms         latency, ms"
    "             tokens/s        client",
    "streams   good  bad     p50    p95    p99     p50    p95    p99      p50     p95     p99"
    "   stream      total    CPU",
)
_WAYS = {
    "usage": "tokens as the server counts them (usage)",
    "events": "tokens are events with text: the server reports no usage",
    "mixed": "tokens from usage where the server sent it, else events with text",
    None: "no tokens came",
}
RATIO_COLUMNS = (
    *("streams", "TTFT p50", "added, ms", "added p99, ms", "between tokens p50"),
    *("latency p50", "tokens/s a stream", "tokens/s in all"),
)


def render(run: Run) -> str:
    """The tables of all endpoints, the ratios and the remarks."""
    lines: list[str] = []
    for each in run.endpoints:
        lines += [*_endpoint(each), ""]
    if found := ratios(run):
        lines += [*_ratios(run, found), ""]
    lines += remarks(run)
    return "\n".join(lines).rstrip()


def _endpoint(figures: EndpointFigures) -> Iterator[str]:
    ways = {level.counted_by for level in figures.levels if level.counted_by}
    way = _WAYS[None if not ways else ways.pop() if len(ways) == 1 else "mixed"]
    yield f"{figures.base_url}, model {figures.model}; {way}"
    yield from _HEADS
    yield from (_row(level) for level in figures.levels)


def _row(level: LevelFigures) -> str:
    rate = level.stream_rate
    return (
        f"{level.streams:7}{level.succeeded:7}{level.failed:5} "
        f"{_three(level.ttft_s, 7)} {_three(level.gap_s, 7)} {_three(level.latency_s, 8)} "
        f"{number(rate.p50 if rate else None):>8}{total(level):>11}"
        f"{level.client_cpu_share:>7.0%}"
    )


def _three(spread: Spread | None, width: int) -> str:
    values = (spread.p50, spread.p95, spread.p99) if spread else (None, None, None)
    return "".join(f"{milliseconds(value):>{width}}" for value in values)


def milliseconds(value_s: float | None) -> str:
    """Three digits that mean something."""
    return number(None if value_s is None else value_s * 1000)


def number(value: float | None) -> str:
    """A number as long as it needs to be; a dash for none."""
    if value is None:
        return "-"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def total(level: LevelFigures) -> str:
    """Tokens a second of all streams, or why there is no such number."""
    return _LIMITED if level.limited else number(level.total_rate)


def _ratios(run: Run, found: Sequence[Ratio]) -> Iterator[str]:
    first, second = (each.base_url for each in run.endpoints)
    yield f"{first} against {second}"
    yield "  ".join(RATIO_COLUMNS)
    for ratio in found:
        cells = zip(ratio_cells(ratio), RATIO_COLUMNS, strict=True)
        yield "  ".join(f"{cell:>{len(head)}}" for cell, head in cells)


def ratio_cells(ratio: Ratio) -> list[str]:
    """One cell for each of `RATIO_COLUMNS`."""
    return [
        str(ratio.streams),
        _times(ratio.ttft_p50),
        _added(ratio.ttft_p50_added_s),
        _added(ratio.ttft_p99_added_s),
        _times(ratio.gap_p50),
        _times(ratio.latency_p50),
        _times(ratio.stream_rate),
        _LIMITED if ratio.limited else _times(ratio.total_rate),
    ]


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}x"


def _added(value_s: float | None) -> str:
    return "-" if value_s is None else f"{value_s * 1000:+.2f}"


def remarks(run: Run) -> list[str]:
    """What a reader has to know about the numbers, one line each."""
    found = [] if run.ended_by is None else [_ENDS[run.ended_by]]
    for each in run.endpoints:
        for level in each.levels:
            where = f"{each.base_url}, {level.streams} streams"
            found += [f"{where}: {text}" for text in _about(level)]
    if any(level.succeeded < _FEW for each in run.endpoints for level in each.levels):
        found.append(
            f"With fewer than {_FEW} answers at a level, p99 of TTFT and latency is close to the "
            "slowest one."
        )
    return found


_ENDS = {
    "interrupt": "Ended by a signal: this is what had been measured until then.",
    "budget": "Ended by --budget: this is what had been measured until then.",
}


def _about(level: LevelFigures) -> Iterator[str]:
    for kind, count in level.failures.items():
        example = level.examples.get(kind)
        yield f"{count} x {kind}" + (f": {example}" if example else "")
    if level.refusals:
        yield (
            f"limited: {level.refusals} refusals for now (429, 503), {level.refused_wait_s:.1f} s "
            "waited by all streams together; so it has no tokens/s in all, and its times "
            "are of fewer streams than that. Raise the limit, or ask less"
        )
    if not level.in_pieces:
        yield (
            f"{level.succeeded - level.timed} of {level.succeeded} answers arrived in one piece, "
            "so there are no times between tokens and no tokens/s of a stream"
        )
    if level.unfinished:
        yield f"{level.unfinished} requests were under way at the end and are not counted"
    if level.gave_up:
        yield "given up after that many failures in a row"
    if level.client_cpu_share > _BUSY_SHARE:
        yield (
            f"this program used {level.client_cpu_share:.0%} of a core, so it may be what was "
            "measured; fewer streams, or several machines, would tell"
        )
