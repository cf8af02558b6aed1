"""Arithmetic of the bench: what a table says must follow from the samples."""

from __future__ import annotations

import pytest

from tests.bench.figures import (
    Rounds,
    Sample,
    cost,
    load_bound,
    middle,
    percentile,
    ratio,
    share,
    spread,
)
from tests.bench.goals import Goal, goals, verdict
from tests.bench.report import report
from tests.bench.workloads import WORKLOADS, Workload, planned_s, quick, request_of


def sample(us: float, count: int = 1000, **rest: object) -> Sample:
    spent = {"proxy": us * count / 1e6, "generator": 0.1, "engine": 0.2}
    return Sample(count=count, wall_s=2.0, cpu_s=spent, **rest)  # type: ignore[arg-type]


def test_cost_is_cpu_time_divided_by_what_was_counted() -> None:
    one = sample(20.0)
    assert one.us == pytest.approx(20.0)
    assert one.per_s == 500.0
    assert one.share("engine") == pytest.approx(0.1)


def test_nothing_counted_costs_nothing_and_divides_by_nothing() -> None:
    assert sample(20.0, count=0).us == 0.0


def test_median_of_rounds_ignores_one_that_was_disturbed() -> None:
    assert cost([sample(20.0), sample(900.0), sample(22.0)]) == pytest.approx(22.0)
    assert share([sample(20.0), sample(900.0), sample(22.0)], "generator") == pytest.approx(0.05)
    assert middle([]) is None
    assert cost([]) is None


def test_ratio_is_taken_within_a_round() -> None:
    # Everything is twice as slow in the second round: the ratio stays what it is.
    assert ratio([30.0, 60.0, 30.0], [10.0, 20.0, 10.0]) == 3.0
    assert ratio([30.0], [0.0]) is None


@pytest.mark.parametrize(
    ("values", "percent", "right"),
    [
        ([], 50, 0.0),
        ([7.0], 99, 7.0),
        ([1.0, 2.0, 3.0, 4.0], 50, 2.5),
        ([4.0, 3.0, 2.0, 1.0], 100, 4.0),
        ([float(n) for n in range(101)], 99, 99.0),
    ],
)
def test_percentile_lies_between_its_neighbours(
    values: list[float], percent: int, right: float
) -> None:
    assert percentile(values, percent) == pytest.approx(right)


@pytest.mark.parametrize(
    ("figure", "right"),
    [(2.5, "met"), (2.51, "acceptable"), (4.0, "acceptable"), (4.1, "missed"), (-1.0, "met")],
)
def test_verdict_counts_the_limit_itself_as_met(figure: float, right: str) -> None:
    assert verdict(figure, 2.5, 4.0) == right


def test_goal_without_a_figure_is_not_said_to_be_met() -> None:
    assert Goal("x", None, "ms", 1.0, 1.0).verdict == "not measured"
    assert {goal.verdict for goal in goals({})} == {"not measured"}


def times(p50: float, p99: float, n: int = 512) -> dict[str, float]:
    return {"p50": p50, "p99": p99, "n": n}


def rounds() -> Rounds:
    streams = {
        "direct": [sample(0.0, first_ms=times(0.1, 1.0), firsts_ms=[1.0] * 50)] * 2,
        "nginx": [sample(10.0, first_ms=times(0.2, 1.5))] * 2,
        "gateway": [sample(13.0, first_ms=times(0.4, 9.0), firsts_ms=[5.0] * 50)] * 2,
    }
    memory = {"rss_before": 50 << 20, "rss_during": (50 << 20) + 256 * 30 * 1024}
    return {
        "embeddings": {"nginx": [sample(16.0)] * 2, "gateway": [sample(32.0), sample(48.0)]},
        "streams256": streams,
        "burst32": {"gateway": [sample(2.0)]},
        "chats": {"gateway": [sample(144.0, events=36)]},
        "open": {"gateway": [sample(0.0, connections=256, **memory)]},
        "rest": {"gateway": [sample(0.0, **memory)]},
    }


def test_goals_are_measured_against_the_same_rounds() -> None:
    found = {goal.name: goal for goal in goals(rounds())}
    told = {name: (goal.figure, goal.verdict) for name, goal in found.items() if goal.figure}

    def figure(start: str) -> tuple[float, str]:
        return next((round(told[name][0], 6), told[name][1]) for name in told if start in name)

    assert figure("at full speed") == (2.5, "met")
    assert found["CPU of a small embeddings request, against nginx (at 2,000/s)"].figure is None
    assert figure("paced event at 256") == (1.3, "acceptable")
    assert figure("(at once)") == (2.0, "met")
    assert figure("at 256, p50") == (0.3, "met")
    assert figure("at 256, p99") == (4.0, "missed")
    assert figure("memory of an open stream") == (30.0, "met")
    assert figure("memory at rest") == (57.5, "met")


def test_rounds_of_unequal_number_are_not_compared() -> None:
    uneven = {"embeddings": {"nginx": [sample(16.0)], "gateway": [sample(32.0)] * 2}}
    assert goals(uneven)[0].figure is None


def test_report_names_every_goal_and_each_wrong_answer() -> None:
    measured = {**rounds(), "burst": {"nginx": [sample(1.0, failed=3, errors=("answered 500",))]}}
    text = report(WORKLOADS, measured, {"machine": "a clock"})
    assert all(goal.name in text for goal in goals(measured))
    assert "FAILED: burst through nginx: 3 answers, such as: answered 500" in text
    assert "machine: a clock" in text


def test_p99_at_256_is_that_of_all_rounds_together_and_needs_a_hundred() -> None:
    few = sample(1.0, first_ms=times(0.1, 1.0), firsts_ms=[1.0] * 49)
    last = sample(1.0, first_ms=times(0.1, 1.0), firsts_ms=[*[1.0] * 50, 2.0])
    for ours, figure in (([few, few], None), ([few, last], 0.0)):
        found = goals({"streams256": {"gateway": ours, "direct": [few, last]}})
        told = next(goal.figure for goal in found if goal.name.endswith("p99"))
        assert told == figure


def test_p99_of_few_is_not_told() -> None:
    assert spread([1.0, 3.0]) == {"p50": 2.0, "p99": pytest.approx(2.98), "n": 2}
    few, many = (
        {"burst": {"gateway": [sample(1.0, first_ms=times(1.0, 7.5, n))]}} for n in (99, 100)
    )
    assert "1.00 / -" in report(WORKLOADS, few, {})
    assert "1.00 / 7.50" in report(WORKLOADS, many, {})


@pytest.mark.parametrize("busy", ["nginx", "gateway"])
@pytest.mark.parametrize("lost", ["waited_s", "stolen_s"])
def test_rows_and_goals_of_a_proxy_that_waited_for_its_core_are_marked(
    busy: str, lost: str
) -> None:
    quiet, waiting = sample(20.0), sample(20.0, **{lost: 0.02})
    doors = {door: [waiting if door == busy else quiet] for door in ("nginx", "gateway")}
    still = {door: [quiet] for door in doors}
    text = report(WORKLOADS, {"embeddings": doors, "streams16": still}, {})
    marked = [line for line in text.splitlines() if line.endswith(("disturbed", "(disturbed)"))]
    assert len(marked) == 2
    assert "what it wanted in\nembeddings.\n" in text
    assert "isturbed" not in report(WORKLOADS, {"embeddings": still}, {}).replace(busy, "")
    assert [goal.disturbed for goal in goals({"embeddings": doors})].count(True) == 1


def test_speed_of_a_busy_load_is_a_lower_bound() -> None:
    def loaded(generator: float, **rest: int) -> Rounds:
        spent = {"proxy": 1.0, "generator": generator, "engine": 0.9}
        return {"burst": {"gateway": [Sample(4000, 2.0, spent, **rest)]}}  # type: ignore[arg-type]

    assert "No bottleneck" in report(WORKLOADS, loaded(0.8), {})
    text = report(WORKLOADS, loaded(1.0), {})
    assert "burst (gateway)" in text
    assert ">=2,000" in text
    assert "No bottleneck" not in text
    assert not load_bound(loaded(1.0, load_cores=2)["burst"]["gateway"])


def test_report_of_a_part_shows_no_empty_tables() -> None:
    text = report(WORKLOADS, {"embeddings": rounds()["embeddings"]}, {})
    assert "Memory" not in text


def test_report_says_what_the_times_hold_without_a_proxy() -> None:
    assert "takes 0.10 ms (p50) and 1.00 ms\n(p99)" in report(WORKLOADS, rounds(), {})
    assert "Noise" not in report(WORKLOADS, {"embeddings": rounds()["embeddings"]}, {})


def test_whole_bench_takes_at_most_six_minutes_and_a_glance_one() -> None:
    assert planned_s(WORKLOADS, 5) <= 360
    assert planned_s([quick(workload) for workload in WORKLOADS], 1) <= 60


def test_paced_streams_are_measured_for_two_seconds_while_one_arrives_as_another_ends() -> None:
    paced = [each for each in WORKLOADS if each.kind == "streams" and each.unit and each.pace_ms]
    assert [each.connections for each in paced] == [16, 64, 256]
    for each in paced:
        assert each.seconds >= 2.0
        assert each.over_s == each.tokens * each.pace_ms / 1000


def test_stampede_begins_at_one_instant() -> None:
    stampede = next(each for each in WORKLOADS if each.kind == "stampede")
    assert (stampede.over_s, stampede.connections) == (0.0, 256)


def test_plan_counts_fresh_services_once_and_every_service_once() -> None:
    one = Workload("a", "", "chat", "closed", "request", 0, doors=("gateway",))
    fresh = Workload("b", "", "chat", "idle", "", 0, doors=("gateway",), fresh=True)
    assert planned_s([one, one], 3) - planned_s([one], 3) == pytest.approx(3 * one.lasts_s)
    assert planned_s([fresh], 3) == planned_s([fresh], 1)


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_request_tells_its_own_length(workload: object) -> None:
    for each in (workload, quick(workload)):  # type: ignore[arg-type]
        head, _, body = request_of(each, "sk-x").partition("\r\n\r\n")  # type: ignore[arg-type]
        assert f"Content-Length: {len(body)}" in head
        assert head.isascii()
