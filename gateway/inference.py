"""The inference routes: from a body to an engine call. One endpoint for each dialect."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any

from aiohttp.web_response import StreamResponse

from gateway.accounting import note_wait
from gateway.activity import Activity
from gateway.app import Endpoint
from gateway.call import Call
from gateway.dialects.base import Dialect, EngineCall, FieldPolicy, ModelFacts
from gateway.errors import ApiError
from gateway.front.body import BodyBudget, BodyClaim, BodyRules, check_body_headers, read_body
from gateway.off_loop import off_loop_if_large
from gateway.queue.admission import Admission, Wish
from gateway.relay import Relay
from gateway.request.continuing import wants_continuation
from gateway.request.jsonbody import parse
from gateway.request.patience import patience_of
from gateway.spending import Replan, Spending
from gateway.suspicion.refusal import refuse_known_killers
from gateway.suspicion.suspects import Suspects, digest_of

__all__ = ["Inference"]


@dataclass(frozen=True, slots=True)
class Inference:
    """Answers calls that need the engine.

    Args:
        relay: Carries the call.
        admission: Asked to wait for the engine's first start, before the model is known.
        spending: Reserves what a call may cost its key.
        facts: What is known of the model; None before the engine was ready for the first time.
        policy: The operator's choices about fields.
        rules: What a body may be like.
        budget: Bound of all bodies in memory.
        activity: Told of real work.
        suspects: Knows which keys are suspended.
    """

    relay: Relay
    admission: Admission
    spending: Spending
    facts: Callable[[], ModelFacts | None]
    policy: FieldPolicy
    rules: BodyRules
    budget: BodyBudget
    activity: Activity
    suspects: Suspects

    def endpoint(self, dialect: Dialect) -> Endpoint:
        """The endpoint that speaks *dialect*."""

        async def answer(call: Call) -> StreamResponse:
            return await self._answer(call, dialect)

        return answer

    async def _answer(self, call: Call, dialect: Dialect) -> StreamResponse:
        try:
            return await self._serve(call, dialect)
        except ApiError as error:
            self.spending.show(call)
            if call.record.model is None:  # not planned yet: a dialect uses the client's own names
                raise
            raise dialect.places.told(error) from None

    async def _serve(self, call: Call, dialect: Dialect) -> StreamResponse:
        self.spending.glance(call)
        self._refuse_known_killers(call)
        call.patience = patience_of(call.request.headers)
        assert call.principal is not None
        call.continue_stream = wants_continuation(
            call.request.headers, key_says=call.principal.continue_streams
        )
        check_body_headers(call.request, self.rules.limit_bytes)
        with self.budget.claim(call.principal.key_id) as claim:
            fields = await self._read(call, claim)
            streamed = dialect.assembler is not None and fields.get("stream") is True
            async with AsyncExitStack() as held:
                if dialect.counts:  # it has no queue of its own
                    await held.enter_async_context(self.spending.counting(call.principal.key_id))

                async def plan(patience_s: float) -> EngineCall:
                    nonlocal fields
                    facts = await self._known_facts(call, patience_s)
                    made = await self._plan(dialect, fields, claim.size_bytes, facts)
                    self._note(call, made)
                    if self.suspects:  # before it counts as work; again when its turn has come
                        self._refuse_known_killers(call, digest_of(made.path, made.body))
                    replan = self._replanner(dialect, fields, made, facts)
                    with self.activity.considering():
                        made, reservation = await self.spending.reserve(
                            call, made, facts, replan, wait_s=patience_s
                        )
                        held.enter_context(self.activity.working())
                    call.reservation = held.enter_context(reservation)
                    if streamed:  # the headers go out before it is known what it takes
                        self.spending.show(call)
                    # The wait and the answer may be long, and this function lives as long as they.
                    fields = {}
                    claim.keep(len(made.body) + len(made.echo))
                    return made

                response = await self.relay.serve(call, dialect, plan, streamed=streamed)
            if not streamed:
                response.headers.update(self.spending.show(call))
            return response

    def _refuse_known_killers(self, call: Call, digest: bytes | None = None) -> None:
        assert call.principal is not None
        now = asyncio.get_running_loop().time()
        refuse_known_killers(self.suspects, call.principal.key_id, digest, now)

    async def _known_facts(self, call: Call, patience_s: float) -> ModelFacts:
        facts = self.facts()
        if facts is None:
            assert call.principal is not None
            # A heartbeat may send the headers before there is more to tell.
            self.spending.show(call)
            wish = Wish(call.principal.key_id, slots=0, max_wait_s=patience_s)
            with await self.admission.slots(wish, call) as lease:
                note_wait(call, lease)
                call.waited = True
                facts = self.facts()
        if facts is None:
            raise ApiError("engine_unavailable", retry_after_s=2.0)
        return facts

    def _replanner(
        self, dialect: Dialect, fields: dict[str, Any], plan: EngineCall, facts: ModelFacts
    ) -> Replan:
        """Makes *plan* anew with a shorter answer."""

        async def replan(max_tokens: int) -> EngineCall:
            cap = min(max_tokens, self.policy.max_tokens_cap or max_tokens)
            policy = replace(self.policy, max_tokens_cap=cap)
            size = len(plan.body)
            return await off_loop_if_large(size, lambda: dialect.build(fields, facts, policy))

        return replan

    async def _read(self, call: Call, claim: BodyClaim) -> dict[str, Any]:
        """The body's fields; the bytes of the body are gone once this returns."""
        body = await read_body(call.request, self.rules, claim)
        call.record.bytes_in = len(body)
        rules = self.rules

        def read() -> dict[str, Any]:
            return parse(body, max_structure=rules.max_structure, max_depth=rules.max_depth)

        return await off_loop_if_large(len(body), read)

    async def _plan(
        self, dialect: Dialect, fields: dict[str, Any], size: int, facts: ModelFacts
    ) -> EngineCall:
        def build() -> EngineCall:
            return dialect.build(fields, facts, self.policy)

        return await off_loop_if_large(size, build)

    def _note(self, call: Call, plan: EngineCall) -> None:
        call.record.model = plan.model
        call.record.stream = plan.stream
        if plan.ignored:
            call.headers["x-ignored-params"] = ", ".join(plan.ignored)
        principal = call.principal
        allowed = principal.models if principal is not None else None
        if allowed is not None and plan.model not in allowed:
            raise ApiError("permission_denied", "This API key may not use this model.")
