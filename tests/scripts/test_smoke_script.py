"""The smoke test as an operator runs it: a process of its own, against a server over TCP."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KEY = "smoke-secret-canary"


def smoke(base_url: str, key: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "scripts/smoke_test.py", "--base-url", base_url, "--timeout", "10"]
    if key:
        command += ["--api-key", key]
    return subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=100,
    )


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    """The stand-in engine speaks the same API, so it will do for a service."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    command = [sys.executable, "-m", "backend.mock", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--tokens", "5"],
        cwd=ROOT,
        env=os.environ | {"LLAMA_API_KEY": KEY},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            if b"listening on" in line:
                break
        yield f"http://127.0.0.1:{port}/v1"
        process.terminate()
        process.wait(30)


def outcomes(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """Check name -> ``ok`` or ``FAILED``."""
    found = {}
    for line in done.stdout.splitlines():
        outcome, name = line.split("  ")[0].strip(), line[8:20].strip()
        found[name] = outcome
    return found


def test_all_is_well_with_a_good_key(base_url: str) -> None:
    done = smoke(base_url, KEY)
    assert done.returncode == 0, done.stdout + done.stderr
    names = ["health", "models", "chat", "stream", "wrong key", "unknown path"]
    assert outcomes(done) == dict.fromkeys(names, "ok")


def test_the_key_may_come_from_the_environment_and_is_never_shown(base_url: str) -> None:
    done = smoke(base_url, "", SMOKE_API_KEY=KEY)
    assert done.returncode == 0
    assert KEY not in done.stdout + done.stderr


def test_a_bad_key_fails_what_needs_one(base_url: str) -> None:
    done = smoke(base_url, "wrong")
    assert done.returncode == 1
    found = outcomes(done)
    assert (found["models"], found["chat"], found["stream"]) == ("FAILED",) * 3
    assert (found["health"], found["wrong key"]) == ("ok", "ok")


def test_a_service_that_is_not_there_fails_everything() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    done = smoke(f"http://127.0.0.1:{port}/v1", KEY)
    assert done.returncode == 1
    assert set(outcomes(done).values()) == {"FAILED"}
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://h/v1", "http://"])
def test_what_is_no_base_url_is_wrong_usage(url: str) -> None:
    assert smoke(url, KEY).returncode == 2
