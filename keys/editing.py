"""Changing the keys file: lock, read, change, write. The edge that the commands stand on.

Rules:
- the file is read again under the lock, so that no change of another writer is lost;
- a change that needs no digest (remove, disable, set) works without the pepper: taking a key
  away must always be possible;
- a pepper is made only while there is no key that depends on another one. It is on disk before
  the first digest that needs it.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from keys.changes import add, merge
from keys.digest import PEPPER_BYTES, SECRET_BYTES, Digester, make_key
from keys.errors import ChangeRefused, FileRefused, OldFormat, PepperMissing, WriteFailed
from keys.files import locked, write_private, writing_problem
from keys.legacy import LegacyKey, to_record
from keys.records import KeyFile, KeyRecord, Secret
from keys.store import check_pepper, read_keys, read_pepper
from keys.writing import write

__all__ = ["FIRST_KEY_ID", "Draft", "create_first_key", "editing", "migrate", "open_keys"]

FIRST_KEY_ID = "first"


class Draft:
    """A keys file while its lock is held.

    Args:
        path: The keys file.
        pepper_path: Its pepper.
        file: What is in it; ``save`` replaces it.
    """

    def __init__(self, path: Path, pepper_path: Path, file: KeyFile) -> None:
        self.path = path
        self.pepper_path = pepper_path
        self.file = file
        self._digester: Digester | None = None

    def digester(self) -> Digester:
        """The digester of this file, made on first use if no key depends on one yet.

        Raises:
            PepperMissing: Keys depend on a pepper that is gone.
            PepperMismatch: They depend on another one.
            FileRefused: The pepper file is not trusted.
            WriteFailed: A new pepper could not be written.
        """
        if self._digester is None:
            self._digester = self._find_digester()
        return self._digester

    def new_pepper(self) -> None:
        """Replace the pepper; every digest that is in the file becomes worthless."""
        text = secrets.token_hex(PEPPER_BYTES)
        _make_directory(self.pepper_path.parent)
        write_private(self.pepper_path, text.encode("ascii") + b"\n")
        self._digester = Digester(bytes.fromhex(text))

    def make_secret(self, key_id: str) -> tuple[str, Secret]:
        """A new key for *key_id*, and what the file may know about it."""
        digester = self.digester()
        key = make_key(key_id, secrets.token_bytes(SECRET_BYTES))
        return key, Secret(digester.digest(key.encode("ascii")))

    def save(self, file: KeyFile) -> None:
        """Write *file*; it is on disk when this returns.

        Raises:
            WriteFailed: It is not; the old file is intact.
        """
        if self._digester is not None:
            file = replace(file, pepper_id=self._digester.pepper_id)
        write_private(self.path, write(file).encode("utf-8"))
        self.file = file

    def _find_digester(self) -> Digester:
        try:
            digester = read_pepper(self.pepper_path, any_owner=_is_root())
        except PepperMissing:
            if self.file.records:
                raise
            self.new_pepper()
            assert self._digester is not None
            return self._digester
        if self.file.records:
            check_pepper(self.file, digester, self.pepper_path)
        return digester


@contextmanager
def editing(path: Path, pepper_path: Path, *, create: bool = False) -> Iterator[Draft]:
    """Hold the lock of the keys file while it is changed.

    Args:
        path: The keys file.
        pepper_path: Its pepper.
        create: Begin an empty file if there is none, and the directory too.

    Raises:
        ChangeRefused: The file is in the old format.
        KeysError: Whatever else is wrong with the files.
    """
    if create:
        _make_directory(path.parent)
    with locked(path):
        yield Draft(path, pepper_path, _read_for_change(path, create=create))


def open_keys(path: Path) -> KeyFile:
    """The keys file for looking at; a file in the old format is shown as if it were migrated.

    Raises:
        FileRefused: It is missing or not trusted.
        RecordsInvalid: Its text is not good.
    """
    found = read_keys(path, any_owner=_is_root())
    if isinstance(found, KeyFile):
        return found
    return KeyFile(None, _records_of(found, Digester(os.urandom(PEPPER_BYTES))))


def migrate(source: Path, path: Path, pepper_path: Path) -> list[str]:
    """Turn a file in the old format into records; every key stays valid.

    Args:
        source: The old file. It is replaced if it is *path*, and left alone otherwise.
        path: The keys file that gets the records, besides those it has.
        pepper_path: Its pepper; made if missing.

    Returns:
        The ids of the keys that were taken over.

    Raises:
        ChangeRefused: *source* is not in the old format, or an id is taken in *path*.
        KeysError: Whatever else is wrong with the files.
    """
    _make_directory(path.parent)
    with locked(path):
        old = read_keys(source, any_owner=_is_root())
        if isinstance(old, KeyFile):
            raise ChangeRefused(f"{source} is in the present format already; nothing was changed")
        in_place = os.path.realpath(source) == os.path.realpath(path)
        file = KeyFile() if in_place else _read_for_change(path, create=True)
        draft = Draft(path, pepper_path, file)
        records = _records_of(old, draft.digester())
        draft.save(merge(file, records.values()))
        return list(records)


def create_first_key(path: Path, pepper_path: Path, note: str) -> str | None:
    """Make sure that there is a key: for the first start on a fresh machine.

    Args:
        path: The keys file; it and its directory are made if missing.
        pepper_path: Its pepper; made if missing.
        note: What the key's note will say.

    Returns:
        The new key, to be shown once; None if there are keys already.

    Raises:
        KeysError: The files are there and not good, or cannot be written.
    """
    try:
        with editing(path, pepper_path, create=True) as draft:
            if draft.file.records:
                return None
            key, secret = draft.make_secret(FIRST_KEY_ID)
            now = int(time.time())  # noqa: TID251  (an edge: the moment is written to the file)
            draft.save(add(draft.file, KeyRecord(FIRST_KEY_ID, secret, created=now, note=note)))
            return key
    except OldFormat:
        return None


def _records_of(old: list[LegacyKey], digester: Digester) -> dict[str, KeyRecord]:
    return {key.key_id: to_record(key, digester) for key in old}


def _read_for_change(path: Path, *, create: bool) -> KeyFile:
    try:
        found = read_keys(path, any_owner=_is_root())
    except FileRefused as exc:
        if exc.missing and create:
            return KeyFile()
        raise
    if not isinstance(found, KeyFile):
        raise OldFormat(
            f"{path} is in the old format; run 'key_mgmt.py migrate' first (all keys stay valid)"
        )
    return found


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise WriteFailed(writing_problem(exc.errno, directory)) from exc


def _is_root() -> bool:
    return os.geteuid() == 0
