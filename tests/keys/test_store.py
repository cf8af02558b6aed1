import errno
import logging
import os
import random
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from keys import KeyStore, Principal, Refused, create_first_key
from keys.changes import add, put, remove, rotate
from keys.digest import PEPPER_BYTES
from keys.editing import editing, migrate, open_keys
from keys.errors import (
    ChangeRefused,
    LockTimeout,
    OldFormat,
    PepperMismatch,
    PepperMissing,
    RecordsInvalid,
    WriteFailed,
)
from keys.files import MAX_FILE_BYTES, distrust, locked, write_private, writing_problem
from keys.reading import read
from keys.records import KeyFile, KeyRecord
from keys.writing import write

Maker = Callable[..., tuple[str, KeyRecord]]
FileOf = Callable[..., KeyFile]
OLD_KEY = "sk-prod-0123456789abcdef"


def pepper_of(place: Path) -> Path:
    return place.with_suffix(".pepper")


def put_text(place: Path, text: str | bytes) -> None:
    """Replace the file in place, as an editor or a copy does."""
    place.write_bytes(text.encode() if isinstance(text, str) else text)
    place.chmod(0o600)


def store_of(place: Path) -> KeyStore:
    return KeyStore(place, pepper_of(place))


@pytest.fixture
def loaded(place: Path, make: Maker, file_of: FileOf) -> tuple[KeyStore, str]:
    """A store with one good key, 'alice', and that key."""
    key, record = make("alice")
    put_text(place, write(file_of(record)))
    store = store_of(place)
    assert store.reload()
    assert store.problem is None
    return store, key


def admits(store: KeyStore, key: str) -> bool:
    return isinstance(store.ring.identify(key, 0.0), Principal)


# -- the store follows the file


def test_without_a_file_everything_is_refused_with_a_hint(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = store_of(place)
    with caplog.at_level(logging.WARNING):
        assert not store.reload()
    assert store.ring.identify("sk-anything", 0.0) == Refused("unknown")
    assert store.problem is not None
    assert "key_mgmt.py generate" in caplog.text


def test_change_of_the_file_is_noticed_by_the_next_poll(
    loaded: tuple[KeyStore, str], make: Maker, file_of: FileOf
) -> None:
    store, old = loaded
    assert not store.poll()
    key, record = make("bob")
    write_private(store.path, write(file_of(record)).encode())
    assert store.poll()
    assert admits(store, key)
    assert not admits(store, old)
    assert store.ring.standing("alice", 0.0) == "removed"


def test_ring_that_was_handed_out_never_changes(
    loaded: tuple[KeyStore, str], file_of: FileOf
) -> None:
    store, key = loaded
    ring = store.ring
    write_private(store.path, write(file_of()).encode())
    assert store.poll()
    assert isinstance(ring.identify(key, 0.0), Principal)
    assert not admits(store, key)


def test_good_file_without_keys_revokes_all(loaded: tuple[KeyStore, str]) -> None:
    store, key = loaded
    put_text(store.path, "version: 2\nkeys: {}\n...\n")
    assert store.poll()
    assert store.problem is None
    assert len(store.ring) == 0
    assert not admits(store, key)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "version: 2\n",
        "version: 2\nkeys:\n  alice: {}\n...\n",
        "version: [",
        "garbage",
        b"\xff\xfe\x00",
        b"version: 2\nkeys: {}\n...\n\x00",
    ],
)
def test_broken_file_keeps_the_last_good_keys_and_says_why_once(
    loaded: tuple[KeyStore, str], text: str | bytes, caplog: pytest.LogCaptureFixture
) -> None:
    store, key = loaded
    put_text(store.path, text)
    with caplog.at_level(logging.ERROR):
        assert not store.poll()
        assert not store.poll()
        assert not store.reload()
    assert admits(store, key)
    assert store.problem is not None
    assert "line 1" in store.problem or "line" in store.problem
    assert store.failed_reloads == 2
    assert len(caplog.records) == 1


def test_store_recovers_when_the_file_does(loaded: tuple[KeyStore, str]) -> None:
    store, key = loaded
    good = store.path.read_text()
    put_text(store.path, good[:-10])
    store.poll()
    assert store.problem is not None
    put_text(store.path, good)
    store.poll()
    assert store.problem is None
    assert admits(store, key)


def test_vanished_file_keeps_the_last_good_keys(loaded: tuple[KeyStore, str]) -> None:
    store, key = loaded
    store.path.unlink()
    assert not store.poll()
    assert "no such file" in str(store.problem)
    assert admits(store, key)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o601])
def test_file_that_others_can_reach_is_refused_until_chmod(
    loaded: tuple[KeyStore, str], mode: int
) -> None:
    """A chmod changes neither size nor modification time, and must be noticed all the same."""
    store, key = loaded
    store.path.chmod(mode)
    store.poll()
    assert "chmod 600" in str(store.problem)
    assert admits(store, key)
    store.path.chmod(0o600)
    store.poll()
    assert store.problem is None


def test_swap_by_links_is_noticed(place: Path, make: Maker, file_of: FileOf) -> None:
    """Mounted secrets are links to a directory that is swapped as a whole."""
    first, one = make("alice")
    second, other = make("alice")
    for name, record in (("v1", one), ("v2", other)):
        (place.parent / name).mkdir()
        put_text(place.parent / name / "keys.yaml", write(file_of(record)))
    current = place.parent / "current"
    current.symlink_to("v1")
    place.symlink_to("current/keys.yaml")
    store = store_of(place)
    store.reload()
    assert admits(store, first)
    (place.parent / "next").symlink_to("v2")
    (place.parent / "next").rename(current)
    assert store.poll()
    assert admits(store, second)
    assert not admits(store, first)


def test_fifo_neither_blocks_nor_breaks(loaded: tuple[KeyStore, str]) -> None:
    store, key = loaded
    store.path.unlink()
    os.mkfifo(store.path, 0o600)
    assert not store.poll()
    assert "not a regular file" in str(store.problem)
    assert admits(store, key)


def test_directory_and_device_are_refused(loaded: tuple[KeyStore, str]) -> None:
    store, key = loaded
    store.path.unlink()
    store.path.mkdir(0o700)
    store.poll()
    assert "not a regular file" in str(store.problem)
    store.path.rmdir()
    store.path.symlink_to("/dev/zero")
    store.poll()
    assert "not a regular file" in str(store.problem)
    assert admits(store, key)


def test_socket_is_refused() -> None:
    with tempfile.TemporaryDirectory(prefix="lg-") as directory:
        path = Path(directory) / "keys.yaml"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            store = store_of(path)
            store.reload()
            assert "cannot be read" in str(store.problem)


def test_file_that_is_absurdly_large_is_not_read(loaded: tuple[KeyStore, str]) -> None:
    store, key = loaded
    os.truncate(store.path, MAX_FILE_BYTES + 1)
    store.poll()
    assert "larger than" in str(store.problem)
    assert admits(store, key)


@pytest.mark.parametrize(("owner", "trusted"), [(1000, True), (0, True), (1001, False)])
def test_file_must_belong_to_us_or_to_root(owner: int, trusted: bool) -> None:
    """Whoever can write the file can make keys."""
    found = os.stat_result((stat.S_IFREG | 0o600, 1, 1, 1, owner, owner, 10, 0, 0, 0))
    reason = distrust(found, 1000, any_owner=False, limit=100)
    assert (reason is None) is trusted
    assert trusted or "chown" in str(reason)
    assert distrust(found, 1000, any_owner=True, limit=100) is None


def test_ten_thousand_keys_are_followed(place: Path, make: Maker, file_of: FileOf) -> None:
    pairs = [make(f"key-{n}") for n in range(10_000)]
    write_private(place, write(file_of(*(record for _, record in pairs))).encode())
    store = store_of(place)
    assert store.reload()
    assert len(store.ring) == 10_000
    assert all(admits(store, key) for key, _ in pairs[::1000])


def test_store_may_be_reloaded_from_many_threads(loaded: tuple[KeyStore, str]) -> None:
    store, key = loaded
    threads = [threading.Thread(target=store.reload) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.problem is None
    assert admits(store, key)


# -- the pepper


def test_lost_pepper_refuses_all_and_says_so(loaded: tuple[KeyStore, str]) -> None:
    old, key = loaded
    old.pepper_path.unlink()
    fresh = KeyStore(old.path, old.pepper_path)
    fresh.reload()
    assert not admits(fresh, key)
    assert "the pepper is missing" in str(fresh.problem)


def test_wrong_pepper_refuses_all_and_says_so(loaded: tuple[KeyStore, str]) -> None:
    old, key = loaded
    old.pepper_path.write_text("ab" * 32 + "\n")
    fresh = KeyStore(old.path, old.pepper_path)
    fresh.reload()
    assert not admits(fresh, key)
    assert "not the pepper" in str(fresh.problem)


@pytest.mark.parametrize("text", ["", "ab", "zz" * 32, "ab" * 33, "\N{EURO SIGN}"])
def test_file_that_is_no_pepper_is_named_as_such(loaded: tuple[KeyStore, str], text: str) -> None:
    old, key = loaded
    old.pepper_path.write_text(text)
    fresh = KeyStore(old.path, old.pepper_path)
    fresh.reload()
    assert "64 hexadecimal digits" in str(fresh.problem)
    assert not admits(fresh, key)


def test_pepper_that_others_can_read_is_refused(loaded: tuple[KeyStore, str]) -> None:
    old, key = loaded
    old.pepper_path.chmod(0o644)
    fresh = KeyStore(old.path, old.pepper_path)
    fresh.reload()
    assert "chmod 600" in str(fresh.problem)
    assert not admits(fresh, key)


def test_keys_can_be_revoked_while_the_pepper_is_lost(
    place: Path, make: Maker, file_of: FileOf
) -> None:
    """The running service remembers its pepper: a revocation must bite whatever else is broken."""
    (alice, one), (bob, other) = make("alice"), make("bob")
    put_text(place, write(file_of(one, other)))
    store = store_of(place)
    store.reload()
    pepper_of(place).unlink()
    with editing(place, pepper_of(place)) as draft:
        draft.save(remove(draft.file, "alice"))
    assert store.poll()
    assert not admits(store, alice)
    assert admits(store, bob)
    assert "until the service is restarted" in str(store.problem)


# -- the old format


def test_old_format_still_loads_without_any_pepper(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "api_keys.txt"
    put_text(place, f"production:{OLD_KEY}:60\n")
    store = store_of(place)
    with caplog.at_level(logging.WARNING):
        assert store.reload()
    assert admits(store, OLD_KEY)
    assert "migrate" in caplog.text
    assert OLD_KEY not in caplog.text
    assert not store.reload()


def test_migration_keeps_every_key_valid_while_the_service_runs(tmp_path: Path) -> None:
    place = tmp_path / "keys.yaml"
    put_text(place, f"production:{OLD_KEY}:60\n")
    store = store_of(place)
    store.reload()
    assert migrate(place, place, pepper_of(place)) == ["production"]
    assert store.poll()
    assert store.problem is None
    assert admits(store, OLD_KEY)
    assert OLD_KEY not in place.read_text()
    with pytest.raises(ChangeRefused, match="already"):
        migrate(place, place, pepper_of(place))


def test_migration_from_another_file_adds_to_what_is_there(
    loaded: tuple[KeyStore, str], tmp_path: Path
) -> None:
    store, key = loaded
    old = tmp_path / "api_keys.txt"
    put_text(old, f"production:{OLD_KEY}\n")
    migrate(old, store.path, store.pepper_path)
    assert store.poll()
    assert admits(store, key)
    assert admits(store, OLD_KEY)
    assert old.exists()
    put_text(old, "alice:sk-alice-0123456789\n")
    with pytest.raises(ChangeRefused, match="already"):
        migrate(old, store.path, store.pepper_path)


def test_old_format_is_never_changed_in_place(tmp_path: Path) -> None:
    place = tmp_path / "keys.yaml"
    put_text(place, f"production:{OLD_KEY}\n")
    with pytest.raises(OldFormat, match="migrate"), editing(place, pepper_of(place)):
        raise AssertionError("the file must not be opened for a change")
    assert list(open_keys(place).records) == ["production"]


# -- the first key


def test_first_key_is_made_once_and_works(tmp_path: Path) -> None:
    place = tmp_path / "new" / "data" / "keys.yaml"
    key = create_first_key(place, pepper_of(place), "made at the first start")
    assert key is not None
    assert create_first_key(place, pepper_of(place), "again") is None
    store = store_of(place)
    store.reload()
    assert admits(store, key)
    for path in (place, pepper_of(place)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_no_first_key_is_made_next_to_keys_of_the_old_format(tmp_path: Path) -> None:
    place = tmp_path / "keys.yaml"
    put_text(place, f"production:{OLD_KEY}\n")
    assert create_first_key(place, pepper_of(place), "note") is None


def test_first_key_never_replaces_a_broken_file(tmp_path: Path) -> None:
    place = tmp_path / "keys.yaml"
    put_text(place, "version: 2\nkeys:\n")
    with pytest.raises(RecordsInvalid):
        create_first_key(place, pepper_of(place), "note")
    assert place.read_text() == "version: 2\nkeys:\n"


# -- writing


def test_new_pepper_is_never_made_under_existing_keys(loaded: tuple[KeyStore, str]) -> None:
    store, _ = loaded
    store.pepper_path.unlink()
    with editing(store.path, store.pepper_path) as draft, pytest.raises(PepperMissing):
        draft.make_secret("bob")
    assert not store.pepper_path.exists()
    store.pepper_path.write_text("cd" * PEPPER_BYTES)
    store.pepper_path.chmod(0o600)
    with editing(store.path, store.pepper_path) as draft, pytest.raises(PepperMismatch):
        draft.make_secret("bob")


def test_rotation_with_overlap_keeps_the_old_secret_for_a_while(
    loaded: tuple[KeyStore, str],
) -> None:
    store, old = loaded
    with editing(store.path, store.pepper_path) as draft:
        new, secret = draft.make_secret("alice")
        draft.save(put(draft.file, rotate(draft.file.records["alice"], secret, 1000, 60)))
    assert store.poll()
    assert isinstance(store.ring.identify(old, 1059.0), Principal)
    assert store.ring.identify(old, 1060.0) == Refused("wrong_secret")
    assert isinstance(store.ring.identify(new, 5000.0), Principal)


def test_rotation_without_overlap_ends_every_earlier_secret(
    loaded: tuple[KeyStore, str],
) -> None:
    store, first = loaded
    keys = [first]
    for overlap_s in (3600, 0):
        with editing(store.path, store.pepper_path) as draft:
            key, secret = draft.make_secret("alice")
            keys.append(key)
            record = rotate(draft.file.records["alice"], secret, 1000, overlap_s)
            draft.save(put(draft.file, record))
    store.poll()
    verdicts = [isinstance(store.ring.identify(key, 1001.0), Principal) for key in keys]
    assert verdicts == [False, False, True]


def test_write_goes_through_a_link_and_leaves_it(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "keys.yaml"
    link.symlink_to("real/keys.yaml")
    write_private(link, b"x")
    assert link.is_symlink()
    assert (tmp_path / "real" / "keys.yaml").read_bytes() == b"x"


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    place = tmp_path / "keys.yaml"
    stale = tmp_path / ".keys.yaml.tmp-0123456789abcdef"
    other = tmp_path / ".other.yaml.tmp-0123456789abcdef"
    stale.write_bytes(b"half")
    other.write_bytes(b"not ours")
    write_private(place, b"whole")
    assert sorted(found.name for found in tmp_path.iterdir()) == [other.name, place.name]


def test_write_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_private(tmp_path / "keys.yaml", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "keys.yaml").stat().st_mode) == 0o600


def test_second_writer_waits_for_the_first_and_then_gives_up(tmp_path: Path) -> None:
    place = tmp_path / "keys.yaml"
    with (
        locked(place),
        pytest.raises(LockTimeout, match="another program"),
        locked(place, timeout_s=0.0),
    ):
        raise AssertionError("two writers at once")
    with locked(place, timeout_s=0.0):
        pass


def test_missing_directory_is_said_and_not_made_for_a_change(tmp_path: Path) -> None:
    place = tmp_path / "none" / "keys.yaml"
    with pytest.raises(WriteFailed, match="does not exist"), editing(place, pepper_of(place)):
        raise AssertionError("there is nothing to change")
    assert not place.parent.exists()


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EBUSY, "Mount the directory"),
        (errno.EROFS, "read-only"),
        (errno.ENOSPC, "no space left"),
        (errno.EDQUOT, "no space left"),
        (errno.EACCES, "may not write"),
        (errno.EIO, "cannot be written"),
    ],
)
def test_failed_write_says_what_to_do(number: int, said: str) -> None:
    text = writing_problem(number, Path("/data/keys.yaml"))
    assert said in text
    assert "othing was changed" in text


def test_write_that_hits_a_limit_leaves_the_old_file_and_no_rest(
    loaded: tuple[KeyStore, str],
) -> None:
    """A file size limit stands for a full disk: the write fails in the middle."""
    store, _ = loaded
    before = store.path.read_bytes()
    program = (
        "import resource, sys; from pathlib import Path; from keys.files import write_private\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "write_private(Path(sys.argv[1]), bytes(5000))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(store.path)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "WriteFailed" in done.stderr
    assert store.path.read_bytes() == before
    assert sorted(found.name for found in store.path.parent.iterdir()) == [
        "keys.pepper",
        "keys.yaml",
    ]


WRITER = """
import sys
from pathlib import Path
from keys.files import locked, write_private

place = Path(sys.argv[1])
texts = [Path(name).read_bytes() for name in sys.argv[2:]]
print("ready", flush=True)
while True:
    for text in texts:
        with locked(place):
            write_private(place, text)
"""


def test_writer_killed_at_any_instant_leaves_the_old_or_the_new_file(
    place: Path, make: Maker, file_of: FileOf
) -> None:
    texts = []
    for name, count in (("one", 300), ("two", 500)):
        text = write(file_of(*(make(f"{name}-{n}")[1] for n in range(count)))).encode()
        (place.parent / name).write_bytes(text)
        texts.append(text)
    write_private(place, texts[0])
    store = store_of(place)
    sources = [str(place.parent / name) for name in ("one", "two")]
    instants = random.Random(7)
    for _ in range(15):
        child = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(place), *sources],
            stdout=subprocess.PIPE,
        )
        with child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
            for _ in range(instants.randrange(200)):
                assert place.read_bytes() in texts
            child.send_signal(signal.SIGKILL)
        store.reload()
        assert store.problem is None
        assert len(store.ring) in (300, 500)
        assert place.read_bytes() in texts
    with locked(place, timeout_s=0.0):
        write_private(place, texts[1])
    assert not [found for found in place.parent.iterdir() if ".tmp-" in found.name]


def test_no_change_of_concurrent_writers_is_lost(place: Path, make: Maker) -> None:
    def writer(name: str) -> None:
        for number in range(5):
            with editing(place, pepper_of(place), create=True) as draft:
                key_id = f"{name}-{number}"
                _, secret = draft.make_secret(key_id)
                draft.save(add(draft.file, KeyRecord(key_id, secret)))

    threads = [threading.Thread(target=writer, args=(f"w{n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read(place.read_text()).records) == 30
