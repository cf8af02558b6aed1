"""Switches the counting of instructions on and off from inside the process that is counted."""

from __future__ import annotations

import ctypes
import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from tests.support.debian import FetchError

__all__ = ["CallSwitch", "CallgrindSwitch", "Switch", "compile_switch"]

_SOURCE = Path(__file__).with_name("switch.c")


class Switch(Protocol):
    """Counts between `start` and `stop`; what came since the last mark goes into a file."""

    def start(self) -> None:
        """Begin, at nothing."""

    def mark(self, name: str) -> None:
        """Write down what was counted under this name, and begin at nothing again."""

    def stop(self) -> None:
        """Count no more."""


def compile_switch(valgrind: Path, folder: Path) -> Path:
    """Make the library that `CallgrindSwitch` loads, with the headers of this valgrind.

    Raises:
        FetchError: There is no C compiler, or valgrind came without its headers.
    """
    if shutil.which("cc") is None:
        raise FetchError("there is no C compiler (cc): install one, such as gcc")
    library = folder / "switch.so"
    include = valgrind.resolve().parent.parent / "include"
    command = ["cc", "-shared", "-fPIC", "-O1", f"-I{include}", str(_SOURCE), "-o", str(library)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        first = (done.stderr.strip().splitlines() or ["it said nothing"])[0]
        raise FetchError(
            f"cc cannot compile {_SOURCE.name}, which needs valgrind's headers: {first}"
        )
    return library


class CallgrindSwitch:
    """Callgrind's own; there is no effect where the process does not run under it."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        if not self._library.cost_counted():
            raise RuntimeError("this process is not counted")

    def start(self) -> None:
        self._library.cost_start()

    def mark(self, name: str) -> None:
        self._library.cost_mark(name.encode())

    def stop(self) -> None:
        self._library.cost_stop()


class CallSwitch:
    """Counts calls of functions instead: no valgrind, and names that tell a reader something."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._calls: Counter[str] = Counter()

    def start(self) -> None:
        self._calls.clear()
        sys.setprofile(self._on_call)

    def mark(self, name: str) -> None:
        sys.setprofile(None)
        (self._folder / f"{name}.calls.json").write_text(json.dumps(self._calls))
        self.start()

    def stop(self) -> None:
        sys.setprofile(None)

    def _on_call(self, frame: FrameType, event: str, subject: Any) -> None:
        if event == "call":
            code = frame.f_code
            place = "/".join(Path(code.co_filename).parts[-2:])
            self._calls[f"{place}:{code.co_firstlineno} {code.co_qualname}"] += 1
        elif event == "c_call":
            owner = getattr(subject, "__module__", None) or type(subject.__self__).__name__
            self._calls[f"C {owner}.{subject.__name__}"] += 1
