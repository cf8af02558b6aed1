"""Do refused clients come back in time, and not all at once? ``python -m tests.load.storm``

Forty users of the openai package, with its default retries, ask in the same moment; the service
has four slots and a queue of eight. Twenty-eight are refused. They retry by themselves, and only
twice: what they are told about when must be right the first or the second time. Then the same with
a limit on requests per minute that is already spent. Both generations of the package are looked at.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.load.bench import SLOTS, Bench, run, running, table, together
from tests.support.engine_stats import engine_stats

__all__ = [
    "GENERATIONS",
    "Storm",
    "storm_on_concurrency",
    "storm_on_the_limit",
    "storm_on_the_queue",
]

_ROOT = Path(__file__).parents[2]
GENERATIONS: dict[str, Path | None] = {
    "current": None,
    "older": _ROOT / ".venvs" / "openai-1",  # made by `make test`
}
_LEARN = 8
"""Rounds of answers after which the service knows how long one takes."""


@dataclass(frozen=True, slots=True)
class Storm:
    """How each client of a crowd fared."""

    title: str
    clients: list[dict[str, Any]]
    service_s: float
    max_active: int

    @property
    def outcomes(self) -> Counter[str]:
        return Counter(client["outcome"] for client in self.clients)

    @property
    def retries(self) -> Counter[int]:
        """Clients by the number of times that they tried again."""
        return Counter(client["retries"] for client in self.clients)

    @property
    def refusals(self) -> int:
        """Each try but the last of those who had an answer, and each of the others."""
        lost = sum(1 for client in self.clients if client["outcome"] != "answered")
        return lost + sum(int(client["retries"]) for client in self.clients)

    @property
    def took_s(self) -> float:
        """Until the last one had its answer."""
        return max(float(client["took_s"]) for client in self.clients)

    def told(self) -> str:
        retries = ", ".join(f"{count} after {n}" for n, count in sorted(self.retries.items()))
        rows = [
            (
                "an answer takes, alone",
                f"{self.service_s * 1000:.0f} ms" if self.service_s else "?",
            ),
            ("outcomes", ", ".join(f"{n} {what}" for what, n in self.outcomes.items())),
            ("retries", retries),
            ("refusals", str(self.refusals)),
            ("the last answer came after", f"{self.took_s:.2f} s"),
            ("most at work in the engine", f"{self.max_active} of {SLOTS}"),
        ]
        return table(self.title, rows)


def storm_on_the_queue(
    generation: str, *, clients: int = 40, queue: int = 8, learned: bool = True
) -> Storm:
    """Let clients come all at once to a queue that holds only a few.

    Args:
        generation: One of `GENERATIONS`.
        clients: How many.
        queue: MAX_QUEUE_SIZE.
        learned: Whether the service has had the chance to learn how long answers take.
    """
    script = "tokens=5 delay_ms=50"
    with running({"all": 1.0}, MAX_QUEUE_SIZE=str(queue)) as bench:
        service_s = run(bench.lone_s("all", script, rounds=_LEARN)) if learned else 0.0
        told = _crowd(bench, generation, clients, script)
        knows = "" if learned else ", which has never answered before"
        title = f"{clients} clients ({generation}), {SLOTS} slots, a queue of {queue}{knows}"
        return _storm(title, bench, told, service_s)


def storm_on_the_limit(generation: str, *, clients: int = 12, per_minute: int = 300) -> Storm:
    """Let clients come all at once when their key's requests of the minute are spent."""
    script = "tokens=1"
    with running({"all": 1.0}, MAX_REQUESTS_PER_MINUTE=str(per_minute)) as bench:
        service_s = run(_spend(bench, script, per_minute))
        told = _crowd(bench, generation, clients, script)
        title = f"{clients} clients ({generation}), {per_minute} requests a minute, none left"
        return _storm(title, bench, told, service_s)


def storm_on_concurrency(generation: str, *, clients: int = 16, most: int = 2) -> Storm:
    """Let clients come all at once when their key may have only a few requests at a time."""
    script = "tokens=5 delay_ms=50"
    with running({"all": 1.0}, MAX_CONCURRENT_PER_KEY=str(most)) as bench:
        service_s = run(bench.lone_s("all", script, rounds=_LEARN, width=most))
        told = _crowd(bench, generation, clients, script)
        title = f"{clients} clients ({generation}) of a key that may have {most} requests at a time"
        return _storm(title, bench, told, service_s)


async def _spend(bench: Bench, script: str, per_minute: int) -> float:
    """Ask until refused."""
    service_s = await bench.lone_s("all", script)
    for _ in range(2 * per_minute // SLOTS):
        answers = await together([lambda: bench.ask("all", script)] * SLOTS)
        if not all(answer.good for answer in answers):
            return service_s
    raise AssertionError("the limit does not limit")


def _crowd(bench: Bench, generation: str, clients: int, script: str) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "tests.load.sdk_crowd", "--clients", str(clients)]
    command += ["--base-url", f"{bench.service.url}/v1", "--key", bench.secrets["all"]]
    command += ["--text", f"mock: {script}"]
    done = subprocess.run(
        command,
        cwd=_ROOT,
        env=_environment(GENERATIONS[generation]),
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def _environment(packages: Path | None) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return kept if packages is None else {**kept, "PYTHONPATH": str(packages)}


def _storm(title: str, bench: Bench, told: list[dict[str, Any]], service_s: float) -> Storm:
    most = engine_stats(bench.service, active=0)["max_active"]
    return Storm(title, told, service_s, most)


def main() -> int:
    for generation in GENERATIONS:
        sys.stdout.write(storm_on_the_queue(generation).told() + "\n")
        sys.stdout.write(storm_on_the_limit(generation).told() + "\n")
        sys.stdout.write(storm_on_concurrency(generation).told() + "\n")
    sys.stdout.write(storm_on_the_queue("current", learned=False).told() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
