"""How many threads the engine gets."""

from __future__ import annotations

import pytest

from backend.cores import choose_threads, engine_threads, parse_quota, usable_cores


@pytest.mark.parametrize(
    ("cores", "two_per_core", "threads"),
    [(1, False, 1), (2, False, 1), (2, True, 1), (8, False, 7), (8, True, 3), (64, True, 31)],
)
def test_engine_gets_real_cores_and_leaves_one(cores, two_per_core, threads):
    assert choose_threads(cores, two_per_core=two_per_core) == threads


@pytest.mark.parametrize(
    ("words", "cores"),
    [
        ("200000 100000\n", 2.0),
        ("50000 100000", 0.5),
        ("max 100000", None),
        ("-1 100000", None),
        ("0 100000", None),
        ("100000 0", None),
        ("", None),
        (" ", None),
        ("1 2 3", None),
    ],
)
def test_share_of_a_container_is_read(words, cores):
    assert parse_quota(words) == cores


def test_this_machine_has_at_least_one():
    assert 1 <= engine_threads() <= usable_cores()
