"""Asks the engine for the exact size of the prompts of a call, without taking a slot."""

from __future__ import annotations

import logging
from collections.abc import Callable

from backend import BackendError, EngineClient, EngineGone
from gateway.dialects import EngineCall
from gateway.dialects.counting import Counted, count_call
from gateway.off_loop import off_loop_if_large

__all__ = ["PromptCounter"]

_log = logging.getLogger(__name__)

_TIMEOUT_S = 5.0
_LIMIT_BYTES = 64 << 20
_INEXACT_ALLOWANCE = 32
"""Tokens that a model's template for pairs adds to each of them."""


class PromptCounter:
    """Counts prompt tokens.

    Args:
        client: The way to the engine that runs; None while none does.
    """

    def __init__(self, client: Callable[[], EngineClient | None]) -> None:
        self._client = client

    def __repr__(self) -> str:
        return f"<PromptCounter {self._client()}>"

    async def count(self, plan: EngineCall) -> tuple[int, ...] | None:
        """Tokens of each prompt of *plan*; None when the engine cannot tell now.

        Nothing fails because of that: the engine itself refuses what does not fit.

        Raises:
            EngineGone: The engine was lost while it counted.
        """
        try:
            return await self._ask(plan)
        except EngineGone:
            raise
        except (BackendError, ValueError) as exc:
            _log.info("a prompt could not be counted: %s", type(exc).__name__)
            return None

    async def _ask(self, plan: EngineCall) -> tuple[int, ...] | None:
        call = await off_loop_if_large(len(plan.body), lambda: count_call(plan))
        if isinstance(call, Counted):
            return call.tokens or None
        client = self._client()
        if client is None:
            return None
        status, body = await client.request(
            "POST", call.path, call.body, timeout_s=_TIMEOUT_S, limit_bytes=_LIMIT_BYTES
        )
        if status != 200:
            return None
        allowance = 0 if call.exact else _INEXACT_ALLOWANCE
        counts = await off_loop_if_large(len(body), lambda: call.read(body))
        return tuple(tokens + allowance for tokens in counts)
