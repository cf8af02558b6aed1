"""What an answer took: told to the access record, the key's limits and the reply's headers."""

from __future__ import annotations

from gateway.call import Call
from gateway.queue.admission import Lease
from gateway.stream.continuation import Continuation
from gateway.stream.pump import Pump
from gateway.stream.sse import Outcome
from gateway.stream.usage import tokens_of_reply

__all__ = ["account_reply", "account_stream", "charge_no_prompt", "note_wait", "tell_times"]


_NO_WAIT = {"X-Queue-Wait-Ms": "0", "Server-Timing": "queue;dur=0.0"}


def note_wait(call: Call, lease: Lease) -> None:
    """A turn came: say in the headers how long that took, all turns of the call together."""
    record = call.record
    record.queue_s += lease.waited_s
    if not record.queue_s:
        call.headers.update(_NO_WAIT)
        return
    wait_ms = record.queue_s * 1000
    call.headers["X-Queue-Wait-Ms"] = f"{wait_ms:.0f}"
    call.headers["Server-Timing"] = f"queue;dur={wait_ms:.1f}"


def account_stream(call: Call, pump: Pump, continuation: Continuation | None = None) -> Outcome:
    """Write down what the engine reported, or what was seen before it broke off.

    Args:
        call: The request.
        pump: What came of its answer.
        continuation: What another engine had answered before, if it may have.
    """
    outcome, earlier = pump.outcome(), 0
    if continuation is not None and continuation.resumed:
        earlier = 0 if outcome.prompt_tokens else continuation.tokens
        outcome = continuation.joined(outcome)
    record = call.record
    record.finish_reason = outcome.finish_reason
    left = not pump.over.done()  # by the client, or with its key; the engine did nothing wrong
    unreported = call.prompt_estimate if left else 0
    record.prompt_tokens = outcome.prompt_tokens or pump.events.prompt_tokens or unreported
    record.cached_tokens = outcome.cached_tokens or 0
    reported = outcome.completion_tokens
    if reported is None or not pump.events.done:  # or not for all of the answers
        reported = max(reported or 0, pump.events.tokens + earlier)
    record.completion_tokens = reported
    _settle(call)
    return outcome


def account_reply(call: Call, body: bytes) -> int:
    """The same for a reply in one piece; returns its tokens."""
    tokens = call.record.prompt_tokens = tokens_of_reply(body)
    if call.reservation is not None:
        call.reservation.settle(tokens + call.record.completion_tokens)
    return tokens


def charge_no_prompt(call: Call) -> None:
    """The engine fell silent: nobody pays for a prompt that was only estimated."""
    if call.record.prompt_tokens == call.prompt_estimate:
        call.record.prompt_tokens = 0
    _settle(call)


def _settle(call: Call) -> None:
    if call.reservation is not None:
        call.reservation.settle(call.record.prompt_tokens + call.record.completion_tokens)


def tell_times(call: Call, outcome: Outcome) -> None:
    """Say in the headers what took how long; of use only while they are still to be sent."""
    parts = [f"queue;dur={call.record.queue_s * 1000:.1f}"]
    for name, value_ms in (("prefill", outcome.prompt_ms), ("decode", outcome.predicted_ms)):
        if value_ms is not None:
            parts.append(f"{name};dur={value_ms:.1f}")
    call.headers["Server-Timing"] = ", ".join(parts)
