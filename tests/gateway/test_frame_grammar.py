"""Whatever the engine sends, each dialect tells it in frames that its clients understand.

Chat events are made up at random, cut anywhere, and go the way they go in the service: through the
watcher of the stream, the pump, what turns forced calls back, and the dialect's translator. What
comes out is read by `tests.support.frame_grammar`, which was not written from our code.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dialects import DIALECTS
from gateway.errors import ERRORS, ApiError
from tests.support.frame_grammar import CHECKERS, Told, check_chat, check_completions
from tests.support.retold import REQUESTS, TOLD, last_word, stream, whole

PATHS = sorted(TOLD)
TRANSLATED = sorted(path for path, d in TOLD.items() if d.translator)
CHAT = sorted(path for path in TOLD if path != "/v1/completions")
"""Those whose engine call is one of chat."""

FUZZ = settings(deadline=None, max_examples=120, derandomize=True)


def test_each_dialect_that_tells_an_answer_has_a_checker() -> None:
    assert set(TOLD) == set(CHECKERS)
    assert set(REQUESTS) == set(CHECKERS)


# -- the way through the service


@pytest.fixture(scope="module")
def run() -> Iterator[Callable[[Any], Any]]:
    with asyncio.Runner() as runner:
        yield runner.run


# -- chat events


def event(payload: object) -> bytes:
    return b"data: " + json.dumps(payload, ensure_ascii=False).encode() + b"\n\n"


def chunk(delta: dict[str, Any], finish: str | None = None, **more: object) -> bytes:
    choice = {"finish_reason": finish, "index": 0, "delta": delta}
    return event({"choices": [choice], **META, **more})


META = {"created": 1, "id": "chatcmpl-1", "model": "m", "object": "chat.completion.chunk"}
DONE = b"data: [DONE]\n\n"
OPENING = chunk({"role": "assistant", "content": None})
PROGRESS = chunk(
    {"role": "assistant", "content": None},
    prompt_progress={"total": 7, "cache": 2, "processed": 7, "time_ms": 1},
)
ERROR = event({"error": {"code": 500, "message": "it broke", "type": "server_error"}})
USAGE = event(
    {
        "choices": [],
        **META,
        "usage": {
            "completion_tokens": 5,
            "prompt_tokens": 7,
            "total_tokens": 12,
            "prompt_tokens_details": {"cached_tokens": 2},
        },
    }
)
ENDING = [chunk({}, "stop"), USAGE, DONE]
NAMES = st.sampled_from(["get_weather", "f", "a-b_C9"])
TEXTS = st.text(max_size=5) | st.sampled_from(["", " ", '"', "\n\n", "data: [DONE]", "é😀", "\\"])
ARGUMENTS = st.dictionaries(st.text(max_size=3), TEXTS | st.integers() | st.none(), max_size=2)


def text_chunk(piece: str) -> bytes:
    return chunk({"content": piece})


def reasoning_chunk(piece: str) -> bytes:
    return chunk({"reasoning_content": piece})


def call_chunk(index: int, arguments: str, name: str | None = None, call_id: str = "") -> bytes:
    function: dict[str, Any] = {"arguments": arguments}
    call: dict[str, Any] = {"index": index, "function": function}
    if name is not None:
        function["name"] = name
        call["type"] = "function"
        if call_id:
            call["id"] = call_id
    return chunk({"tool_calls": [call]})


@st.composite
def pieces(draw: st.DrawFn, text: str) -> list[str]:
    """*text* in pieces, some of them empty."""
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=4)))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@st.composite
def call_events(draw: st.DrawFn, index: int, *, cut: bool) -> list[bytes]:
    """One call; *cut*: the engine came to its limit within the arguments."""
    arguments = draw(st.sampled_from(["", "{}"]) | ARGUMENTS.map(json.dumps))
    if cut:
        arguments = arguments[: draw(st.integers(0, len(arguments)))]
    first, *rest = draw(pieces(arguments))
    call_id = draw(st.sampled_from(["", f"id{index}"]))
    begun = call_chunk(index, first, draw(NAMES), call_id)
    return [begun, *(call_chunk(index, piece) for piece in rest)]


@st.composite
def sane(draw: st.DrawFn) -> list[bytes]:
    """A whole answer as engines send it."""
    limited = draw(st.booleans())
    found = [PROGRESS] * draw(st.integers(0, 2)) + [OPENING] * draw(st.integers(0, 1))
    kinds = draw(st.lists(st.sampled_from(["text", "reasoning", "call"]), max_size=5))
    calls = kinds.count("call")
    numbers = iter(range(calls))
    for at, kind in enumerate(kinds):
        if kind == "call":
            found += draw(call_events(next(numbers), cut=limited and at == len(kinds) - 1))
        else:
            make = text_chunk if kind == "text" else reasoning_chunk
            found += [make(piece) for piece in draw(st.lists(TEXTS, max_size=4))]
    finish = "length" if limited else "tool_calls" if calls else "stop"
    return [*found, chunk({}, finish), *[USAGE] * draw(st.booleans()), DONE]


@st.composite
def jumbled(draw: st.DrawFn) -> list[bytes]:
    """Events that chat allows, in an order that no engine keeps to; calls may be interleaved."""
    found = [OPENING]
    calls = 0
    for kind in draw(st.lists(st.sampled_from(["text", "reasoning", "call", "more"]), max_size=12)):
        if kind == "call" or (kind == "more" and not calls):
            found.append(call_chunk(calls, draw(TEXTS), draw(NAMES)))
            calls += 1
        elif kind == "more":
            found.append(call_chunk(draw(st.integers(0, calls - 1)), draw(TEXTS)))
        else:
            found.append((text_chunk if kind == "text" else reasoning_chunk)(draw(TEXTS)))
    finish = draw(st.sampled_from(["stop", "length", "tool_calls", None]))
    tail = [chunk({}, finish)] if finish else []
    tail += draw(st.sampled_from([[], [USAGE], [DONE], [USAGE, DONE], [DONE, DONE], [DONE, USAGE]]))
    return found + tail


FIELDS = st.sampled_from(
    [
        *("choices", "delta", "index", "content", "reasoning_content", "tool_calls", "function"),
        *("name", "arguments", "id", "finish_reason", "usage", "timings", "logprobs", "error"),
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(FIELDS, inner, max_size=3),
    max_leaves=8,
)
GARBAGE = (
    JSON.map(event)
    | JSON.map(lambda value: event({"choices": [value]}))
    | JSON.map(lambda value: event({"choices": [{"index": 0, "delta": value}]}))
    | JSON.map(lambda value: chunk({"tool_calls": [value]}))
    | JSON.map(lambda value: chunk({"tool_calls": [{"index": 0, "function": value}]}))
    | JSON.map(lambda value: chunk({"content": value}))
    | JSON.map(lambda value: chunk({}, usage=value))
    | JSON.map(lambda value: chunk({}, "stop", timings=value))
    | st.sampled_from([b"data: {broken\n\n", b"data:\n\n", b"nonsense\n\n", b": a comment\n\n"])
    | st.just(call_chunk(7, "{}"))
)


@st.composite
def wild(draw: st.DrawFn) -> list[bytes]:
    """Anything."""
    found = draw(sane() | jumbled())
    for garbage in draw(st.lists(GARBAGE, min_size=1, max_size=3)):
        found.insert(draw(st.integers(0, len(found))), garbage)
    return found


@st.composite
def cut(draw: st.DrawFn, events: list[bytes]) -> list[bytes]:
    """How the network delivers it."""
    data = b"".join(events)
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=6)))
    found = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    return [piece for piece in found if piece]


def as_text(events: list[bytes]) -> list[bytes]:
    """The same answer as an engine tells it on text completions: without calls and thoughts."""
    found = []
    for one in events:
        data = one[6:].strip()
        if not one.startswith(b"data: {"):
            found.append(one)
            continue
        payload = json.loads(data)
        for choice in payload.get("choices", ()):
            choice["text"] = choice.pop("delta").get("content") or ""
        if payload.get("choices") != [] or "usage" in payload:
            found.append(event(payload))
    return found


def spoken(path: str, events: list[bytes]) -> list[bytes]:
    return as_text(events) if path == "/v1/completions" else events


def source(path: str, events: list[bytes]) -> Told:
    """What the engine said, to somebody who reads its own dialect."""
    said = [
        one for one in spoken(path, events) if one != PROGRESS and b"prompt_progress" not in one
    ]
    check = check_completions if path == "/v1/completions" else check_chat
    return check(b"".join(said))


def inputs(told: Told, *, cut_off: bool) -> list[tuple[str, object]]:
    """The calls; Messages may say arguments in other words, and none for a call cut off."""
    found: list[tuple[str, object]] = []
    for at, (name, arguments) in enumerate(told.calls):
        last = at == len(told.calls) - 1
        found.append((name, None if last and cut_off else json.loads(arguments or "{}")))
    return found


def assert_same(path: str, told: Told, said: Told) -> None:
    """What was told is what was said; a call cut off by the limit need not be told whole."""
    assert told.ending == said.ending
    assert (told.text, told.reasoning) == (said.text, said.reasoning)
    if path in TRANSLATED:
        cut_off = said.ending == "length"
        assert inputs(told, cut_off=cut_off) == inputs(said, cut_off=cut_off)
    else:
        assert told.calls == said.calls
    for given_id, engine_id in zip(told.call_ids, said.call_ids, strict=True):
        assert given_id == engine_id or not engine_id
    if said.usage is not None:
        assert told.usage == said.usage


def leaves_out_cut_calls(path: str) -> bool:
    """Whether replies in one piece have no place for half the arguments of a call."""
    return path == "/v1/messages"


def without_cut_call(told: Told, events: list[bytes]) -> Told:
    """The same without a last call that the limit cut off: in its arguments, or before them."""
    if told.ending != "length" or not told.calls:
        return told
    arguments = told.calls[-1][1]
    if is_object(arguments) or not (arguments or ends_in_a_call(events)):
        return told
    return replace(told, calls=told.calls[:-1], call_ids=told.call_ids[:-1])


def may_be_left_out(path: str, told: Told) -> bool:
    """Whether a reply in one piece may lack the last call."""
    cut_off = told.ending == "length" and bool(told.calls) and not is_object(told.calls[-1][1])
    return leaves_out_cut_calls(path) and cut_off


def ends_in_a_call(events: list[bytes]) -> bool:
    """Whether nothing was said after the last call began."""
    said = [
        name
        for event in events
        if event.startswith(b'data: {"choices": [{')
        for name, value in json.loads(event[6:])["choices"][0].get("delta", {}).items()
        if value and name != "role"
    ]
    return said[-1:] == ["tool_calls"]


def is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


# -- promises


@FUZZ
@given(data=st.data(), late=st.booleans())
@pytest.mark.parametrize("path", PATHS)
def test_a_whole_answer_is_told_as_the_engine_said_it(
    run: Callable[[Any], Any], path: str, data: st.DataObject, late: bool
) -> None:
    events = data.draw(sane())
    chunks = data.draw(cut(spoken(path, events)))
    outcome = run(stream(path, chunks, forced=False, late=late))
    check, read = CHECKERS[path]
    said = source(path, events)
    assert outcome.error is None
    assert_same(path, check(outcome.stream), said)
    body = run(whole(path, chunks, forced=False))
    assert body is not None
    if leaves_out_cut_calls(path):
        said = without_cut_call(said, events)
    assert_same(path, read(body), said)


@FUZZ
@given(data=st.data(), late=st.booleans())
@pytest.mark.parametrize("path", PATHS)
def test_events_in_any_order_make_one_beginning_and_one_end(
    run: Callable[[Any], Any], path: str, data: st.DataObject, late: bool
) -> None:
    events = data.draw(jumbled())
    chunks = data.draw(cut(spoken(path, events)))
    agree(run, path, chunks, source(path, up_to_end(events)), late=late)


@FUZZ
@given(data=st.data(), late=st.booleans())
@pytest.mark.parametrize("path", PATHS)
def test_an_answer_that_breaks_off_anywhere_never_looks_complete(
    run: Callable[[Any], Any], path: str, data: st.DataObject, late: bool
) -> None:
    events = data.draw(sane())
    kept = events[: data.draw(st.integers(0, len(events) - 1))]
    kept += data.draw(
        st.sampled_from([[], [ERROR], [ERROR, DONE], [ERROR, chunk({}, "stop"), DONE]])
    )
    half = data.draw(st.sampled_from([b"", b"data", b'data: {"choices":[{"ind']))
    chunks = data.draw(cut([*spoken(path, kept), half]))
    outcome = run(stream(path, chunks, forced=False, late=late))
    assert outcome.error is not None
    told = CHECKERS[path][0](outcome.stream)
    assert told.ending == "failed"
    assert told.error is not None
    assert told.error["message"] == outcome.error.message
    assert run(whole(path, chunks, forced=False)) is None


@FUZZ
@given(data=st.data(), late=st.booleans(), forced=st.booleans())
@pytest.mark.parametrize("path", TRANSLATED)
def test_senseless_events_end_in_an_error_or_are_left_out(
    run: Callable[[Any], Any], path: str, data: st.DataObject, late: bool, forced: bool
) -> None:
    chunks = data.draw(cut(data.draw(wild())))
    agree(run, path, chunks, None, late=late, forced=forced)


@FUZZ
@given(data=st.data(), late=st.booleans(), forced=st.booleans())
@pytest.mark.parametrize("path", PATHS)
def test_senseless_events_never_break_what_reads_them(
    run: Callable[[Any], Any], path: str, data: st.DataObject, late: bool, forced: bool
) -> None:
    chunks = data.draw(cut(data.draw(wild())))
    forced = forced and path in CHAT
    run(stream(path, chunks, forced=forced, late=late))  # nothing but ValueError was raised
    run(whole(path, chunks, forced=forced))


def agree(
    run: Callable[[Any], Any],
    path: str,
    chunks: list[bytes],
    said: Told | None,
    *,
    late: bool,
    forced: bool = False,
) -> None:
    """
    Hold what a client gets to what holds for every answer.

    Args:
        run: Runs a coroutine.
        path: Of the dialect.
        chunks: From the engine.
        said: What the engine said, if that can be told.
        late: As for `pumped`.
        forced: The calls come as text.
    """
    outcome = run(stream(path, chunks, forced=forced, late=late))
    check, read = CHECKERS[path]
    told = check(outcome.stream)
    body = run(whole(path, chunks, forced=forced))
    if outcome.error is not None:
        assert told.ending == "failed"
    elif path in TRANSLATED:
        assert told.ending in ("complete", "length")
    else:  # bytes are passed on: an engine that does not say why it stopped shows as it is
        assert told.ending != "failed"
    if told.ending in ("complete", "length"):
        if said is not None:
            said_all = (said.ending, said.text, said.reasoning)
            assert said_all == (told.ending, told.text, told.reasoning)
            assert [name for name, _ in said.calls] == [name for name, _ in told.calls]
        assert body is not None, "the same answer fails in one piece"
        assert read(body).ending == told.ending
        assert read(body).text == told.text
        assert read(body).reasoning == told.reasoning
        names = [name for name, _ in told.calls]
        found = [name for name, _ in read(body).calls]
        assert found == names or (may_be_left_out(path, told) and found == names[:-1])
    else:
        assert body is None, "the same answer is whole in one piece"


def up_to_end(events: list[bytes]) -> list[bytes]:
    """What of it counts: nothing behind the first end."""
    return events[: events.index(DONE) + 1] if DONE in events else events


# -- calls that the engine was made to write as text


@FUZZ
@given(data=st.data(), late=st.booleans(), parallel=st.booleans())
@pytest.mark.parametrize("path", CHAT)
def test_forced_calls_are_told_as_calls(
    run: Callable[[Any], Any], path: str, data: st.DataObject, late: bool, parallel: bool
) -> None:
    calls = data.draw(st.lists(st.tuples(NAMES, ARGUMENTS), min_size=1, max_size=3))
    written = [{"name": name, "arguments": arguments} for name, arguments in calls]
    text = json.dumps(written if parallel else written[0])
    thoughts = [reasoning_chunk(piece) for piece in data.draw(st.lists(TEXTS, max_size=2))]
    answer = [text_chunk(piece) for piece in data.draw(pieces(text))]
    chunks = data.draw(cut([OPENING, *thoughts, *answer, chunk({}, "stop"), USAGE, DONE]))
    outcome = run(stream(path, chunks, forced=True, late=late))
    assert outcome.error is None
    told = CHECKERS[path][0](outcome.stream)
    body = run(whole(path, chunks, forced=True))
    assert body is not None
    for one in (told, CHECKERS[path][1](body)):
        assert (one.ending, one.text, one.usage) == ("complete", "", (7, 2, 5))
        expected = calls if parallel else calls[:1]
        assert [(name, json.loads(said or "{}")) for name, said in one.calls] == expected


@FUZZ
@given(data=st.data(), late=st.booleans())
@pytest.mark.parametrize("path", CHAT)
def test_a_forced_call_that_is_cut_off_never_looks_whole(
    run: Callable[[Any], Any], path: str, data: st.DataObject, late: bool
) -> None:
    text = json.dumps({"name": data.draw(NAMES), "arguments": data.draw(ARGUMENTS)})
    text = text[: data.draw(st.integers(0, len(text) - 1))]
    finish = data.draw(st.sampled_from(["length", "stop"]))
    answer = [text_chunk(piece) for piece in data.draw(pieces(text))]
    chunks = data.draw(cut([OPENING, *answer, chunk({}, finish), USAGE, DONE]))
    outcome = run(stream(path, chunks, forced=True, late=late))
    check, read = CHECKERS[path]
    ending = {"stop": "failed", "length": "length"}[finish]
    assert check(outcome.stream).ending == ending, text
    body = run(whole(path, chunks, forced=True))
    assert (None if body is None else read(body).ending) == (
        None if ending == "failed" else ending
    ), text


# -- every error


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("path", PATHS)
def test_every_error_ends_a_stream_in_the_dialect(path: str, begun: bool) -> None:
    for code in sorted(ERRORS):
        error = ApiError(code, "What went wrong.", param="messages[0]")
        told = CHECKERS[path][0](last_word(path, error, begun=begun))
        assert told.ending == "failed"
        assert told.error is not None
        assert told.error["message"].endswith("What went wrong.")
        assert told.error["type"]


@pytest.mark.parametrize("path", PATHS)
def test_a_dialect_has_a_name_of_its_own(path: str) -> None:
    assert [other.name for other in DIALECTS.values()].count(DIALECTS[path].name) == 1
