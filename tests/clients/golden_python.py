"""Reads recorded streams with the Python SDKs that can be imported here; one line of JSON each.

A program of its own, because two generations of one package cannot live in one process:

    python -m tests.clients.golden_python http://127.0.0.1:1234 chat=engine-length responses=...

What a line says: reader, case, ending ("complete", "length", "open": it shows that no end came,
"raised"), text, calls, usage, a detail, and pieces: the text of the deltas where the last frame
says it once more. Nothing here asserts anything.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

ENDINGS: dict[str | None, str] = {
    **{"stop": "complete", "tool_calls": "complete", "length": "length", None: "open"},
    **{"completed": "complete", "incomplete": "length"},
    **{"end_turn": "complete", "tool_use": "complete", "max_tokens": "length"},
}
ASK: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
Found = dict[str, Any]
Reader = Callable[[Any], Found]


@functools.cache
def openai_client() -> Any:
    import openai

    return openai.OpenAI(base_url="http://127.0.0.1/v1", api_key="k", max_retries=0)


@functools.cache
def anthropic_client() -> Any:
    import anthropic

    return anthropic.Anthropic(base_url="http://127.0.0.1", api_key="k", max_retries=0)


def chat_raw(client: Any) -> Found:
    text, finish, usage = "", None, None
    calls: dict[int, list[str]] = {}
    asked = client.chat.completions.create(
        **ASK, stream=True, stream_options={"include_usage": True}
    )
    for chunk in asked:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            finish = choice.finish_reason or finish
            for call in choice.delta.tool_calls or ():
                known = calls.setdefault(call.index, ["", ""])
                known[0] += call.function.name or ""
                known[1] += call.function.arguments or ""
    return told(finish, text, [calls[at] for at in sorted(calls)], chat_usage(usage))


def chat_helper(client: Any) -> Found:
    asked = {**ASK, "stream_options": {"include_usage": True}}
    with client.chat.completions.stream(**asked) as stream:
        reply = stream.get_final_completion()
    message = reply.choices[0].message
    calls = [[call.function.name, call.function.arguments] for call in message.tool_calls or ()]
    finish = reply.choices[0].finish_reason
    return told(finish, message.content or "", calls, chat_usage(reply.usage))


def completions_raw(client: Any) -> Found:
    text, finish, usage = "", None, None
    asked = client.completions.create(
        model="m", prompt="hi", stream=True, stream_options={"include_usage": True}
    )
    for chunk in asked:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.text
            finish = choice.finish_reason or finish
    return told(finish, text, [], chat_usage(usage))


def responses_raw(client: Any) -> Found:
    text = ""
    last = None
    for event in client.responses.create(model="m", input="hi", stream=True):
        last = event
        if event.type == "response.output_text.delta":
            text += event.delta
    response = getattr(last, "response", None)
    status = None if response is None else response.status
    found = response_told(response) if status in ("completed", "incomplete") else told(None, text)
    return {**found, "pieces": text}


def responses_helper(client: Any) -> Found:
    with client.responses.stream(model="m", input="hi") as stream:
        return response_told(stream.get_final_response())


def response_told(response: Any) -> Found:
    calls = [
        [item.name, item.arguments] for item in response.output if item.type == "function_call"
    ]
    usage = response.usage and [response.usage.input_tokens, response.usage.output_tokens]
    return told(response.status, response.output_text, calls, usage)


def messages_raw(client: Any) -> Found:
    text, stop, stopped = "", None, False
    calls: list[list[str]] = []
    usage = [0, 0]
    for event in client.messages.create(**ASK, max_tokens=100, stream=True):
        if event.type == "content_block_start" and event.content_block.type == "tool_use":
            calls.append([event.content_block.name, ""])
        elif event.type == "content_block_delta" and event.delta.type == "text_delta":
            text += event.delta.text
        elif event.type == "content_block_delta" and event.delta.type == "input_json_delta":
            calls[-1][1] += event.delta.partial_json
        elif event.type == "message_delta":
            stop = event.delta.stop_reason
            usage = message_usage(event.usage)
        stopped = stopped or event.type == "message_stop"
    return told(stop if stopped else None, text, calls, usage)


def messages_helper(client: Any) -> Found:
    with client.messages.stream(**ASK, max_tokens=100) as stream:
        message = stream.get_final_message()
    text = "".join(block.text for block in message.content if block.type == "text")
    used = [block for block in message.content if block.type == "tool_use"]
    calls = [[block.name, json.dumps(block.input)] for block in used]
    return told(message.stop_reason, text, calls, message_usage(message.usage))


def told(
    finish: str | None, text: str, calls: list[list[str]] | None = None, usage: Any = None
) -> Found:
    return {"ending": ENDINGS[finish], "text": text, "calls": calls or [], "usage": usage}


def chat_usage(usage: Any) -> list[int] | None:
    return usage and [usage.prompt_tokens, usage.completion_tokens]


def message_usage(usage: Any) -> list[int]:
    return [(usage.input_tokens or 0) + (usage.cache_read_input_tokens or 0), usage.output_tokens]


READERS: dict[str, dict[str, tuple[Callable[[], Any], Reader]]] = {
    "chat": {"raw": (openai_client, chat_raw), "helper": (openai_client, chat_helper)},
    "completions": {"raw": (openai_client, completions_raw)},
    "responses": {
        "raw": (openai_client, responses_raw),
        "helper": (openai_client, responses_helper),
    },
    "messages": {
        "raw": (anthropic_client, messages_raw),
        "helper": (anthropic_client, messages_helper),
    },
}


def read(url: str, wanted: list[str]) -> Iterator[Found]:
    for each in wanted:
        dialect, _, case = each.partition("=")
        for reader, (connect, function) in READERS[dialect].items():
            try:
                at = f"{url}/{case}/v1" if connect is openai_client else f"{url}/{case}"
                found = function(connect().with_options(base_url=at))
            except Exception as exc:
                found = {"ending": "raised", "detail": f"{type(exc).__name__}: {exc}"[:200]}
            yield {"reader": f"{dialect} {reader}", "case": case, **found}


if __name__ == "__main__":
    for line in read(sys.argv[1], sys.argv[2:]):
        sys.stdout.write(json.dumps(line) + "\n")
