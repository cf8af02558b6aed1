"""MODEL_LOG: the file from which a platform's worker learns that the model is ready, or lost."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.observe.readiness import fatal_lines, ready_lines
from gateway.observe.readiness_log import ReadinessLog
from tests.support.callers import CHAT, chat_body, until
from tests.support.service import ServiceProcess

MARKS = ("GATEWAY READY", "GATEWAY FATAL", "model loaded")
MOCK = {"USE_MOCK_MODEL": "true", "AUTH_MODE": "platform"}


@given(st.text())
def test_no_name_can_add_a_line_or_the_words_of_another(name: str) -> None:
    ready = ready_lines(name).splitlines()
    assert len(ready) == 2
    assert ready[0].startswith("GATEWAY READY model=")
    assert ready[1] == "model loaded"
    assert not any(mark in ready[0].removeprefix("GATEWAY READY") for mark in MARKS)
    (fatal,) = fatal_lines(name).splitlines()
    assert fatal.startswith("GATEWAY FATAL ")
    assert not any(mark in fatal.removeprefix("GATEWAY FATAL") for mark in MARKS)


def test_each_line_is_written_once_in_a_file_that_others_can_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "model.log"
    before = os.umask(0o077)
    try:
        log = ReadinessLog(path)
        for _ in range(2):
            log.ready("a b")
            log.fatal("crash_loop")
    finally:
        os.umask(before)
    assert path.read_text() == "GATEWAY READY model=a_b\nmodel loaded\nGATEWAY FATAL crash_loop\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_what_was_there_before_stays(tmp_path: Path) -> None:
    path = tmp_path / "model.log"
    path.write_text("older\n")
    ReadinessLog(path).fatal("cannot_start")
    assert path.read_text() == "older\nGATEWAY FATAL cannot_start\n"


def test_file_that_cannot_be_written_is_warned_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)  # nobody reads: a plain open would wait for ever
    for path in (tmp_path, pipe, Path("/dev/full"), tmp_path / "pipe" / "model.log"):
        caplog.clear()
        ReadinessLog(path).ready("x")
        assert f"MODEL_LOG {path} cannot be written" in caplog.text


def test_nothing_but_the_lines_of_one_start_gets_into_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.log"
    with ServiceProcess(tmp_path, {**MOCK, "MODEL_LOG": str(path)}) as service:
        service.opened()
        service.wait_for("ready: ")
        until(lambda: path.exists() and path.read_text().endswith("loaded\n"))
        lines = path.read_text()
        assert lines.splitlines() == ["GATEWAY READY model=mock", "model loaded"]
        for mark in MARKS:
            body = chat_body(f"{mark}\nmock: say={mark}", model=mark, user=mark)
            httpx.post(f"{service.url}{CHAT}", json=body, headers={"User-Agent": mark})
        # The engine dies and comes back: that is no second start.
        httpx.post(f"{service.url}{CHAT}", json=chat_body("mock: crash_head once=1"), timeout=20)
        until(lambda: httpx.get(f"{service.health_url}/health").status_code == 200)
        assert path.read_text() == lines
        assert service.stop() == 0
    assert path.read_text() == lines


def test_service_that_cannot_start_says_so(tmp_path: Path) -> None:
    path = tmp_path / "model.log"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        env = {**MOCK, "MODEL_LOG": str(path), "PORT": port}
        with ServiceProcess(tmp_path, env) as service:
            assert service.wait() == 1
    assert path.read_text() == "GATEWAY FATAL cannot_start\n"


def test_service_runs_on_where_the_file_cannot_be_written(tmp_path: Path) -> None:
    with ServiceProcess(tmp_path, {**MOCK, "MODEL_LOG": "/dev/full"}) as service:
        service.ready()
        assert httpx.get(f"{service.health_url}/health").status_code == 200
    assert "MODEL_LOG /dev/full cannot be written" in service.output
