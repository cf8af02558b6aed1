"""The shell around bodies: paths, headers and errors as clients really send and read them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.clients.contract_kit import Asker, assert_refused
from tests.support.service import ServiceProcess

Make = Callable[..., ServiceProcess]

CHAT = "/v1/chat/completions"
ORIGIN = "https://app.test"
BODY: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
RAW = b'{"messages":[{"role":"user","content":"hi"}],"max_tokens":2}'


@pytest.fixture(scope="module")
def service(make_service: Make) -> ServiceProcess:
    return make_service(USE_MOCK_MODEL="true", CORS_ORIGINS=ORIGIN).start().ready()


@pytest.fixture(scope="module")
def ask(service: ServiceProcess) -> Iterator[Asker]:
    asker = Asker(service)
    yield asker
    asker.close()


# -- paths

HINTS: list[tuple[str, str, str]] = [
    ("POST", "/chat/completions", "must end in /v1"),
    ("POST", "/responses", "must end in /v1"),
    ("POST", "/messages", "must end in /v1"),
    ("GET", "/models", "must end in /v1"),
    ("POST", "/v1/v1/messages", "one /v1 too many"),
    ("POST", "/v1/v1/chat/completions", "one /v1 too many"),
    ("POST", "/v1/v2/rerank", "one /v1 too many"),
    ("POST", "/v2/rerank", "/v1/rerank"),
    ("GET", "/v1//models", "slash too many"),
    ("POST", "/v1//chat/completions", "slash too many"),
    ("POST", "/v1/chat/completions/", "no trailing slash"),
    ("GET", "/v1/models/", "no trailing slash"),
    ("POST", "/v1/messages/batches", "not offered"),
    ("GET", "/v1/messages/batches/b1/results", "not offered"),
    ("GET", "/v1/responses/resp_1", "not stored"),
    ("DELETE", "/v1/responses/resp_1", "not stored"),
    ("POST", "/v1/responses/resp_1/cancel", "not stored"),
    ("POST", "/v1/responses/compact", "not stored"),
    ("GET", "/v1/responses/resp_1/input_items", "not stored"),
    ("GET", "/api/tags", "below /v1"),
    ("GET", "/api/version", "below /v1"),
    ("POST", "/api/chat", "below /v1"),
    ("GET", "/props", "below /v1"),
    ("POST", "/openai/deployments/m/chat/completions", "Azure"),
    *(
        ("POST", f"/v1/{family}", "not offered")
        for family in (
            *("files", "batches", "moderations", "images/generations", "audio/speech"),
            *("assistants", "threads", "fine_tuning/jobs", "uploads", "vector_stores"),
        )
    ),
]


@pytest.mark.parametrize(("method", "path", "words"), HINTS)
def test_path_that_is_not_there_says_what_was_probably_meant(
    ask: Asker, method: str, path: str, words: str
) -> None:
    outcome = ask(path, BODY if method == "POST" else None, method=method)
    assert_refused(outcome, 404, "not_found")
    assert words in outcome.error["hint"]


@pytest.mark.parametrize("path", ["/nowhere", "/v1/modelsx", "/chatter", "/"])
def test_other_paths_get_no_hint(ask: Asker, path: str) -> None:
    outcome = ask(path, method="GET")
    assert_refused(outcome, 404, "not_found")
    assert outcome.error["hint"] is None


@pytest.mark.parametrize("path", ["/v1/files", "/v1/audio/transcriptions", "/v1/images/edits"])
def test_upload_to_what_is_not_there_is_answered_without_being_read(ask: Asker, path: str) -> None:
    # Longer than any body may be: read, it would be a 413.
    body = b"--b\r\n" + b"x" * (9 << 20) + b"\r\n--b--\r\n"
    head = {"content-type": "multipart/form-data; boundary=b", "expect": "100-continue"}
    outcome = ask(path, content=body, headers=head)
    assert_refused(outcome, 404, "not_found")
    assert outcome.reply.headers["connection"] == "close"


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [("GET", CHAT, "POST"), ("POST", "/v1/models", "GET, HEAD"), ("DELETE", "/v1/models/x", "GET")],
)
def test_wrong_method_is_told_with_the_right_ones(
    ask: Asker, method: str, path: str, allow: str
) -> None:
    outcome = ask(path, method=method)
    assert_refused(outcome, 405, "method_not_allowed")
    assert outcome.reply.headers["allow"].startswith(allow)


@pytest.mark.parametrize(
    "query", ["beta=true", "api-version=2024-10-21", "a=b&a=c&d", "%00%ff=//", "", "?"]
)
def test_any_query_is_accepted_and_never_forwarded(ask: Asker, query: str) -> None:
    outcome = ask(f"{CHAT}?{query}", BODY)
    assert outcome.reply.status_code == 200
    assert [each["path"] for each in outcome.requests] == [CHAT]
    models = ask(f"/v1/models?{query}", method="GET")
    assert (models.reply.status_code, models.requests) == (200, ())


def test_a_model_is_found_by_its_encoded_name(make_service: Make) -> None:
    named = make_service(USE_MOCK_MODEL="true", MODEL_ALIAS="org/model").start().ready()
    ask = Asker(named)
    listed = ask("/v1/models", method="GET").reply.json()
    one = ask("/v1/models/org%2Fmodel", method="GET").reply.json()
    assert one == listed["data"][0]
    assert one["id"] == "org/model"
    assert ask(CHAT, {**BODY, "model": "org/model"}).reply.status_code == 200
    for other in ("org%2Fother", "org%252Fmodel"):
        assert_refused(ask(f"/v1/models/{other}", method="GET"), 404, "model_not_found", "model")
    ask.close()
    named.kill()


def test_models_are_readable_by_the_sdks_of_openai_and_anthropic(ask: Asker) -> None:
    listed = ask("/v1/models", method="GET").reply.json()
    (entry,) = listed["data"]
    assert (listed["object"], listed["has_more"]) == ("list", False)
    assert listed["first_id"] == listed["last_id"] == entry["id"] == entry["display_name"]
    assert (entry["object"], entry["type"]) == ("model", "model")
    assert isinstance(entry["created"], int)
    assert entry["created_at"].endswith("Z")


# -- content types

TYPED: list[tuple[str | None, bool]] = [
    (None, True),
    ("application/json", True),
    ("application/json; charset=utf-8", True),
    ('Application/JSON;charset="UTF-8"', True),
    ("application/x-www-form-urlencoded", False),
    ("text/plain;charset=UTF-8", False),
    ("text/plain", False),
    ("multipart/form-data; boundary=b", False),
]


@pytest.mark.parametrize(("kind", "accepted"), TYPED)
def test_body_without_a_type_is_json_and_one_of_another_type_is_told_so(
    ask: Asker, kind: str | None, accepted: bool
) -> None:
    outcome = ask(CHAT, content=RAW, headers={} if kind is None else {"content-type": kind})
    if accepted:
        assert outcome.reply.status_code == 200
        assert outcome.sent is not None
        return
    assert_refused(outcome, 415, "unsupported_media_type")
    assert "Content-Type: application/json" in outcome.error["hint"]


def test_body_in_chunks_of_no_told_length_is_taken(ask: Asker) -> None:
    outcome = ask(CHAT, content=iter((RAW[:10], RAW[10:])), headers={"expect": "100-continue"})
    assert outcome.reply.status_code == 200
    assert outcome.sent is not None


# -- headers

STAINLESS = {
    "x-stainless-lang": "python",
    "x-stainless-package-version": "2.54.0",
    "x-stainless-os": "Linux",
    "x-stainless-arch": "x64",
    "x-stainless-runtime": "CPython",
    "x-stainless-runtime-version": "3.11.2",
    "x-stainless-async": "async:asyncio",
    "x-stainless-retry-count": "1",
    "x-stainless-raw-response": "true",
    "x-stainless-helper-method": "stream",
    "x-stainless-stream-helper": "chat",
}
OTHERS = {
    "openai-organization": "org",
    "openai-project": "p",
    "openai-beta": "assistants=v2",
    "anthropic-version": "2026-10-21",
    "anthropic-beta": "a,b",
    "anthropic-dangerous-direct-browser-access": "true",
    "x-openwebui-user-name": "Zo%C3%AB",
    "x-openwebui-chat-id": "1",
    "http-referer": "https://app.test",
    "x-title": "App",
    "session-id": "s",
    "thread-id": "t",
    "originator": "codex_exec",
    "x-client-request-id": "r",
    "x-codex-turn-metadata": '{"a": "' + "x" * 900 + '"}',
    "x-conversation-id": "c",
    "accept-encoding": "gzip, deflate, br, zstd",
    "accept": "application/json",
    "accept-language": "*",
    "sec-fetch-mode": "cors",
    "idempotency-key": "k",
}


def told(request: dict[str, Any]) -> list[list[str]]:
    """The header lines that the engine got, without the one that differs each time."""
    return [[name, value] for name, value in request["headers"] if name != "x-request-id"]


@pytest.mark.parametrize("stream", [False, True])
def test_headers_of_clients_are_tolerated_and_never_forwarded(ask: Asker, stream: bool) -> None:
    body = {**BODY, "stream": stream}
    plain = ask(CHAT, body)
    decked = ask(CHAT, body, headers={**STAINLESS, **OTHERS})
    assert decked.reply.status_code == 200
    assert "content-encoding" not in decked.reply.headers
    kind = "text/event-stream" if stream else "application/json"
    assert decked.reply.headers["content-type"].startswith(kind)
    (was,), (now,) = plain.requests, decked.requests
    assert told(now) == told(was)


@pytest.mark.parametrize("name", ["x-stainless-timeout", "x-stainless-read-timeout"])
@pytest.mark.parametrize(
    "value", ["NOT_GIVEN", "None", "600", "3.5", "60.0", "", "-1", "nan", "inf", "1e9", "x" * 99]
)
def test_a_timeout_that_an_sdk_tells_is_never_a_fault(ask: Asker, name: str, value: str) -> None:
    assert ask(CHAT, BODY, headers={name: value}).reply.status_code == 200


@pytest.mark.parametrize("value", ["0", "2", "NOT_GIVEN", "-1", "9" * 50, "²"])
def test_a_retry_count_is_never_a_fault(ask: Asker, value: str) -> None:
    headers = {"x-stainless-retry-count": value.encode()}
    outcome = ask(CHAT, BODY, headers=headers)  # type: ignore[arg-type]
    assert outcome.reply.status_code == 200


@pytest.mark.parametrize("name", ["authorization", "x-api-key", "api-key"])
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_key_is_read_from_each_header_that_clients_use(
    ask: Asker, service: ServiceProcess, name: str, scheme: str
) -> None:
    value = f"{scheme} {service.key}" if name == "authorization" else service.key
    outcome = ask(CHAT, BODY, headers={name: value}, key=False)
    assert outcome.reply.status_code == 200
    (request,) = outcome.requests
    assert service.key not in str(request)


def test_the_same_key_may_come_in_two_headers(ask: Asker, service: ServiceProcess) -> None:
    assert ask(CHAT, BODY, headers={"x-api-key": service.key}).reply.status_code == 200


@pytest.mark.parametrize(
    ("given", "kept"), [("abc-1.2_3", True), ("a b", False), ("x" * 65, False), ("", False)]
)
def test_both_names_of_the_request_id_are_on_every_reply(
    ask: Asker, given: str, kept: bool
) -> None:
    for path, body in ((CHAT, BODY), (CHAT, {}), ("/nowhere", BODY), ("/v1/models", None)):
        headers = {"x-request-id": given}
        method = "GET" if body is None else "POST"
        reply = ask(path, body, method=method, headers=headers).reply
        assert reply.headers["x-request-id"] == reply.headers["request-id"]
        assert (reply.headers["x-request-id"] == given) is kept


# -- browsers


def listed(value: str) -> set[str]:
    return {name.strip().lower() for name in value.split(",")}


@pytest.mark.parametrize("path", [CHAT, "/v1/models", "/v1/messages", "/nowhere"])
def test_preflight_allows_what_browser_sdks_ask_for(ask: Asker, path: str) -> None:
    asked = ", ".join(("authorization", "content-type", *STAINLESS, *OTHERS))
    headers = {
        "origin": ORIGIN,
        "access-control-request-method": "POST",
        "access-control-request-headers": asked,
    }
    reply = ask(path, method="OPTIONS", headers=headers, key=False).reply
    assert (reply.status_code, reply.content) == (204, b"")
    assert reply.headers["access-control-allow-origin"] == ORIGIN
    assert listed(reply.headers["access-control-allow-headers"]) == listed(asked)
    assert {"get", "post"} <= listed(reply.headers["access-control-allow-methods"])


@pytest.mark.parametrize("asked", ["", "a b", "x" * 65, ", ".join(f"x-{n}" for n in range(65))])
def test_preflight_with_a_strange_list_allows_the_usual_headers(ask: Asker, asked: str) -> None:
    headers = {"origin": ORIGIN, "access-control-request-headers": asked}
    reply = ask(CHAT, method="OPTIONS", headers=headers, key=False).reply
    allowed = listed(reply.headers["access-control-allow-headers"])
    wanted = {"authorization", "content-type", "accept", "x-api-key", "api-key"}
    wanted |= {"anthropic-version", "anthropic-beta", "x-max-queue-seconds", "x-request-id"}
    wanted |= {"openai-organization", "openai-project", "openai-beta", *STAINLESS}
    assert wanted <= allowed
    assert "*" not in allowed


def test_what_replies_say_in_headers_is_exposed_to_browsers(make_service: Make) -> None:
    limited = make_service(
        USE_MOCK_MODEL="true",
        CORS_ORIGINS=ORIGIN,
        MAX_REQUESTS_PER_MINUTE="2",
        MAX_TOKENS_PER_MINUTE="100000",
    )
    ask = Asker(limited.start().ready())
    origin = {"origin": ORIGIN}
    replies = [ask(CHAT, {**BODY, "made_up": 1}, headers=origin).reply for _ in range(3)]
    assert [reply.status_code for reply in replies] == [200, 200, 429]
    told = {name for reply in replies for name in reply.headers}
    exposed = listed(replies[0].headers["access-control-expose-headers"])
    wanted = {"x-request-id", "request-id", "retry-after", "retry-after-ms", "x-should-retry"}
    wanted |= {"x-ignored-params", "server-timing"}
    assert wanted <= exposed
    # Nothing of ours is said to others than browsers only.
    http_only = {"date", "vary", "connection", "transfer-encoding", "access-control-allow-origin"}
    safe = {"cache-control", "content-length", "content-type"}
    assert told - http_only - safe - {"access-control-expose-headers"} <= exposed
    assert {name for name in told if name.startswith("x-ratelimit-")}
    ask.close()
    limited.kill()


# -- errors

KEYS: list[dict[str, str]] = [
    {},
    {"authorization": "Bearer sk-wrong"},
    {"authorization": "Basic eDp5"},
    {"authorization": "Bearer"},
    {"x-api-key": "sk-wrong"},
    {"api-key": ""},
]


@pytest.mark.parametrize("headers", KEYS)
def test_a_wrong_key_is_told_in_the_words_that_libraries_look_for(
    ask: Asker, headers: dict[str, str]
) -> None:
    outcome = ask(CHAT, BODY, headers=headers, key=False)
    assert_refused(outcome, 401, "invalid_api_key")
    assert outcome.error["type"] == "authentication_error"
    assert outcome.error["message"] == "Incorrect API key provided."
    assert "sk-wrong" not in outcome.reply.text


def test_a_prompt_that_is_too_long_is_told_in_the_words_that_libraries_look_for(ask: Asker) -> None:
    words = "This model's maximum context length is 4096 tokens. However, your messages resulted in"
    tokens = ask("/v1/completions", {"prompt": [1] * 5000})
    assert_refused(tokens, 400, "context_length_exceeded", "prompt")
    assert tokens.error["message"] == f"{words} 5000 tokens."
    long = {"role": "user", "content": "word " * 9000}
    chat = ask(CHAT, {**BODY, "messages": [long]})
    assert (chat.reply.status_code, chat.error["code"]) == (400, "context_length_exceeded")
    assert chat.error["message"].startswith(words)
    assert chat.error["type"] == "invalid_request_error"
    assert chat.reply.headers["x-should-retry"] == "false"
    assert CHAT not in [each["path"] for each in chat.requests]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"messages=hi", b"[]", b"null", b'"hi"', b'{"messages": [NaN]}', b"\xff"],
)
def test_a_body_that_is_no_json_object_is_a_400(ask: Asker, content: bytes) -> None:
    outcome = ask(CHAT, content=content)
    assert_refused(outcome, 400, "invalid_json")
    assert outcome.error["type"] == "invalid_request_error"
