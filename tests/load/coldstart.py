"""How long is a cold start, and does reading ahead help? ``python -m tests.load.coldstart``

The real engine with the demo model (94 MiB), started again and again; before each start the model
is thrown out of the page cache. Starts with and without reading ahead take turns, so that what else
happens on the machine meets both. The last rows are starts whose model is in the cache already.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median

import httpx
from prometheus_client.parser import text_string_to_metric_families

from backend import ModelSettings, resolve
from tests.load.bench import table
from tests.support.service import ServiceProcess

__all__ = ["ways_of_starting"]

_ROUNDS = 7
_PHASES = ("boot", "model_read", "load", "warm_up", "first_token")
_WAYS: Mapping[str, tuple[str, bool]] = {
    "cold, read ahead": ("true", True),
    "cold, not read ahead": ("false", True),
    "cached, read ahead": ("true", False),
    "cached, not read ahead": ("false", False),
}
"""Name -> MODEL_READ_AHEAD, whether the cache is emptied first."""


def ways_of_starting(rounds: int) -> dict[str, list[dict[str, float]]]:
    """Seconds by phase of each start, by the way it was done."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in _WAYS}
    with tempfile.TemporaryDirectory(prefix="lg-load-") as folder:
        model = _own_copy(Path(folder))
        for _ in range(rounds):
            for name, (ahead, cold) in _WAYS.items():
                if cold:
                    _evict(model)
                found[name].append(_start(model, ahead))
    return found


def _own_copy(folder: Path) -> Path:
    """Of the demo model: what another engine has mapped could not be thrown out of memory."""
    model = resolve(ModelSettings(Path("models"))).path
    assert model is not None
    return Path(shutil.copy(model, folder))


def _evict(model: Path) -> None:
    with model.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _start(model: Path, ahead: str) -> dict[str, float]:
    env = {"MODEL_PATH": str(model), "MODEL_READ_AHEAD": ahead, "AUTH_ENABLED": "false"}
    with tempfile.TemporaryDirectory(prefix="lg-load-") as folder:
        started_s = time.monotonic()
        with ServiceProcess(Path(folder), env) as service:
            service.opened()
            ready = service.wait_for(r"ports open after (\S+) s.*; ready after (\S+) s")
            wall_s = time.monotonic() - started_s
            _ask(service)
            service.wait_for("first token")
            took = {"ports": float(ready[1]), "ready": float(ready[2]), "wall": wall_s}
            took |= _phases(service)
            service.stop()
    return took


def _ask(service: ServiceProcess) -> None:
    name = httpx.get(f"{service.url}/v1/models", timeout=10).json()["data"][0]["id"]
    messages = [{"role": "user", "content": "Say one word."}]
    body = {"model": name, "messages": messages, "max_tokens": 1}
    reply = httpx.post(f"{service.url}/v1/chat/completions", json=body, timeout=60)
    assert reply.status_code == 200, reply.text


def _phases(service: ServiceProcess) -> dict[str, float]:
    text = httpx.get(f"{service.health_url}/metrics", timeout=10).text
    return {
        sample.labels["phase"]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "gateway_cold_start_seconds"
    }


def _told(starts: list[dict[str, float]], name: str) -> str:
    values = [start[name] for start in starts if name in start]
    if not values:
        return "-"
    return f"{median(values):.2f} s ({min(values):.2f} to {max(values):.2f})"


def main() -> int:
    found = ways_of_starting(_ROUNDS)
    for way, starts in found.items():
        rows = [(name, _told(starts, name)) for name in ("ports", *_PHASES, "ready", "wall")]
        sys.stdout.write(table(f"{way}: median of {len(starts)} starts", rows) + "\n")
    for state in ("cold", "cached"):
        with_it, without = found[f"{state}, read ahead"], found[f"{state}, not read ahead"]
        pairs = [b["ready"] / a["ready"] for a, b in zip(with_it, without, strict=True)]
        sys.stdout.write(
            f"{state}: without / with reading ahead, time to ready: {median(pairs):.2f} "
            f"({min(pairs):.2f} to {max(pairs):.2f})\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
