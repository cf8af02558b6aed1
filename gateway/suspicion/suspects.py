"""PURE: which requests may have killed the engine, and which did.

Rules:
1. Whoever was inside when the engine died of something that a request can cause is a suspect for
   a while. An engine that was killed from outside accuses nobody.
2. A suspect is let in alone, with all slots, so that there is no doubt about it the next time.
3. A suspect that comes to its end is cleared; one under which the engine dies again is convicted,
   and its like are refused for a while. So no request kills the engine three times, and nobody
   pays for a neighbour.
4. A key that was inside at two deaths is on probation: all its requests run alone, until one of
   them is answered. So a key cannot go on killing with a new text each time.
5. So it is with one that dodges this by harmless requests in between: after `_UNSHARED` deaths at
   which it alone had anything inside, the key is suspended.
6. A key under which the engine died twice while it had been let in alone is suspended for a while:
   repeating what breaks a server makes it worse.

A request is known by a digest of what the engine gets, so the same text sent again is the same
request. Everything is bounded: the oldest is forgotten first.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import Generic, TypeVar

__all__ = ["ACCUSING_CAUSES", "Judgement", "Suspects", "digest_of"]

ACCUSING_CAUSES = frozenset(("segv", "abort", "oom", "error", "wedge"))
"""Causes of an engine's death (see `backend.exits`) that a request can bring about."""

_REMEMBER_S = 600.0
_DEATHS = 2
_LONE_DEATHS = 2
_UNSHARED = 5
_MOST = 1024

K = TypeVar("K", bytes, str)


def digest_of(path: str, body: bytes) -> bytes:
    """What a request is known by: its path on the engine and its whole body."""
    return blake2b(body, digest_size=16, person=path.encode()[-16:]).digest()


@dataclass(frozen=True, slots=True)
class Judgement:
    """What follows from a death of the engine for the one request that was inside."""

    convicted: bool
    """It had been accused before: its like are refused from now on."""
    suspended: bool
    """So is its key."""


class Suspects:
    """Remembers accused requests, convicted requests, and the keys that sent those.

    Args:
        suspends_keys: Whether keys tell callers apart; else one caller's fault would shut out all.
        remember_s: Seconds after which everything is forgotten.
    """

    def __init__(self, *, suspends_keys: bool = True, remember_s: float = _REMEMBER_S) -> None:
        self._suspends_keys = suspends_keys
        self._accused = _Memory[bytes](remember_s)
        self._convicted = _Memory[bytes](remember_s)
        self._suspended = _Memory[str](remember_s)
        self._deaths = _Deaths(remember_s)
        self._lone_deaths = _Deaths(remember_s)
        self._all_deaths = _Deaths(remember_s)
        self.known = False
        """Whether there is anything to look up; without it no digest needs to be made."""

    def __repr__(self) -> str:
        return f"<Suspects {len(self._accused)} accused, {len(self._convicted)} convicted>"

    def __bool__(self) -> bool:
        return self.known

    def _note_known(self) -> None:
        """To be called whenever something was remembered or forgotten."""
        self.known = bool(
            self._accused.since_s
            or self._convicted.since_s
            or self._deaths.by_key
            or self._suspended.since_s
        )

    def accuse(self, digest: bytes, key: str, generation: int, now: float) -> bool:
        """The engine *generation* died with this request of *key*, perhaps among others, inside.

        Returns:
            Whether the key is suspended from now on.
        """
        self._accused.add(digest, now)
        self._deaths.add(key, generation, now)
        self._all_deaths.add(key, generation, now)
        suspended = self._suspends_keys and self._all_deaths.unshared(key) >= _UNSHARED
        if suspended:
            self._suspended.add(key, now)
        self._note_known()
        return suspended

    def died_alone(self, digest: bytes, key: str, generation: int, now: float) -> Judgement:
        """The engine *generation* died with this request of *key* inside, let in alone."""
        convicted = self._accused.left_s(digest, now) > 0
        suspended = self.accuse(digest, key, generation, now)
        if convicted:
            self._accused.forget(digest)
            self._convicted.add(digest, now)
        self._lone_deaths.add(key, generation, now)
        if self._suspends_keys and self._lone_deaths.of(key, now) >= _LONE_DEATHS:
            self._suspended.add(key, now)
            suspended = True
        self._note_known()
        return Judgement(convicted, suspended)

    def forget_old(self, now: float) -> None:
        """Forget what is old enough, so that soon there is nothing to look up again."""
        for memory in (self._accused, self._convicted, self._suspended):
            memory.forget_old(now)
        self._deaths.forget_old(now)
        self._note_known()

    def clear(self, digest: bytes, key: str) -> None:
        """The request came to its end, alone; it is none of those that kill."""
        self._accused.forget(digest)
        self._deaths.forget(key)
        self._note_known()

    def is_accused(self, digest: bytes, now: float) -> bool:
        """Whether the engine died with this request inside."""
        return self._left_s(self._accused, digest, now) > 0

    def must_be_alone(self, digest: bytes, key: str, now: float) -> bool:
        """Whether the request is suspected, or its key is on probation."""
        inside = self._deaths.of(key, now)
        return self.is_accused(digest, now) or inside >= _DEATHS

    def quarantined_s(self, digest: bytes, now: float) -> float:
        """Seconds for which the request is still refused; 0 when it is not."""
        return self._left_s(self._convicted, digest, now)

    def suspended_s(self, key: str, now: float) -> float:
        """Seconds for which the key is still suspended; 0 when it is not."""
        return self._left_s(self._suspended, key, now)

    def _left_s(self, memory: _Memory[K], what: K, now: float) -> float:
        left_s = memory.left_s(what, now)  # forgets what is old enough
        self._note_known()
        return left_s


class _Memory(Generic[K]):
    """When something was last remembered; forgets after a time, and the oldest beyond a bound."""

    def __init__(self, remember_s: float) -> None:
        self._remember_s = remember_s
        self.since_s: dict[K, float] = {}

    def __len__(self) -> int:
        return len(self.since_s)

    def add(self, what: K, now: float) -> None:
        self.forget(what)
        self.since_s[what] = now
        self.forget_old(now)

    def forget_old(self, now: float) -> None:
        while self.since_s:
            oldest = next(iter(self.since_s))
            if len(self.since_s) <= _MOST and now - self.since_s[oldest] < self._remember_s:
                return
            del self.since_s[oldest]

    def forget(self, what: K) -> None:
        self.since_s.pop(what, None)

    def left_s(self, what: K, now: float) -> float:
        since_s = self.since_s.get(what)
        if since_s is None:
            return 0.0
        left_s = since_s + self._remember_s - now
        if left_s <= 0:
            self.forget(what)
        return max(left_s, 0.0)


class _Deaths:
    """Which engines died with something of a key inside, and when."""

    def __init__(self, remember_s: float) -> None:
        self._remember_s = remember_s
        self.by_key: dict[str, dict[int, float]] = {}

    def __len__(self) -> int:
        return len(self.by_key)

    def add(self, key: str, generation: int, now: float) -> None:
        self.forget_old(now)
        self.by_key.setdefault(key, {})[generation] = now

    def of(self, key: str, now: float) -> int:
        self.forget_old(now)
        return len(self.by_key.get(key, ()))

    def unshared(self, key: str) -> int:
        """Deaths at which only this key had anything inside."""
        others = [deaths.keys() for other, deaths in self.by_key.items() if other != key]
        return sum(not any(which in other for other in others) for which in self.by_key[key])

    def forget(self, key: str) -> None:
        self.by_key.pop(key, None)

    def forget_old(self, now: float) -> None:
        for key, deaths in tuple(self.by_key.items()):
            recent = {which: at for which, at in deaths.items() if now - at < self._remember_s}
            if recent:
                self.by_key[key] = recent
            else:
                del self.by_key[key]
