"""PURE: the kinds of values a setting can have, and how people write them.

Each kind knows three things: how to read what was written (`read`), what would be right (`right`,
the end of the sentence "must be ..."), and how to write a value back (`show`). A field of
`Settings` names its kind in its annotation, so the error texts, the reference page and the checks
cannot drift apart.

Rules:
- text (environment, flags) and YAML's own types are both read; a YAML ``true`` is no number, and
  a number with a fraction is no whole number;
- `read` raises ValueError whose text never repeats the value, which may be a secret.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

from pydantic_core import CoreSchema, core_schema

__all__ = [
    "Args",
    "Duration",
    "FilePath",
    "Flag",
    "Kind",
    "Number",
    "Size",
    "Text",
    "Url",
    "Whole",
    "Word",
    "Words",
]

T = TypeVar("T")

_TRUE = frozenset({"1", "true", "yes", "on", "y", "t"})
_FALSE = frozenset({"0", "false", "no", "off", "n", "f"})
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?", re.ASCII)
_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, None: 1.0}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)", re.ASCII)
_SIZE_UNITS = {
    **dict.fromkeys(("", "b"), 1),
    **dict.fromkeys(("k", "ki", "kib"), 1 << 10),
    **dict.fromkeys(("m", "mi", "mib"), 1 << 20),
    **dict.fromkeys(("g", "gi", "gib"), 1 << 30),
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
}


class Kind(Generic[T]):
    """How one kind of value is read, explained and written."""

    unset_word: str | None = None
    """The word that stands for None ("auto"), where None is a value of the setting."""

    def read(self, raw: object) -> T:
        """The value behind *raw*; ValueError says what would be right."""
        raise NotImplementedError

    def right(self) -> str:
        """The end of the sentence "must be ..."."""
        raise NotImplementedError

    def show(self, value: Any) -> str:
        """*value* as one may write it in the environment; what is secret in it is masked."""
        return str(value)

    def __get_pydantic_core_schema__(
        self, source: object, handler: Callable[[object], CoreSchema]
    ) -> CoreSchema:
        """One plain function per field keeps the model's start-up cost small."""
        return core_schema.no_info_plain_validator_function(self._read_or_unset)

    def explain(self) -> str:
        """`right`, with the word for None where there is one."""
        return f"{self.right()}, or {self.unset_word}" if self.unset_word else self.right()

    def write(self, value: Any) -> str:
        """`show`, with the word for None where there is one."""
        return (self.unset_word or "") if value is None else self.show(value)

    def _read_or_unset(self, raw: object) -> T | None:
        if self.unset_word and (
            raw is None or (isinstance(raw, str) and raw.strip().lower() == self.unset_word)
        ):
            return None
        return self.read(raw)

    def _wrong(self) -> ValueError:
        return ValueError(f"must be {self.explain()}")


@dataclass(frozen=True, slots=True)
class Whole(Kind[int]):
    """A whole number from *low* to *high*, both allowed."""

    low: int = 0
    high: int | None = None
    unset_word: str | None = None

    def read(self, raw: object) -> int:
        """Digits with an optional sign; nothing else."""
        if isinstance(raw, str) and re.fullmatch(r"\s*[+-]?\d{1,18}\s*", raw, re.ASCII):
            raw = int(raw)
        if type(raw) is not int or raw < self.low or (self.high is not None and raw > self.high):
            raise self._wrong()
        return raw

    def right(self) -> str:
        """The range."""
        if self.high is None:
            return f"a whole number, at least {self.low}"
        return f"a whole number from {self.low} to {self.high}"


@dataclass(frozen=True, slots=True)
class Number(Kind[float]):
    """A finite number from *low* to *high*."""

    low: float = 0.0
    high: float = math.inf
    unset_word: str | None = None

    def read(self, raw: object) -> float:
        """Plain decimal notation."""
        value = _finite(raw)
        if value is None or not self.low <= value <= self.high:
            raise self._wrong()
        return value

    def right(self) -> str:
        """The range."""
        upper = "" if self.high == math.inf else f" and at most {self.high:g}"
        return f"a number, at least {self.low:g}{upper}"

    def show(self, value: Any) -> str:
        """Without a needless fraction."""
        return f"{value:g}"


@dataclass(frozen=True, slots=True)
class Duration(Kind[float]):
    """Seconds: ``30``, ``30s``, ``1.5s``, ``250ms``, ``5m``, ``2h``."""

    low: float = 0.0
    high: float = 86400.0 * 366
    unset_word: str | None = None

    def read(self, raw: object) -> float:
        """Seconds as a float."""
        value: float | None = None
        if isinstance(raw, str):
            if match := _DURATION.fullmatch(raw.strip().lower()):
                value = float(match[1]) * _DURATION_UNITS[match[2]]
        else:
            value = _finite(raw)
        if value is None or not self.low <= value <= self.high:
            raise self._wrong()
        return value

    def right(self) -> str:
        """With examples of the notation."""
        least = f", at least {self.low:g} s" if self.low > 0 else ""
        most = f", at most {self.high:g} s" if self.high < 86400.0 * 366 else ""
        return f"seconds, such as 30, 30s, 5m or 2h{least}{most}"

    def show(self, value: Any) -> str:
        """Whole seconds without a fraction."""
        return f"{value:.10g}"


@dataclass(frozen=True, slots=True)
class Size(Kind[int]):
    """Bytes: ``8388608``, ``8MiB``, ``8M``, ``30MB``."""

    low: int = 0
    high: int | None = None
    unset_word: str | None = None

    def read(self, raw: object) -> int:
        """Bytes as an int; a fraction of a byte is refused."""
        value: int | None = None
        if isinstance(raw, str):
            match = _SIZE.fullmatch(raw.strip().lower())
            if match and match[2] in _SIZE_UNITS:
                exact = float(match[1]) * _SIZE_UNITS[match[2]]
                value = int(exact) if exact == int(exact) else None
        elif type(raw) is int:
            value = raw
        if value is None or value < self.low or (self.high is not None and value > self.high):
            raise self._wrong()
        return value

    def right(self) -> str:
        """With examples of the notation."""
        least = f", at least {self.show(self.low)}" if self.low > 0 else ""
        most = f", at most {self.show(self.high)}" if self.high is not None else ""
        return f"a size, such as 8MiB or 8388608{least}{most}"

    def show(self, value: Any) -> str:
        """The largest binary unit that divides it, else plain bytes."""
        for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
            if value and value % factor == 0:
                return f"{value // factor}{unit}"
        return str(value)


@dataclass(frozen=True, slots=True)
class Flag(Kind[bool]):
    """On or off, in the usual words."""

    def read(self, raw: object) -> bool:
        """true/false, yes/no, on/off, 1/0 in any case."""
        word = raw.strip().lower() if isinstance(raw, str) else raw
        if word is True or word in _TRUE:
            return True
        if word is False or word in _FALSE:
            return False
        raise self._wrong()

    def right(self) -> str:
        """The two words we write ourselves."""
        return "true or false"

    def show(self, value: Any) -> str:
        """As YAML writes it."""
        return "true" if value else "false"


@dataclass(frozen=True, slots=True)
class Word(Kind[str]):
    """One of a few words, in any case."""

    choices: tuple[str, ...]
    unset_word: str | None = None

    def read(self, raw: object) -> str:
        """The word in lower case."""
        # YAML reads a bare off/no/on/yes as a boolean.
        text = {True: "on", False: "off"}.get(raw) if isinstance(raw, bool) else raw
        word = str(text).strip().lower() if isinstance(text, str | int) else ""
        if word not in self.choices:
            raise self._wrong()
        return word

    def right(self) -> str:
        """All the choices."""
        return "one of " + ", ".join(self.choices)


@dataclass(frozen=True, slots=True)
class Text(Kind[str]):
    """One line of text; *pattern* bounds it, *what* names it."""

    what: str
    pattern: str = r"[^\x00-\x1f\x7f]{1,4096}"
    unset_word: str | None = None

    def read(self, raw: object) -> str:
        """The text without blanks around it."""
        text = str(raw) if type(raw) is int else raw
        if not isinstance(text, str) or not re.fullmatch(self.pattern, text.strip()):
            raise self._wrong()
        return text.strip()

    def right(self) -> str:
        """Its name."""
        return self.what


@dataclass(frozen=True, slots=True)
class Url(Kind[str]):
    """An http(s) URL without credentials in it."""

    unset_word: str | None = None

    def read(self, raw: object) -> str:
        """The URL; ``user:password@`` is refused, because URLs end up in logs."""
        if not isinstance(raw, str):
            raise self._wrong()
        try:
            parts = urlsplit(raw.strip())
            _ = parts.port
        except ValueError:
            raise self._wrong() from None
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise self._wrong()
        return raw.strip()

    def right(self) -> str:
        """What is allowed in it."""
        return "an http:// or https:// URL without user name and password"

    def show(self, value: Any) -> str:
        """The query is masked: signed download links carry their secret there."""
        base, mark, _ = str(value).partition("?")
        return f"{base}?***" if mark else base


@dataclass(frozen=True, slots=True)
class FilePath(Kind[Path]):
    """A path of a file or folder; ``~`` is the home directory."""

    unset_word: str | None = None

    def read(self, raw: object) -> Path:
        """The path, not resolved and not looked at."""
        if not isinstance(raw, str | Path) or not str(raw).strip() or "\0" in str(raw):
            raise self._wrong()
        try:
            return Path(str(raw).strip()).expanduser()
        except RuntimeError:
            raise ValueError("must be a path; the home directory for ~ is not known") from None

    def right(self) -> str:
        """Nothing more is asked of it here."""
        return "a path"


@dataclass(frozen=True, slots=True)
class Words(Kind[tuple[Any, ...]]):
    """A list, with commas in text; *each* reads one entry and raises ValueError."""

    what: str
    each: Callable[[str], Any] = str

    def read(self, raw: object) -> tuple[Any, ...]:
        """The entries in their order, empty ones left out."""
        if isinstance(raw, str):
            parts = raw.split(",")
        elif isinstance(raw, list | tuple):
            parts = [str(part) for part in raw]
        elif type(raw) in (int, float):
            parts = [str(raw)]
        else:
            raise self._wrong()
        try:
            return tuple(self.each(part.strip()) for part in parts if part.strip())
        except ValueError:
            raise self._wrong() from None

    def right(self) -> str:
        """Its name."""
        return self.what

    def show(self, value: Any) -> str:
        """With commas."""
        return ",".join(f"{part:g}" if isinstance(part, float) else str(part) for part in value)


@dataclass(frozen=True, slots=True)
class Args(Kind[tuple[str, ...]]):
    """Command line arguments, quoted as for a shell (no shell ever sees them)."""

    def read(self, raw: object) -> tuple[str, ...]:
        """The separate arguments."""
        if isinstance(raw, list | tuple):
            return tuple(str(part) for part in raw)
        if not isinstance(raw, str) or "\0" in raw:
            raise self._wrong()
        try:
            return tuple(shlex.split(raw))
        except ValueError:
            raise self._wrong() from None

    def right(self) -> str:
        """The notation."""
        return "arguments with quotes closed, such as --flash-attn on"

    def show(self, value: Any) -> str:
        """Quoted again."""
        return shlex.join(value)


def _finite(raw: object) -> float | None:
    if isinstance(raw, bool) or not isinstance(raw, int | float | str):
        return None
    try:
        value = float(raw)
    except (ValueError, OverflowError):
        return None
    return value if math.isfinite(value) else None
