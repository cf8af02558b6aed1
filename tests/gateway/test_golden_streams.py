"""Each dialect still tells an answer in the very frames it was told in when somebody last looked.

The frames are in ``tests/data/golden``; `tests.record_golden` writes them anew. That clients
understand them is shown by `tests.clients.test_golden_readers`.
"""

from __future__ import annotations

import re

import pytest

from tests.support.frame_grammar import CHECKERS, GrammarError
from tests.support.golden import GOLDEN, PATHS, cases, golden_file, made, said

CASES = [pytest.param(path, case, id=f"{path}-{case}") for path in PATHS for case in cases(path)]


@pytest.mark.parametrize(("path", "case"), CASES)
def test_a_dialect_tells_an_answer_as_ever(path: str, case: str) -> None:
    assert made(path, case) == golden_file(path, case).read_bytes()


@pytest.mark.parametrize(("path", "case"), CASES)
def test_what_is_written_there_keeps_the_grammar(path: str, case: str) -> None:
    told = CHECKERS[path][0](golden_file(path, case).read_bytes())
    engine = said(path, case)
    assert told.ending == ("failed" if engine.ending == "cut" else engine.ending)


BROKEN = ("/v1/responses", "/v1/messages")


def frames_of(path: str, case: str) -> list[bytes]:
    stream = golden_file(path, case).read_bytes()
    return [frame + b"\n\n" for frame in stream.split(b"\n\n")[:-1]]


def numbered(frames: list[bytes]) -> bytes:
    """The frames with new sequence numbers, so that it takes more than counting to see a gap."""
    again = [
        re.sub(rb'"sequence_number":[0-9]+', b'"sequence_number":%d' % at, frame)
        for at, frame in enumerate(frames)
    ]
    return b"".join(again)


def accepted(path: str, frames: list[bytes]) -> bool:
    try:
        return CHECKERS[path][0](numbered(frames)).ending != "cut"
    except GrammarError:
        return False


@pytest.mark.parametrize("path", BROKEN)
def test_the_checker_misses_no_frame(path: str) -> None:
    frames = frames_of(path, "everything")
    assert accepted(path, frames)
    found = [
        frame
        for at, frame in enumerate(frames)
        if accepted(path, frames[:at] + frames[at + 1 :]) and at != len(frames) - 1
    ]
    # Messages never says a text again, so nobody can know that a piece of it is missing.
    assert all(path == "/v1/messages" and b'"content_block_delta"' in frame for frame in found)


@pytest.mark.parametrize("path", BROKEN)
def test_the_checker_takes_no_frame_twice_and_none_out_of_order(path: str) -> None:
    frames = frames_of(path, "everything")
    pieces = (b'_delta"', b".delta")  # two of them may well be the same, or be swapped
    for at, frame in enumerate(frames):
        last = at == len(frames) - 1
        if not any(piece in frame for piece in pieces) or b'"message_delta"' in frame:
            assert not accepted(path, frames[: at + 1] + frames[at:]), frame
        other = b"" if last else frames[at + 1]
        if not last and frame.partition(b"\n")[0] != other.partition(b"\n")[0]:
            assert not accepted(path, [*frames[:at], other, frame, *frames[at + 2 :]]), frame


def test_nothing_else_is_written_there() -> None:
    known = {golden_file(path, case) for path in PATHS for case in cases(path)}
    assert set(GOLDEN.rglob("*.sse")) == known
