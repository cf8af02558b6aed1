"""One request while it is being answered: what every step needs to know of it."""

from __future__ import annotations

import asyncio

from gateway.dialects.base import ErrorBody, ReplyHead, openai_body
from gateway.errors import ApiError
from gateway.front.request import FrontRequest
from gateway.limits.ledger import Reservation
from gateway.observe.accesslog import AccessRecord
from gateway.queue.admission import Turn
from gateway.request.patience import BOUNDLESS
from keys import Principal

__all__ = ["Call"]


class Call:
    """A request, its reply headers, its log record, and the way to end it early.

    Owned by the task that handles the request; others may only `kill` it.
    """

    __slots__ = (
        "_killed",
        "_task",
        "continue_stream",
        "error_body",
        "head",
        "headers",
        "patience",
        "principal",
        "prompt_estimate",
        "record",
        "request",
        "reservation",
        "turn",
        "waited",
    )

    def __init__(
        self,
        request: FrontRequest,
        record: AccessRecord,
        headers: dict[str, str],
        head: ReplyHead,
    ) -> None:
        self.request = request
        self.record = record
        self.headers = headers
        self.head = head
        self.error_body: ErrorBody = openai_body
        """How an error is told to whoever speaks the language of the path."""
        self.principal: Principal | None = None
        self.patience = BOUNDLESS
        """How long its client is willing to wait."""
        self.continue_stream = False
        """A stream that loses its engine may be continued by the next."""
        self.turn: Turn | None = None
        """Its place in the queue, while it has one."""
        self.prompt_estimate = 0
        """Tokens of its prompts, as far as is known before the engine reports them."""
        self.waited = False
        """It has waited for the engine to start; the queue's bounds do not apply any more."""
        self.reservation: Reservation | None = None
        """What it may cost its key; None before that is known."""
        self._killed: ApiError | None = None
        self._task: asyncio.Task[None] | None = request.task

    def __repr__(self) -> str:
        return f"<Call {self.record.request_id} {self.record.route}>"

    def kill(self, error: ApiError) -> None:
        """End the call with *error*, wherever it waits: a status, or the stream's last frame."""
        if self._killed is None and self._task is not None:
            self._killed = error
            self._task.cancel()

    def end(self) -> None:
        """It is over, and cannot be killed any more; its task is not held any longer."""
        self._task = None

    def why_cancelled(self) -> ApiError | None:
        """The error the call was killed with; None when it was the client who left.

        Whoever asks takes over: the task counts as not cancelled any more.
        """
        if self._killed is not None and self._task is not None:
            self._task.uncancel()
        return self._killed
