"""PURE. Figures and charts -> one HTML file that needs nothing else, no network in particular."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from html import escape

from .charts import Line, chart
from .figures import EndpointFigures, LevelFigures, Run, Spread, ratios
from .plan import Plan
from .table import RATIO_COLUMNS, milliseconds, number, ratio_cells, remarks, total

__all__ = ["page"]

_STYLE = """
:root{color-scheme:light dark;--ink:#1d2330;--soft:#667085;--rule:#e4e7ec;--paper:#fff;
--card:#f8f9fb;--a:#2463c9;--b:#c2570c}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ef;--soft:#98a2b3;--rule:#2c3442;
--paper:#12161d;--card:#191f29;--a:#6ea8ff;--b:#ffa35c}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);
max-width:1040px;margin:2.5rem auto;padding:0 1.25rem}
h1{font-size:1.5rem;margin:0}h2{font-size:1.05rem;margin:2.2rem 0 .6rem;overflow-wrap:anywhere}
h3{font-size:.95rem;margin:0}p,li{color:var(--soft)}p{margin:.2rem 0}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(380px,1fr));gap:1rem;
margin-top:1.5rem}
figure{margin:0;padding:.9rem 1rem .5rem;background:var(--card);border:1px solid var(--rule);
border-radius:10px}
figure p{font-size:.82rem;margin-bottom:.4rem}svg{width:100%;height:auto;display:block}
svg text{font-size:11px;fill:var(--soft)}
.grid{stroke:var(--rule);fill:none}
.line{fill:none;stroke-width:2.2;stroke-linejoin:round}
.line.a{stroke:var(--a)}.line.b{stroke:var(--b)}
.line.thin{stroke-width:1.2;stroke-dasharray:4 3}
circle.a{fill:var(--a)}circle.b{fill:var(--b)}circle.thin{r:2px}
svg text.a,.key.a{fill:var(--a);color:var(--a)}svg text.b,.key.b{fill:var(--b);color:var(--b)}
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;
font-size:.86rem;width:100%}
th,td{padding:.3rem .55rem;text-align:right;white-space:nowrap}
th{color:var(--soft);font-weight:500}tbody tr{border-top:1px solid var(--rule)}
.bad{color:#d92d20;font-weight:600}
"""
# Even if a server's words got through unescaped, they could load and run nothing.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_STYLES = ("a", "b")

Value = Callable[[LevelFigures], float | None]


def page(run: Run, plan: Plan, started_at: str, client: str) -> str:
    """
    The report.

    Args:
        run: The figures.
        plan: What was asked for.
        started_at: Day and time, in words.
        client: About the program that measured, in words.
    """
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>Benchmark, {escape(started_at)}</title><style>{_STYLE}</style></head><body>"
        f"{''.join(_parts(run, plan, started_at, client))}</body></html>\n"
    )


def _parts(run: Run, plan: Plan, started_at: str, client: str) -> Iterator[str]:
    yield (
        "<h1>How fast the endpoint answers</h1>"
        if len(run.endpoints) == 1
        else ("<h1>How fast the two endpoints answer</h1>")
    )
    for style, each in zip(_STYLES, run.endpoints, strict=False):
        key = f'<span class="key {style}">&#9679;</span> ' if len(run.endpoints) > 1 else ""
        yield f"<p>{key}{escape(each.base_url)}, model {escape(each.model)}</p>"
    yield f"<p>{escape(started_at)}, {run.took_s:.0f} s; {escape(_workload(plan))}; {client}</p>"
    yield f'<div class="charts">{"".join(_figures(run))}</div>'
    for each in run.endpoints:
        yield _endpoint_table(each)
    if found := ratios(run):
        yield "<h2>The first against the second</h2>"
        yield _table([RATIO_COLUMNS], [ratio_cells(ratio) for ratio in found])
    if notes := remarks(run):
        yield f"<h2>Remarks</h2><ul>{''.join(f'<li>{escape(note)}</li>' for note in notes)}</ul>"


def _workload(plan: Plan) -> str:
    prompt = "a prompt of the user's" if plan.prompt else f"prompts of ~{plan.prompt_tokens} tokens"
    rounds = f", {plan.rounds} rounds in turns" if plan.rounds > 1 else ""
    return f"{prompt}, answers of at most {plan.max_tokens}{rounds}"


def _figures(run: Run) -> Iterator[str]:
    yield _times(run, "Time to the first token", lambda level: level.ttft_s)
    yield _times(run, "Time between tokens", lambda level: level.gap_s)
    yield _times(run, "Time to the whole answer", lambda level: level.latency_s)
    lines = _lines(run, "", lambda level: level.total_rate if level.succeeded else None)
    limited = any(level.limited for each in run.endpoints for level in each.levels)
    note = "more is better" + ("; levels that were limited are left out" if limited else "")
    yield _figure("Tokens a second, in all", note, _by_level(run, lines, "/s"))
    lines = _lines(run, "", lambda level: level.stream_rate.p50 if level.stream_rate else None)
    yield _figure("Tokens a second, one stream", "p50; more is better", _by_level(run, lines, "/s"))
    yield _distribution(run)


def _times(run: Run, title: str, spread_of: Callable[[LevelFigures], Spread | None]) -> str:
    def value(name: str) -> Value:
        def of(level: LevelFigures) -> float | None:
            spread = spread_of(level)
            return None if spread is None else float(getattr(spread, name)) * 1000

        return of

    lines = [*_lines(run, "p99", value("p99"), thin=True), *_lines(run, "p50", value("p50"))]
    return _figure(title, "p50, and p99 dashed; less is better", _by_level(run, lines, "ms"))


def _figure(title: str, note: str, svg: str) -> str:
    drawn = svg or "<p>Nothing was measured.</p>"
    return f"<figure><h3>{escape(title)}</h3><p>{escape(note)}</p>{drawn}</figure>"


def _lines(run: Run, name: str, value: Value, *, thin: bool = False) -> list[Line]:
    """A line for each endpoint, over the levels that have a value."""
    order = {streams: float(place) for place, streams in enumerate(_levels(run))}
    found = []
    for style, each in zip(_STYLES, run.endpoints, strict=False):
        points = [
            (order[level.streams], number)
            for level in each.levels
            if (number := value(level)) is not None
        ]
        found.append(Line(name, f"{style} thin" if thin else style, points))
    return found


def _levels(run: Run) -> list[int]:
    return sorted({level.streams for each in run.endpoints for level in each.levels})


def _by_level(run: Run, lines: Sequence[Line], unit: str) -> str:
    marks = [(float(place), str(streams)) for place, streams in enumerate(_levels(run))]
    return chart(lines, unit=unit, x_title="streams at a time", x_marks=marks)


def _distribution(run: Run) -> str:
    """At the highest level: which share of the answers had begun after so long."""
    streams = max(_levels(run), default=0)
    lines = [
        Line("", style, _shares(level.ttfts_s), marked=False)
        for style, each in zip(_STYLES, run.endpoints, strict=False)
        for level in each.levels
        if level.streams == streams and level.ttfts_s
    ]
    svg = chart(lines, unit="%", x_title="ms to the first token", y_high=100.0)
    return _figure(f"Answers begun, at {streams} streams", "share after so long", svg)


def _shares(ordered_s: Sequence[float]) -> list[tuple[float, float]]:
    """A staircase from 0 to 100 %, thinned out to what a screen can show."""
    every = max(1, len(ordered_s) // 200)
    points, share = [], 0.0
    for end in [*range(0, len(ordered_s), every), len(ordered_s) - 1]:
        points.append((ordered_s[end] * 1000, share))
        share = 100 * (end + 1) / len(ordered_s)
        points.append((ordered_s[end] * 1000, share))
    return points


def _endpoint_table(figures: EndpointFigures) -> str:
    groups = ("", "TTFT, ms", "between tokens, ms", "latency, ms", "tokens/s", "")
    spans = (3, 3, 3, 3, 2, 2)
    over = "".join(
        f'<th colspan="{span}" style="text-align:center">{escape(text)}</th>'
        for text, span in zip(groups, spans, strict=True)
    )
    three = ("p50", "p95", "p99")
    heads = ("streams", "good", "bad", *three * 3, "stream", "total", "counted by", "client CPU")
    rows = [_cells(level) for level in figures.levels]
    return f"<h2>{escape(figures.base_url)}</h2>" + _table([heads], rows, over)


def _cells(level: LevelFigures) -> list[str]:
    cells = [str(level.streams), str(level.succeeded), str(level.failed)]
    cells += [
        milliseconds(None if spread is None else getattr(spread, name))
        for spread in (level.ttft_s, level.gap_s, level.latency_s)
        for name in ("p50", "p95", "p99")
    ]
    rate = level.stream_rate.p50 if level.stream_rate else None
    cells += [number(rate), total(level), level.counted_by or "-"]
    return [*cells, f"{level.client_cpu_share:.0%}"]


def _table(heads: Sequence[Sequence[str]], rows: Sequence[Sequence[str]], over: str = "") -> str:
    head = "".join(
        f"<tr>{''.join(f'<th>{escape(cell)}</th>' for cell in each)}</tr>" for each in heads
    )
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    over = f"<tr>{over}</tr>" if over else ""
    table = f"<table><thead>{over}{head}</thead><tbody>{body}</tbody></table>"
    return f'<div class="wide">{table}</div>'
