"""PURE: the lines that tell a watcher of the log file MODEL_LOG that the model is ready or lost.

Vast's worker finds its words anywhere in a line, so no text that a client, a model file or the
engine has chosen may ever hold them. Each line is made of fixed words and one word without blanks.
"""

from __future__ import annotations

__all__ = ["fatal_lines", "ready_lines"]

_WORD_LIMIT = 200


def ready_lines(model: str) -> str:
    """What is written when the engine is ready for the first time; *model* is its public name."""
    return f"GATEWAY READY model={_one_word(model)}\nmodel loaded\n"


def fatal_lines(reason: str) -> str:
    """What is written when the service gives up; *reason* is one word, such as ``crash_loop``."""
    return f"GATEWAY FATAL {_one_word(reason)}\n"


def _one_word(text: str) -> str:
    """*text* without blanks and control characters: two words of ours cannot stand in it."""
    word = "".join(c if c.isprintable() and not c.isspace() else "_" for c in text[:_WORD_LIMIT])
    return word or "unknown"
