"""What is counted, under which labels, and that nobody outside can make it grow."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.errors import ERRORS
from gateway.observe.accesslog import AccessRecord
from gateway.observe.exposition import Histogram
from gateway.observe.labels import AUTH_FAILURE_REASONS, ENGINE_EXIT_CAUSES, REJECT_REASONS
from gateway.observe.metrics import Metrics
from health import ServiceState, Snapshot

CHAT = "/v1/chat/completions"
SNAPSHOT = Snapshot(
    ServiceState.BUSY,
    in_flight=4,
    queued=3,
    slots=4,
    idle_s=0.0,
    version="1.2.3",
    platform="generic",
)
DONE = AccessRecord(
    request_id="r1",
    client="127.0.0.1",
    method="POST",
    route=CHAT,
    status=200,
    key_id="k1",
    model="m",
    stream=True,
    queue_s=0.2,
    ttft_s=0.5,
    total_s=1.5,
    prompt_tokens=10,
    cached_tokens=4,
    completion_tokens=11,
    bytes_in=100,
    bytes_out=900,
)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(routes=[CHAT, "/v1/models"], models=["m"], process=False)


def samples(
    metrics: Metrics, **options: Any
) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample, by name and labels, read back by the vendor's own parser."""
    text = metrics.render(SNAPSHOT, **options).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return samples(metrics, per_key=True)[name, tuple(sorted(labels.items()))]


def test_a_request_is_counted_by_route_status_class_and_model(metrics: Metrics) -> None:
    metrics.observe(DONE)
    metrics.observe(replace(DONE, status=503))
    labels = {"route": CHAT, "model": "m"}
    assert value(metrics, "gateway_requests_total", status="2xx", **labels) == 1
    assert value(metrics, "gateway_requests_total", status="5xx", **labels) == 1
    assert value(metrics, "gateway_request_seconds_sum", status="2xx", **labels) == 1.5
    assert value(metrics, "gateway_request_seconds_bucket", status="2xx", le="1.0", **labels) == 0
    assert value(metrics, "gateway_request_seconds_bucket", status="2xx", le="2.5", **labels) == 1


def test_tokens_waits_and_bytes_are_counted(metrics: Metrics) -> None:
    metrics.observe(DONE)
    assert value(metrics, "gateway_tokens_total", direction="prompt", model="m") == 10
    assert value(metrics, "gateway_tokens_total", direction="cached", model="m") == 4
    assert value(metrics, "gateway_tokens_total", direction="completion", model="m") == 11
    assert value(metrics, "gateway_ttft_seconds_sum", model="m") == 0.5
    assert value(metrics, "gateway_token_seconds_sum", model="m") == pytest.approx(0.1)
    assert value(metrics, "gateway_queue_wait_seconds_sum") == 0.2
    assert value(metrics, "gateway_bytes_total", direction="in") == 100
    assert value(metrics, "gateway_bytes_total", direction="out") == 900


def test_gauges_show_the_snapshot(metrics: Metrics) -> None:
    assert value(metrics, "gateway_requests_in_flight") == 4
    assert value(metrics, "gateway_requests_queued") == 3
    assert value(metrics, "gateway_requests_pending") == 7
    assert value(metrics, "gateway_slots") == 4
    assert value(metrics, "gateway_idle_seconds") == 0
    assert value(metrics, "gateway_build_info", version="1.2.3", platform="generic") == 1
    states = {state: value(metrics, "gateway_state", state=state) for state in ServiceState}
    assert {state for state, on in states.items() if on} == {ServiceState.BUSY}


def test_ten_thousand_strange_values_add_no_series(metrics: Metrics) -> None:
    metrics.observe(replace(DONE, route="other", model="other"))
    before = len(samples(metrics))
    for number in range(10_000):
        metrics.observe(
            replace(
                DONE,
                route=f"/r{number}",
                model=f"m{number}",
                method=f"M{number}",
                status=200 + number % 100,
                key_id=f"k{number}",
                error_code=f"e{number}",
            )
        )
        metrics.reject(f"r{number}")
        metrics.auth_failed(f"a{number}")
        metrics.engine_exited(f"x{number}")
    assert len(samples(metrics)) == before
    assert value(metrics, "gateway_http_rejected_total", reason="other") == 10_000


def test_key_ids_end_at_their_bound() -> None:
    metrics = Metrics(routes=[CHAT], keys_max=3, process=False)
    for number in range(10):
        metrics.observe(replace(DONE, key_id=f"k{number}"))
    metrics.observe(replace(DONE, key_id="k1"))
    found = samples(metrics, per_key=True)
    keys = {dict(labels)["key"] for name, labels in found if name == "gateway_key_requests_total"}
    assert keys == {"k0", "k1", "k2", "other"}
    assert value(metrics, "gateway_key_requests_total", key="k1") == 2
    assert value(metrics, "gateway_key_requests_total", key="other") == 7


def test_key_ids_are_shown_only_when_asked_for(metrics: Metrics) -> None:
    metrics.observe(replace(DONE, key_id="canary"))
    assert b"canary" not in metrics.render(SNAPSHOT)
    assert "canary" not in str(metrics.as_dict(SNAPSHOT))
    assert b"canary" in metrics.render(SNAPSHOT, per_key=True)


def test_a_models_name_counts_once_it_is_known(metrics: Metrics) -> None:
    metrics.know_models(["late"])
    metrics.observe(replace(DONE, model="late"))
    assert value(metrics, "gateway_tokens_total", direction="prompt", model="late") == 10


@pytest.mark.parametrize(
    ("code", "route", "reason"),
    [
        ("invalid_http", "other", "invalid_http"),
        ("request_timeout", "other", "header_timeout"),
        ("request_timeout", CHAT, "body_timeout"),
        ("headers_too_large", "other", "too_large"),
        ("payload_too_large", CHAT, "too_large"),
        ("invalid_json", CHAT, "bad_json"),
        ("unknown_parameter", CHAT, "unknown_parameter"),
        ("remote_media_not_allowed", CHAT, "remote_media"),
        ("server_overloaded", CHAT, "overload"),
        ("queue_wait_too_long", CHAT, "overload"),
        ("rate_limit_exceeded", CHAT, "limit"),
        ("insufficient_quota", CHAT, "limit"),
    ],
)
def test_a_refusal_is_counted_by_its_reason(
    metrics: Metrics, code: str, route: str, reason: str
) -> None:
    assert code in ERRORS
    metrics.observe(replace(DONE, status=ERRORS[code].status, route=route, error_code=code))
    assert value(metrics, "gateway_http_rejected_total", reason=reason) == 1


@pytest.mark.parametrize("code", ["engine_crashed", "client_closed", "invalid_api_key"])
def test_what_was_not_turned_away_is_no_refusal(metrics: Metrics, code: str) -> None:
    metrics.observe(replace(DONE, error_code=code))
    found = samples(metrics)
    counted = [v for (name, _), v in found.items() if name == "gateway_http_rejected_total"]
    assert sum(counted) == 0


def test_closed_sets_are_there_from_the_start(metrics: Metrics) -> None:
    for reason in REJECT_REASONS:
        assert value(metrics, "gateway_http_rejected_total", reason=reason) == 0
    for reason in AUTH_FAILURE_REASONS:
        assert value(metrics, "gateway_auth_failures_total", reason=reason) == 0
    for cause in ENGINE_EXIT_CAUSES:
        assert value(metrics, "gateway_engine_exits_total", cause=cause) == 0


def test_single_events_are_counted() -> None:
    metrics = Metrics(routes=[], log_dropped=lambda: 5, process=False)
    metrics.auth_failed("expired")
    metrics.engine_exited("oom")
    metrics.client_stalled()
    metrics.keys_reload_failed()
    metrics.upstream_opened()
    metrics.upstream_reused(3)
    metrics.loop_lagged(0.3)
    metrics.loop_lagged(0.01)
    assert value(metrics, "gateway_auth_failures_total", reason="expired") == 1
    assert value(metrics, "gateway_engine_exits_total", cause="oom") == 1
    assert value(metrics, "gateway_client_stalls_total") == 1
    assert value(metrics, "gateway_keys_reload_errors_total") == 1
    assert value(metrics, "gateway_log_dropped_total") == 5
    assert value(metrics, "gateway_upstream_connections_total", how="opened") == 1
    assert value(metrics, "gateway_upstream_connections_total", how="reused") == 3
    assert value(metrics, "gateway_event_loop_stalls_total") == 1
    assert value(metrics, "gateway_event_loop_lag_seconds") == 0.01


def test_every_name_has_the_services_prefix() -> None:
    metrics = Metrics(routes=[CHAT], models=["m"])
    metrics.observe(DONE)
    names = {name for name, _ in samples(metrics, per_key=True)}
    assert names
    assert all(name.startswith("gateway_") for name in names)
    assert "gateway_process_resident_memory_bytes" in names


def test_json_has_the_same_figures(metrics: Metrics) -> None:
    metrics.observe(DONE)
    found = metrics.as_dict(SNAPSHOT)
    assert found["gateway_requests_pending"] == 7
    assert found["gateway_requests_total"] == [
        {"labels": {"route": CHAT, "status": "2xx", "model": "m"}, "value": 1}
    ]


def test_two_instances_share_nothing() -> None:
    first, second = Metrics(routes=[CHAT]), Metrics(routes=[CHAT])
    first.observe(DONE)
    assert b'route="/v1/chat' in first.render(SNAPSHOT)
    assert b'route="/v1/chat' not in second.render(SNAPSHOT)


def test_rendering_beside_counting_is_consistent() -> None:
    """A scrape on the health thread, while the API loop counts on."""
    metrics = Metrics(routes=[CHAT], models=["m"], process=False)
    stop = threading.Event()

    def count() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            metrics.observe(replace(DONE, key_id=f"k{number % 300}", status=100 * (number % 5 + 1)))

    counting = threading.Thread(target=count)
    counting.start()
    try:
        for _ in range(20):
            found = samples(metrics, per_key=True)
            for (name, labels), count_of in found.items():
                if name == "gateway_request_seconds_count":
                    infinite = tuple(sorted((*labels, ("le", "+Inf"))))
                    assert found["gateway_request_seconds_bucket", infinite] == count_of
    finally:
        stop.set()
        counting.join()


def test_a_bound_belongs_to_the_bucket_below() -> None:
    histogram = Histogram((0.1, 1.0))
    for seen in (0.05, 0.1, 0.5, 1.0, 7.0):
        histogram.observe(seen)
    assert histogram.buckets() == [("0.1", 2), ("1.0", 4), ("+Inf", 5)]
    assert histogram.total == pytest.approx(8.65)
