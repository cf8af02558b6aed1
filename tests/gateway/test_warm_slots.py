"""Prompts survive an unload in files, and the files survive nothing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import orjson
import pytest

from backend import EngineClient, EngineSettings, UnixAddress
from gateway.engine.warm_plan import WarmLimits
from gateway.engine.warm_slots import WarmSlots
from tests.support.launched import launched

CHAT = "/v1/chat/completions"
PROMPT = " ".join(f"Item {number} costs {number * 37 % 100}." for number in range(30))
LOW = WarmLimits(least_tokens=16)


@pytest.fixture
def slots_dir(short_dir: Path) -> Path:
    folder = short_dir / "slots"
    folder.mkdir(mode=0o700)
    return folder


@pytest.fixture
def real(llama_server: Path, models: Path, slots_dir: Path) -> EngineSettings:
    return EngineSettings(
        binary=llama_server,
        model=models / "tiny.gguf",
        alias="tiny",
        parallel=2,
        ctx=4096,
        threads=1,
        slot_save_dir=slots_dir,
    )


@pytest.fixture
def mock(slots_dir: Path) -> EngineSettings:
    return EngineSettings(kind="mock", parallel=2, slot_save_dir=slots_dir)


async def ask(client: EngineClient, text: str) -> int:
    """Ask for one token; returns how many tokens of the prompt were there already."""
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 1}
    status, reply = await client.request("POST", CHAT, orjson.dumps(body), timeout_s=30)
    assert status == 200, reply
    return int(orjson.loads(reply)["usage"]["prompt_tokens_details"]["cached_tokens"])


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def saved(settings: EngineSettings, folder: Path, text: str = PROMPT) -> WarmSlots:
    """What is kept of an engine that was asked *text*, and killed."""
    assert settings.slot_save_dir is not None
    warm = WarmSlots(settings.slot_save_dir, LOW)
    async with launched(settings, folder) as engine:
        await ask(engine.client, text)
        assert await warm.save(engine.client, engine.pid) == 1
    return warm


async def test_a_prompt_is_still_cached_in_the_next_process(
    real: EngineSettings, slots_dir: Path, short_dir: Path
) -> None:
    warm = await saved(real, short_dir)
    async with launched(real, short_dir) as engine:
        assert await warm.restore(engine.client) == 1
        assert await ask(engine.client, PROMPT) > 100
        assert files(slots_dir) == []


async def test_without_a_restore_nothing_is_cached(real: EngineSettings, short_dir: Path) -> None:
    await saved(real, short_dir)
    async with launched(real, short_dir) as engine:
        assert await ask(engine.client, PROMPT) == 0


async def test_files_are_private_and_their_names_tell_nothing(
    real: EngineSettings, slots_dir: Path, short_dir: Path
) -> None:
    await saved(real, short_dir)
    (path,) = slots_dir.iterdir()
    assert path.name in ("slot-0.bin", "slot-1.bin")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def overwrite(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [cut, overwrite, Path.unlink], ids=lambda how: how.__name__)
async def test_a_damaged_file_is_not_shown_to_the_engine(
    real: EngineSettings, slots_dir: Path, short_dir: Path, damage: Callable[[Path], None]
) -> None:
    warm = await saved(real, short_dir)
    (path,) = slots_dir.iterdir()
    damage(path)
    async with launched(real, short_dir) as engine:
        assert await warm.restore(engine.client) == 0
        assert await ask(engine.client, PROMPT) == 0
        assert engine.process.poll() is None
        assert files(slots_dir) == []


async def test_a_restored_prompt_that_nobody_asked_for_is_kept_once_more(
    real: EngineSettings, short_dir: Path
) -> None:
    warm = await saved(real, short_dir)
    async with launched(real, short_dir) as engine:
        assert await warm.restore(engine.client) == 1
        assert await warm.save(engine.client, engine.pid) == 1
    async with launched(real, short_dir) as engine:
        assert await warm.restore(engine.client) == 1
        assert await ask(engine.client, PROMPT) > 100


async def test_a_prompt_that_takes_too_many_bytes_is_not_kept_and_the_engine_lives(
    real: EngineSettings, slots_dir: Path, short_dir: Path
) -> None:
    warm = WarmSlots(slots_dir, WarmLimits(least_tokens=16, total_bytes=4096))
    async with launched(real, short_dir) as engine:
        await ask(engine.client, PROMPT)
        assert await warm.save(engine.client, engine.pid) == 0
        assert files(slots_dir) == []
        assert await ask(engine.client, PROMPT) > 100


async def test_a_short_prompt_gets_no_file(
    real: EngineSettings, slots_dir: Path, short_dir: Path
) -> None:
    warm = WarmSlots(slots_dir)
    async with launched(real, short_dir) as engine:
        await ask(engine.client, "hi")
        assert await warm.save(engine.client, engine.pid) == 0
    assert files(slots_dir) == []


async def test_a_write_that_fails_costs_nothing_but_the_prompt(
    real: EngineSettings, slots_dir: Path, short_dir: Path
) -> None:
    async with launched(real, short_dir) as engine:
        await ask(engine.client, PROMPT)
        warm = WarmSlots(slots_dir, LOW)
        for slot in (0, 1):
            (slots_dir / f"slot-{slot}.bin").mkdir()  # nothing can be written there
        assert await warm.save(engine.client, engine.pid) == 0
        assert await ask(engine.client, PROMPT) > 100


async def test_switched_off_it_does_nothing(mock: EngineSettings, short_dir: Path) -> None:
    warm = WarmSlots(None)
    async with launched(mock, short_dir) as engine:
        await ask(engine.client, PROMPT)
        assert await warm.save(engine.client, engine.pid) == 0
        assert await warm.restore(engine.client) == 0
    warm.discard()
    warm.close()


async def test_mock_saves_and_restores_too(
    mock: EngineSettings, slots_dir: Path, short_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    warm = await saved(mock, short_dir)
    assert len(files(slots_dir)) == 1
    async with launched(mock, short_dir) as engine:
        assert await warm.restore(engine.client) == 1
    assert files(slots_dir) == []
    save, restore = (each.message for each in caplog.records if "caches" in each.message)
    assert "1 slots" in save
    assert "1 of 1 slots" in restore


async def test_an_engine_that_is_gone_costs_nothing(
    mock: EngineSettings, slots_dir: Path, short_dir: Path
) -> None:
    warm = await saved(mock, short_dir)
    async with launched(mock, short_dir) as engine:
        client, pid = engine.client, engine.pid
    assert await warm.restore(client) == 0
    assert files(slots_dir) == []
    assert await warm.save(client, pid) == 0


@contextlib.asynccontextmanager
async def silent_engine(folder: Path) -> AsyncIterator[tuple[EngineClient, asyncio.Event]]:
    """A client of a peer that never answers, and what is set when it was asked."""
    asked, over = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        asked.set()
        await reader.read(-1)
        writer.close()
        over.set()

    path = str(folder / "silent.sock")
    server = await asyncio.start_unix_server(serve, path)
    client = EngineClient(UnixAddress(path), "k")
    yield client, asked
    client.close()
    await over.wait()
    server.close()


async def test_an_engine_that_does_not_answer_is_waited_for_no_longer_than_allowed(
    slots_dir: Path, short_dir: Path
) -> None:
    warm = WarmSlots(slots_dir, WarmLimits(save_s=0.05))
    async with silent_engine(short_dir) as (client, _):
        assert await warm.save(client, 1) == 0


async def test_a_save_that_is_called_off_leaves_no_file(slots_dir: Path, short_dir: Path) -> None:
    warm = WarmSlots(slots_dir)
    async with silent_engine(short_dir) as (client, asked):
        save = asyncio.create_task(warm.save(client, 1))
        await asked.wait()
        (slots_dir / "slot-0.bin").write_bytes(b"half of it")
        save.cancel()
        with pytest.raises(asyncio.CancelledError):
            await save
    assert files(slots_dir) == []


async def test_a_file_that_the_engine_wrote_late_is_removed_at_the_wake(
    mock: EngineSettings, slots_dir: Path, short_dir: Path
) -> None:
    warm = WarmSlots(slots_dir)
    (slots_dir / "slot-0.bin").write_bytes(b"late")
    async with launched(mock, short_dir) as engine:
        assert await warm.restore(engine.client) == 0
    assert files(slots_dir) == []


async def test_an_engine_whose_files_cannot_be_bounded_writes_none(
    mock: EngineSettings, slots_dir: Path, short_dir: Path
) -> None:
    async with launched(mock, short_dir) as engine:
        await ask(engine.client, PROMPT)
        no_process = 2**22 + 1  # above the highest pid
        assert await WarmSlots(slots_dir, LOW).save(engine.client, no_process) == 0
    assert files(slots_dir) == []


def test_leftovers_are_removed_at_the_start_and_everything_at_the_end(slots_dir: Path) -> None:
    (slots_dir / "slot-3.bin").write_bytes(b"left by somebody")
    warm = WarmSlots(slots_dir)
    assert files(slots_dir) == []
    (slots_dir / "slot-1.bin").write_bytes(b"late")
    warm.close()
    assert not slots_dir.exists()
    warm.close()
