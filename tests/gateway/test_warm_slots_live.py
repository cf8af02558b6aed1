"""IDLE_SAVE_SLOTS with the real engine and the whole service: prompts outlive an unload, files do
not outlive a wake."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.conftest import Serve
from tests.support.aftermath import engines
from tests.support.callers import Caller, until

Start = Callable[..., Caller]
PROMPT = " ".join(f"Item {number} costs {number * 37 % 100}." for number in range(60))


@pytest.fixture
def started(serve: Serve, llama_server: Path, models: Path) -> Start:
    def start(**env: str) -> Caller:
        service = serve(
            LLAMA_SERVER=str(llama_server),
            MODEL_PATH=str(models / "tiny.gguf"),
            CTX="4096",
            PARALLEL="1",
            THREADS="1",
            IDLE_ACTION="unload",
            **{"IDLE_TIMEOUT": "1", **env},
        ).ready()
        return Caller(service, service.key)

    return start


def cached_tokens(who: Caller) -> int:
    reply = who.chat(PROMPT, max_tokens=1)
    assert reply.status_code == 200, reply.text
    return int(reply.json()["usage"]["prompt_tokens_details"]["cached_tokens"])


def asleep(who: Caller) -> None:
    url = f"{who.service.url}/info"
    with httpx.Client(headers=who.headers, timeout=20) as client:
        until(lambda: client.get(url).json()["engine"]["state"] == "sleeping")
    until(lambda: not engines(who.service))


def slot_folders(who: Caller) -> list[Path]:
    run_dir = Path(tempfile.gettempdir()) / f"llama-gateway-{os.getuid()}"
    return list(run_dir.glob(f"slots-{who.service.pid}-*"))


def slot_files(who: Caller) -> list[str]:
    (folder,) = slot_folders(who)
    assert folder.stat().st_mode & 0o077 == 0
    return [path.name for path in folder.iterdir()]


def test_prompt_is_cached_after_sleep_and_wake_and_no_file_is_left(started: Start) -> None:
    who = started(IDLE_SAVE_SLOTS="true")
    assert cached_tokens(who) == 0
    assert slot_files(who) == []
    asleep(who)
    assert slot_files(who) == ["slot-0.bin"]
    assert cached_tokens(who) > 100
    assert slot_files(who) == []
    asleep(who)
    assert slot_files(who) == ["slot-0.bin"]
    assert cached_tokens(who) > 100
    asleep(who)
    assert who.service.stop() == 0
    assert slot_folders(who) == []
    assert PROMPT not in who.service.output
    assert "Traceback" not in who.service.output


def test_without_the_setting_it_is_computed_again_and_nothing_is_written(started: Start) -> None:
    who = started()
    assert cached_tokens(who) == 0
    asleep(who)
    assert slot_folders(who) == []
    assert cached_tokens(who) == 0
    assert who.service.stop() == 0


def test_request_during_the_save_is_answered(started: Start) -> None:
    who = started(IDLE_SAVE_SLOTS="true", IDLE_TIMEOUT="0.2")
    cached_tokens(who)
    for number in range(6):
        who.service.wait_for("idle for")
        assert who.chat(f"hi {number}").status_code == 200
    asleep(who)
    assert who.service.stop() == 0
    assert slot_folders(who) == []
    assert "Traceback" not in who.service.output
