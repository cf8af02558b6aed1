from collections.abc import Callable
from pathlib import Path

import pytest

from keys.digest import PEPPER_BYTES, SECRET_BYTES, Digester, make_key
from keys.records import KeyFile, KeyRecord, Secret

Maker = Callable[..., tuple[str, KeyRecord]]


@pytest.fixture
def digester() -> Digester:
    return Digester(bytes(range(PEPPER_BYTES)))


@pytest.fixture
def make(digester: Digester) -> Maker:
    """Makes a key and its record; each call has its own secret."""
    count = 0

    def maker(key_id: str, **fields: object) -> tuple[str, KeyRecord]:
        nonlocal count
        count += 1
        key = make_key(key_id, count.to_bytes(SECRET_BYTES, "big"))
        return key, KeyRecord(key_id, Secret(digester.digest(key.encode())), **fields)

    return maker


@pytest.fixture
def place(tmp_path: Path, digester: Digester) -> Path:
    """The path of a keys file that is not there yet, with its pepper beside it."""
    pepper = tmp_path / "keys.pepper"
    pepper.write_text(bytes(range(PEPPER_BYTES)).hex() + "\n")
    pepper.chmod(0o600)
    return tmp_path / "keys.yaml"


@pytest.fixture
def file_of(digester: Digester) -> Callable[..., KeyFile]:
    def build(*records: KeyRecord) -> KeyFile:
        return KeyFile(digester.pepper_id, {record.key_id: record for record in records})

    return build
