"""The process that is counted: the whole gateway as `serve` makes it, moved by a script alone.

What is left out is what the clock drives (heartbeat, key watch, journal, watchdog) and the engine's
supervision: the engine is the script on the other side, which says so at once. The collector of
cycles is off: when it comes depends on what went before.

    python -m tests.cost.subject FOLDER LIBRARY [burden]
    python -m tests.cost.subject FOLDER calls FOLDER-FOR-THEM

FOLDER has control.sock, on which the script waits, and is DATA_DIR of the service. With ``burden``
the gateway does more than it has to with each piece of a stream, to see that it is noticed.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import os
import sys
from pathlib import Path

import uvloop

from backend import EngineSnapshot, EngineState, UnixAddress
from backend.status import EngineProps
from gateway.config import load
from gateway.foundation import CLOCKS, lay_foundation
from gateway.lifecycle import Parts
from gateway.observe.accesslog import AccessLog
from gateway.service import compose
from gateway.stream.pump import Pump
from tests.cost.switch import CallgrindSwitch, CallSwitch, Switch
from tests.cost.yardstick import Yardstick

__all__ = ["CONTEXT_TOKENS", "MODEL"]

MODEL = "m"
CONTEXT_TOKENS = 1 << 20
_SLOTS = 128
_SETTLING_STEPS = 32
"""Turns of the loop until all that was begun before a command has come to rest."""
_NO_LIMIT = {
    "MAX_REQUESTS_PER_MINUTE": "10000000",
    "MAX_TOKENS_PER_MINUTE": "1000000000000",
    "MAX_TOKENS_PER_DAY": "1000000000000",
    "MAX_CONCURRENT_PER_KEY": "1000",
    "MAX_QUEUE_PER_KEY": "1000000",
    "AUTH_FAILURES_PER_MINUTE": "0",
}
"""Every limit is checked, and none is reached."""
_NOTHING_MUCH = '{"choices": [{"index": 0, "delta": {"content": " word"}}], "model": "m"}'


def main(folder: Path, how: str, more: str) -> None:
    """Serve until the script is gone."""
    if more == "burden":
        _burden()
    switch: Switch = CallSwitch(Path(more)) if how == "calls" else CallgrindSwitch(Path(how))
    gc.disable()
    uvloop.run(_run(folder, switch))
    os._exit(0)


def _burden() -> None:
    relay = Pump.data

    def slow(self: Pump, chunk: bytes) -> None:
        json.loads(_NOTHING_MUCH)
        relay(self, chunk)

    Pump.data = slow  # type: ignore[method-assign]


async def _run(folder: Path, switch: Switch) -> None:
    parts = _parts(folder)
    loop = asyncio.get_running_loop()
    await loop.create_server(parts.front, sock=parts.listener)
    parts.link.aim(UnixAddress(str(folder / "engine.sock")), "engine-key")
    props = EngineProps(_SLOTS, CONTEXT_TOKENS, "b1", vocab_size=32000, embedding_size=8)
    parts.link.take_state(EngineSnapshot(state=EngineState.READY, pid=1, generation=1, props=props))
    yardstick = Yardstick()
    await yardstick.connect()
    reader, writer = await asyncio.open_unix_connection(str(folder / "control.sock"))
    commands = _Commands(switch, yardstick)
    answer = str(parts.listener.getsockname()[1])
    while True:
        writer.write(f"{answer}\n".encode())
        line = await reader.readline()
        if not line:
            return
        for _ in range(_SETTLING_STEPS):
            await asyncio.sleep(0)
        answer = await commands.obey(line.decode().rstrip())


def _parts(folder: Path) -> Parts:
    environ = {
        **_NO_LIMIT,
        "HOST": "127.0.0.1",
        "PORT": "0",
        "DATA_DIR": str(folder),
        "PLATFORM": "generic",
        "USE_MOCK_MODEL": "true",
        "MODEL_ALIAS": MODEL,
        "LOG_FORMAT": "json",
    }
    settings = load(environ, config_dir=folder).settings
    sink = os.open(os.devnull, os.O_WRONLY)
    log = AccessLog(sink, line_format="json", clock=CLOCKS.wall, quiet_routes=frozenset())
    foundation = lay_foundation(settings, log, "0")
    return compose(
        settings, environ, foundation, announce=lambda: None, report_fatal=lambda _: None
    )


class _Commands:
    def __init__(self, switch: Switch, yardstick: Yardstick) -> None:
        self._switch = switch
        self._yardstick = yardstick

    async def obey(self, line: str) -> str:
        word, _, rest = line.partition(" ")
        if word == "start":
            self._switch.start()
        elif word == "mark":
            self._switch.mark(rest)
        elif word == "stop":
            self._switch.stop()
        elif word == "work":
            await self._yardstick.work(int(rest))
        elif word == "memory":
            gc.collect()
            return f"{sys.getallocatedblocks()} {_large_bytes()}"
        else:
            raise ValueError(line)
        return "done"


class _MallInfo(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def _large_bytes() -> int:
    """What the C library has handed out: C code's own, and Python's pieces of over 512 bytes."""
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = _MallInfo
    info = mallinfo2()
    return int(info.uordblks + info.hblkhd)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], "".join(sys.argv[3:4]))
