"""Logs: one line a record, no secrets in it, and never in the way of the service."""

from __future__ import annotations

import base64
import json
import logging
import os
import resource
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.observe.logs import JsonFormatter, LogSink, TextFormatter, setup, teardown
from gateway.observe.redaction import Redactor, escape_controls
from gateway.observe.repeats import Dropped, RepeatLimit

CANARY = "sk-lg-canary01-AbCdEfGhIjKlMnOpQrStUvWxYz0123456789_-AbCdEf"


def record(
    message: str, *values: object, name: str = "gateway.test", **extra: object
) -> logging.LogRecord:
    made = logging.LogRecord(name, logging.INFO, __file__, 1, message, values, None)
    made.created = 0.5
    vars(made).update(extra)
    return made


def raised(error: Exception) -> logging.LogRecord:
    made = record("it failed")
    try:
        raise error
    except Exception as exc:
        made.exc_info = (type(exc), exc, exc.__traceback__)
    return made


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Pipe:
    """A sink whose lines can be read back."""

    def __init__(self, per_second: float = 10.0) -> None:
        self.read_fd, self.write_fd = os.pipe()
        self.clock = Clock()
        self.sink = LogSink(
            self.write_fd, TextFormatter(Redactor()), per_second=per_second, clock=self.clock
        )

    def lines(self) -> list[str]:
        """What was written; the sink is closed by this."""
        self.sink.close()
        os.close(self.write_fd)
        with os.fdopen(self.read_fd) as file:
            return file.read().splitlines()


# -- redaction


@pytest.mark.parametrize(
    "text",
    [
        CANARY,
        f"Authorization: Bearer {CANARY}",
        urllib.parse.quote(CANARY.replace("-", "%2D"), safe="%"),
        *(base64.b64encode(b"x" * pad + CANARY.encode()).decode() for pad in range(3)),
        base64.urlsafe_b64encode(b"id:" + CANARY.encode()).decode(),
        f"GET /v1/models?key={CANARY}&a=b",
        f"<CIMultiDictProxy('Authorization': 'Bearer {CANARY}')>",
    ],
)
def test_our_keys_are_masked_in_every_spelling(text: str) -> None:
    shown = Redactor()(f"got {text} from a client")
    assert "canary" not in shown
    assert CANARY[20:] not in shown
    assert "***" in shown
    assert shown.startswith("got ")


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer foreign-secret",
        "bearer foreign-secret",
        "authorization: Basic foreign-secret",
        "X-Api-Key: foreign-secret",
        "x-api-key=foreign-secret",
        "{'api-key': 'foreign-secret', 'Accept': '*/*'}",
        "[(b'X-API-Key', b'foreign-secret'), (b'Accept', b'*/*')]",
        "Cookie: session=foreign-secret; b=foreign-secret",
        "'X-Api-Key': \"it's foreign-secret\"",
        "Host: x\nAuthorization: Bearer foreign-secret\nAccept: a",
    ],
)
def test_whatever_follows_a_credential_header_is_masked(text: str) -> None:
    assert "foreign-secret" not in Redactor()(text)


def test_known_secrets_are_masked_wherever_they_stand() -> None:
    redact = Redactor(["pa55word-of-engine", "", "abc"])
    assert redact("url?x=pa55word-of-engine&abc") == "url?x=***&abc"


@pytest.mark.parametrize(
    "part", ["x", "a/", "sk-", "bearer ", "cookie: '", "api-key ", "'", "authorization= ", "+"]
)
def test_hostile_text_takes_no_longer_than_other_text(part: str) -> None:
    begin = time.process_time()
    Redactor()(part * (200_000 // len(part)))
    assert time.process_time() - begin < 2.0


def test_ordinary_text_is_left_alone() -> None:
    text = "engine is ready: 4 slots of 2048 tokens; two authorization headers; task-1, risk-3"
    assert Redactor()(text) == text


def test_control_characters_cannot_reach_a_terminal_or_start_a_line() -> None:
    assert escape_controls("a\r\n\x1b[2J\x9b\u2028\u202e\udcff\x7fé") == (
        r"a\r\n\x1b[2J\x9b\u2028\u202e\xff\x7fé"
    )


# -- formats


def test_text_is_one_line_with_time_level_and_logger() -> None:
    line = TextFormatter(Redactor()).format(record("slot %d is %s", 3, "free\nforged", slot=3))
    assert line == (
        "1970-01-01T00:00:00.500Z INFO    gateway.test: slot 3 is free\\nforged  slot=3"
    )


def test_json_is_one_object_with_the_fields() -> None:
    made = record("x %s", "a\nb\udcff", slot=3, who=f"Bearer {CANARY}")
    line = JsonFormatter(Redactor()).format(made)
    assert "\n" not in line
    assert json.loads(line) == {
        "ts": "1970-01-01T00:00:00.500Z",
        "level": "info",
        "logger": "gateway.test",
        "message": "x a\\nb\\xff",
        "slot": 3,
        "who": "Bearer ***",
    }


def test_fields_cannot_replace_the_message() -> None:
    made = record("true", ts="forged", level="forged")
    assert json.loads(JsonFormatter(Redactor()).format(made))["level"] == "info"


@pytest.mark.parametrize("formatter", [TextFormatter, JsonFormatter])
def test_tracebacks_are_redacted_and_cannot_pose_as_lines(
    formatter: Callable[[Redactor], logging.Formatter],
) -> None:
    text = formatter(Redactor()).format(raised(ValueError(f"bad\n2026 INFO forged {CANARY}")))
    assert "canary" not in text
    assert "ValueError: bad" in text
    first, *rest = text.splitlines()
    assert "it failed" in first
    assert all(line.startswith("    | ") for line in rest)


def test_a_message_whose_values_do_not_fit_is_still_written() -> None:
    line = TextFormatter(Redactor()).format(record("%d of %d", 1))
    assert "%d of %d [its values do not fit]" in line


def test_huge_messages_are_cut() -> None:
    assert len(TextFormatter(Redactor()).format(record("%s", "x" * 10**6))) < 5000


# -- repeating lines


def test_repeating_lines_are_limited_and_the_rest_is_counted() -> None:
    limit: RepeatLimit[str] = RepeatLimit(2)
    assert [limit.take("a", 0.1 * i) for i in range(5)] == [True, True, False, False, False]
    assert limit.take("b", 0.5)
    assert limit.settle(0.9) == []
    assert limit.settle(1.1) == [Dropped("a", 3)]
    assert limit.settle(1.2) == []
    assert limit.take("a", 1.3)
    assert limit.dropped == 3


def test_what_was_dropped_last_is_told_at_the_end() -> None:
    limit: RepeatLimit[str] = RepeatLimit(1)
    for _ in range(4):
        limit.take("a", 0.0)
    assert limit.finish() == [Dropped("a", 3)]
    assert limit.finish() == []


def test_many_kinds_take_bounded_memory() -> None:
    limit: RepeatLimit[int] = RepeatLimit(1)
    assert all(limit.take(kind, 0.0) for kind in range(5000))
    assert "1024 kinds" in repr(limit)


def test_a_flood_is_cut_per_logger_and_template_and_its_size_is_told() -> None:
    pipe = Pipe(per_second=3)
    for number in range(10):
        pipe.sink.handle(record("bad request %d", number))
    pipe.sink.handle(record("bad request %d", 1, name="other"))
    pipe.clock.now = 1.5
    pipe.sink.handle(record("calm"))
    lines = pipe.lines()
    assert [line.split(": ", 1)[1] for line in lines] == [
        "bad request 0",
        "bad request 1",
        "bad request 2",
        "bad request 1",
        "7 more lines like this were left out: bad request %d",
        "calm",
    ]


def test_lines_that_are_all_value_count_by_their_text() -> None:
    pipe = Pipe(per_second=1)
    for number in range(50):
        pipe.sink.handle(record("%s", f"engine line {number}"))
    assert len(pipe.lines()) == 50


# -- the sink


def test_a_closed_stderr_costs_lines_and_nothing_else() -> None:
    pipe = Pipe()
    os.close(pipe.write_fd)
    pipe.sink.handle(record("into the void"))
    assert pipe.sink.dropped == 1
    os.close(pipe.read_fd)
    pipe.sink.close()


def test_a_reader_that_left_costs_lines_and_nothing_else() -> None:
    pipe = Pipe()
    os.close(pipe.read_fd)
    pipe.sink.handle(record("nobody listens"))
    assert pipe.sink.dropped == 1
    pipe.sink.close()
    os.close(pipe.write_fd)


def test_a_full_disk_costs_lines_and_nothing_else() -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    sink = LogSink(fd, TextFormatter(Redactor()))
    sink.handle(record("no room"))
    assert sink.dropped == 1
    sink.close()
    os.close(fd)


def test_a_reader_that_stopped_reading_does_not_stop_us() -> None:
    pipe = Pipe(per_second=10_000)
    os.set_blocking(pipe.write_fd, True)
    done = threading.Event()

    def write() -> None:
        for number in range(400):
            pipe.clock.now += 1.0
            pipe.sink.handle(record("%s", f"{number} " + "x" * 1000))
        done.set()

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    assert done.wait(30)
    assert pipe.sink.dropped > 0
    thread.join()
    assert os.read(pipe.read_fd, 100)
    os.close(pipe.read_fd)
    os.close(pipe.write_fd)
    pipe.sink.close()


def test_a_record_that_cannot_be_formatted_raises_nothing() -> None:
    class Hostile:
        def __str__(self) -> str:
            raise RuntimeError("no")

    pipe = Pipe()
    pipe.sink.handle(record("%s and %s", Hostile(), 1))
    pipe.sink.handle(record("after"))
    assert pipe.lines()[-1].endswith("after")


# -- set-up of the whole process


@pytest.fixture
def logged(tmp_path: Path) -> Iterator[Callable[[], list[str]]]:
    path = tmp_path / "log"
    fd = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    sink = setup("json", "info", fd=fd, secrets=["hunter2-hunter2"])
    yield lambda: path.read_text().splitlines()
    teardown(sink)
    os.close(fd)
    root.handlers[:] = before
    root.setLevel(level)


@pytest.mark.parametrize("name", ["aiohttp.server", "asyncio", "gateway.app", "anything"])
def test_every_logger_is_redacted(logged: Callable[[], list[str]], name: str) -> None:
    logging.getLogger(name).error(
        "Error handling request b'Host: x\\nAuthorization: Bearer %s' hunter2-hunter2", CANARY
    )
    (line,) = logged()
    assert json.loads(line)["logger"] == name
    assert "canary" not in line
    assert "hunter2" not in line


def test_lines_below_the_level_are_left_out(logged: Callable[[], list[str]]) -> None:
    logging.getLogger("asyncio").debug("Using selector: EpollSelector")
    assert logged() == []


def run_python(code: str, **kwargs: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **kwargs)  # type: ignore[call-overload, no-any-return]


def test_an_uncaught_error_is_one_redacted_record() -> None:
    done = run_python(
        "from gateway.observe.logs import setup; setup('json'); "
        f"raise ValueError('Bearer {CANARY}')"
    )
    assert done.returncode == 1
    assert "canary" not in done.stderr
    (line,) = done.stderr.splitlines()
    assert json.loads(line)["message"] == "uncaught error"


def test_a_start_with_stderr_closed_does_not_log_into_the_next_socket() -> None:
    code = (
        "import os\n"
        "os.close(2)\n"
        "from gateway.observe.logs import setup\n"
        "setup()\n"
        "import logging, socket\n"
        "a, b = socket.socketpair()\n"
        "assert 2 not in (a.fileno(), b.fileno())\n"
        "logging.getLogger().error('nowhere')\n"
        "print('alive')\n"
    )
    assert run_python(code).stdout == "alive\n"


def test_a_file_at_its_size_limit_does_not_end_the_process(tmp_path: Path) -> None:
    code = (
        "import signal, logging; from gateway.observe.logs import setup\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "sink = setup(repeat_limit=1000)\n"
        "[logging.getLogger().error('%s', 'x' * 1000) for _ in range(20)]\n"
        "print(sink.dropped > 0)\n"
    )
    with (tmp_path / "log").open("w") as log:
        done = subprocess.run(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            timeout=60,
            check=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
        )
    assert done.stdout == "True\n"
