"""Events of chat become events of Messages, and the reply in one piece says the same."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from gateway.dialects import DIALECTS, EngineCall, FieldPolicy, ModelFacts, ReplyHead
from gateway.errors import ApiError
from tests.support.frame_grammar import check_messages

FACTS = ModelFacts(frozenset({"m"}), "m", slots=4, context_tokens=4096, vocab_size=300)
HEAD = ReplyHead("req_1", "abc", 1_795_224_215)
DIALECT = DIALECTS["/v1/messages"]
DONE = b"data: [DONE]\n\n"
LOST = ApiError("engine_crashed")


def plan(**body: Any) -> EngineCall:
    asked = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 50, "stream": True}
    return DIALECT.build({**asked, **body}, FACTS, FieldPolicy())


def frame(payload: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(payload) + b"\n\n"


def delta(finish: str | None = None, more: dict[str, Any] | None = None, **delta: Any) -> bytes:
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
    return frame({"id": "chatcmpl-1", "model": "m", "choices": choices, **(more or {})})


def call(index: int, arguments: str = "", name: str | None = None) -> bytes:
    piece: dict[str, Any] = {"index": index, "function": {"arguments": arguments}}
    if name:
        piece = {"index": index, "id": f"c{index}", "type": "function"}
        piece["function"] = {"name": name, "arguments": arguments}
    return delta(tool_calls=[piece])


def end(finish: str = "stop", cached: int = 2, more: dict[str, Any] | None = None) -> bytes:
    usage = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
    details = {"prompt_tokens_details": {"cached_tokens": cached}}
    return delta(finish, more) + frame({"choices": [], "usage": {**usage, **details}}) + DONE


OPENING = delta(role="assistant", content=None)
TEXT = (OPENING, delta(content="He"), delta(content="llo"), end())
THOUGHTS = (
    OPENING,
    delta(reasoning_content="h"),
    delta(reasoning_content="m"),
    delta(content="yes"),
    end(),
)
CALLS = (
    OPENING,
    delta(content="let me see"),
    call(0, name="f"),
    call(0, '{"a"'),
    call(0, ":1}"),
    call(1, name="g"),
    end("tool_calls"),
)
CUT_CALL = (OPENING, delta(content="a"), call(0, '{"a"', name="f"), end("length"))
CUT_TEXT = (OPENING, delta(content="a"), end("length"))
NOTHING = (OPENING, end())
ANSWERS = {
    "text": TEXT,
    "thoughts": THOUGHTS,
    "calls": CALLS,
    "a cut call": CUT_CALL,
    "a cut text": CUT_TEXT,
    "nothing": NOTHING,
}

Events = list[dict[str, Any]]


def streamed(
    *chunks: bytes, error: ApiError | None = None, known: int | None = 7, **body: Any
) -> bytes:
    assert DIALECT.translator is not None
    translator = DIALECT.translator(plan(**body), HEAD)
    said = b"".join(translator.feed(chunk, known) for chunk in chunks)
    return said if error is None else said + translator.fail(error)


def events(*chunks: bytes, **more: Any) -> Events:
    """The payloads, each of which has its name inside as well."""
    found = []
    for event in streamed(*chunks, **more).split(b"\n\n")[:-1]:
        name, data = event.split(b"\n")
        payload = orjson.loads(data.removeprefix(b"data: "))
        assert name == b"event: " + payload["type"].encode()
        found.append(payload)
    return found


def whole(*chunks: bytes, **body: Any) -> dict[str, Any]:
    assert DIALECT.assembler is not None
    assembler = DIALECT.assembler(plan(**body), HEAD)
    for chunk in chunks:
        assembler.feed(chunk)
    made: dict[str, Any] = orjson.loads(assembler.result())
    return made


def test_a_text_is_one_block() -> None:
    usage = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    message: dict[str, Any] = {
        "id": "msg_abc",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {**usage, "input_tokens": 7, "output_tokens": 0},
    }
    block = {"type": "text", "text": ""}
    assert events(*TEXT) == [
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": block},
        *(
            {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "text_delta", "text": piece},
            }
            for piece in ("He", "llo")
        ),
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {
                "input_tokens": 5,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 2,
                "output_tokens": 5,
            },
        },
        {"type": "message_stop"},
    ]


def told(found: Events) -> list[Any]:
    """The blocks, shortened: how each begins, its deltas, and its end."""
    return [
        event.get("content_block") or event.get("delta") or "end"
        for event in found
        if event["type"].startswith("content_block")
    ]


def test_thoughts_are_a_block_before_the_text() -> None:
    assert told(events(*THOUGHTS)) == [
        {"type": "thinking", "thinking": "", "signature": ""},
        {"type": "thinking_delta", "thinking": "h"},
        {"type": "thinking_delta", "thinking": "m"},
        {"type": "signature_delta", "signature": ""},
        "end",
        {"type": "text", "text": ""},
        {"type": "text_delta", "text": "yes"},
        "end",
    ]


def test_each_call_is_a_block_even_without_arguments() -> None:
    found = events(*CALLS)
    assert told(found)[3:] == [
        {"type": "tool_use", "id": "c0", "name": "f", "input": {}},
        {"type": "input_json_delta", "partial_json": '{"a"'},
        {"type": "input_json_delta", "partial_json": ":1}"},
        "end",
        {"type": "tool_use", "id": "c1", "name": "g", "input": {}},
        "end",
    ]
    assert found[-2]["delta"]["stop_reason"] == "tool_use"
    assert whole(*CALLS)["content"] == [
        {"type": "text", "text": "let me see"},
        {"type": "tool_use", "id": "c0", "name": "f", "input": {"a": 1}},
        {"type": "tool_use", "id": "c1", "name": "g", "input": {}},
    ]


def rebuilt(found: Events) -> dict[str, Any]:
    """The message that a client puts together from a stream."""
    message: dict[str, Any] = {**found[0]["message"]}
    blocks: list[dict[str, Any]] = []
    for event in found:
        if event["type"] == "content_block_start":
            blocks.append({**event["content_block"]})
        elif event["type"] == "content_block_delta":
            (name,) = event["delta"].keys() - {"type"}
            blocks[-1][name] = blocks[-1].get(name, "") + event["delta"][name]
        elif event["type"] == "message_delta":
            message |= event["delta"]
            message["usage"] = event["usage"]
    for block in blocks:
        if "partial_json" in block:
            block["input"] = orjson.loads(block.pop("partial_json"))
    return {**message, "content": blocks}


@pytest.mark.parametrize("name", [name for name in ANSWERS if name != "a cut call"])
def test_the_reply_in_one_piece_is_what_a_stream_adds_up_to(name: str) -> None:
    chunks = ANSWERS[name]
    assert rebuilt(events(*chunks)) == whole(*chunks)


@pytest.mark.parametrize(("name", "chunks"), ANSWERS.items())
def test_how_the_bytes_were_cut_makes_no_difference(name: str, chunks: tuple[bytes, ...]) -> None:
    at_once = streamed(b"".join(chunks))
    assert streamed(*(bytes([byte]) for byte in b"".join(chunks))) == at_once
    assert streamed(*chunks) == at_once
    assert check_messages(at_once).ending == ("length" if "cut" in name else "complete")


@pytest.mark.parametrize("chunks", [CUT_TEXT, CUT_CALL])
def test_a_cut_answer_says_so(chunks: tuple[bytes, ...]) -> None:
    assert events(*chunks)[-2]["delta"]["stop_reason"] == "max_tokens"
    assert whole(*chunks)["stop_reason"] == "max_tokens"
    assert whole(*chunks)["content"] == [{"type": "text", "text": "a"}]  # half a call is none


def test_a_call_that_was_cut_before_its_arguments_is_not_one_without_any() -> None:
    begun = (OPENING, call(0, "{}", name="f"), call(1, name="g"))
    assert [block["name"] for block in whole(*begun, end("length"))["content"]] == ["f"]
    assert [block["name"] for block in whole(*begun, end())["content"]] == ["f", "g"]


@pytest.mark.parametrize("arguments", ["[1]", '{"a"', "1", "x", '{"a":1}}'])
def test_arguments_that_are_no_object_are_a_failure(arguments: str) -> None:
    chunks = (OPENING, call(0, arguments, name="f"), end("tool_calls"))
    with pytest.raises(ValueError, match=r".+"):
        streamed(*chunks)
    with pytest.raises(ValueError, match=r".+"):
        whole(*chunks)


def test_what_the_client_began_is_not_told_again() -> None:
    progress = {"prompt_progress": {"total": 9, "cache": 0, "processed": 9, "time_ms": 1}}
    repeated = delta(None, progress, content="{")
    chunks = (OPENING, repeated, delta(content='"a":1}'), end())
    assert whole(*chunks)["content"] == [{"type": "text", "text": '"a":1}'}]


STOPPED = {"__verbose": {"stop_type": "word", "stopping_word": "END"}}


def test_the_stop_sequence_that_ended_the_answer_is_named() -> None:
    chunks = (OPENING, delta(content="a"), end(more=STOPPED))
    made = whole(*chunks, stop_sequences=["x", "END"])
    assert (made["stop_reason"], made["stop_sequence"]) == ("stop_sequence", "END")
    ended = events(*chunks, stop_sequences=["END"])[-2]["delta"]
    assert ended == {"stop_reason": "stop_sequence", "stop_sequence": "END"}


@pytest.mark.parametrize(
    ("stops", "finish", "reason"),
    [
        ([], "stop", "end_turn"),
        (["other"], "stop", "end_turn"),  # the template has words of its own
        (["END"], "length", "max_tokens"),
    ],
)
def test_no_other_stop_sequence_is(stops: list[str], finish: str, reason: str) -> None:
    made = whole(OPENING, delta(content="a"), end(finish, more=STOPPED), stop_sequences=stops)
    assert (made["stop_reason"], made["stop_sequence"]) == (reason, None)


def test_usage_leaves_cached_tokens_out_of_the_input() -> None:
    usage = whole(OPENING, delta(content="a"), end(cached=7))["usage"]
    assert usage["input_tokens"] == 0
    assert usage["cache_read_input_tokens"] == 7
    assert usage["output_tokens"] == 5


def test_an_unknown_prompt_begins_with_no_tokens() -> None:
    assert events(*TEXT, known=None)[0]["message"]["usage"]["input_tokens"] == 0


def test_a_failure_before_the_first_event_is_one_error_event() -> None:
    assert DIALECT.error_frame(LOST, HEAD) == streamed(error=LOST)
    (only,) = events(error=LOST)
    assert only["type"] == "error"
    assert only["request_id"] == "req_1"
    assert only["error"]["type"] == "api_error"
    assert only["error"]["code"] == "engine_crashed"


@pytest.mark.parametrize("count", range(1, len(CALLS)))
def test_a_failure_in_the_middle_ends_the_stream(count: int) -> None:
    said = streamed(*CALLS[:count], error=LOST)
    assert said.endswith(DIALECT.error_frame(LOST, HEAD))
    assert b"message_stop" not in said
    assert b"message_delta" not in said
    assert check_messages(said).ending == "failed"


def test_after_the_end_nothing_follows() -> None:
    assert streamed(*TEXT, *TEXT, error=LOST) == streamed(*TEXT)


def test_an_answer_that_is_not_complete_makes_no_reply() -> None:
    for count in range(len(TEXT)):
        with pytest.raises(ValueError, match="not ended"):
            whole(*TEXT[:count])


def test_the_last_word_without_a_reason_is_a_failure() -> None:
    with pytest.raises(ValueError, match="without saying why"):
        streamed(OPENING, delta(content="a"), DONE)
