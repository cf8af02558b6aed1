"""The service under load: shorter runs of the programs in tests/load.

Nothing is compared with a number of seconds, only with what the same run has measured.
"""

from __future__ import annotations

import pytest

from tests.load.bench import SLOTS
from tests.load.fairness import guest_among_many, weighted_shares
from tests.load.overload import overload
from tests.load.storm import (
    GENERATIONS,
    storm_on_concurrency,
    storm_on_the_limit,
    storm_on_the_queue,
)


def test_single_requests_hardly_wait_behind_another_keys_hundred_streams() -> None:
    found = guest_among_many(service_s=0.2, asks=12)
    assert found.median_wait < 1.5, found.told()
    assert found.median_wait < found.crowd_s / found.service_s / 10, found.told()
    assert found.max_active == SLOTS, found.told()


def test_keys_share_the_slots_by_their_weights() -> None:
    found = weighted_shares(service_s=0.05, answers=400)
    assert found.ratio == pytest.approx(3, rel=0.1), found.told()
    assert found.max_active == SLOTS, found.told()


def test_ten_times_the_load_is_refused_at_once_and_slows_nobody_down() -> None:
    found = overload(service_s=0.1, seconds=8)
    assert found.offered > 9 * found.capacity, found.told()
    # The program measures for longer, and finds 95 % and more.
    assert found.goodput > 0.9 * found.capacity, found.told()
    assert set(found.kinds) <= {"answered", "refused with 503", "refused with 429"}, found.told()
    assert found.p99_of_refusals_s < found.service_s / 2, found.told()
    assert found.growth < 1.1, found.told()
    assert found.max_active == SLOTS, found.told()
    assert found.waiting_inside == 0, found.told()


@pytest.mark.parametrize("generation", GENERATIONS)
def test_refused_sdk_clients_come_back_in_turn_and_all_get_answers(generation: str) -> None:
    found = storm_on_the_queue(generation)
    assert found.outcomes == {"answered": 40}, found.told()
    assert found.refusals >= 40 - SLOTS - 8, found.told()
    assert found.max_active == SLOTS, found.told()


@pytest.mark.parametrize("generation", GENERATIONS)
def test_sdk_clients_over_their_rate_limit_come_back_in_turn_and_all_get_answers(
    generation: str,
) -> None:
    found = storm_on_the_limit(generation)
    assert found.outcomes == {"answered": 12}, found.told()
    assert found.refusals > 0, found.told()


@pytest.mark.parametrize("generation", GENERATIONS)
def test_sdk_clients_over_their_concurrency_come_back_in_turn_and_all_get_answers(
    generation: str,
) -> None:
    found = storm_on_concurrency(generation)
    assert found.refusals > 0, found.told()
    assert found.outcomes == {"answered": 16}, found.told()
