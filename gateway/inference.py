"""The inference routes: from a body to an engine call. One endpoint for each dialect."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any

from gateway.accounting import note_wait
from gateway.activity import Activity
from gateway.app import Endpoint
from gateway.call import Call
from gateway.dialects.base import Dialect, EngineCall, FieldPolicy, ModelFacts
from gateway.errors import ApiError
from gateway.front.body import (
    BodyBudget,
    BodyClaim,
    BodyRules,
    check_body_headers,
    read_at_once,
    read_body,
)
from gateway.front.reply import Reply
from gateway.off_loop import OFF_LOOP_BYTES, off_loop, off_loop_if_large
from gateway.queue.admission import Admission, Wish
from gateway.relay import Relay
from gateway.request.continuing import wants_continuation
from gateway.request.jsonbody import parse
from gateway.request.patience import patience_of
from gateway.spending import Spending
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

        def answer(call: Call) -> Coroutine[Any, Any, Reply]:
            return self._answer(call, dialect)

        return answer

    async def _answer(self, call: Call, dialect: Dialect) -> Reply:
        try:
            return await self._serve(call, dialect)
        except ApiError as error:
            self.spending.show(call)
            if call.record.model is None:  # not planned yet: a dialect uses the client's own names
                raise
            raise dialect.places.told(error) from None

    async def _serve(self, call: Call, dialect: Dialect) -> Reply:
        principal = call.principal
        assert principal is not None
        self.spending.glance(call)
        if self.suspects.known:
            self._refuse_known_killers(call)
        headers = call.request.headers
        call.patience = patience_of(headers)
        call.continue_stream = wants_continuation(headers, key_says=principal.continue_streams)
        check_body_headers(call.request, self.rules.limit_bytes)
        work = _Work(self, call, dialect, self.budget.claim(principal.key_id))
        try:
            if not work.read_at_once():
                await work.read()
            if work.streamed:
                return await self.relay.stream(call, dialect, work.plan)
            if dialect.counts:  # it has no queue of its own
                async with self.spending.counting(principal.key_id):
                    body = await self.relay.whole(call, dialect, work.plan)
            else:
                body = await self.relay.whole(call, dialect, work.plan)
        finally:
            work.end()
        self.spending.show(call)  # what it really took is known by now
        return Reply(body=body, headers=call.headers, content_type="application/json")

    def _refuse_known_killers(self, call: Call, digest: bytes | None = None) -> None:
        assert call.principal is not None
        now = asyncio.get_running_loop().time()
        refuse_known_killers(self.suspects, call.principal.key_id, digest, now)

    async def first_facts(self, call: Call, patience_s: float) -> ModelFacts:
        """What is known of the model, after the engine's first start."""
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

    def look_at(self, call: Call, plan: EngineCall) -> None:
        """Take note of what was planned; what may not be is refused before it counts as work."""
        self._note(call, plan)
        if self.suspects.known:  # it is looked up again when its turn has come
            self._refuse_known_killers(call, digest_of(plan.path, plan.body))

    async def replanned(
        self, work: _Work, plan: EngineCall, facts: ModelFacts, max_tokens: int
    ) -> EngineCall:
        """*plan* made anew with a shorter answer."""
        cap = min(max_tokens, self.policy.max_tokens_cap or max_tokens)
        policy, fields = replace(self.policy, max_tokens_cap=cap), work.fields
        size = len(plan.body)
        return await off_loop_if_large(size, lambda: work.dialect.build(fields, facts, policy))

    def _note(self, call: Call, plan: EngineCall) -> None:
        call.record.model = plan.model
        call.record.stream = plan.stream
        if plan.ignored:
            call.headers["x-ignored-params"] = ", ".join(plan.ignored)
        principal = call.principal
        allowed = principal.models if principal is not None else None
        if allowed is not None and plan.model not in allowed:
            raise ApiError("permission_denied", "This API key may not use this model.")


class _Work:
    """A request on its way to the engine: its body, its plan, and what it holds.

    Args:
        owner: Whose endpoint it came to.
        call: The request.
        dialect: How it is spoken.
        claim: The memory that is counted for its body.
    """

    __slots__ = ("_begun", "_owner", "call", "claim", "dialect", "fields", "streamed")

    def __init__(
        self,
        owner: Inference,
        call: Call,
        dialect: Dialect,
        claim: BodyClaim,
    ) -> None:
        self._owner = owner
        self._begun = False
        self.call = call
        self.dialect = dialect
        self.claim = claim
        self.fields: dict[str, Any] = {}
        """Of the body; forgotten once it is planned, for the wait and the answer may be long."""
        self.streamed = False
        """Whether the client asked for events, as far as its body tells."""

    def __repr__(self) -> str:
        return f"<_Work {self.call!r}>"

    def read_at_once(self) -> bool:
        """Read the body, if it is all here and small; False: `read` waits for it."""
        rules, request = self._owner.rules, self.call.request
        if request.content.total_bytes > OFF_LOOP_BYTES:
            return False
        body = read_at_once(request, rules, self.claim)
        if body is None:
            return False
        self.call.record.bytes_in = len(body)
        self._take(_parse(body, rules))
        return True

    async def read(self) -> None:
        """Read the body; its bytes are gone once this returns."""
        rules = self._owner.rules
        body = await read_body(self.call.request, rules, self.claim)
        self.call.record.bytes_in = len(body)
        if len(body) <= OFF_LOOP_BYTES:
            self._take(_parse(body, rules))
        else:
            self._take(await off_loop(lambda: _parse(body, rules)))

    def _take(self, fields: dict[str, Any]) -> None:
        self.fields = fields
        self.streamed = self.dialect.assembler is not None and fields.get("stream") is True

    async def plan(self, patience_s: Callable[[], float]) -> EngineCall:
        """What to ask of the engine, once the key can pay for it; it counts as work from then."""
        owner, call = self._owner, self.call
        facts = owner.facts() or await owner.first_facts(call, patience_s())
        made = await self._made(facts)
        owner.look_at(call, made)

        async def replan(max_tokens: int) -> EngineCall:
            return await owner.replanned(self, made, facts, max_tokens)

        owner.activity.consider()
        try:
            made, call.reservation = await owner.spending.reserve(
                call, made, facts, replan, wait_s=patience_s
            )
            owner.activity.begin()
            self._begun = True
        finally:
            owner.activity.considered()
        if self.streamed:  # the headers go out before it is known what it takes
            owner.spending.show(call)
        self.fields = {}
        self.claim.keep(len(made.body) + len(made.echo))
        return made

    async def _made(self, facts: ModelFacts) -> EngineCall:
        build, fields, policy = self.dialect.build, self.fields, self._owner.policy
        if self.claim.size_bytes <= OFF_LOOP_BYTES:
            return build(fields, facts, policy)
        return await off_loop(lambda: build(fields, facts, policy))

    def end(self) -> None:
        """It has come to its end, however that was."""
        if self._begun:
            self._begun = False
            if self.call.reservation is not None:
                self.call.reservation.leave()
            self._owner.activity.end()
        self.claim.end()


def _parse(body: bytes, rules: BodyRules) -> dict[str, Any]:
    return parse(body, max_structure=rules.max_structure, max_depth=rules.max_depth)
