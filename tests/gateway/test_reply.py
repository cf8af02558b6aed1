"""The head of a reply, byte by byte, and what never gets into one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest
from multidict import CIMultiDict

from gateway.front.reply import DateLine, Reply, stream_head
from gateway.front.request import FrontRequest

DATE = "Date: Sat, 01 Jan 2000 00:00:00 GMT"


def asked(method: str = "GET", *, chunks: bool = True, keep_alive: bool = True) -> FrontRequest:
    """All that a reply wants to know of its request."""
    fake = SimpleNamespace(method=method, chunks=chunks, keep_alive=keep_alive)
    return cast(FrontRequest, fake)


def lines(head: bytes) -> list[str]:
    """The lines of a whole head, the date left out; the first one first."""
    assert head.endswith(b"\r\n\r\n")
    first, *rest = head[:-4].decode().split("\r\n")
    rest.remove(DATE)
    return [first, *sorted(rest)]


@pytest.mark.parametrize(
    ("request_", "reply", "expected"),
    [
        (
            asked(),
            Reply(body=b"abc", content_type="a/b"),
            ["Content-Length: 3", "Content-Type: a/b"],
        ),
        (
            asked(),
            Reply(body=b"abc"),
            ["Content-Length: 3", "Content-Type: application/octet-stream"],
        ),
        (asked(), Reply(), ["Content-Length: 0"]),
        (
            asked("HEAD"),
            Reply(body=b"abc", content_type="a/b"),
            ["Content-Length: 3", "Content-Type: a/b"],
        ),
        (asked("HEAD"), Reply(), []),
        (asked(keep_alive=False), Reply(), ["Connection: close", "Content-Length: 0"]),
    ],
)
def test_head_tells_the_framing(request_: FrontRequest, reply: Reply, expected: list[str]) -> None:
    assert lines(reply.head(request_, DATE)) == ["HTTP/1.1 200 OK", *expected]


@pytest.mark.parametrize("status", [204, 304])
def test_reply_without_a_body_has_no_length(status: int) -> None:
    reply = Reply(status=status, body=b"never sent")
    start, *rest = lines(reply.head(asked(), DATE))
    assert start.startswith(f"HTTP/1.1 {status} ")
    assert rest == []
    assert not reply.has_body(asked())


def test_older_client_is_told_that_the_connection_stays_and_nothing_when_it_ends() -> None:
    old, leaving = asked(chunks=False), asked(chunks=False, keep_alive=False)
    start, *rest = lines(Reply(status=404).head(old, DATE))
    assert (start, rest) == (
        "HTTP/1.0 404 Not Found",
        ["Connection: keep-alive", "Content-Length: 0"],
    )
    assert lines(Reply().head(leaving, DATE)) == ["HTTP/1.0 200 OK", "Content-Length: 0"]


def test_reply_that_closes_says_so() -> None:
    reply = Reply()
    reply.force_close()
    assert "Connection: close" in lines(reply.head(asked(), DATE))


def test_headers_go_out_as_they_are_and_stay_as_they_were() -> None:
    headers = CIMultiDict((("x-a", "1"), ("x-a", "2"), ("X-B", "ü")))
    head = Reply(headers=headers, content_type="a/b").head(asked(), DATE)
    assert {"x-a: 1", "x-a: 2", "X-B: ü"} < set(lines(head))
    assert len(headers) == 3


def test_stream_comes_in_chunks_or_ends_with_the_connection() -> None:
    headers = CIMultiDict((("Content-Type", "text/event-stream"),))
    assert lines(stream_head(asked(), headers, DATE)) == [
        "HTTP/1.1 200 OK",
        "Content-Type: text/event-stream",
        "Transfer-Encoding: chunked",
    ]
    assert lines(stream_head(asked(chunks=False), headers, DATE)) == [
        "HTTP/1.0 200 OK",
        "Content-Type: text/event-stream",
    ]


@pytest.mark.parametrize("stray", ["\r", "\n", "\r\n", "\0", "\r\n\r\n", "\n\r"])
@pytest.mark.parametrize("where", ["name", "value", "type"])
def test_nothing_can_be_slipped_into_a_head(stray: str, where: str) -> None:
    bad = f"a{stray}b"
    headers = CIMultiDict({"x-a": "1"})
    if where != "type":
        headers.add(*((bad, "1") if where == "name" else ("x-b", bad)))
    reply = Reply(headers=headers, content_type=bad if where == "type" else None)
    with pytest.raises(ValueError, match="line break"):
        reply.head(asked(), DATE)
    if where != "type":
        with pytest.raises(ValueError, match="line break"):
            stream_head(asked(), headers, DATE)


def test_date_is_made_again_after_a_second() -> None:
    line = DateLine()
    first = line.at(10.0)
    assert first.startswith("Date: ")
    assert first.endswith(" GMT")
    assert line.at(10.99) is first
    assert line.at(11.0) is not first
