"""PURE. What a planned call may cost, as far as can be told without asking the engine."""

from __future__ import annotations

from gateway.dialects.base import EngineCall, ModelFacts
from gateway.dialects.rerank import RERANK_DIALECT
from gateway.engine.failures import context_exceeded
from gateway.limits.estimate import upper_tokens

__all__ = [
    "answer_tokens",
    "least_tokens",
    "likely_tokens",
    "longest_prompt",
    "refuse_giant",
    "upper_bound",
]

_USUAL_TOKEN_BYTES = 4
_LONGEST_TOKEN_BYTES = 128
"""Vocabularies have runs of blanks as one token, up to about this length."""
_RERANK_PATH = RERANK_DIALECT.path
_MEDIA = (b'"image_url":', b'"input_audio":')


def longest_prompt(plan: EngineCall, facts: ModelFacts) -> int:
    """The most tokens that a prompt may have: one that fills the context leaves no answer room."""
    return facts.context_tokens - (1 if plan.generates else 0)


def refuse_giant(plan: EngineCall, facts: ModelFacts) -> None:
    """Refuse what could not fit if its tokens were the longest there are.

    Raises:
        ApiError: 400 `context_length_exceeded`; the number is the least that it could be.
    """
    inputs = plan.prompts if plan.generates else plan.tasks  # that the engine works on
    least = len(plan.body) // _LONGEST_TOKEN_BYTES // inputs
    if least > facts.context_tokens and not ((facts.vision or facts.audio) and _has_media(plan)):
        raise context_exceeded(facts.context_tokens, least)


def likely_tokens(plan: EngineCall) -> int:
    """About how many tokens all prompts together have: for guesses, never for refusals."""
    return len(plan.body) // _USUAL_TOKEN_BYTES


def _has_media(plan: EngineCall) -> bool:
    return any(mark in plan.body for mark in _MEDIA)


def upper_bound(plan: EngineCall, facts: ModelFacts) -> int:
    """The most tokens that all prompts together can have."""
    inputs, size = plan.prompts if plan.generates else plan.tasks, len(plan.body)
    if plan.path == _RERANK_PATH:  # it has its query once, and the engine reads it with each input
        size *= inputs
    media = (facts.vision or facts.audio) and _has_media(plan)
    return upper_tokens(size, inputs, facts.context_tokens, media=media)


def least_tokens(plan: EngineCall, facts: ModelFacts) -> int:
    """What the call takes at least, however long its prompts are: long ones leave less room."""
    return min(plan.choices * (plan.max_tokens or 0), plan.prompts * facts.context_tokens)


def answer_tokens(plan: EngineCall, facts: ModelFacts, counts: tuple[int, ...] | None) -> int:
    """The most tokens that all answers together can have; *counts* are those of the prompts."""
    if plan.max_tokens is None:
        return 0
    if counts is None:
        return plan.choices * plan.max_tokens
    each = plan.choices // len(counts)
    return sum(each * min(plan.max_tokens, facts.context_tokens - count) for count in counts)
