"""Answers of an engine, and the frames that each dialect makes of them: ``tests/data/golden``.

The engine's side is recorded from the real one (``tests/data/streams``) where it can be had from a
tiny model; the rest is made up here, in the same form. Ids and times are fixed, so that the frames
are always the same bytes.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from gateway.dialects import DIALECTS
from tests.support.frame_grammar import Told, check_chat, check_completions
from tests.support.retold import TOLD, stream

__all__ = ["CHAT_CASES", "GOLDEN", "TEXT_CASES", "cases", "golden_file", "made", "said"]

DATA = Path(__file__).parents[1] / "data"
GOLDEN = DATA / "golden"
COMPLETIONS = "/v1/completions"


def _event(payload: object) -> bytes:
    return b"data: " + json.dumps(payload, ensure_ascii=False).encode() + b"\n\n"


def _chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
    choice = {"finish_reason": finish, "index": 0, "delta": delta}
    return _event({"choices": [choice], **_HEAD, "object": "chat.completion.chunk"})


def _call(index: int, arguments: str, name: str | None = None) -> bytes:
    call: dict[str, Any] = {"index": index}
    if name is not None:
        call |= {"id": f"call{index}", "type": "function"}
    function = {"arguments": arguments} if name is None else {"name": name, "arguments": arguments}
    return _chunk({"tool_calls": [{**call, "function": function}]})


def _text(*pieces: str) -> bytes:
    return b"".join(_chunk({"content": piece}) for piece in pieces)


def _end(finish: str, prompt: int, cached: int, answer: int) -> bytes:
    usage = {
        "completion_tokens": answer,
        "prompt_tokens": prompt,
        "total_tokens": prompt + answer,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
    final = {"choices": [], **_HEAD, "object": "chat.completion.chunk", "usage": usage}
    return _chunk({}, finish) + _event(final) + _DONE


_HEAD = {"created": 1_795_224_215, "id": "chatcmpl-made", "model": "tiny"}
_DONE = b"data: [DONE]\n\n"
_OPENING = _chunk({"role": "assistant", "content": None})
_ERROR = _event({"error": {"code": 500, "message": "it broke", "type": "server_error"}})
_THOUGHTS = _chunk({"reasoning_content": "Which city? "}) + _chunk({"reasoning_content": "Ghent."})
_CALL = _call(0, "", "get_weather") + _call(0, '{"city": "Gh') + _call(0, 'ent", "days": 2}')

_MADE: dict[str, bytes] = {
    "everything": _OPENING
    + _THOUGHTS
    + _text("I will", " ask: ", "déjà 😀")
    + _CALL
    + _call(1, "", "list_cities")
    + _end("tool_calls", 40, 32, 25),
    "call-only": _OPENING + _CALL + _end("tool_calls", 40, 0, 12),
    "nothing-said": _OPENING + _end("stop", 9, 8, 1),
    "thoughts-only": _OPENING + _THOUGHTS + _end("length", 9, 0, 6),
    "call-cut": _OPENING
    + _text("So:")
    + _CALL[: -len(_call(0, 'ent", "days": 2}'))]
    + _end("length", 9, 0, 7),
    # -- what broke
    "error-first": _ERROR,
    "error-in-text": _OPENING + _text("The answer", " is") + _ERROR,
    "error-in-thoughts": _OPENING + _THOUGHTS + _ERROR,
    "error-in-call": _OPENING + _text("So:") + _CALL + _ERROR,
    "error-at-end": _OPENING + _text("The answer", " is 42.") + _chunk({}, "stop") + _ERROR,
    "broken-off": _OPENING + _text("The answer", " is") + _text(" 42.")[:60],
    "broken-off-at-end": _OPENING + _text("The answer", " is 42.") + _chunk({}, "stop"),
}
_RECORDED_CHAT = ("length", "bytes", "tool", "two-tools", "thoughts", "logprobs")
_RECORDED_TEXT = ("length", "stop", "tokens")

CHAT_CASES: dict[str, bytes] = {
    **{
        f"engine-{name}": (DATA / "streams" / f"chat-{name}.sse").read_bytes()
        for name in _RECORDED_CHAT
    },
    **_MADE,
}
"""What an engine sends to chat, by the name of the case."""

TEXT_CASES: dict[str, bytes] = {
    f"engine-{name}": (DATA / "streams" / f"text-{name}.sse").read_bytes()
    for name in _RECORDED_TEXT
}
"""What an engine sends to text completions."""
_BROKEN = TEXT_CASES["engine-length"].split(b"\n\n")
TEXT_CASES["error-in-text"] = b"\n\n".join(_BROKEN[:4]) + b"\n\n" + _ERROR
TEXT_CASES["broken-off"] = b"\n\n".join(_BROKEN[:4]) + b"\n\n" + _BROKEN[4][:60]


def cases(path: str) -> dict[str, bytes]:
    """What an engine sends, for the dialect at *path*."""
    return TEXT_CASES if path == COMPLETIONS else CHAT_CASES


def made(path: str, case: str) -> bytes:
    """The frames that the dialect at *path* makes of a case."""
    with asyncio.Runner() as runner:
        return runner.run(stream(path, [cases(path)[case]])).stream


def golden_file(path: str, case: str) -> Path:
    """Where these frames are kept."""
    return GOLDEN / DIALECTS[path].name / f"{case}.sse"


def said(path: str, case: str) -> Told:
    """What the engine said in a case, to somebody who reads the engine's own events."""
    check = check_completions if path == COMPLETIONS else check_chat
    whole, _, _ = cases(path)[case].rpartition(b"\n\n")
    events = (whole + b"\n\n").split(b"\n\n")[:-1]
    kept = [event + b"\n\n" for event in events if event and b"prompt_progress" not in event]
    return check(b"".join(kept))


PATHS = sorted(TOLD)
