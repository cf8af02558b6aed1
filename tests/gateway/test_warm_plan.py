"""Which prompts are kept over an unload: decided without an engine."""

from __future__ import annotations

import pytest

from backend import HeldPrompt
from gateway.config import load
from gateway.engine.warm_plan import Room, Wish, allowed_bytes, worth_saving
from gateway.wiring import keeps_prompts

WANTED = {"USE_MOCK_MODEL": "1", "IDLE_ACTION": "unload", "IDLE_SAVE_SLOTS": "1"}


def test_the_slot_used_last_comes_first() -> None:
    held = [HeldPrompt(0, 900, 7), HeldPrompt(1, 500, 31), HeldPrompt(2, 700, 12)]
    assert worth_saving(held, {}, 256) == (Wish(1, 500), Wish(2, 700), Wish(0, 900))


def test_short_prompts_are_computed_again() -> None:
    held = [HeldPrompt(0, 255, 1), HeldPrompt(1, 256, 2), HeldPrompt(2, 0, 3)]
    assert worth_saving(held, {}, 256) == (Wish(1, 256),)


def test_slots_that_never_worked_are_left_out() -> None:
    assert worth_saving([HeldPrompt(0, None, None)], {}, 256) == ()


def test_what_was_restored_and_not_used_is_kept_again_but_last() -> None:
    held = [HeldPrompt(0, None, None), HeldPrompt(1, 300, 4)]
    assert worth_saving(held, {0: 2000}, 256) == (Wish(1, 300), Wish(0, 2000))


def test_what_was_restored_and_then_used_counts_as_the_engine_says() -> None:
    assert worth_saving([HeldPrompt(0, 10, 4)], {0: 2000}, 256) == ()


def test_an_engine_that_does_not_tell_lengths_has_nothing_worth_saving() -> None:
    assert worth_saving([HeldPrompt(0, None, 4)], {}, 256) == ()


@pytest.mark.parametrize(("free", "allowed"), [(0, 0), (100, 50), (4000, 1000)])
def test_files_never_take_more_than_half_of_what_is_free(free: int, allowed: int) -> None:
    assert allowed_bytes(1000, free) == allowed


def test_the_first_file_is_a_measure_for_the_rest() -> None:
    room = Room(1000)
    assert room.fits(1_000_000), "nothing is known yet"
    room.take(tokens=60, size_bytes=600)
    assert room.left_bytes == 400
    assert room.fits(40)
    assert not room.fits(41)


def test_where_nothing_is_left_nothing_fits() -> None:
    assert not Room(0).fits(1)
    room = Room(10)
    room.take(tokens=1, size_bytes=10)
    assert not room.fits(0)


def test_prompts_are_kept_only_where_it_was_asked_for() -> None:
    assert keeps_prompts(load(WANTED).settings)
    assert not keeps_prompts(load({**WANTED, "IDLE_SAVE_SLOTS": "0"}).settings)
    assert not load({}).settings.idle_save_slots


@pytest.mark.parametrize(
    "more",
    [
        {"PROMPT_CACHE_SCOPE": "key"},
        {"IDLE_ACTION": "exit"},
        {"MMPROJ": "/m.gguf"},
        {"EMBEDDINGS": "1"},
        {"RERANK": "1"},
    ],
    ids=lambda more: next(iter(more)),
)
def test_prompts_are_never_kept_where_they_may_or_can_not_be_reused(more: dict[str, str]) -> None:
    assert not keeps_prompts(load(WANTED | more).settings)


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"PROMPT_CACHE_SCOPE": "key"}, "PROMPT_CACHE_SCOPE"),
        ({"IDLE_ACTION": "exit"}, "IDLE_ACTION"),
    ],
)
def test_a_wish_without_effect_is_warned_about(more: dict[str, str], word: str) -> None:
    warnings = load(WANTED | more).warnings
    assert any("IDLE_SAVE_SLOTS has no effect" in text and word in text for text in warnings)
