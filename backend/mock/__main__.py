"""Run the mock engine: ``python -m backend.mock --help``."""

import asyncio
import os
import signal
import socket
import sys
import time

import uvloop

from backend.mock.engine import MockEngine
from backend.mock.http import Connection
from backend.mock.options import MockOptions, parse_options

_BACKLOG = 512
_STARTED = time.monotonic()


def main() -> int:
    """Serve until told to stop; the exit code is llama-server's for the same end."""
    # A process of its own, so this is an edge: nothing else reads its environment.
    options = parse_options(sys.argv[1:], os.environ)  # noqa: TID251
    key = os.environ.pop("LLAMA_API_KEY", None)  # noqa: TID251
    # No handlers exist while loading: the real server dies of a signal then, and so does this.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if options.ignore_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _log("I", "srv  llama_server: initializing ...")
    try:
        listener = _bind(options)
    except OSError as exc:
        where = f"hostname: {options.host}, port: {options.port}"
        _log("E", f"srv  llama_server: couldn't bind HTTP server socket, {where} ({exc.strerror})")
        return 1
    return uvloop.run(_run(options, key, listener))


def _bind(options: MockOptions) -> socket.socket:
    """Listen, without the loop's kindness of removing a stale socket file first."""
    if options.host.endswith(".sock"):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(options.host)
    else:
        family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((options.host, options.port))
    listener.listen(_BACKLOG)
    listener.setblocking(False)
    return listener


async def _run(options: MockOptions, key: str | None, listener: socket.socket) -> int:
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[int] = loop.create_future()
    engine = MockEngine(options, key, lambda: _end(ended))
    make = loop.create_unix_server if listener.family == socket.AF_UNIX else loop.create_server
    server = await make(lambda: Connection(engine), sock=listener)
    _log("I", "srv    load_model: loading model 'mock'")
    if options.load_s:
        await asyncio.sleep(options.load_s)
    if options.fail_load:
        _log("E", "srv    load_model: failed to load model, 'mock'")
        return 1 if options.exit_code is None else options.exit_code
    engine.loading = False
    for signum in (signal.SIGTERM, signal.SIGINT):
        if signum != signal.SIGTERM or not options.ignore_sigterm:
            loop.add_signal_handler(signum, _on_signal, engine, server, ended, options)
    _log("I", "srv  llama_server: model loaded")
    _log("I", f"srv  llama_server: listening on {options.host}")
    code = await ended
    _log("I", "srv    operator(): cleaning up before exit...")
    return code


def _end(ended: "asyncio.Future[int]") -> None:
    if not ended.done():
        ended.set_result(0)


def _on_signal(
    engine: MockEngine,
    server: asyncio.Server,
    ended: "asyncio.Future[int]",
    options: MockOptions,
) -> None:
    if engine.stopping:
        _log("W", "srv    operator(): Received second interrupt, terminating immediately.")
        os._exit(1)
    server.close()
    engine.stop()
    _log("I", "srv    operator(): stopping ...")
    if options.sse_ping_interval >= 0 and not ended.done():
        # The next ping would fail, and with it the stream end.
        asyncio.get_running_loop().call_later(options.sse_ping_interval, engine.drop_all)


def _log(level: str, text: str) -> None:
    ms = int((time.monotonic() - _STARTED) * 1000)
    sys.stderr.write(f"0.{ms // 1000 % 60:02}.{ms % 1000:03}.000 {level} {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    # Skips the interpreter's own clean-up, which would wait for nothing but time.
    os._exit(code)
