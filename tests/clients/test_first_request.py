"""What a person sees after ``make run``, pasted as it stands, with the demo model."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.service import ServiceProcess

Make = Callable[..., ServiceProcess]

# curl is no part of what must be there beforehand; the Python snippet always runs.
WAYS = ["python", "curl"] if shutil.which("curl") else ["python"]


@pytest.fixture(scope="module")
def service(make_service: Make, llama_server: Path) -> ServiceProcess:
    """A first run, which makes its key itself."""
    first = make_service(
        key=False, flags=["--first-run"], LLAMA_SERVER=str(llama_server), CTX="4096"
    )
    first.start().ready()
    first.wait_for("Ctrl-C stops the service")
    return first


def pasted(way: str, output: str) -> list[str]:
    """The command that a person would run after reading *output*."""
    if way == "curl":
        (line,) = re.findall(r"^curl .*$", output, re.MULTILINE)
        return ["sh", "-c", line]
    snippet = output[output.index("from openai import") :].partition("\n\n")[0]
    return [sys.executable, "-c", snippet]


def run(command: list[str]) -> str:
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    return done.stdout


def streamed_text(events: str) -> str:
    lines = [line.removeprefix("data: ") for line in events.splitlines() if line]
    assert lines.pop() == "[DONE]"
    chunks = [json.loads(line) for line in lines]
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)


@pytest.mark.parametrize("way", WAYS)
def test_printed_lines_get_a_true_answer(service: ServiceProcess, way: str) -> None:
    said = run(pasted(way, service.output))
    answer = streamed_text(said) if way == "curl" else said
    assert "Paris" in answer


def test_key_is_shown_once_and_never_logged(service: ServiceProcess) -> None:
    run(pasted("python", service.output))
    keys = re.findall(r"sk-lg-[\w-]+", service.output)
    assert len(set(keys)) == 1
    assert len(keys) == 1 + 2  # by itself, and in each of the two ways to use it
