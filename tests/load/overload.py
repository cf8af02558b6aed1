"""What happens at ten times the load? ``python -m tests.load.overload [--seconds 30]``

Four slots of the mock engine, twenty keys, and clients that never retry. First it is measured
what the service can do when it is only just busy; then for half a minute ten times as many clients
come, at random moments, each over a connection of its own. Whoever is refused must be told so at
once and when to come back; the others must be served as fast as before; memory must not grow.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from collections import Counter
from dataclasses import dataclass

from tests.load.bench import SLOTS, Bench, Watch, percentile, run, running, table
from tests.load.client import Answer, ask, pause, request
from tests.support.engine_stats import engine_stats

__all__ = ["Overload", "overload"]

_KEYS = 20
_TOKENS = 5
_TIMES = 10


@dataclass(frozen=True, slots=True)
class Overload:
    """Rates are in answers a second."""

    service_s: float
    capacity: float
    offered: float
    goodput: float
    seconds: float
    answers: list[Answer]
    lost: int
    rss_bytes: list[int]
    max_active: int
    waiting_inside: int
    cost: str

    @property
    def refusals_s(self) -> list[float]:
        """How long each refusal took, from the moment its client meant to ask."""
        return [answer.took_s for answer in self.answers if answer.refused]

    @property
    def p99_of_refusals_s(self) -> float:
        """All but one in a hundred were told within this."""
        return percentile(self.refusals_s, 99)

    @property
    def kinds(self) -> Counter[str]:
        """How it ended, and how often."""
        return Counter(_kind(answer) for answer in self.answers)

    @property
    def growth(self) -> float:
        """Memory at the end, in parts of that after a third of the time."""
        return self.rss_bytes[-1] / self.rss_bytes[len(self.rss_bytes) // 3]

    def told(self) -> str:
        waits = [answer.took_s for answer in self.answers if answer.good]
        refusals = self.refusals_s
        p50, p99 = (1000 * percentile(refusals, percent) for percent in (50, 99))
        third = len(self.rss_bytes) // 3
        mib = [size / (1 << 20) for size in self.rss_bytes]
        rows = [
            ("an answer takes, alone", f"{self.service_s * 1000:.0f} ms"),
            ("capacity: 8 clients at a time", f"{self.capacity:.1f}/s"),
            ("slots over service time", f"{SLOTS / self.service_s:.1f}/s"),
            ("offered", f"{self.offered:.0f}/s for {self.seconds:.0f} s"),
            ("goodput", f"{self.goodput:.1f}/s = {self.goodput / self.capacity:.1%} of capacity"),
            ("ends", ", ".join(f"{count} {kind}" for kind, count in self.kinds.most_common())),
            ("in flight at the end", str(self.lost)),
            (
                "answers took",
                f"p50 {percentile(waits, 50):.2f} s, p99 {percentile(waits, 99):.2f} s",
            ),
            (
                "refusals took",
                f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, most {1000 * max(refusals):.1f} ms",
            ),
            (
                "memory of the gateway",
                f"{mib[third]:.1f} MiB at {third + 1} s, {mib[-1]:.1f} MiB at the end",
            ),
            ("most at work in the engine", f"{self.max_active} of {SLOTS}"),
            ("cost", self.cost),
        ]
        return table(f"{_TIMES} times the load", rows)


def overload(service_s: float, seconds: float, seed: int = 1) -> Overload:
    """Offer ten times what the service can do for so many seconds."""
    # The clients need no limit on their rate, or that would refuse most of them before the queue.
    with running({f"key-{number}": 1.0 for number in range(_KEYS)}) as bench:
        return run(_overload(bench, service_s, seconds, random.Random(seed)))


async def _overload(
    bench: Bench, service_s: float, seconds: float, chance: random.Random
) -> Overload:
    script = f"tokens={_TOKENS} delay_ms={1000 * service_s / _TOKENS:g}"
    alone_s = await bench.lone_s("key-0", script)
    capacity = await _capacity(bench, script, max(2.0, seconds / 6))
    await asyncio.to_thread(engine_stats, bench.service, active=0)
    crowd = _Crowd(bench, script, _TIMES * capacity, chance)
    async with Watch(bench.service) as watch:
        goodput = await crowd.come(seconds)
        lost = await crowd.go()
    stats = await asyncio.to_thread(engine_stats, bench.service, active=0)
    return Overload(
        service_s=alone_s,
        capacity=capacity,
        offered=crowd.asked / seconds,
        goodput=goodput,
        seconds=seconds,
        answers=crowd.answers,
        lost=lost,
        rss_bytes=watch.rss_bytes,
        max_active=stats["max_active"],
        waiting_inside=stats["waiting"],
        cost=watch.told(),
    )


async def _capacity(bench: Bench, script: str, seconds: float) -> float:
    """Answers a second while two clients share each slot: it is never idle, and few wait."""
    ended_s: list[float] = []
    flood = asyncio.create_task(
        bench.flood("key-0", script, 2 * SLOTS, lambda answer: ended_s.append(answer.ended_s))
    )
    await pause(seconds)
    flood.cancel()
    await asyncio.gather(flood, return_exceptions=True)
    return _rate(ended_s, until_s=ended_s[-1])


def _rate(ended_s: list[float], until_s: float) -> float:
    """Answers a second from the end of the first round of all slots.

    Slots that began together end together: counting from the last of the first round leaves whole
    rounds, and the time in which nothing was there yet to end does not count.
    """
    ordered = sorted(ended_s)
    return (len(ordered) - SLOTS) / (until_s - ordered[SLOTS - 1])


class _Crowd:
    """Clients that come at random moments, whatever becomes of those before them."""

    def __init__(self, bench: Bench, script: str, rate: float, chance: random.Random) -> None:
        self._port = bench.service.port
        self._rate = rate
        self._chance = chance
        self._requests = [
            request(secret, script, stream=stream)
            for secret in bench.secrets.values()
            for stream in (True, False)
        ]
        self._present: set[asyncio.Task[None]] = set()
        self.answers: list[Answer] = []
        self.asked = 0

    async def come(self, seconds: float) -> float:
        """Let clients come for so long; returns the good answers a second."""
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        until_s = due_s + seconds
        while due_s < until_s:
            late_s = loop.time() - due_s
            if late_s < 0:
                await pause(-late_s)
            self._start(loop.create_task(self._one(self._chance.choice(self._requests), due_s)))
            due_s += self._chance.expovariate(self._rate)
        ended_s = [answer.ended_s for answer in self.answers if answer.good]
        return _rate(ended_s, until_s=loop.time())

    async def go(self) -> int:
        """Those who are still there leave; returns how many."""
        left = [task for task in self._present if not task.done()]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        return len(left)

    def _start(self, task: asyncio.Task[None]) -> None:
        self.asked += 1
        self._present.add(task)
        task.add_done_callback(self._present.discard)

    async def _one(self, data: bytes, due_s: float) -> None:
        self.answers.append(await ask(self._port, data, since_s=due_s))


def _kind(answer: Answer) -> str:
    if answer.good:
        return "answered"
    if answer.refused:
        return f"refused with {answer.status}"
    return f"broken off with {answer.status}" if answer.status else "cut"


def main() -> int:
    parser = argparse.ArgumentParser(description="Offer ten times what the service can do.")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--service-ms", type=float, default=100.0, help="an answer takes")
    options = parser.parse_args()
    sys.stdout.write(overload(options.service_ms / 1000, options.seconds).told() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
