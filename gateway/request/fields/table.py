"""How a table of fields is applied to a request body.

One table per route, one row per field; what no row knows never gets through unless the operator
allows it by name. The tables are data, so that the reference page is made from them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from gateway.errors import ApiError
from gateway.request.fields.kinds import AnyValue, Kind

if TYPE_CHECKING:  # the dialects import this module
    from gateway.dialects.base import FieldPolicy, ModelFacts

__all__ = ["Fate", "Row", "Sifted", "Table", "printable", "sift"]

MAX_IGNORED = 16
MAX_NAME_CHARS = 64
_CUT_ESCAPE = re.compile(r"%[0-9A-F]?$")


class Fate(StrEnum):
    """What becomes of a field."""

    FORWARD = "forward"
    """Checked and sent on."""
    TRANSLATE = "translate"
    """Checked and handed to the dialect, which decides what the engine gets for it."""
    DROP = "drop"
    """Left out: it changes nothing about the answer's text."""
    DROP_NAMED = "drop, named in x-ignored-params"
    """Left out, and the client is told."""
    REFUSE = "refuse"
    """400: to leave it out would change what the answer means, or it is dangerous."""


_FORWARD, _TRANSLATE = Fate.FORWARD, Fate.TRANSLATE  # looked up in the enum they cost more


_ANY = AnyValue()


@dataclass(frozen=True, slots=True)
class Row:
    """One field of a route."""

    name: str
    """The field; a trailing ``*`` makes it all names with that beginning."""
    fate: Fate
    kind: Kind = _ANY
    to: str | None = None
    """The engine's name for it, where it differs; the engine's own name wins if both are sent."""
    locked: bool = False
    """Not even the operator may let it through."""
    note: str = ""


class Table:
    """The rows of one route, by name."""

    def __init__(self, name: str, *groups: Iterable[Row]) -> None:
        self.name = name
        self.rows = tuple(row for group in groups for row in group)
        self.exact = {row.name: row for row in self.rows if not row.name.endswith("*")}
        """The rows that name one field."""
        self._prefixes = tuple(
            (row.name.removesuffix("*"), row) for row in self.rows if row.name.endswith("*")
        )
        if len(self.exact) + len(self._prefixes) != len(self.rows):
            raise ValueError(f"table {name} names a field twice")

    def find(self, name: str) -> Row | None:
        """The row for a field, if there is one."""
        row = self.exact.get(name)
        if row is None:
            for prefix, wide in self._prefixes:
                if name.startswith(prefix):
                    return wide
        return row

    def __repr__(self) -> str:
        return f"<Table {self.name} {len(self.rows)} rows>"


@dataclass(slots=True)
class Sifted:
    """A body taken apart by a table."""

    forward: dict[str, Any]
    """What goes to the engine as it is."""
    translate: dict[str, Any]
    """What the dialect has to turn into something."""
    ignored: list[str]
    """Names the client is told about, as they came."""

    def ignored_names(self) -> tuple[str, ...]:
        """The names in a shape that fits a header: escaped, cut, and few."""
        if not self.ignored:
            return ()
        names = [printable(name) for name in self.ignored[:MAX_IGNORED]]
        if len(self.ignored) > MAX_IGNORED:
            names.append("...")
        return tuple(names)


def printable(name: str) -> str:
    """A client's own words made fit for headers and messages: ASCII, no separators, cut."""
    shown = quote(name[:MAX_NAME_CHARS], safe="_.-[]*:", errors="replace")[:MAX_NAME_CHARS]
    return _CUT_ESCAPE.sub("", shown)


def sift(body: dict[str, Any], table: Table, facts: ModelFacts, policy: FieldPolicy) -> Sifted:
    """
    Take *body* apart: what goes on, what is to be translated, what is ignored.

    `null` means absent, for every field.

    Raises:
        ApiError: A value is out of range, or a field is refused, or it is unknown and the
            policy refuses those.
    """
    forward: dict[str, Any] = {}
    translate: dict[str, Any] = {}
    ignored: list[str] = []
    exact = table.exact
    for name, value in body.items():
        if value is None:
            continue
        row = exact[name] if name in exact else table.find(name)
        if row is None:
            _unknown(name, value, policy, forward, ignored)
            continue
        fate = row.fate
        if fate is _TRANSLATE:
            value = row.kind.read(value, name, facts)
            if value is not None:
                translate[name] = value
        elif fate is _FORWARD:
            value = row.kind.read(value, name, facts)
            if value is not None:
                if row.to is None:
                    forward[name] = value
                else:
                    forward.setdefault(row.to, value)
        elif name in policy.allow and not row.locked:
            forward[name] = row.kind.read(value, name, facts)
        elif fate is Fate.DROP_NAMED:
            ignored.append(name)
        elif fate is Fate.REFUSE:
            raise _refused(row, name)
    return Sifted(forward, translate, ignored)


def _unknown(
    name: str, value: Any, policy: FieldPolicy, forward: dict[str, Any], ignored: list[str]
) -> None:
    if name in policy.allow:
        forward[name] = value
    elif policy.unknown == "reject":
        shown = printable(name)
        raise ApiError("unknown_parameter", f"'{shown}' is not a known parameter.", param=shown)
    else:
        ignored.append(name)


def _refused(row: Row, name: str) -> ApiError:
    shown = printable(name)
    return ApiError(
        "unsupported_parameter",
        f"'{shown}' is not supported here.",
        param=shown,
        hint=row.note or "Leave it out.",
    )
