"""``make bench``: what the gateway costs, beside a bare nginx. docs/performance.md explains it."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from tests.bench.cpu import split_cores
from tests.bench.figures import Rounds, disturbed
from tests.bench.goals import goals
from tests.bench.measure import Plan, Samples, measure
from tests.bench.plot import draw
from tests.bench.proxies import SETTINGS
from tests.bench.report import report
from tests.bench.workloads import WORKLOADS, Workload, quick
from tests.support.debian import FetchError, tool

_ROOT = Path(__file__).parents[2]
_ROUNDS = 5
_INTERRUPTED = 130


def main(argv: Sequence[str]) -> int:
    """Measure, print the tables, write the files.

    Returns:
        1 when an answer was wrong or nginx could not be had, 130 after Ctrl+C; else 0, whatever
        the figures are.

    Raises:
        SystemExit: With 2 for options that are wrong, with 143 after SIGTERM. All processes have
            ended then.
    """
    options = _options(argv)
    _end_by_signals()
    try:
        return _bench(options)
    except FetchError as exc:
        sys.stderr.write(f"{exc}\n(--without-nginx measures without the comparison)\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        return _INTERRUPTED


def _end_by_signals() -> None:
    """Let the first signal unwind everything, so that no process stays behind, and no other."""

    def end(number: int, frame: object) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, end)


def _bench(options: argparse.Namespace) -> int:
    workloads = _chosen(options)
    nginx = None if options.without_nginx else _nginx()
    started_s = time.monotonic()

    def say(line: str) -> None:
        sys.stderr.write(f"{time.monotonic() - started_s:5.0f} s  {line}\n")
        sys.stderr.flush()

    rounds: Samples = {}
    stopped = False
    try:
        with tempfile.TemporaryDirectory(prefix="lg-bench-") as folder:
            measure(Plan(workloads, options.rounds, nginx, Path(folder), say), rounds)
    except KeyboardInterrupt:
        stopped = True
        if not any(rounds.values()):
            raise
    facts = _facts(nginx, options, time.monotonic() - started_s, stopped=stopped)
    _write(options.out, workloads, rounds, facts)
    if stopped:
        sys.stderr.write(f"stopped; what was measured so far is in {options.out}\n")
        return _INTERRUPTED
    sys.stderr.write(f"written: {options.out}\n")
    sys.stdout.write(report(workloads, rounds, facts))
    failed = sum(s.failed for doors in rounds.values() for each in doors.values() for s in each)
    return 1 if failed else 0


def _options(argv: Sequence[str]) -> argparse.Namespace:
    names = [workload.name for workload in WORKLOADS]
    parser = argparse.ArgumentParser(
        usage='make bench BENCH_ARGS="[--quick] [--rounds N] [--only WORKLOAD ...] [--out FOLDER] '
        '[--without-nginx]"',
        description="Measure the gateway beside a bare nginx.",
    )
    parser.add_argument("--quick", action="store_true", help="see that it works, in a minute")
    parser.add_argument(
        "--rounds", type=_rounds, metavar="N", help=f"rounds of each workload ({_ROUNDS})"
    )
    parser.add_argument(
        "--only", nargs="+", choices=names, metavar="WORKLOAD", help=f"of {', '.join(names)}"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        default=_ROOT / "build" / "bench",
        help="folder for the results",
    )
    parser.add_argument("--without-nginx", action="store_true", help="compare with nothing")
    options = parser.parse_args(argv)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=options.out).close()
    except OSError as exc:
        parser.error(f"--out {options.out}: no file can be written there ({exc.strerror})")
    if options.rounds is None:
        options.rounds = 1 if options.quick else _ROUNDS
    return options


def _rounds(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def _chosen(options: argparse.Namespace) -> list[Workload]:
    chosen = [w for w in WORKLOADS if options.only is None or w.name in options.only]
    return [quick(workload) for workload in chosen] if options.quick else chosen


def _nginx() -> Path:
    path = tool("nginx", ["nginx"], "usr/sbin/nginx").path
    done = subprocess.run([path, "-v"], capture_output=True, text=True)
    if done.returncode != 0:
        # An unpacked one uses the machine's libraries.
        raise FetchError(f"{path} does not start; install nginx: {done.stderr.strip()}")
    return path


def _facts(
    nginx: Path | None, options: argparse.Namespace, took_s: float, *, stopped: bool
) -> dict[str, str]:
    """What one needs to know to judge the figures."""
    ours, others = split_cores()
    if ours == others:
        cores = "one for all: the generator and the mock take time from the proxy's caches"
    else:
        cores = f"the proxy on {ours}, the generator and the mock engine on {others}"
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "machine": f"{_processor()}, {len(os.sched_getaffinity(0))} cores, {platform.release()}",
        "cores": cores,
        "versions": f"Python {platform.python_version()}, {_version_of(nginx)}",
        "commit": _commit(),
        "gateway": "keys, limits, fair queue, metrics and a JSON access log in a file are on",
        "rounds": f"{options.rounds}{''.join(_doubts(options.quick, stopped))}",
        "took": f"{took_s:.0f} s",
    }


def _doubts(quick_run: bool, stopped: bool) -> list[str]:
    return [", quick: not to be quoted"] * quick_run + [", stopped before its end"] * stopped


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version_of(nginx: Path | None) -> str:
    if nginx is None:
        return "no nginx"
    done = subprocess.run([nginx, "-v"], capture_output=True, text=True)
    return done.stderr.strip().removeprefix("nginx version: ")


def _commit() -> str:
    command = ["git", "-C", str(_ROOT), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "unknown"
    except OSError:
        return "unknown"


def _title(facts: dict[str, str], rounds: Rounds) -> str:
    """What one must know to trust a picture."""
    spoilt = [name for name, doors in rounds.items() if disturbed(doors)]
    told = " | ".join(facts[name] for name in ("date", "machine", "commit"))
    return f"{told} | rounds: {facts['rounds']}" + (
        f"; DISTURBED: {', '.join(spoilt)}" if spoilt else ""
    )


def _write(
    folder: Path, workloads: Sequence[Workload], rounds: Rounds, facts: dict[str, str]
) -> None:
    told = {
        "facts": facts,
        "settings": SETTINGS,
        "goals": [{**asdict(goal), "verdict": goal.verdict} for goal in goals(rounds)],
        "workloads": {
            workload.name: {
                "about": asdict(workload),
                "disturbed": disturbed(rounds[workload.name]),
                "rounds": {
                    door: [{**asdict(sample), "us": sample.us} for sample in samples]
                    for door, samples in rounds[workload.name].items()
                },
            }
            for workload in workloads
        },
    }
    (folder / "results.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    if not draw(folder / "bench.png", workloads, rounds, _title(facts, rounds)):
        sys.stderr.write("no picture: matplotlib is not installed; 'make bench' installs it\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
