"""PURE: which request to the gateway a job asks for.

Four shapes of ``job["input"]``, those of worker-vllm among them:

- ``{"openai_route": "/v1/...", "openai_input": {...}}``: what the platform makes of a call to
  ``/openai/v1/...``. Without an input, or with an empty one, it was a GET;
- ``{"route": "/v1/...", "method": "POST", "body": {...}}``: the same, spelled out;
- ``{"messages": [...], "sampling_params": {...}, "stream": true}``: a chat;
- ``{"prompt": "...", ...}``: a completion.

Only ``/v1/`` and ``/health`` can be asked for: a job must not reach what is meant for operators.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

__all__ = ["BadJob", "JobCall", "failure", "job_call"]

_ROUTE = re.compile(r"/v1(?:/[A-Za-z0-9._~:@%-]+)+|/health")
_DOTS = frozenset((".", ".."))
_MARKS = ("openai_route", "route", "messages", "prompt")
# How worker-vllm batches its own output; here the gateway's pieces are batched by time and size.
_NOT_FIELDS = frozenset(
    (
        *("sampling_params", "apply_chat_template", "use_openai_format"),
        *("batch_size", "max_batch_size", "min_batch_size", "batch_size_growth_factor"),
    )
)


@dataclass(frozen=True, slots=True)
class JobCall:
    """A request to the gateway."""

    method: str
    path: str
    body: Mapping[str, Any] | None = None


class BadJob(ValueError):  # noqa: N818 - what it is, not what went wrong
    """The input is none of the shapes; the text says what to change and repeats no content."""


def job_call(given: object) -> JobCall:
    """
    The request that a job's input stands for.

    Raises:
        BadJob: It stands for none.
    """
    if not isinstance(given, Mapping):
        raise BadJob("input must be an object")
    shapes = [name for name in _MARKS if name in given]
    if not shapes:
        raise BadJob("input needs one of openai_route, route, messages or prompt")
    if len(shapes) > 1:
        raise BadJob(f"input has both {shapes[0]} and {shapes[1]}; which one is meant?")
    if shapes[0] == "openai_route":
        return _platform_call(given)
    if shapes[0] == "route":
        return _plain_call(given)
    path = "/v1/chat/completions" if shapes[0] == "messages" else "/v1/completions"
    return JobCall("POST", path, _generation(given))


def failure(message: str, *, code: str, kind: str = "invalid_request_error") -> str:
    """An error in OpenAI's shape, as JSON text."""
    error = {"message": message, "type": kind, "param": None, "code": code}
    return orjson.dumps({"error": error}).decode()


def _platform_call(given: Mapping[str, Any]) -> JobCall:
    path = _route(given["openai_route"], "openai_route")
    body = _object(given.get("openai_input"), "openai_input")
    return JobCall("POST", path, body) if body else JobCall("GET", path)


def _plain_call(given: Mapping[str, Any]) -> JobCall:
    path = _route(given["route"], "route")
    body = _object(given.get("body"), "body")
    method = given.get("method") or ("GET" if body is None else "POST")
    method = method.upper() if isinstance(method, str) else method
    if method not in ("GET", "POST"):
        raise BadJob("method must be GET or POST")
    if method == "GET" and body:
        raise BadJob("a GET takes no body")
    return JobCall("GET", path) if method == "GET" else JobCall("POST", path, body or {})


def _generation(given: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a chat or completion; what stands beside sampling_params goes before it."""
    sampling = _object(given.get("sampling_params"), "sampling_params") or {}
    beside = {name: value for name, value in given.items() if name not in _NOT_FIELDS}
    return {**sampling, **beside}


def _route(path: object, name: str) -> str:
    if not isinstance(path, str) or not _ROUTE.fullmatch(path):
        raise BadJob(f"{name} must be a path under /v1/, or /health")
    if not _DOTS.isdisjoint(path.split("/")):
        raise BadJob(f"{name} must be a path without . and ..")
    return path


def _object(value: object, name: str) -> Mapping[str, Any] | None:
    if value is None or isinstance(value, Mapping):
        return value
    raise BadJob(f"{name} must be an object")
