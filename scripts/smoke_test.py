#!/usr/bin/env python3
"""Does a running service do what it promises? One line per check, exit code 1 if any fails.

    scripts/smoke_test.py --base-url http://host:8000/v1 --api-key sk-...

Needs nothing but Python 3.11; works from any machine that reaches the service. The key can also
come from the variable SMOKE_API_KEY, which keeps it out of the process list.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

WRONG_KEY = "sk-lg-smoketest-not-a-key"
QUESTION = [{"role": "user", "content": "Name the capital of France."}]


class CheckError(Exception):
    """A promise that was not kept, in a few words."""


@dataclass(frozen=True)
class Target:
    """Where the service is and how to get in; paths are given as in the documentation."""

    base_url: str
    api_key: str
    timeout_s: float

    def __repr__(self) -> str:
        return f"Target({self.base_url!r})"

    def connect(self) -> http.client.HTTPConnection:
        parts = urlsplit(self.base_url)
        kind = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        return kind(parts.hostname or "", parts.port, timeout=self.timeout_s)

    def full_path(self, path: str) -> str:
        """*path* behind what the base URL has before its ``/v1``."""
        return urlsplit(self.base_url).path.rstrip("/").removesuffix("/v1") + path

    def open(
        self, method: str, path: str, body: Any = None, key: str | None = None
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """Send a request and read the head of its reply; the caller closes the connection."""
        headers = {"Authorization": f"Bearer {key or self.api_key}", "Connection": "close"}
        encoded = None
        if body is not None:
            encoded = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        connection = self.connect()
        connection.request(method, self.full_path(path), encoded, headers)
        return connection, connection.getresponse()

    def ask(
        self, method: str, path: str, body: Any = None, key: str | None = None
    ) -> tuple[int, Any]:
        """A whole exchange: the status, and the body as JSON (None when it is not)."""
        connection, reply = self.open(method, path, body, key)
        try:
            text = reply.read()
        finally:
            connection.close()
        try:
            return reply.status, json.loads(text)
        except ValueError:
            return reply.status, None


def expect(condition: object, complaint: str) -> None:
    if not condition:
        raise CheckError(complaint)


def check_health(target: Target) -> str:
    status, body = target.ask("GET", "/health")
    expect(status == 200, f"status {status}")
    return str((body or {}).get("state", "ok"))


def find_models(target: Target) -> list[str]:
    status, body = target.ask("GET", "/v1/models")
    expect(status == 200, f"status {status}{said(body)}")
    names = [str(entry["id"]) for entry in body["data"]]
    expect(names, "no model is listed")
    return names


def check_chat(target: Target, model: str) -> str:
    body = {"model": model, "messages": QUESTION, "max_tokens": 24}
    status, reply = target.ask("POST", "/v1/chat/completions", body)
    expect(status == 200, f"status {status}{said(reply)}")
    choice = reply["choices"][0]
    text = choice["message"].get("content") or choice["message"].get("reasoning_content") or ""
    expect(text, "the answer is empty")
    usage = reply["usage"]
    return f"{usage['prompt_tokens']} + {usage['completion_tokens']} tokens, {shorten(text)!r}"


def check_stream(target: Target, model: str) -> str:
    body = {
        "model": model,
        "messages": QUESTION,
        "max_tokens": 24,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    started_s = time.monotonic()
    connection, reply = target.open("POST", "/v1/chat/completions", body)
    try:
        expect(reply.status == 200, f"status {reply.status}")
        kind = reply.headers.get_content_type()
        expect(kind == "text/event-stream", f"the reply is {kind}")
        first_s: float | None = None
        count, usage = 0, None
        for event in events(reply):
            if first_s is None:
                first_s = time.monotonic() - started_s
            expect("error" not in event, f"the stream broke off{said(event)}")
            usage = event.get("usage") or usage
            count += 1
    finally:
        connection.close()
    expect(first_s is not None, "no event came")
    expect(usage, "no usage came")
    return f"{count} events, first after {(first_s or 0) * 1000:.0f} ms"


def events(reply: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """The events of a stream; raises `CheckError` when it ends without saying so."""
    for line in reply:
        if line.startswith(b"data: [DONE]"):
            return
        if line.startswith(b"data: "):
            yield json.loads(line[6:])
    raise CheckError("the stream ended without [DONE]")


def check_wrong_key(target: Target) -> str:
    status, body = target.ask("GET", "/v1/models", key=WRONG_KEY)
    expect(status == 401, f"status {status}, not 401")
    return code_of(body)


def check_unknown_path(target: Target) -> str:
    status, body = target.ask("GET", "/v1/no/such/path")
    expect(status == 404, f"status {status}, not 404")
    return code_of(body)


def code_of(body: Any) -> str:
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict) or not error.get("message"):
        raise CheckError("the error is not in OpenAI's shape")
    return str(error.get("code"))


def said(body: Any) -> str:
    """What an error body says, for a complaint."""
    error = body.get("error") if isinstance(body, dict) else None
    return f": {shorten(str(error.get('message')))}" if isinstance(error, dict) else ""


def shorten(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 60 else text[:57] + "..."


def run(name: str, check: Callable[[], str]) -> bool:
    """One line about one check; whether it went well."""
    started_s = time.monotonic()
    try:
        outcome, detail = "ok", check()
    except CheckError as failure:
        outcome, detail = "FAILED", str(failure)
    except (
        OSError,
        http.client.HTTPException,
        ValueError,
        KeyError,
        IndexError,
        TypeError,
    ) as error:
        outcome, detail = "FAILED", f"{type(error).__name__}: {error}"
    elapsed_ms = (time.monotonic() - started_s) * 1000
    print(f"{outcome:6}  {name:12}  {elapsed_ms:7.0f} ms  {detail}", flush=True)
    return outcome == "ok"


def main() -> int:
    parser = argparse.ArgumentParser(description="Check a running service.")
    parser.add_argument("--base-url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--api-key", default=os.environ.get("SMOKE_API_KEY", ""))
    parser.add_argument("--model", help="default: the first that is listed")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds per read")
    options = parser.parse_args()
    parts = urlsplit(options.base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        parser.error("--base-url must look like http://host:8000/v1")
    target = Target(options.base_url, options.api_key, options.timeout)

    models: list[str] = []

    def list_models() -> str:
        models.extend(find_models(target))
        return ", ".join(models)

    well = [run("health", lambda: check_health(target)), run("models", list_models)]
    model = options.model or (models[0] if models else "default")
    well += [
        run("chat", lambda: check_chat(target, model)),
        run("stream", lambda: check_stream(target, model)),
        run("wrong key", lambda: check_wrong_key(target)),
        run("unknown path", lambda: check_unknown_path(target)),
    ]
    return 0 if all(well) else 1


if __name__ == "__main__":
    sys.exit(main())
