"""PURE. POST /v1/messages and its count_tokens: Anthropic's Messages, as a dialect of chat.

The request becomes a chat body as a client would have written it, and goes through chat's own
`build`: every guard of chat holds here because it is the same code. What chat finds wrong is told
under the place the client knows.

What differs from Anthropic's own service, and why:
- server tools (web search, bash and the like) are left out and named: nothing runs them here;
- a block that only Anthropic's service can make sense of (PDF, search result) is a 400;
- signatures of thinking are empty, and not looked at when they come back;
- `tool_result.is_error` puts "Error: " before the text, as chat has no field for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import orjson

from gateway.dialects import chat, counting
from gateway.dialects.base import (
    Assembler,
    Dialect,
    EngineCall,
    FieldPolicy,
    ModelFacts,
    ReplyHead,
    Translator,
)
from gateway.dialects.blocks import Block, BlockAssembler, BlockTranslator
from gateway.dialects.places import Places
from gateway.errors import ApiError
from gateway.request.fields import Fate, Sifted, Table, sift
from gateway.request.fields.kinds import AnyValue, Integer, Stop, wrong_type, wrong_value
from gateway.request.fields.rows import GENERATION, INT64_MAX, MODEL, same_fate, translated
from gateway.request.fields.table import MAX_IGNORED, Row

__all__ = [
    "MESSAGES",
    "MESSAGES_COUNT_DIALECT",
    "MESSAGES_DIALECT",
    "MessagesTranslator",
    "build",
    "build_count",
    "error_body",
    "error_frame",
]

_PATH = "/v1/messages"
_NOT_HERE = {"n", "stop", "stream_options"}

MESSAGES = Table(
    "messages",
    [
        MODEL,
        translated("messages", AnyValue("a list of messages"), "Rebuilt one by one, as chat."),
        translated("system", AnyValue("a string or a list of text blocks"), "Goes first."),
        Row("stop_sequences", Fate.FORWARD, Stop(), to="stop"),
        translated("tools", AnyValue("a list of tools"), "Those of the server are left out."),
        translated("tool_choice", AnyValue("an object with a type")),
        translated("thinking", AnyValue("an object with a type"), "For templates that know it."),
        translated("output_config", AnyValue("an object"), "'format' and 'effort' are read."),
        translated("output_format", AnyValue("an object"), "The old name of output_config.format."),
        translated("chat_template_kwargs", AnyValue("an object of scalars"), "As in chat."),
        translated("n", Integer(1, 1)),
        translated("mcp_servers", AnyValue("an empty list"), "Nothing connects to them here."),
        *same_fate(
            Fate.DROP,
            "cache_control container context_management diagnostics inference_geo speed"
            " user_profile_id workspace_id",
        ),
    ],
    (row for row in GENERATION if row.name not in _NOT_HERE),
)
_LIMITS = ("max_tokens", "max_completion_tokens", "n_predict")
_AS_IN_CHAT = ("model", "stream", "chat_template_kwargs", *_LIMITS)
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_EFFORTS = {"max": "xhigh"}  # the rest are chat's own words


# -- the request


def build(body: dict[str, Any], facts: ModelFacts, policy: FieldPolicy) -> EngineCall:
    """
    Make the engine's chat request.

    Raises:
        ApiError: 400 or 404, with the exact field.
    """
    asked, sifted, places = _as_chat(body, facts, policy)
    stops = asked.get("stop")
    if stops:
        # Only so does the engine say in its last event which of them ended the answer.
        asked["verbose"] = True
        policy = replace(policy, allow=policy.allow | {"verbose"})
    with places.naming():
        call = chat.build(asked, facts, policy)
    echo = orjson.dumps(stops) if stops else b""
    return replace(call, ignored=_ignored(sifted, call, places), echo=echo)


def build_count(body: dict[str, Any], facts: ModelFacts, policy: FieldPolicy) -> EngineCall:
    """
    Make the engine's counting request.

    Raises:
        ApiError: 400 or 404, with the exact field.
    """
    asked, sifted, places = _as_chat(body, facts, policy)
    with places.naming():
        call = counting.build(asked, facts, policy)
    return replace(call, ignored=_ignored(sifted, call, places))


def _ignored(sifted: Sifted, call: EngineCall, places: Places) -> tuple[str, ...]:
    names = (*sifted.ignored_names(), *map(places.of, call.ignored))
    return names[: MAX_IGNORED + 1]


def _as_chat(
    body: dict[str, Any], facts: ModelFacts, policy: FieldPolicy
) -> tuple[dict[str, Any], Sifted, Places]:
    """The chat body that means the same, and where its fields came from."""
    sifted = sift(body, MESSAGES, facts, policy)
    given, places = sifted.translate, Places()
    if given.get("mcp_servers"):
        raise ApiError(
            "unsupported_parameter", "'mcp_servers' is not supported here.", param="mcp_servers"
        )
    asked = {
        **sifted.forward,
        **{name: given[name] for name in _AS_IN_CHAT if name in given},
        "messages": _messages(given.get("messages"), given.get("system"), places),
        "stream_options": {"include_usage": True},
    }
    _set_tools(asked, given, sifted.ignored, places)
    _set_output(asked, given, sifted.ignored, places)
    _set_thinking(asked, given.get("thinking"), facts)
    return asked, sifted, places


def _object(value: Any, at: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise wrong_type(at, "an object")
    return value


def _string(value: Any, at: str) -> str:
    if value is None:
        raise ApiError("missing_parameter", f"'{at}' is required.", param=at)
    if not isinstance(value, str):
        raise wrong_type(at, "a string")
    return value


def _set_tools(
    asked: dict[str, Any], given: dict[str, Any], ignored: list[str], places: Places
) -> None:
    tools, choice = given.get("tools"), given.get("tool_choice")
    if isinstance(tools, list):
        tools = list(_functions(tools, ignored, places))
    if tools is not None:
        asked["tools"] = tools
    if choice is None:
        return
    kind = _object(choice, "tool_choice").get("type")
    if kind == "tool":
        name = _string(choice.get("name"), "tool_choice.name")
        places.note("tool_choice.function", "tool_choice")
        asked["tool_choice"] = {"type": "function", "function": {"name": name}}
    elif isinstance(kind, str) and kind in _CHOICES:
        asked["tool_choice"] = _CHOICES[kind]
    else:
        raise wrong_value("tool_choice.type", "'auto', 'any', 'tool' or 'none'")
    if not tools and kind in ("any", "tool"):
        ignored.append("tool_choice")
    alone = choice.get("disable_parallel_tool_use")
    if alone not in (None, True, False):
        raise wrong_type("tool_choice.disable_parallel_tool_use", "a boolean")
    if alone:
        asked["parallel_tool_calls"] = False


def _functions(tools: list[Any], ignored: list[str], places: Places) -> Iterable[dict[str, Any]]:
    count = 0
    for index, tool in enumerate(tools):
        at = f"tools[{index}]"
        schema = _object(tool, at).get("input_schema")
        if schema is None and tool.get("type") not in (None, "custom"):
            ignored.append(at)  # Anthropic's service knows what it is, and runs it or trained on it
            continue
        place = f"tools[{count}]"
        places.note(place, at)
        places.note(f"{place}.function", at)
        places.note(f"{place}.function.parameters", f"{at}.input_schema")
        if schema is not None:
            _object(schema, f"{at}.input_schema")
        function = {"name": tool.get("name"), "description": tool.get("description")}
        yield {"type": "function", "function": {**function, "parameters": schema}}
        count += 1


def _set_output(
    asked: dict[str, Any], given: dict[str, Any], ignored: list[str], places: Places
) -> None:
    config = _object(given.get("output_config", {}), "output_config")
    wanted, at = config.get("format"), "output_config.format"
    if wanted is None:
        wanted, at = given.get("output_format"), "output_format"
    if wanted is not None:
        if _object(wanted, at).get("type") != "json_schema":
            raise wrong_value(f"{at}.type", "'json_schema'")
        schema = _object(wanted.get("schema"), f"{at}.schema")
        places.note("response_format", at)
        places.note("response_format.json_schema", at)
        asked["response_format"] = {"type": "json_schema", "json_schema": {"schema": schema}}
    effort = config.get("effort")
    if effort is not None:
        places.note("reasoning_effort", "output_config.effort")
        known = isinstance(effort, str) and effort in _EFFORTS
        asked["reasoning_effort"] = _EFFORTS[effort] if known else effort
    ignored.extend(
        f"output_config.{name}"
        for name, value in config.items()
        if value is not None and name not in ("format", "effort")
    )


def _set_thinking(asked: dict[str, Any], thinking: Any, facts: ModelFacts) -> None:
    if thinking is None:
        return
    kind = _object(thinking, "thinking").get("type")
    if kind not in ("enabled", "disabled", "adaptive"):
        raise wrong_value("thinking.type", "'enabled', 'disabled' or 'adaptive'")
    budget = thinking.get("budget_tokens")
    if budget is not None:
        budget = Integer(0, INT64_MAX).read(budget, "thinking.budget_tokens", facts)
    if kind == "adaptive":  # as the model likes: that is what it does anyway
        return
    if kind == "enabled" and budget is not None:
        asked["thinking_budget_tokens"] = min(budget, facts.context_tokens)
    own = asked.get("chat_template_kwargs", {})
    if isinstance(own, dict):
        asked["chat_template_kwargs"] = {"enable_thinking": kind == "enabled", **own}


# -- its messages

_Placed = list[tuple[dict[str, Any], str]]
"""Parts of chat messages, each with the place of the block it was made of."""


class _Made:
    """The chat messages so far."""

    def __init__(self, places: Places) -> None:
        self.messages: list[dict[str, Any]] = []
        self.places = places

    def add(self, at: str, role: str, parts: _Placed | None = None, **more: Any) -> str:
        """One more, made of what stands at *at*; gives its place in chat."""
        place = f"messages[{len(self.messages)}]"
        self.places.note(place, at)
        message = {"role": role, **more}
        if parts is not None:
            message["content"] = self._content(parts, place)
        self.messages.append(message)
        return place

    def note_calls(self, place: str, blocks: list[str]) -> None:
        """The tool calls of the message at *place* came from *blocks*."""
        for index, at in enumerate(blocks):
            call = f"{place}.tool_calls[{index}]"
            self.places.note(call, at)
            self.places.note(f"{call}.function", at)
            self.places.note(f"{call}.function.arguments", f"{at}.input")

    def _content(self, parts: _Placed, place: str) -> str | list[dict[str, Any]]:
        if len(parts) == 1 and "text" in parts[0][0]:  # templates like it best
            return str(parts[0][0]["text"])
        for index, (_, at) in enumerate(parts):
            self.places.note(f"{place}.content[{index}]", at)
            self.places.note(f"{place}.content[{index}].image_url", f"{at}.source")
        return [part for part, _ in parts]


def _messages(given: Any, system: Any, places: Places) -> Any:
    """The list for chat; what is no list of something is left to chat to refuse."""
    if not isinstance(given, list) or not given:
        return given
    made = _Made(places)
    if text := _system(system):
        made.add("system", "system", content=text)
    for index, message in enumerate(given):
        _message(message, f"messages[{index}]", made)
    return made.messages


def _system(system: Any) -> str:
    if system is None or isinstance(system, str):
        return system or ""
    if not isinstance(system, list):
        raise wrong_type("system", "a string or a list of text blocks")
    texts = []
    for index, block in enumerate(system):
        at = f"system[{index}]"
        if _kind(block, at) != "text":
            raise _unsupported(at, "text")
        texts.append(_string(block.get("text"), f"{at}.text"))
    return "\n\n".join(text for text in texts if text)


def _message(message: Any, at: str, made: _Made) -> None:
    role = _string(_object(message, at).get("role"), f"{at}.role")
    if role not in ("user", "assistant", "system"):
        raise wrong_value(f"{at}.role", "'user', 'assistant' or 'system'")
    content = message.get("content")
    if isinstance(content, str):
        made.add(at, role, content=content)
    elif content is None:
        _string(None, f"{at}.content")
    elif not isinstance(content, list):
        raise wrong_type(f"{at}.content", "a string or a list of blocks")
    elif role == "assistant":
        _assistant(content, at, made)
    else:
        _user(content, at, role, made)


def _user(blocks: list[Any], at: str, role: str, made: _Made) -> None:
    """Results of tools first, as messages of their own, with their images behind them."""
    parts: _Placed = []
    results = 0
    for index, block in enumerate(blocks):
        place = f"{at}.content[{index}]"
        if role == "user" and _kind(block, place) == "tool_result":
            _result(block, place, parts, made)
            results += 1
        else:
            parts.append((_part(block, place), place))
    if parts or not results:
        made.add(at, role, parts)


def _result(block: dict[str, Any], at: str, images: _Placed, made: _Made) -> None:
    call_id = _string(block.get("tool_use_id"), f"{at}.tool_use_id")
    failed = block.get("is_error")
    if failed not in (None, True, False):
        raise wrong_type(f"{at}.is_error", "a boolean")
    content = block.get("content")
    texts = []
    if content is None or isinstance(content, str):
        texts.append(content or "")
    elif isinstance(content, list):
        for index, inner in enumerate(content):
            place = f"{at}.content[{index}]"
            part = _part(inner, place)
            texts.append(part.get("text", "[image]"))
            if "text" not in part:
                images.append((part, place))
    else:
        raise wrong_type(f"{at}.content", "a string or a list of blocks")
    text = "\n\n".join(texts)
    place = made.add(at, "tool", content=f"Error: {text}" if failed else text, tool_call_id=call_id)
    made.places.note(f"{place}.tool_call_id", f"{at}.tool_use_id")


def _assistant(blocks: list[Any], at: str, made: _Made) -> None:
    texts, thoughts, calls, places = [], [], [], []
    for index, block in enumerate(blocks):
        place = f"{at}.content[{index}]"
        kind = _kind(block, place)
        if kind == "text":
            texts.append(_string(block.get("text"), f"{place}.text"))
        elif kind == "thinking":
            thoughts.append(_string(block.get("thinking"), f"{place}.thinking"))
        elif kind == "tool_use":
            arguments = block.get("input")
            function = {
                "name": _string(block.get("name"), f"{place}.name"),
                "arguments": {} if arguments is None else _object(arguments, f"{place}.input"),
            }
            calls.append({"id": block.get("id"), "type": "function", "function": function})
            places.append(place)
        elif kind != "redacted_thinking":
            raise _unsupported(place, "text, thinking and tool_use")
    more: dict[str, Any] = {"content": "\n\n".join(text for text in texts if text)}
    if thoughts:
        more["reasoning_content"] = "\n\n".join(thoughts)
    if calls:
        more["tool_calls"] = calls
    made.note_calls(made.add(at, "assistant", **more), places)


def _kind(block: Any, at: str) -> str:
    return _string(_object(block, at).get("type"), f"{at}.type")


def _part(block: Any, at: str) -> dict[str, Any]:
    """The part of a chat message for a block that is text or an image."""
    kind = _kind(block, at)
    if kind == "text":
        return {"type": "text", "text": _string(block.get("text"), f"{at}.text")}
    if kind not in ("image", "document"):
        raise _unsupported(at, "text, image, document and tool_result")
    source = _object(block.get("source"), f"{at}.source")
    origin = _string(source.get("type"), f"{at}.source.type")
    if kind == "document":
        if origin != "text":
            raise _unsupported(f"{at}.source", "text")
        text = _string(source.get("data"), f"{at}.source.data")
        about = (block.get("title"), block.get("context"))
        return {"type": "text", "text": "\n".join((*(a for a in about if _said(a)), text))}
    if origin == "url":
        raise ApiError(
            "remote_media_not_allowed",
            "Images must be sent inline, in a source of type 'base64'.",
            param=f"{at}.source",
            hint="URLs are never fetched.",
        )
    if origin != "base64":
        raise _unsupported(f"{at}.source", "base64")
    data = _string(source.get("data"), f"{at}.source.data")
    # What it really is, chat sees for itself.
    return {"type": "image_url", "image_url": f"data:image/png;base64,{data}"}


def _said(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _unsupported(at: str, known: str) -> ApiError:
    return ApiError(
        "unsupported_parameter",
        f"'{at}' is of a type that is not supported.",
        param=f"{at}.type",
        hint=f"Supported here: {known}.",
    )


# -- errors

_ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def error_body(error: ApiError, head: ReplyHead) -> bytes:
    """The body of a reply with an error status, as Anthropic's SDKs read it."""
    return orjson.dumps(_envelope(error, head))


def error_frame(error: ApiError, head: ReplyHead) -> bytes:
    """The event that ends a begun stream; without its name SDKs would skip it."""
    return b"event: error\ndata: " + error_body(error, head) + b"\n\n"


def _envelope(error: ApiError, head: ReplyHead) -> dict[str, Any]:
    other = "invalid_request_error" if error.status < 500 else "api_error"
    told = {**error.error_object(), "type": _ERROR_TYPES.get(error.status, other)}
    if error.code == "context_length_exceeded":  # by these words clients know to shorten
        told["message"] = f"prompt is too long: {error.message}"
    return {"type": "error", "error": told, "request_id": head.request_id}


# -- the answer


class MessagesTranslator(BlockTranslator):
    """Tells one answer as Messages events; see `BlockTranslator`."""

    def __init__(self, call: EngineCall, head: ReplyHead, *, silent: bool = False) -> None:
        super().__init__(call, head, silent=silent)
        self._stops: list[str] = orjson.loads(call.echo) if call.echo else []
        self._stopped_by: str | None = None

    def _take(self, event: dict[str, Any]) -> None:
        more = event.get("__verbose")
        if isinstance(more, dict) and more.get("stopping_word") in self._stops:
            self._stopped_by = more["stopping_word"]
        if "prompt_progress" in event:
            # The engine repeats the text that the request's last message began the answer with;
            # in Messages the answer goes on behind it.
            event = {**event, "choices": []}
        super()._take(event)

    def _begin(self, prompt_tokens: int | None) -> None:
        usage = _usage(prompt_tokens or 0, 0, 0)
        self._emit("message_start", {"message": self._message([], None, usage)})

    def _opened(self, block: Block) -> None:
        shown = _content(block, "", {})
        self._emit("content_block_start", {"index": block.index, "content_block": shown})

    def _added(self, block: Block, piece: str, logprobs: list[Any]) -> None:
        delta = _DELTAS[block.kind]
        self._delta(block, {"type": delta[0], delta[1]: piece})

    def _closed(self, block: Block) -> None:
        if block.kind == "call" and self.finish_reason != "length":
            _arguments(block)
        if block.kind == "reasoning":  # clients keep thoughts that have a signature
            self._delta(block, {"type": "signature_delta", "signature": ""})
        self._emit("content_block_stop", {"index": block.index})

    def _delta(self, block: Block, delta: dict[str, Any]) -> None:
        self._emit("content_block_delta", {"index": block.index, "delta": delta})

    def _ended(self) -> None:
        delta = {"stop_reason": self._stop_reason(), "stop_sequence": self._stop_sequence()}
        self._emit("message_delta", {"delta": delta, "usage": self._final_usage()})
        self._emit("message_stop", {})

    def _failed(self, error: ApiError) -> None:
        self._emit("error", _envelope(error, self.head))

    def _whole(self) -> dict[str, Any]:
        content = []
        for block in self.blocks:
            if block.kind != "call":
                content.append(_content(block, block.content, {}))
                continue
            try:
                content.append(_content(block, "", _arguments(block)))
            except ValueError:  # cut by the token limit: half a call must not be run
                continue
        return self._message(content, self._stop_reason(), self._final_usage())

    def _message(
        self, content: list[Any], stop_reason: str | None, usage: dict[str, int]
    ) -> dict[str, Any]:
        return {
            "id": f"msg_{self.head.reply_id}",
            "type": "message",
            "role": "assistant",
            "model": self.call.model,
            "content": content,
            "stop_reason": stop_reason,
            "stop_sequence": None if stop_reason is None else self._stop_sequence(),
            "usage": usage,
        }

    def _stop_reason(self) -> str:
        if self.finish_reason == "length":
            return "max_tokens"
        if any(block.kind == "call" for block in self.blocks):
            return "tool_use"
        return "end_turn" if self._stopped_by is None else "stop_sequence"

    def _stop_sequence(self) -> str | None:
        return self._stopped_by if self._stop_reason() == "stop_sequence" else None

    def _final_usage(self) -> dict[str, int]:
        known = self.usage
        if known is None:
            return _usage(0, 0, 0)
        return _usage(known.prompt_tokens, known.cached_tokens, known.completion_tokens)


_DELTAS = {
    "text": ("text_delta", "text"),
    "reasoning": ("thinking_delta", "thinking"),
    "call": ("input_json_delta", "partial_json"),
}


def _content(block: Block, text: str, arguments: dict[str, Any]) -> dict[str, Any]:
    if block.kind == "call":
        named = {"id": block.call_id, "name": block.name}
        return {"type": "tool_use", **named, "input": arguments}
    if block.kind == "reasoning":
        return {"type": "thinking", "thinking": text, "signature": ""}
    return {"type": "text", "text": text}


def _arguments(block: Block) -> dict[str, Any]:
    """Raises ValueError if they are no JSON object."""
    parsed = orjson.loads(block.content or "{}")
    if not isinstance(parsed, dict):
        raise ValueError("the arguments of a call are no object")
    return parsed


def _usage(prompt: int, cached: int, completion: int) -> dict[str, int]:
    return {
        "input_tokens": max(prompt - cached, 0),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": completion,
    }


def _assembler(call: EngineCall, head: ReplyHead) -> Assembler:
    return BlockAssembler(MessagesTranslator(call, head, silent=True))


def _translator(call: EngineCall, head: ReplyHead) -> Translator:
    return MessagesTranslator(call, head)


MESSAGES_DIALECT = Dialect(
    "messages",
    _PATH,
    MESSAGES,
    build,
    assembler=_assembler,
    translator=_translator,
    error_body=error_body,
    error_frame=error_frame,
)

MESSAGES_COUNT_DIALECT = Dialect(
    "messages_count",
    f"{_PATH}/count_tokens",
    MESSAGES,
    build_count,
    error_body=error_body,
    error_frame=error_frame,
    counts=True,
)
