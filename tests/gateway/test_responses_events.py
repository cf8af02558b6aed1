"""Events of chat become events of Responses, each as OpenAI's own types have it."""

from typing import Any

import orjson
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from gateway.dialects import DIALECTS, EngineCall, FieldPolicy, ModelFacts, ReplyHead
from gateway.errors import ApiError
from tests.support.frame_grammar import check_responses

FACTS = ModelFacts(frozenset({"m"}), "m", slots=4, context_tokens=4096, vocab_size=300)
HEAD = ReplyHead("req_1", "abc", 1_795_224_215)
DIALECT = DIALECTS["/v1/responses"]
EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
USAGE = {
    "completion_tokens": 5,
    "prompt_tokens": 7,
    "total_tokens": 12,
    "prompt_tokens_details": {"cached_tokens": 2},
}
DONE = b"data: [DONE]\n\n"


def plan(**body: Any) -> EngineCall:
    return DIALECT.build({"input": "hi", "stream": True, **body}, FACTS, FieldPolicy())


def frame(payload: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(payload) + b"\n\n"


def delta(finish: str | None = None, logprobs: Any = None, **delta: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    if logprobs is not None:
        choice["logprobs"] = {"content": logprobs}
    return frame({"id": "chatcmpl-1", "model": "m", "choices": [choice]})


def call(index: int, arguments: str = "", name: str | None = None, call_id: str = "") -> bytes:
    function = {"arguments": arguments} | ({"name": name} if name else {})
    piece: dict[str, Any] = {"index": index, "function": function}
    if name:
        piece |= {"id": call_id, "type": "function"}
    return delta(tool_calls=[piece])


def end(finish: str = "stop", **more: Any) -> bytes:
    return delta(finish) + frame({"id": "chatcmpl-1", "choices": [], "usage": USAGE, **more}) + DONE


def translated(*chunks: bytes, error: ApiError | None = None, **body: Any) -> bytes:
    assert DIALECT.translator is not None
    translator = DIALECT.translator(plan(**body), HEAD)
    said = b"".join(translator.feed(chunk) for chunk in chunks)
    return said if error is None else said + translator.fail(error)


def told(*chunks: bytes, error: ApiError | None = None, **body: Any) -> list[dict[str, Any]]:
    """The events, of which each is what its type says and all are in order."""
    stream = translated(*chunks, error=error, **body)
    check_responses(stream)
    events = [orjson.loads(block.partition(b"\ndata: ")[2]) for block in stream.split(b"\n\n")[:-1]]
    for event in events:
        EVENTS.validate_python(event)
    return events


def whole(*chunks: bytes, **body: Any) -> dict[str, Any]:
    assert DIALECT.assembler is not None
    assembler = DIALECT.assembler(plan(**body), HEAD)
    for chunk in chunks:
        assembler.feed(chunk)
    found: dict[str, Any] = orjson.loads(assembler.result())
    Response.model_validate(found)
    return found


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


TEXT = (delta(role="assistant", content=None), delta(content="He"), delta(content="llo"), end())
CALLS = (
    call(0, "", "f", "c1"),
    call(0, '{"a"'),
    call(0, ":1}"),
    call(1, "{}", "g", "c2"),
    end("tool_calls"),
)


# -- whole answers


def test_text_is_one_message_with_one_part():
    events = told(*TEXT)
    at = {"item_id": "msg_abc_0", "output_index": 0, "content_index": 0}
    part = {"type": "output_text", "text": "Hello", "annotations": [], "logprobs": []}
    item = {"id": "msg_abc_0", "type": "message", "role": "assistant"}
    assert events[2:-1] == [
        {
            "type": "response.output_item.added",
            "sequence_number": 2,
            "output_index": 0,
            "item": {**item, "status": "in_progress", "content": []},
        },
        {
            "type": "response.content_part.added",
            "sequence_number": 3,
            **at,
            "part": {**part, "text": ""},
        },
        {
            "type": "response.output_text.delta",
            "sequence_number": 4,
            **at,
            "delta": "He",
            "logprobs": [],
        },
        {
            "type": "response.output_text.delta",
            "sequence_number": 5,
            **at,
            "delta": "llo",
            "logprobs": [],
        },
        {
            "type": "response.output_text.done",
            "sequence_number": 6,
            **at,
            "text": "Hello",
            "logprobs": [],
        },
        {"type": "response.content_part.done", "sequence_number": 7, **at, "part": part},
        {
            "type": "response.output_item.done",
            "sequence_number": 8,
            "output_index": 0,
            "item": {**item, "status": "completed", "content": [part]},
        },
    ]
    assert kinds(events)[:2] == ["created", "in_progress"]
    assert kinds(events)[-1] == "completed"


def test_the_response_has_every_key_from_the_first_event_on():
    events = told(*TEXT, instructions="Be short.", max_output_tokens=9)
    created, final = events[0]["response"], events[-1]["response"]
    assert created == {
        "id": "resp_abc",
        "object": "response",
        "created_at": 1_795_224_215,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": "Be short.",
        "max_output_tokens": 9,
        "metadata": {},
        "model": "m",
        "output": [],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "store": False,
        "temperature": None,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": None,
        "truncation": "disabled",
        "usage": None,
    }
    assert events[1]["response"] == created
    assert final == created | {
        "status": "completed",
        "output": [events[-2]["item"]],
        "usage": {
            "input_tokens": 7,
            "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 0},
            "output_tokens": 5,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 12,
        },
    }


def test_reasoning_is_an_item_before_the_message():
    events = told(
        delta(reasoning_content="h"), delta(reasoning_content="m"), delta(content="x"), end()
    )
    assert kinds(events)[2:10] == [
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
    ]
    assert events[2]["item"] == {
        "id": "rs_abc_0",
        "type": "reasoning",
        "status": "in_progress",
        "summary": [],
        "content": [],
    }
    assert [item["type"] for item in events[-1]["response"]["output"]] == ["reasoning", "message"]
    assert events[8]["item"]["content"] == [{"type": "reasoning_text", "text": "hm"}]


def test_calls_are_items_one_after_the_other():
    events = told(*CALLS)
    assert kinds(events)[2:-1] == [
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
    ]
    first, second = events[-1]["response"]["output"]
    assert first == {
        "id": "fc_abc_0",
        "type": "function_call",
        "status": "completed",
        "call_id": "c1",
        "name": "f",
        "arguments": '{"a":1}',
    }
    assert (second["call_id"], second["arguments"]) == ("c2", "{}")
    assert events[5] == {
        "type": "response.function_call_arguments.done",
        "sequence_number": 5,
        "item_id": "fc_abc_0",
        "output_index": 0,
        "name": "f",
        "arguments": '{"a":1}',
    }


def test_a_call_without_arguments_says_so_in_json():
    events = told(call(0, "", "f", "c1"), end("tool_calls"))
    assert kinds(events)[3:5] == ["function_call_arguments.delta", "function_call_arguments.done"]
    assert (events[3]["delta"], events[4]["arguments"]) == ("{}", "{}")


def test_an_answer_without_anything_is_complete_without_output():
    events = told(delta(role="assistant", content=None), end())
    assert kinds(events) == ["created", "in_progress", "completed"]
    assert events[-1]["response"]["output"] == []


def test_logprobs_come_without_what_only_the_engine_knows():
    one = {"id": 5, "token": "a", "bytes": [97], "logprob": -0.5}
    told_one = {"token": "a", "bytes": [97], "logprob": -0.5}
    events = told(delta(content="a", logprobs=[{**one, "top_logprobs": [one]}]), end())
    expected = [{**told_one, "top_logprobs": [told_one]}]
    assert events[4]["logprobs"] == expected
    assert events[5]["logprobs"] == expected
    assert events[-1]["response"]["output"][0]["content"][0]["logprobs"] == expected


def test_logprobs_that_are_many_come_with_the_deltas_only():
    one = {"token": "a" * 1000, "bytes": [97], "logprob": -0.5}
    deltas = [delta(content="a", logprobs=[one]) for _ in range(1100)]
    events = told(*deltas, end())
    assert all(event["logprobs"] for event in events if event["type"].endswith("text.delta"))
    assert events[-1]["response"]["output"][0]["content"][0]["logprobs"] == []
    assert DIALECT.assembler is not None
    assembler = DIALECT.assembler(plan(), HEAD)
    for event in (*deltas, end()):
        assembler.feed(event)
    (item,) = orjson.loads(assembler.result())["output"]
    assert len(item["content"][0]["logprobs"]) == 1100, "there were no deltas"


# -- cut answers


@pytest.mark.parametrize("chunks", [TEXT[:-1], CALLS[:2], (call(0, "", "f", "c1"),)])
def test_what_the_limit_cut_is_incomplete_with_its_last_item(chunks):
    events = told(*chunks, end("length"))
    response = events[-1]["response"]
    assert kinds(events)[-1] == "incomplete"
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["output"][-1]["status"] == "incomplete"
    assert response["usage"]["output_tokens"] == 5
    assert events[-2]["item"] == response["output"][-1]


def test_only_the_last_item_of_a_cut_answer_is_incomplete():
    events = told(delta(reasoning_content="h"), delta(content="x"), end("length"))
    statuses = [item["status"] for item in events[-1]["response"]["output"]]
    assert statuses == ["completed", "incomplete"]


def test_a_cut_call_without_arguments_is_not_made_whole():
    assert told(call(0, "", "f", "c1"), end("length"))[-1]["response"]["output"][0] == {
        "id": "fc_abc_0",
        "type": "function_call",
        "status": "incomplete",
        "call_id": "c1",
        "name": "f",
        "arguments": "",
    }


# -- failures

BROKEN = ApiError("engine_crashed")


@pytest.mark.parametrize("upto", range(4))
def test_a_failure_ends_the_stream_with_what_there_was(upto):
    events = told(*TEXT[:upto], error=BROKEN)
    last = events[-1]
    assert kinds(events)[-1] == "failed"
    assert last["sequence_number"] == len(events) - 1
    assert last["error"] == BROKEN.error_object()
    response = last["response"]
    assert (response["id"], response["status"]) == ("resp_abc", "failed")
    assert response["error"] == {"code": "server_error", "message": BROKEN.message}
    text = ["".join(part["text"] for part in item["content"]) for item in response["output"]]
    assert text == [[], [], ["He"], ["Hello"]][upto]
    assert all(item["status"] == "incomplete" for item in response["output"])


def test_a_failure_before_anything_needs_no_translator():
    frame = DIALECT.error_frame(BROKEN, HEAD)
    check_responses(frame)
    event = orjson.loads(frame.partition(b"data: ")[2])
    (translated_event,) = told(error=BROKEN)
    assert event == {
        **translated_event,
        "response": {**translated_event["response"], "model": ""},
    }


@pytest.mark.parametrize(
    ("code", "inner"),
    [
        ("engine_timeout", "server_error"),
        ("key_revoked", "invalid_prompt"),
        ("context_length_exceeded", "context_length_exceeded"),
        ("rate_limit_exceeded", "rate_limit_exceeded"),
        ("queue_wait_too_long", "server_error"),
    ],
)
def test_a_client_that_must_not_ask_again_is_told_in_the_response(code, inner):
    event = orjson.loads(translated(error=ApiError(code)).partition(b"data: ")[2])
    assert event["response"]["error"]["code"] == inner
    assert event["error"]["code"] == code


def test_there_is_one_end_whatever_comes():
    assert DIALECT.translator is not None
    translator = DIALECT.translator(plan(), HEAD)
    ended = translator.feed(b"".join(TEXT))
    assert translator.feed(DONE + b"".join(TEXT)) == b""
    assert translator.fail(BROKEN) == b""
    assert ended.count(b"event: response.completed") == 1
    other = DIALECT.translator(plan(), HEAD)
    assert b"response.failed" in other.fail(BROKEN)
    assert other.fail(BROKEN) == b""


@pytest.mark.parametrize(
    "chunks",
    [
        (DONE,),
        (delta(content="x"), DONE),
        (call(0, "{}"),),
        (call(0, "", "f", "c1"), call(1, "", "g", "c2"), call(0, "{}")),
        (b"data: 5\n\n",),
        (b"data: x\n\n",),
    ],
)
def test_events_without_sense_raise(chunks):
    with pytest.raises(ValueError, match=r"an event|answer ended|not open|unexpected character"):
        translated(*chunks)


# -- however it comes


@pytest.mark.parametrize("chunks", [TEXT, CALLS])
def test_bytes_one_by_one_make_the_same_events(chunks):
    events = b": prefill 50%\n\n" + b"".join(chunks).replace(b"He", "é🦙".encode())
    single = [events[at : at + 1] for at in range(len(events))]
    assert translated(*single) == translated(events)
    middles = (translated(events[:at], events[at:]) for at in range(0, len(events), 7))
    assert set(middles) == {translated(events)}


@pytest.mark.parametrize("finish", ["stop", "length"])
@pytest.mark.parametrize(
    "chunks", [TEXT[:-1], CALLS[:-1], (delta(reasoning_content="h"), delta(content="x"))]
)
def test_the_reply_in_one_piece_is_the_streams_last_word(chunks, finish):
    asked: dict[str, Any] = {"tools": [{"type": "function", "name": "f"}], "temperature": 0.5}
    last = told(*chunks, end(finish), **asked)[-1]["response"]
    assert whole(*chunks, end(finish), **asked) == last


def test_a_reply_in_one_piece_needs_the_end_of_the_answer():
    with pytest.raises(ValueError, match="not ended"):
        whole(*TEXT[:-1])


def test_a_continued_answer_says_so_at_its_end():
    mark = {"reason": "engine_restarted", "after_tokens": 2}
    events = told(*TEXT[:-1], end(x_continued=mark))
    assert events[-1]["response"]["x_continued"] == mark
    assert "x_continued" not in events[0]["response"]


def test_work_grows_with_the_answer_and_not_with_its_square():
    """Each piece is told once: what a delta makes is as long at the end as at the beginning."""
    assert DIALECT.translator is not None
    translator = DIALECT.translator(plan(tools=[{"type": "function", "name": "f" * 100}]), HEAD)
    translator.feed(delta(content="x"))
    sizes = {len(translator.feed(delta(content="x"))) for _ in range(2000)}
    assert max(sizes) - min(sizes) <= 3  # digits of the number
