"""What is known about a key, and the bounds of each field. PURE.

`keys.reading` and `keys.writing` turn these records from and into the text of the keys file;
`keys.legacy` reads the format of old. Times are whole seconds since the epoch throughout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import UTC, datetime

from keys.principal import Limits

__all__ = [
    "DEFAULT_SCOPES",
    "LIMIT_NAMES",
    "MAX_LIMIT",
    "MAX_MODEL_CHARS",
    "MAX_NOTE_CHARS",
    "MAX_PROBLEMS",
    "MAX_WEIGHT",
    "MIN_WEIGHT",
    "KeyFile",
    "KeyRecord",
    "Secret",
    "instant_text",
    "limit_items",
    "parse_instant",
    "weight_text",
]

MAX_PROBLEMS = 20
"""A file with more problems than this is not worth a longer list."""
MAX_LIMIT = 10**12
MIN_WEIGHT, MAX_WEIGHT = 0.01, 100.0
MAX_NOTE_CHARS = 500
MAX_MODEL_CHARS = 200
DEFAULT_SCOPES = frozenset({"inference"})
NO_LIMITS = Limits()
_LAST_SECOND = 253_402_300_799

LIMIT_NAMES = {
    "rpm": "requests_per_minute",
    "tpm": "tokens_per_minute",
    "concurrency": "concurrency",
    "tokens_per_day": "tokens_per_day",
}
"""Name in the file and on the command line, to name in `Limits`."""


@dataclass(frozen=True, slots=True)
class Secret:
    """The digest of one key as it was handed out.

    Args:
        digest: 32 bytes; never shown, not even to the operator.
        legacy: The key has the old shape without an id, so it is found by its digest.
        until: Seconds since the epoch from which on it is refused; None while it is current.
    """

    digest: bytes = field(repr=False)
    legacy: bool = False
    until: int | None = None


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """Everything known about one key. Times are whole seconds since the epoch.

    Args:
        key_id: Passes `keys.digest.id_problem`.
        secret: The current secret.
        previous: Secrets that rotation keeps valid for a while.
        created: When the id was made; None if unknown (old format).
        rotated: When the secret was last replaced.
        expires: From then on the key is refused.
        disabled: Refused until enabled again.
        scopes: Subset of `keys.principal.SCOPES`.
        limits: What it may spend.
        priority: One of `keys.principal.PRIORITIES`.
        weight: `MIN_WEIGHT` to `MAX_WEIGHT`.
        models: Names it may ask for; None means all.
        continue_streams: Its chat streams are continued when their engine dies.
        note: Free text for people, one line.
    """

    key_id: str
    secret: Secret
    previous: tuple[Secret, ...] = ()
    created: int | None = None
    rotated: int | None = None
    expires: int | None = None
    disabled: bool = False
    scopes: frozenset[str] = DEFAULT_SCOPES
    limits: Limits = NO_LIMITS
    priority: str = "normal"
    weight: float = 1.0
    models: frozenset[str] | None = None
    continue_streams: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A version 2 file.

    Args:
        pepper_id: Names the pepper of all digests; None only while there are no keys.
        records: By id, in the order of the file.
    """

    pepper_id: str | None = None
    records: dict[str, KeyRecord] = field(default_factory=dict)


def parse_instant(text: str) -> int:
    """Seconds since the epoch of an ISO 8601 time or date; UTC unless it says otherwise.

    A date stands for its first moment, so a key that expires on a day does not work on it.

    Raises:
        ValueError: It is neither, or lies outside 1970..9999.
    """
    if len(text) < 10:
        raise ValueError("not a time")
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    try:
        seconds = math.floor(moment.timestamp())
    except OverflowError as exc:
        raise ValueError("out of range") from exc
    if not 0 <= seconds <= _LAST_SECOND:
        raise ValueError("out of range")
    return seconds


def instant_text(seconds: float) -> str:
    """A time as it is written in the file, such as ``2027-01-31T12:00:00Z``."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def limit_items(limits: Limits) -> list[tuple[str, int]]:
    """The limits that are set, by their names in the file."""
    named = ((name, getattr(limits, attribute)) for name, attribute in LIMIT_NAMES.items())
    return [(name, value) for name, value in named if value is not None]


def weight_text(weight: float) -> str:
    """A weight without an exponent and without idle zeros."""
    return f"{weight:.6f}".rstrip("0").rstrip(".")
