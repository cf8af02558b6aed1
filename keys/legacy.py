"""The old line format: ``key_id:api_key[:rate_limit][:expiration]``. PURE.

One key per line; blank lines and lines that begin with ``#`` are skipped. The rate limit is in
requests per minute and may be empty. The expiration is an ISO 8601 time or date, or seconds
since the epoch, and may hold colons itself.

Such a file holds the keys themselves. It still loads, so that nobody is locked out by an
upgrade; ``key_mgmt.py migrate`` turns it into digests.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from keys.digest import TOKEN_PATTERN, Digester, id_problem
from keys.errors import RecordProblem, RecordsInvalid
from keys.principal import Limits
from keys.records import MAX_LIMIT, MAX_PROBLEMS, KeyRecord, Secret, parse_instant

__all__ = ["LegacyKey", "looks_legacy", "parse_legacy", "to_record"]

MIN_KEY_CHARS = 16
"""The shortest key the old program took."""

_YAML_START = re.compile(r"(version|pepper|keys)\s*:(\s|$)|---|\.\.\.|%|\{")
_SECONDS = re.compile(r"[0-9]{9,11}")
_NUMBER = re.compile(r"[0-9]{1,13}")


@dataclass(frozen=True, slots=True)
class LegacyKey:
    """One line of an old file."""

    key_id: str
    api_key: str = field(repr=False)
    requests_per_minute: int | None = None
    expires: int | None = None


def looks_legacy(text: str) -> bool:
    """Whether *text* is in the old format, judged by its first line that says something."""
    for line in text.splitlines():
        words = line.strip()
        if words and not words.startswith("#"):
            return _YAML_START.match(words) is None
    return False


def parse_legacy(text: str) -> list[LegacyKey]:
    """Read an old file.

    Raises:
        RecordsInvalid: With up to `MAX_PROBLEMS` problems, in the order of the lines.
    """
    found: list[LegacyKey] = []
    problems: list[RecordProblem] = []
    ids: dict[str, int] = {}
    secrets: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.strip()
        if not words or words.startswith("#"):
            continue
        try:
            key = _parse_line(words)
            _note_once(key.key_id, ids, number, "key id")
            _note_once(key.api_key, secrets, number, "API key")
        except ValueError as exc:
            problems.append(RecordProblem(number, str(exc)))
        else:
            found.append(key)
    if problems:
        raise RecordsInvalid(problems[:MAX_PROBLEMS])
    return found


def to_record(key: LegacyKey, digester: Digester) -> KeyRecord:
    """The record that stands for an old line; when the key was made is not known."""
    return KeyRecord(
        key_id=key.key_id,
        secret=Secret(digester.digest(key.api_key.encode("ascii")), legacy=True),
        expires=key.expires,
        limits=Limits(requests_per_minute=key.requests_per_minute),
    )


def _note_once(text: str, seen: dict[str, int], number: int, what: str) -> None:
    if text in seen:
        raise ValueError(f"the same {what} was used before, on line {seen[text]}")
    seen[text] = number


def _parse_line(words: str) -> LegacyKey:
    parts = [part.strip() for part in words.split(":", 2)]
    if len(parts) < 2:
        raise ValueError("expected key_id:api_key[:rate_limit][:expiration]")
    wrong_id = id_problem(parts[0])
    if wrong_id is not None:
        raise ValueError(wrong_id)
    rest = parts[2] if len(parts) == 3 else ""
    rate, expires = _rate_and_expiration(rest)
    return LegacyKey(parts[0], _api_key(parts[1]), rate, expires)


def _api_key(text: str) -> str:
    if TOKEN_PATTERN.fullmatch(text.encode("utf-8", "replace")) is None:
        raise ValueError("an API key is made of the characters A-Z a-z 0-9 . _ ~ - only")
    if len(text) < MIN_KEY_CHARS:
        raise ValueError(f"an API key has at least {MIN_KEY_CHARS} characters")
    return text


def _rate_and_expiration(rest: str) -> tuple[int | None, int | None]:
    """Both are optional, and an expiration may stand alone: a rate has no dash and is short."""
    first, colon, second = rest.partition(":")
    if colon and (not first or _NUMBER.fullmatch(first)):
        return _rate(first), _expiration(second.strip())
    if not colon and _NUMBER.fullmatch(rest):
        return _rate(rest), None
    return None, _expiration(rest)


def _rate(text: str) -> int | None:
    if not text:
        return None
    if not 1 <= int(text) <= MAX_LIMIT:
        raise ValueError("the rate limit is a whole number of requests per minute, at least 1")
    return int(text)


def _expiration(text: str) -> int | None:
    if not text:
        return None
    if _SECONDS.fullmatch(text):
        return int(text)
    try:
        return parse_instant(text)
    except ValueError:
        raise ValueError(
            "the third field is a rate limit (a whole number), the last an expiration "
            "(2027-01-31, 2027-01-31T12:00:00Z or seconds since the epoch)"
        ) from None
