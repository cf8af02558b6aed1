"""How long steps tell a person that they are still moving.

Two receivers: a terminal sees a bar; everything else (a log file, CI) sees a line at the start and
one for every few per cent. Work reports absolute amounts, so a resumed download starts where it
left off. Nothing here reads a clock.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TextIO

__all__ = ["ConsoleProgress", "LogProgress", "Progress"]

_log = logging.getLogger(__name__)

Advance = Callable[[int], None]


class Progress(Protocol):
    """Where a long step reports to."""

    def say(self, text: str) -> None:
        """Tell the person one thing, on a line of its own."""

    def bar(self, label: str, total: int | None, unit: str) -> AbstractContextManager[Advance]:
        """
        Open a bar for the length of a block.

        Args:
            label: What is being done.
            total: The amount that is everything; None when unknown.
            unit: ``B`` for bytes, else a word for one piece of work.

        Returns:
            A context manager whose value is called with the amount done so far.
        """


class _Milestones:
    """Turns many small advances into few lines: one for every *step_percent*."""

    def __init__(self, label: str, total: int | None, step_percent: int) -> None:
        self._label = label
        self._total = total
        self._step = step_percent
        self._next = step_percent

    def reached(self, done: int) -> str | None:
        """Return the line to show for *done*, or None when it is not yet time for one."""
        if not self._total:
            return None
        percent = min(100, done * 100 // self._total)
        if percent < self._next:
            return None
        self._next = percent - percent % self._step + self._step
        return f"{self._label}: {percent} %"


class LogProgress:
    """Progress for a service whose only voice is its log."""

    def say(self, text: str) -> None:
        """Log *text*."""
        _log.info("%s", text)

    @contextmanager
    def bar(self, label: str, total: int | None, unit: str) -> Iterator[Advance]:
        """Log a line for every tenth of *total*."""
        milestones = _Milestones(label, total, 10)

        def advance(done: int) -> None:
            if line := milestones.reached(done):
                _log.info("%s", line)

        yield advance


class ConsoleProgress:
    """Progress for a person at a terminal, or for whoever reads what a command wrote to stderr."""

    def __init__(self, stream: TextIO | None = None) -> None:
        """Write to *stream*, by default to standard error, so that stdout stays for results."""
        self._stream = stream if stream is not None else sys.stderr

    def say(self, text: str) -> None:
        """Write *text* as a line."""
        self._stream.write(f"{text}\n")
        self._stream.flush()

    def bar(self, label: str, total: int | None, unit: str) -> AbstractContextManager[Advance]:
        """Draw a bar on a terminal; elsewhere write a line for every twentieth of *total*."""
        if self._stream.isatty():
            return self._drawn(label, total, unit)
        return self._lines(label, total)

    @contextmanager
    def _drawn(self, label: str, total: int | None, unit: str) -> Iterator[Advance]:
        from tqdm import tqdm  # a fifth of a second, and a service never draws

        in_bytes = unit == "B"
        with tqdm(
            total=total, desc=label, unit=unit, unit_scale=in_bytes, unit_divisor=1024,
            file=self._stream,
        ) as bar:  # fmt: skip
            yield lambda done: _move(bar.update, done - bar.n)

    @contextmanager
    def _lines(self, label: str, total: int | None) -> Iterator[Advance]:
        milestones = _Milestones(label, total, 5)

        def advance(done: int) -> None:
            if line := milestones.reached(done):
                self.say(line)

        yield advance


def _move(update: Callable[[float], object], by: float) -> None:
    if by:
        update(by)
