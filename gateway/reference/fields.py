"""PURE. Tables of fields as tables on a page.

Groups of rows that several routes have in common are told once, and named by the routes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from gateway.request.fields.rows import (
    CHOICES,
    ENGINE_ONLY,
    LIMITS,
    REFUSED,
    SAMPLING,
    STREAM,
    WITHOUT_EFFECT,
)
from gateway.request.fields.table import Fate, Row, Table

__all__ = ["SHARED", "Shared", "link", "own_fields", "rows_table", "shared_fields", "table"]


@dataclass(frozen=True, slots=True)
class Shared:
    """Rows that several routes have, under a title of their own."""

    title: str
    rows: tuple[Row, ...]
    words: str
    """What stands before the table."""


SHARED = (
    Shared(
        "Length, number and stream",
        (*LIMITS, CHOICES, *STREAM),
        "A token limit is always sent to the engine, at most what a slot holds and the operator's\n"
        "[`MAX_TOKENS_CAP`](settings.md#max_tokens_cap). Without one in the request it is the most"
        "\nthat fits, or what the key has left of its tokens.",
    ),
    Shared(
        "Sampling",
        tuple(SAMPLING),
        "Out of range is 400 with `param`, never quietly clamped. Those behind `logit_bias` are\n"
        "llama.cpp's own: SDKs send them through `extra_body`.",
    ),
    Shared(
        "Fields without effect",
        tuple(WITHOUT_EFFECT),
        "OpenAI's, dropped without a word: they change nothing about the text of an answer from\n"
        "this engine.",
    ),
    Shared(
        "Fields that are ignored",
        tuple(ENGINE_ONLY),
        "The engine's internals and other servers' extras, dropped and named in\n"
        "`x-ignored-params`.",
    ),
    Shared(
        "Fields that are refused",
        tuple(REFUSED),
        "400 `unsupported_parameter`: an answer without them would not mean what was asked for.",
    ),
)

_FATES = {
    Fate.FORWARD: "forwarded",
    Fate.TRANSLATE: "translated",
    Fate.DROP: "dropped",
    Fate.DROP_NAMED: "dropped and named",
    Fate.REFUSE: "refused",
}


def own_fields(source: Table) -> str:
    """The table of what only this route has, and where to find the rest."""
    left = list(source.rows)
    named: list[str] = []
    for group in SHARED:
        missing = [row for row in group.rows if row not in left]
        if 2 * len(missing) > len(group.rows):
            continue  # too few to speak of the group: they are listed
        left = [row for row in left if row not in group.rows]
        without = f" (but {names(missing)})" if missing else ""
        named.append(f"[{group.title.lower()}]({link(group.title)}){without}")
    parts = [rows_table(left)] if left else []
    if named:
        parts.append("Also: " + ", ".join(named) + ".\n")
    return "\n".join(parts)


def shared_fields() -> str:
    """Every shared group, told once."""
    parts = []
    for group in SHARED:
        # Fields without values or notes of their own need no table.
        silent = {_but_its_name(row) for row in group.rows} == {Row("", group.rows[0].fate)}
        body = names(group.rows) + ".\n" if silent else rows_table(group.rows)
        parts.append(f"### {group.title}\n\n{group.words}\n\n{body}")
    return "\n".join(parts)


def rows_table(rows: Iterable[Row]) -> str:
    """Rows beside each other that are of one kind and fate become one line."""
    lines = []
    for _, alike in groupby(rows, _but_its_name):
        first, *more = alike
        lines.append((names([first, *more]), first.kind.describe(), _happens(first)))
    return table(("field", "values", "what happens"), lines)


def _but_its_name(row: Row) -> Row:
    return replace(row, name="")


def _happens(row: Row) -> str:
    words = _FATES[row.fate] + (f" as `{row.to}`" if row.to else "")
    if row.fate is Fate.REFUSE and not row.locked:
        words += ", unless the operator [allows it](settings.md#allow_fields)"
    return f"{words}. {row.note}" if row.note else words


def names(rows: Iterable[Row]) -> str:
    """Names of fields, as code."""
    return ", ".join(f"`{row.name}`" for row in rows)


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    shown = [" | ".join(cell.replace("|", "\\|") for cell in line) for line in lines]
    parts = [" | ".join(head), "|".join("---" for _ in head), *shown]
    bare = [f"| {part} |" if at != 1 else f"|{part}|" for at, part in enumerate(parts)]
    return "\n".join(bare) + "\n"


def link(title: str) -> str:
    """The anchor of a heading on the same page, as GitHub makes it."""
    kept = "".join(c for c in title.lower() if c.isalnum() or c in "-_ ")
    return "#" + kept.replace(" ", "-")
