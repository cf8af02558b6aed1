"""Runs the counted process and has each operation done in it: once, and then twice as often.

What the second round has cost more is the cost of the operation, and of nothing around it.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from keys import create_first_key
from tests.cost.operations import Operation, Wire, open_stream
from tests.cost.script import Client, Engine, listen

__all__ = ["YARDS", "YARDSTICK", "Session", "session"]

YARDSTICK = "yardstick"
YARDS = 20
"""Rounds of the yardstick in the first of its two counts."""

_ROOT = Path(__file__).parents[2]
_PATIENCE_S = 120.0
_STREAMS = 16


class Session:
    """A counted gateway, and what its wires lead to."""

    def __init__(self, control: socket.socket, key: str, engine: Engine) -> None:
        self._control = control
        self._replies = control.makefile("r")
        port = int(self._replies.readline())
        self._wire = Wire(key, port, Client(port), engine)

    def close(self) -> None:
        """Hang up."""
        self._wire.client.close()
        self._replies.close()

    def count(self, operations: Sequence[Operation]) -> None:
        """Count the yardstick and these; the marks are called NAME-1 and NAME-2."""
        self._order(f"work {YARDS}")
        self._order("start")
        for round_ in (1, 2):
            self._order(f"work {round_ * YARDS}")
            self._order(f"mark {YARDSTICK}-{round_}")
        self._order("stop")
        for operation in operations:
            self._count(operation)

    def memory_of_a_stream(self) -> tuple[float, float]:
        """Blocks, and bytes besides, that one more open stream with its connections takes."""
        seen = []
        with ExitStack() as streams:
            for _ in range(2):
                for _ in range(_STREAMS):
                    streams.enter_context(closing(open_stream(self._wire)))
                seen.append([int(word) for word in self._order("memory").split()])
        (blocks, large), (blocks_then, large_then) = seen
        return (blocks_then - blocks) / _STREAMS, (large_then - large) / _STREAMS

    def _count(self, operation: Operation) -> None:
        operation.do(self._wire, operation.times)  # Python makes quicker what it has seen a while
        self._order("start")
        for round_ in (1, 2):
            operation.do(self._wire, round_ * operation.times)
            self._order(f"mark {operation.name}-{round_}")
        self._order("stop")

    def _order(self, command: str) -> str:
        self._control.sendall(f"{command}\n".encode())
        answer = self._replies.readline().rstrip()
        assert answer, f"the counted process ended at {command!r}"
        return answer


@contextmanager
def session(
    under: Sequence[str], how: Sequence[str], env: Mapping[str, str] | None = None
) -> Iterator[Session]:
    """Start the gateway.

    Args:
        under: The words before Python's own, to have it run by something.
        how: What the subject is told about counting.
        env: More of an environment.
    """
    with tempfile.TemporaryDirectory(prefix="lg-") as name:
        folder = Path(name)
        key = create_first_key(folder / "keys.yaml", folder / "keys.pepper", "test")
        assert key is not None
        engine = Engine(folder / "engine.sock")
        with listen(folder / "control.sock", _PATIENCE_S) as listener:
            process = subprocess.Popen(
                [*under, sys.executable, "-m", "tests.cost.subject", name, *how],
                cwd=_ROOT,
                env={
                    "PATH": os.environ["PATH"],
                    "HOME": name,
                    "PYTHONHASHSEED": "0",
                    **(env or {}),
                },
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl+C is for the script; this process it ends
            )
            try:
                control, _ = listener.accept()
                with control:
                    control.settimeout(_PATIENCE_S)
                    with closing(Session(control, key, engine)) as counted:
                        yield counted
            finally:
                process.kill()
                process.wait(30)
                engine.close()
