"""The hot path costs no more than is recorded, and more than that would be noticed."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.cost.__main__ import CEILINGS
from tests.cost.ceilings import judge, recording
from tests.cost.measure import Cost, Figures, count_calls, measure
from tests.cost.operations import OPERATIONS

PASSED_ON = next(each for each in OPERATIONS if each.name == "an event passed on")
FIGURES = Figures(
    yard=100.0,
    operations={"an event": Cost(200.0, 3.0, Counter({"work": 150, "rest": 50}))},
    blocks=300.0,
    large_bytes=9000.0,
)
RECORDED = recording(FIGURES, "a Python")


@pytest.fixture(scope="module")
def ceilings() -> dict[str, Any]:
    recorded = json.loads(CEILINGS.read_text())
    assert isinstance(recorded, dict)
    return recorded


@pytest.mark.timeout(400)
def test_hot_path_costs_no_more_than_recorded(ceilings: dict[str, Any]) -> None:
    verdict = judge(measure(), ceilings)
    for hint in verdict.hints:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn(hint, stacklevel=1)
    assert not verdict.problems, "\n\n".join(verdict.problems)


@pytest.mark.timeout(400)
def test_one_more_json_text_for_each_event_is_noticed(
    tmp_path: Path, ceilings: dict[str, Any]
) -> None:
    figures = measure((PASSED_ON,), burden=True, build=tmp_path / "cost")
    verdict = judge(figures, ceilings)
    assert any(each.startswith("an event passed on costs ") for each in verdict.problems)


def test_calls_tell_what_an_operation_does(tmp_path: Path) -> None:
    calls = count_calls(replace(PASSED_ON, times=10), tmp_path)
    assert any("stream/pump.py" in function for function in calls)
    assert all(count % 10 == 0 for function, count in calls.items() if "stream/" in function)


def test_what_is_recorded_is_no_problem() -> None:
    assert judge(FIGURES, RECORDED) == judge(FIGURES, json.loads(json.dumps(RECORDED)))
    assert not judge(FIGURES, RECORDED).problems
    assert not judge(FIGURES, RECORDED).hints


def test_cost_above_the_ceiling_is_told_with_what_it_goes_into() -> None:
    dearer = replace(FIGURES, operations={"an event": Cost(213.0, 3.0, Counter({"work": 213}))})
    (problem,) = judge(dearer, RECORDED).problems
    for words in ("an event costs 2.1300 yards", "2.0000", "2.1200", "work 213", "--calls"):
        assert words in problem


def test_quicker_python_is_no_gain_and_a_slower_one_no_loss() -> None:
    slower = replace(
        FIGURES, yard=150.0, operations={"an event": Cost(300.0, 3.0, Counter({"work": 300}))}
    )
    assert not judge(slower, RECORDED).problems


def test_other_pythons_have_more_room() -> None:
    at_home = replace(FIGURES, operations={"an event": Cost(220.0, 3.0, Counter())})
    abroad = replace(FIGURES, yard=110.0, operations={"an event": Cost(242.0, 3.0, Counter())})
    assert judge(at_home, RECORDED).problems
    assert not judge(abroad, RECORDED).problems


def test_clearly_less_than_recorded_asks_for_a_lower_ceiling() -> None:
    cheaper = replace(FIGURES, operations={"an event": Cost(178.0, 3.0, Counter())})
    assert not judge(cheaper, RECORDED).problems
    assert "cost-record" in judge(cheaper, RECORDED).hints[0]


@pytest.mark.parametrize(
    ("figures", "told"),
    [
        (
            replace(FIGURES, operations={"an event": Cost(200.0, 4.0, Counter())}),
            "an event makes 4.0 system calls",
        ),
        (replace(FIGURES, blocks=340.0), "340 blocks"),
        (replace(FIGURES, large_bytes=12000.0), "12000 bytes"),
        (
            replace(FIGURES, operations={"another": Cost(200.0, 3.0, Counter())}),
            "another is not recorded",
        ),
    ],
)
def test_other_ways_to_cost_too_much(figures: Figures, told: str) -> None:
    (problem,) = judge(figures, RECORDED).problems
    assert told in problem


def test_missing_valgrind_is_told_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.cost"],
        cwd=Path(__file__).parents[2],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("cost: valgrind is not installed, and apt-get is not here")
    assert done.stderr.count("\n") == 1
