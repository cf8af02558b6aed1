"""What does a client see while the engine is killed again and again?

``python -m tests.load.crashes --rounds 100 [--engine real|mock] [--seed 1]``

Two slots, eight clients of four keys that never stop asking: chats and completions, as streams
and in one piece, and counts of tokens; so most of them wait at any moment. In each round the engine
gets SIGKILL at a random moment; in every fifth its successor gets another one while it loads. A
round is over when a small request was answered and everybody who was there at the kill has an end.

It fails (exit code 1) if anybody was misled or left hanging, if a request was refused that the
engine's death should have cost nothing but time, and if anything is left behind.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import httpx
import psutil

from keys.changes import add
from keys.editing import editing
from keys.records import KeyRecord
from tests.load.asking import KINDS, Question, ask, question
from tests.load.bench import percentile, run, table
from tests.load.client import pause
from tests.load.verdict import ANSWERED, TOLD, Verdict
from tests.support.service import ServiceProcess

__all__ = ["SETTINGS", "Crashes", "crashes"]

_CLIENTS = 8
_KEYS = 4
_PROBE = "probe"
_LONGEST_UNDISTURBED_S = 1.0
_SECOND_KILL_EVERY = 5
_LOOK_S = 0.005
_NOTICED_WITHIN_S = 0.5
"""Whoever asks so soon after a kill may still have met the dead engine."""
_MOCK_SCRIPT = "delay_ms=10 prefill_ms=20"
_FD_SLACK = 2

SETTINGS = {
    "PARALLEL": "2",
    "THREADS": "1",
    "MAX_CONNECTIONS_PER_ADDRESS": "0",
    # A request is answered between two kills, so the budget is never near; the pause grows, though.
    "CRASH_LIMIT": "1000",
    "RESTART_BACKOFF_MAX": "0.1",
    # So that those who wait have comments, and a status, before they have a turn.
    "HEARTBEAT_AFTER": "0.2",
    "HEARTBEAT_INTERVAL": "0.5",
    # The log is looked through at the end.
    "LOG_REPEAT_LIMIT": "1000",
}


@dataclass(slots=True)
class Ended:
    """A request that is over: how, and how many kills fell into its time."""

    kind: str
    verdict: Verdict
    kills: int
    took_s: float

    @property
    def wrong(self) -> str | None:
        """What must not happen, in words; None if all is well."""
        verdict = self.verdict
        if verdict.misleading:
            return f"{self.kind}: {verdict}"
        if verdict.end == ANSWERED:
            return None
        if not self.kills:
            return f"{self.kind}: {verdict}, and no engine had died"
        if verdict.end == TOLD and verdict.begun:
            return None if verdict.code == "engine_restarted" else f"{self.kind}: {verdict}"
        # Sent again once: who meets two deaths may be told so.
        if self.kills > 1 and verdict.code.endswith("engine_crashed"):
            return None
        return f"{self.kind}: {verdict} before the first byte of its answer: lost"


@dataclass(slots=True)
class Crashes:
    """All that was seen."""

    rounds: int
    seed: int
    engine: str
    ended: list[Ended] = field(default_factory=list)
    back_s: list[float] = field(default_factory=list)
    """From each kill to the answer of the next small request."""
    kills: int = 0
    left: dict[str, str] = field(default_factory=dict)
    """What is left behind at the end; empty when nothing is."""
    orphans: int = 0
    leaked: int = 0
    restarts: int = 0

    @property
    def wrongs(self) -> Counter[str]:
        """What went wrong, and how often."""
        return Counter(ended.wrong for ended in self.ended if ended.wrong is not None)

    @property
    def good(self) -> bool:
        """Whether nothing did."""
        return not self.wrongs and not self.left and not self.orphans and not self.leaked

    def told(self) -> str:
        """The table for people."""
        met = [ended for ended in self.ended if ended.kills]
        back = self.back_s
        rows = [
            ("engine", f"{self.engine}, seed {self.seed}"),
            ("settings", " ".join(f"{name}={value}" for name, value in SETTINGS.items())),
            ("rounds", f"{self.rounds}, {self.kills} kills, {self.restarts} restarts"),
            ("requests", f"{len(self.ended)}, of which {len(met)} were there at a kill"),
            ("of all", _counted(self.ended)),
            ("of those there at a kill", _counted(met)),
            ("by kind", ", ".join(f"{n} {what}" for what, n in self._kinds().items())),
            (
                "back to serving",
                f"median {median(back):.2f} s, p90 {percentile(back, 90):.2f} s, "
                f"worst {max(back):.2f} s",
            ),
            ("longest request", f"{max(ended.took_s for ended in self.ended):.2f} s"),
            ("orphans", str(self.orphans)),
            ("leaked slots", str(self.leaked)),
            ("left behind", ", ".join(f"{k}: {v}" for k, v in self.left.items()) or "nothing"),
            ("wrong", "; ".join(f"{n} x {what}" for what, n in self.wrongs.items()) or "nothing"),
        ]
        return table("The engine is killed", rows)

    def _kinds(self) -> Counter[str]:
        return Counter(ended.kind for ended in self.ended)


def _counted(ended: list[Ended]) -> str:
    ends = Counter(str(each.verdict) for each in ended)
    return ", ".join(f"{count} {end}" for end, count in ends.most_common())


def crashes(rounds: int, *, engine: str = "mock", seed: int = 1) -> Crashes:
    """Kill the engine so many times.

    Args:
        rounds: At least 1.
        engine: ``real`` (llama-server with the demo model) or ``mock``.
        seed: Decides what is asked, and when the engine is killed.
    """
    with tempfile.TemporaryDirectory(prefix="lg-load-") as folder:
        with _running(Path(folder), engine) as (service, secrets):
            report = run(_Storm(service, secrets, rounds, engine, seed).blow())
            _look_at_the_end(report, service)
        return report


@contextmanager
def _running(folder: Path, engine: str) -> Iterator[tuple[ServiceProcess, dict[str, str]]]:
    names = {f"key-{number}": "normal" for number in range(_KEYS)} | {_PROBE: "high"}
    secrets: dict[str, str] = {}
    with editing(folder / "keys.yaml", folder / "keys.pepper", create=True) as draft:
        for name, priority in names.items():
            secrets[name], secret = draft.make_secret(name)
            draft.save(add(draft.file, KeyRecord(name, secret, priority=priority)))
    env = {**SETTINGS, "USE_MOCK_MODEL": "true" if engine == "mock" else "false"}
    with ServiceProcess(folder, env) as service:
        yield service.ready(), secrets


class _Storm:
    def __init__(
        self, service: ServiceProcess, secrets: dict[str, str], rounds: int, engine: str, seed: int
    ) -> None:
        self._service = service
        self._secrets = secrets
        self._chance = random.Random(seed)
        self._kinds = [kind for kind in KINDS if engine == "mock" or kind != "vectors"]
        self._out: set[asyncio.Future[None]] = set()
        self._killed: dict[int, float] = {}
        self._script = _MOCK_SCRIPT if engine == "mock" else ""
        self.report = Crashes(rounds, seed, engine)

    async def blow(self) -> Crashes:
        await self._probe()
        fds = psutil.Process(self._service.pid).num_fds()
        clients = [asyncio.create_task(self._client(number)) for number in range(_CLIENTS)]
        for number in range(self.report.rounds):
            await pause(self._chance.uniform(0.0, _LONGEST_UNDISTURBED_S))
            await self._round(twice=number % _SECOND_KILL_EVERY == _SECOND_KILL_EVERY - 1)
            if number % 10 == 9:
                sys.stderr.write(f"{number + 1} rounds, {len(self.report.ended)} requests\n")
        self._clients_may_stop = True
        await asyncio.gather(*clients)
        await self._settle(fds)
        return self.report

    _clients_may_stop = False

    async def _client(self, number: int) -> None:
        """Asks one thing after another, with one of the keys."""
        chance = random.Random(self._chance.random())
        while not self._clients_may_stop:
            secret = self._secrets[f"key-{number % _KEYS}"]
            await self._ask(
                question(secret, chance.choice(self._kinds), chance, script=self._script)
            )

    async def _ask(self, asked: Question) -> Verdict:
        time = asyncio.get_running_loop().time
        started_s = time()
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._out.add(over)
        verdict = await ask(self._service.port, asked)
        kills = sum(at_s > started_s - _NOTICED_WITHIN_S for at_s in self._killed.values())
        self.report.ended.append(Ended(asked.kind, verdict, kills, time() - started_s))
        self._out.discard(over)
        over.set_result(None)
        return verdict

    async def _round(self, *, twice: bool) -> None:
        time = asyncio.get_running_loop().time
        there = set(self._out)
        await self._kill()
        killed_s = time()
        if twice:
            await self._kill()
        await self._probe()
        self.report.back_s.append(time() - killed_s)
        await asyncio.gather(*there)

    async def _kill(self) -> None:
        """Kill the engine of this moment, as soon as there is one that was not killed yet."""
        while True:
            for engine in _engines(self._service):
                if engine.pid not in self._killed and engine.ppid() == self._service.pid:
                    self._killed[engine.pid] = asyncio.get_running_loop().time()
                    self.report.kills += 1
                    os.kill(engine.pid, signal.SIGKILL)
                    return
            await pause(_LOOK_S)

    async def _probe(self) -> None:
        """Ask something small until it is answered; nobody of a lower class goes first."""
        while True:
            asked = question(self._secrets[_PROBE], "chat", self._chance, tokens=1)
            if (await self._ask(asked)).end == ANSWERED:
                return
            await pause(_LOOK_S)

    async def _settle(self, fds: int) -> None:
        """Give it the five seconds after which unused connections to the engine are closed."""
        deadline_s = asyncio.get_running_loop().time() + 8.0
        gateway = psutil.Process(self._service.pid)
        while asyncio.get_running_loop().time() < deadline_s:
            left = await asyncio.to_thread(_gauges, self._service)
            if gateway.num_fds() > fds + _FD_SLACK:
                left["file descriptors"] = f"{gateway.num_fds()} instead of {fds}"
            self.report.left = left
            if not left:
                return
            await pause(0.1)


def _gauges(service: ServiceProcess) -> dict[str, str]:
    """Those that should be 0 and are not."""
    text = httpx.get(f"{service.health_url}/metrics", timeout=10).text
    names = ("requests_in_flight", "requests_queued", "slots_lingering", "requests_pending")
    found = dict(
        line.removeprefix("gateway_").rsplit(" ", 1)
        for line in text.splitlines()
        if line.startswith("gateway_")
    )
    return {name: found[name] for name in names if float(found[name])}


def _engines(service: ServiceProcess) -> list[psutil.Process]:
    """Every living process on this machine that was started as an engine of this service."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if (
                service.engine_socket in process.cmdline()
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                found.append(process)
    return found


def _look_at_the_end(report: Crashes, service: ServiceProcess) -> None:
    """Stop it, and look for what it leaves behind."""
    health = httpx.get(f"{service.health_url}/health", timeout=10).json()
    report.restarts = health["engine"]["restarts"]
    if health["state"] != "ready":
        report.left["state"] = health["state"]
    text = httpx.get(f"{service.health_url}/metrics", timeout=10).text
    report.leaked = int(float(text.partition("\ngateway_slot_leaks_total ")[2].split()[0]))
    family = psutil.Process(service.pid).children(recursive=True)
    zombies = [child for child in family if child.status() == psutil.STATUS_ZOMBIE]
    report.orphans = len(_engines(service)) - 1 + len(zombies)
    exit_code = service.stop()
    if exit_code:
        report.left["exit code"] = str(exit_code)
    report.orphans += len(_engines(service))
    if "Traceback" in service.output:
        report.left["log"] = service.output[service.output.index("Traceback") :][:2000]


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill the engine under load.")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--engine", choices=("real", "mock"), default="real")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    report = crashes(options.rounds, engine=options.engine, seed=options.seed)
    sys.stdout.write(report.told())
    return 0 if report.good else 1


if __name__ == "__main__":
    sys.exit(main())
