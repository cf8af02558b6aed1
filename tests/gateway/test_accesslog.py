"""Access lines: what they say, what they cannot be made to say, and what happens without a sink."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import pytest

from gateway.observe.accesslog import AccessLog, AccessRecord, clean, json_line, text_line

STAMP = "2026-01-02T03:04:05.678Z"
RECORD = AccessRecord(
    request_id="req_1",
    client="10.0.0.9",
    method="POST",
    path="/v1/chat/completions?x=canary",
    route="/v1/chat/completions",
    status=200,
    key_id="k1",
    model="my model",
    stream=True,
    queue_s=0.0123,
    ttft_s=0.25,
    total_s=1.5,
    prompt_tokens=10,
    cached_tokens=4,
    completion_tokens=11,
    bytes_in=100,
    bytes_out=900,
    finish_reason="stop",
    retry_count=1,
)
OUTSIDE = ["client", "method", "path", "model", "key_id", "request_id", "finish_reason"]
HOSTILE = [
    "a\nb",
    "a\r\nb",
    "a\x00b",
    "a\x1b[31mb",
    "a\x7fb",
    "a\x85b",
    "a\u2028b",
    "a\u2029b",
    "a\u202eb",
    'a"b',
    "a\\b",
    "a\udcffb",
    "a\ud800b",
]


class Pipe:
    """A pipe whose reading end shows what the log wrote."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        self.kept = b""

    def lines(self, count: int) -> list[bytes]:
        """Wait for *count* lines."""
        while self.kept.count(b"\n") < count:
            self.kept += os.read(self.reading, 65536)
        return self.kept.splitlines()

    def close(self) -> None:
        os.close(self.reading)
        os.close(self.writing)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    found = Pipe()
    yield found
    found.close()


def text_log(descriptor: int, **options: object) -> AccessLog:
    return AccessLog(descriptor, line_format="text", clock=lambda: 0.0, **options)  # type: ignore[arg-type]


def test_a_text_line() -> None:
    assert text_line(RECORD, STAMP).decode() == (
        f"{STAMP} INFO    gateway.access: request  request_id=req_1 client=10.0.0.9 method=POST"
        " route=/v1/chat/completions status=200 total_ms=1500.0 bytes_in=100 bytes_out=900"
        ' key=k1 model="my model" finish=stop stream=true queue_ms=12.3 ttft_ms=250.0'
        " prompt_tokens=10 cached_tokens=4 completion_tokens=11 retry=1\n"
    )


def test_a_json_line() -> None:
    line = json_line(RECORD, STAMP)
    assert line.endswith(b"}\n")
    assert json.loads(line) == {
        "ts": STAMP,
        "level": "info",
        "logger": "gateway.access",
        "message": "request",
        "request_id": "req_1",
        "client": "10.0.0.9",
        "method": "POST",
        "route": "/v1/chat/completions",
        "status": 200,
        "total_ms": 1500.0,
        "bytes_in": 100,
        "bytes_out": 900,
        "key": "k1",
        "model": "my model",
        "finish": "stop",
        "stream": True,
        "queue_ms": 12.3,
        "ttft_ms": 250.0,
        "prompt_tokens": 10,
        "cached_tokens": 4,
        "completion_tokens": 11,
        "retry": 1,
    }


def test_a_percent_sign_is_shown_as_it_is() -> None:
    words = dict.fromkeys((*OUTSIDE, "route", "error_code", "limit"), "50%s%")
    record = replace(RECORD, **words)  # type: ignore[arg-type]
    assert text_line(record, STAMP).count(b"=50%s% ") == len(words) - 1  # a route hides the path
    shown = json.loads(json_line(record, STAMP))
    assert [shown[name] for name in ("method", "route", "model", "error")] == ["50%s%"] * 4


def test_lines_of_requests_that_differ_in_numbers_only_have_their_own() -> None:
    """Such requests share what was put together for the first of them."""
    other = replace(RECORD, status=503, total_s=0.0, bytes_out=1, cached_tokens=0, stream=False)
    text_line(RECORD, STAMP)
    assert text_line(replace(other, replays=2), STAMP).decode() == (
        f"{STAMP} INFO    gateway.access: request  request_id=req_1 client=10.0.0.9 method=POST"
        " route=/v1/chat/completions status=503 total_ms=0.0 bytes_in=100 bytes_out=1"
        ' key=k1 model="my model" finish=stop stream=false queue_ms=12.3 ttft_ms=250.0'
        " prompt_tokens=10 cached_tokens=0 completion_tokens=11 retry=1 replays=2\n"
    )


def test_an_unknown_path_is_shown_without_its_query() -> None:
    record = replace(RECORD, route="other", path="/v1/x?key=canary")
    assert b" path=/v1/x " in text_line(record, STAMP)
    for line in (text_line(record, STAMP), json_line(record, STAMP), text_line(RECORD, STAMP)):
        assert b"canary" not in line


def test_a_refused_request_has_a_line_of_its_own() -> None:
    record = AccessRecord("r", "c", "GET", status=401, error_code="invalid_api_key")
    line = text_line(record, STAMP)
    assert b" status=401 " in line
    assert b" error=invalid_api_key" in line
    assert b"tokens" not in line


@pytest.mark.parametrize("field", OUTSIDE)
@pytest.mark.parametrize("value", HOSTILE)
def test_no_value_from_outside_breaks_a_line_or_its_quotes(field: str, value: str) -> None:
    record = replace(RECORD, route="other", **{field: value + " status=500"})
    text = text_line(record, STAMP)
    assert len(text.splitlines()) == 1
    assert text.decode().count('"') % 2 == 0
    assert text.count(b'"') == text_line(replace(record, **{field: "a b"}), STAMP).count(b'"')
    shown = json_line(record, STAMP)
    assert len(shown.splitlines()) == 1
    assert shown.decode().isprintable() or shown.decode().rstrip("\n").isprintable()
    assert value not in json.loads(shown).values()


@pytest.mark.parametrize("field", ["path", "model", "request_id", "client", "method"])
@pytest.mark.parametrize(
    "key",
    [
        "sk-lg-abcdef123456-S3cretPartOfTheKeyS3cretPartOfTheKey",
        "sk%2Dlg%2Dabcdef123456-S3cretPartOfTheKeyS3cretPartOfTheKey",
        "c2stbGctYWJjZGVmMTIzNDU2LVMzY3JldFBhcnRPZlRoZUtleQ",
    ],
)
def test_a_key_in_the_wrong_place_is_masked(field: str, key: str) -> None:
    record = replace(RECORD, route="other", **{field: f"/v1/{key}"})
    for line in (text_line(record, STAMP), json_line(record, STAMP)):
        assert b"S3cret" not in line
        assert b"c2stbGct" not in line


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("plain", "plain"),
        ("grüß 你好", "grüß 你好"),
        ("\n\t", "\\x0a\\x09"),
        ("\udcff\udc80", "\\xff\\x80"),
        ("\u2028", "\\u2028"),
        ('"\\', "\\x22\\x5c"),
        ("x" * 300, "x" * 256 + "..."),
    ],
)
def test_clean(value: str, shown: str) -> None:
    assert clean(value) == shown


def test_no_line_grows_without_bound() -> None:
    values = dict.fromkeys((*OUTSIDE, "route", "error_code"), "\x00" * 100000)
    record = replace(RECORD, **values)  # type: ignore[arg-type]
    assert len(text_line(record, STAMP)) < 12_000


def test_the_record_has_no_place_for_content() -> None:
    names = {field.name for field in fields(AccessRecord)}
    assert names.isdisjoint({"body", "prompt", "messages", "headers", "authorization", "query"})


def test_lines_are_written_in_order(pipe: Pipe) -> None:
    log = text_log(pipe.writing)
    for number in range(200):
        log.write(replace(RECORD, request_id=f"r{number}"))
    lines = pipe.lines(200)
    assert [line.split()[4] for line in lines] == [b"request_id=r%d" % n for n in range(200)]
    log.close()


def test_close_writes_what_waits(tmp_path: Path) -> None:
    path = tmp_path / "log"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    log = text_log(descriptor)
    log.write(RECORD)
    log.close()
    log.close()
    os.close(descriptor)
    assert path.read_bytes().count(b"\n") == 1


def test_a_line_after_close_is_counted_as_dropped(pipe: Pipe) -> None:
    log = text_log(pipe.writing)
    log.close()
    log.write(RECORD)
    assert log.dropped == 1


def test_quiet_routes_have_no_line(pipe: Pipe) -> None:
    log = text_log(pipe.writing, quiet_routes=frozenset({"/health"}))
    log.write(replace(RECORD, route="/health"))
    log.write(RECORD)
    assert len(pipe.lines(1)) == 1
    log.close()


def test_time_is_utc_to_the_millisecond(pipe: Pipe) -> None:
    now = 1767323045.678
    log = AccessLog(pipe.writing, line_format="text", clock=lambda: now)
    log.write(RECORD)
    assert pipe.lines(1)[0].startswith(b"2026-01-02T03:04:05.67")
    log.close()


def test_a_closed_sink_is_counted_and_never_raises() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    log = text_log(writing)
    for _ in range(3):
        log.write(RECORD)
    log.close()
    assert log.dropped == 3
    os.close(writing)


def test_a_full_disk_is_counted_and_never_raises() -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    log = text_log(descriptor)
    log.write(RECORD)
    log.write(RECORD)
    log.close()
    assert log.dropped == 2
    os.close(descriptor)


def test_a_sink_nobody_reads_neither_blocks_nor_grows() -> None:
    pipe = Pipe()
    log = text_log(pipe.writing, buffer_max_bytes=10_000)
    for _ in range(5_000):
        log.write(RECORD)  # far more than the pipe and the buffer hold together
    assert log.dropped > 0
    draining = threading.Thread(target=_drain, args=(pipe.reading,))
    draining.start()
    log.close()
    os.close(pipe.writing)
    draining.join()
    os.close(pipe.reading)


def _drain(descriptor: int) -> None:
    while os.read(descriptor, 65536):
        pass


def test_a_sink_that_does_not_block_is_waited_for(pipe: Pipe) -> None:
    os.set_blocking(pipe.writing, False)
    log = text_log(pipe.writing)
    count = 1_000  # more than a pipe holds
    for _ in range(count):
        log.write(RECORD)
    assert len(pipe.lines(count)) == count
    log.close()
    assert log.dropped == 0
