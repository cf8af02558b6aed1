"""Who lags, how much is kept for them, and who is cut."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.front.slow_readers import SlowReaders

NAMES = "abcdefgh"


def test_nobody_is_cut_while_all_fits() -> None:
    book: SlowReaders[str] = SlowReaders(100)
    book.note("a", 60)
    book.note("b", 40)
    assert not book.crowded
    assert book.cut_largest() == []
    assert len(book) == 2


def test_largest_is_cut_first_and_no_more_than_needed() -> None:
    book: SlowReaders[str] = SlowReaders(100)
    for name, size in (("a", 30), ("b", 70), ("c", 40), ("d", 10)):
        book.note(name, size)
    assert book.crowded
    assert book.cut_largest() == ["b"]
    assert list(book) == ["a", "c", "d"]
    assert book.total_bytes == 80


def test_among_equals_the_longest_laggard_is_cut() -> None:
    book: SlowReaders[str] = SlowReaders(25)
    for name in "abc":
        book.note(name, 10)
    book.note("a", 10)
    assert book.cut_largest() == ["a"]


def test_one_that_is_larger_than_all_may_be_is_cut_alone() -> None:
    book: SlowReaders[str] = SlowReaders(100)
    book.note("small", 90)
    book.note("huge", 101)
    assert book.cut_largest() == ["huge"]
    assert list(book) == ["small"]


def test_forgotten_readers_do_not_count() -> None:
    book: SlowReaders[str] = SlowReaders(100)
    book.note("a", 90)
    book.note("b", 90)
    book.forget("a")
    book.forget("a")
    book.forget("never there")
    assert book.total_bytes == 90
    assert not book.crowded


STEP = st.one_of(
    st.tuples(st.just("note"), st.sampled_from(NAMES), st.integers(0, 80)),
    st.tuples(st.just("forget"), st.sampled_from(NAMES), st.just(0)),
    st.tuples(st.just("cut"), st.just(""), st.just(0)),
)


@settings(deadline=None)
@given(st.lists(STEP, max_size=60))
def test_book_is_what_a_plain_dict_says(steps: list[tuple[str, str, int]]) -> None:
    book: SlowReaders[str] = SlowReaders(100)
    plain: dict[str, int] = {}
    for what, name, size in steps:
        if what == "note":
            book.note(name, size)
            plain[name] = size
        elif what == "forget":
            book.forget(name)
            plain.pop(name, None)
        else:
            cut = book.cut_largest()
            sizes = [plain.pop(one) for one in cut]
            assert sizes == sorted(sizes, reverse=True)
            if cut:
                assert all(size <= sizes[-1] for size in plain.values())
                assert sum(plain.values()) + sizes[-1] > 100, "one too many was cut"
            assert sum(plain.values()) <= 100
        assert book.total_bytes == sum(plain.values())
        assert list(book) == list(plain)
