"""Vast's PyWorker as a real child: the vendor's package runs deploy/vast/worker.py."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from tests.fakes.vast_autoscaler import VastAutoscaler

ROOT = Path(__file__).parents[2]
VAST_SDK = ROOT / ".venvs" / "vast"  # made by `make test`
_ids = itertools.count(101)


def free_port() -> int:
    """A port that nobody has just now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def vast_environment(autoscaler: VastAutoscaler, folder: Path, port: int) -> dict[str, str]:
    """What Vast sets, with a benchmark that takes a moment; *port* is the PyWorker's."""
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(VAST_SDK),
        "CONTAINER_ID": str(next(_ids)),
        "PUBLIC_IPADDR": "127.0.0.1",
        "WORKER_PORT": str(port),
        f"VAST_TCP_PORT_{port}": str(port),
        "WORKER_HTTP_PORT": "0",
        "REPORT_ADDR": autoscaler.url,
        "MASTER_TOKEN": "master-secret",
        "MODEL_LOG": str(folder / "model.log"),
        "BENCHMARK_RUNS": "1",
        "BENCHMARK_TOKENS": "8",
    }


class PyWorker:
    """One worker. ``with`` starts and ends it.

    Args:
        autoscaler: Whom it reports to.
        folder: Its working folder, with MODEL_LOG in it.
        gateway_port: Where it looks for the gateway.
    """

    def __init__(self, autoscaler: VastAutoscaler, folder: Path, gateway_port: int) -> None:
        self._autoscaler = autoscaler
        self._folder = folder
        self._port = free_port()
        self._env = vast_environment(autoscaler, folder, self._port)
        self._env["PORT"] = str(gateway_port)
        self._process: subprocess.Popen[bytes] | None = None
        self.id = int(self._env["CONTAINER_ID"])
        self.model_log = folder / "model.log"
        self.url = f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        with (self._folder / "worker.out").open("wb") as out:
            self._process = subprocess.Popen(
                [sys.executable, str(ROOT / "deploy" / "vast" / "worker.py")],
                cwd=self._folder,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)

    def signed(self, payload: object) -> dict[str, Any]:
        """A request body as Vast's client sends it."""
        return {"auth_data": self._autoscaler.sign(self.url), "payload": payload}

    def post(self, path: str, body: object) -> httpx.Response:
        """Send *body* with a client's Authorization header and read the whole reply."""
        headers = {"Authorization": "Bearer account-secret"}
        return httpx.post(f"{self.url}{path}", json=body, headers=headers, timeout=20)

    def bad_signature(self) -> httpx.Response:
        """A request signed for another worker. It also makes the SDK report within a second."""
        body = self.signed({"prompt": "hi"})
        body["auth_data"]["url"] = "http://127.0.0.1:1"
        return self.post("/v1/completions", body)

    def first_report(self) -> dict[str, Any]:
        """Wait until it has said something at all."""
        return self._autoscaler.until(self.id, lambda _: True)

    def ready(self) -> dict[str, Any]:
        """Wait until Vast would route to it; returns the report."""

        def settled(report: dict[str, Any]) -> bool:
            assert not report["error_msg"], report["error_msg"]
            return bool(report["max_perf"] > 0)

        return self._autoscaler.until(self.id, settled, self.bad_signature)

    def errored(self) -> str:
        """Wait until Vast takes it for broken; returns why."""
        report = self._autoscaler.until(self.id, lambda r: bool(r["error_msg"]), self.bad_signature)
        return str(report["error_msg"])
