"""PURE: which slots' prompts are worth a file, in which order, and how much may be written.

A file costs disk (tokens x the model's bytes for each), and time while nobody is served; it saves
the time of computing the prompt again, which is short for a short prompt.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from backend import HeldPrompt

__all__ = ["Room", "WarmLimits", "Wish", "allowed_bytes", "worth_saving"]


@dataclass(frozen=True, slots=True)
class WarmLimits:
    """
    Bounds.

    Attributes:
        least_tokens: A shorter prompt is computed again.
        total_bytes: Of all files together.
        save_s: The unload waits so long at most.
        restore_s: The wake takes so much longer at most.
    """

    least_tokens: int = 256
    total_bytes: int = 1 << 30
    save_s: float = 10.0
    restore_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Wish:
    """A slot that shall have a file, and about how many tokens it holds."""

    slot: int
    tokens: int


def worth_saving(
    held: Iterable[HeldPrompt], restored: Mapping[int, int], least_tokens: int
) -> tuple[Wish, ...]:
    """Choose among the slots.

    Args:
        held: What the engine tells of its idle slots.
        restored: Tokens by slot that were restored into this engine: of a slot that has not worked
            since, the engine tells nothing.
        least_tokens: A prompt shorter than that is not worth it.

    Returns:
        The one used last first, as it is the likeliest to be asked for again.
    """
    last_first = sorted(held, key=lambda prompt: prompt.task or -1, reverse=True)
    wishes = (Wish(each.slot, _tokens(each, restored)) for each in last_first)
    return tuple(wish for wish in wishes if wish.tokens >= least_tokens)


def _tokens(prompt: HeldPrompt, restored: Mapping[int, int]) -> int:
    if prompt.task is None:
        return restored.get(prompt.slot, 0)
    return prompt.tokens or 0


def allowed_bytes(total_bytes: int, free_bytes: int) -> int:
    """How much all files may take: never more than half of what is free where they go."""
    return min(total_bytes, free_bytes // 2)


class Room:
    """What may still be written.

    How large a file becomes is known only once it is there. The first is a measure for the rest.

    Args:
        limit_bytes: Of all files together.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.left_bytes = limit_bytes
        self._bytes_per_token = 0.0

    def __repr__(self) -> str:
        return f"<Room {self.left_bytes} bytes, {self._bytes_per_token:.0f} for a token>"

    def fits(self, tokens: int) -> bool:
        """Whether a file of so many tokens is expected to fit."""
        return 0 < self.left_bytes >= tokens * self._bytes_per_token

    def take(self, tokens: int, size_bytes: int) -> None:
        """A file was written."""
        self.left_bytes -= size_bytes
        if tokens:
            self._bytes_per_token = size_bytes / tokens
