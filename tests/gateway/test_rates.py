"""How long work takes, learned."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.queue.rates import ServiceRates


def note(rates: ServiceRates, **changes: float | int | None) -> None:
    """A request of 1000 prompt tokens in 1 s and 100 tokens in 2 s."""
    values: dict[str, float | int | None] = {
        "slot_s": 3.0,
        "prefill_s": 1.0,
        "prompt_tokens": 1000,
        "completion_tokens": 100,
    }
    rates.note(**(values | changes))  # type: ignore[arg-type]


def expect(rates: ServiceRates, prompt: int, most: int | None, tasks: int = 1) -> float:
    return rates.expect_s(prompt_tokens=prompt, max_tokens=most, tasks=tasks)


def test_estimates_are_sane_before_anything_was_measured() -> None:
    rates = ServiceRates()
    assert not rates.known
    assert 0.1 < rates.mean_s < 60.0
    assert 0.0 < expect(rates, 1, 1) < expect(rates, 1000, 100) < expect(rates, 1000, None) < 60.0


def test_one_request_is_enough_to_know_more() -> None:
    rates = ServiceRates()
    note(rates)
    assert rates.known
    assert rates.mean_s == 3.0
    assert expect(rates, 500, 50) == pytest.approx(0.5 + 1.0)
    assert expect(rates, 500, None) == pytest.approx(0.5 + 2.0)


def test_completion_is_expected_to_be_as_usual_whatever_is_allowed() -> None:
    rates = ServiceRates()
    note(rates)
    assert expect(rates, 0, 100_000) == expect(rates, 0, None) == pytest.approx(2.0)


def test_each_task_generates_for_itself() -> None:
    rates = ServiceRates()
    note(rates)
    assert expect(rates, 1000, None, tasks=3) == pytest.approx(1.0 + 3 * 2.0)


def test_first_requests_are_averaged_evenly() -> None:
    rates = ServiceRates()
    for slot_s in (1.0, 2.0, 6.0):
        note(rates, slot_s=slot_s)
    assert rates.mean_s == pytest.approx(3.0)


def test_long_requests_count_for_more_than_short_ones() -> None:
    rates = ServiceRates()
    note(rates, completion_tokens=1000, slot_s=11.0)
    note(rates, completion_tokens=1, slot_s=2.0)
    assert expect(rates, 0, 1) == pytest.approx(11.0 / 1001)


def test_estimates_follow_a_change_within_some_dozens_of_requests() -> None:
    rates = ServiceRates()
    for _ in range(1000):
        note(rates)
    for _ in range(100):
        note(rates, slot_s=30.0, prefill_s=10.0)
    assert rates.mean_s == pytest.approx(30.0, rel=0.05)
    assert expect(rates, 1000, None) == pytest.approx(30.0, rel=0.05)


def test_without_a_first_token_all_the_time_counts_for_one_of_both() -> None:
    generates, embeds = ServiceRates(), ServiceRates()
    note(generates, prefill_s=None)
    assert expect(generates, 0, 100) == pytest.approx(3.0)
    note(embeds, prefill_s=None, completion_tokens=0)
    assert expect(embeds, 1000, 0) == pytest.approx(3.0)


def test_prompts_without_completion_leave_the_usual_length_alone() -> None:
    rates = ServiceRates()
    note(rates)
    note(rates, completion_tokens=0, prefill_s=None)
    assert expect(rates, 0, None) == pytest.approx(2.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0])
def test_what_is_no_measurement_is_ignored(bad: float) -> None:
    rates = ServiceRates()
    note(rates, slot_s=bad)
    assert not rates.known
    note(rates)
    note(rates, prefill_s=bad)
    assert rates.mean_s == 3.0
    assert math.isfinite(expect(rates, 1000, None))


anything = st.floats(allow_nan=True, allow_infinity=True)
tokens = st.integers(min_value=-5, max_value=10**9)


@settings(deadline=None)
@given(
    st.lists(st.tuples(anything, tokens, tokens, anything | st.none())),
    tokens,
    tokens | st.none(),
    st.integers(0, 1000),
)
def test_estimates_stay_between_a_millisecond_and_an_hour(
    notes: list[tuple[float, int, int, float | None]],
    prompt: int,
    most: int | None,
    tasks: int,
) -> None:
    rates = ServiceRates()
    for slot_s, prompt_tokens, completion_tokens, prefill_s in notes:
        note(
            rates,
            slot_s=slot_s,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            prefill_s=prefill_s,
        )
    assert 0.001 <= expect(rates, prompt, most, tasks) <= 3600.0
    assert 0.0 <= rates.mean_s <= 3600.0
    assert "per request" in repr(rates)
