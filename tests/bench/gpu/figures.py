"""PURE: from what was measured to the figures of the table, and the table as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles

__all__ = [
    "Pair",
    "Row",
    "Start",
    "Wave",
    "percentile",
    "row_of",
    "starts_table",
    "streams_table",
]

_LEAST_FOR_P99 = 100
"""Of fewer values, the 99th percentile is only the highest."""


@dataclass(frozen=True, slots=True)
class Wave:
    """One round of one way: so many streams at once, until all have ended."""

    tokens: int
    wall_s: float
    ttft_s: tuple[float, ...]
    """From before the connection is made to the first text, for each request."""
    cpu_s: Mapping[str, float]
    """User and system time by process: ``client``, ``engine`` and, behind it, ``gateway``."""


Pair = tuple[Wave, Wave]
"""One round: direct, and through the gateway."""


@dataclass(frozen=True, slots=True)
class Row:
    """What rounds at one number of streams say. Times are in ms unless the name tells."""

    streams: int
    rounds: int
    direct_tokens_s: float
    gateway_tokens_s: float
    ratio: float
    """Tokens a second through the gateway against direct: median of the pairs of rounds."""
    ratio_low: float
    ratio_high: float
    direct_ttft_p50: float
    direct_ttft_p99: float | None
    """None, as the other one, for fewer than 100 requests."""
    added_ttft_p50: float
    """Difference of the percentiles over all requests of all rounds; noise can make it negative."""
    added_ttft_p99: float | None
    gateway_core: float
    """Share of one core that the gateway used while it was asked."""
    gateway_us_a_token: float
    client_core: float
    """The same of the load generator, the higher of the two ways; near 1 it would be measured."""


@dataclass(frozen=True, slots=True)
class Start:
    """Seconds of one start or wake: until the first token, and until ready where that is seen."""

    first_token_s: float
    ready_s: float | None = None


def percentile(values: Sequence[float], percent: int) -> float:
    """By interpolation; the value itself when there is only one, 0 for none."""
    if len(values) < 2:
        return values[0] if values else 0.0
    return quantiles(values, n=100, method="inclusive")[percent - 1]


def row_of(streams: int, pairs: Sequence[Pair]) -> Row:
    """
    Sum up the rounds at one number of streams.

    Args:
        streams: At once.
        pairs: For each round, direct and through the gateway; at least one.
    """
    direct, gateway = zip(*pairs, strict=True)
    ratios = [_speed(through) / _speed(bare) for bare, through in pairs]
    bare_ms, through_ms = _ttft_ms(direct), _ttft_ms(gateway)
    many = len(bare_ms) >= _LEAST_FOR_P99
    bare_p99, through_p99 = percentile(bare_ms, 99), percentile(through_ms, 99)
    spent_s = sum(wave.cpu_s["gateway"] for wave in gateway)
    return Row(
        streams=streams,
        rounds=len(pairs),
        direct_tokens_s=median(map(_speed, direct)),
        gateway_tokens_s=median(map(_speed, gateway)),
        ratio=median(ratios),
        ratio_low=min(ratios),
        ratio_high=max(ratios),
        direct_ttft_p50=percentile(bare_ms, 50),
        direct_ttft_p99=bare_p99 if many else None,
        added_ttft_p50=percentile(through_ms, 50) - percentile(bare_ms, 50),
        added_ttft_p99=through_p99 - bare_p99 if many else None,
        gateway_core=spent_s / sum(wave.wall_s for wave in gateway),
        gateway_us_a_token=1e6 * spent_s / sum(wave.tokens for wave in gateway),
        client_core=max(_client_core(direct), _client_core(gateway)),
    )


def _speed(wave: Wave) -> float:
    return wave.tokens / wave.wall_s


def _ttft_ms(waves: Sequence[Wave]) -> list[float]:
    return [1000 * value for wave in waves for value in wave.ttft_s]


def _client_core(waves: Sequence[Wave]) -> float:
    return sum(wave.cpu_s["client"] for wave in waves) / sum(wave.wall_s for wave in waves)


def streams_table(rows: Sequence[Row]) -> str:
    """One line for each number of streams, as a Markdown table."""
    head = (
        "streams",
        "direct, tokens/s",
        "gateway, tokens/s",
        "gateway / direct",
        "TTFT direct p50, p99",
        "added p50, p99",
        "gateway CPU",
        "CPU a token",
        "client CPU",
        "rounds",
    )
    return _markdown(head, [_cells(row) for row in rows])


def _cells(row: Row) -> tuple[str, ...]:
    return (
        str(row.streams),
        f"{row.direct_tokens_s:,.0f}",
        f"{row.gateway_tokens_s:,.0f}",
        f"{row.ratio:.1%} ({row.ratio_low:.1%} to {row.ratio_high:.1%})",
        f"{row.direct_ttft_p50:.1f}, {_or_dash(row.direct_ttft_p99, '.1f')} ms",
        f"{row.added_ttft_p50:+.1f}, {_or_dash(row.added_ttft_p99, '+.1f')} ms",
        f"{row.gateway_core:.1%} of a core",
        f"{row.gateway_us_a_token:.1f} us",
        f"{row.client_core:.0%} of a core",
        str(row.rounds),
    )


def _or_dash(value: float | None, how: str) -> str:
    return "-" if value is None else format(value, how)


def starts_table(starts: Mapping[str, Sequence[Start]]) -> str:
    """One line for each way to a first token: median, lowest and highest, as a Markdown table."""
    head = ("from ... to the first token", "first token", "of which until ready", "times")
    cells = [
        (
            name,
            _spread([start.first_token_s for start in found]),
            _spread([start.ready_s for start in found if start.ready_s is not None]),
            str(len(found)),
        )
        for name, found in starts.items()
    ]
    return _markdown(head, cells)


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    return f"{median(values):.2f} s ({min(values):.2f} to {max(values):.2f})"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in lines
    )
