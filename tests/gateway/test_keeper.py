"""The keeper on a clock turned by hand, with a disk that does as it is told."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.clocks import Clocks
from gateway.limits.journal import Journal
from gateway.limits.keeper import LedgerKeeper
from gateway.limits.ledger import Ledger, Reservation
from keys import Limits, Principal

LIMITS = Limits(requests_per_minute=60, tokens_per_minute=600, tokens_per_day=10_000)
NOON = 20_000 * 86_400.0 + 43_200


class Disk(Journal):
    """Remembers what it was given and by which thread; waits and fails when told to."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.given: list[dict[str, Any]] = []
        self.threads: set[int] = set()
        self.works = True
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def save(self, state: dict[str, Any]) -> bool:
        self.threads.add(threading.get_ident())
        self.given.append(state)
        assert self.may_go_on.wait(30)
        return self.works and super().save(state)


class House:
    """A ledger, its file and its keeper; `now` is the time."""

    def __init__(self, folder: Path) -> None:
        self.now = 1000.0
        self.ledger = Ledger(LIMITS)
        self.disk = Disk(folder / "usage.json")
        clocks = Clocks(lambda: self.now, lambda: NOON + self.now)
        self.keeper = LedgerKeeper(self.ledger, self.disk, clocks)

    def hold(self, name: str = "alice", tokens: int = 0) -> Reservation:
        who = Principal(name, frozenset(), Limits(), "normal", 1.0, None, None)
        found = self.ledger.reserve(
            who, requests=1, tokens=tokens, now=self.now, wall=NOON + self.now
        )
        assert isinstance(found, Reservation)
        return found

    def spend(self, name: str = "alice", tokens: int = 60) -> None:
        with self.hold(name, tokens) as held:
            held.started()
            held.settle(tokens)

    def on_disk(self) -> dict[str, list[float]]:
        state = self.disk.load()
        assert state is not None
        keys = state["keys"]
        assert isinstance(keys, dict)
        return keys


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.disk.may_go_on.set()  # a test that failed leaves no thread behind


async def test_what_was_spent_is_on_disk(house: House) -> None:
    house.spend("alice", 60)
    house.hold("bob", 120)
    house.hold("carol")
    await house.keeper.save()
    assert house.on_disk() == {"alice": [6.0, 60], "bob": [12.0, 0]}


async def test_nothing_is_written_while_nothing_changes(house: House) -> None:
    await house.keeper.save()
    assert house.disk.given == []
    held = house.hold("alice", 60)
    for _ in range(3):
        await house.keeper.save()
        house.now += 1
    assert len(house.disk.given) == 1
    held.leave()
    for _ in range(3):
        await house.keeper.save()
    assert len(house.disk.given) == 2
    assert house.on_disk() == {}


async def test_file_that_is_not_rewritten_as_time_passes_still_tells_the_truth(
    house: House, tmp_path: Path
) -> None:
    house.spend("alice", 600)
    await house.keeper.save()
    house.now += 30
    await house.keeper.save()
    after = House(tmp_path)
    after.now = house.now
    after.keeper.restore()
    await after.keeper.save()
    assert after.on_disk() == {"alice": [30.0, 600]}
    assert after.ledger.changes == 1


async def test_save_that_failed_is_done_again_although_nothing_changed(house: House) -> None:
    house.spend()
    house.disk.works = False
    await house.keeper.save()
    house.disk.works = True
    await house.keeper.save()
    await house.keeper.save()
    assert len(house.disk.given) == 2
    assert house.on_disk() == {"alice": [6.0, 60]}


async def test_change_while_a_save_is_under_way_is_in_the_next_one(house: House) -> None:
    house.disk.may_go_on.clear()
    house.spend("alice", 60)
    first = asyncio.create_task(house.keeper.save())
    while not house.disk.given:
        await asyncio.sleep(0)
    house.spend("alice", 60)
    house.disk.may_go_on.set()
    await first
    assert house.on_disk() == {"alice": [6.0, 60]}, "what was copied may not change any more"
    await house.keeper.save()
    assert house.on_disk() == {"alice": [12.0, 120]}


async def test_last_save_follows_one_whose_task_was_cancelled(house: House) -> None:
    house.disk.may_go_on.clear()
    house.spend("alice", 60)
    cancelled = asyncio.create_task(house.keeper.save())
    while not house.disk.given:
        await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.wait([cancelled])
    house.spend("alice", 60)
    last = [asyncio.create_task(house.keeper.save()) for _ in range(3)]
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(house.disk.given) == 1, "a newer state may be overtaken by the older one"
    house.disk.may_go_on.set()
    await asyncio.gather(*last)
    assert house.on_disk() == {"alice": [12.0, 120]}
    assert len(house.disk.given) == 2


async def test_disk_is_left_to_another_thread(house: House) -> None:
    house.spend()
    await house.keeper.save()
    assert house.disk.threads
    assert threading.get_ident() not in house.disk.threads


async def test_idle_keys_are_forgotten_at_most_once_a_minute(house: House) -> None:
    house.spend("alice", 0)
    await house.keeper.save()
    house.now += 59
    house.spend("bob", 60)
    await house.keeper.save()
    assert len(house.ledger) == 2
    house.now += 1
    house.spend("carol", 0)
    await house.keeper.save()
    assert len(house.ledger) == 2, "alice's minute is over"


async def test_counters_that_make_no_sense_are_kept_aside(house: House) -> None:
    house.disk.path.write_bytes(b'{"version":1,"state":{"keys":[]}}')
    house.keeper.restore()
    assert len(house.ledger) == 0
    assert house.disk.path.with_name("usage.json.bad").exists()


async def test_snapshot_of_yesterday_gives_no_key_its_tokens_of_today(house: House) -> None:
    house.spend("alice", 60)
    house.spend("bob", 60)
    house.now += 86_400
    house.spend("alice", 30)
    await house.keeper.save()
    assert house.on_disk() == {"alice": [3.0, 30]}
