"""Who presented this key? PURE, immutable, and the same work for a wrong key as for a right one.

Rules:
- one lookup by the public id, one keyed digest, one comparison in constant time, for every token
  that is not absurdly long; an unknown id is compared with a dummy;
- keys of the old shape carry no id and are found by their digest: without the pepper nobody can
  steer the digest, so the dictionary's timing tells nothing;
- a key is told to be expired or disabled only once its secret was right;
- a ring never changes: a reload builds a new one, and the owner swaps one reference.
"""

from __future__ import annotations

from collections.abc import Iterable
from hmac import compare_digest
from typing import Literal

from keys.digest import (
    MAX_KEY_BYTES,
    PEPPER_BYTES,
    PREFIX,
    TAIL_CHARS,
    TOKEN_PATTERN,
    Digester,
    checksum_holds,
)
from keys.principal import Principal, Refused
from keys.records import KeyRecord, Secret

__all__ = ["Keyring", "Standing"]

Standing = Literal["valid", "expired", "disabled", "removed"]

_PREFIX = PREFIX.encode("ascii")
_ID = slice(len(_PREFIX), -TAIL_CHARS)
_MISSING = Refused("missing")
_MALFORMED = Refused("malformed")
_CHECKSUM = Refused("checksum")
_UNKNOWN = Refused("unknown")
_WRONG_SECRET = Refused("wrong_secret")
_EXPIRED = Refused("expired")
_DISABLED = Refused("disabled")


class _Entry:
    """A record as the lookup needs it."""

    __slots__ = ("digest", "disabled", "previous", "principal")

    def __init__(self, record: KeyRecord) -> None:
        self.digest = record.secret.digest
        self.previous = record.previous
        self.disabled = record.disabled
        self.principal = Principal(
            key_id=record.key_id,
            scopes=record.scopes,
            limits=record.limits,
            priority=record.priority,
            weight=record.weight,
            models=record.models,
            expires_at=record.expires,
            continue_streams=record.continue_streams,
        )

    def admit(self, now: float) -> Principal | Refused:
        if self.disabled:
            return _DISABLED
        expires_at = self.principal.expires_at
        if expires_at is not None and now >= expires_at:
            return _EXPIRED
        return self.principal


class Keyring:
    """All keys of one reading of the keys file.

    Args:
        records: Digested under *digester*; ids are unique.
        digester: None only for a ring without keys, which refuses everything.

    Raises:
        ValueError: There are records but no digester.
    """

    __slots__ = ("_by_digest", "_by_id", "_digest", "_dummy")

    def __init__(self, records: Iterable[KeyRecord] = (), digester: Digester | None = None) -> None:
        self._by_id: dict[bytes, _Entry] = {}
        self._by_digest: dict[bytes, tuple[_Entry, int | None]] = {}
        for record in records:
            entry = self._by_id[record.key_id.encode("ascii")] = _Entry(record)
            for secret in (record.secret, *record.previous):
                if secret.legacy:
                    self._by_digest[secret.digest] = (entry, secret.until)
        if self._by_id and digester is None:
            raise ValueError("a ring with keys needs the digester of their pepper")
        self._digest = (digester or Digester(bytes(PEPPER_BYTES))).digest
        self._dummy = _Entry(KeyRecord("dummy", Secret(bytes(32)), disabled=True))

    def __len__(self) -> int:
        return len(self._by_id)

    def __repr__(self) -> str:
        return f"<Keyring of {len(self)} keys>"

    def identify(self, presented: str | bytes, now: float) -> Principal | Refused:
        """Find out whose key this is.

        Args:
            presented: The token as it came, without a scheme word; any bytes at all.
            now: Wall clock, seconds since the epoch.

        Returns:
            The key's principal, or why not. The reason is for logs, never for the client.
        """
        token = presented
        if isinstance(token, str):  # half a pair of surrogates is nobody's key, but bytes too
            token = token.encode("utf-8", "surrogatepass")
        if not token:
            return _MISSING
        if len(token) > MAX_KEY_BYTES:
            return _MALFORMED
        digest = self._digest(token)
        named = self._by_id.get(token[_ID])
        entry = named or self._dummy
        if compare_digest(entry.digest, digest):
            return entry.admit(now)
        for secret in entry.previous:
            if compare_digest(secret.digest, digest) and _still(secret.until, now):
                return entry.admit(now)
        old_shape = self._by_digest.get(digest)
        if old_shape is not None and _still(old_shape[1], now):
            return old_shape[0].admit(now)
        return _why(token, known=named is not None)

    def holds(self, principal: Principal) -> bool:
        """Whether *principal* is of this ring and its key is valid at any time.

        If not, `standing` tells more.
        """
        entry = self._by_id.get(principal.key_id.encode("utf-8", "surrogatepass"))
        if entry is None or entry.principal is not principal:
            return False
        return principal.expires_at is None and not entry.disabled

    def standing(self, key_id: str, now: float) -> Standing:
        """What has become of a key whose requests wait or run.

        Args:
            key_id: From a principal of this ring or of an earlier one.
            now: Wall clock, seconds since the epoch.
        """
        entry = self._by_id.get(key_id.encode("utf-8", "surrogatepass"))
        if entry is None:
            return "removed"
        verdict = entry.admit(now)
        if verdict is _DISABLED:
            return "disabled"
        return "expired" if verdict is _EXPIRED else "valid"


def _still(until: int | None, now: float) -> bool:
    return until is None or now < until


def _why(token: bytes, *, known: bool) -> Refused:
    if TOKEN_PATTERN.fullmatch(token) is None:
        return _MALFORMED
    intact = checksum_holds(token)
    if intact is None:
        return _MALFORMED if token.startswith(_PREFIX) else _UNKNOWN
    if not intact:
        return _CHECKSUM
    return _WRONG_SECRET if known else _UNKNOWN
