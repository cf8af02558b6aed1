"""Malformed and hostile requests on raw sockets.

Each gets a 4xx (or 505) in OpenAI shape or a closed connection; nothing reaches the engine; the
service lives. One service serves all of them, so that each also shows that the one before it left
no damage.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from keys import create_first_key
from tests.support.raw import Reply, talk
from tests.support.service import ServiceProcess

CHAT = b"/v1/chat/completions"
GOOD_BODY = b'{"messages":[{"role":"user","content":"hi"}],"max_tokens":1}'


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    folder: Path = tmp_path_factory.mktemp("hostile")
    secret = create_first_key(folder / "keys.yaml", folder / "keys.pepper", "test")
    assert secret is not None
    env = {
        "USE_MOCK_MODEL": "true",
        "CLIENT_HEADER_TIMEOUT": "0.6",
        "CLIENT_BODY_GRACE": "0.6",
        "MAX_REQUEST_BODY_SIZE": "1MiB",
        "LOG_LEVEL": "debug",
    }
    with ServiceProcess(folder, env) as running:
        running.key = secret
        yield running.ready()


@pytest.fixture
def engine_requests(service: ServiceProcess) -> Callable[[], int]:
    """How many requests the engine has been sent so far, health probes left out."""

    def count() -> int:
        with httpx.Client(transport=httpx.HTTPTransport(uds=service.engine_socket)) as client:
            paths = client.get("http://engine/mock/stats").json()["paths"]
        return sum(n for path, n in paths.items() if path.startswith("POST "))

    return count


def head(*lines: bytes, start: bytes = b"POST " + CHAT + b" HTTP/1.1") -> bytes:
    return b"\r\n".join((start, *lines)) + b"\r\n\r\n"


def post(service: ServiceProcess, body: bytes, *lines: bytes) -> bytes:
    return (
        head(
            b"Host: x",
            b"Authorization: Bearer " + service.key.encode(),
            b"Content-Type: application/json",
            b"Content-Length: %d" % len(body),
            *lines,
        )
        + body
    )


def get(service: ServiceProcess, target: bytes, *lines: bytes, version: bytes = b"1.1") -> bytes:
    key = b"Authorization: Bearer " + service.key.encode()
    return head(b"Host: x", key, *lines, start=b"GET " + target + b" HTTP/" + version)


Bytes = Callable[[ServiceProcess], bytes]


def with_key(*lines: bytes, body: bytes = b"") -> Bytes:
    def make(service: ServiceProcess) -> bytes:
        key = b"Authorization: Bearer " + service.key.encode()
        return head(b"Host: x", key, b"Content-Type: application/json", *lines) + body

    return make


def with_body(body: bytes) -> Bytes:
    return lambda service: post(service, body)


def getting(target: bytes) -> Bytes:
    return lambda service: get(service, target)


def chat_with(**fields: object) -> Bytes:
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1, **fields}
    return with_body(json.dumps(body).encode())


def nested_schema(depth: int) -> dict[str, object]:
    schema: dict[str, object] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


CL = b"Content-Length: "
FRAMING: dict[str, Bytes] = {
    "both lengths": with_key(
        CL + b"5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\nGET /v1/models HTTP/1.1\r\n\r\n"
    ),
    "two equal lengths": with_key(CL + b"2", CL + b"2", body=b"{}"),
    "two different lengths": with_key(CL + b"2", CL + b"30", body=b"{}"),
    "length with sign": with_key(CL + b"+2", body=b"{}"),
    "length with list": with_key(CL + b"2, 2", body=b"{}"),
    "length in hex": with_key(CL + b"0x2", body=b"{}"),
    "negative length": with_key(CL + b"-1", body=b"{}"),
    "length beyond 64 bits": with_key(CL + b"99999999999999999999", body=b"{}"),
    "coding gzip, chunked": with_key(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"),
    "coding chunked twice": with_key(b"Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n"),
    "coding xchunked": with_key(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"),
    "coding with tab": with_key(b"Transfer-Encoding:\tchunked ", CL + b"3", body=b"0\r\n\r\n"),
    "coding identity": with_key(b"Transfer-Encoding: identity", body=b"{}"),
    "chunk size negative": with_key(b"Transfer-Encoding: chunked", body=b"-2\r\n{}\r\n0\r\n\r\n"),
    "chunk size 0x": with_key(b"Transfer-Encoding: chunked", body=b"0x2\r\n{}\r\n0\r\n\r\n"),
    "chunk size overflow": with_key(
        b"Transfer-Encoding: chunked", body=b"fffffffffffffffff\r\n{}\r\n0\r\n\r\n"
    ),
    "chunk without end": with_key(b"Transfer-Encoding: chunked", body=b"2\r\n{}XX0\r\n\r\n"),
    "space before colon": with_key(b"Content-Length : 2", body=b"{}"),
    "folded header": with_key(b"X-A: b\r\n c", CL + b"2", body=b"{}"),
    "bare line feeds": lambda s: b"GET /v1/models HTTP/1.1\nHost: x\nAuthorization: Bearer a\n\n",
    "bare carriage return": with_key(b"X-A: b\rX-B: c", CL + b"2", body=b"{}"),
    "zero byte in header": with_key(b"X-A: b\x00c", CL + b"2", body=b"{}"),
    "control byte in name": with_key(b"X\x01A: b", CL + b"2", body=b"{}"),
    "no host": lambda s: b"GET /v1/models HTTP/1.1\r\n\r\n",
    "two hosts": lambda s: b"GET /v1/models HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "host list": lambda s: b"GET /v1/models HTTP/1.1\r\nHost: a, b\r\n\r\n",
    "host with path": lambda s: b"GET /v1/models HTTP/1.1\r\nHost: a/#\r\n\r\n",
    "two keys": with_key(b"Authorization: Bearer other", CL + b"2", body=b"{}"),
    "two content types": with_key(b"Content-Type: text/plain", CL + b"2", body=b"{}"),
    "http/2.0": lambda s: get(s, b"/v1/models", version=b"2.0"),
    "http/0.9": lambda s: b"GET /v1/models\r\n\r\n",
    "http/1.0 with coding": lambda s: head(
        b"Host: x", b"Transfer-Encoding: chunked", start=b"POST " + CHAT + b" HTTP/1.0"
    ),
    "tls hello": lambda s: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200,
    "http2 preface": lambda s: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "garbage": lambda s: bytes(range(256)) * 4,
    "101 headers": lambda s: get(s, b"/v1/models", *(b"X-%d: a" % i for i in range(101))),
    "header line of 9 kB": lambda s: get(s, b"/v1/models", b"X-A: " + b"a" * 9000),
    "header block of 60 kB": lambda s: get(
        s, b"/v1/models", *(b"X-%d: " % i + b"a" * 8000 for i in range(8))
    ),
    "request line of 9 kB": lambda s: get(s, b"/v1/models?" + b"a" * 9000),
    "unknown expectation": with_key(b"Expect: something", CL + b"2", body=b"{}"),
    "compressed body": with_key(b"Content-Encoding: gzip", CL + b"2", body=b"{}"),
    "declared 10 MB": with_key(CL + b"10000000", body=b"{"),
}

PATHS: dict[str, Bytes] = {
    name: getting(target)
    for name, target in {
        "dots": b"/v1/../v1/models",
        "escaped dots": b"/v1/%2e%2e/v1/models",
        "escaped letter": b"/v1/%6dodels",
        "double slash": b"//v1/models",
        "trailing slash": b"/v1/models/",
        "escaped slash": b"/v1%2fmodels",
        "zero byte": b"/v1/models%00",
        "parameter": b"/v1/models;x=1",
        "absolute form": b"http://127.0.0.1/v1/models",
        "absolute form, engine's path": b"http://engine/slots",
        "fragment": b"/v1/models#/props",
        "engine slots": b"/slots",
        "engine props": b"/props",
        "engine lora": b"/lora-adapters",
        "engine completion": b"/completion",
        "stream replay": b"/v1/stream?conv_id=1",
        "mock's own page": b"/mock/stats",
    }.items()
}

BODIES: dict[str, Bytes] = {
    "empty": with_body(b""),
    "not json": with_body(b"hello"),
    "array": with_body(b"[]"),
    "null": with_body(b"null"),
    "cut off": with_body(b'{"messages": ['),
    "bad utf-8": with_body(b'{"messages":[{"role":"user","content":"\xff\xfe"}]}'),
    "utf-16": with_body(GOOD_BODY.decode().encode("utf-16")),
    "byte order mark": with_body(b"\xef\xbb\xbf" + GOOD_BODY),
    "lone surrogate": with_body(b'{"messages":[{"role":"user","content":"\\ud800"}]}'),
    "NaN": with_body(b'{"temperature": NaN, "messages":[]}'),
    "huge number": with_body(b'{"temperature": 1e999, "messages":[]}'),
    "deep": with_body(b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}"),
    "wide": with_body(b'{"a":[' + b"[]," * 30_000 + b"[]]}"),
    "no messages": with_body(b"{}"),
    "messages wrong": chat_with(messages="hi"),
    "unknown role": chat_with(messages=[{"role": "root", "content": "hi"}]),
    "temperature word": chat_with(temperature="hot"),
    "max_tokens zero": chat_with(max_tokens=0),
    "n large": chat_with(n=100),
    "nested grammar": chat_with(grammar="root ::= " + "(" * 60_000 + '"a"' + ")" * 60_000),
    "native schema": chat_with(json_schema={"type": "object"}),
    "parser choice": chat_with(chat_parser="x"),
    "lora": chat_with(lora=[{"id": 0, "scale": 9}]),
    "deep schema": chat_with(
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "a", "schema": nested_schema(40)},
        }
    ),
    "wide schema": chat_with(
        response_format={
            "type": "json_schema",
            "json_schema": {
                "name": "a",
                "schema": {
                    "type": "object",
                    "properties": {f"p{i}": {"type": "string"} for i in range(2000)},
                },
            },
        }
    ),
    "remote image": chat_with(
        messages=[
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1/x"}}],
            }
        ]
    ),
    "file image": chat_with(
        messages=[
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}],
            }
        ]
    ),
    "many messages": chat_with(messages=[{"role": "user", "content": "a"}] * 3000),
    "unknown model": chat_with(model="gpt-4o"),
    "form body": lambda s: post(s, b"a=b").replace(
        b"application/json", b"application/x-www-form-urlencoded"
    ),
    "multipart body": lambda s: post(s, b"--x--").replace(
        b"application/json", b"multipart/form-data; boundary=x"
    ),
    "1 MiB and more, chunked": with_key(
        b"Transfer-Encoding: chunked", body=b"100000\r\n" + b" " * (1 << 20) + b"\r\n2\r\n{}\r\n"
    ),
}


def assert_refused(reply: Reply, service: ServiceProcess) -> None:
    assert not reply.raw.startswith(b"HTTP/2")
    assert reply.status == 0 or 400 <= reply.status < 500 or reply.status == 505
    assert reply.replies <= 1
    if reply.status:
        assert set(reply.error) >= {"message", "type", "param", "code"}
    assert service.key.encode() not in reply.raw


def assert_lives(service: ServiceProcess) -> None:
    reply = httpx.get(
        f"{service.url}/v1/models", headers={"Authorization": f"Bearer {service.key}"}
    )
    assert reply.status_code == 200


@pytest.mark.parametrize("name", FRAMING)
def test_framing(service: ServiceProcess, engine_requests: Callable[[], int], name: str) -> None:
    before = engine_requests()
    assert_refused(talk(service.port, FRAMING[name](service)), service)
    assert engine_requests() == before
    assert_lives(service)


@pytest.mark.parametrize("name", PATHS)
def test_path_that_is_not_spelled_as_in_the_table_does_not_exist(
    service: ServiceProcess, engine_requests: Callable[[], int], name: str
) -> None:
    before = engine_requests()
    reply = talk(service.port, PATHS[name](service))
    assert reply.status in (400, 404)
    assert_refused(reply, service)
    assert engine_requests() == before


@pytest.mark.parametrize("name", BODIES)
def test_body(service: ServiceProcess, engine_requests: Callable[[], int], name: str) -> None:
    before = engine_requests()
    reply = talk(service.port, BODIES[name](service))
    assert reply.status >= 400
    assert_refused(reply, service)
    assert engine_requests() == before
    assert_lives(service)


@pytest.mark.parametrize("method", [b"CONNECT", b"TRACE", b"PUT", b"DELETE"])
def test_other_methods(service: ServiceProcess, method: bytes) -> None:
    target = b"x:80" if method == b"CONNECT" else b"/v1/models"
    reply = talk(service.port, head(b"Host: x", start=method + b" " + target + b" HTTP/1.1"))
    assert reply.status in (400, 405)


def test_head_that_never_ends_is_cut(service: ServiceProcess) -> None:
    reply = talk(service.port, b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX-A", close_after=False)
    assert (reply.status, reply.error["code"]) == (408, "request_timeout")
    assert b"x-request-id: req_" in reply.raw
    assert reply.raw.split(b"x-request-id: ")[1].split(b"\r")[0].decode() in wait_for_log(service)


def wait_for_log(service: ServiceProcess) -> str:
    """The next access line of a request that timed out."""
    return service.wait_for("error=request_timeout").string


def test_connection_that_says_nothing_is_closed(service: ServiceProcess) -> None:
    assert talk(service.port, close_after=False).raw == b""


def test_head_limits_hold_byte_by_byte(service: ServiceProcess) -> None:
    line = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n"
    pieces = [line, *(b"X-%d: " % i + b"a" * 4000 + b"\r\n" for i in range(20))]
    reply = talk(service.port, *pieces, close_after=False)
    assert reply.status in (0, 431)


def test_body_that_trickles_is_cut(service: ServiceProcess) -> None:
    reply = talk(service.port, post(service, GOOD_BODY)[:-5], close_after=False)
    assert (reply.status, reply.error["code"]) == (408, "request_timeout")


def test_wrong_key_is_refused_before_the_body_is_read(service: ServiceProcess) -> None:
    request = head(
        b"Host: x",
        b"Authorization: Bearer wrong",
        b"Content-Length: 1000000",
        b"Expect: 100-continue",
    )
    reply = talk(service.port, request, close_after=False)
    assert reply.status == 401
    assert b"100 Continue" not in reply.raw


def test_patient_client_is_told_to_go_on(service: ServiceProcess) -> None:
    whole = post(service, GOOD_BODY, b"Expect: 100-continue", b"Connection: close")
    split = len(whole) - len(GOOD_BODY)
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as peer:
        peer.sendall(whole[:split])
        assert peer.recv(100).startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
        peer.sendall(whole[split:])
        assert peer.recv(100).startswith(b"HTTP/1.1 200 ")


def test_patience_of_an_older_client_is_not_understood(service: ServiceProcess) -> None:
    # RFC 9110 section 10.1.1: who speaks HTTP/1.0 would take an interim reply for the reply.
    request = post(service, GOOD_BODY, b"Expect: 100-continue").replace(b"HTTP/1.1", b"HTTP/1.0")
    reply = talk(service.port, request, close_after=False)
    assert reply.status == 200
    assert b"100 Continue" not in reply.raw


def test_bytes_after_a_refused_request_are_never_read_as_the_next(service: ServiceProcess) -> None:
    smuggled = post(service, GOOD_BODY)
    reply = talk(service.port, FRAMING["both lengths"](service) + smuggled)
    assert reply.replies == 1


def test_pipelined_requests_are_answered_in_order(service: ServiceProcess) -> None:
    one = get(service, b"/v1/models")
    last = get(service, b"/version", b"Connection: close")
    reply = talk(service.port, one * 5 + last, close_after=False)
    assert reply.replies == 6
    assert reply.raw.rindex(b'"api_version"') > reply.raw.rindex(b'"object":"list"')


def test_http_1_0_client_gets_a_stream_without_chunks(service: ServiceProcess) -> None:
    body = GOOD_BODY[:-1] + b',"stream":true}'
    request = post(service, body).replace(b"HTTP/1.1", b"HTTP/1.0")
    reply = talk(service.port, request, close_after=False)
    assert reply.status == 200
    assert b"Transfer-Encoding" not in reply.raw
    assert reply.raw.endswith(b"data: [DONE]\n\n")


def test_upgrade_is_ignored(service: ServiceProcess) -> None:
    upgrade = (b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13")
    assert talk(service.port, get(service, b"/v1/models", *upgrade)).status == 200


@pytest.mark.parametrize("tail", [b"GET /", b"P"])
def test_head_that_begins_right_behind_a_request_is_timed_too(
    service: ServiceProcess, tail: bytes
) -> None:
    for request in (get(service, b"/v1/models"), post(service, GOOD_BODY)):
        reply = talk(service.port, request + tail, close_after=False)
        assert reply.raw.startswith(b"HTTP/1.1 200")
        assert b"HTTP/1.1 408" in reply.raw


def test_head_that_begins_behind_a_body_in_pieces_is_timed_too(service: ServiceProcess) -> None:
    whole = post(service, GOOD_BODY)
    reply = talk(service.port, whole[:-20], whole[-20:] + b"GET /", close_after=False)
    assert b"HTTP/1.1 408" in reply.raw


def test_key_in_a_url_is_refused_on_every_path(service: ServiceProcess) -> None:
    for path in (b"/metrics", b"/ping", b"/nowhere", b"/v1/models"):
        target = path + b"?k=" + service.key.encode()
        reply = talk(service.port, get(service, target))
        assert (reply.status, reply.error["code"]) == (400, "invalid_http")


def test_http_1_0_stream_ends_with_the_connection_even_when_asked_to_stay(
    service: ServiceProcess,
) -> None:
    body = GOOD_BODY[:-1] + b',"stream":true}'
    request = post(service, body, b"Connection: keep-alive").replace(b"HTTP/1.1", b"HTTP/1.0")
    assert talk(service.port, request, close_after=False).raw.endswith(b"data: [DONE]\n\n")


def test_no_key_ever_reaches_the_log(service: ServiceProcess) -> None:
    """Runs last: everything above went through this service."""
    talk(
        service.port,
        b"GET / HTTP/1.1\r\nHost: x\nAuthorization: Bearer %b\r\n\r\n" % service.key.encode(),
    )
    talk(service.port, b"GET /?k=%b HTTP/1.1\r\nHost: x\r\n\r\n" % service.key.encode())
    assert_lives(service)
    assert service.key not in service.output
