"""The engine's failures in our words: right status, none of its text."""

import orjson
import pytest

from backend.errors import ConnectFailed, EngineGone, EngineTimeout
from gateway.engine.failures import from_backend, from_event, from_reply


def body(message: str, kind: str = "invalid_request_error", **more: object) -> bytes:
    return orjson.dumps({"error": {"code": 400, "message": message, "type": kind, **more}})


@pytest.mark.parametrize(
    ("status", "reply", "code", "our_status"),
    [
        (400, body("secret prompt text"), "invalid_value", 400),
        (500, body("image input is not supported - hint: mmproj"), "not_supported_by_model", 400),
        (501, body("This server does not support embeddings"), "not_supported_by_model", 400),
        (500, body("input (600 tokens) is too large to process"), "context_length_exceeded", 400),
        (500, body("While executing CallExpression ..."), "invalid_value", 400),
        (500, body("Jinja Exception: roles must alternate"), "invalid_value", 400),
        (503, body("Loading model"), "engine_unavailable", 503),
        (500, body("secret prompt text"), "engine_error", 502),
        (401, body("Invalid API Key"), "engine_error", 502),
        (500, b"<html>", "engine_error", 502),
        (500, b"[1]", "engine_error", 502),
    ],
)
def test_failure_of_the_client_is_never_a_server_error(
    status: int, reply: bytes, code: str, our_status: int
) -> None:
    error = from_reply(status, reply)
    assert (error.code, error.status) == (code, our_status)
    assert b"secret" not in error.body()


def test_overflow_is_told_in_the_words_that_clients_look_for() -> None:
    error = from_reply(
        400, body("...", "exceed_context_size_error", n_prompt_tokens=700, n_ctx=512)
    )
    assert error.code == "context_length_exceeded"
    assert error.message == (
        "This model's maximum context length is 512 tokens. "
        "However, your messages resulted in 700 tokens."
    )


def test_beginning_of_an_answer_that_does_not_fit_the_asked_shape_is_told() -> None:
    error = from_reply(400, body("Failed to initialize samplers: std::exception"))
    assert (error.code, error.param) == ("invalid_value", "response_format")
    assert "last message" in (error.hint or "")


def test_event_inside_a_stream_is_read_the_same_way() -> None:
    payload = b'{"error":{"code":500,"message":"Context size has been exceeded."}}'
    assert from_event(payload).code == "context_length_exceeded"
    assert from_event(b"not json").code == "engine_error"


def test_broken_exchanges() -> None:
    assert from_backend(EngineTimeout("x")).status == 504
    assert from_backend(EngineGone("x")).code == "engine_crashed"
    assert from_backend(ConnectFailed("x")).code == "engine_unavailable"
