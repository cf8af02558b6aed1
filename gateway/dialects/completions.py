"""POST /v1/completions: a prompt, or several, continued."""

from __future__ import annotations

from typing import Any

from gateway.dialects.base import Assembler, Dialect, EngineCall, FieldPolicy, ModelFacts
from gateway.dialects.common import (
    check_generates,
    check_model,
    generation,
    texts_or_tokens,
)
from gateway.errors import sse_error_frame
from gateway.request.fields import COMPLETIONS, sift
from gateway.stream.assemble import CompletionAssembler

__all__ = ["COMPLETIONS_DIALECT", "build"]

_PATH = "/v1/completions"
MAX_PROMPTS = 64
DEFAULT_MAX_TOKENS = 16
"""OpenAI's; the engine's own would be "until the context is full"."""


def build(body: dict[str, Any], facts: ModelFacts, policy: FieldPolicy) -> EngineCall:
    """
    Make the engine's completions request.

    Raises:
        ApiError: 400 or 404, with the exact field.
    """
    sifted = sift(body, COMPLETIONS, facts, policy)
    translate = sifted.translate
    check_model(translate, facts)
    check_generates(facts)
    prompt, prompts = texts_or_tokens(
        translate.get("prompt"), "prompt", facts, max_items=MAX_PROMPTS, empty_text=False
    )
    out: dict[str, Any] = {"model": facts.alias, "prompt": prompt, **sifted.forward}
    if "logprobs" in translate:
        # 0 means "the chosen token only" to OpenAI and "none" to the engine
        out["logprobs"] = max(1, translate["logprobs"])
    return generation(
        _PATH, out, sifted, facts, policy, default_tokens=DEFAULT_MAX_TOKENS, prompts=prompts
    )


def _assembler(call: EngineCall) -> Assembler:
    return CompletionAssembler(call.choices, call.prompts)


COMPLETIONS_DIALECT = Dialect("completions", _PATH, build, _assembler, sse_error_frame)
