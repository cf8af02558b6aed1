"""What a running engine is asked besides its work: how many of its slots are busy.

llama-server answers these within a millisecond or so even while a long batch is being computed,
because they wait for no slot. Asking wakes an engine that sleeps.
"""

from __future__ import annotations

from typing import Any

import orjson

from backend.client import EngineClient
from backend.errors import EngineError

__all__ = ["busy_slots", "read_slots"]

# One slot tells of all its sampling settings: some 2 kB each, for up to 256 slots.
_LIMIT_BYTES = 4 << 20


async def busy_slots(client: EngineClient, timeout_s: float) -> int:
    """Ask the engine how many of its slots are at work.

    A slot whose client has left counts until the engine has noticed, which it does between two
    batches.

    Args:
        client: A client of the engine.
        timeout_s: Seconds the answer may take in all.

    Raises:
        EngineError: The answer is not the list of slots that llama-server gives.
        EngineTimeout, ConnectFailed, EngineGone: As `EngineClient.request`.
    """
    return sum(slot["is_processing"] for slot in await read_slots(client, timeout_s))


async def read_slots(client: EngineClient, timeout_s: float) -> list[dict[str, Any]]:
    """What the engine tells of its slots; each tells at least whether it ``is_processing``.

    Raises:
        EngineError, EngineTimeout, ConnectFailed, EngineGone: As `busy_slots`.
    """
    status, body = await client.request(
        "GET", "/slots", timeout_s=timeout_s, limit_bytes=_LIMIT_BYTES
    )
    if status != 200:
        raise EngineError(f"/slots answered {status}")
    return [_checked(slot) for slot in _slots(body)]


def _slots(body: bytes) -> list[Any]:
    try:
        slots = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise EngineError("/slots is not JSON") from None
    if not isinstance(slots, list) or not slots:
        raise EngineError("/slots is not a list of slots")
    return slots


def _checked(slot: Any) -> dict[str, Any]:
    if not isinstance(slot, dict) or not isinstance(slot.get("is_processing"), bool):
        raise EngineError("/slots does not tell which slots are at work")
    return slot
