"""deploy/vast/onstart.sh: gateway and PyWorker side by side, as the instance's start command."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from tests.fakes.vast_autoscaler import VastAutoscaler
from tests.support.callers import until
from tests.support.pyworker import ROOT, free_port, vast_environment

SCRIPT = ROOT / "deploy" / "vast" / "onstart.sh"
TEMPLATE = ROOT / "deploy" / "vast" / "template.json"


@pytest.fixture(scope="module")
def autoscaler() -> Iterator[VastAutoscaler]:
    with VastAutoscaler() as fake:
        yield fake


@pytest.fixture
def env(autoscaler: VastAutoscaler, tmp_path: Path) -> dict[str, str]:
    return {
        **vast_environment(autoscaler, tmp_path, free_port()),
        "GATEWAY_PYTHON": sys.executable,
        "PYWORKER_PYTHON": sys.executable,
        "WORKSPACE_DIR": str(tmp_path / "workspace"),
        "FATAL_GRACE": "0.1",
        "USE_MOCK_MODEL": "true",
        "AUTH_MODE": "platform",
        "SERVERLESS": "true",
        "VAST_CONTAINERLABEL": "C.1",
        "PORT": str(free_port()),
        "PORT_HEALTH": str(free_port()),
        "DATA_DIR": str(tmp_path),
        "DRAIN_DELAY": "0",
    }


def run(env: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["/bin/sh", str(SCRIPT)], cwd=ROOT, env=env, start_new_session=True)


def test_both_run_and_end_together_when_told_to(
    autoscaler: VastAutoscaler, env: dict[str, str]
) -> None:
    log = Path(env["MODEL_LOG"])
    log.write_text("GATEWAY FATAL of_the_run_before\n")
    with run(env) as box:
        try:
            until(lambda: log.read_text() == "GATEWAY READY model=mock\nmodel loaded\n")
            until(lambda: (Path(env["WORKSPACE_DIR"]) / ".has_benchmark").exists())
            children = psutil.Process(box.pid).children(recursive=True)
            box.send_signal(signal.SIGTERM)
            assert box.wait(20) == 0
            assert not psutil.wait_procs(children, timeout=5)[1]
        finally:
            box.kill()
    told = autoscaler.reports_of(int(env["CONTAINER_ID"]))
    assert told
    assert not any(each["error_msg"].startswith("GATEWAY") for each in told)


def test_gateway_that_cannot_speak_is_reported_all_the_same(env: dict[str, str]) -> None:
    with run({**env, "LOG_LEVEL": "wrong"}) as box:
        assert box.wait(20) == 2
    assert Path(env["MODEL_LOG"]).read_text() == "GATEWAY FATAL exit_2\n"


def test_template_sets_what_the_platform_does_not() -> None:
    template = json.loads(TEMPLATE.read_text())
    words = shlex.split(template["env"])
    env = dict(word.partition("=")[::2] for flag, word in pairwise(words) if flag == "-e")
    assert env["AUTH_MODE"] == "platform"
    assert (env["HOST"], env["PORT"]) == ("127.0.0.1", "18000")
    assert Path(env["MODEL_LOG"]).is_absolute()
    ports = [word for flag, word in pairwise(words) if flag == "-p"]
    assert ports == ["3000:3000"]  # the PyWorker alone is seen from outside
    assert template["runtype"] == "args"
    assert not re.search(r"sk-|hf_", template["env"])
