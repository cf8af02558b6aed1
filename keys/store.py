"""Keeps a ring of keys in step with the file on disk.

`KeyStore` is the only owner of the ring. Rules:

- a reload builds the new ring aside and swaps one reference, so `ring` may be read from any
  thread at any time; `reload` and `poll` may be called from any thread too, and take as long as
  the file is large, so not from an event loop;
- a file that is broken, unreadable or gone changes nothing: the last good ring stays, `problem`
  says why. Before the first good load the ring is empty and refuses everything;
- a good file without keys revokes all of them;
- the pepper that worked is remembered: if its file is lost while the service runs, keys can still
  be revoked; after a restart everything is refused, because no digest can be checked.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from keys.digest import PEPPER_BYTES, Digester
from keys.errors import (
    FileRefused,
    KeysError,
    PepperMismatch,
    PepperMissing,
    RecordProblem,
    RecordsInvalid,
)
from keys.files import Look, look, read_private
from keys.keyring import Keyring
from keys.legacy import LegacyKey, looks_legacy, parse_legacy, to_record
from keys.reading import read
from keys.records import KeyFile, KeyRecord

__all__ = ["KeyStore", "check_pepper", "read_keys", "read_pepper"]

_logger = logging.getLogger(__name__)
_PEPPER_FILE_BYTES = 4096


class KeyStore:
    """The keys file, its pepper, and the ring made of both.

    Args:
        path: The keys file, in either format.
        pepper_path: The pepper; not needed for a file in the old format.
    """

    def __init__(self, path: Path, pepper_path: Path) -> None:
        self.path = path
        self.pepper_path = pepper_path
        self.ring = Keyring()
        self.problem: str | None = "the keys file has not been read yet"
        self.failed_reloads = 0
        """Reloads that did not end with the ring in step; only ever grows."""
        self._records: Mapping[str, KeyRecord] | None = None
        self._digester: Digester | None = None
        self._seen: tuple[Look, Look] | None = None
        self._turn = threading.Lock()

    def __repr__(self) -> str:
        state = "in step" if self.problem is None else "stale"
        return f"<KeyStore {self.path} {len(self.ring)} keys, {state}>"

    def poll(self) -> bool:
        """Reload if either file looks different than at the last reading.

        Returns:
            Whether the ring changed. Two ``stat`` calls if nothing did.
        """
        if self._look() == self._seen:
            return False
        return self.reload()

    def reload(self) -> bool:
        """Read the files now.

        Returns:
            Whether the ring changed. A bad file is not an error here: it sets `problem`.
        """
        with self._turn:
            # Looked at before reading: what changes meanwhile looks different at the next poll.
            self._seen = self._look()
            try:
                loaded = _load(self.path, self.pepper_path, self._digester)
            except (KeysError, OSError) as exc:
                self._failed(exc)
                return False
            return self._succeeded(loaded)

    def _look(self) -> tuple[Look, Look]:
        return look(self.path), look(self.pepper_path)

    def _failed(self, exc: Exception) -> None:
        self.failed_reloads += 1
        problem = str(exc)
        if problem == self.problem:
            return
        self.problem = problem
        missing = isinstance(exc, FileRefused) and exc.missing
        if missing and self._records is None:
            _logger.warning(
                "there is no keys file at %s: every request is refused; "
                "make a key with 'scripts/key_mgmt.py generate NAME'",
                self.path,
            )
            return
        kept = f"the last good {len(self.ring)} keys stay in use"
        consequence = "every request is refused" if self._records is None else kept
        _logger.error("keys file not used, %s: %s", consequence, problem)

    def _succeeded(self, loaded: _Loaded) -> bool:
        changed = loaded.records != self._records or loaded.digester is not self._digester
        if changed:
            self.ring = Keyring(loaded.records.values(), loaded.digester)
            self._records, self._digester = loaded.records, loaded.digester
            _logger.info("%d keys loaded from %s", len(self.ring), self.path)
            if loaded.in_clear:
                _logger.warning(
                    "%s is in the old format and holds keys in clear: "
                    "run 'scripts/key_mgmt.py migrate'",
                    self.path,
                )
        if loaded.warning is not None:
            self.failed_reloads += 1
            if loaded.warning != self.problem:
                _logger.error("%s", loaded.warning)
        self.problem = loaded.warning
        return changed


@dataclass(frozen=True, slots=True)
class _Loaded:
    records: Mapping[str, KeyRecord] = field(repr=False)
    digester: Digester | None
    warning: str | None = None
    in_clear: bool = False


def _load(path: Path, pepper_path: Path, remembered: Digester | None) -> _Loaded:
    found = read_keys(path)
    if isinstance(found, KeyFile):
        if not found.records:
            return _Loaded({}, remembered)
        digester, warning = _pepper_of(found, pepper_path, remembered)
        return _Loaded(found.records, digester, warning)
    # Digests of keys in clear never leave this process, so any pepper will do.
    digester = remembered or Digester(os.urandom(PEPPER_BYTES))
    records = {key.key_id: to_record(key, digester) for key in found}
    return _Loaded(records, digester, in_clear=True)


def _pepper_of(
    file: KeyFile, pepper_path: Path, remembered: Digester | None
) -> tuple[Digester, str | None]:
    """The digester for *file*, and a warning if its pepper is only in memory any more."""
    try:
        digester = read_pepper(pepper_path)
        check_pepper(file, digester, pepper_path)
    except KeysError as exc:
        if remembered is None or remembered.pepper_id != file.pepper_id:
            raise
        return remembered, f"{exc}; the keys work until the service is restarted"
    if remembered is not None and remembered.pepper_id == digester.pepper_id:
        return remembered, None
    return digester, None


def read_keys(path: Path, *, any_owner: bool = False) -> KeyFile | list[LegacyKey]:
    """Read a keys file in either format.

    Raises:
        FileRefused: It is missing or not trusted.
        RecordsInvalid: Its text is not good.
    """
    data = read_private(path, any_owner=any_owner)
    try:
        text = _decode(data)
        return parse_legacy(text) if looks_legacy(text) else read(text)
    except RecordsInvalid as exc:
        raise RecordsInvalid(exc.problems, path) from None


def _decode(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise RecordsInvalid([RecordProblem(line, "this is not UTF-8 text")]) from None


def read_pepper(path: Path, *, any_owner: bool = False) -> Digester:
    """Read the pepper.

    Raises:
        PepperMissing: There is no such file.
        FileRefused: It is not private, or not a pepper.
    """
    try:
        data = read_private(path, any_owner=any_owner, limit=_PEPPER_FILE_BYTES)
    except FileRefused as exc:
        if exc.missing:
            raise PepperMissing(
                f"{path}: the pepper is missing, and without it no key can be checked: "
                "restore this file from a backup, or give every key a new secret with "
                "'scripts/key_mgmt.py rotate --all --new-pepper'"
            ) from exc
        raise
    try:
        return Digester(bytes.fromhex(data.decode("ascii").strip()))
    except ValueError:
        reason = "this is not a pepper: one line of 64 hexadecimal digits"
        raise FileRefused(path, reason) from None


def check_pepper(file: KeyFile, digester: Digester, path: Path) -> None:
    """Make sure that the digests of *file* were made with this pepper.

    Raises:
        PepperMismatch: They were not; no key would ever be found right.
    """
    if file.pepper_id != digester.pepper_id:
        raise PepperMismatch(
            f"{path}: this is not the pepper the keys were made with: restore the right one "
            "from a backup, or give every key a new secret with "
            "'scripts/key_mgmt.py rotate --all --new-pepper'"
        )
