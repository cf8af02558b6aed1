"""Kinds of field values: what passes, in which range, and how it reads in the reference.

A kind's `read` returns the value to send, or `None` for "as if it were absent". It raises
`ApiError` with the exact field. Integers may be written ``5.0``, as many clients compute them;
strings and booleans are never numbers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from gateway.errors import ApiError

if TYPE_CHECKING:  # the dialects import this module
    from gateway.dialects.base import ModelFacts

__all__ = [
    "AnyValue",
    "Flag",
    "Grammar",
    "Integer",
    "Kind",
    "LogitBias",
    "Number",
    "OneOf",
    "Seed",
    "Stop",
    "Text",
    "Texts",
    "TokenLimit",
    "wrong_type",
    "wrong_value",
]

Bound = int | Literal["context", "vocab"]
"""A number, or the slot's context, or the vocabulary's size less one (unbounded while unknown)."""

_BOUND_WORDS = {"context": "the context of a slot", "vocab": "the last token's id"}
_INT32_MAX = 2**31 - 1
_INT64_MAX = 2**63 - 1


class Kind(Protocol):
    """What a table row says about a value."""

    def read(self, value: Any, param: str, facts: ModelFacts) -> Any:
        """The value to send; raises `ApiError` 400 with *param*."""

    def describe(self) -> str:
        """For the reference page and for error messages: "a number from 0 to 2"."""


def wrong_type(param: str, wanted: str) -> ApiError:
    """A 400 for a value that is not of the kind *wanted* names."""
    return ApiError("invalid_type", f"'{param}' must be {wanted}.", param=param)


def wrong_value(param: str, wanted: str) -> ApiError:
    """A 400 for a value of the right kind that is out of range."""
    return ApiError("invalid_value", f"'{param}' must be {wanted}.", param=param)


def as_integer(value: Any) -> int | None:
    """The integer a JSON number stands for; `None` if it stands for none."""
    if type(value) is int:
        return value
    if type(value) is float and value.is_integer():
        return int(value)
    return None


def _resolve(bound: Bound, facts: ModelFacts) -> int:
    if bound == "context":
        return facts.context_tokens
    if bound == "vocab":
        return _INT32_MAX if facts.vocab_size is None else facts.vocab_size - 1
    return bound


def _shown(bound: Bound) -> str:
    return str(bound) if isinstance(bound, int) else _BOUND_WORDS[bound]


@dataclass(frozen=True, slots=True)
class Integer:
    """A whole number from *low* to *high*."""

    low: int
    high: Bound
    minus_one: Bound | None = None
    """What -1 stands for, where the engine refuses it although its documentation offers it."""

    def read(self, value: Any, param: str, facts: ModelFacts) -> int:
        number = value if type(value) is int else as_integer(value)
        if number is None:
            raise wrong_type(param, self.describe())
        if number == -1 and self.minus_one is not None:
            return _resolve(self.minus_one, facts)
        high = self.high if type(self.high) is int else _resolve(self.high, facts)
        if not self.low <= number <= high:
            endless = self.high == _INT64_MAX
            raise wrong_value(
                param, self.describe() if endless else f"an integer from {self.low} to {high}"
            )
        return number

    def describe(self) -> str:
        also = "" if self.minus_one is None else f" (-1: {_shown(self.minus_one)})"
        if self.high == _INT64_MAX:
            return f"an integer, at least {self.low}{also}"
        return f"an integer from {self.low} to {_shown(self.high)}{also}"


@dataclass(frozen=True, slots=True)
class TokenLimit:
    """At least one token; -1, which llama.cpp has for "no limit", counts as absent."""

    def read(self, value: Any, param: str, facts: ModelFacts) -> int | None:
        number = value if type(value) is int else as_integer(value)
        if number is None:
            raise wrong_type(param, self.describe())
        if number == -1:
            return None
        if not 1 <= number <= _INT64_MAX:
            raise wrong_value(param, self.describe())
        return number

    def describe(self) -> str:
        return "an integer, at least 1"


@dataclass(frozen=True, slots=True)
class Number:
    """A number from *low* to *high*."""

    low: float
    high: float
    above: bool = False
    """Whether *low* itself is out of range."""

    def read(self, value: Any, param: str, facts: ModelFacts) -> float:
        if type(value) is not float and type(value) is not int:
            raise wrong_type(param, self.describe())
        if not self.low <= value <= self.high or (self.above and value == self.low):
            raise wrong_value(param, self.describe())
        return value

    def describe(self) -> str:
        start = "above" if self.above else "from"
        return f"a number {start} {self.low:g} to {self.high:g}"


@dataclass(frozen=True, slots=True)
class Seed:
    """Any 64-bit integer, folded into the engine's 32 bits; -1 means random."""

    def read(self, value: Any, param: str, facts: ModelFacts) -> int:
        number = as_integer(value)
        if number is None:
            raise wrong_type(param, self.describe())
        if not -(2**63) <= number < 2**64:
            raise wrong_value(param, self.describe())
        # 2**32 - 1 is the engine's own word for "random" and must not be hit by chance
        return number if number == -1 else number % (2**32 - 1)

    def describe(self) -> str:
        return "a 64-bit integer (-1: random)"


@dataclass(frozen=True, slots=True)
class Flag:
    """true or false."""

    numbers: bool = False
    """Whether 0 and 1 will do."""

    def read(self, value: Any, param: str, facts: ModelFacts) -> bool:
        if value is True or value is False:
            return value
        if self.numbers and type(value) in (int, float) and value in (0, 1):
            return bool(value)
        raise wrong_type(param, self.describe())

    def describe(self) -> str:
        return "a boolean"


@dataclass(frozen=True, slots=True)
class Text:
    """A string."""

    max_chars: int

    def read(self, value: Any, param: str, facts: ModelFacts) -> str:
        if not isinstance(value, str):
            raise wrong_type(param, self.describe())
        if len(value) > self.max_chars:
            raise wrong_value(param, self.describe())
        return value

    def describe(self) -> str:
        return f"a string of at most {self.max_chars} characters"


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of a few words."""

    words: tuple[str, ...]

    def read(self, value: Any, param: str, facts: ModelFacts) -> str:
        if not isinstance(value, str):
            raise wrong_type(param, self.describe())
        if value not in self.words:
            raise wrong_value(param, self.describe())
        return value

    def describe(self) -> str:
        return "one of " + ", ".join(f"'{word}'" for word in self.words)


@dataclass(frozen=True, slots=True)
class Texts:
    """A list of strings; an empty one counts as absent."""

    max_items: int
    max_chars: int

    def read(self, value: Any, param: str, facts: ModelFacts) -> list[str] | None:
        if not isinstance(value, list):
            raise wrong_type(param, self.describe())
        return _read_texts(value, param, self.max_items, self.max_chars, self.describe())

    def describe(self) -> str:
        return f"a list of at most {self.max_items} strings of at most {self.max_chars} characters"


@dataclass(frozen=True, slots=True)
class Stop:
    """A string or a list of strings. Empty ones end every answer at once and are left out."""

    max_items: int = 16
    max_chars: int = 256

    def read(self, value: Any, param: str, facts: ModelFacts) -> list[str] | None:
        if isinstance(value, str):
            value = [value]
        if not isinstance(value, list):
            raise wrong_type(param, self.describe())
        found = _read_texts(value, param, self.max_items, self.max_chars, self.describe())
        return [text for text in found or () if text] or None

    def describe(self) -> str:
        return (
            f"a string or a list of at most {self.max_items} strings,"
            f" of at most {self.max_chars} characters"
        )


def _read_texts(
    value: list[Any], param: str, max_items: int, max_chars: int, wanted: str
) -> list[str] | None:
    if len(value) > max_items:
        raise wrong_value(param, wanted)
    for index, text in enumerate(value):
        if not isinstance(text, str):
            raise wrong_type(f"{param}[{index}]", "a string")
        if len(text) > max_chars:
            raise wrong_value(f"{param}[{index}]", f"at most {max_chars} characters long")
    return value or None


@dataclass(frozen=True, slots=True)
class LogitBias:
    """Token ids to a number; the engine would tokenize any other key, and so take it as text."""

    max_items: int = 1024

    def read(self, value: Any, param: str, facts: ModelFacts) -> dict[str, float] | None:
        if not isinstance(value, dict):
            raise wrong_type(param, self.describe())
        if len(value) > self.max_items:
            raise wrong_value(param, self.describe())
        highest = _resolve("vocab", facts)
        for token, bias in value.items():
            if not _TOKEN.fullmatch(token) or int(token) > highest:
                raise wrong_value(param, "an object whose keys are token ids of this model")
            if type(bias) not in (int, float):
                raise wrong_type(param, self.describe())
            if not -100 <= bias <= 100:
                raise wrong_value(param, self.describe())
        return value or None

    def describe(self) -> str:
        return f"an object of at most {self.max_items} token ids, each with a number -100 to 100"


_TOKEN = re.compile(r"[0-9]{1,10}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Grammar:
    """A GBNF text, where the operator lets one in: the engine's parser recurses on groups."""

    max_chars: int = 16 * 1024
    max_depth: int = 32

    def read(self, value: Any, param: str, facts: ModelFacts) -> str:
        if not isinstance(value, str):
            raise wrong_type(param, self.describe())
        # Counted whether quoted or not: the bound may refuse too much, never too little.
        if len(value) > self.max_chars or value.count("(") > self.max_chars // 8:
            raise wrong_value(param, self.describe())
        depth = 0
        for bracket in re.findall(r"[()]", value):
            depth = depth + 1 if bracket == "(" else max(0, depth - 1)
            if depth > self.max_depth:
                raise wrong_value(param, self.describe())
        return value

    def describe(self) -> str:
        return f"a grammar of at most {self.max_chars} characters, {self.max_depth} groups deep"


@dataclass(frozen=True, slots=True)
class AnyValue:
    """Whatever it is: for fields that are dropped, or that a rebuild looks into by itself."""

    words: str = "any value"

    def read(self, value: Any, param: str, facts: ModelFacts) -> Any:
        return value

    def describe(self) -> str:
        return self.words
