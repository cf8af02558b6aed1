"""PURE: who lags behind in reading, how much is kept for them in all, and who is cut for it.

Rules:
- only readers that lag are in the book; the others cost nothing, and each of them leaves at most
  one high-water mark in our memory;
- the total is bounded; above it the reader with the most kept is cut first, and among equals the
  one that has been lagging longest;
- what is noted may be out of date upwards, since readers go on reading between two notes: whoever
  is told that the total is too large measures all again before anybody is cut.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

__all__ = ["SlowReaders"]

R = TypeVar("R", bound=Hashable)


class SlowReaders(Generic[R]):
    """The readers that lag, and the bytes kept for each.

    Args:
        limit_bytes: What may be kept for all of them together.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._sizes: dict[R, int] = {}
        self._total_bytes = 0

    def __repr__(self) -> str:
        return f"<SlowReaders {len(self)}, {self._total_bytes} of {self._limit_bytes} bytes>"

    def __len__(self) -> int:
        return len(self._sizes)

    def __iter__(self) -> Iterator[R]:
        """Who is in the book, longest first; noting and forgetting meanwhile is fine."""
        return iter(tuple(self._sizes))

    @property
    def total_bytes(self) -> int:
        """What is kept for all, as last noted."""
        return self._total_bytes

    @property
    def crowded(self) -> bool:
        """Whether, as last noted, too much is kept."""
        return self._total_bytes > self._limit_bytes

    def note(self, reader: R, size_bytes: int) -> None:
        """*size_bytes* are kept for *reader* now, who is taken into the book if need be."""
        self._total_bytes += size_bytes - self._sizes.get(reader, 0)
        self._sizes[reader] = size_bytes

    def forget(self, reader: R) -> None:
        """Strike *reader* out: it has caught up, or left. Nothing to do when it is not there."""
        self._total_bytes -= self._sizes.pop(reader, 0)

    def cut_largest(self) -> list[R]:
        """Strike out who must be cut so that the rest fits; largest first.

        O(n log n), and called only when the total is too large.
        """
        if not self.crowded:
            return []
        cut: list[R] = []
        for reader in sorted(self._sizes, key=self._sizes.__getitem__, reverse=True):
            self.forget(reader)
            cut.append(reader)
            if not self.crowded:
                break
        return cut
