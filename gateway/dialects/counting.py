"""POST /v1/chat/completions/input_tokens: how many tokens a chat request's prompt has.

It takes the same body as chat, checks it the same way, and uses no slot of the engine.
"""

from __future__ import annotations

from typing import Any

import orjson

from gateway.dialects.base import Dialect, EngineCall, FieldPolicy, ModelFacts
from gateway.dialects.chat import prompt_fields
from gateway.errors import sse_error_frame
from gateway.request.fields import CHAT, sift

__all__ = ["CHAT_COUNT_DIALECT", "build"]

_PATH = "/v1/chat/completions/input_tokens"


def build(body: dict[str, Any], facts: ModelFacts, policy: FieldPolicy) -> EngineCall:
    """
    Make the engine's counting request for a chat body.

    Raises:
        ApiError: 400 or 404, with the exact field.
    """
    sifted = sift(body, CHAT, facts, policy)
    out = prompt_fields(sifted, facts, policy)
    return EngineCall(
        path=_PATH,
        body=orjson.dumps(out),
        generates=False,
        stream=False,
        include_usage=False,
        model=facts.alias,
        tasks=0,
        ignored=sifted.ignored_names(),
    )


CHAT_COUNT_DIALECT = Dialect("chat_count", _PATH, build, None, sse_error_frame)
