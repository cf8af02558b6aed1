"""Reading a model ahead: it warms the page cache, stops when told, and never does harm."""

import os
import threading
from pathlib import Path

import pytest

from backend.supply.model import ModelSettings, model_files
from backend.supply.readahead import ReadAhead, free_memory_bytes

SIZE = 24 << 20
PLENTY = 1 << 40


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A file that is on the disk and, where the system heeds advice, not in memory."""
    path = tmp_path / "model.gguf"
    with path.open("wb") as file:
        file.write(os.urandom(SIZE))
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return path


def reader(free_bytes: int | None = PLENTY) -> ReadAhead:
    return ReadAhead(free_bytes=lambda: free_bytes)


def test_whole_model_is_read_and_then_there_is_nothing_left_to_do(model: Path) -> None:
    first = reader()
    first.start([model])
    first.wait(30)
    assert first.report.outcome in ("whole", "cached")  # a disk of memory is always cached
    assert first.report.read_bytes in (SIZE, 0)
    again = reader()
    again.start([model])
    again.wait(30)
    assert (again.report.outcome, again.report.read_bytes) == ("cached", 0)


def test_it_stops_when_told(model: Path) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def free_bytes() -> int:
        asked.set()
        assert go_on.wait(30)
        return PLENTY

    ahead = ReadAhead(free_bytes=free_bytes)
    ahead.start([model])
    assert asked.wait(30)
    ahead.stop()
    go_on.set()
    ahead.wait(30)
    assert (ahead.report.outcome, ahead.report.read_bytes) == ("stopped", 0)


def test_nothing_is_begun_once_it_was_stopped(model: Path) -> None:
    ahead = reader()
    ahead.stop()
    ahead.start([model])
    assert ahead.report.outcome == "none"


@pytest.mark.parametrize("free_bytes", [SIZE - 1, None])
def test_model_that_does_not_fit_into_free_memory_is_left_alone(
    model: Path, free_bytes: int | None
) -> None:
    ahead = reader(free_bytes)
    ahead.start([model])
    ahead.wait(30)
    assert (ahead.report.outcome, ahead.report.read_bytes) == ("too_large", 0)


def test_file_that_is_not_there_is_no_error(tmp_path: Path) -> None:
    ahead = reader()
    ahead.start([tmp_path / "gone.gguf"])
    ahead.wait(30)
    assert ahead.report.outcome == "failed"


def test_free_memory_is_known_here() -> None:
    assert (free_memory_bytes() or 0) > 0


def test_files_of_a_model_are_known_before_anything_is_checked(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"big-{number:05d}-of-00003.gguf").write_bytes(b"x")
    single = tmp_path / "one.gguf"
    single.write_bytes(b"x")
    assert model_files(ModelSettings(tmp_path, model_path=single)) == (single,)
    assert model_files(ModelSettings(tmp_path, model_name="one")) == (single,)
    assert [file.name for file in model_files(ModelSettings(tmp_path, model_name="big"))] == [
        "big-00001-of-00003.gguf",
        "big-00002-of-00003.gguf",
    ]
    assert model_files(ModelSettings(tmp_path, model_url="http://host/not-yet.gguf")) == ()
    assert model_files(ModelSettings(tmp_path, model_hf="owner/repo")) == ()
