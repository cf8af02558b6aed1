"""PURE. Figures -> the JSON document. Times in milliseconds, rates in tokens a second."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from .figures import EndpointFigures, LevelFigures, Ratio, Run, Spread, ratios
from .plan import Plan

__all__ = ["document"]

_VERSION = 1
"""Of this shape; raised when a name changes its meaning."""

Json = dict[str, Any]


def document(run: Run, plan: Plan, client: Json, started_at: str) -> Json:
    """
    All that was measured, and with what.

    Args:
        run: The figures.
        plan: What was asked for.
        client: About the program that measured.
        started_at: ISO 8601.
    """
    return {
        "version": _VERSION,
        "started_at": started_at,
        "took_s": round(run.took_s, 3),
        "ended_by": run.ended_by or "plan",
        "workload": asdict(plan),
        "client": client,
        "endpoints": [_endpoint(each) for each in run.endpoints],
        "ratios": [_ratio(each) for each in ratios(run)],
    }


def _endpoint(figures: EndpointFigures) -> Json:
    return {
        "base_url": figures.base_url,
        "model": figures.model,
        "levels": [_level(level) for level in figures.levels],
    }


def _level(level: LevelFigures) -> Json:
    return {
        "streams": level.streams,
        "requests": level.requests,
        "succeeded": level.succeeded,
        "failed": level.failed,
        "failures": level.failures,
        "failure_examples": level.examples,
        "unfinished": level.unfinished,
        "gave_up": level.gave_up,
        "refusals": level.refusals,
        "refused_wait_s": round(level.refused_wait_s, 3),
        "wall_s": round(level.wall_s, 3),
        "client_cpu_share": round(level.client_cpu_share, 3),
        "tokens_counted_by": level.counted_by,
        "tokens": level.tokens,
        "prompt_tokens_p50": level.prompt_tokens,
        "tokens_per_s": _rounded(level.total_rate, digits=2),
        "requests_per_s": _rounded(level.request_rate, digits=3),
        "ttft_ms": _spread(level.ttft_s, 1000),
        "inter_token_ms": _spread(level.gap_s, 1000),
        "latency_ms": _spread(level.latency_s, 1000),
        "tokens_per_s_per_stream": _spread(level.stream_rate, 1),
        "missing": _missing(level),
    }


def _missing(level: LevelFigures) -> dict[str, str]:
    """Name -> why it is null, where the level had answers."""
    found = {}
    if level.limited:
        found |= dict.fromkeys(("tokens_per_s", "requests_per_s"), "limited")
    if not level.in_pieces:
        found |= dict.fromkeys(("inter_token_ms", "tokens_per_s_per_stream"), "one piece")
    return found


def _spread(spread: Spread | None, unit: float) -> Json | None:
    if spread is None:
        return None
    values = asdict(spread)
    count = values.pop("count")
    return {"count": count} | {name: round(value * unit, 3) for name, value in values.items()}


def _ratio(ratio: Ratio) -> Json:
    return {
        "streams": ratio.streams,
        "ttft_p50": _rounded(ratio.ttft_p50),
        "ttft_p50_added_ms": _rounded(ratio.ttft_p50_added_s, 1000),
        "ttft_p99_added_ms": _rounded(ratio.ttft_p99_added_s, 1000),
        "inter_token_p50": _rounded(ratio.gap_p50),
        "inter_token_p99": _rounded(ratio.gap_p99),
        "latency_p50": _rounded(ratio.latency_p50),
        "tokens_per_s_per_stream_p50": _rounded(ratio.stream_rate),
        "tokens_per_s": _rounded(ratio.total_rate),
        "missing": {"tokens_per_s": "limited"} if ratio.limited else {},
    }


def _rounded(value: float | None, unit: float = 1, *, digits: int = 4) -> float | None:
    return None if value is None else round(value * unit, digits)
