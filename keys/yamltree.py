"""YAML text to a small tree of nodes that know their lines. PURE.

Why not ``yaml.safe_load``: it forgets lines, takes the last of two equal keys without a word,
follows aliases (a few hundred bytes can stand for gigabytes), and needs two seconds for 10,000
keys. Here the parser's events are read directly: nothing is resolved, constructed or imported,
every scalar stays text until the schema in `keys.records` says what it must be, and each node
carries its line at no extra cost. The members of one large mapping can be handed over one by one,
so that a file with 10,000 keys never stands in memory as a quarter of a million nodes.

Refused: anchors, aliases, tags, more than one document, nesting deeper than any keys file has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.events import (
    AliasEvent,
    DocumentEndEvent,
    DocumentStartEvent,
    MappingEndEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)

from keys.errors import RecordProblem, RecordsInvalid

__all__ = ["Mapping", "Node", "Scalar", "Sequence", "Tree", "parse_tree"]

MAX_DEPTH = 8

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(slots=True)
class Scalar:
    """A piece of text; *plain* means it was written without quotes."""

    line: int
    text: str
    plain: bool

    @property
    def is_null(self) -> bool:
        """Whether this is YAML's way of saying nothing."""
        return self.plain and self.text in ("", "~", "null")


@dataclass(slots=True)
class Sequence:
    """A list."""

    line: int
    items: list[Node] = field(default_factory=list)


@dataclass(slots=True)
class Mapping:
    """A mapping; *items* keeps the order and never holds a name twice."""

    line: int
    items: dict[str, tuple[int, Node]] = field(default_factory=dict)
    """Name to (line of the name, value)."""


Node = Scalar | Sequence | Mapping
Member = Callable[[str, int, Node], None]
"""Takes a member's name, the line of the name, and its value."""


@dataclass(slots=True)
class Tree:
    """A parsed document.

    Args:
        root: The top node.
        ended: Whether the text ends with the document end mark ``...``.
        last_line: Where the text ends.
        problems: Names that occur twice; the rest of the tree is still good to look at.
    """

    root: Node
    ended: bool
    last_line: int
    problems: list[RecordProblem]


def parse_tree(text: str, streamed: str, member: Member) -> Tree:
    """Parse one YAML document.

    Args:
        text: The whole document.
        streamed: A name in the top mapping. If its value is a mapping too, that one stays empty
            in the tree, and *member* is called for each of its members instead.
        member: Called in the order of the text, for the first of equal names only.

    Raises:
        RecordsInvalid: It is not YAML, or uses what is refused here; *member* may have been
            called for what came before.
    """
    try:
        loader = _Loader(text)
        try:
            return _Composer(loader.get_event, streamed, member).document()
        finally:
            loader.dispose()
    except yaml.YAMLError as exc:
        raise RecordsInvalid([_syntax_problem(exc)]) from None


def _syntax_problem(exc: yaml.YAMLError) -> RecordProblem:
    """Say where the syntax breaks. The parser's own text may quote the file, so it is checked."""
    mark = getattr(exc, "problem_mark", None)
    problem = getattr(exc, "problem", None)
    line = mark.line + 1 if mark is not None else 1
    if not problem or "'" in problem or '"' in problem:
        return RecordProblem(line, "this is not valid YAML")
    return RecordProblem(line, f"this is not valid YAML ({problem})")


class _Composer:
    def __init__(self, next_event: Callable[[], Any], streamed: str, member: Member) -> None:
        self._next = next_event
        self._streamed = streamed
        self._member = member
        self._problems: list[RecordProblem] = []

    def document(self) -> Tree:
        self._next()  # the start of the stream
        start = self._next()
        if not isinstance(start, DocumentStartEvent):
            raise _refusal(start, "the file is empty")
        root = self._node(self._next(), 0)
        end: DocumentEndEvent = self._next()
        after = self._next()
        if not isinstance(after, StreamEndEvent):
            raise _refusal(after, "there must be nothing after the end mark '...'")
        return Tree(root, bool(end.explicit), _line(after), self._problems)

    def _node(self, event: Any, depth: int, name: str | None = None) -> Node:
        if type(event) is AliasEvent:
            raise _refusal(event, "aliases (*name) are not allowed")
        if event.anchor is not None:
            raise _refusal(event, "anchors (&name) are not allowed")
        if event.tag is not None:
            raise _refusal(event, "tags (!name) are not allowed")
        if type(event) is ScalarEvent:
            return Scalar(_line(event), event.value, event.implicit[0])
        if depth >= MAX_DEPTH:
            raise _refusal(event, "this is nested too deeply")
        if type(event) is SequenceStartEvent:
            return self._sequence(event, depth + 1)
        found = Mapping(_line(event))
        if depth == 1 and name == self._streamed:
            self._stream(depth + 1)
        else:
            self._fill(found.items, depth + 1)
        return found

    def _sequence(self, start: Any, depth: int) -> Sequence:
        found = Sequence(_line(start))
        while type(event := self._next()) is not SequenceEndEvent:
            found.items.append(self._node(event, depth))
        return found

    def _fill(self, items: dict[str, tuple[int, Node]], depth: int) -> None:
        while type(event := self._next()) is not MappingEndEvent:
            name = self._name(event, depth)
            value = self._node(self._next(), depth, name.text)
            if name.text in items:
                self._repeated(name, items[name.text][0])
            else:
                items[name.text] = (name.line, value)

    def _stream(self, depth: int) -> None:
        lines: dict[str, int] = {}
        while type(event := self._next()) is not MappingEndEvent:
            name = self._name(event, depth)
            value = self._node(self._next(), depth)
            if name.text in lines:
                self._repeated(name, lines[name.text])
            else:
                lines[name.text] = name.line
                self._member(name.text, name.line, value)

    def _name(self, event: Any, depth: int) -> Scalar:
        if type(event) is not ScalarEvent:
            raise _refusal(event, "the name of a field must be plain text")
        name = self._node(event, depth)
        assert isinstance(name, Scalar)
        return name

    def _repeated(self, name: Scalar, first_line: int) -> None:
        self._problems.append(
            RecordProblem(name.line, f"the same name was used before, on line {first_line}")
        )


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


def _refusal(event: Any, message: str) -> RecordsInvalid:
    return RecordsInvalid([RecordProblem(_line(event), message)])
