"""PURE. Calls that the engine was made to write as plain JSON, turned back into `tool_calls`."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["ForcedCalls"]

Out = Callable[[bytes], None]


class ForcedCalls:
    """
    Chat events in, chat events out.

    Args:
        choices: Independent answers in the stream.
    """

    def __init__(self, choices: int = 1) -> None:
        self._choices = choices

    def through(self, out: Out) -> Out:
        """Where the engine's events are to go."""
        return out
