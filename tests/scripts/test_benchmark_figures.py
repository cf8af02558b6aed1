"""The arithmetic of the benchmark, and its pages, without a server."""

from __future__ import annotations

import re
from array import array
from html.parser import HTMLParser

import click
import pytest

from scripts.benchmarking.charts import Line, chart, steps
from scripts.benchmarking.document import document
from scripts.benchmarking.figures import (
    EndpointFigures,
    Run,
    Spread,
    level_figures,
    percentile,
    ratios,
)
from scripts.benchmarking.options import Fields, Key, Levels, Url
from scripts.benchmarking.page import page
from scripts.benchmarking.plan import Endpoint, Form, Plan, endpoint_url, prompt_text
from scripts.benchmarking.samples import Failure, Refusals, Round, Sample
from scripts.benchmarking.stream import StreamWatch
from scripts.benchmarking.table import remarks, render

ANSWER = (
    b": a comment\n\n"
    b'data: {"choices":[{"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n'
    b'data: {"choices":[{"delta":{"reasoning_content":"hm"},"finish_reason":null}]}\r\n\r\n'
    b'data: {"choices":[{"delta":{"content":"na\xc3\xafve"},"finish_reason":null}]}\n\n'
    b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":5}}\n\n'
    b"data: [DONE]\n\n"
)


def sample(ttft_s: float, gap_s: float, tokens: int = 3, *, from_usage: bool = True) -> Sample:
    gaps = array("d", [gap_s] * (tokens - 1))
    return Sample(ttft_s, ttft_s + sum(gaps), gaps, tokens, 10, from_usage)


def a_round(*samples: Sample, failures: tuple[Failure, ...] = (), wall_s: float = 2.0) -> Round:
    started = len(samples) + len(failures)
    return Round(started, list(samples), list(failures), Refusals(), wall_s, wall_s / 10)


def a_run(*factors: float, hostile: str = "") -> Run:
    """One endpoint for each factor, so many times slower than the first of all would be."""
    endpoints = []
    for factor in factors:
        levels = [
            level_figures(
                streams,
                [
                    a_round(
                        *[sample(0.1 * factor * n, 0.02 * factor) for n in range(1, 5)],
                        failures=(Failure("http 500", hostile),) if hostile else (),
                        wall_s=factor,
                    )
                ],
            )
            for streams in (1, 8)
        ]
        name = f"http://h{factor:g}/v1"
        endpoints.append(EndpointFigures(name, f"m{hostile}", tuple(levels)))
    return Run(tuple(endpoints), None, 1.0)


def test_answer_is_the_same_at_every_split_point() -> None:
    for cut in range(len(ANSWER) + 1):
        watch = StreamWatch(0.0)
        watch.feed(ANSWER[:cut], 1.0)
        watch.feed(ANSWER[cut:], 1.0)
        assert watch.missing() is None
        assert (watch.events, watch.tokens, watch.finish) == (2, 5, "stop")
        assert watch.first_s == 1.0


def test_times_are_those_of_events_with_text() -> None:
    watch = StreamWatch(10.0)
    for number, line in enumerate(ANSWER.splitlines(keepends=True)):
        watch.feed(line, 10.0 + number)
    assert watch.first_s == 14.0
    assert list(watch.gaps_s) == [2.0]


def test_answer_that_lacks_its_end_is_not_whole() -> None:
    for end in range(len(ANSWER) - 1):
        watch = StreamWatch(0.0)
        watch.feed(ANSWER[:end], 1.0)
        assert watch.missing() is not None


def test_answer_without_a_reason_to_finish_is_not_whole() -> None:
    watch = StreamWatch(0.0)
    watch.feed(ANSWER.replace(b'"stop"', b"null"), 1.0)
    assert watch.missing() == "the stream ended without a finish_reason"


@pytest.mark.parametrize(
    ("event", "error"),
    [
        (b'{"error":{"message":"gone","code":"engine_restarted"}}', "engine_restarted gone"),
        (b'{"error":"gone"}', "gone"),
        (b"{", "an event is not in OpenAI's shape"),
        (b"[1]", "an event is not in OpenAI's shape"),
        (b'{"choices":[3]}', "an event is not in OpenAI's shape"),
    ],
)
def test_error_event_ends_a_stream(event: bytes, error: str) -> None:
    watch = StreamWatch(0.0)
    watch.feed(b"data: " + event + b"\n\n", 1.0)
    assert (watch.error, watch.over) == (error, True)


def test_events_are_counted_where_no_usage_comes() -> None:
    watch = StreamWatch(0.0)
    watch.feed(re.sub(rb'"usage":{.*?}', b'"usage":null', ANSWER), 1.0)
    made = Sample.of(watch, 2.0)
    assert (made.tokens, made.from_usage, made.prompt_tokens) == (2, False, None)


def test_percentiles_lie_between_their_neighbours() -> None:
    assert percentile([1.0], 0.99) == 1.0
    assert percentile([1.0, 2.0], 0.5) == 1.5
    assert percentile([float(n) for n in range(101)], 0.95) == 95.0
    spread = Spread.of([3.0, 1.0, 2.0])
    assert spread is not None
    assert (spread.count, spread.min, spread.p50, spread.max, spread.mean) == (3, 1, 2, 3, 2)
    assert Spread.of([]) is None


def test_rate_of_a_stream_leaves_the_first_token_out() -> None:
    assert sample(5.0, 0.1, tokens=11).rate == pytest.approx(10.0)
    assert sample(5.0, 0.0, tokens=11).rate is None
    assert sample(5.0, 0.1, tokens=1).rate is None


def test_level_takes_all_answers_of_its_rounds_together() -> None:
    first = a_round(sample(0.1, 0.01), sample(0.2, 0.01), failures=(Failure("http 500", "x"),))
    second = a_round(sample(0.3, 0.01), failures=(Failure("http 500"), Failure("timeout")))
    second.started += 1
    level = level_figures(4, [first, second])
    assert (level.requests, level.succeeded, level.failed, level.unfinished) == (7, 3, 3, 1)
    assert level.failures == {"http 500": 2, "timeout": 1}
    assert level.examples == {"http 500": "x"}
    assert level.ttft_s is not None
    assert level.ttft_s.p50 == 0.2
    assert level.gap_s is not None
    assert level.gap_s.count == 6
    assert (level.tokens, level.total_rate, level.wall_s) == (9, 9 / 4, 4.0)
    assert level.client_cpu_share == pytest.approx(0.1)


def test_way_of_counting_is_told() -> None:
    usage, events = sample(1, 1), sample(1, 1, from_usage=False)
    ways = [level_figures(1, [a_round(*each)]).counted_by for each in ([usage], [events], [])]
    assert ways == ["usage", "events", None]
    assert level_figures(1, [a_round(usage, events)]).counted_by == "mixed"


def test_ratio_is_the_first_by_the_second() -> None:
    found = ratios(a_run(2.0, 1.0))
    assert [ratio.streams for ratio in found] == [1, 8]
    assert found[0].ttft_p50 == pytest.approx(2.0)
    assert found[0].ttft_p50_added_s == pytest.approx(0.25)
    assert found[0].gap_p50 == pytest.approx(2.0)
    assert found[0].stream_rate == pytest.approx(0.5)
    assert found[0].total_rate == pytest.approx(0.5)
    assert ratios(a_run(1.0)) == []


def test_ratio_without_numbers_is_none() -> None:
    bad = EndpointFigures(
        "http://b/v1", "m", (level_figures(1, [a_round(failures=(Failure("timeout"),))]),)
    )
    run = Run((a_run(1.0).endpoints[0], bad), None, 1.0)
    (ratio,) = ratios(run)
    assert (ratio.ttft_p50, ratio.gap_p50, ratio.total_rate) == (None, None, None)
    assert "-" in render(run)
    assert page(run, Plan(), "now", "this")
    assert document(run, Plan(), {}, "now")["ratios"][0]["ttft_p50"] is None


def limited_run() -> Run:
    """Two endpoints; at its second level the first one had to wait for its key's limit."""
    free = a_round(sample(0.1, 0.02), sample(0.2, 0.02))
    held = a_round(sample(0.1, 0.02), sample(0.2, 0.02), wall_s=60.0)
    held.refusals = Refusals(7, 58.0)
    first = EndpointFigures(
        "http://a/v1", "m", (level_figures(1, [free]), level_figures(4, [held]))
    )
    other = EndpointFigures(
        "http://b/v1", "m", (level_figures(1, [free]), level_figures(4, [free]))
    )
    return Run((first, other), None, 1.0)


def test_limited_level_has_no_rate_in_all() -> None:
    run = limited_run()
    rates = [level.total_rate for level in run.endpoints[0].levels]
    assert rates == [3.0, None]
    assert [(ratio.total_rate, ratio.limited) for ratio in ratios(run)] == [
        (1.0, False),
        (None, True),
    ]
    assert ratios(run)[1].latency_p50 == 1.0


def test_limited_level_is_marked_wherever_it_is_shown() -> None:
    run = limited_run()
    text = render(run)
    rows = [line for line in text.splitlines() if line.startswith("      4")]
    assert ["- limited" in row for row in rows] == [True, False, True]
    assert "limited: 7 refusals for now (429, 503), 58.0 s waited" in text
    html = page(run, Plan(), "now", "this")
    assert html.count("<td>- limited</td>") == 2
    found = document(run, Plan(), {}, "now")
    level = found["endpoints"][0]["levels"][1]
    assert (level["tokens_per_s"], level["requests_per_s"]) == (None, None)
    assert level["missing"] == {"tokens_per_s": "limited", "requests_per_s": "limited"}
    assert found["endpoints"][1]["levels"][1]["missing"] == {}
    assert found["ratios"][1]["tokens_per_s"] is None
    assert found["ratios"][1]["missing"] == {"tokens_per_s": "limited"}


def test_limited_level_is_no_point_of_the_plot() -> None:
    html = page(limited_run(), Plan(), "now", "this")
    plot = html.partition("Tokens a second, in all")[2].partition("</figure>")[0]
    assert "levels that were limited are left out" in plot
    assert plot.count('<circle class="a"') == 1
    assert plot.count('<circle class="b"') == 2


def test_plot_leaves_out_a_line_without_points() -> None:
    drawn = chart([Line("", "a", []), Line("", "b", [(0, 1)])], unit="", x_title="")
    assert 'd="M"' not in drawn


@pytest.mark.parametrize(("streamed", "shown"), [(1, False), (2, True)])
def test_times_between_tokens_need_half_of_the_answers(streamed: int, shown: bool) -> None:
    samples = [sample(0.1, 0.02 if number < streamed else 0.0) for number in range(4)]
    level = level_figures(1, [a_round(*samples)])
    run = Run((EndpointFigures("u", "m", (level,)),), None, 1.0)
    assert (level.stream_rate is not None, level.gap_s is not None) == (shown, shown)
    told = any("3 of 4 answers arrived in one piece" in remark for remark in remarks(run))
    assert told is not shown
    (found,) = document(run, Plan(), {}, "now")["endpoints"][0]["levels"]
    missing = (
        {} if shown else dict.fromkeys(("inter_token_ms", "tokens_per_s_per_stream"), "one piece")
    )
    assert found["missing"] == missing


def test_failures_beyond_the_bound_are_not_good() -> None:
    run = a_run(1.0, hostile="x")
    assert run.endpoints[0].failed_share == 0.2
    assert (run.good(0.2), run.good(0.19)) == (True, False)
    assert not Run((EndpointFigures("u", "m", ()),), None, 1.0).good(1.0)
    only_bad = level_figures(1, [a_round(failures=(Failure("timeout"),))])
    assert not Run((EndpointFigures("u", "m", (only_bad,)),), None, 1.0).good(1.0)


def test_busy_client_is_told() -> None:
    busy = a_round(sample(1, 1))
    busy.client_cpu_s = 1.9
    run = Run((EndpointFigures("u", "m", (level_figures(1, [busy]),)),), None, 1.0)
    assert any("95% of a core" in remark for remark in remarks(run))


def test_requests_are_shared_out_over_the_rounds() -> None:
    plan = Plan(requests=20, rounds=3)
    assert [plan.share(20, number) for number in range(3)] == [7, 7, 6]
    assert plan.requests_at(4) == 20
    assert plan.requests_at(16) == 48
    assert Plan(rounds=3).requests_at(2) == 24
    assert Plan(seconds=1.0).requests_at(2) is None


def test_prompts_differ_from_their_first_character_on_and_have_the_length() -> None:
    plan = Plan(prompt_tokens=1000)
    one, two = prompt_text(plan, 1, "a"), prompt_text(plan, 2, "b")
    assert one[0] != two[0]
    assert 900 <= len(one.split()) <= 1000
    assert prompt_text(Plan(prompt="as it is"), 1, "a") == "as it is"


def test_form_learns_from_complaints() -> None:
    form = Form("m").after("Use 'max_completion_tokens' instead.")
    assert form == Form("m", "max_completion_tokens")
    assert form.after("Use 'max_completion_tokens' instead.") is None
    assert form.after("stream_options: unknown") == Form("m", "max_completion_tokens", False)
    assert "stream_options" not in Form("m", ask_usage=False).body(Plan(), "p", 5)
    assert Form("m").body(Plan(extra={"top_k": 1}), "p", 5)["top_k"] == 1


def test_base_url_gets_the_usual_path_and_carries_no_password() -> None:
    assert endpoint_url("http://h:1") == "http://h:1/v1"
    assert endpoint_url("https://h/a/v1/") == "https://h/a/v1"
    for bad in ("h:1", "ftp://h/v1", "http://", "http://u:p@h/v1", "http://h/v1?k=1"):
        with pytest.raises(ValueError, match="must"):
            endpoint_url(bad)


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (Levels(), "1,zero"),
        (Levels(), "0"),
        (Levels(), ""),
        (Fields(), "[]"),
        (Fields(), '{"stream": false}'),
        (Key(), "canary\ncanary"),
        (Url(), "canary:8000"),
    ],
)
def test_words_that_make_no_sense_are_refused(kind: click.ParamType[object], given: str) -> None:
    with pytest.raises(click.BadParameter) as caught:
        kind.convert(given, None, None)
    assert "canary" not in str(caught.value)


def test_words_that_make_sense_are_understood() -> None:
    assert Levels().convert("8,1,8", None, None) == (8, 1)
    assert Fields().convert('{"top_k": 1}', None, None) == {"top_k": 1}
    assert Key().convert(" sk-1\n", None, None) == "sk-1"


def test_key_is_in_no_repr_and_cut_out_of_what_servers_say() -> None:
    endpoint = Endpoint("http://h/v1", "sk-canary")
    assert "canary" not in repr(endpoint)
    assert endpoint.hide("bad key sk-canary!") == "bad key ***!"
    assert Endpoint("http://h/v1", "").hide("as it is") == "as it is"


def test_marks_of_an_axis_are_round_and_enclose() -> None:
    assert steps(87.0) == [0, 20, 40, 60, 80, 100]
    assert steps(0.5) == [0, 0.1, 0.2, 0.3, 0.4, 0.5]
    assert steps(0.0) == [0, 1]
    for high in (1e-7, 0.03, 1.0, 7.3, 999.0, 1e9):
        marks = steps(high)
        assert marks[-1] >= high * 0.999999
        assert 2 <= len(marks) <= 6


def test_chart_keeps_to_its_drawing_and_names_that_meet_apart() -> None:
    lines = [Line("p50", "a", [(0, 5), (1, 5)]), Line("<p99>", "b", [(0, 5), (1, 5)])]
    drawn = chart(lines, unit="ms", x_title="x", x_marks=[(0, "1"), (1, "4")])
    heights = [float(y) for y in re.findall(r'<text class="[ab]" x="[\d.]+" y="([\d.]+)"', drawn)]
    assert abs(heights[0] - heights[1]) >= 13
    assert "&lt;p99&gt;" in drawn
    assert all(0 <= float(x) <= 460 for x in re.findall(r'cx="([\d.]+)"', drawn))
    assert chart([], unit="", x_title="") == ""
    assert chart([Line("", "a", [(3, 0)])], unit="", x_title="")


class Tree(HTMLParser):
    """Checks that tags are closed in order; collects what a browser would load."""

    VOID = frozenset({"meta"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loaded: list[str] = []
        self.tags: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loaded += [str(value) for name, value in attrs if name in ("src", "href", "action")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_is_well_formed_and_loads_nothing() -> None:
    text = page(a_run(2.0, 1.0), Plan(), "today", "here")
    tree = Tree(text)
    assert (tree.open, tree.loaded) == ([], [])
    assert tree.tags.count("svg") == 6
    assert tree.tags.count("table") == 3
    assert not re.search(r"url\(|@import|<script", text)


def test_words_of_a_server_are_only_words_on_the_page() -> None:
    text = page(a_run(1.0, hostile="<script>x</script>"), Plan(), "today", "here")
    assert "<script" not in text
    assert "&lt;script&gt;x" in text
    assert Tree(text).open == []


def test_page_of_nothing_measured_is_a_page() -> None:
    nothing = Run((EndpointFigures("http://h/v1", "m", ()),), "interrupt", 0.0)
    text = page(nothing, Plan(), "today", "here")
    assert Tree(text).open == []
    assert "Nothing was measured." in text
    assert "Ended by a signal" in text
