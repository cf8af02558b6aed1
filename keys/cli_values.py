"""How the values of a key's settings are written on the command line.

Every option says in its error what would be right, and none of them ever takes a secret: command
lines are visible to every user of a machine.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any, TypeVar

import click

from keys.digest import id_problem
from keys.principal import PRIORITIES, SCOPES
from keys.records import (
    LIMIT_NAMES,
    MAX_LIMIT,
    MAX_MODEL_CHARS,
    MAX_NOTE_CHARS,
    MAX_WEIGHT,
    MIN_WEIGHT,
    parse_instant,
)

__all__ = ["KEY_ID", "SPAN", "given_settings", "now_s", "settings_options"]

Command = TypeVar("Command", bound=Callable[..., Any])

_SPAN = re.compile(r"([0-9]{1,6})([smhdw])")
_WHOLE = re.compile(r"[0-9]{1,13}")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def now_s() -> int:
    """The present moment, in whole seconds since the epoch."""
    return int(time.time())  # noqa: TID251  (an edge: moments go into the file and on the screen)


class _KeyId(click.ParamType[str]):
    name = "id"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        problem = id_problem(value)
        if problem is not None:
            self.fail(problem, param, ctx)
        return str(value)


class _Span(click.ParamType[int]):
    name = "span"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        if isinstance(value, int):
            return value
        seconds = _span_s(value)
        if seconds is None:
            self.fail("expected a span such as 0, 30m, 24h or 7d", param, ctx)
        return seconds


class _When(click.ParamType[int | str]):
    name = "when"

    def convert(self, value: Any, param: Any, ctx: Any) -> int | str:
        if value == "never":
            return "never"
        seconds = _span_s(value)
        if seconds is not None:
            return now_s() + seconds
        try:
            return parse_instant(value)
        except ValueError:
            self.fail(
                "expected never, a span from now such as 30d, a date (its first moment, UTC), "
                "or a time such as 2027-01-31T12:00:00Z",
                param,
                ctx,
            )


class _Limit(click.ParamType[int | str]):
    name = "number"

    def convert(self, value: Any, param: Any, ctx: Any) -> int | str:
        if value == "default":
            return "default"
        if _WHOLE.fullmatch(value) is None or not 1 <= int(value) <= MAX_LIMIT:
            self.fail(f"expected default, or a whole number from 1 to {MAX_LIMIT}", param, ctx)
        return int(value)


class _ScopeList(click.ParamType[frozenset[str]]):
    name = "list"

    def convert(self, value: Any, param: Any, ctx: Any) -> frozenset[str]:
        names = frozenset(part.strip() for part in value.split(",") if part.strip())
        if not names <= set(SCOPES):
            self.fail(f"expected a comma list out of: {', '.join(SCOPES)}", param, ctx)
        return names


class _ModelList(click.ParamType[frozenset[str] | str]):
    name = "list"

    def convert(self, value: Any, param: Any, ctx: Any) -> frozenset[str] | str:
        if value == "all":
            return "all"
        names = frozenset(part.strip() for part in value.split(",") if part.strip())
        good = all(name.isprintable() and len(name) <= MAX_MODEL_CHARS for name in names)
        if not names or not good:
            self.fail("expected all, or a comma list of model names", param, ctx)
        return names


class _Note(click.ParamType[str]):
    name = "text"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        if not value.isprintable() or len(value) > MAX_NOTE_CHARS:
            self.fail(
                f"expected one line of at most {MAX_NOTE_CHARS} printable characters", param, ctx
            )
        return str(value)


class _Weight(click.ParamType[float]):
    name = "number"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        try:
            weight = round(float(value), 6)
        except ValueError:
            weight = -1.0
        if not MIN_WEIGHT <= weight <= MAX_WEIGHT:
            self.fail(f"expected a number from {MIN_WEIGHT} to {MAX_WEIGHT:g}", param, ctx)
        return weight


KEY_ID = _KeyId()
SPAN = _Span()

_OPTIONS = (
    click.option("--expires", type=_When(), help="never, 30d, 2027-01-31, 2027-01-31T12:00:00Z."),
    click.option("--rpm", "--rate-limit", type=_Limit(), help="Requests per minute, or default."),
    click.option("--tpm", type=_Limit(), help="Tokens per minute, or default."),
    click.option("--concurrency", type=_Limit(), help="Requests at the same time, or default."),
    click.option("--tokens-per-day", type=_Limit(), help="Tokens per day, or default."),
    click.option("--scopes", type=_ScopeList(), help=f"Comma list out of {', '.join(SCOPES)}."),
    click.option("--priority", type=click.Choice(PRIORITIES), help="Class in the queue."),
    click.option("--weight", type=_Weight(), help="Share within its class; 1 is ordinary."),
    click.option("--models", type=_ModelList(), help="Comma list of model names, or all."),
    click.option(
        "--continue-streams/--no-continue-streams",
        default=None,
        help="Whether chat streams are continued when their engine dies.",
    ),
    click.option("--note", type=_Note(), help="One line for people."),
)

_MEANS_NONE = {"expires": "never", "models": "all"} | dict.fromkeys(LIMIT_NAMES, "default")


def settings_options(command: Command) -> Command:
    """Add the options for a key's settings to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def given_settings(options: dict[str, Any]) -> dict[str, Any]:
    """What was given among the options of `settings_options`, as `with_settings` takes it."""
    return {
        name: None if value == _MEANS_NONE.get(name) else value
        for name, value in options.items()
        if value is not None
    }


def _span_s(text: str) -> int | None:
    if text == "0":
        return 0
    match = _SPAN.fullmatch(text)
    return int(match[1]) * _SECONDS[match[2]] if match else None
