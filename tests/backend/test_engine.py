"""Which llama-server runs, shown with small programs that answer --version."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from backend.errors import EngineMissing
from backend.supply.build_plan import plan_build
from backend.supply.engine import FindSettings, cache_root, find, find_or_build
from backend.supply.pinned import ENGINE_SOURCE
from backend.supply.toolchain import look_at_host


def engine(folder: Path, says: str, code: int = 0, name: str = "llama-server") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n[ \"$1\" = --version ] && echo '{says}' >&2\nexit {code}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def folder_on_path(tmp_path: Path) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    return folder


def cached(cache: Path, says: str) -> Path:
    key = plan_build(look_at_host(), "off", ENGINE_SOURCE.version).key
    return engine(cache / "engines" / key, says)


def looking(cache: Path, folder_on_path: Path, named: Path | None = None) -> FindSettings:
    return FindSettings(named, cache, "off", str(folder_on_path))


def test_named_engine_wins_over_path_and_cache(tmp_path, cache, folder_on_path):
    named = engine(tmp_path, "version: 1 (abc)", name="my-server")
    engine(folder_on_path, "version: 2")
    cached(cache, "version: 3")
    found = find(looking(cache, folder_on_path, named))
    assert found is not None
    assert (found.path, found.version, found.source) == (named, "1 (abc)", "setting")


def test_path_wins_over_cache(cache, folder_on_path):
    on_path = engine(folder_on_path, "version: 2")
    cached(cache, "version: 3")
    found = find(looking(cache, folder_on_path))
    assert found is not None
    assert (found.path, found.version, found.source) == (on_path, "2", "PATH")


def test_earlier_build_is_found_in_the_cache(cache, folder_on_path):
    path = cached(cache, "version: 3")
    found = find(looking(cache, folder_on_path))
    assert found is not None
    assert (found.path, found.version, found.source) == (path, "3", "cache")
    assert find_or_build(looking(cache, folder_on_path)) == found


def test_nothing_found_is_none(cache, folder_on_path):
    assert find(looking(cache, folder_on_path)) is None


def test_named_engine_that_is_not_there_is_no_reason_to_take_another(cache, folder_on_path):
    engine(folder_on_path, "version: 2")
    with pytest.raises(EngineMissing, match="nowhere"):
        find(looking(cache, folder_on_path, Path("/nowhere/llama-server")))


def test_named_engine_that_does_not_start_is_refused_with_its_last_words(
    tmp_path, cache, folder_on_path
):
    broken = engine(tmp_path, "libcuda.so.1: cannot open", code=127, name="broken")
    with pytest.raises(EngineMissing, match="libcuda"):
        find(looking(cache, folder_on_path, broken))


def test_broken_engine_on_path_is_passed_over_with_a_warning(cache, folder_on_path, caplog):
    engine(folder_on_path, "oops", code=1)
    path = cached(cache, "version: 3")
    with caplog.at_level(logging.WARNING):
        found = find(looking(cache, folder_on_path))
    assert found is not None
    assert found.path == path
    assert "oops" in caplog.text


def test_program_that_says_no_version_line_is_still_an_engine(tmp_path, cache, folder_on_path):
    named = engine(tmp_path, "b1234", name="other")
    found = find(looking(cache, folder_on_path, named))
    assert found is not None
    assert found.version == "b1234"


def test_cache_folder_can_be_chosen(tmp_path):
    assert cache_root(tmp_path) == tmp_path
    assert cache_root().name == "llama-gateway"
