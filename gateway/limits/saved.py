"""PURE. The part of the ledger that survives a restart, as JSON values and back.

A `Snapshot` is cheap to take; making JSON of it is not, and may be done in another thread.

What comes back was on disk: it may be anything, and is believed only within bounds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

__all__ = ["MAX_KEPT_KEYS", "Kept", "Saved", "Snapshot"]

MAX_KEPT_KEYS = 10_000
_MAX_ID_CHARS = 128
_MAX_WHOLE = 1 << 53


@dataclass(frozen=True, slots=True)
class Snapshot:
    """
    A copy of the counters, which nobody changes any more; the three lists go by the same order.

    Args:
        now: The moment, in seconds on the monotonic clock.
        wall: The moment, in seconds since the epoch.
        date: The day since the epoch that the tokens were used on.
        key_ids: Keys.
        full_at_s: When each key's tokens of the minute are all there, on the monotonic clock.
        used: Tokens each key used that day.
    """

    now: float
    wall: float
    date: int
    key_ids: Sequence[str]
    full_at_s: Sequence[float]
    used: Sequence[int]

    def as_json(self) -> dict[str, Any]:
        """Nothing but JSON values, of at most `MAX_KEPT_KEYS` keys of which there is something."""
        return {
            "wall": self.wall,
            "date": self.date,
            "keys": dict(islice(self._kept(), MAX_KEPT_KEYS)),
        }

    def _kept(self) -> Iterator[tuple[str, tuple[float, int]]]:
        now = self.now
        for key_id, full_at_s, used in zip(self.key_ids, self.full_at_s, self.used, strict=True):
            if full_at_s > now:
                yield key_id, (full_at_s - now, used)
            elif used:
                yield key_id, (0.0, used)


@dataclass(frozen=True, slots=True)
class Kept:
    """One key: seconds until its tokens of the minute are all there, tokens used that day."""

    debt_s: float
    used: int


@dataclass(frozen=True, slots=True)
class Saved:
    """
    The counters as they were read.

    Args:
        wall: The moment, in seconds since the epoch.
        date: The day since the epoch that the tokens were used on.
        keys: By key id, at most `MAX_KEPT_KEYS`.
    """

    wall: float
    date: int
    keys: Mapping[str, Kept]

    @classmethod
    def from_json(cls, state: object) -> Saved:
        """The inverse of `Snapshot.as_json`.

        Raises:
            ValueError: *state* is something else, or out of bounds.
        """
        if not isinstance(state, dict):
            raise ValueError("the counters are not an object")
        keys = state.get("keys")
        if not isinstance(keys, dict) or len(keys) > MAX_KEPT_KEYS:
            raise ValueError(f"the counters have no keys, or more than {MAX_KEPT_KEYS}")
        return cls(
            wall=_seconds(state.get("wall")),
            date=_whole(state.get("date")),
            keys={_key_id(key): _kept(entry) for key, entry in keys.items()},
        )


def _key_id(key: object) -> str:
    if not isinstance(key, str) or not 1 <= len(key) <= _MAX_ID_CHARS:
        raise ValueError(f"the name of a key must have 1 to {_MAX_ID_CHARS} characters")
    return key


def _kept(entry: object) -> Kept:
    if not isinstance(entry, list | tuple) or len(entry) != 2:
        raise ValueError("the counters of a key must be two numbers")
    return Kept(_seconds(entry[0]), _whole(entry[1]))


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("there is something else than a number of seconds")
    if not 0 <= value <= _MAX_WHOLE or not math.isfinite(value):
        raise ValueError("a number of seconds is out of bounds")
    return float(value)


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("there is something else than a whole number")
    if not 0 <= value <= _MAX_WHOLE:
        raise ValueError("a whole number is out of bounds")
    return value
