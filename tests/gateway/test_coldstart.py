"""What a start took, phase by phase: the sums, the metrics, and the service as a whole."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from backend import EngineSettings
from backend.output import OutputLines
from gateway.observe.coldstart import PHASES, ColdStart, words
from gateway.observe.metrics import Metrics
from gateway.observe.startwatch import process_started_s
from health import ServiceState, Snapshot
from tests.support.callers import until
from tests.support.engine_process import running_engine
from tests.support.service import ServiceProcess

NO_WORK = Snapshot(
    ServiceState.READY, in_flight=0, queued=0, slots=1, idle_s=0.0, version="1", platform="generic"
)


def started(*, read: bool = False) -> ColdStart:
    """A process that began at 100 and spawned its engine at 100.4."""
    start = ColdStart(100.0)
    start.ports_open(100.3)
    start.spawned(100.4)
    if read:
        start.model_read(0.2, 94 << 20)
    return start


def seconds(phases: dict[str, float]) -> dict[str, float]:
    return {name: round(took_s, 6) for name, took_s in phases.items()}


def test_phases_of_a_start_add_up_to_the_time_until_ready() -> None:
    start = started().ready(101.0, 100.9)
    assert start is not None
    assert seconds(start.phases) == {"boot": 0.4, "load": 0.5, "warm_up": 0.1}
    assert start.total_s == pytest.approx(1.0)
    assert sum(start.phases.values()) == start.total_s


def test_reading_ahead_is_told_and_is_no_part_of_the_sum() -> None:
    cold = started(read=True)
    start = cold.ready(101.0, 100.9)
    assert start is not None
    assert start.total_s == pytest.approx(1.0)
    assert cold.phases["model_read"] == 0.2
    assert words(start) == (
        "cold start: boot 0.40 s (ports open after 0.30 s), load 0.50 s, warm-up 0.10 s; ready "
        "after 1.00 s; meanwhile 94 MiB of the model read ahead in 0.20 s"
    )


@pytest.mark.parametrize(
    ("loaded_s", "load", "warm_up"), [(None, 0.6, 0.0), (102.0, 0.6, 0.0), (99.0, 0.0, 0.6)]
)
def test_engine_whose_word_is_missing_late_or_early_still_adds_up(
    loaded_s: float | None, load: float, warm_up: float
) -> None:
    start = started().ready(101.0, loaded_s)
    assert start is not None
    assert seconds(start.phases) == {"boot": 0.4, "load": load, "warm_up": warm_up}


def test_first_token_counts_from_ready_or_from_its_request_if_that_came_later() -> None:
    waited, came_later = started(), started()
    waited.ready(101.0, None)
    came_later.ready(101.0, None)
    assert waited.first_event(101.5, asked_s=100.1) == pytest.approx(0.5)
    assert came_later.first_event(3601.5, asked_s=3601.0) == pytest.approx(0.5)


def test_only_the_first_token_of_a_start_counts() -> None:
    cold = started()
    assert cold.first_event(100.9, asked_s=100.0) is None
    cold.ready(101.0, None)
    assert cold.first_event(101.5, asked_s=101.0) is not None
    assert cold.first_event(101.9, asked_s=101.0) is None
    assert cold.phases["first_token"] == pytest.approx(0.5)


def test_restart_replaces_the_engines_phases_and_keeps_those_of_the_process() -> None:
    cold = started(read=True)
    cold.ready(101.0, 100.9)
    cold.first_event(101.5, asked_s=101.0)
    cold.spawned(200.0)
    assert list(cold.phases) == ["boot", "model_read"]
    again = cold.ready(200.3, 200.2)
    assert again is not None
    assert words(again) == "engine start 2: load 0.20 s, warm-up 0.10 s; ready after 0.30 s"
    assert cold.total_s == pytest.approx(0.3)
    assert cold.phases["boot"] == pytest.approx(0.4)


def test_same_readiness_is_told_once() -> None:
    cold = started()
    assert cold.ready(101.0, None) is not None
    assert cold.ready(102.0, None) is None
    assert cold.total_s == pytest.approx(1.0)


def test_phases_come_in_their_order() -> None:
    cold = started(read=True)
    cold.ready(101.0, 100.9)
    cold.first_event(101.5, asked_s=0.0)
    assert tuple(cold.phases) == PHASES


def test_metrics_show_the_newest_start() -> None:
    metrics = Metrics(process=False)
    assert not shown(metrics.render(NO_WORK).decode())
    metrics.start_took({"boot": 0.4, "load": 0.5, "warm_up": 0.1}, 1.0)
    text = metrics.render(NO_WORK).decode()
    assert shown(text) == {"boot": 0.4, "load": 0.5, "warm_up": 0.1}
    assert "gateway_start_seconds 1.0" in text


def test_process_began_before_now_and_not_long_ago() -> None:
    now_s = time.monotonic()
    age_s = now_s - process_started_s(now_s)
    assert 0.0 < age_s < 24 * 3600


def shown(text: str) -> dict[str, float]:
    """The phases in a Prometheus text."""
    return {
        sample.labels["phase"]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "gateway_cold_start_seconds"
    }


def phases_of(service: ServiceProcess) -> dict[str, float]:
    return shown(httpx.get(f"{service.health_url}/metrics", timeout=10).text)


def ask(service: ServiceProcess, *, stream: bool) -> None:
    messages = [{"role": "user", "content": "hi"}]
    body = {"model": "mock", "messages": messages, "max_tokens": 2, "stream": stream}
    url = f"{service.url}/v1/chat/completions"
    assert httpx.post(url, json=body, timeout=60).status_code == 200


@pytest.mark.parametrize("stream", [True, False])
def test_service_tells_the_phases_of_its_start(tmp_path: Path, stream: bool) -> None:
    env = {"USE_MOCK_MODEL": "true", "MOCK_LOAD_S": "0.3", "AUTH_ENABLED": "false"}
    with ServiceProcess(tmp_path, env) as service:
        service.ready()
        before = phases_of(service)
        assert list(before) == ["boot", "load", "warm_up"]
        assert before["boot"] > 0.0
        assert before["load"] >= 0.3
        assert before["warm_up"] >= 0.0
        ask(service, stream=stream)
        service.wait_for(r"first token \d+\.\d\d s after")
        assert list(phases_of(service)) == ["boot", "load", "warm_up", "first_token"]
        line = next(line for line in service.lines if "cold start: boot" in line)
        assert "ports open after" in line
        assert service.stop() == 0


def test_restart_of_the_engine_is_told_as_one(mock_service: ServiceProcess) -> None:
    boot_s = phases_of(mock_service)["boot"]
    headers = {"Authorization": f"Bearer {mock_service.key}"}
    info = httpx.get(f"{mock_service.url}/info", headers=headers, timeout=10).json()
    os.kill(info["engine"]["pid"], signal.SIGKILL)
    mock_service.wait_for(r"engine start 2: load \d+\.\d\d s, warm-up \d+\.\d\d s; ready after")
    assert phases_of(mock_service)["boot"] == boot_s


def test_real_engine_says_when_its_model_is_loaded(
    llama_server: Path, models: Path, short_dir: Path
) -> None:
    settings = EngineSettings("llama-server", llama_server, models / "tiny.gguf")

    def told() -> bool:
        lines = OutputLines(b"")
        lines.feed((short_dir / "engine.log").read_bytes(), 1.0)
        return lines.loaded_s is not None

    with running_engine(settings, short_dir):
        until(told)
