"""PURE: the lines that tell why an engine died, fit to be shown to anyone.

The health port is open, and a dying engine says where the model lies and what it is called. So only
lines that complain are shown, without paths, and few of them. The log has them all.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["last_words"]

_MOST_LINES = 8
_MOST_CHARS = 200
_PATH = re.compile(r"""(?<![\w.])~?/[^\s'",;:)\]]+""")
_LEVELLED = re.compile(r"^\S*\d\S* ([IWED]) ")
"""llama.cpp's ``0.00.016.121 E srv ...``; what has no level is an assertion or the C library."""


def last_words(tail: Sequence[str]) -> tuple[str, ...]:
    """
    The complaints among the last lines of an engine's output, the oldest first.

    Args:
        tail: Its last lines, the oldest first; the engine's key is not in them.
    """
    telling = [line for line in tail if _complains(line)]
    return tuple(_PATH.sub("<path>", line)[:_MOST_CHARS] for line in telling[-_MOST_LINES:])


def _complains(line: str) -> bool:
    level = _LEVELLED.match(line)
    return level is None or level[1] in "EW"
