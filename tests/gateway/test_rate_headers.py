import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.limits.account import Account, Today
from gateway.limits.headers import duration, rate_headers
from keys import Limits


def account(limits: Limits, *, requests: int = 0, tokens: int = 0) -> Account:
    """The books of a key that took so much at second 0."""
    books = Account(Today())
    books.set_limits(limits)
    books.hand_out(requests, tokens, 0.0)
    return books


def test_six_headers_as_openai_names_them() -> None:
    books = account(
        Limits(requests_per_minute=60, tokens_per_minute=150_000), requests=1, tokens=16
    )
    assert rate_headers(books, 0.0, 9.0) == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-limit-tokens": "150000",
        "x-ratelimit-remaining-tokens": "149984",
        "x-ratelimit-reset-tokens": "7ms",
    }
    assert rate_headers(books, 1.0, 9.0) == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "60",
        "x-ratelimit-reset-requests": "0s",
        "x-ratelimit-limit-tokens": "150000",
        "x-ratelimit-remaining-tokens": "150000",
        "x-ratelimit-reset-tokens": "0s",
    }


def test_what_has_no_limit_has_no_headers() -> None:
    assert rate_headers(account(Limits()), 0.0, 9.0) == {}
    assert list(rate_headers(account(Limits(requests_per_minute=1)), 0.0, 9.0)) == [
        "x-ratelimit-limit-requests",
        "x-ratelimit-remaining-requests",
        "x-ratelimit-reset-requests",
    ]


@pytest.mark.parametrize(
    ("minute", "day", "told"),
    [
        (9, 10, ("9", "5", "26.667s")),
        (9, 9, ("9", "5", "26.667s")),
        (9, 8, ("8", "4", "1h0m0s")),
        (None, 8, ("8", "4", "1h0m0s")),
        (None, 4, ("4", "0", "1h0m0s")),
        (9, None, ("9", "5", "26.667s")),
    ],
)
def test_tighter_of_minute_and_day_is_told(
    minute: int | None, day: int | None, told: tuple[str, str, str]
) -> None:
    books = account(Limits(tokens_per_minute=minute, tokens_per_day=day), tokens=4)
    found = rate_headers(books, 0.0, 3600.0)
    assert tuple(found.values()) == told


def test_day_of_which_nothing_is_spent_is_all_there() -> None:
    found = rate_headers(account(Limits(tokens_per_day=8)), 0.0, 3600.0)
    assert tuple(found.values()) == ("8", "8", "0s")


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
