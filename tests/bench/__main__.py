"""``make bench``: see docs/performance.md."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.bench.cpu import pin, split_cores
from tests.bench.debian import tool
from tests.bench.figures import middle, ratio
from tests.bench.generator import Job, line_of
from tests.bench.proxies import Door, Gateway, Nginx
from tests.bench.upstream import EMBEDDING_MARK, EXTRA_EVENTS, REPLY_MARK
from tests.bench.workloads import WORKLOADS, Workload

ROOT = Path(__file__).parents[2]


class Generator:
    def __init__(self, cores):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.generator"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        pin(self._process.pid, cores)

    def do(self, job: Job) -> dict[str, Any]:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(line_of(job))
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the generator ended"
        return json.loads(line)

    def __enter__(self):
        return self

    def __exit__(self, *a):
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()


def request_of(w: Workload, key: str) -> str:
    if w.service == "embeddings":
        path, body = (
            "/v1/embeddings",
            {"model": "bench", "input": "The quick brown fox jumps over the lazy dog. " * 3},
        )
    else:
        path = "/v1/chat/completions"
        content = f"bench: events={w.tokens or 1} pace_ms={w.pace_ms:g} " + "word " * (
            w.body_bytes // 5
        )
        body = {
            "model": "bench",
            "messages": [{"role": "user", "content": content}],
            "max_tokens": 256,
            "temperature": 0.7,
        }
        if w.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
    data = json.dumps(body, separators=(",", ":"))
    return (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\nUser-Agent: bench\r\nAccept: */*\r\n"
        f"Content-Type: application/json\r\nAuthorization: Bearer {key}\r\nContent-Length: {len(data)}\r\n\r\n{data}"
    )


def job_of(w: Workload, door: Door, key: str, engine_pids) -> Job:
    stream = w.kind == "streams"
    return Job(
        kind=w.kind,
        request=request_of(w, key),
        connections=w.connections,
        path=door.path,
        port=door.port,
        mark=""
        if stream
        else (EMBEDDING_MARK if w.service == "embeddings" else REPLY_MARK).decode(),
        seconds=w.seconds,
        warm_s=0.3,
        rounds=w.rounds,
        events=w.tokens + EXTRA_EVENTS if stream else 0,
        over_s=w.tokens * w.pace_ms / 1000,
        watch={"proxy": list(door.pids), "engine": engine_pids},
    )


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*")
    args = parser.parse_args(argv)
    cores = split_cores()
    chosen = [w for w in WORKLOADS if not args.only or w.name in args.only]
    program = tool("nginx", ["nginx"], "usr/sbin/nginx").path
    with tempfile.TemporaryDirectory(prefix="lg-bench-") as tmp, ExitStack() as stack:
        generator = stack.enter_context(Generator(cores[1]))
        for service in dict.fromkeys(w.service for w in chosen):
            env = {"EMBEDDINGS": "true"} if service == "embeddings" else {}
            with (
                Gateway(Path(tmp) / service, env, cores) as gw,
                Nginx(
                    Path(tmp) / f"nginx-{service}", program, gw.service.engine_socket, cores
                ) as ng,
            ):
                doors = [gw.direct, ng.door, gw.door]
                for w in [w for w in chosen if w.service == service]:
                    costs = {d.name: [] for d in doors}
                    for _ in range(args.rounds):
                        for d in doors:
                            r = generator.do(job_of(w, d, gw.secrets[0], gw.engine_pids))
                            if r["failed"]:
                                sys.stderr.write(
                                    f"{w.name} {d.name}: {r['failed']} failed {r['errors'][:2]}\n"
                                )
                            n = r["events"] if w.unit == "event" else r["answers"]
                            sp = r["spent_s"]
                            wall = sp["wall"]
                            us = 1e6 * sp["proxy"] / max(n, 1)
                            costs[d.name].append(us)
                            sys.stderr.write(
                                f"{w.name:11} {d.name:8} {us:7.1f} us/{w.unit}  {n / wall:9.0f}/s  proxy {sp['proxy'] / wall:4.0%} generator {sp['generator'] / wall:4.0%} engine {sp['engine'] / wall:4.0%}"
                                f"  took {r['took_ms']['p50']:.2f}/{r['took_ms']['p99']:.2f} first {r['first_ms']['p50']:.2f}/{r['first_ms']['p99']:.2f} gap {r['gap_ms']['p50']:.2f}/{r['gap_ms']['p99']:.2f} ms\n"
                            )
                    sys.stdout.write(
                        f"{w.name}: nginx {middle(costs['nginx']):.1f} us, gateway {middle(costs['gateway']):.1f} us, ratio {ratio(costs['gateway'], costs['nginx']):.2f}\n"
                    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
