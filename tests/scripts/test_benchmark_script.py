"""The benchmark as a user runs it: a process of its own, against a real service."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keys import create_first_key
from tests.support.service import ServiceProcess

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = [sys.executable, str(ROOT / "scripts" / "benchmark.py")]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """A service on the mock engine."""
    folder = tmp_path_factory.mktemp("service")
    secret = create_first_key(folder / "keys.yaml", folder / "keys.pepper", "test")
    assert secret is not None
    with ServiceProcess(folder, {"USE_MOCK_MODEL": "true"}) as running:
        running.key = secret
        yield running.ready()


@pytest.fixture
def environ(service: ServiceProcess) -> dict[str, str]:
    """The key where it is in no process list."""
    return os.environ | {"OPENAI_API_KEY": service.key, "COMPARE_API_KEY": service.key}


def bench(
    environ: dict[str, str], url: str, *words: str, cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*SCRIPT, "--base-url", url, *words],
        cwd=cwd,
        env=environ,
        capture_output=True,
        text=True,
        timeout=100,
    )


def figures(done: subprocess.CompletedProcess[str]) -> Any:
    return json.loads(done.stdout)


def test_figures_agree_with_what_was_asked(
    service: ServiceProcess, environ: dict[str, str], tmp_path: Path
) -> None:
    words = ["--concurrency", "1,3", "--requests", "6", "--prompt", "mock: tokens=7 delay_ms=1"]
    files = ["--json", "out.json", "--html", "out.html"]
    done = bench(environ, service.url, *words, *files, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [line.partition("; TTFT p50 ")[0] for line in done.stderr.splitlines()]
    assert lines == [f"{service.url}/v1, {streams} streams: 6 good, 0 bad" for streams in (1, 3)]
    text, html = (tmp_path / "out.json").read_text(), (tmp_path / "out.html").read_text()
    found = json.loads(text)
    (endpoint,) = found["endpoints"]
    assert (endpoint["base_url"], endpoint["model"]) == (f"{service.url}/v1", "mock")
    assert [level["streams"] for level in endpoint["levels"]] == [1, 3]
    for level in endpoint["levels"]:
        assert (level["requests"], level["succeeded"], level["failed"]) == (6, 6, 0)
        assert (level["tokens"], level["tokens_counted_by"]) == (42, "usage")
        assert level["inter_token_ms"]["count"] == 36
        assert level["ttft_ms"]["count"] == level["latency_ms"]["count"] == 6
        assert 0 < level["ttft_ms"]["p50"] <= level["latency_ms"]["p50"]
        assert level["client_cpu_share"] > 0
    assert found["ended_by"] == "plan"
    assert "tokens as the server counts them" in done.stdout
    assert html.startswith("<!doctype html>")
    assert all(service.key not in each for each in (done.stdout, text, html))


def test_two_endpoints_are_compared(service: ServiceProcess, environ: dict[str, str]) -> None:
    words = ["--concurrency", "2", "--requests", "4", "--max-tokens", "3", "--progress"]
    done = bench(environ, service.url, "--compare", service.url, *words)
    assert done.returncode == 0, done.stderr
    assert f"{service.url}/v1 against {service.url}/v1" in done.stdout
    assert "request" in done.stderr
    found = figures(bench(environ, service.url, "--compare", service.url, *words, "--json", "-"))
    (ratio,) = found["ratios"]
    assert ratio["streams"] == 2
    assert all(ratio[name] > 0 for name in ("ttft_p50", "latency_p50", "tokens_per_s"))
    assert [each["levels"][0]["tokens"] for each in found["endpoints"]] == [18, 18]
    assert found["workload"]["rounds"] == 3


def test_first_key_is_never_sent_to_the_second(
    service: ServiceProcess, environ: dict[str, str]
) -> None:
    del environ["COMPARE_API_KEY"]
    done = bench(environ, service.url, "--compare", service.url)
    assert done.returncode == 1
    assert "Error: no API key was given; use $COMPARE_API_KEY" in done.stderr


def test_bad_key_is_told_in_a_line(service: ServiceProcess, environ: dict[str, str]) -> None:
    done = bench(environ | {"OPENAI_API_KEY": "sk-wrong"}, service.url)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: the server does not accept the API key (")
    assert "--model" not in done.stderr
    assert "sk-wrong" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_missing_key_is_told_apart(service: ServiceProcess, environ: dict[str, str]) -> None:
    for words in ([], ["--model", "mock"]):
        done = bench(environ | {"OPENAI_API_KEY": ""}, service.url, *words)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("Error: no API key was given; use $OPENAI_API_KEY")


def test_nothing_is_told_if_so_wanted(service: ServiceProcess, environ: dict[str, str]) -> None:
    words = ["--concurrency", "1", "--requests", "1", "--max-tokens", "2", "--no-progress"]
    done = bench(environ, service.url, *words)
    assert (done.returncode, done.stderr) == (0, "")


def test_help_says_how_a_run_that_was_ended_exits() -> None:
    done = subprocess.run([*SCRIPT, "--help"], capture_output=True, text=True, timeout=100)
    codes = done.stdout.partition("Exit codes")[2].partition("Examples")[0]
    assert all(word in codes for word in ("Ctrl+C", "SIGTERM", "--budget", "ended_by"))


def test_broken_streams_are_failures(service: ServiceProcess, environ: dict[str, str]) -> None:
    words = ["--concurrency", "1", "--requests", "3"]
    prompt = ["--prompt", "mock: tokens=5 error_after=2"]
    done = bench(environ, service.url, *words, *prompt)
    assert done.returncode == 1
    assert "3 x broken stream" in done.stdout
    done = bench(environ, service.url, *words, *prompt, "--json", "-")
    (level,) = figures(done)["endpoints"][0]["levels"]
    assert (level["succeeded"], level["failures"]) == (0, {"broken stream": 3})
    assert (level["tokens"], level["ttft_ms"]) == (0, None)


def test_few_failures_may_be_allowed(service: ServiceProcess, environ: dict[str, str]) -> None:
    words = ["--concurrency", "1", "--requests", "4", "--json", "-"]
    for name, allowed, code in (("one", "25", 0), ("two", "24", 1)):
        prompt = f"mock: tokens=5 error_after=2 once=benchmark-{name}"
        done = bench(environ, service.url, *words, "--prompt", prompt, "--max-failures", allowed)
        (level,) = figures(done)["endpoints"][0]["levels"]
        assert (level["succeeded"], level["failed"], done.returncode) == (3, 1, code)


def test_ctrl_c_gives_what_was_measured(service: ServiceProcess, environ: dict[str, str]) -> None:
    words = ["--seconds", "3600", "--concurrency", "2", "--prompt", "mock: tokens=3", "--progress"]
    process = subprocess.Popen(
        [*SCRIPT, "--base-url", service.url, *words],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        assert isinstance(process.stderr, io.BufferedReader)
        seen = b""
        while b"2 streams" not in seen:
            piece = process.stderr.read1()
            assert piece, seen
            seen += piece
        process.send_signal(signal.SIGINT)
        rest, remarks = process.stderr.read(), process.stdout.read().decode()
    assert process.returncode == 0, rest
    assert "Ended by a signal" in remarks
    assert "Traceback" not in rest.decode()
    row = next(line.split() for line in remarks.splitlines() if line.startswith("      2"))
    assert int(row[1]) > 0
    assert row[2] == "0"


def test_budget_ends_it(service: ServiceProcess, environ: dict[str, str]) -> None:
    words = ["--seconds", "3600", "--concurrency", "1", "--budget", "2", "--json", "-"]
    done = bench(environ, service.url, *words, "--prompt", "mock: tokens=3")
    assert done.returncode == 0, done.stderr
    assert figures(done)["ended_by"] == "budget"


def test_service_that_is_not_there_is_told_in_a_line(environ: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    done = bench(environ, f"http://127.0.0.1:{port}")
    assert done.returncode == 1
    assert "cannot be reached: nothing listens there" in done.stderr
    assert "ssl:" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "words",
    [
        ["--requests", "1", "--seconds", "1"],
        ["--base-url", "http://user:canary@host/v1"],
        ["--api-key", "canary canary"],
        ["--compare-api-key", "x"],
        ["--json", "no/such/folder/out.json"],
    ],
)
def test_wrong_usage_is_told_before_anything_is_sent(words: list[str]) -> None:
    done = bench(dict(os.environ), "http://127.0.0.1:9", *words)
    assert done.returncode == 2
    assert "canary" not in done.stderr + done.stdout
