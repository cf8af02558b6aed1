"""The assembled reply against what the real engine answered to the same request unstreamed.

The recordings were made by tests/record_streams.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.stream.assemble import ChatAssembler, CompletionAssembler, IncompleteReplyError
from gateway.stream.sse import EVENT_LIMIT_BYTES, EventStream

STREAMS = Path(__file__).parents[1] / "data" / "streams"
CASES = sorted(path.stem for path in STREAMS.glob("*.json") if "held-back" not in path.stem)
CHOICES = {"chat-two": (2, 1), "text-list": (2, 2), "text-list-two": (4, 2)}


def assemble(name: str, stream: bytes) -> dict[str, Any]:
    choices, prompts = CHOICES.get(name, (1, 1))
    kind = ChatAssembler if name.startswith("chat") else CompletionAssembler
    assembler = kind(choices, prompts)
    events = EventStream(choices=choices, prompts=prompts)
    for start in range(0, len(stream), 1000):
        assembler.feed(events.feed(stream[start : start + 1000]))
    assert events.done
    reply = json.loads(assembler.result())
    assert isinstance(reply, dict)
    return reply


def comparable(reply: dict[str, Any]) -> dict[str, Any]:
    """Without what differs between any two answers of the engine."""
    reply = json.loads(json.dumps(reply))
    del reply["id"], reply["created"]
    reply["timings"] = sorted(reply["timings"])
    for choice in reply["choices"]:
        for call in choice.get("message", {}).get("tool_calls", ()):
            assert call.pop("id")
    return reply


def ordered(value: Any) -> Any:
    """All keys, in their order."""
    if isinstance(value, dict):
        return [(key, ordered(item)) for key, item in value.items()]
    return [ordered(item) for item in value] if isinstance(value, list) else None


@pytest.mark.parametrize("name", CASES)
def test_reply_equals_the_engines_own(name: str) -> None:
    own = json.loads((STREAMS / f"{name}.json").read_bytes())
    ours = assemble(name, (STREAMS / f"{name}.sse").read_bytes())
    if name in CHOICES:
        del own["usage"], ours["usage"]  # see the tests of usage
    if name == "chat-logprobs-end":
        own["choices"][0]["logprobs"]["content"].pop()  # the end token, which brought no text
    assert comparable(ours) == comparable(own)
    assert ordered(ours) == ordered(own)


@pytest.mark.parametrize(("name", "lost"), [("chat-held-back", " so"), ("text-held-back", " two")])
def test_only_text_the_engine_never_sent_is_missing(name: str, lost: str) -> None:
    """The beginning of a stop string, held back until the token limit came: see the module."""
    own = json.loads((STREAMS / f"{name}.json").read_bytes())
    ours = assemble(name, (STREAMS / f"{name}.sse").read_bytes())
    choice = ours["choices"][0]
    if name.startswith("chat"):
        choice["message"]["content"] += lost
    else:
        choice["text"] += lost
    assert comparable(ours) == comparable(own)


def test_usage_of_two_choices_counts_both_answers_and_one_prompt() -> None:
    own = json.loads((STREAMS / "chat-two.json").read_bytes())["usage"]
    ours = assemble("chat-two", (STREAMS / "chat-two.sse").read_bytes())["usage"]
    assert ours["prompt_tokens"] == own["prompt_tokens"]
    assert ours["completion_tokens"] == 2 * own["completion_tokens"]
    assert ours["total_tokens"] == ours["prompt_tokens"] + ours["completion_tokens"]


def test_usage_of_a_list_of_prompts_counts_each_prompt_once() -> None:
    two = assemble("text-list", (STREAMS / "text-list.sse").read_bytes())["usage"]
    four = assemble("text-list-two", (STREAMS / "text-list-two.sse").read_bytes())["usage"]
    assert four["prompt_tokens"] == two["prompt_tokens"]
    assert two["completion_tokens"] == 2 * 4
    assert four["completion_tokens"] == 4 * 3


def test_cut_stream_makes_no_reply() -> None:
    for name, assembler in (("chat-two", ChatAssembler(2)), ("text-list", CompletionAssembler(2))):
        events = (STREAMS / f"{name}.sse").read_bytes().split(b"\n\n")
        assembler.feed(b"\n\n".join(events[:-6]) + b"\n\n")
        with pytest.raises(IncompleteReplyError, match="of 2 choices"):
            assembler.result()


def test_nothing_makes_no_reply() -> None:
    with pytest.raises(IncompleteReplyError):
        ChatAssembler().result()


def test_broken_event_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="unexpected"):
        ChatAssembler().feed(b'data: {"choices":[{"ind\n\n')


def test_very_large_event_that_comes_in_pieces_is_assembled() -> None:
    text = "æøå" * EVENT_LIMIT_BYTES
    piece = {"index": 0, "text": text, "finish_reason": "length"}
    stream = b"data: " + json.dumps({"choices": [piece]}, ensure_ascii=False).encode() + b"\n\n"
    events, assembler = EventStream(), CompletionAssembler()
    pieces = 0
    for start in range(0, len(stream), 65536):
        passed = events.feed(stream[start : start + 65536])
        pieces += bool(passed)
        assembler.feed(passed)
    assert pieces > 2
    assert json.loads(assembler.result())["choices"][0]["text"] == text


def test_carriage_returns_are_tolerated() -> None:
    stream = (STREAMS / "chat-length.sse").read_bytes()
    crlf = assemble("chat-length", stream.replace(b"\n", b"\r\n"))
    assert crlf == assemble("chat-length", stream)


def test_delta_with_several_kinds_of_content_loses_none() -> None:
    assembler = ChatAssembler()
    call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}}
    delta = {"content": "a", "reasoning_content": "b", "tool_calls": [call]}
    choice = {"index": 0, "delta": delta, "finish_reason": "tool_calls"}
    assembler.feed(b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n")
    message = json.loads(assembler.result())["choices"][0]["message"]
    assert message["content"] == "a"
    assert message["reasoning_content"] == "b"
    assert message["tool_calls"][0]["function"] == {"name": "f", "arguments": "{}"}


def test_call_without_arguments_has_an_empty_string_and_no_invented_id() -> None:
    assembler = ChatAssembler()
    delta = {"tool_calls": [{"index": 0, "function": {"name": "f"}}]}
    choice = {"index": 0, "delta": delta, "finish_reason": "tool_calls"}
    assembler.feed(b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n")
    [call] = json.loads(assembler.result())["choices"][0]["message"]["tool_calls"]
    assert call == {"type": "function", "function": {"name": "f", "arguments": ""}}


def test_repr_tells_how_far_it_is() -> None:
    assert "1 choices" in repr(_fed("chat-length"))


def _fed(name: str) -> ChatAssembler:
    assembler = ChatAssembler()
    assembler.feed((STREAMS / f"{name}.sse").read_bytes())
    return assembler
