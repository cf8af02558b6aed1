import logging
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.limits.journal import MAX_JOURNAL_BYTES, Journal
from gateway.limits.ledger import Ledger, Reservation
from keys import Limits, Principal

ROOT = Path(__file__).parents[2]
STATE = {"wall": 1.5, "date": 0, "keys": {"alice": [2.0, 30]}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "limits.json"


def names(path: Path) -> list[str]:
    return sorted(found.name for found in path.parent.iterdir())


def test_what_was_saved_last_is_loaded(path: Path) -> None:
    journal = Journal(path)
    assert journal.load() is None
    assert journal.save({"keys": {}})
    assert journal.save(STATE)
    assert Journal(path).load() == STATE
    assert names(path) == ["limits.json"]


def test_file_is_private(path: Path) -> None:
    before = os.umask(0)
    try:
        Journal(path).save(STATE)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o7777 == 0o600


def test_absent_file_is_no_news(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert Journal(path).load() is None
    assert caplog.records == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\x00",
        b"[]",
        b"{}",
        b'{"version":2,"state":{}}',
        b'{"version":1,"state":[]}',
        b'{"version":1}',
        b"[" * 100_000,
        b'{"version":1,"state":{"x":"' + b"y" * MAX_JOURNAL_BYTES + b'"}}',
    ],
)
def test_file_that_makes_no_sense_is_kept_aside(
    path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_bytes(content)
    journal = Journal(path)
    assert journal.load() is None
    assert len(caplog.records) == 1
    assert path.with_name("limits.json.bad").read_bytes() == content
    assert journal.load() is None
    assert journal.save(STATE)
    assert journal.load() == STATE


def test_file_with_impossible_counters_can_be_kept_aside_too(path: Path) -> None:
    journal = Journal(path)
    journal.save({"wall": -1})
    ledger = Ledger(Limits())
    with pytest.raises(ValueError, match="counters") as found:
        ledger.restore(journal.load(), 0.0, 0.0)
    journal.set_aside(str(found.value))
    assert names(path) == ["limits.json.bad"]


@pytest.mark.timeout(20)
def test_what_is_no_file_neither_blocks_nor_crashes(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    os.mkfifo(path)
    assert Journal(path).load() is None
    path.unlink()
    path.mkdir()
    assert Journal(path).load() is None
    assert not Journal(path).save(STATE)
    assert names(path) == ["limits.json"]
    assert len(caplog.records) == 3


def test_link_stays_and_what_it_points_to_is_the_file(path: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    path.symlink_to(elsewhere / "kept.json")
    journal = Journal(path)
    assert journal.load() is None
    assert journal.save(STATE)
    assert journal.load() == STATE
    assert path.is_symlink()
    assert [found.name for found in elsewhere.iterdir()] == ["kept.json"]
    assert names(path) == ["elsewhere", "limits.json"]


def test_link_to_what_makes_no_sense_stays_too(path: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    kept.write_bytes(b"{")
    path.symlink_to(kept)
    journal = Journal(path)
    assert journal.load() is None
    assert names(path) == ["kept.json.bad", "limits.json"]
    assert journal.save(STATE)
    assert journal.load() == STATE
    assert path.is_symlink()


def test_link_to_itself_is_replaced(path: Path) -> None:
    path.symlink_to(path.name)
    assert Journal(path).load() is None
    assert Journal(path).save(STATE)
    assert Journal(path).load() == STATE


def test_leftovers_of_a_killed_writer_are_removed(path: Path) -> None:
    path.with_name(".limits.json.tmp-0123").write_bytes(b"half")
    path.with_name(".other.tmp-0123").write_bytes(b"not ours")
    Journal(path).save(STATE)
    assert names(path) == [".other.tmp-0123", "limits.json"]


def test_failing_disk_is_told_once_and_once_more_when_it_works(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    journal = Journal(tmp_path / "missing" / "limits.json")
    for _ in range(5):
        assert not journal.save(STATE)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    journal.path.parent.mkdir()
    assert journal.save(STATE)
    assert journal.save(STATE)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_state_too_large_to_be_read_again_is_not_written(path: Path) -> None:
    journal = Journal(path)
    journal.save(STATE)
    assert not journal.save({"x": "y" * MAX_JOURNAL_BYTES})
    assert journal.load() == STATE


def test_as_many_keys_as_a_ledger_tells_fit(path: Path) -> None:
    keys = {f"{number:064}": [86_399.123456, 10**12 + number] for number in range(10_000)}
    state = {"wall": 1.7e9, "date": 20_000, "keys": keys}
    journal = Journal(path)
    assert journal.save(state)
    assert journal.load() == state


def test_full_disk_leaves_the_old_file_and_no_litter(path: Path) -> None:
    """A file size limit stands in for a full disk: the write fails part of the way."""
    Journal(path).save(STATE)
    code = (
        "import sys; from pathlib import Path; from gateway.limits.journal import Journal\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "sys.exit(journal.save({'x': 'y' * 100_000}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        cwd=ROOT,
        timeout=60,
        capture_output=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
    )
    assert done.returncode == 0, done.stderr
    assert Journal(path).load() == STATE
    assert names(path) == ["limits.json"]


def test_killed_at_any_instant_a_complete_file_is_found(path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from gateway.limits.journal import Journal\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "for number in range(10**9):\n"
        "    journal.save({'number': number, 'filler': str(number) * 20_000})\n"
        "    number or print('saved', flush=True)\n"
    )
    for _ in range(5):
        child = subprocess.Popen(
            [sys.executable, "-c", code, str(path)], cwd=ROOT, stdout=subprocess.PIPE
        )
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"saved\n"
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait(30)
            if child.stdout is not None:
                child.stdout.close()
        found = Journal(path).load()
        assert found is not None
        assert found["filler"] == str(found["number"]) * 20_000
    Journal(path).save(STATE)
    assert names(path) == ["limits.json"]


def test_counters_come_back_through_the_file(path: Path) -> None:
    limits = Limits(tokens_per_day=100)
    who = Principal("alice", frozenset(), limits, "normal", 1.0, None, None)
    ledger = Ledger(Limits())
    held = ledger.reserve(who, requests=1, tokens=40, now=5.0, wall=1e9)
    assert isinstance(held, Reservation)
    with held:
        held.started()
        held.settle(40)
    Journal(path).save(ledger.snapshot(5.0, 1e9).as_json())
    after = Ledger(Limits())
    after.restore(Journal(path).load(), 0.0, 1e9 + 1)
    assert after.standing(who, 0.0, 1e9 + 1).tokens_today == 40
