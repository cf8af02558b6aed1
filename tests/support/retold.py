"""An engine's events on their way to a client, without a network: what each dialect makes of them.

They go through what the service has them go through: the watcher of the stream, the pump, what
turns forced calls back, and the dialect's translator or assembler.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, cast

from backend import BackendError
from gateway.call import Call
from gateway.dialects import DIALECTS, EngineCall, FieldPolicy, ModelFacts, ReplyHead
from gateway.errors import ApiError
from gateway.stream.narration import Narration, understood
from gateway.stream.pump import Pump
from gateway.stream.reply import StreamReply
from gateway.stream.sse import EventStream

__all__ = ["PLANS", "REQUESTS", "TOLD", "Outcome", "last_word", "stream", "whole"]

FACTS = ModelFacts(frozenset({"m"}), "m", slots=4, context_tokens=4096, vocab_size=300)
HEAD = ReplyHead("req_1", "0123456789abcdef0123456789abcdef", 1_795_224_215)
HI = [{"role": "user", "content": "hi"}]
REQUESTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": HI},
    "/v1/completions": {"prompt": "hi"},
    "/v1/responses": {"input": "hi"},
    "/v1/messages": {"messages": HI, "max_tokens": 100},
}
TOLD = {path: d for path, d in DIALECTS.items() if d.assembler or d.translator}
"""The dialects that tell an answer, by path."""


@dataclass
class Outcome:
    stream: bytes
    """What the client got."""
    error: ApiError | None
    """What the relay learned from the pump."""


def plan(path: str, *, forced: bool = False) -> EngineCall:
    call = DIALECTS[path].build(
        {"model": "m", "stream": True, **REQUESTS[path]}, FACTS, FieldPolicy()
    )
    return replace(call, forced_calls=True) if forced else call


PLANS = {(path, forced): plan(path, forced=forced) for path in TOLD for forced in (False, True)}


def narration(path: str, out: list[bytes]) -> Narration:
    """Tells a stream of the dialect at *path* to *out*."""
    reply = cast(StreamReply, SimpleNamespace(write=out.append))
    return Narration(cast(Call, SimpleNamespace(head=HEAD)), DIALECTS[path], reply)


def last_word(path: str, error: ApiError, *, begun: bool) -> bytes:
    """The frames of an answer of which nothing was told before the error."""
    told = narration(path, [])
    if begun:
        told.begin(PLANS[path, False])
    return told.last_word(error)


async def stream(
    path: str, chunks: list[bytes], *, forced: bool = False, late: bool = False
) -> Outcome:
    """
    What a client of a stream gets, as `gateway.relay` has it.

    Args:
        path: Of the dialect.
        chunks: From the engine, cut anywhere.
        forced: The engine was made to write its calls as text.
        late: The client is committed to when all is there, as when its connection is slow.
    """
    call = PLANS[path, forced]
    out: list[bytes] = []
    told = narration(path, out)
    told.begin(call)
    error = await pumped(call, told.listener, chunks, late=late)
    if error is not None:
        out.append(told.last_word(error))
    return Outcome(b"".join(out), error)


async def whole(path: str, chunks: list[bytes], *, forced: bool = False) -> bytes | None:
    """What a client gets that asked for no stream; None: an error."""
    call, dialect = PLANS[path, forced], DIALECTS[path]
    assert dialect.assembler is not None
    assembler = dialect.assembler(call, HEAD)

    def listener(events: EventStream) -> Callable[[bytes], None]:
        return understood(call, assembler.feed)

    if await pumped(call, listener, chunks, late=False) is not None:
        return None
    try:
        return assembler.result()
    except ValueError:
        return None


async def pumped(
    call: EngineCall,
    listener: Callable[[EventStream], Callable[[bytes], None]],
    chunks: list[bytes],
    *,
    late: bool,
) -> ApiError | None:
    """
    Pump *chunks* to a listener; how it ended.

    Args:
        call: Whose answer it is.
        listener: As `Narration.listener`.
        chunks: From the engine.
        late: The listener comes when all is there, as after a slow commit.
    """
    events = EventStream(choices=call.choices, prompts=call.prompts)
    pump = Pump(events, on_lost=lambda: None)
    broke = BackendError("the connection broke")
    if not late:
        pump.release_to(listener(events))
    for chunk in chunks:
        pump.data(chunk)
    if late:
        pump.lost(broke)
        pump.release_to(listener(events))
    if not late:
        pump.lost(broke)  # whatever comes behind the end
    return await pump.over
