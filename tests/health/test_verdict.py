"""The table of states and probes, cell by cell, written out a second time on purpose."""

from __future__ import annotations

import json

import pytest

from health import HEALTH_PATHS, ServiceState, Snapshot, VerdictOptions, answer
from health.verdict import TABLE, Probe

STATES = ["starting", "loading", "ready", "busy", "sleeping", "restarting", "failed", "draining"]
EXPECTED = {
    "/ping": [204, 204, 200, 200, 200, 204, 503, 503],
    "/livez": [200, 200, 200, 200, 200, 200, 503, 200],
    "/startupz": [503, 503, 200, 200, 200, 200, 503, 200],
    "/readyz": [503, 503, 200, 200, 200, 503, 503, 503],
    "/health": [503, 503, 200, 200, 200, 503, 503, 503],
}
ALIASES = {"/ready": "/readyz", "/healthz": "/health", "/v1/healthz": "/health"}
CELLS = [
    (path, state, status)
    for path, row in EXPECTED.items()
    for state, status in zip(STATES, row, strict=True)
]
PING_CELLS = list(zip(STATES, EXPECTED["/ping"], strict=True))
DEFAULTS = VerdictOptions()


def status_of(path: str, snapshot: Snapshot, options: VerdictOptions = DEFAULTS) -> int:
    found = answer(path, snapshot, 100.0, options)
    assert found is not None
    return found.status


@pytest.mark.parametrize(("path", "state", "status"), CELLS)
def test_every_cell_of_the_table(path: str, state: str, status: int) -> None:
    snapshot = Snapshot(ServiceState(state), ready_ever=True, loop_seen_s=100.0)
    assert status_of(path, snapshot) == status


@pytest.mark.parametrize("alias", ALIASES)
@pytest.mark.parametrize("state", STATES)
def test_an_alias_says_what_its_path_says(alias: str, state: str) -> None:
    snapshot = Snapshot(ServiceState(state), ready_ever=True)
    assert answer(alias, snapshot, 0.0, DEFAULTS) == answer(ALIASES[alias], snapshot, 0.0, DEFAULTS)


def test_the_table_has_every_state_in_every_row() -> None:
    assert set(TABLE) == set(Probe)
    for row in TABLE.values():
        assert set(row) == set(ServiceState)


def test_startup_is_not_over_when_the_first_load_is_being_retried() -> None:
    snapshot = Snapshot(ServiceState.RESTARTING, ready_ever=False)
    assert status_of("/startupz", snapshot) == 503


@pytest.mark.parametrize("state", STATES)
def test_only_ping_ever_says_204(state: str) -> None:
    snapshot = Snapshot(ServiceState(state))
    others = HEALTH_PATHS - {"/ping"}
    assert {status_of(path, snapshot) for path in others} <= {200, 503}


def test_initialising_has_neither_body_nor_content_type() -> None:
    found = answer("/ping", Snapshot(ServiceState.LOADING), 0.0, DEFAULTS)
    assert found is not None
    assert (found.status, found.content_type, found.body) == (204, None, b"")


@pytest.mark.parametrize("state", ["starting", "loading", "restarting"])
def test_ping_may_take_requests_early(state: str) -> None:
    options = VerdictOptions(ping_while_loading=200)
    snapshot = Snapshot(ServiceState(state))
    assert status_of("/ping", snapshot, options) == 200
    assert status_of("/readyz", snapshot, options) == 503


@pytest.mark.parametrize("path", ["/up", "/health", "/livez"])
@pytest.mark.parametrize(("state", "status"), PING_CELLS)
def test_the_platforms_own_path_answers_like_ping(path: str, state: str, status: int) -> None:
    """Also when it is the name of another probe: a load balancer asks there what ping answers."""
    options = VerdictOptions(health_check_path=path)
    assert status_of(path, Snapshot(ServiceState(state)), options) == status
    assert status_of("/ping", Snapshot(ServiceState(state)), options) == status


def test_a_full_service_may_be_taken_out_when_asked_for() -> None:
    options = VerdictOptions(ready_when_busy=False)
    busy = Snapshot(ServiceState.BUSY)
    assert status_of("/readyz", busy, options) == 503
    assert status_of("/health", busy, options) == 200
    assert status_of("/readyz", Snapshot(ServiceState.READY), options) == 200


@pytest.mark.parametrize("path", ["/ping", "/livez", "/readyz", "/ready", "/health", "/healthz"])
@pytest.mark.parametrize("state", STATES)
def test_a_stalled_api_loop_fails_the_probe(path: str, state: str) -> None:
    snapshot = Snapshot(ServiceState(state), ready_ever=True, loop_seen_s=94.9)
    found = answer(path, snapshot, 100.0, DEFAULTS)
    assert found is not None
    assert found.status == 503
    assert "api_loop_stalled" in json.loads(found.body)["reasons"]


def test_a_beat_within_the_limit_is_no_stall() -> None:
    assert status_of("/livez", Snapshot(ServiceState.READY, loop_seen_s=95.0)) == 200


def test_a_loop_that_has_not_begun_is_no_stall() -> None:
    assert status_of("/livez", Snapshot(ServiceState.STARTING, loop_seen_s=None)) == 200


def test_a_stall_after_startup_does_not_undo_startup() -> None:
    snapshot = Snapshot(ServiceState.READY, ready_ever=True, loop_seen_s=0.0)
    assert status_of("/startupz", snapshot) == 200


@pytest.mark.parametrize("path", ["/", "/metrics", "/health/", "/HEALTH", "/v1/models", "", "/pin"])
def test_other_paths_are_not_answered_here(path: str) -> None:
    assert answer(path, Snapshot(ServiceState.READY), 0.0, DEFAULTS) is None


def test_health_tells_state_reasons_queue_and_engine() -> None:
    snapshot = Snapshot(
        ServiceState.BUSY,
        reasons=("keys_stale",),
        in_flight=4,
        queued=7,
        slots=4,
        engine={"restarts": 2, "uptime_s": 1.5},
    )
    found = answer("/health", snapshot, 0.0, DEFAULTS)
    assert found is not None
    assert found.content_type == "application/json"
    assert json.loads(found.body) == {
        "status": "ok",
        "state": "busy",
        "reasons": ["keys_stale"],
        "queue": {"in_flight": 4, "queued": 7, "slots": 4},
        "engine": {"restarts": 2, "uptime_s": 1.5},
    }


def test_health_while_loading_looks_like_the_engines_own() -> None:
    found = answer("/health", Snapshot(ServiceState.LOADING), 0.0, DEFAULTS)
    assert found is not None
    assert json.loads(found.body)["error"] == {
        "code": 503,
        "message": "Loading model",
        "type": "unavailable_error",
    }


@pytest.mark.parametrize("path", sorted(HEALTH_PATHS))
def test_nothing_private_is_shown(path: str) -> None:
    snapshot = Snapshot(
        ServiceState.READY,
        engine={"model": "/data/canary.gguf", "build": "canary", "argv": ["canary"], "pid": 77},
        version="canary",
    )
    found = answer(path, snapshot, 0.0, DEFAULTS)
    assert found is not None
    assert b"canary" not in found.body
    assert b"77" not in found.body
