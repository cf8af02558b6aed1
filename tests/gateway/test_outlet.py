"""The writing side of a connection: quick, slow, full, and how long each may last."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.front.outlet import Crowd, Outlet, OutletLimits

KIB = 1 << 10
STALL_S = 30.0


class Wire:
    """A transport whose reader takes what it is told to take."""

    def __init__(self) -> None:
        self.outlet: Outlet | None = None
        self.buffer = bytearray()
        self.read = bytearray()
        self.aborted = False
        self._paused = False
        self._high = self._low = 0

    def set_write_buffer_limits(self, high: int, low: int) -> None:
        self._high, self._low = high, low

    def get_write_buffer_size(self) -> int:
        return len(self.buffer)

    def get_extra_info(self, name: str) -> None:
        return None

    def abort(self) -> None:
        self.aborted = True

    def write(self, data: bytes) -> None:
        self.buffer += data
        if len(self.buffer) > self._high and not self._paused:
            self._paused = True
            assert self.outlet is not None
            self.outlet.pause()

    def take(self, count: int) -> None:
        """The reader takes *count* bytes, a thousand at a time."""
        while count > 0 and self.buffer:
            part = min(count, 1000)
            self.read += self.buffer[:part]
            del self.buffer[:part]
            count -= part
            if self._paused and len(self.buffer) <= self._low:
                self._paused = False
                assert self.outlet is not None
                self.outlet.resume()


class Handle:
    """A timer, or what is to be done soon."""

    def __init__(self, due_s: float, callback: Callable[[], None]) -> None:
        self.due_s = due_s
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Time:
    """A loop whose clock is turned by hand."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._handles: list[Handle] = []

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Handle:
        self._handles.append(Handle(self.now_s + delay_s, callback))
        return self._handles[-1]

    def call_soon(self, callback: Callable[[], None]) -> Handle:
        return self.call_later(0.0, callback)

    def turn(self, seconds: float = 0.0) -> None:
        self.now_s += seconds
        while due := [each for each in self.waiting if each.due_s <= self.now_s]:
            self._handles.remove(due[0])
            due[0].callback()

    @property
    def waiting(self) -> list[Handle]:
        return [each for each in self._handles if not each.cancelled]


class Stage:
    """Outlets with their wires, on one clock, in one crowd."""

    def __init__(self, *, buffer_bytes: int = 1024 * KIB, memory_bytes: int = 1 << 30) -> None:
        self.time = Time()
        self.loop = cast(asyncio.AbstractEventLoop, self.time)
        self.stalled = self.crowded = 0
        self.limits = OutletLimits(buffer_bytes, STALL_S)
        self.crowd = Crowd(
            memory_bytes, self.loop, on_stalled=self._on_stalled, on_crowded=self._on_crowded
        )

    def _on_stalled(self) -> None:
        self.stalled += 1

    def _on_crowded(self) -> None:
        self.crowded += 1

    def outlet(self) -> tuple[Outlet, Wire]:
        wire = Wire()
        outlet = Outlet(cast(asyncio.Transport, wire), self.crowd, self.limits, self.loop)
        wire.outlet = outlet
        return outlet, wire


def send(outlet: Outlet, wire: Wire, data: bytes) -> None:
    """As a reply does it."""
    if outlet.slow:
        outlet.keep(data)
    else:
        wire.write(data)


def send_kib(outlet: Outlet, wire: Wire, count: int) -> None:
    for _ in range(count):
        send(outlet, wire, b"e" * KIB)


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_quick_reader_is_not_measured(stage: Stage) -> None:
    outlet, wire = stage.outlet()
    send_kib(outlet, wire, 64)
    assert not outlet.slow
    assert len(stage.crowd) == 0
    assert not stage.time.waiting


def test_transport_of_a_slow_reader_holds_little_whatever_is_kept(stage: Stage) -> None:
    outlet, wire = stage.outlet()
    outlet.on_drain(lambda full: None)
    send_kib(outlet, wire, 500)
    assert outlet.slow
    assert len(wire.buffer) < 66 * KIB
    assert outlet.size_bytes == stage.crowd.total_bytes == 500 * KIB
    wire.take(200 * KIB)
    assert len(wire.buffer) < 130 * KIB
    assert outlet.size_bytes == 300 * KIB


def test_slow_reader_that_catches_up_is_quick_again(stage: Stage) -> None:
    outlet, wire = stage.outlet()
    outlet.on_drain(lambda full: None)
    send_kib(outlet, wire, 500)
    wire.take(480 * KIB)
    assert not outlet.slow
    assert len(stage.crowd) == stage.crowd.total_bytes == 0
    assert not stage.time.waiting


def test_engine_goes_on_until_the_buffer_is_full_and_again_when_half_is_gone(stage: Stage) -> None:
    told: list[bool] = []
    outlet, wire = stage.outlet()
    outlet.on_drain(told.append)
    send_kib(outlet, wire, 1023)
    assert told == []
    send_kib(outlet, wire, 1)
    assert told == [True]
    wire.take(400 * KIB)
    assert told == [True]
    wire.take(200 * KIB)
    assert told == [True, False]
    send_kib(outlet, wire, 1024)
    assert told == [True, False, True]


def test_slow_reader_whose_buffer_is_not_full_may_take_its_time(stage: Stage) -> None:
    outlet, wire = stage.outlet()
    outlet.on_drain(lambda full: None)
    send_kib(outlet, wire, 1000)
    stage.time.turn(100 * STALL_S)
    assert not wire.aborted


def test_reader_that_stays_full_is_cut_also_if_it_trickles(stage: Stage) -> None:
    outlet, wire = stage.outlet()
    outlet.on_drain(lambda full: None)
    send_kib(outlet, wire, 1024)
    for _ in range(29):
        stage.time.turn(1.0)
        wire.take(10 * KIB)
    assert not wire.aborted
    stage.time.turn(1.0)
    assert wire.aborted
    assert (stage.stalled, stage.crowded) == (1, 0)
    assert len(stage.crowd) == 0


def test_room_in_time_starts_the_patience_anew(stage: Stage) -> None:
    outlet, wire = stage.outlet()
    outlet.on_drain(lambda full: None)
    for _ in range(5):
        while outlet.size_bytes < 1024 * KIB:
            send_kib(outlet, wire, 1)
        stage.time.turn(0.9 * STALL_S)
        wire.take(700 * KIB)
    assert not wire.aborted
    assert not stage.time.waiting


def test_reply_in_one_piece_is_cut_when_nothing_of_it_is_taken(stage: Stage) -> None:
    outlet, wire = stage.outlet()
    wire.write(b"r" * (5000 * KIB))
    stage.time.turn(STALL_S - 0.1)
    assert not wire.aborted
    stage.time.turn(0.2)
    assert wire.aborted
    assert stage.stalled == 1
    assert repr(outlet).startswith("<Outlet gone")


def test_reply_in_one_piece_may_be_taken_slowly(stage: Stage) -> None:
    _, wire = stage.outlet()
    wire.write(b"r" * (5000 * KIB))
    for _ in range(40):
        wire.take(100 * KIB)
        stage.time.turn(STALL_S)
    assert not wire.aborted
    stage.time.turn(STALL_S)
    assert wire.aborted


def test_end_of_a_stream_frees_the_engine_and_waits_as_for_one_piece(stage: Stage) -> None:
    told: list[bool] = []
    outlet, wire = stage.outlet()
    outlet.on_drain(told.append)
    send_kib(outlet, wire, 1100)
    stage.time.turn(STALL_S - 1)
    outlet.on_drain(None)
    outlet.hand_over()
    assert told == [True, False]
    assert len(wire.buffer) == 1100 * KIB
    for _ in range(10):
        wire.take(50 * KIB)
        stage.time.turn(STALL_S - 1)
    assert not wire.aborted
    stage.time.turn(2 * STALL_S)
    assert wire.aborted


def test_next_engine_of_a_full_reply_is_paused_too(stage: Stage) -> None:
    told: list[bool] = []
    outlet, wire = stage.outlet()
    outlet.on_drain(lambda full: None)
    send_kib(outlet, wire, 1024)
    outlet.on_drain(told.append)
    assert told == [True]


def test_lost_connection_leaves_nothing_behind(stage: Stage) -> None:
    told: list[bool] = []
    outlet, wire = stage.outlet()
    outlet.on_drain(told.append)
    send_kib(outlet, wire, 1024)
    outlet.lost()
    outlet.keep(b"late")
    outlet.hand_over()
    outlet.resume()
    outlet.cut()
    assert told == [True], "whose engine is it now?"
    assert len(stage.crowd) == stage.crowd.total_bytes == 0
    assert not stage.time.waiting
    assert not wire.aborted


def test_above_the_bound_for_all_the_largest_is_cut_and_the_others_live() -> None:
    stage = Stage(memory_bytes=1000 * KIB)
    readers = [stage.outlet() for _ in range(3)]
    for (outlet, wire), count in zip(readers, (200, 500, 250), strict=True):
        outlet.on_drain(lambda full: None)
        send_kib(outlet, wire, count)
    stage.time.turn()
    assert [wire.aborted for _, wire in readers] == [False, False, False]
    send_kib(*readers[0], 60)
    assert stage.crowded == 0, "not in the middle of a write"
    stage.time.turn()
    assert [wire.aborted for _, wire in readers] == [False, True, False]
    assert (stage.crowded, stage.stalled) == (1, 0)
    assert stage.crowd.total_bytes == 510 * KIB


def test_reader_that_has_caught_up_unseen_is_not_cut() -> None:
    stage = Stage(memory_bytes=1000 * KIB)
    (first, one), (second, two) = stage.outlet(), stage.outlet()
    for outlet in (first, second):
        outlet.on_drain(lambda full: None)
    one.write(b"r" * (600 * KIB))
    one.take(400 * KIB)  # in one piece: nobody is told before its end
    send_kib(second, two, 500)
    stage.time.turn()
    assert not one.aborted
    assert not two.aborted
    assert stage.crowd.total_bytes == 700 * KIB


STEP = st.tuples(st.sampled_from(("send", "take", "turn", "end")), st.integers(1, 300))


@settings(deadline=None, max_examples=150)
@given(st.lists(STEP, max_size=80))
def test_bytes_arrive_in_order_whatever_the_reader_does(steps: list[tuple[str, int]]) -> None:
    stage = Stage(buffer_bytes=256 * KIB)
    outlet, wire = stage.outlet()
    paused: list[bool] = [False]
    listener: Any = paused.append
    outlet.on_drain(listener)
    sent = bytearray()
    for number, (what, size) in enumerate(steps):
        if what == "send" and not paused[-1]:
            data = bytes([number % 256]) * (size * KIB // 4)
            sent += data
            send(outlet, wire, data)
        elif what == "take":
            wire.take(size * KIB)
        elif what == "turn":
            stage.time.turn(size / 20)
        elif what == "end" and not wire.aborted:
            outlet.on_drain(None)
            outlet.hand_over()
            outlet.on_drain(listener)
        if wire.aborted:
            return
        assert outlet.size_bytes == len(sent) - len(wire.read)
        assert outlet.size_bytes <= 256 * KIB + 75 * KIB
        assert paused[-1] or outlet.size_bytes < 256 * KIB
    wire.take(len(sent))
    assert wire.read == sent
    assert not outlet.slow
    assert not paused[-1]
    assert not stage.time.waiting
