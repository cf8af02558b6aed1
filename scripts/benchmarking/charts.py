"""PURE. Series of numbers -> SVG, without a library; colours are classes of the page's style.

One chart answers one question. Its horizontal places are the levels in order, evenly spaced, for
levels mostly double; a line is named at its end, so no legend has to be looked up.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Line", "chart", "steps"]

_WIDTH, _HEIGHT = 460, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 38, 14, 34
_TEXT_HEIGHT = 13
_STEPS = 5
"""Marks on an axis, at most."""


@dataclass(frozen=True, slots=True)
class Line:
    """Points from left to right.

    Args:
        name: At its end; empty for none.
        style: Classes: ``a`` or ``b`` for the endpoint, ``thin`` for what is not its middle.
        points: Places on both axes.
        marked: Whether each point gets a dot that tells its value.
    """

    name: str
    style: str
    points: Sequence[tuple[float, float]]
    marked: bool = True


@dataclass(frozen=True, slots=True)
class _Scale:
    """Numbers -> places on the drawing."""

    x_low: float
    x_high: float
    y_high: float

    def x(self, value: float) -> float:
        span = self.x_high - self.x_low
        part = (value - self.x_low) / span if span else 0.5
        return round(_LEFT + part * (_WIDTH - _LEFT - _RIGHT), 1)

    def y(self, value: float) -> float:
        return round(_HEIGHT - _BOTTOM - value / self.y_high * (_HEIGHT - _TOP - _BOTTOM), 1)


def chart(
    lines: Sequence[Line],
    *,
    unit: str,
    x_title: str,
    x_marks: Sequence[tuple[float, str]] | None = None,
    y_high: float | None = None,
) -> str:
    """
    Draw *lines*; empty if they have no points.

    Args:
        lines: The last is drawn on top.
        unit: Of the vertical axis, which starts at 0.
        x_title: Under the horizontal axis.
        x_marks: Places and words on it; None: round numbers from 0.
        y_high: The vertical axis' end; None: a round number above all points.
    """
    points = [point for line in lines for point in line.points]
    if not points:
        return ""
    x_low = min(x for x, _ in points) if x_marks else 0.0
    x_high = max(x for x, _ in points)
    y_marks = steps(y_high or max(y for _, y in points))
    scale = _Scale(x_low, x_high, y_marks[-1] or 1.0)
    marks = x_marks or [(mark, short(mark)) for mark in steps(x_high) if mark <= x_high]
    parts = [*_grid(scale, y_marks, unit), *_x_axis(scale, marks, x_title)]
    parts += [part for line in lines for part in _line(scale, line, unit)]
    parts += _names(scale, lines)
    box = f'viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img"'
    return f"<svg {box}>{''.join(parts)}</svg>"


def steps(high: float) -> list[float]:
    """Round numbers from 0 to at least *high*: one, two or five times a power of ten apart."""
    if high <= 0:
        return [0.0, 1.0]
    power = 10.0 ** math.floor(math.log10(high / _STEPS))
    step = next(power * m for m in (1, 2, 5, 10) if power * m * _STEPS >= high * (1 - 1e-9))
    count = math.ceil(high / step - 1e-9)
    return [round(step * number, 10) for number in range(count + 1)]


def short(value: float) -> str:
    """A number for a mark: no needless digits."""
    if value >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:g}" if value >= 1000 else f"{value:.3g}"


def _grid(scale: _Scale, marks: Sequence[float], unit: str) -> Iterator[str]:
    for mark in marks:
        y = scale.y(mark)
        yield f'<path class="grid" d="M{_LEFT} {y}H{_WIDTH - _RIGHT}"/>'
        words = f"{short(mark)} {unit}" if mark == marks[-1] else short(mark)
        yield f'<text x="{_LEFT - 6}" y="{y + 4}" text-anchor="end">{escape(words)}</text>'


def _x_axis(scale: _Scale, marks: Sequence[tuple[float, str]], title: str) -> Iterator[str]:
    y = _HEIGHT - _BOTTOM + 16
    for place, words in marks:
        yield f'<text x="{scale.x(place)}" y="{y}" text-anchor="middle">{escape(words)}</text>'
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    yield f'<text x="{middle}" y="{_HEIGHT - 3}" text-anchor="middle">{escape(title)}</text>'


def _line(scale: _Scale, line: Line, unit: str) -> Iterator[str]:
    if not line.points:
        return
    places = [(scale.x(x), scale.y(y)) for x, y in line.points]
    path = "L".join(f"{x} {y}" for x, y in places)
    yield f'<path class="line {line.style}" d="M{path}"/>'
    if not line.marked:
        return
    for (x, y), (_, value) in zip(places, line.points, strict=True):
        told = escape(f"{line.name} {value:.4g} {unit}".strip())
        yield f'<circle class="{line.style}" cx="{x}" cy="{y}" r="3"><title>{told}</title></circle>'


def _names(scale: _Scale, lines: Sequence[Line]) -> Iterator[str]:
    """Names beside the ends, pushed apart where they would overlap."""
    ends = [(scale.y(line.points[-1][1]), line) for line in lines if line.name and line.points]
    ends.sort(key=lambda end: -end[0])
    places, free = [], float(_HEIGHT - _BOTTOM)
    for y, _ in ends:
        places.append(min(y, free))
        free = places[-1] - _TEXT_HEIGHT
    down = max(0.0, _TOP - min(places, default=_TOP))
    for y, (_, line) in zip(places, ends, strict=True):
        place = f'x="{scale.x(line.points[-1][0]) + 7}" y="{y + down + 4:.1f}"'
        yield f'<text class="{line.style}" {place}>{escape(line.name)}</text>'
