"""Pictures in every dialect that takes them, read by the real engine with a projector."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.service import ServiceProcess


def png(width: int = 8, height: int = 8) -> str:
    """A red picture, as base64."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        framed = kind + data
        return struct.pack(">I", len(data)) + framed + struct.pack(">I", zlib.crc32(framed))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = (b"\x00" + b"\xff\x00\x00" * width) * height
    parts = (chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(parts)).decode()


PICTURE = png()
URL = f"data:image/png;base64,{PICTURE}"
SOURCE = {"type": "base64", "media_type": "image/png", "data": PICTURE}
CHAT_PARTS = [
    {"type": "text", "text": "What is this?"},
    {"type": "image_url", "image_url": {"url": URL, "detail": "low"}},
]
RESPONSES_PARTS = [
    {"type": "input_text", "text": "What is this?"},
    {"type": "input_image", "image_url": URL, "detail": "auto"},
]
MESSAGES_PARTS = [
    {"type": "text", "text": "What is this?"},
    {"type": "image", "source": SOURCE, "cache_control": {"type": "ephemeral"}},
]
LIMIT = {"max_tokens": 4, "temperature": 0}
ASKED: dict[str, tuple[dict[str, Any], str, Callable[[Any], tuple[int, str]]]] = {
    "/v1/chat/completions": (
        {"messages": [{"role": "user", "content": CHAT_PARTS}], **LIMIT},
        "/v1/chat/completions/input_tokens",
        lambda reply: (
            reply["usage"]["prompt_tokens"],
            reply["choices"][0]["message"]["content"],
        ),
    ),
    "/v1/responses": (
        {
            "input": [{"role": "user", "content": RESPONSES_PARTS}],
            "max_output_tokens": 4,
            "temperature": 0,
        },
        "/v1/responses/input_tokens",
        lambda reply: (reply["usage"]["input_tokens"], reply["output"][0]["content"][0]["text"]),
    ),
    "/v1/messages": (
        {"messages": [{"role": "user", "content": MESSAGES_PARTS}], **LIMIT},
        "/v1/messages/count_tokens",
        lambda reply: (
            reply["usage"]["input_tokens"] + reply["usage"]["cache_read_input_tokens"],
            reply["content"][0]["text"],
        ),
    ),
}


@pytest.fixture(scope="module")
def service(
    make_service: Callable[..., ServiceProcess], models: Path, llama_server: Path
) -> ServiceProcess:
    made = make_service(
        LLAMA_SERVER=str(llama_server),
        MODEL_PATH=str(models / "tiny.gguf"),
        MMPROJ=str(models / "mmproj.gguf"),
        CTX="4096",
        THREADS="1",
    )
    return made.start().ready()


def ask(service: ServiceProcess, path: str, body: dict[str, Any]) -> Any:
    headers = {"Authorization": f"Bearer {service.key}"}
    reply = httpx.post(service.url + path, json=body, headers=headers, timeout=60)
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_a_picture_says_the_same_in_every_dialect(service: ServiceProcess) -> None:
    told = {path: read(ask(service, path, body)) for path, (body, _, read) in ASKED.items()}
    assert len(set(told.values())) == 1, told
    without = {"messages": [{"role": "user", "content": "What is this?"}], **LIMIT}
    tokens = ask(service, "/v1/chat/completions", without)["usage"]["prompt_tokens"]
    assert told["/v1/responses"][0] > tokens, "the picture is part of the prompt"


@pytest.mark.parametrize("path", ASKED)
def test_a_picture_is_counted_as_it_is_billed(service: ServiceProcess, path: str) -> None:
    body, counting, read = ASKED[path]
    billed, _ = read(ask(service, path, body))
    assert ask(service, counting, body)["input_tokens"] == billed


def test_a_picture_in_the_result_of_a_tool_is_seen(service: ServiceProcess) -> None:
    tool = {"name": "look", "input_schema": {"type": "object", "properties": {}}}
    use = {"type": "tool_use", "id": "t1", "name": "look", "input": {}}
    content = [{"type": "text", "text": "here"}, {"type": "image", "source": SOURCE}]
    turns = [
        {"role": "user", "content": "look"},
        {"role": "assistant", "content": [use]},
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "t1", "content": content}],
        },
    ]
    body = {"messages": turns, "tools": [tool], **LIMIT}
    seen = ask(service, "/v1/messages/count_tokens", body)["input_tokens"]
    content.pop()
    blind = ask(service, "/v1/messages/count_tokens", body)["input_tokens"]
    assert seen > blind + 1
    assert ask(service, "/v1/messages", body)["stop_reason"] in ("max_tokens", "end_turn")
