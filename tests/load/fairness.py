"""Is the queue fair between keys? ``python -m tests.load.fairness [--service-ms 500]``

Four slots of the mock engine. First one key keeps a hundred streams in flight while another sends
one request at a time, at odd moments: how long does that one wait, in units of the time that an
answer takes? Then two keys with weights 1 and 3 both keep forty in flight: what share does each
get? Everything is compared with what the same run has measured.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from tests.load.bench import SLOTS, Bench, Watch, percentile, run, running, table
from tests.load.client import Answer, pause
from tests.support.engine_stats import engine_stats

__all__ = ["Guest", "Shares", "guest_among_many", "weighted_shares"]

_TOKENS = 10
_CROWD = 100
_WIDTH = 40


@dataclass(frozen=True, slots=True)
class Guest:
    """How one key fared while another flooded the service."""

    service_s: float
    waits_s: list[float]
    crowd_s: float
    crowd_answers: int
    max_active: int
    cost: str

    @property
    def median_wait(self) -> float:
        """In units of the service time."""
        return median(self.waits_s) / self.service_s

    def told(self) -> str:
        waits = sorted(wait_s / self.service_s for wait_s in self.waits_s)
        rows = [
            ("an answer takes, alone", f"{self.service_s * 1000:.0f} ms"),
            (
                f"wait of the single requests ({len(waits)})",
                f"median {self.median_wait:.2f}, p90 {percentile(waits, 90):.2f}, "
                f"most {waits[-1]:.2f} service times",
            ),
            (f"wait in the crowd of {_CROWD}", f"median {self.crowd_s / self.service_s:.1f}"),
            ("first come, first served would be", f"{_CROWD / SLOTS:.1f}"),
            ("answers to the crowd", str(self.crowd_answers)),
            ("most at work in the engine", f"{self.max_active} of {SLOTS}"),
            ("cost", self.cost),
        ]
        return table("one key keeps 100 streams in flight, another sends single requests", rows)


def guest_among_many(service_s: float, asks: int, seed: int = 1) -> Guest:
    """Let a guest ask *asks* times, one after another, while a crowd floods the service."""
    with running({"crowd": 1.0, "guest": 1.0}) as bench:
        return run(_guest_among_many(bench, _script(service_s), asks, random.Random(seed)))


async def _guest_among_many(bench: Bench, script: str, asks: int, chance: random.Random) -> Guest:
    service_s = await bench.lone_s("guest", script)
    crowd: list[Answer] = []
    waits_s: list[float] = []
    async with Watch(bench.service) as watch:
        flood = asyncio.create_task(bench.flood("crowd", script, _CROWD, crowd.append))
        await pause(2 * service_s)
        for _ in range(asks):
            await pause(chance.uniform(0, service_s))
            answer = await bench.ask("guest", script)
            assert answer.good, answer
            waits_s.append(answer.took_s - service_s)
        # Until the first one that had the whole crowd ahead of it.
        while len(crowd) < _CROWD + 2 * SLOTS:
            await pause(service_s)
        flood.cancel()
        await asyncio.gather(flood, return_exceptions=True)
    assert all(answer.good for answer in crowd)
    settled = [answer.took_s - service_s for answer in crowd[_CROWD:]]
    most = (await asyncio.to_thread(engine_stats, bench.service, active=0))["max_active"]
    return Guest(service_s, waits_s, median(settled), len(crowd), most, watch.told())


@dataclass(frozen=True, slots=True)
class Shares:
    """How many answers each of two keys got while both wanted more."""

    weights: dict[str, float]
    answers: Counter[str]
    max_active: int
    cost: str

    @property
    def ratio(self) -> float:
        """Answers of the heavy one for each of the light one."""
        return self.answers["heavy"] / self.answers["light"]

    def told(self) -> str:
        rows = [
            (f"weight {self.weights[name]:g}", f"{self.answers[name]} answers")
            for name in self.weights
        ]
        rows += [
            ("ratio", f"1 : {self.ratio:.2f}"),
            ("most at work in the engine", f"{self.max_active} of {SLOTS}"),
            ("cost", self.cost),
        ]
        return table("two keys flood the service", rows)


def weighted_shares(service_s: float, answers: int) -> Shares:
    """Let keys of weight 1 and 3 flood the service until so many *answers* were given."""
    weights = {"light": 1.0, "heavy": 3.0}
    with running(weights) as bench:
        return run(_weighted_shares(bench, weights, _script(service_s), answers))


async def _weighted_shares(
    bench: Bench, weights: dict[str, float], script: str, enough: int
) -> Shares:
    await bench.lone_s("light", script, rounds=2)
    counted: Counter[str] = Counter()
    seen, done = 0, asyncio.Event()

    def count(name: str) -> None:
        nonlocal seen
        seen += 1
        if seen > 2 * SLOTS:  # those that were let in before both were there do not count
            counted[name] += 1
        if counted.total() >= enough:
            done.set()

    def counter_of(name: str) -> Callable[[Answer], None]:
        def got(answer: Answer) -> None:
            assert answer.good, answer
            if not done.is_set():
                count(name)

        return got

    async with Watch(bench.service) as watch:
        floods = [
            asyncio.create_task(bench.flood(name, script, _WIDTH, counter_of(name)))
            for name in weights
        ]
        finished = asyncio.create_task(done.wait())
        await asyncio.wait([*floods, finished], return_when=asyncio.FIRST_COMPLETED)
        for task in (*floods, finished):
            task.cancel()
        await asyncio.gather(*floods, finished, return_exceptions=True)
    most = (await asyncio.to_thread(engine_stats, bench.service, active=0))["max_active"]
    return Shares(weights, counted, most, watch.told())


def _script(service_s: float) -> str:
    return f"tokens={_TOKENS} delay_ms={1000 * service_s / _TOKENS:g}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the fairness between keys.")
    parser.add_argument("--service-ms", type=float, default=500.0, help="of the crowd's streams")
    parser.add_argument("--asks", type=int, default=20, help="single requests of the guest")
    parser.add_argument("--answers", type=int, default=800, help="shared by the weighted keys")
    options = parser.parse_args()
    sys.stdout.write(guest_among_many(options.service_ms / 1000, options.asks).told() + "\n")
    sys.stdout.write(weighted_shares(0.05, options.answers).told() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
