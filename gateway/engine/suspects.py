"""PURE: which requests may have killed the engine, and which did.

Rules:
1. Whoever was inside when the engine died of something that a request can cause is a suspect for
   a while. An engine that was killed from outside accuses nobody.
2. A suspect is let in alone, with all slots, so that there is no doubt about it the next time.
3. A suspect that comes to its end is cleared; one under which the engine dies again is convicted,
   and its like are refused for a while. So no request kills the engine three times, and nobody
   pays for a neighbour.
4. A key with two convictions in that time is suspended for as long: repeating what breaks a
   server makes it worse.
5. A key that was inside at two deaths is on probation: all its requests run alone, until one of
   them is answered. So a key cannot go on killing with a new text each time.

A request is known by a digest of what the engine gets, so the same text sent again is the same
request. Everything is bounded: the oldest is forgotten first.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Generic, TypeVar

__all__ = ["ACCUSING_CAUSES", "Suspects", "digest_of"]

ACCUSING_CAUSES = frozenset(("segv", "abort", "oom", "error", "wedge"))
"""Causes of an engine's death (see `backend.exits`) that a request can bring about."""

_REMEMBER_S = 600.0
_CONVICTIONS = 2
_DEATHS = 2
_MOST = 1024

K = TypeVar("K", bytes, str)


def digest_of(path: str, body: bytes) -> bytes:
    """What a request is known by: its path on the engine and its whole body."""
    return blake2b(body, digest_size=16, person=path.encode()[-16:]).digest()


class Suspects:
    """Remembers accused requests, convicted requests, and the keys that sent those.

    Args:
        suspends_keys: Whether keys tell callers apart; else one caller's fault would shut out all.
        remember_s: Seconds after which everything is forgotten.
    """

    def __init__(self, *, suspends_keys: bool = True, remember_s: float = _REMEMBER_S) -> None:
        self._suspends_keys = suspends_keys
        self._remember_s = remember_s
        self._accused = _Memory[bytes](remember_s)
        self._convicted = _Memory[bytes](remember_s)
        self._suspended = _Memory[str](remember_s)
        self._convictions: dict[str, list[float]] = {}
        self._deaths: dict[str, dict[int, float]] = {}

    def __repr__(self) -> str:
        return f"<Suspects {len(self._accused)} accused, {len(self._convicted)} convicted>"

    def __bool__(self) -> bool:
        """Whether there is anything to look up; without it no digest needs to be made."""
        return bool(self._accused or self._convicted or self._deaths)

    def accuse(self, digest: bytes, key: str, generation: int, now: float) -> None:
        """The engine *generation* died with this request of *key*, among others, inside."""
        self._accused.add(digest, now)
        self._forget_deaths(now)
        self._deaths.setdefault(key, {})[generation] = now

    def convict(self, digest: bytes, key: str, now: float) -> bool:
        """The engine died again, with this request of *key* alone inside.

        Returns:
            Whether the key is suspended from now on because of it.
        """
        self._accused.forget(digest)
        self._convicted.add(digest, now)
        recent = [at for at in self._convictions.get(key, ()) if now - at < self._remember_s]
        others = {name: at for name, at in self._convictions.items() if name != key}
        kept = {name: at for name, at in others.items() if now - at[-1] < self._remember_s}
        self._convictions = {key: [*recent, now], **kept}
        if not self._suspends_keys or len(recent) + 1 < _CONVICTIONS:
            return False
        self._suspended.add(key, now)
        return True

    def clear(self, digest: bytes, key: str) -> None:
        """The request was answered, alone; it is none of those that kill."""
        self._accused.forget(digest)
        self._deaths.pop(key, None)

    def must_be_alone(self, digest: bytes, key: str, now: float) -> bool:
        """Whether the request is suspected, or its key is on probation."""
        self._forget_deaths(now)
        on_probation = len(self._deaths.get(key, ())) >= _DEATHS
        return on_probation or self._accused.left_s(digest, now) > 0

    def quarantined_s(self, digest: bytes, now: float) -> float:
        """Seconds for which the request is still refused; 0 when it is not."""
        return self._convicted.left_s(digest, now)

    def suspended_s(self, key: str, now: float) -> float:
        """Seconds for which the key is still suspended; 0 when it is not."""
        return self._suspended.left_s(key, now)

    def _forget_deaths(self, now: float) -> None:
        for key, deaths in tuple(self._deaths.items()):
            recent = {which: at for which, at in deaths.items() if now - at < self._remember_s}
            if recent:
                self._deaths[key] = recent
            else:
                del self._deaths[key]


class _Memory(Generic[K]):
    """When something was last remembered; forgets after a time, and the oldest beyond a bound."""

    def __init__(self, remember_s: float) -> None:
        self._remember_s = remember_s
        self._since_s: dict[K, float] = {}

    def __len__(self) -> int:
        return len(self._since_s)

    def add(self, what: K, now: float) -> None:
        self.forget(what)
        self._since_s[what] = now
        for known, since_s in tuple(self._since_s.items()):  # the oldest first
            if len(self._since_s) <= _MOST and now - since_s < self._remember_s:
                break
            del self._since_s[known]

    def forget(self, what: K) -> None:
        self._since_s.pop(what, None)

    def left_s(self, what: K, now: float) -> float:
        since_s = self._since_s.get(what)
        if since_s is None:
            return 0.0
        left_s = since_s + self._remember_s - now
        if left_s <= 0:
            self.forget(what)
        return max(left_s, 0.0)
