"""How a limit's refusal looks to the client."""

from gateway.errors import ApiError
from gateway.limits.refusal import as_error
from gateway.limits.standing import Refusal


def told(refusal: Refusal) -> tuple[ApiError, dict[str, str]]:
    error = as_error(refusal, retry_after_s=refusal.retry_after_s)
    return error, dict(error.headers())


def test_wait_for_a_rate_is_exact_to_the_millisecond() -> None:
    error, headers = told(Refusal("requests", 0.6004, 100, 1, 0))
    assert (error.status, error.code) == (429, "rate_limit_exceeded")
    assert headers == {"Retry-After": "1", "retry-after-ms": "601"}
    assert error.error_object()["retryable"] is True
    assert "limit 100, remaining 0, requested 1" in error.message


def test_wait_longer_than_sdks_honour_is_not_worth_a_retry() -> None:
    _, headers = told(Refusal("tokens", 75.0, 100, 1, 0))
    assert headers["Retry-After"] == "60"
    assert headers["x-should-retry"] == "false"


def test_request_larger_than_the_whole_limit_is_not_worth_a_retry() -> None:
    for limit in ("requests", "tokens", "concurrency"):
        error, headers = told(Refusal(limit, None, 100, 101, 100))  # type: ignore[arg-type]
        assert headers == {"x-should-retry": "false"}
        assert error.error_object()["retryable"] is False
        assert "limit 100, requested 101" in error.message


def test_refusal_for_requests_in_flight_says_how_many_there_are() -> None:
    error, headers = told(Refusal("concurrency", 0.4, 3, 1, 0))
    assert headers["retry-after-ms"] == "400"
    assert "3 requests at a time" in error.message


def test_spent_day_is_a_quota_and_no_wait_is_told() -> None:
    error, headers = told(Refusal("tokens_per_day", 30_000.0, 1000, 50, 20))
    assert (error.status, error.code) == (429, "insufficient_quota")
    assert headers == {"x-should-retry": "false"}
    assert "20 are left" in error.message


def test_day_that_is_only_held_by_others_may_be_tried_again() -> None:
    error, headers = told(Refusal("tokens_per_day", 1.0, 1000, 50, 20))
    assert error.code == "rate_limit_exceeded"
    assert headers["retry-after-ms"] == "1000"
    assert "x-should-retry" not in headers
