"""The service as a process, on the mock engine: what a client and a platform see."""

import signal

import httpx

from tests.conftest import Serve
from tests.support.service import ServiceProcess


def auth(service: ServiceProcess) -> dict[str, str]:
    return {"Authorization": f"Bearer {service.key}"}


def test_answer_streams_and_ends_with_done(mock_service: ServiceProcess) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 4}
    reply = httpx.post(
        f"{mock_service.url}/v1/chat/completions", json=body, headers=auth(mock_service)
    )
    assert reply.status_code == 200
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.text.endswith("data: [DONE]\n\n")
    assert "server" not in reply.headers


def test_stopped_as_a_platform_does_it_exits_with_zero(serve: Serve) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        service = serve(USE_MOCK_MODEL="true").ready()
        service.signal(number)
        assert service.wait() == 0
