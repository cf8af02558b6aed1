"""PURE. Chat events -> an answer told block by block, as the newer dialects have it.

Chat tells an answer in deltas of one message: text, reasoning and tool calls by index. Responses
and Messages tell blocks: each is opened, filled, and closed before the next one opens. What both
have in common is here: which delta opens or closes a block, what ends an answer, and the usage. How
a block is written is left to the dialect.

Rules:
1. One block is open at a time. A delta of another kind, or of another call, closes it.
2. A call that was closed gets no more arguments: such a stream makes no sense and fails.
3. The answer is complete when the engine said how it finished and sent `[DONE]`, not before.
   There is one terminal event, whatever comes: that of the end, or that of `fail`.
4. The reply of a client that asked for no stream is made from the same blocks, so that it cannot
   differ from the streamed one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from gateway.dialects.base import EngineCall, ReplyHead
from gateway.errors import ApiError
from gateway.stream.events import DONE, EventSplitter
from gateway.stream.usage import Tally, Usage

__all__ = ["Block", "BlockAssembler", "BlockTranslator", "Kind"]

Kind = Literal["text", "reasoning", "call"]


@dataclass(slots=True)
class Block:
    """A part of the answer."""

    kind: Kind
    index: int
    """Its place among the blocks of the answer, from 0."""
    pieces: list[str] = field(default_factory=list)
    """Its text or its arguments, as they came."""
    call_id: str = ""
    name: str = ""
    """Of the function; calls only."""
    logprobs: list[orjson.Fragment] = field(default_factory=list)
    """As the dialect tells them, if it keeps them; text only. As JSON text they take a tenth of
    what they take as objects."""
    call_index: int = 0
    """The engine's number for it; calls only."""

    @property
    def content(self) -> str:
        """All pieces together."""
        return "".join(self.pieces)


class BlockTranslator(ABC):
    """
    Tells one answer.

    Args:
        call: The call it answers.
        head: Ids and time.
        silent: No events are made; only `reply` is asked for.
    """

    def __init__(self, call: EngineCall, head: ReplyHead, *, silent: bool = False) -> None:
        self.call = call
        self.head = head
        self.blocks: list[Block] = []
        self.finish_reason: str | None = None
        """Chat's: stop, length or tool_calls."""
        self._silent = silent
        self._events = EventSplitter()
        self._tally = Tally()
        self._frames: list[bytes] = []
        self._open: Block | None = None
        self._started = False
        self._over = False

    # -- what is asked of it

    def feed(self, events: bytes, prompt_tokens: int | None = None) -> bytes:
        """
        The events that *events* of chat, cut anywhere, make in this dialect.

        Raises:
            ValueError: They make no sense.
        """
        for payload in self._events.feed(events):
            if self._over:
                break
            if payload == DONE:
                self._end()
                continue
            event = orjson.loads(payload)
            if not isinstance(event, dict):
                raise ValueError("an event is no object")
            self._start(prompt_tokens)
            try:
                self._take(event)
            except (AttributeError, LookupError, TypeError) as exc:
                raise ValueError("an event has another shape than it should") from exc
        return self._told()

    def fail(self, error: ApiError) -> bytes:
        """What ends the stream after *error*; nothing when it has ended."""
        if not self._over:
            self._over = True
            self._failed(error)
        return self._told()

    def reply(self) -> dict[str, Any]:
        """
        The reply in one piece.

        Raises:
            ValueError: The answer is not complete.
        """
        if not self._over:
            raise ValueError("the answer has not ended")
        return self._whole()

    @property
    def usage(self) -> Usage | None:
        """What the engine reported; None before that."""
        return self._tally.total()

    def __repr__(self) -> str:
        state = "over" if self._over else "open" if self._started else "new"
        return f"<{type(self).__name__} {state}, {len(self.blocks)} blocks>"

    # -- what a dialect writes

    @abstractmethod
    def _begin(self, prompt_tokens: int | None) -> None:
        """Write how an answer begins; comes once, before the first block."""

    @abstractmethod
    def _opened(self, block: Block) -> None:
        """Write how a block begins; of a call, id and name are known."""

    @abstractmethod
    def _added(self, block: Block, piece: str, logprobs: list[Any]) -> None:
        """Write the next piece of a block, which is not empty; it is among its pieces already."""

    @abstractmethod
    def _closed(self, block: Block) -> None:
        """
        Write how a block ends.

        Raises:
            ValueError: Its content cannot be told in this dialect.
        """

    @abstractmethod
    def _ended(self) -> None:
        """Write the end of a complete answer: `finish_reason` and `usage` are known."""

    @abstractmethod
    def _failed(self, error: ApiError) -> None:
        """Write the end of an answer that will not be complete; maybe nothing was written yet."""

    @abstractmethod
    def _whole(self) -> dict[str, Any]:
        """The reply of a complete answer in one piece."""

    def _emit(self, kind: str, payload: dict[str, Any]) -> None:
        """Send one event, with its name and with its type inside."""
        self._emit_whole(kind, {"type": kind, **payload})

    def _emit_whole(self, kind: str, event: dict[str, Any]) -> None:
        """The same for an event that has its type inside."""
        if not self._silent:
            data = orjson.dumps(event)
            self._frames.append(b"event: %b\ndata: %b\n\n" % (kind.encode(), data))

    # -- from deltas to blocks

    def _told(self) -> bytes:
        frames = self._frames
        if len(frames) == 1:
            return frames.pop()
        told = b"".join(frames)
        frames.clear()
        return told

    def _start(self, prompt_tokens: int | None) -> None:
        if not self._started:
            self._started = True
            self._begin(prompt_tokens)

    def _take(self, event: dict[str, Any]) -> None:
        self._tally.add(event)
        for choice in event.get("choices") or ():
            delta = choice.get("delta") or {}
            if reasoning := delta.get("reasoning_content"):
                self._add("reasoning", reasoning, [])
            if content := delta.get("content"):
                logprobs = choice.get("logprobs")
                self._add("text", content, (logprobs.get("content") or []) if logprobs else [])
            if calls := delta.get("tool_calls"):
                for call in calls:
                    self._take_call(call)
            if (reason := choice.get("finish_reason")) is not None:
                self.finish_reason = reason

    def _add(self, kind: Kind, piece: str, logprobs: list[Any]) -> None:
        if not isinstance(piece, str):
            raise ValueError("a piece of the answer is no text")
        block = self._open
        if block is None or block.kind != kind:
            block = self._next(Block(kind, len(self.blocks)))
        block.pieces.append(piece)
        self._added(block, piece, logprobs)

    def _take_call(self, call: dict[str, Any]) -> None:
        index, function = call.get("index", 0), call.get("function") or {}
        block = self._open
        if block is None or block.kind != "call" or block.call_index != index:
            name = function.get("name")
            if not isinstance(name, str) or not name:
                raise ValueError("arguments came for a call that is not open")
            call_id = call.get("id") or f"call_{self.head.reply_id[:20]}{len(self.blocks)}"
            if not isinstance(call_id, str):
                raise ValueError("the id of a call is no text")
            new = Block("call", len(self.blocks), call_id=call_id, name=name, call_index=index)
            block = self._next(new)
        if arguments := function.get("arguments"):
            if not isinstance(arguments, str):
                raise ValueError("the arguments of a call are no text")
            block.pieces.append(arguments)
            self._added(block, arguments, [])

    def _next(self, block: Block) -> Block:
        self._close()
        self.blocks.append(block)
        self._open = block
        self._opened(block)
        return block

    def _close(self) -> None:
        block, self._open = self._open, None
        if block is not None:
            self._closed(block)

    def _end(self) -> None:
        if self.finish_reason is None:
            raise ValueError("the answer ended without saying why")
        self._close()
        self._over = True
        self._ended()


class BlockAssembler:
    """The reply in one piece, from the translator of a dialect."""

    def __init__(self, translator: BlockTranslator) -> None:
        self._translator = translator

    def feed(self, events: bytes) -> None:
        """Take events of the engine, cut anywhere; raises ValueError if they make no sense."""
        self._translator.feed(events)

    def result(self) -> bytes:
        """The JSON reply; raises ValueError when the answer is not complete."""
        return orjson.dumps(self._translator.reply())

    def __repr__(self) -> str:
        return f"<BlockAssembler {self._translator!r}>"
