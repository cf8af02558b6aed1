"""POST /v1/completions: a prompt, or several, continued."""

from __future__ import annotations

from typing import Any

from gateway.dialects.base import (
    Assembler,
    Dialect,
    EngineCall,
    FieldPolicy,
    ModelFacts,
    ReplyHead,
)
from gateway.dialects.common import (
    check_generates,
    check_model,
    generation,
    texts_or_tokens,
)
from gateway.request.fields import Fate, Table, sift
from gateway.request.fields.kinds import AnyValue, Integer
from gateway.request.fields.rows import GENERATION, MODEL, same_fate, translated
from gateway.stream.assemble import CompletionAssembler

__all__ = ["COMPLETIONS", "COMPLETIONS_DIALECT", "build"]

_PATH = "/v1/completions"
MAX_PROMPTS = 64
DEFAULT_MAX_TOKENS = 16
"""OpenAI's; the engine's own would be "until the context is full"."""

COMPLETIONS = Table(
    "completions",
    [
        MODEL,
        translated(
            "prompt",
            AnyValue(
                f"a string, a list of token ids, or a list of at most {MAX_PROMPTS} of either"
            ),
            "Required. Each prompt takes a slot and counts as a request.",
        ),
        translated("logprobs", Integer(0, 5), "0 counts as 1."),
        *same_fate(Fate.DROP_NAMED, "echo suffix", "The engine cannot."),
    ],
    GENERATION,
)


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


def _assembler(call: EngineCall, head: ReplyHead) -> Assembler:
    return CompletionAssembler(call.choices, call.prompts)


_DOC = f"""\
A text that goes on. OpenAI's old route: no messages, no chat template.

- Without a token limit an answer has {DEFAULT_MAX_TOKENS} tokens, as OpenAI has it.
- `logprobs` come in chat's shape (`logprobs.content[]`), streamed or not, as the engine gives them.
  The older one (`tokens`, `token_logprobs`, `text_offset`) is not made: it cannot hold a token that
  is part of a character, and those who read it mostly want `echo`, the prompt's own tokens, which
  the engine does not have. They find nothing, rather than numbers of something else.
"""

COMPLETIONS_DIALECT = Dialect(
    "completions", _PATH, COMPLETIONS, build, assembler=_assembler, doc=_DOC
)
