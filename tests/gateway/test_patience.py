"""How long a caller will wait, and what it is told meanwhile."""

import math

import pytest

from gateway.errors import ApiError
from gateway.request.patience import Patience, patience_of
from gateway.stream import comments


def test_caller_who_says_nothing_waits_as_long_as_the_service_lets_it() -> None:
    patience = patience_of({})
    assert patience == Patience(None, None)
    assert patience.wait_s(streamed=False) is None
    assert patience.beat_s(15.0) == 15.0


@pytest.mark.parametrize(("text", "seconds"), [("0", 0.0), ("2.5", 2.5), (" 30 ", 30.0)])
def test_longest_wait_is_taken_as_asked(text: str, seconds: float) -> None:
    patience = patience_of({"X-Max-Queue-Seconds": text})
    assert patience.wait_s(streamed=True) == patience.wait_s(streamed=False) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-1", "nan", "inf", "1e9", "1" * 30, "5s"])
def test_wait_that_is_no_number_of_seconds_is_the_callers_mistake(text: str) -> None:
    with pytest.raises(ApiError) as refusal:
        patience_of({"X-Max-Queue-Seconds": text})
    assert (refusal.value.status, refusal.value.param) == (400, "X-Max-Queue-Seconds")


def test_read_timeout_of_an_sdk_bounds_the_wait_for_a_reply_in_one_piece() -> None:
    patience = patience_of({"x-stainless-read-timeout": "60", "x-stainless-timeout": "600"})
    assert patience.wait_s(streamed=False) == 54.0
    assert patience.wait_s(streamed=True) is None
    assert patience.beat_s(15.0) == 15.0
    assert patience_of({"x-stainless-read-timeout": "3.0"}).beat_s(5.0) == 1.5


@pytest.mark.parametrize("text", ["NOT_GIVEN", "None", "", "0", "-3", "nan", "x" * 300])
def test_sdk_that_sends_no_number_is_no_mistake(text: str) -> None:
    assert patience_of({"x-stainless-read-timeout": text}) == Patience(None, None)


def test_shorter_of_both_bounds_holds() -> None:
    headers = {"X-Max-Queue-Seconds": "20", "x-stainless-read-timeout": "10"}
    assert patience_of(headers).wait_s(streamed=False) == 9.0
    assert patience_of(headers).wait_s(streamed=True) == 20.0


def test_place_in_the_queue_is_told_in_a_comment() -> None:
    assert comments.queued(3, 11.2) == b": queued position=3 eta_s=12\n\n"
    assert comments.queued(1, 0.0) == b": queued position=1 eta_s=1\n\n"
    assert comments.queued(7, None) == comments.queued(7, math.inf) == b": queued position=7\n\n"


def test_share_of_the_prompt_is_told_in_whole_per_cent() -> None:
    assert comments.prefill(0.0) == b": prefill 0%\n\n"
    assert comments.prefill(0.999) == b": prefill 99%\n\n"
    assert comments.prefill(1.0) == b": prefill 100%\n\n"
