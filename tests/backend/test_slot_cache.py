"""What slots hold: the engine's answers, nonsense, and the bound on files."""

from __future__ import annotations

import asyncio
import resource
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest

from backend import (
    EngineClient,
    EngineError,
    EngineSettings,
    HeldPrompt,
    RunDir,
    SlotRefused,
    UnixAddress,
    bound_new_files,
    held_prompts,
    restore_slot,
    save_slot,
)
from tests.support.launched import launched

TIMEOUT_S = 10.0


@asynccontextmanager
async def peer_saying(status: bytes, body: bytes, folder: Path) -> AsyncIterator[EngineClient]:
    """A client of a peer that gives one answer to everything."""
    over: asyncio.Queue[None] = asyncio.Queue()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            head = b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n" % (status, len(body))
            writer.write(head + body)
            await reader.read()
        finally:
            writer.close()
            over.put_nowait(None)

    path = str(folder / "peer.sock")
    server = await asyncio.start_unix_server(serve, path)
    client = EngineClient(UnixAddress(path), "k")
    yield client
    client.close()
    await over.get()
    server.close()


async def test_idle_slots_tell_what_they_hold(short_dir: Path) -> None:
    slots = [
        {"id": 0, "is_processing": False},
        {"id": 1, "is_processing": True, "id_task": 9, "n_prompt_tokens": 5},
        {
            "id": 2,
            "is_processing": False,
            "id_task": 4,
            "n_prompt_tokens": 700,
            "next_token": [{"n_decoded": 12}],
        },
        {"id": 3, "is_processing": False, "id_task": 5, "n_prompt_tokens": 8, "next_token": []},
    ]
    async with peer_saying(b"200 OK", orjson.dumps(slots), short_dir) as client:
        held = await held_prompts(client, TIMEOUT_S)
    assert held == (HeldPrompt(0, None, None), HeldPrompt(2, 712, 4), HeldPrompt(3, 8, 5))


async def test_slots_without_numbers_are_the_engines_fault(short_dir: Path) -> None:
    async with peer_saying(b"200 OK", b'[{"is_processing":false}]', short_dir) as client:
        with pytest.raises(EngineError):
            await held_prompts(client, TIMEOUT_S)


@pytest.mark.parametrize("body", [b"", b"nonsense", b"[]", b"{}", b'{"n_saved":-1}'])
async def test_an_answer_without_numbers_is_the_engines_fault(short_dir: Path, body: bytes) -> None:
    async with peer_saying(b"200 OK", body, short_dir) as client:
        with pytest.raises(EngineError):
            await save_slot(client, 0, "a.bin", TIMEOUT_S)


async def test_a_refusal_is_told_apart(short_dir: Path) -> None:
    async with peer_saying(b"400 Bad Request", b"{}", short_dir) as client:
        with pytest.raises(SlotRefused):
            await restore_slot(client, 0, "a.bin", TIMEOUT_S)


@pytest.fixture(params=["mock", "llama-server"])
def engine(request: pytest.FixtureRequest, llama_server: Path, models: Path) -> EngineSettings:
    if request.param == "mock":
        return EngineSettings(kind="mock", parallel=2)
    return EngineSettings(
        binary=llama_server, model=models / "tiny.gguf", parallel=2, ctx=1024, threads=1
    )


async def test_without_a_folder_engines_write_nothing(
    engine: EngineSettings, short_dir: Path
) -> None:
    async with launched(engine, short_dir) as running:
        with pytest.raises(SlotRefused):
            await save_slot(running.client, 0, "a.bin", TIMEOUT_S)
        with pytest.raises(SlotRefused):
            await restore_slot(running.client, 0, "a.bin", TIMEOUT_S)


WAITS = "import signal, sys; {} ; print(flush=True); sys.stdin.read()"


def waiting(statement: str) -> subprocess.Popen[bytes]:
    """A process that has run *statement* and waits for the end of its input."""
    process = subprocess.Popen(
        [sys.executable, "-c", WAITS.format(statement)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_files_are_bounded_where_the_process_survives_it() -> None:
    with waiting("signal.signal(signal.SIGXFSZ, signal.SIG_IGN)") as process:
        assert bound_new_files(process.pid, 12345)
        assert resource.prlimit(process.pid, resource.RLIMIT_FSIZE)[0] == 12345
        assert bound_new_files(process.pid, 99999), "a bound can be widened again"
        assert resource.prlimit(process.pid, resource.RLIMIT_FSIZE)[0] == 99999
        process.kill()


def test_files_are_not_bounded_where_that_would_kill() -> None:
    with waiting("signal.signal(signal.SIGXFSZ, signal.SIG_DFL)") as process:
        before = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
        assert not bound_new_files(process.pid, 12345)
        assert resource.prlimit(process.pid, resource.RLIMIT_FSIZE) == before
        process.kill()
    assert -process.returncode == signal.SIGKILL
    assert not bound_new_files(process.pid, 12345), "it is gone"


async def test_slot_folders_are_private_and_those_of_the_dead_are_removed(short_dir: Path) -> None:
    run_dir = RunDir(short_dir)
    own = run_dir.make_slot_dir()
    assert own.stat().st_mode & 0o777 == 0o700
    (own / "slot-0.bin").write_bytes(b"a prompt")
    with waiting("pass") as process:
        process.kill()
    of_the_dead = [short_dir / f"slots-{process.pid}-77", short_dir / "slots-x"]
    for folder in of_the_dead:
        folder.mkdir()
        (folder / "slot-0.bin").write_bytes(b"a prompt")
    await RunDir(short_dir).clear_stale()
    assert [path.name for path in short_dir.iterdir()] == [own.name]
    assert [path.name for path in own.iterdir()] == ["slot-0.bin"]
