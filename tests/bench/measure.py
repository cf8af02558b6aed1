"""Takes the measurements: services up, rounds in turn through every door, services down."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from keys.digest import make_key
from tests.bench.cpu import pin, split_cores
from tests.bench.figures import Sample
from tests.bench.job import Job
from tests.bench.nginx import Nginx
from tests.bench.proxies import Door, Gateway
from tests.bench.upstream import EMBEDDING_MARK, EXTRA_EVENTS, REPLY_MARK
from tests.bench.workloads import WARM_S, Workload, request_of

__all__ = ["Plan", "Samples", "measure"]

_ROOT = Path(__file__).parents[2]
_WARM_STREAMS = 8
_KEYS = {"keys": 10_000}
_ENV = {"embeddings": {"EMBEDDINGS": "true"}}
_OPEN_FILES = 16384

Samples = dict[str, dict[str, list[Sample]]]
Say = Callable[[str], None]


class Plan:
    """What one run measures.

    Args:
        workloads: In the order of the table.
        rounds: Rounds of each, but for those that need fresh services.
        nginx: The program; None to leave nginx out.
        folder: An empty one for all files of the run; a short path.
        say: Told of each measurement, for people who wait.
    """

    def __init__(
        self, workloads: Sequence[Workload], rounds: int, nginx: Path | None, folder: Path, say: Say
    ) -> None:
        self.workloads = workloads
        self.rounds = rounds
        self.nginx = nginx
        self.folder = folder
        self.say = say
        self.cores = split_cores()


def measure(plan: Plan, samples: Samples) -> None:
    """Do what *plan* says.

    Args:
        plan: What to measure.
        samples: Filled as it goes, so that it is not lost when somebody stops this.

    Raises:
        AssertionError: A process did not start, or ended.
    """
    _allow_many_files()
    samples |= {workload.name: {} for workload in plan.workloads}
    with _generator(plan.cores[1]) as ask:
        for number, group in enumerate(_groups(plan.workloads)):
            with _services(plan, f"{number}", group[0]) as (doors, gateway):
                _measure_group(plan, group, doors, gateway, ask, samples)


def _groups(workloads: Sequence[Workload]) -> list[list[Workload]]:
    """Workloads that the same services can serve; the fresh ones have theirs to themselves."""
    groups: dict[str, list[Workload]] = {}
    for workload in workloads:
        name = f"fresh {workload.name}" if workload.fresh else workload.service
        groups.setdefault(name, []).append(workload)
    return list(groups.values())


@contextmanager
def _services(plan: Plan, name: str, first: Workload) -> Iterator[tuple[dict[str, Door], Gateway]]:
    env, keys = _ENV.get(first.service, {}), _KEYS.get(first.service, 8)
    with ExitStack() as stack:
        gateway = stack.enter_context(
            Gateway(plan.folder / f"gateway-{name}", env, plan.cores, keys=keys)
        )
        doors = {"direct": gateway.direct, "gateway": gateway.door}
        if plan.nginx is not None:
            socket = gateway.service.engine_socket
            folder = plan.folder / f"nginx-{name}"
            refuse = first.status == 401
            nginx = stack.enter_context(
                Nginx(folder, plan.nginx, socket, plan.cores, refuse=refuse)
            )
            doors["nginx"] = nginx.door
        plan.say(f"gateway is process {gateway.service.pid}, its engine {gateway.engine_pids}")
        yield doors, gateway


def _measure_group(
    plan: Plan,
    group: Sequence[Workload],
    doors: dict[str, Door],
    gateway: Gateway,
    ask: Callable[[Job], dict[str, Any]],
    samples: Samples,
) -> None:
    engine = gateway.engine_pids
    for number in range(plan.rounds):
        for workload in group:
            if workload.fresh and number:
                continue
            for name in workload.doors:
                if name not in doors:
                    continue
                key = _key_for(workload, gateway)
                sample = _one(workload, doors[name], key, engine, plan.cores, ask)
                samples[workload.name].setdefault(name, []).append(sample)
                plan.say(_told(workload, name, number, sample))


def _key_for(workload: Workload, gateway: Gateway) -> str:
    """A right key, or one that looks as right as can be: a known name with another secret."""
    return gateway.secrets[0] if workload.status == 200 else make_key("key-1", os.urandom(32))


def _one(
    workload: Workload,
    door: Door,
    key: str,
    engine: Sequence[int],
    cores: tuple[list[int], list[int]],
    ask: Callable[[Job], dict[str, Any]],
) -> Sample:
    job = _job(workload, door, key, engine, cores)
    if workload.fresh:
        # What is loaded or made by the first requests belongs to no connection in particular.
        warm = min(_WARM_STREAMS, max(workload.connections, 1))
        ask(_job(workload, door, key, engine, cores, connections=warm, seconds=0.1))
    told = ask(job)
    events = workload.tokens + EXTRA_EVENTS if workload.tokens else 1
    spent = told["spent_s"]
    return Sample(
        count=told["events"] if workload.unit == "event" else told["answers"],
        wall_s=spent.pop("wall"),
        waited_s=spent.pop("waited"),
        stolen_s=spent.pop("stolen"),
        load_cores=len(cores[1]),
        cpu_s=spent,
        events=events,
        connections=workload.connections,
        **{name: told[name] for name in _TOLD},
    )


_TOLD = (
    "rss_before",
    "rss_during",
    "took_ms",
    "first_ms",
    "gap_ms",
    "firsts_ms",
    "failed",
    "errors",
)


def _job(
    workload: Workload,
    door: Door,
    key: str,
    engine: Sequence[int],
    cores: tuple[list[int], list[int]],
    *,
    connections: int | None = None,
    seconds: float | None = None,
) -> Job:
    streams = workload.kind in ("streams", "stampede")
    return Job(
        kind=workload.kind,
        request=request_of(workload, key),
        connections=workload.connections if connections is None else connections,
        path=door.path,
        port=door.port,
        status=workload.status,
        mark="" if streams else _mark(workload),
        seconds=workload.seconds if seconds is None else seconds,
        warm_s=WARM_S,
        events=workload.tokens + EXTRA_EVENTS if streams else 0,
        over_s=workload.over_s,
        closes=streams and door.closes_streams,
        rate=workload.rate,
        keep=workload.kind == "streams" and workload.pace_ms > 0,
        cores=cores[0],
        watch={"proxy": list(door.pids), "engine": list(engine)},
    )


def _mark(workload: Workload) -> str:
    if workload.status != 200:
        return '"error"'
    return (EMBEDDING_MARK if workload.service == "embeddings" else REPLY_MARK).decode()


def _told(workload: Workload, door: str, number: int, sample: Sample) -> str:
    busy = ", ".join(f"{name} {sample.share(name):.0%}" for name in sample.cpu_s)
    figure = f"{sample.us:7.1f} us/{workload.unit}" if workload.unit else f"{'':7} {'':10}"
    wrong = f"; {sample.failed} FAILED: {sample.errors[0]}" if sample.failed else ""
    row = f"{number + 1} {workload.name:11} {door:7} {figure:18} {sample.per_s:7.0f}/s"
    return f"{row} ({busy}){wrong}"


@contextmanager
def _generator(cores: Sequence[int]) -> Iterator[Callable[[Job], dict[str, Any]]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.generator"],
        cwd=_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl+C is the bench's
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    wishes, outcomes = process.stdin, process.stdout

    def ask(job: Job) -> dict[str, Any]:
        try:
            wishes.write(job.line())
            wishes.flush()
            line = outcomes.readline()
        except BaseException:
            process.kill()  # its streams would only keep the proxies from ending
            raise
        assert line, "the load generator ended"
        told: dict[str, Any] = json.loads(line)
        return told

    try:
        pin(process.pid, cores)
        yield ask
    finally:
        process.kill()
        process.wait()
        with suppress(BrokenPipeError):
            wishes.close()
        outcomes.close()


def _allow_many_files() -> None:
    """Thousands of connections need as many open files, in every process that is started."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
