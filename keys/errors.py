"""Every way the keys room can fail, each saying what the operator should do.

None of these texts ever holds a secret, a digest or the value of a field: they end up in logs.
"""

# ruff: noqa: N818  (the names say what happened; an "Error" at the end of each adds nothing)

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "ChangeRefused",
    "FileRefused",
    "KeysError",
    "LockTimeout",
    "OldFormat",
    "PepperMismatch",
    "PepperMissing",
    "RecordProblem",
    "RecordsInvalid",
    "WriteFailed",
]


class KeysError(Exception):
    """Base of the family."""


@dataclass(frozen=True, slots=True)
class RecordProblem:
    """One thing wrong in a keys file.

    Args:
        line: Line in the file, counted from 1.
        message: What is wrong and what would be right; never the value found.
    """

    line: int
    message: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.message}"


class RecordsInvalid(KeysError):
    """The text of a keys file cannot be used; nothing of it is used.

    Args:
        problems: At least one.
        path: The file, once somebody knows it.
    """

    def __init__(self, problems: Sequence[RecordProblem], path: Path | None = None) -> None:
        self.problems = tuple(problems)
        where = "" if path is None else f"{path}: "
        super().__init__(where + "; ".join(str(problem) for problem in self.problems))


class FileRefused(KeysError):
    """A file is missing, unreadable, or not private enough to be trusted.

    Args:
        path: The file.
        reason: A sentence that says what is wrong and what would be right.
        missing: There is no such file, as opposed to one that is refused.
    """

    def __init__(self, path: Path, reason: str, *, missing: bool = False) -> None:
        self.path = path
        self.reason = reason
        self.missing = missing
        super().__init__(f"{path}: {reason}")


class PepperMissing(KeysError):
    """The keys file holds digests, but the pepper they were made with is gone."""


class PepperMismatch(KeysError):
    """The pepper file is not the one the digests were made with."""


class LockTimeout(KeysError):
    """Another program has held the lock of the keys file for too long."""


class WriteFailed(KeysError):
    """The keys file or the pepper could not be written; what was there is intact."""


class ChangeRefused(KeysError):
    """What was asked makes no sense for this key, such as a second key of the same id."""


class OldFormat(ChangeRefused):
    """The file is in the old line format, which is read but never written."""
