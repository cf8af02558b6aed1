"""How the engine's events reach one client: as they are, or in the client's own dialect."""

from __future__ import annotations

from collections.abc import Callable

from gateway.call import Call
from gateway.dialects.base import Dialect, EngineCall, Translator
from gateway.errors import ApiError
from gateway.stream.forced_calls import ForcedCalls
from gateway.stream.reply import StreamReply
from gateway.stream.sse import EventStream

__all__ = ["Narration", "understood"]

Out = Callable[[bytes], None]


class Narration:
    """
    Tells one stream to its client.

    Args:
        call: Whose stream it is.
        dialect: What the client speaks.
        reply: Where it goes.
    """

    def __init__(self, call: Call, dialect: Dialect, reply: StreamReply) -> None:
        self.reply = reply
        self._head = call.head
        self._dialect = dialect
        self._plan: EngineCall | None = None
        self._translator: Translator | None = None

    def begin(self, plan: EngineCall) -> None:
        """It is known what the engine is asked."""
        self._plan = plan
        if self._dialect.translator is not None:
            self._translator = self._dialect.translator(plan, self._head)

    @property
    def passes_on(self) -> bool:
        """Whether the client gets the very bytes of the engine."""
        assert self._plan is not None, "asked before it began"
        return self._translator is None and not self._plan.forced_calls

    def listener(self, events: EventStream) -> Out:
        """
        Takes an engine's events; raises ValueError when they make no sense.

        Args:
            events: Watches them; knows the size of the prompt.
        """
        assert self._plan is not None, "asked before it began"
        translator, write = self._translator, self.reply.write
        if translator is None:
            return understood(self._plan, write)

        def tell(chat: bytes) -> None:
            if told := translator.feed(chat, events.prompt_tokens):
                write(told)

        return understood(self._plan, tell)

    def write(self, events: bytes) -> None:
        """Tell events of chat that no engine sent."""
        self.reply.write(events if self._translator is None else self._translator.feed(events))

    def last_word(self, error: ApiError) -> bytes:
        """What ends the stream after *error*."""
        if self._plan is not None:  # before that, only the dialect could find something wrong
            error = self._dialect.places.told(error)
        if self._translator is None:
            return self._dialect.error_frame(error, self._head)
        return self._translator.fail(error)

    def __repr__(self) -> str:
        return f"<Narration {self._dialect.name} {self.reply!r}>"


def understood(plan: EngineCall, out: Out) -> Out:
    """Where the engine's events have to go first, so that *out* gets what a client expects."""
    return ForcedCalls(plan.choices).through(out) if plan.forced_calls else out
