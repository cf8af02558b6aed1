"""What a regular expression in a JSON schema costs the engine.

The engine turns ``^...$`` patterns into grammar rules and takes any other pattern for "any
string". Repetition multiplies rules, and repeating something that may be empty multiplies the
states it keeps in mind: ``^(a?){1999}$`` takes 15 seconds, ``^a{5,3}$`` all the memory there is.
"""

from __future__ import annotations

import re

__all__ = ["MAX_WEIGHT", "PatternError", "check_pattern"]

MAX_WEIGHT = 2000
"""Characters, classes and groups once all repetitions are written out."""
MAX_EMPTY_WEIGHT = 300
"""The same where what is repeated may be empty."""

_TOKEN = re.compile(
    r"""(?P<class>\[(?:[^\]\\]|\\.)*\])
    |(?P<open>\((?:\?:)?)|(?P<close>\))|(?P<or>\|)
    |(?P<star>\*)|(?P<plus>\+)|(?P<maybe>\?)|(?P<count>\{[^}]*\})
    |(?P<atom>\\.|[^\\])""",
    re.VERBOSE | re.DOTALL,
)
_COUNT = re.compile(r"\{(?:([0-9]{1,4})(,([0-9]{1,4})?)?|,([0-9]{1,4}))\}", re.ASCII)
_COUNT_LIMIT = 2000


class PatternError(ValueError):
    """Why a pattern is refused; its text completes "The schema ..."."""


class _Group:
    """An open group: weight so far, whether each finished alternative can be empty."""

    __slots__ = ("any_empty", "empty", "weight")

    def __init__(self) -> None:
        self.weight = 0
        self.empty = True  # the alternative being read
        self.any_empty = False  # one of those before it

    def closed(self) -> tuple[int, bool]:
        return self.weight, self.empty or self.any_empty


def check_pattern(pattern: str) -> None:
    """
    Refuse a pattern that would cost the engine too much.

    Raises:
        PatternError: It repeats too much, or it is no pattern.
    """
    if len(pattern) < 2 or pattern[0] != "^" or pattern[-1] != "$":
        return  # not converted
    groups = [_Group()]
    last: tuple[int, bool] | None = None  # weight and emptiness of what a quantifier would repeat
    at = 1
    for token in _TOKEN.finditer(pattern, 1, len(pattern) - 1):
        if token.start() != at or token.group() == "[":
            break  # a backslash without a character after it, a class without an end
        at = token.end()
        kind, top = token.lastgroup, groups[-1]
        if kind in ("star", "plus", "maybe", "count"):
            if last is None:
                raise PatternError("has a pattern that repeats nothing")
            last = _repeat(top, last, kind, token.group())
            continue
        if last is not None:
            top.empty = top.empty and last[1]
            last = None
        if kind == "open":
            groups.append(_Group())
        elif kind == "or":
            top.any_empty = top.any_empty or top.empty
            top.empty = True
        elif kind == "close":
            if len(groups) == 1:
                raise PatternError("has a pattern with unbalanced parentheses")
            last = groups.pop().closed()
            groups[-1].weight += last[0]
        else:
            last = (1, False)
            top.weight += 1
        if groups[-1].weight > MAX_WEIGHT:
            raise PatternError("has a pattern that repeats too much")
    if at != len(pattern) - 1 or len(groups) != 1:
        raise PatternError("has a pattern that does not end properly")


def _repeat(group: _Group, last: tuple[int, bool], kind: str, text: str) -> tuple[int, bool]:
    """Account for a quantifier after something of weight and emptiness *last*."""
    weight, empty = last
    least, most = _bounds(kind, text)
    times = max(most if most is not None else least, 1)
    added = weight * (times - 1)
    group.weight += added
    if empty and (most is None or most > 1):
        if most is None:
            # the engine calls endless repetition of nothing left recursion
            raise PatternError("has a pattern that repeats without end what may be empty")
        if weight * times > MAX_EMPTY_WEIGHT:
            raise PatternError("has a pattern that repeats too often what may be empty")
    if group.weight > MAX_WEIGHT:
        raise PatternError("has a pattern that repeats too much")
    return weight * times, empty or least == 0


def _bounds(kind: str, text: str) -> tuple[int, int | None]:
    if kind == "star":
        return 0, None
    if kind == "plus":
        return 1, None
    if kind == "maybe":
        return 0, 1
    found = _COUNT.fullmatch(text)
    if found is None:
        raise PatternError("has a pattern with a count that is none")
    least_text, comma, most_text, only_most = found.groups()
    least = int(least_text or 0)
    if only_most is not None:
        most: int | None = int(only_most)
    elif comma is None:
        most = least
    else:
        most = int(most_text) if most_text is not None else None
    if least >= _COUNT_LIMIT or (most is not None and (most >= _COUNT_LIMIT or most < least)):
        raise PatternError(f"has a pattern with a count over {_COUNT_LIMIT} or upside down")
    return least, most
