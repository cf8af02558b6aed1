"""Vast Serverless: the vendor's package in front of the service, as the autoscaler sees it."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from gateway.observe.readiness_log import ReadinessLog
from tests.fakes.vast_autoscaler import VastAutoscaler
from tests.support.callers import CHAT, COMPLETIONS, chat_body, until
from tests.support.pyworker import PyWorker
from tests.support.service import ServiceProcess
from tests.support.tap import Tap


@dataclass(frozen=True, slots=True)
class Box:
    """One Vast worker: PyWorker, tap and gateway, not ready yet."""

    worker: PyWorker
    tap: Tap
    service: ServiceProcess

    def start_gateway(self) -> None:
        """From here on the gateway answers, and writes its lines."""
        self.service.start().opened()
        self.tap.target = self.service.port

    def ready(self) -> Box:
        """Wait until Vast would route to it."""
        self.worker.ready()
        return self


@pytest.fixture(scope="module")
def autoscaler() -> Iterator[VastAutoscaler]:
    with VastAutoscaler() as fake:
        yield fake


@contextlib.contextmanager
def new_box(autoscaler: VastAutoscaler, folder: Path) -> Iterator[Box]:
    env = {
        "USE_MOCK_MODEL": "true",
        # What vast-serverless would choose, with a free port.
        "AUTH_MODE": "platform",
        "MODEL_LOG": str(folder / "model.log"),
        "DRAIN_TIMEOUT": "30",
    }
    service = ServiceProcess(folder, env)
    with Tap() as tap, PyWorker(autoscaler, folder, tap.port) as worker:
        try:
            yield Box(worker, tap, service)
        finally:
            service.kill()


@pytest.fixture(scope="module")
def draining(autoscaler: VastAutoscaler, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """A worker whose gateway was told to stop after it had been ready, and still streams."""
    with new_box(autoscaler, tmp_path_factory.mktemp("draining")) as box:
        box.start_gateway()
        box.ready()
        hold = threading.Event()
        talking = threading.Event()
        threading.Thread(target=_stream, args=(box, talking, hold), daemon=True).start()
        assert talking.wait(20)
        box.service.signal(signal.SIGTERM)
        yield box
        hold.set()


def _stream(box: Box, talking: threading.Event, hold: threading.Event) -> None:
    body = chat_body("mock: tokens=100000 delay_ms=5", stream=True, max_tokens=None)
    url = f"{box.worker.url}{CHAT}"
    with httpx.Client(timeout=20) as client:
        with client.stream("POST", url, json=box.worker.signed(body)) as reply:
            pieces = reply.iter_bytes()
            next(pieces)
            talking.set()
            hold.wait(60)


@pytest.fixture(scope="module")
def box(
    autoscaler: VastAutoscaler, draining: Box, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Box]:
    """A ready worker; the one that drains is under way, as its 10 s pass meanwhile."""
    with new_box(autoscaler, tmp_path_factory.mktemp("box")) as box:
        box.worker.first_report()
        box.start_gateway()
        yield box.ready()


def test_worker_is_ready_only_after_the_gateways_line_and_a_benchmark(
    autoscaler: VastAutoscaler, box: Box
) -> None:
    reports = autoscaler.reports_of(box.worker.id)
    assert reports[0]["max_perf"] == 0
    assert reports[0]["loadtime"] == 0
    assert reports[-1]["max_perf"] > 0
    assert reports[-1]["loadtime"] > 0
    assert not any(each["error_msg"] for each in reports)
    assert box.worker.model_log.read_text().startswith("GATEWAY READY model=")
    benchmark = box.tap.seen("POST /v1/completions")
    assert len(benchmark) >= 1 + 4  # the warm-up, and one for each slot
    assert all(each.answered.startswith(b"HTTP/1.1 200") for each in benchmark)
    assert box.tap.seen("GET /health")


def test_stream_comes_through_byte_for_byte(box: Box) -> None:
    text = "mock: tokens=40 delay_ms=1"
    body = chat_body(text, stream=True, max_tokens=None, stream_options={"include_usage": True})
    reply = box.worker.post(CHAT, box.worker.signed(body))
    assert reply.status_code == 200
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.content == box.tap.seen(f"POST {CHAT}")[-1].body
    assert reply.text.endswith("data: [DONE]\n\n")
    assert reply.headers["cache-control"].startswith("no-cache")
    assert reply.headers["x-request-id"]


def test_answer_and_errors_of_the_gateway_come_through(box: Box) -> None:
    good = box.worker.post(CHAT, box.worker.signed(chat_body("mock: say=Paris")))
    assert good.status_code == 200
    assert good.json()["choices"][0]["message"]["content"].startswith("Paris")
    bad = box.worker.post(CHAT, box.worker.signed({"messages": "no list"}))
    assert bad.status_code == 400
    assert bad.json()["error"]["type"] == "invalid_request_error"


def test_no_header_of_the_client_reaches_the_gateway(box: Box) -> None:
    assert box.worker.post(CHAT, box.worker.signed(chat_body("hi"))).status_code == 200
    for exchange in box.tap.exchanges:
        assert "authorization" not in exchange.head
        assert "account-secret" not in exchange.head
        assert "master-secret" not in exchange.head


def test_request_that_vast_has_not_signed_is_refused(box: Box) -> None:
    asked = len(box.tap.seen("POST"))
    assert box.worker.bad_signature().status_code == 401
    assert box.worker.post(COMPLETIONS, {"prompt": "hi"}).status_code == 422
    assert len(box.tap.seen("POST")) == asked


def test_stranger_cannot_make_a_session_that_calls_the_gateway(box: Box) -> None:
    body = {
        "auth_data": {"request_idx": 1, "reqnum": 1, "cost": 0},
        "payload": {"lifetime": 0, "on_close_route": COMPLETIONS, "on_close_payload": {}},
    }
    assert box.worker.post("/session/create", body).status_code == 429


def test_client_that_leaves_frees_its_slot(box: Box) -> None:
    body = chat_body("mock: tokens=100000 delay_ms=5", stream=True, max_tokens=None)
    url = f"{box.worker.url}{CHAT}"
    with httpx.Client(timeout=20) as client:
        with client.stream("POST", url, json=box.worker.signed(body)) as reply:
            pieces = reply.iter_bytes()
            next(pieces)
            assert in_flight(box) == 1
    until(lambda: in_flight(box) == 0)


def in_flight(box: Box) -> int:
    metrics = httpx.get(f"{box.service.health_url}/metrics").text
    name = "gateway_requests_in_flight "
    return int(float(next(x for x in metrics.splitlines() if x.startswith(name)).split()[1]))


def test_prompt_with_the_gateways_words_changes_nothing(
    autoscaler: VastAutoscaler, box: Box
) -> None:
    before = box.worker.model_log.read_bytes()
    words = "GATEWAY FATAL crash_loop\nGATEWAY READY model=evil\nmodel loaded"
    body = chat_body(f"{words}\nmock: say={words.partition(chr(10))[0]}", user=words)
    assert box.worker.post(CHAT, box.worker.signed(body)).status_code in (200, 400)
    assert box.worker.model_log.read_bytes() == before
    assert not autoscaler.reports_of(box.worker.id)[-1]["error_msg"]


def test_worker_is_in_error_after_the_line_of_a_gateway_that_gave_up(
    autoscaler: VastAutoscaler, tmp_path: Path
) -> None:
    with PyWorker(autoscaler, tmp_path, gateway_port=1) as worker:
        assert not worker.first_report()["error_msg"]
        ReadinessLog(worker.model_log).fatal("crash_loop")
        assert worker.errored().startswith("GATEWAY FATAL")


def test_worker_is_in_error_while_the_gateway_drains(draining: Box) -> None:
    assert draining.worker.errored() == "Healthcheck failed with status: 503"
