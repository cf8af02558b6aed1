"""What does the service do when its disk is full, or read-only? ``python -m tests.load.disks``

On a real file system of 256 KiB, which only root may mount: first every byte of it is taken, then
it is remounted read-only. Each time the engine is killed as well. `make test` has the same without
a mount (tests/gateway/test_faults_machine.py).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from keys import create_first_key
from tests.load.bench import table
from tests.support.aftermath import engines, unharmed
from tests.support.callers import Caller, until
from tests.support.service import ServiceProcess

__all__ = ["main"]


@contextmanager
def _small_disk(folder: Path) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def _full(folder: Path) -> Iterator[None]:
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            yield
    ballast.unlink()


@contextmanager
def _read_only(folder: Path) -> Iterator[None]:
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    yield
    subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)


def _saved(service: ServiceProcess) -> int:
    state = json.loads((service.folder / "usage.json").read_bytes())["state"]
    return sum(used for _, used in state["keys"].values())


def _case(
    service: ServiceProcess, fault: Callable[[Path], AbstractContextManager[None]]
) -> list[str]:
    """Returns what the log said."""
    who = Caller(service, service.key)
    written = len(service.lines)
    with unharmed(service):
        with fault(service.folder):
            assert who.chat().status_code == 200
            service.wait_for("cannot be saved")
            (engine,) = engines(service)
            os.kill(engine.pid, signal.SIGKILL)
            until(lambda: who.chat().status_code == 200)
            with who.streaming("mock: tokens=800 delay_ms=5", max_tokens=800) as (_, lines):
                assert list(lines)[-1] == "data: [DONE]"
        service.wait_for("saved to .* again")
        until(lambda: _saved(service) == who.key()["tokens_today"])
    return [line for line in service.lines[written:] if "gateway.limits" in line]


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="lg-load-") as name, _small_disk(Path(name)):
        folder = Path(name)
        secret = create_first_key(folder / "keys.yaml", folder / "keys.pepper", "test")
        assert secret is not None
        env = {"USE_MOCK_MODEL": "true", "MAX_TOKENS_PER_DAY": "1000000"}
        with ServiceProcess(folder, env) as service:
            service.key = secret
            service.ready()
            for title, fault in (("full", _full), ("read-only", _read_only)):
                said = _case(service, fault)
                rows = [("served", "yes"), *(("log", line[25:]) for line in said)]
                sys.stdout.write(table(f"The disk is {title}", rows))
            exit_code = service.stop()
            sys.stdout.write(f"exit code {exit_code}\n")
            return exit_code


if __name__ == "__main__":
    sys.exit(main())
