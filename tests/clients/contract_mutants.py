"""Bodies that a client might make by mistake: good ones, mixed and broken in one place."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

from tests.clients.contract_rows import CHAT, LEAST, MESSAGES, RANKS, SENT_ON, TEXT, VECTORS, F, G

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
    for _ in range(count):
        path = rng.choice((CHAT, CHAT, CHAT, CHAT, TEXT, VECTORS, RANKS))
        body = dict(LEAST[path])
        for _ in range(rng.randint(1, 6)):
            body.update(rng.choice(rows[path]))
        broken = _broken(rng, copy.deepcopy(body))
        if isinstance(broken, dict) and path in (CHAT, TEXT):
            broken["max_tokens"] = 2
        yield path, broken


def _broken(rng: random.Random, value: Any) -> Any:
    if rng.random() < 0.15 or not isinstance(value, dict | list) or not value:
        return copy.deepcopy(rng.choice(_JUNK))
    key: Any = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
    value[key] = _broken(rng, value[key])
    return value
