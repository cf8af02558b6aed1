"""Records what the real llama-server answers, streamed and not, for the tests of the pure modules.

Each case below is asked twice, with a fixed seed: once as the gateway asks (streamed, with progress
and usage) and once unstreamed. The answers go to ``tests/data/streams/<case>.sse`` and
``<case>.json``; the tests compare what we make of the one with the other. Run it again when the
engine's version changes, and read the differences in the files before committing them:

    python tests/record_streams.py --server path/to/llama-server
"""

from __future__ import annotations

import argparse
import http.client
import json
import socket
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiny_gguf import write_tiny_gguf

if TYPE_CHECKING:
    from collections.abc import Iterator

TARGET = Path(__file__).parent / "data" / "streams"

HI = [{"role": "user", "content": "hi there"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer", "minimum": 1, "maximum": 7},
            },
            "required": ["city", "days"],
        },
    },
}
SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "x",
        "schema": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "kind": {"enum": ["a", "b"]}},
            "required": ["name", "kind"],
        },
    },
}
# A template with thoughts in it, by which the engine knows where to look for them in an answer.
THINKING_TEMPLATE = """\
{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' }}
{%- if m.reasoning_content %}
{{- '<think>\\n' + m.reasoning_content + '\\n</think>\\n\\n' }}{%- endif %}
{{- m.content + '<|im_end|>\\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""
THOUGHTS = 'root ::= "<think>\\nred fox\\n</think>\\n\\nthe sea"'

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"

# case: (route, body); one whose name ends in "thoughts" is asked with the template above
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "chat-length": (CHAT, {"messages": HI, "max_tokens": 5}),
    "chat-stop": (CHAT, {"messages": HI, "max_tokens": 40, "stop": [" hill"]}),
    "chat-stop-two-tokens": (CHAT, {"messages": HI, "max_tokens": 40, "stop": [" dusk all"]}),
    "chat-end": (CHAT, {"messages": HI, "response_format": {"type": "json_object"}}),
    "chat-schema": (CHAT, {"messages": HI, "max_tokens": 60, "response_format": SCHEMA}),
    "chat-two": (CHAT, {"messages": HI, "max_tokens": 4, "n": 2, "temperature": 1.0}),
    "chat-logprobs": (
        CHAT,
        {"messages": HI, "max_tokens": 3, "logprobs": True, "top_logprobs": 2},
    ),
    "chat-logprobs-stop": (
        CHAT,
        {
            "messages": HI,
            "max_tokens": 40,
            "logprobs": True,
            "top_logprobs": 1,
            "stop": [" at dusk"],
        },
    ),
    "chat-tool": (CHAT, {"messages": HI, "max_tokens": 90, "tools": [WEATHER]}),
    "chat-two-tools": (
        CHAT,
        {
            "messages": HI,
            "max_tokens": 120,
            "tools": [WEATHER],
            "parallel_tool_calls": True,
            "logit_bias": [["<|im_end|>", -10], ["<tool_call>", 30]],
        },
    ),
    "chat-thoughts": (CHAT, {"messages": HI, "max_tokens": 90, "grammar": THOUGHTS}),
    "chat-bytes": (
        CHAT,
        {"messages": HI, "max_tokens": 40, "grammar": 'root ::= "a é € 😀 \\"q\\" z"'},
    ),
    "chat-logprobs-end": (
        CHAT,
        {
            "messages": HI,
            "max_tokens": 9,
            "logprobs": True,
            "top_logprobs": 1,
            "grammar": 'root ::= " red fox"',
        },
    ),
    "chat-held-back": (CHAT, {"messages": HI, "max_tokens": 4, "stop": [" so at night"]}),
    "text-held-back": (TEXT, {"prompt": "the old", "max_tokens": 4, "stop": [" two birds"]}),
    "text-length": (TEXT, {"prompt": "the old", "max_tokens": 5}),
    "text-stop": (TEXT, {"prompt": "the old", "max_tokens": 40, "stop": [" hill"]}),
    "text-tokens": (TEXT, {"prompt": [300, 301, 302], "max_tokens": 4}),
    "text-list": (TEXT, {"prompt": ["the old man", " red"], "max_tokens": 4}),
    "text-list-two": (
        TEXT,
        {"prompt": ["the old man", " red"], "max_tokens": 3, "n": 2, "temperature": 1.0},
    ),
    "text-logprobs": (TEXT, {"prompt": "the old", "max_tokens": 3, "logprobs": 2}),
    "text-logprobs-stop": (
        TEXT,
        {"prompt": "the old", "max_tokens": 40, "logprobs": 1, "stop": [" at dusk"]},
    ),
    "text-logprobs-end": (
        TEXT,
        {"prompt": "the old", "max_tokens": 9, "logprobs": 1, "grammar": 'root ::= " red fox"'},
    ),
}


@contextmanager
def server(binary: Path, model: Path, *extra: str) -> Iterator[int]:
    """A running server's port; the small batch makes several progress events of one prompt."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    argv = [str(binary), "-m", str(model), "-a", "tiny", "--host", "127.0.0.1", "--port", str(port)]
    argv += ["-t", "1", "-b", "128", "-ub", "128", "--fit", "off", "--no-warmup", *extra]
    with subprocess.Popen([*argv, "--sse-ping-interval", "-1"], stderr=subprocess.DEVNULL) as child:
        try:
            while True:
                try:
                    if ask(port, "GET", "/health")[0] == 200:
                        break
                except ConnectionRefusedError:
                    if child.poll() is not None:
                        raise
            yield port
        finally:
            child.kill()


def ask(port: int, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, json.dumps(body) if body else None)
    response = connection.getresponse()
    status, content = response.status, response.read()
    connection.close()
    return status, content


def record(port: int, name: str) -> None:
    path, body = CASES[name]
    body = {"temperature": 0, "seed": 7, "cache_prompt": False, **body}
    streamed = {**body, "stream": True, "return_progress": True}
    for file, asked in (
        (f"{name}.json", body),
        (f"{name}.sse", {**streamed, "stream_options": {"include_usage": True}}),
    ):
        status, content = ask(port, "POST", path, asked)
        if status != 200:
            raise SystemExit(f"{name}: {status} {content!r}")
        (TARGET / file).write_bytes(content)


def record_error(port: int) -> None:
    """More requests than one shared context holds: the engine gives up in mid-stream."""
    body = {"messages": HI, "max_tokens": 400, "stream": True, "return_progress": True}
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ask, port, "POST", CHAT, body) for _ in range(4)]
        streams = [future.result()[1] for future in asked]
    failed = [stream for stream in streams if b'data: {"error"' in stream]
    (TARGET / "error.sse").write_bytes(min(failed, key=len))


def main() -> None:
    parser = argparse.ArgumentParser(description="Record streams of the real llama-server.")
    parser.add_argument("--server", type=Path, required=True)
    binary = parser.parse_args().server
    TARGET.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        model = write_tiny_gguf(Path(scratch, "tiny.gguf"))
        template = Path(scratch, "thinking.jinja")
        template.write_text(THINKING_TEMPLATE)
        slots = ("-np", "4", "-c", "8192", "--no-kv-unified")
        with server(binary, model, *slots) as port:
            for name in CASES:
                if not name.endswith("thoughts"):
                    record(port, name)
        with server(binary, model, *slots, "--chat-template-file", str(template)) as port:
            record(port, "chat-thoughts")
        with server(binary, model, "-c", "512") as port:
            record_error(port)


if __name__ == "__main__":
    main()
