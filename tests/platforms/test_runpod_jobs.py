"""RunPod jobs without RunPod: which request a job asks for, and which pieces a stream makes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import load
from gateway.runpod.coalesce import PIECE_BYTES, PIECE_S, Coalescer
from gateway.runpod.environments import WORKER_KEY, Endpoint, gateway_env, sdk_env
from gateway.runpod.jobs import BadJob, JobCall, failure, job_call

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "hi"}]


# -- the shapes


@pytest.mark.parametrize(
    ("shape", "call"),
    [
        (
            {"openai_route": CHAT, "openai_input": {"messages": MESSAGES, "stream": True}},
            JobCall("POST", CHAT, {"messages": MESSAGES, "stream": True}),
        ),
        ({"openai_route": "/v1/models"}, JobCall("GET", "/v1/models")),
        ({"openai_route": "/v1/models", "openai_input": None}, JobCall("GET", "/v1/models")),
        ({"openai_route": "/v1/models", "openai_input": {}}, JobCall("GET", "/v1/models")),
        ({"openai_route": "/v1/models/a%2Fb"}, JobCall("GET", "/v1/models/a%2Fb")),
        ({"route": "/health"}, JobCall("GET", "/health")),
        ({"route": "/v1/models", "method": "get"}, JobCall("GET", "/v1/models")),
        (
            {"route": "/v1/embeddings", "body": {"input": "x"}},
            JobCall("POST", "/v1/embeddings", {"input": "x"}),
        ),
        (
            {"route": "/v1/embeddings", "method": "POST"},
            JobCall("POST", "/v1/embeddings", {}),
        ),
        (
            {"messages": MESSAGES, "sampling_params": {"max_tokens": 3, "top_p": 1}},
            JobCall("POST", CHAT, {"messages": MESSAGES, "max_tokens": 3, "top_p": 1}),
        ),
        (
            {"prompt": "a", "stream": True, "max_tokens": 9, "sampling_params": {"max_tokens": 3}},
            JobCall("POST", "/v1/completions", {"prompt": "a", "stream": True, "max_tokens": 9}),
        ),
        (
            {"prompt": "a", "batch_size": 4, "apply_chat_template": False},
            JobCall("POST", "/v1/completions", {"prompt": "a"}),
        ),
    ],
)
def test_each_shape_of_a_job_becomes_the_request_it_stands_for(
    shape: dict[str, Any], call: JobCall
) -> None:
    assert job_call(shape) == call


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        (None, "must be an object"),
        ("hi", "must be an object"),
        ({}, "needs one of"),
        ({"prompt": "a", "messages": MESSAGES}, "has both messages and prompt"),
        ({"openai_route": CHAT, "openai_input": []}, "openai_input must be an object"),
        ({"route": CHAT, "body": "x"}, "body must be an object"),
        ({"route": CHAT, "method": "DELETE"}, "GET or POST"),
        ({"route": CHAT, "method": 1}, "GET or POST"),
        ({"route": CHAT, "method": "GET", "body": {"a": 1}}, "takes no body"),
        ({"prompt": "a", "sampling_params": 1}, "sampling_params must be an object"),
    ],
)
def test_job_of_no_shape_is_refused_with_what_to_change(shape: object, words: str) -> None:
    with pytest.raises(BadJob, match=words):
        job_call(shape)


@pytest.mark.parametrize(
    "path",
    [
        *("/reload", "/metrics", "/info", "/v1", "/v1/", "v1/models", "/v1/../reload", "/v1/./x"),
        *("/v1/models?x=1", "/v1/models#x", "/v1//models", "/v1/a b", "http://x/v1/models"),
        *("/health/", "/healthz", "@host/v1/x", "/v1/models\n", 7, None),
    ],
)
@pytest.mark.parametrize("shape", ["openai_route", "route"])
def test_only_the_api_can_be_asked_for(shape: str, path: object) -> None:
    with pytest.raises(BadJob, match="must be a path"):
        job_call({shape: path})


@given(
    st.recursive(
        st.none() | st.integers() | st.text(),
        lambda inner: st.dictionaries(
            st.sampled_from(
                ["openai_route", "route", "body", "method", "messages", "prompt", "stream"]
            ),
            inner,
        ),
    )
)
def test_any_input_is_a_call_within_the_api_or_refused(anything: object) -> None:
    try:
        call = job_call(anything)
    except BadJob:
        return
    assert call.method in ("GET", "POST")
    assert call.path == "/health" or call.path.startswith("/v1/")


def test_a_refusal_has_openais_shape() -> None:
    error = json.loads(failure("no", code="invalid_job"))["error"]
    assert error == {
        "message": "no",
        "type": "invalid_request_error",
        "param": None,
        "code": "invalid_job",
    }


# -- pieces


def test_first_event_goes_at_once_and_the_next_ones_together() -> None:
    pieces = Coalescer()
    pieces.add(b"data: 1\n\n")
    assert pieces.wait_s(10.0) == 0.0
    assert pieces.take(10.0) == "data: 1\n\n"
    pieces.add(b"data: 2\n\n")
    assert pieces.wait_s(10.0) == pytest.approx(PIECE_S)
    pieces.add(b"data: 3\n\n")
    assert pieces.wait_s(10.0 + PIECE_S) == 0.0
    assert pieces.take(10.0 + PIECE_S) == "data: 2\n\ndata: 3\n\n"


def test_event_after_a_pause_goes_at_once() -> None:
    pieces = Coalescer()
    pieces.add(b"data: 1\n\n")
    pieces.take(10.0)
    pieces.add(b"data: 2\n\n")
    assert pieces.wait_s(11.0) == 0.0


def test_much_goes_at_once() -> None:
    pieces = Coalescer()
    pieces.take(10.0)
    pieces.add(b"data: " + b"x" * PIECE_BYTES + b"\n\n")
    assert pieces.wait_s(10.0) == 0.0


def test_comments_are_no_output() -> None:
    pieces = Coalescer()
    pieces.add(b": queued position=1\n\n:\n\n: ping\ndata: 1\n\n")
    assert pieces.take(0.0) == "data: 1\n\n"
    pieces.add(b": ping\n\n")
    assert pieces.wait_s(1.0) is None
    assert pieces.take(1.0) == ""


@given(
    st.lists(st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), max_size=9)),
    st.lists(st.integers(1, 12)),
)
def test_no_piece_splits_an_event_and_none_is_lost(texts: list[str], cuts: list[int]) -> None:
    events = [f"data: {text}\n\n" for text in texts]
    sent = "".join(events).encode()
    coalescer, pieces = Coalescer(), []
    for cut in [*cuts, len(sent)]:
        coalescer.add(sent[:cut])
        sent = sent[cut:]
        pieces.append(coalescer.take(0.0))
    assert "".join(pieces) == "".join(events)
    assert all(piece == "" or piece.endswith("\n\n") for piece in pieces)


# -- the two environments

ENDPOINT = Endpoint(1, 2, Path("/t/keys.yaml"), Path("/t/keys.pepper"), "sk-of-this-run")


def envs(**environ: str) -> tuple[dict[str, str], dict[str, str]]:
    """What the gateway gets, and what the SDK gets."""
    loaded = load(environ, is_dir=lambda path: False)
    own = gateway_env(
        environ, ENDPOINT, loaded.settings, {"ctx": "4096", "port": None}, loaded.chosen
    )
    return own, sdk_env(environ, ENDPOINT, 3)


def test_gateway_is_for_this_machine_and_this_run_only() -> None:
    own, _ = envs(HOST="0.0.0.0", AUTH_MODE="platform", AUTH_KEYS_FILE="/mine", CTX="2048")
    assert (own["HOST"], own["PORT"], own["PORT_HEALTH"]) == ("127.0.0.1", "1", "2")
    assert (own["AUTH_MODE"], own["AUTH_KEYS_FILE"]) == ("keys", "/t/keys.yaml")
    assert own["CTX"] == "4096"


def test_the_one_key_has_no_limits_unless_they_are_set() -> None:
    assert envs()[0]["MAX_REQUESTS_PER_MINUTE"] == "0"
    assert envs(MAX_REQUESTS_PER_MINUTE="5")[0]["MAX_REQUESTS_PER_MINUTE"] == "5"
    assert envs(MAX_TOKENS_PER_MINUTE="6")[0]["MAX_TOKENS_PER_MINUTE"] == "6"


def test_load_balancers_time_limit_is_not_the_queues() -> None:
    assert envs(RUNPOD_ENDPOINT_ID="e")[0]["REQUEST_TIMEOUT"] != "320.0s"
    assert envs(RUNPOD_ENDPOINT_ID="e", REQUEST_TIMEOUT="9")[0]["REQUEST_TIMEOUT"] == "9"


def test_neither_process_gets_the_others_secrets() -> None:
    own, sdk = envs(RUNPOD_AI_API_KEY="account", RUNPOD_API_KEY="account", HF_TOKEN="hf_x")
    assert "account" not in own.values()
    assert own["HF_TOKEN"] == "hf_x"
    assert "hf_x" not in sdk.values()
    assert sdk["RUNPOD_AI_API_KEY"] == "account"
    assert sdk[WORKER_KEY] == "sk-of-this-run"
    assert "sk-of-this-run" not in own.values()


def test_the_sdk_does_not_log_what_people_write_unless_told_to() -> None:
    assert envs()[1]["RUNPOD_LOG_LEVEL"] == "INFO"
    assert envs(RUNPOD_LOG_LEVEL="DEBUG")[1]["RUNPOD_LOG_LEVEL"] == "DEBUG"
    assert "RUNPOD_LOG_LEVEL" not in envs(RUNPOD_DEBUG_LEVEL="DEBUG")[1]


def test_a_disk_that_a_model_has_filled_is_no_reason_not_to_start() -> None:
    assert envs()[1]["RUNPOD_MIN_DISK_PERCENT"] == "2"
    assert envs(RUNPOD_MIN_DISK_PERCENT="5")[1]["RUNPOD_MIN_DISK_PERCENT"] == "5"
