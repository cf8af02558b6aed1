"""Bodies that a client might make by mistake: good ones, mixed and broken in one place."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

from tests.clients.contract_rows import (
    CHAT,
    LEAST,
    MESSAGES,
    MESSAGES_PATH,
    RANKS,
    RESPONSES,
    SENT_ON,
    TEXT,
    USER,
    VECTORS,
    F,
    G,
)

__all__ = ["mutants"]

_SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "string"}, "b": {"type": "array", "items": {"type": "integer"}}},
    "required": ["a"],
}
_MORE: list[dict[str, Any]] = [
    {"response_format": {"type": "json_schema", "json_schema": {"schema": _SCHEMA}}},
    {"tools": [F, G, {"type": "function", "function": {"name": "h", "parameters": _SCHEMA}}]},
    {"stream": True},
]
_CALLED = {"call_id": "c1", "name": "f", "arguments": "{}"}
_FORMAT = {"type": "json_schema", "name": "a", "schema": _SCHEMA}
_RESPONSES: list[dict[str, Any]] = [
    {"input": [{"role": "user", "content": [{"type": "input_text", "text": "a"}]}]},
    {"input": [{"type": "message", **USER}, {"type": "function_call", **_CALLED},
               {"type": "function_call_output", "call_id": "c1", "output": "ok"}]},
    {"input": [{"type": "reasoning", "id": "r", "summary": [],
                "content": [{"type": "reasoning_text", "text": "a"}]}, USER]},
    {"instructions": "Be short.", "reasoning": {"effort": "low"}, "truncation": "auto"},
    {"tools": [{"type": "function", "name": "f", "parameters": _SCHEMA}], "tool_choice": "auto"},
    {"tools": [{"type": "function", "name": "f", "parameters": _SCHEMA}],
     "tool_choice": {"type": "function", "name": "f"}, "parallel_tool_calls": False},
    {"text": {"format": _FORMAT}},
    {"text": {"format": {"type": "json_object"}, "verbosity": "low"}},
    {"top_logprobs": 2, "include": ["message.output_text.logprobs"]},
    {"stream": True, "temperature": 0.5, "top_p": 0.9},
]  # fmt: skip
_USED = {"type": "tool_use", "id": "c1", "name": "f", "input": {}}
_TOOL = {"name": "f", "description": "d", "input_schema": _SCHEMA}
_MESSAGES: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]},
    {"messages": [USER, {"role": "assistant", "content": [
        {"type": "thinking", "thinking": "a", "signature": ""}, _USED]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "c1", "is_error": True,
             "content": [{"type": "text", "text": "ok"}]}]}]},
    {"system": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]},
    {"system": "a", "stop_sequences": ["x"], "top_k": 5, "metadata": {"user_id": "u"}},
    {"tools": [_TOOL], "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
    {"tools": [_TOOL], "tool_choice": {"type": "tool", "name": "f"}},
    {"tools": [_TOOL], "tool_choice": {"type": "any"}},
    {"thinking": {"type": "enabled", "budget_tokens": 1024}},
    {"output_config": {"format": {"type": "json_schema", "schema": _SCHEMA}, "effort": "low"}},
    {"stream": True, "temperature": 0.5},
]  # fmt: skip
_COUNTS = {RESPONSES + "/input_tokens": RESPONSES, MESSAGES_PATH + "/count_tokens": MESSAGES_PATH}
_LIMITS = {
    **dict.fromkeys((CHAT, TEXT, MESSAGES_PATH), "max_tokens"),
    RESPONSES: "max_output_tokens",
}
_JUNK: list[Any] = [
    *(None, 0, -1, 1, 5.5, 1e308, 2**63, 2**64, True, False, "", "x", "\x00", "a" * 300),
    *([], {}, [[]], [None], [1, 2], ["a"], {"type": None}, {"type": "x"}, {"a": {"b": []}}),
    *({"$ref": "#"}, {"anyOf": []}, {"enum": []}, {"not": {}}, {"type": ["string", "null"]}),
]


def mutants(seed: int, count: int) -> Iterator[tuple[str, Any]]:
    """Paths and bodies; the same for the same *seed*."""
    rng = random.Random(seed)
    rows: dict[str, list[dict[str, Any]]] = {path: [] for path in LEAST}
    for path, more, _ in SENT_ON:
        rows[path].append(more)
    rows[CHAT] += [{"messages": given} for given, _ in MESSAGES] + _MORE * 8
    rows[RESPONSES] += _RESPONSES
    rows[MESSAGES_PATH] += _MESSAGES
    for path, spoken in _COUNTS.items():
        rows[path] = rows[spoken]
    often = (*[CHAT] * 4, *[RESPONSES] * 3, *[MESSAGES_PATH] * 3)
    for _ in range(count):
        path = rng.choice((*often, *_COUNTS, TEXT, VECTORS, RANKS))
        body = dict(LEAST[path])
        for _ in range(rng.randint(1, 6)):
            body.update(rng.choice(rows[path]))
        broken = _broken(rng, copy.deepcopy(body))
        if isinstance(broken, dict) and path in _LIMITS:
            broken[_LIMITS[path]] = 2
        yield path, broken


def _broken(rng: random.Random, value: Any) -> Any:
    if rng.random() < 0.15 or not isinstance(value, dict | list) or not value:
        return copy.deepcopy(rng.choice(_JUNK))
    key: Any = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
    value[key] = _broken(rng, value[key])
    return value
