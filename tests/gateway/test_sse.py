"""The watcher of the event stream, on streams recorded from the real engine and on made-up ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.stream.sse import EVENT_LIMIT_BYTES, EventStream, Outcome

STREAMS = Path(__file__).parents[1] / "data" / "streams"
RECORDED = sorted(path.stem for path in STREAMS.glob("*.sse"))
CHOICES = {"chat-two": (2, 1), "text-list": (2, 2), "text-list-two": (4, 2)}

TOKEN = (
    b'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":" \xe2\x82\xac"}}]}\n\n'
)
FINISH = (
    b'data: {"choices":[{"finish_reason":"stop","index":0,"delta":{}}],"timings":{"cache_n":3,'
    b'"prompt_n":4,"prompt_ms":1.5,"predicted_n":5,"predicted_ms":2.5}}\n\n'
)
DONE = b"data: [DONE]\n\n"
ERROR = b'data: {"error":{"code":500,"message":"x","type":"server_error"}}\n\n'


def progress(processed: int, total: int, index: int = 0) -> bytes:
    value = {"total": total, "cache": 0, "processed": processed, "time_ms": 1}
    delta = {"role": "assistant", "content": None}
    choice = {"finish_reason": None, "index": index, "delta": delta}
    event = {"choices": [choice], "prompt_progress": value}
    return b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n"


def recorded(name: str) -> tuple[bytes, bytes, EventStream]:
    """The stream, what of it is to be passed on, and a fresh watcher for it."""
    stream = (STREAMS / f"{name}.sse").read_bytes()
    expected = [
        event + b"\n\n"
        for event in stream.split(b"\n\n")
        if event and b"prompt_progress" not in event and not event.startswith(b'data: {"error"')
    ]
    choices, prompts = CHOICES.get(name, (1, 1))
    return stream, b"".join(expected), EventStream(choices=choices, prompts=prompts)


def state(events: EventStream) -> tuple[object, ...]:
    return (
        events.events,
        events.progress_events,
        events.done,
        events.error,
        events.prefill,
        events.mid_event,
        events.outcome(),
    )


# -- the usual case


def test_token_event_passes_as_the_same_object() -> None:
    events = EventStream()
    assert events.feed(TOKEN) is TOKEN
    assert events.events == 1


def test_several_token_events_in_one_read_pass_as_the_same_object() -> None:
    events = EventStream()
    events.feed(TOKEN)
    several = TOKEN * 5
    assert events.feed(several) is several
    assert events.events == 6


def test_every_read_of_whole_events_with_nothing_to_drop_passes_as_the_same_object() -> None:
    events = EventStream()
    for chunk in (TOKEN + TOKEN, TOKEN + FINISH, DONE):
        assert events.feed(chunk) is chunk
    assert (events.events, events.done) == (4, True)


# -- recordings


@pytest.mark.parametrize("name", RECORDED)
def test_any_split_in_two_gives_the_same_bytes_and_the_same_findings(name: str) -> None:
    stream, expected, whole = recorded(name)
    assert whole.feed(stream) == expected
    assert whole.done is (name != "error")
    choices, prompts = CHOICES.get(name, (1, 1))
    step = 1 if len(stream) < 3000 else 13
    for at in range(0, len(stream), step):
        events = EventStream(choices=choices, prompts=prompts)
        assert events.feed(stream[:at]) + events.feed(stream[at:]) == expected
        assert state(events) == state(whole)


@pytest.mark.parametrize("name", RECORDED)
def test_byte_by_byte_and_event_by_event_give_the_same(name: str) -> None:
    stream, expected, whole = recorded(name)
    whole.feed(stream)
    _, _, single = recorded(name)
    assert b"".join(single.feed(bytes([byte])) for byte in stream) == expected
    _, _, by_event = recorded(name)
    pieces = [event + b"\n\n" for event in stream.split(b"\n\n") if event]
    assert b"".join(map(by_event.feed, pieces)) == expected
    assert state(single) == state(whole) == state(by_event)


@given(st.sampled_from(RECORDED), st.lists(st.integers(1, 3000), max_size=12), st.booleans())
def test_random_splits_change_nothing(name: str, sizes: list[int], crlf: bool) -> None:
    stream, expected, events = recorded(name)
    if crlf:
        stream, expected = stream.replace(b"\n", b"\r\n"), expected.replace(b"\n", b"\r\n")
    passed = []
    for size in sizes:
        passed.append(events.feed(stream[:size]))
        stream = stream[size:]
    passed.append(events.feed(stream))
    assert b"".join(passed) == expected
    _, _, whole = recorded(name)
    whole.feed((STREAMS / f"{name}.sse").read_bytes())
    assert state(events) == state(whole)


# -- what is reported


def usage_of(name: str) -> dict[str, int]:
    usage = json.loads((STREAMS / f"{name}.json").read_bytes())["usage"]
    assert isinstance(usage, dict)
    return usage


@pytest.mark.parametrize("name", ["chat-length", "chat-tool", "text-stop", "chat-logprobs"])
def test_outcome_is_what_the_engine_reports(name: str) -> None:
    stream, _, events = recorded(name)
    events.feed(stream)
    usage, outcome = usage_of(name), events.outcome()
    assert outcome.prompt_tokens == usage["prompt_tokens"]
    assert outcome.completion_tokens == usage["completion_tokens"]
    own = json.loads((STREAMS / f"{name}.json").read_bytes())["choices"][0]
    assert outcome.finish_reason == own["finish_reason"]
    assert outcome.prompt_ms is not None
    assert outcome.predicted_ms is not None


@pytest.mark.parametrize(
    ("name", "prompt", "completion"),
    [("chat-two", 24, 2 * 4), ("text-list", 6, 2 * 4), ("text-list-two", 6, 4 * 3)],
)
def test_outcome_adds_up_choices_and_counts_each_prompt_once(
    name: str, prompt: int, completion: int
) -> None:
    stream, _, events = recorded(name)
    events.feed(stream)
    outcome = events.outcome()
    assert outcome.prompt_tokens == prompt
    assert outcome.completion_tokens == completion


def test_without_usage_the_timings_are_counted() -> None:
    events = EventStream()
    events.feed(TOKEN + FINISH + DONE)
    assert events.outcome() == Outcome("stop", 7, 3, 5, 1.5, 2.5)


def test_outcome_survives_a_long_stream_after_an_early_end_of_one_choice() -> None:
    events = EventStream(choices=2)
    events.feed(FINISH)
    for _ in range(100):
        events.feed(TOKEN.replace(b'"index":0', b'"index":1'))
    events.feed(FINISH.replace(b'"index":0', b'"index":1') + DONE)
    assert events.outcome().completion_tokens == 10
    assert events.outcome().prompt_tokens == 7


def test_stream_without_an_end_has_an_empty_outcome() -> None:
    events = EventStream()
    events.feed(TOKEN)
    assert events.outcome() == Outcome()
    assert not events.done


# -- what is dropped


def test_progress_is_dropped_and_noted() -> None:
    events = EventStream()
    assert events.feed(progress(0, 800)) == b""
    assert events.prefill == 0.0
    assert events.feed(progress(200, 800) + progress(600, 800)) == b""
    assert (events.prefill, events.progress_events, events.events) == (0.75, 3, 0)
    assert events.feed(progress(800, 800) + TOKEN) == TOKEN


def test_progress_of_a_later_choice_is_dropped_between_tokens() -> None:
    events = EventStream(choices=2)
    assert events.feed(TOKEN) is TOKEN
    assert events.feed(progress(1, 2)) == b""
    assert events.feed(TOKEN + progress(2, 2) + TOKEN) == TOKEN + TOKEN
    assert events.prefill == 1.0


def test_comments_and_empty_lines_are_dropped() -> None:
    events = EventStream()
    assert events.feed(b":\n\n") == b""
    assert events.feed(b": ping\n\n" + TOKEN + b":\n\n\n\n" + TOKEN) == TOKEN + TOKEN
    assert events.feed(b": glued to an event\r\n" + TOKEN) == TOKEN
    assert events.events == 3


@pytest.mark.parametrize(
    ("frame", "payload"),
    [
        (ERROR, ERROR[6:-2]),
        (ERROR.replace(b"\n", b"\r\n"), ERROR[6:-2]),
        (ERROR.replace(b"data: ", b"data:"), ERROR[6:-2]),
        (b'event: error\ndata: {"code":500,"message":"x"}\n\n', b'{"code":500,"message":"x"}'),
    ],
)
@pytest.mark.parametrize("before", [b"", TOKEN, TOKEN + TOKEN])
def test_engine_error_is_kept_and_not_passed_on(
    frame: bytes, payload: bytes, before: bytes
) -> None:
    stream = before + frame + TOKEN + DONE
    for at in range(len(stream)):
        events = EventStream()
        assert events.feed(stream[:at]) + events.feed(stream[at:]) == before
        assert events.error == payload
        assert not events.done
        assert events.feed(TOKEN) == b""


def test_nothing_passes_after_the_end() -> None:
    events = EventStream()
    assert events.feed(TOKEN + DONE + TOKEN) == TOKEN + DONE
    assert events.feed(TOKEN) == b""
    assert events.events == 1


def test_text_that_looks_like_the_protocol_is_only_text() -> None:
    said = (
        'data: {"error":1}\n\n"prompt_progress":{"total":1} "finish_reason":null data: [DONE]\n\n:'
    )
    choice = {"finish_reason": None, "index": 0, "delta": {"content": said}}
    event = b"data: " + json.dumps({"choices": [choice]}, separators=(",", ":")).encode() + b"\n\n"
    for chunk in (event, event + event):
        events = EventStream(choices=2)
        assert events.feed(chunk) is chunk
        assert events.error is None
        assert not events.done
        assert events.progress_events == 0


# -- framing


def test_tail_of_a_cut_stream_is_held_back() -> None:
    events = EventStream()
    assert events.feed(TOKEN + TOKEN[:-1]) == TOKEN
    assert events.feed(b"") == b""
    assert (events.events, events.mid_event) == (1, False)
    assert "held" in repr(events)


def big_event(size: int) -> bytes:
    return b'data: {"choices":[{"text":"' + b"x\\n" * (size // 3) + b'"}]}\n\n'


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("step", [4096, 100_003, EVENT_LIMIT_BYTES - 1])
def test_very_large_event_goes_on_in_pieces_and_framing_stays_right(
    step: int, line_end: bytes
) -> None:
    stream = TOKEN + big_event(3 * EVENT_LIMIT_BYTES) + progress(1, 2) + TOKEN + ERROR
    expected = TOKEN + big_event(3 * EVENT_LIMIT_BYTES) + TOKEN
    stream, expected = stream.replace(b"\n", line_end), expected.replace(b"\n", line_end)
    events, passed, in_pieces, held = EventStream(choices=2), [], False, 0
    for start in range(0, len(stream), step):
        passed.append(events.feed(stream[start : start + step]))
        in_pieces |= events.mid_event
        held = max(held, start + step - sum(map(len, passed)))
    assert b"".join(passed) == expected
    assert in_pieces
    assert not events.mid_event
    assert held < 2 * EVENT_LIMIT_BYTES
    assert (events.events, events.progress_events) == (3, 1)
    assert events.error == ERROR[6:-2]


def test_end_of_a_large_event_is_found_at_any_split() -> None:
    head = b'data: {"choices":[{"text":"' + b"x" * EVENT_LIMIT_BYTES
    for end in (b'"}]}\n\n', b'"}]}\r\n\r\n'):
        rest = end + TOKEN + ERROR
        for at in range(len(end) + 3):
            events = EventStream()
            assert events.feed(head) == head
            assert events.mid_event
            assert events.feed(rest[:at]) + events.feed(rest[at:]) == end + TOKEN
            assert not events.mid_event
            assert events.error is not None


@pytest.mark.parametrize("size", [1000, 100_000, 3 * EVENT_LIMIT_BYTES])
@pytest.mark.parametrize("step", [4096, 1 << 30])
def test_how_an_answer_ended_is_known_however_large_its_last_event_is(size: int, step: int) -> None:
    events = EventStream()
    told = b'data: {"choices":[{"finish_reason":"length","index":0,"delta":{}}],"__verbose":{"p":"'
    said = b'\\"finish_reason\\":\\"stop\\"'  # by the prompt: its quotes are escaped
    stream = TOKEN + told + said + b"x" * size + b'"}}\n\n' + DONE
    passed = [events.feed(stream[at : at + step]) for at in range(0, len(stream), step)]
    assert b"".join(passed) == stream
    assert events.outcome().finish_reason == "length"
    assert events.ended == 1


def test_very_large_comment_is_dropped() -> None:
    events = EventStream()
    stream = b":" + b"x" * (2 * EVENT_LIMIT_BYTES) + b"\n\n" + TOKEN
    passed = [events.feed(stream[at : at + 65536]) for at in range(0, len(stream), 65536)]
    assert b"".join(passed) == TOKEN
    assert events.events == 1


def test_very_large_error_is_still_an_error() -> None:
    events = EventStream()
    stream = b'data: {"error":{"message":"' + b"x" * (2 * EVENT_LIMIT_BYTES)
    passed = [events.feed(stream[at : at + 65536]) for at in range(0, len(stream), 65536)]
    assert b"".join(passed) == b""
    assert events.error is not None
    assert json.loads(events.error)["error"]["code"] == 500


@pytest.mark.parametrize(
    "payload", [b"", b"null", b"{", b'{"prompt_progress":{"total":0}}', b"[1]"]
)
def test_odd_payloads_break_nothing(payload: bytes) -> None:
    events = EventStream()
    event = b"data: " + payload + b"\n\n"
    assert events.feed(event + TOKEN).endswith(TOKEN)
    assert events.feed(b'data: {"usage":{' + payload[:4] + b"\n\n") != b""
    assert events.prefill is None
    assert events.outcome() == Outcome()


def test_beginning_that_an_answer_continues_is_passed_on_with_its_progress() -> None:
    role = TOKEN.replace(b'"content":" \xe2\x82\xac"', b'"role":"assistant","content":null')
    begun = progress(0, 9).replace(b'"role":"assistant","content":null', b'"content":"a low"')
    stream = [role, begun, progress(5, 9), progress(9, 9), role, TOKEN]
    for pieces in (stream, [b"".join(stream)]):
        events = EventStream()
        assert b"".join(map(events.feed, pieces)) == role + begun + role + TOKEN
        assert (events.events, events.progress_events, events.prefill) == (4, 3, 1.0)


def test_prompts_of_a_list_are_each_counted_once_although_the_stream_breaks_off() -> None:
    events = EventStream(choices=4, prompts=2)
    for index, total in enumerate((100, 100, 7, 7)):
        events.feed(progress(0, total, index))
        events.feed(progress(total, total, index))
    assert events.prompt_tokens == 107
    assert events.outcome().prompt_tokens is None
