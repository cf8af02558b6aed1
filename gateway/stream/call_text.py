"""PURE. Reads calls written as JSON text, cut anywhere, and passes their parts on as they come.

One call is ``{"name": "f", "arguments": {...}}``; there may be a list of them. Names and arguments
come out as they were written. Arguments are looked at a second time when they have ended: what was
passed on as a call has to be JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import NamedTuple, NoReturn

__all__ = ["CallPart", "CallText"]

_MAX_NAME_CHARS = 1024  # the names of tools have at most 128

# What comes between the parts that differ; a blank here stands for any number of them.
_HEAD = ' { "name" : "'
_MIDDLE = ' , "arguments" : '
_TAIL = " }"

_BLANKS = " \t\n\r"
_STRING_MARKS = re.compile(r'["\\]')
_NESTING_MARKS = re.compile(r'["{}\[\]]')
_SCALAR_END = re.compile(r"[,}\s]")


class CallPart(NamedTuple):
    """The beginning of a call, or a piece of its arguments."""

    call: int
    """From 0."""
    name: str | None
    """Of the function, at the beginning; then `None`."""
    arguments: str = ""


class CallText:
    """The text of one answer, from its first piece to its last."""

    __slots__ = (
        "_arguments",
        "_call",
        "_depth",
        "_escaped",
        "_expected",
        "_in_string",
        "_listed",
        "_name",
        "_place",
        "_read",
        "_then",
        "complete",
    )

    def __init__(self) -> None:
        self.complete = False
        """All calls have come to their end; nothing but blanks may follow."""
        self._listed = False
        self._call = -1
        self._name: list[str] = []
        self._arguments: list[str] = []
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self._expected = ""
        self._place = 0
        self._read: _Reader = self._first
        self._then: _Reader = self._first

    def feed(self, text: str) -> list[CallPart]:
        """
        What the next piece of text brings.

        Raises:
            ValueError: It is no part of a call.
        """
        made: list[CallPart] = []
        at = 0
        while at < len(text):
            at = self._read(text, at, made)
        return made

    # -- each reads from *at*, adds to *made*, and returns how far it got

    def _first(self, text: str, at: int, made: list[CallPart]) -> int:
        if text[at] in _BLANKS:
            return at + 1
        self._listed = text[at] == "["
        self._expect(_HEAD, self._read_name)
        return at + self._listed

    def _expect(self, expected: str, then: _Reader) -> None:
        self._expected = expected
        self._place = 0
        self._read = self._literal
        self._then = then

    def _literal(self, text: str, at: int, made: list[CallPart]) -> int:
        wanted = self._expected[self._place]
        if wanted == " " and text[at] in _BLANKS:
            return at + 1
        if wanted not in (" ", text[at]):
            _refuse()
        self._place += 1
        if self._place == len(self._expected):
            self._read = self._then
            self.complete = self._expected is _TAIL and not self._listed
        return at + (wanted != " ")

    def _read_name(self, text: str, at: int, made: list[CallPart]) -> int:
        mark = _STRING_MARKS.search(text, at)
        end = len(text) if mark is None else mark.start()
        self._name.append(text[at:end])
        if sum(map(len, self._name)) > _MAX_NAME_CHARS:
            _refuse()
        if mark is None:
            return end
        if mark[0] == "\\":  # no tool has a name that needs it
            _refuse()
        self._call += 1
        made.append(CallPart(self._call, "".join(self._name)))
        self._name.clear()
        self._expect(_MIDDLE, self._begin_arguments)
        return end + 1

    def _begin_arguments(self, text: str, at: int, made: list[CallPart]) -> int:
        self._arguments.clear()
        self._depth = 0
        self._in_string = self._escaped = False
        self._read = self._nested if text[at] in '{["' else self._scalar
        return at

    def _nested(self, text: str, at: int, made: list[CallPart]) -> int:
        end = at
        while end < len(text):
            if self._escaped:
                self._escaped = False
                end += 1
                continue
            marks = _STRING_MARKS if self._in_string else _NESTING_MARKS
            mark = marks.search(text, end)
            if mark is None:
                end = len(text)
                break
            end = mark.end()
            if self._passes(mark[0]):
                self._pass_on(text[at:end], made)
                self._end_arguments()
                return end
        self._pass_on(text[at:end], made)
        return end

    def _passes(self, mark: str) -> bool:
        """Take note of a mark; return whether it ends the arguments."""
        if mark == "\\":
            self._escaped = True
            return False
        if mark == '"':
            self._in_string = not self._in_string
            return not (self._in_string or self._depth)
        self._depth += 1 if mark in "{[" else -1
        return self._depth == 0

    def _scalar(self, text: str, at: int, made: list[CallPart]) -> int:
        mark = _SCALAR_END.search(text, at)
        end = len(text) if mark is None else mark.start()
        self._pass_on(text[at:end], made)
        if mark is not None:
            self._end_arguments()
        return end

    def _pass_on(self, arguments: str, made: list[CallPart]) -> None:
        if arguments:
            self._arguments.append(arguments)
            made.append(CallPart(self._call, None, arguments))

    def _end_arguments(self) -> None:
        try:
            # The standard library's, as half a surrogate pair written as an escape is no error.
            json.loads("".join(self._arguments), parse_constant=_refuse)
        except RecursionError:
            _refuse()
        self._arguments.clear()
        self._expect(_TAIL, self._after if self._listed else self._blanks)

    def _after(self, text: str, at: int, made: list[CallPart]) -> int:
        if text[at] == ",":
            self._expect(_HEAD, self._read_name)
        elif text[at] == "]":
            self._read = self._blanks
            self.complete = True
        elif text[at] not in _BLANKS:
            _refuse()
        return at + 1

    def _blanks(self, text: str, at: int, made: list[CallPart]) -> int:
        if text[at:].strip(_BLANKS):
            _refuse()
        return len(text)

    def __repr__(self) -> str:
        return f"<CallText {self._call + 1} calls{' complete' if self.complete else ''}>"


_Reader = Callable[[str, int, list[CallPart]], int]


def _refuse(_: str = "") -> NoReturn:
    raise ValueError("the engine's text is no tool call")
