"""PURE. Reads one dump of callgrind: what each function has cost by itself."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

__all__ = ["Dump", "read_dump"]

_NAME = re.compile(r"(fn)=\((\d+)\)(?: (.*))?")
_TITLE = re.compile(r"desc: Trigger: Client Request: (.*)")
_COUNTED = frozenset(
    (
        *("read", "readv", "recv", "recvfrom", "recvmsg", "write", "writev", "send", "sendto"),
        *("sendmsg", "socket", "connect", "accept", "accept4", "close", "shutdown", "epoll_ctl"),
        *("getsockopt", "setsockopt", "getsockname", "getpeername", "ioctl", "fcntl", "fcntl64"),
        *("open", "open64", "openat", "openat64", "stat", "fstat", "lseek", "lseek64", "fsync"),
        *("getpid", "getrandom", "mmap", "munmap", "mremap", "madvise", "fork", "clone"),
    )
)
"""Functions of the C library whose system calls are counted. Not those for locks and waiting, which
hang on the pace of other threads and of the peer, nor for the time: only under valgrind is it one.
"""


@dataclass(slots=True)
class Dump:
    """What one thread has done between two marks."""

    title: str = ""
    """The name that was given at its end; empty for a dump that nobody asked for."""
    thread: int = 0
    instructions: Counter[str] = field(default_factory=Counter)
    """By function, without those that it calls."""
    system_calls: Counter[str] = field(default_factory=Counter)
    """By the function of the C library that makes them; see `_COUNTED`."""


def read_dump(text: str) -> Dump:
    """Read what ``--dump-instr=no --collect-systime=yes`` writes."""
    dump = Dump()
    names: dict[str, str] = {}
    function = ""
    inclusive = False
    for line in text.splitlines():
        if line[:1].isdigit() or line[:1] in "+-*":
            if not inclusive:
                _add(dump, function, line.split())
            inclusive = False
        elif line.startswith(("fn=", "cfn=")):
            found = _NAME.search(line)
            assert found is not None, line
            name = names.setdefault(found[2], found[3] or "")
            if line.startswith("fn="):
                function = name
        elif line.startswith("calls="):
            inclusive = True  # the next line is what the callee has cost
        elif line.startswith("thread: "):
            dump.thread = int(line[8:])
        elif title := _TITLE.match(line):
            dump.title = title[1]
    return dump


def _add(dump: Dump, function: str, words: list[str]) -> None:
    """A line of costs: where, instructions, system calls, their time; zeros at the end left out."""
    if len(words) > 1:
        dump.instructions[function] += int(words[1])
    if len(words) > 2 and _plain(function) in _COUNTED:
        dump.system_calls[function] += int(words[2])


def _plain(function: str) -> str:
    """``__libc_write@@GLIBC_2.2.5`` and ``write`` are the same."""
    return function.partition("@")[0].lstrip("_").removeprefix("libc_")
