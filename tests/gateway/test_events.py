"""Payloads come out whole, wherever the stream was cut."""

import pytest

from gateway.stream.events import DONE, EventSplitter

STREAM = (
    b': hi\n\ndata: {"a":1}\n\nevent: x\n\ndata:{"b":"\\n"}\r\n\r\n: c\ndata: {"c":"data:"}\n\n'
    b"data: [DONE]\n\n"
)
PAYLOADS = [b'{"a":1}', b'{"b":"\\n"}', b'{"c":"data:"}', DONE]


@pytest.mark.parametrize("size", range(1, len(STREAM) + 1))
def test_every_way_to_cut_gives_the_same_payloads(size: int) -> None:
    events = EventSplitter()
    pieces = [STREAM[at : at + size] for at in range(0, len(STREAM), size)]
    assert [payload for piece in pieces for payload in events.feed(piece)] == PAYLOADS
    assert events.between


def test_it_knows_whether_an_event_is_half_in() -> None:
    events = EventSplitter()
    assert events.feed(b"") == []
    assert events.between
    assert events.feed(b"data: 1\n\ndata: ") == [b"1"]
    assert not events.between
    assert events.feed(b"2") == []
    assert events.feed(b"\n\n") == [b"2"]
    assert events.between


def test_event_past_the_limit_is_refused() -> None:
    events = EventSplitter(limit_bytes=100)
    for _ in range(10):
        events.feed(b"data: 4567")
    with pytest.raises(ValueError, match="too large"):
        events.feed(b"!")
