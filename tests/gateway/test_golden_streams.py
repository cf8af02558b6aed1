"""Each dialect still tells an answer in the very frames it was told in when somebody last looked.

The frames are in ``tests/data/golden``; `tests.record_golden` writes them anew. That clients
understand them is shown by `tests.clients.test_golden_streams`.
"""

from __future__ import annotations

import pytest

from tests.support.frame_grammar import CHECKERS
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


def test_nothing_else_is_written_there() -> None:
    known = {golden_file(path, case) for path in PATHS for case in cases(path)}
    assert set(GOLDEN.rglob("*.sse")) == known
