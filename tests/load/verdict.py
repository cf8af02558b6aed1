"""PURE: how one request ended, judged by the bytes that came back.

A client may see one of three ends: the whole answer; a stream whose last event is our error; a
status with an error in JSON. Anything else is a way of being misled, and has a name here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

__all__ = ["ANSWERED", "REFUSED", "TOLD", "Reply", "Verdict", "judge"]

ANSWERED = "answered"
TOLD = "told in the stream"
REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back before the connection ended or the reply did."""

    status: int = 0
    """0: not a byte of a head."""
    streamed: bool = False
    body: bytes = b""
    whole: bool = False
    """Whether the end of the body came, as the framing tells it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One of the three ends, or what is wrong."""

    end: str
    code: str = ""
    """Of the error, where there was one."""
    begun: bool = False
    """Whether an event with data came, the error aside; comments are none."""
    misleading: bool = False

    def __str__(self) -> str:
        return f"{self.end} ({self.code})" if self.code else self.end


def judge(reply: Reply | None) -> Verdict:
    """Name the end of a request; None: it had none in time."""
    if reply is None:
        return _wrong("hangs")
    if not reply.status:
        return _wrong("closed without a word")
    if not reply.whole:
        return _wrong("cut off")
    if reply.status != 200:
        return _judge_refusal(reply)
    return _judge_stream(reply.body) if reply.streamed else _judge_answer(reply.body)


def _wrong(what: str, *, begun: bool = False) -> Verdict:
    return Verdict(what, begun=begun, misleading=True)


def _judge_refusal(reply: Reply) -> Verdict:
    try:
        code = json.loads(reply.body)["error"]["code"]
    except (ValueError, KeyError, TypeError):
        return _wrong(f"{reply.status} without an error in JSON")
    return Verdict(REFUSED, f"{reply.status} {code}")


def _judge_answer(body: bytes) -> Verdict:
    try:
        answer = json.loads(body)
    except ValueError:
        return _wrong("200 with half of an answer")
    if "choices" in answer and not all(each["finish_reason"] for each in answer["choices"]):
        return _wrong("200 with an answer that has no end")
    return Verdict(ANSWERED)


def _judge_stream(body: bytes) -> Verdict:
    events = [part[6:] for part in body.split(b"\n\n") if part.startswith(b"data: ")]
    if not events:
        return _wrong("a stream of nothing")
    begun = not events[0].startswith(b'{"error"')
    last = events[-1]
    if last == b"[DONE]":
        return _judge_finished(events[:-1])
    try:
        code = json.loads(last)["error"]["code"]
    except ValueError:
        return _wrong("a stream that stops inside an event", begun=begun)
    except (KeyError, TypeError):
        return _wrong("a stream that ends as if it were finished", begun=begun)
    return Verdict(TOLD, code, begun=begun)


def _judge_finished(events: list[bytes]) -> Verdict:
    """Each answer of it must have said why it ended."""
    seen: dict[int, Any] = {}
    for event in map(json.loads, events):
        if "error" in event:
            return _wrong("a stream that says it is done after an error", begun=True)
        for choice in event.get("choices", ()):
            seen[choice["index"]] = choice.get("finish_reason") or seen.get(choice["index"])
    if not seen or not all(seen.values()):
        return _wrong("a stream that says it is done and is not", begun=True)
    return Verdict(ANSWERED, begun=True)
