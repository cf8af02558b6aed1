import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.limits.headers import duration, rate_headers
from gateway.limits.standing import Gauge, Standing
from keys import Limits


def standing(
    requests: Gauge | None = None, tokens: Gauge | None = None, day: Gauge | None = None
) -> Standing:
    return Standing(Limits(), requests, tokens, day, in_use=0, tokens_today=0, tokens_held=0)


def test_six_headers_as_openai_names_them() -> None:
    found = rate_headers(standing(Gauge(60, 59, 1.0), Gauge(150_000, 149_984, 0.0064)))
    assert found == [
        ("x-ratelimit-limit-requests", "60"),
        ("x-ratelimit-remaining-requests", "59"),
        ("x-ratelimit-reset-requests", "1s"),
        ("x-ratelimit-limit-tokens", "150000"),
        ("x-ratelimit-remaining-tokens", "149984"),
        ("x-ratelimit-reset-tokens", "7ms"),
    ]


def test_what_has_no_limit_has_no_headers() -> None:
    assert rate_headers(standing()) == []
    assert [name for name, _ in rate_headers(standing(Gauge(1, 1, 0.0)))] == [
        "x-ratelimit-limit-requests",
        "x-ratelimit-remaining-requests",
        "x-ratelimit-reset-requests",
    ]


@pytest.mark.parametrize(
    ("minute", "day", "remaining"),
    [(Gauge(9, 5, 1.0), Gauge(99, 6, 2.0), "5"), (Gauge(9, 5, 1.0), Gauge(99, 4, 2.0), "4"),
     (None, Gauge(99, 4, 2.0), "4")],
)  # fmt: skip
def test_tighter_of_minute_and_day_is_told(
    minute: Gauge | None, day: Gauge, remaining: str
) -> None:
    found = dict(rate_headers(standing(tokens=minute, day=day)))
    assert found["x-ratelimit-remaining-tokens"] == remaining


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0s"),
        (0.0000001, "0s"),
        (0.0001, "1ms"),
        (0.12, "120ms"),
        (0.9999, "1s"),
        (1.0, "1s"),
        (1.5, "1.5s"),
        (28.864, "28.864s"),
        (60.0, "1m0s"),
        (90.0301, "1m30.031s"),
        (360.0, "6m0s"),
        (3600.0, "1h0m0s"),
        (86_399.5, "23h59m59.5s"),
    ],
)
def test_durations_are_written_as_openai_does(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@given(st.floats(0, 200_000))
def test_duration_is_never_too_short_and_at_most_a_millisecond_too_long(seconds: float) -> None:
    text = duration(seconds)
    parts = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?|(\d+)ms", text)
    assert parts is not None
    hours, minutes, rest, ms = (float(part or 0) for part in parts.groups())
    told = hours * 3600 + minutes * 60 + rest + ms / 1000
    assert seconds - 2e-6 <= told <= seconds + 0.001 + 1e-6
