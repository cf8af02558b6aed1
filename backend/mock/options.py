"""The mock's command line. Every flag can also be set as ``MOCK_<NAME>`` in the environment."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from backend.mock.scenario import HELP

_DEFAULT_SLOT_CONTEXT = 4096


@dataclass(frozen=True, slots=True)
class MockOptions:
    """What one mock process does. Times in seconds or milliseconds as the names say."""

    host: str = "127.0.0.1"
    port: int = 8080
    alias: str = "mock"
    parallel: int = 4
    ctx_size: int | None = None
    embeddings: bool = False
    reranking: bool = False
    sse_ping_interval: int = 30
    load_s: float = 0.0
    fail_load: bool = False
    exit_code: int | None = None
    crash_signal: str = "SEGV"
    crash_after_events: int | None = None
    hang_after_events: int | None = None
    cut_after_bytes: int | None = None
    ignore_sigterm: bool = False
    tokens: int = 16
    token_delay_ms: float = 0.0
    prefill_ms: float = 0.0
    keepalive_s: float = 5.0
    keepalive_max: int = 100
    slot_save_path: str | None = None

    @property
    def slot_context(self) -> int:
        """Context tokens of one slot."""
        return self.ctx_size // self.parallel if self.ctx_size else _DEFAULT_SLOT_CONTEXT


def parse_options(argv: Sequence[str], environ: Mapping[str, str]) -> MockOptions:
    """
    Read the command line.

    Raises:
        SystemExit: 1 for anything wrong, as llama-server does; 0 after ``--help``.
    """
    parser = _Parser(
        prog="python -m backend.mock",
        description="A stand-in for llama-server.",
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--host", help="a path ending in .sock, or an address")
    add("--port", type=int)
    add("-a", "--alias", help="the model's public name")
    add("-np", "--parallel", "--slots", type=int, help="requests worked on at a time")
    add("-c", "--ctx-size", type=int, help="context tokens of all slots together")
    add("-m", "--model", help="accepted, not read")
    add("--embeddings", "--embedding", action="store_true", default=None)
    add("--reranking", "--rerank", action="store_true", default=None)
    add("--sse-ping-interval", type=int, help="-1: none; here it only ends streams at SIGTERM")
    add("--load-s", type=float, help="answer 503 for so long first")
    add("--fail-load", action="store_true", default=None, help="end with 1 instead of serving")
    add("--exit-code", type=int, help="crash with this code instead of by a signal")
    add("--crash-signal", help="crash by this signal: SEGV, ABRT, KILL ...")
    add("--crash-after-events", type=int, help="crash after N tokens, over all requests")
    add("--hang-after-events", type=int, help="send nothing more after N tokens, over all requests")
    add("--cut-after-bytes", type=int, help="drop the connection after N bytes of each body")
    add("--ignore-sigterm", action="store_true", default=None)
    add("--tokens", type=int, help="length of an answer in tokens")
    add("--token-delay-ms", type=float, help="pause before each token")
    add("--prefill-ms", type=float, help="time from the head to the first token")
    add("--keepalive-s", type=float)
    add("--keepalive-max", type=int)
    add("--slot-save-path", help="folder for what slots hold")
    given = vars(parser.parse_args([*_from_environment(environ), *argv]))
    names = [each.name for each in fields(MockOptions)]
    return MockOptions(**{name: given[name] for name in names if given[name] is not None})


def _from_environment(environ: Mapping[str, str]) -> list[str]:
    argv = []
    for each in fields(MockOptions):
        value = environ.get(f"MOCK_{each.name.upper()}")
        if value is None:
            continue
        flag = "--" + each.name.replace("_", "-")
        if each.default is False:
            argv += [flag] if value.lower() in ("1", "true", "yes", "on") else []
        else:
            argv.append(f"{flag}={value}")
    return argv


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        """llama-server ends with 1 for a bad argument, argparse with 2."""
        self.exit(1, f"error: {message}\n")
