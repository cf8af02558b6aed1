"""The inference routes: from a body to an engine call. One endpoint for each dialect."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp.web_response import StreamResponse

from gateway.admission import Admission
from gateway.app import Endpoint
from gateway.body import BodyBudget, BodyRules, check_body_headers, read_body
from gateway.call import Call
from gateway.dialects.base import Dialect, EngineCall, FieldPolicy, ModelFacts
from gateway.errors import ApiError
from gateway.jsonbody import parse
from gateway.relay import Relay

__all__ = ["Inference"]

_OFF_LOOP_BYTES = 256 << 10


@dataclass(frozen=True, slots=True)
class Inference:
    """Answers calls that need the engine.

    Args:
        relay: Carries the call.
        admission: Asked to wait for the engine's first start, before the model is known.
        facts: What is known of the model; None before the engine was ready for the first time.
        policy: The operator's choices about fields.
        rules: What a body may be like.
        budget: Bound of all bodies in memory.
    """

    relay: Relay
    admission: Admission
    facts: Callable[[], ModelFacts | None]
    policy: FieldPolicy
    rules: BodyRules
    budget: BodyBudget

    def endpoint(self, dialect: Dialect) -> Endpoint:
        """The endpoint that speaks *dialect*."""

        async def answer(call: Call) -> StreamResponse:
            return await self._answer(call, dialect)

        return answer

    async def _answer(self, call: Call, dialect: Dialect) -> StreamResponse:
        check_body_headers(call.request, self.rules.limit_bytes)
        body = await read_body(call.request, self.rules, self.budget)
        try:
            call.record.bytes_in = len(body)
            plan = await self._plan(dialect, body, await self._known_facts())
            self._note(call, plan)
            return await self.relay.serve(call, dialect, plan)
        finally:
            self.budget.give(len(body))

    async def _known_facts(self) -> ModelFacts:
        facts = self.facts()
        if facts is None:
            with await self.admission.slots(0):
                facts = self.facts()
        if facts is None:
            raise ApiError("engine_unavailable", retry_after_s=2.0)
        return facts

    async def _plan(self, dialect: Dialect, body: bytes, facts: ModelFacts) -> EngineCall:
        def plan() -> EngineCall:
            fields = parse(
                body, max_structure=self.rules.max_structure, max_depth=self.rules.max_depth
            )
            return dialect.build(fields, facts, self.policy)

        if len(body) <= _OFF_LOOP_BYTES:
            return plan()
        # A body of megabytes takes tens of milliseconds; running streams must not wait for it.
        return await asyncio.get_running_loop().run_in_executor(None, plan)

    def _note(self, call: Call, plan: EngineCall) -> None:
        call.record.model = plan.model
        call.record.stream = plan.stream
        if plan.ignored:
            call.headers["x-ignored-params"] = ", ".join(plan.ignored)
        principal = call.principal
        allowed = principal.models if principal is not None else None
        if allowed is not None and plan.model not in allowed:
            raise ApiError("permission_denied", "This API key may not use this model.")
