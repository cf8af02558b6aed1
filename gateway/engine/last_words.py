"""PURE: the lines that tell why an engine died, fit to be shown to anyone.

The health port is open, and a dying engine says where the model lies and what it is called. So only
lines that complain are shown, without names of files, and few of them. The log has them as they
are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["complaints", "last_words"]

_MOST_LINES = 8
"""Fewer than the lines of one kind that the log takes in a second, see `observe.logs`: of more than
that it would drop the last ones, and those tell the most."""
_MOST_CHARS = 200
_HIDDEN = "<path>"
_QUOTED = re.compile(r"""(?<!\w)(['"`])(.*?)(\1(?!\w)|$)""")
"""A name may hold blanks and apostrophes; a quote that was cut off goes to the end of the line."""
_HIDDEN_UNQUOTED = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(?<![\w.])~?/.*\.gguf[\w.-]*",  # with blanks, and perhaps more than the path
        r"""(?<![\w.<])~?/[^\s'",;:)\]]+""",
        r"""(?<![^\s'"`,;:=()\[\]])[^\s'"`,;:=()\[\]]+\.gguf[\w.-]*""",
    )
)
_LEVELLED = re.compile(r"^\S*\d\S* ([IWED]) ")
"""llama.cpp's ``0.00.016.121 E srv ...``; what has no level is an assertion or the C library."""


def complaints(tail: Sequence[str]) -> tuple[str, ...]:
    """
    The complaints among the last lines of an engine's output, for those who may read everything.

    Args:
        tail: Its last lines, the oldest first; the engine's key is not in them.

    Returns:
        At most 8 lines, the oldest first.
    """
    return tuple([line for line in tail if _complains(line)][-_MOST_LINES:])


def last_words(tail: Sequence[str]) -> tuple[str, ...]:
    """The same without names of files, and each of at most 200 characters: for anyone."""
    return tuple(_without_names(line)[:_MOST_CHARS] for line in complaints(tail))


def _complains(line: str) -> bool:
    level = _LEVELLED.match(line)
    return level is None or level[1] in "EW"


def _without_names(line: str) -> str:
    line = _QUOTED.sub(_hide_name, line)
    for pattern in _HIDDEN_UNQUOTED:
        line = pattern.sub(_HIDDEN, line)
    return line


def _hide_name(quoted: re.Match[str]) -> str:
    before, text, after = quoted.groups()
    is_name = "/" in text or text.lower().endswith(".gguf")
    return f"{before}{_HIDDEN}{after}" if is_name else quoted[0]
