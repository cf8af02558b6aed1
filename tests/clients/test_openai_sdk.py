"""The service as users of the ``openai`` package meet it, in both generations of that package.

The checks are a program of their own, `tests.clients.openai_sdk`, because two generations cannot
live in one process. It runs once for each generation and group of checks, against a service that
was started for that; each of its checks is a test here.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.clients.conftest import keys_file
from tests.clients.openai_sdk import CHECKS
from tests.support.service import ServiceProcess

Make = Callable[..., ServiceProcess]

ROOT = Path(__file__).parents[2]
OLDER = ROOT / ".venvs" / "openai-1"  # made by `make test`
GENERATIONS = {"current": None, "older": OLDER}

MOCK = {"USE_MOCK_MODEL": "true", "CRASH_LIMIT": "1000", "RESTART_BACKOFF_MAX": "0.1"}
SETTINGS: dict[str, dict[str, str]] = {
    "chat": {
        "MODEL_PATH": "tiny.gguf",
        "CTX": "8192",
        "THREADS": "1",
        "MAX_REQUEST_BODY_SIZE": "2000000",
    },
    "embeddings": {
        "MODEL_PATH": "tiny.gguf",
        "CTX": "8192",
        "THREADS": "1",
        "EMBEDDINGS": "true",
        "POOLING": "mean",
    },
    "rerank": {"MODEL_PATH": "rerank.gguf", "CTX": "8192", "THREADS": "1", "RERANK": "true"},
    "faults": {**MOCK, "REQUEST_TIMEOUT": "2"},
    "full": {**MOCK, "PARALLEL": "1", "MAX_QUEUE_SIZE": "0"},
    "loading": {**MOCK, "MOCK_LOAD_S": "600", "MAX_QUEUE_WAIT": "0.5"},
    "draining": {**MOCK},
}
CASES = [
    pytest.param(generation, group, name, id=f"{generation}-{group}-{name}")
    for group, checks in CHECKS.items()
    for generation in GENERATIONS
    for name in checks
]

Findings = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def findings(
    make_service: Make, models: Path, llama_server: Path, key_tool: Callable[..., str]
) -> Callable[[str, str], Findings]:
    """What one generation of the package finds in one group of checks, by name; looked at once."""

    def find(generation: str, group: str) -> Findings:
        settings = {**SETTINGS[group], "LLAMA_SERVER": str(llama_server)}
        if "MODEL_PATH" in settings:
            settings["MODEL_PATH"] = str(models / settings["MODEL_PATH"])
        service = make_service(**settings)
        words = ("generate", "limited", "--scopes", "metrics", "--quiet")
        limited = key_tool(*words, "--file", str(keys_file(service)))
        service.start()
        if group == "loading":
            service.opened()
        else:
            service.ready()
        lines = run_program(service, limited, generation, group)
        service.kill()
        return {line["name"]: line for line in lines}

    return functools.cache(find)


def run_program(
    service: ServiceProcess, limited: str, generation: str, group: str
) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "tests.clients.openai_sdk"]
    command += ["--base-url", f"{service.url}/v1", "--key", service.key]
    command += ["--limited-key", limited, "--pid", str(service.pid), group]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment(GENERATIONS[generation]),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.stdout, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def environment(packages: Path | None) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return kept if packages is None else {**kept, "PYTHONPATH": str(packages)}


@pytest.mark.parametrize(("generation", "group", "name"), CASES)
def test_sdk(
    findings: Callable[[str, str], Findings], generation: str, group: str, name: str
) -> None:
    found = findings(generation, group)[f"{group}.{name}"]
    assert found["ok"], found["detail"]


@pytest.mark.parametrize(("generation", "major"), [("older", 1), ("current", 2)])
def test_generations_differ(generation: str, major: int) -> None:
    version = subprocess.run(
        [sys.executable, "-c", "import openai; print(openai.__version__)"],
        env=environment(GENERATIONS[generation]),
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
    ).stdout
    found = int(version.partition(".")[0])
    assert found == major if generation == "older" else found >= major, version
