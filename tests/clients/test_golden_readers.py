"""The SDKs' own parsers read the frames in ``tests/data/golden`` as what the engine said.

The frames are served by a server of a few lines, so that nothing but frames and parsers is looked
at here. Each SDK runs once for all streams, in a process of its own; each of its streams is a test.
A stream that broke, at whatever place, must not look complete to anybody.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.dialects import DIALECTS
from tests.clients.golden_python import READERS
from tests.support.frame_grammar import Told
from tests.support.golden import PATHS, cases, golden_file, said
from tests.support.replayed import replaying

ROOT = Path(__file__).parents[2]
CLIENTS = ROOT / ".venvs" / "clients" / "bin"  # made by `make test`
OPENAI = ("chat", "completions", "responses")
PYTHON = ("-m", "tests.clients.golden_python")
NODE = ("--experimental-import-meta-resolve", "tests/clients/golden.mjs")
NODE_READERS = {
    "chat": ("raw", "helper", "ai-compatible", "ai-openai"),
    "completions": ("raw",),
    "responses": ("raw", "helper", "ai-openai"),
    "messages": ("raw", "helper"),
}

Program = tuple[tuple[str, ...], dict[str, str], dict[str, tuple[str, ...]]]
PROGRAMS: dict[str, Program] = {
    "openai": ((sys.executable, *PYTHON), {}, {name: tuple(READERS[name]) for name in OPENAI}),
    "openai-1": (
        (sys.executable, *PYTHON),
        {"PYTHONPATH": str(ROOT / ".venvs" / "openai-1")},
        {name: tuple(READERS[name]) for name in OPENAI},
    ),
    "openai-2 and anthropic": (
        (str(CLIENTS / "python"), *PYTHON),
        {},
        {name: tuple(readers) for name, readers in READERS.items()},
    ),
    "node": ((str(CLIENTS / "node"), *NODE), {}, NODE_READERS),
}
"""Command, additions to the environment, and readers by dialect."""

HARSH = {"chat helper", "responses helper"}
"""Readers that may raise for an answer that its limit cut off, as they do with OpenAI itself:
`LengthFinishReasonError`, and "Didn't receive a `response.completed` event"."""

LOST = ("lost", "lost-between", "lost-at-end")
"""How a connection may break: within a frame, between two, before the last one."""
LOST_CASE = "everything"

NAMES = {DIALECTS[path].name: path for path in PATHS}
"""Paths by the name of the dialect."""


def found_at(case: str, path: str) -> tuple[bytes, bool]:
    """The frames of a case, and whether the connection breaks behind them."""
    path = path if path.startswith("/v1/") else f"/v1{path}"
    if case not in LOST:
        return golden_file(path, case).read_bytes(), False
    name = next(iter(cases(path))) if path == "/v1/completions" else LOST_CASE
    frames = golden_file(path, name).read_bytes()
    ends = [at + 2 for at in range(len(frames)) if frames.startswith(b"\n\n", at)]
    half = ends[len(ends) // 2]
    # Chat tells how it ended, and how many tokens it took, in frames before its last one.
    end = frames.rindex(b'"finish_reason": "') if b"chat.completion.chunk" in frames else None
    cut = {"lost": half + 30, "lost-between": half, "lost-at-end": ends[-2]}
    if case == "lost-at-end" and end is not None:
        return frames[: max(at for at in ends if at < end)], True
    if case == "lost-at-end" and path == "/v1/completions":
        return frames[: max(at for at in ends if at < frames.index(b'"finish_reason":"'))], True
    return frames[: cut[case]], True


def wanted(dialect: str) -> list[str]:
    return [*cases(NAMES[dialect]), *LOST]


def expected(dialect: str, case: str) -> Told:
    return Told() if case in LOST else said(NAMES[dialect], case)


@pytest.fixture(scope="module")
def read() -> Iterator[Callable[[str], dict[tuple[str, str], dict[str, Any]]]]:
    """What a program read, by reader and case; it runs once."""
    with replaying(found_at) as url:

        def run(program: str) -> dict[tuple[str, str], dict[str, Any]]:
            command, more, readers = PROGRAMS[program]
            asked = [f"{dialect}={case}" for dialect in readers for case in wanted(dialect)]
            kept = {n: os.environ[n] for n in ("PATH", "HOME", "LANG") if n in os.environ}
            done = subprocess.run(
                [*command, url, *asked],
                cwd=ROOT,
                env={**kept, **more},
                capture_output=True,
                text=True,
                timeout=100,
            )
            assert done.returncode == 0, done.stderr
            lines = map(json.loads, done.stdout.splitlines())
            return {(line["reader"], line["case"]): line for line in lines}

        yield functools.cache(run)


ROWS = [
    pytest.param(program, dialect, reader, id=f"{program}-{dialect}-{reader}")
    for program, (_, _, readers) in PROGRAMS.items()
    for dialect, names in readers.items()
    for reader in names
]


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_reader_of_a_program_is_looked_at(
    read: Callable[[str], dict[tuple[str, str], dict[str, Any]]], program: str
) -> None:
    readers = PROGRAMS[program][2]
    listed = {
        (f"{dialect} {name}", case)
        for dialect, names in readers.items()
        for name in names
        for case in wanted(dialect)
    }
    assert read(program).keys() == listed


@pytest.mark.parametrize(("program", "dialect", "reader"), ROWS)
def test_a_client_reads_what_the_engine_said(
    read: Callable[[str], dict[tuple[str, str], dict[str, Any]]],
    program: str,
    dialect: str,
    reader: str,
) -> None:
    wrong = []
    for case in wanted(dialect):
        found = read(program)[f"{dialect} {reader}", case]
        fault = fault_of(f"{dialect} {reader}", found, expected(dialect, case))
        if fault:
            wrong.append(f"{case}: {fault}: {found}")
    assert not wrong, "\n".join(wrong)


def fault_of(reader: str, found: dict[str, Any], engine: Told) -> str | None:
    """What is wrong with an outcome, if anything."""
    if engine.ending in ("failed", "cut"):
        return None if found["ending"] in ("raised", "open") else "a broken stream looks complete"
    if engine.ending == "length" and found["ending"] == "raised" and reader in HARSH:
        return None
    if found["ending"] != engine.ending:
        return f"not {engine.ending}"
    if found["text"] != engine.text:
        return f"not {engine.text!r}"
    if found.get("pieces", found["text"]) != engine.text:
        return f"pieces that make {found['pieces']!r}"
    assert engine.usage is not None
    if found["usage"] != [engine.usage[0], engine.usage[2]]:
        return f"not {engine.usage}"
    if engine.ending == "length":
        return None  # what an SDK makes of half a call is its own business
    calls = [[name, json.loads(arguments or "{}")] for name, arguments in found["calls"]]
    told = [[name, json.loads(arguments or "{}")] for name, arguments in engine.calls]
    return None if calls == told else f"not {told}"
