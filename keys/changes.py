"""What can be done to a key, on records alone. PURE.

Each function returns a new value; time and the new secret are handed in. Rules:
- rotation without an overlap ends every earlier secret at once, also those that an earlier
  rotation had kept: it is what one does with a leaked key;
- secrets whose overlap is over are dropped whenever their record is rotated.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal

from keys.errors import ChangeRefused
from keys.records import LIMIT_NAMES, KeyFile, KeyRecord, Secret

__all__ = [
    "KeyState",
    "Unknown",
    "add",
    "get",
    "merge",
    "put",
    "remove",
    "rotate",
    "state_of",
    "with_settings",
]

KeyState = Literal["active", "disabled", "expired"]


class Unknown(ChangeRefused):
    """There is no key of that id."""


def get(file: KeyFile, key_id: str) -> KeyRecord:
    """The record of *key_id*.

    Raises:
        Unknown: There is none.
    """
    try:
        return file.records[key_id]
    except KeyError:
        raise Unknown(f"there is no key '{key_id}'") from None


def put(file: KeyFile, record: KeyRecord) -> KeyFile:
    """The file with *record* in place of the one of the same id, or at the end."""
    return replace(file, records={**file.records, record.key_id: record})


def add(file: KeyFile, record: KeyRecord) -> KeyFile:
    """The file with one key more.

    Raises:
        ChangeRefused: The id is taken.
    """
    if record.key_id in file.records:
        raise ChangeRefused(
            f"there is a key '{record.key_id}' already; 'rotate' gives it a new secret"
        )
    return put(file, record)


def merge(file: KeyFile, records: Iterable[KeyRecord]) -> KeyFile:
    """The file with several keys more; all or none.

    Raises:
        ChangeRefused: An id is taken.
    """
    for record in records:
        file = add(file, record)
    return file


def remove(file: KeyFile, key_id: str) -> KeyFile:
    """The file without that key.

    Raises:
        Unknown: There is none.
    """
    get(file, key_id)
    kept = {name: record for name, record in file.records.items() if name != key_id}
    return replace(file, records=kept)


def rotate(record: KeyRecord, secret: Secret, now: int, overlap_s: int) -> KeyRecord:
    """Give a key a new secret.

    Args:
        record: The key.
        secret: The new secret.
        now: Seconds since the epoch.
        overlap_s: How long the secrets that are valid now stay valid, at least 0.
    """
    previous: tuple[Secret, ...] = ()
    if overlap_s > 0:
        until = now + overlap_s
        still = (old for old in record.previous if old.until is not None and old.until > now)
        shortened = (replace(old, until=min(old.until or until, until)) for old in still)
        previous = (replace(record.secret, until=until), *shortened)
    return replace(record, secret=secret, previous=previous, rotated=now)


def with_settings(record: KeyRecord, given: Mapping[str, Any]) -> KeyRecord:
    """The key with some of its settings replaced.

    Args:
        record: The key.
        given: Fields of `KeyRecord` and names of `LIMIT_NAMES`, each with its new value.
    """
    limits = {LIMIT_NAMES[name]: value for name, value in given.items() if name in LIMIT_NAMES}
    fields = {name: value for name, value in given.items() if name not in LIMIT_NAMES}
    return replace(record, limits=replace(record.limits, **limits), **fields)


def state_of(record: KeyRecord, now: float) -> KeyState:
    """The state of a key in one word; a key that is both is called disabled."""
    if record.disabled:
        return "disabled"
    if record.expires is not None and now >= record.expires:
        return "expired"
    return "active"
