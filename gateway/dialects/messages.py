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
from gateway.dialects.messages_input import as_object, as_string, turns_as_messages
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
        translated("messages", AnyValue("a list of messages"), "Required. Rebuilt block by block."),
        translated("system", AnyValue("a string or a list of text blocks"), "The first message."),
        Row("stop_sequences", Fate.FORWARD, Stop(), to="stop"),
        translated("tools", AnyValue("a list of tools"), "Server tools are dropped and named."),
        translated(
            "tool_choice", AnyValue("`auto`, `any`, `tool`, `none`"), "See [tools](#tools)."
        ),
        translated(
            "thinking",
            AnyValue("`enabled`, `disabled`, `adaptive`"),
            "For chat templates that know it.",
        ),
        translated(
            "output_config",
            AnyValue("an object"),
            "`format` is enforced, `effort` is chat's `reasoning_effort`.",
        ),
        translated(
            "output_format", AnyValue("an object"), "The old name of `output_config.format`."
        ),
        translated("chat_template_kwargs", AnyValue("an object of scalars"), "As in chat."),
        Row("n", Fate.DROP_NAMED, locked=True, note="There is one answer."),
        translated("mcp_servers", AnyValue("an empty list"), "Any other is 400."),
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
_VERBOSE_BYTES = 256 * 1024
"""The verbose event repeats the prompt: of a longer one it would grow past what is held back."""
_EFFORTS = {"max": "xhigh"}  # the rest are chat's own words


# -- the request


def build(body: dict[str, Any], facts: ModelFacts, policy: FieldPolicy) -> EngineCall:
    """
    Make the engine's chat request.

    Raises:
        ApiError: 400 or 404, with the exact field.
    """
    asked, sifted, places = _as_chat(body, facts, policy)
    with places.naming():
        call = chat.build(asked, facts, policy)
    call.ignored = _ignored(sifted, call, places)
    stops = asked.get("stop")
    if not stops or call.forced_calls or len(call.body) > _VERBOSE_BYTES:
        return call
    # Only so does the engine say in its last event which of them ended the answer.
    call.body = call.body[:-1] + b',"verbose":true}'
    call.echo = orjson.dumps(stops)
    return call


def build_count(body: dict[str, Any], facts: ModelFacts, policy: FieldPolicy) -> EngineCall:
    """
    Make the engine's counting request.

    Raises:
        ApiError: 400 or 404, with the exact field.
    """
    asked, sifted, places = _as_chat(body, facts, policy)
    with places.naming():
        call = counting.build(asked, facts, policy)
    call.ignored = _ignored(sifted, call, places)
    return call


def _ignored(sifted: Sifted, call: EngineCall, places: Places) -> tuple[str, ...]:
    names = (*sifted.ignored_names(), *map(places.of, call.ignored))
    return names[: MAX_IGNORED + 1]


def _as_chat(
    body: dict[str, Any], facts: ModelFacts, policy: FieldPolicy
) -> tuple[dict[str, Any], Sifted, Places]:
    """The chat body that means the same, and where its fields came from."""
    sifted = sift(body, MESSAGES, facts, policy)
    given, places = sifted.translate, Places({"stop": "stop_sequences"})
    if given.get("mcp_servers"):
        raise ApiError(
            "unsupported_parameter", "'mcp_servers' is not supported here.", param="mcp_servers"
        )
    asked = {
        **sifted.forward,
        **{name: given[name] for name in _AS_IN_CHAT if name in given},
        "messages": turns_as_messages(given.get("messages"), given.get("system"), places),
        "stream_options": {"include_usage": True},
    }
    _set_tools(asked, given, sifted.ignored, places)
    _set_output(asked, given, sifted.ignored, places)
    _set_thinking(asked, given.get("thinking"), facts)
    return asked, sifted, places


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
    kind = as_object(choice, "tool_choice").get("type")
    if kind == "tool":
        name = as_string(choice.get("name"), "tool_choice.name")
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
        schema = as_object(tool, at).get("input_schema")
        if schema is None and tool.get("type") not in (None, "custom"):
            ignored.append(at)  # Anthropic's service knows what it is, and runs it or trained on it
            continue
        place = f"tools[{count}]"
        places.note(place, at)
        places.note(f"{place}.function", at)
        places.note(f"{place}.function.parameters", f"{at}.input_schema")
        if schema is not None:
            as_object(schema, f"{at}.input_schema")
        function = {"name": tool.get("name"), "description": tool.get("description")}
        yield {"type": "function", "function": {**function, "parameters": schema}}
        count += 1


def _set_output(
    asked: dict[str, Any], given: dict[str, Any], ignored: list[str], places: Places
) -> None:
    config = as_object(given.get("output_config", {}), "output_config")
    wanted, at = config.get("format"), "output_config.format"
    if wanted is None:
        wanted, at = given.get("output_format"), "output_format"
    if wanted is not None:
        if as_object(wanted, at).get("type") != "json_schema":
            raise wrong_value(f"{at}.type", "'json_schema'")
        schema = as_object(wanted.get("schema"), f"{at}.schema")
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
    kind = as_object(thinking, "thinking").get("type")
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
            if self.finish_reason == "length" and not block.content and block is self.blocks[-1]:
                continue  # as below: cut before its arguments began, it is not one without any
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


_DOC = """\
Anthropic's Messages. The request becomes a chat request, so what is said of [messages](#messages),
[media](#media), [tools](#tools) and [JSON schemas](#json-schemas) holds here; errors name the field
of this route.

| block | what happens |
|---|---|
| `text`, `document` with a `text` source | text |
| `image` with a `base64` source | as chat's images. A `url` is never fetched: 400 |
| `tool_use`, `tool_result` | the call and its answer; `is_error` puts "Error: " before the text, \
images in a result follow behind it |
| `thinking` | goes along as the thoughts of that answer; signatures are not looked at |
| `redacted_thinking` | dropped |
| PDF and other documents, search results, any other block | 400 |
| `cache_control` anywhere | dropped |

- `max_tokens` may be absent; Anthropic insists on it. No `anthropic-version` is needed.
- `temperature` goes from 0 to 2, as on the other routes.
- Server tools (`web_search_...`, `bash_...`: a `type` and no `input_schema`) are dropped and named:
  nothing runs them here.
- A message of role `system` may stand anywhere among the messages.
- A last message of the assistant is gone on with; the reply has only what is new.
- An answer that hit its token limit has `stop_reason` `max_tokens`, one that met a stop sequence
  `stop_sequence` (`end_turn` if the request was larger than 256 KiB).
- The model's thoughts come as `thinking` blocks with an empty signature.
"""

_PLACES = Places({"response_format": "output_config.format"})

MESSAGES_DIALECT = Dialect(
    "messages",
    _PATH,
    MESSAGES,
    build,
    assembler=_assembler,
    translator=_translator,
    error_body=error_body,
    error_frame=error_frame,
    places=_PLACES,
    doc=_DOC,
)

_COUNT_DOC = """\
Tokens of a Messages request's prompt, template and tools included. The reply tells `input_tokens`.
It takes no slot and waits in no queue, and counts as a request but spends no tokens.
"""

MESSAGES_COUNT_DIALECT = Dialect(
    "messages_count",
    f"{_PATH}/count_tokens",
    MESSAGES,
    build_count,
    error_body=error_body,
    error_frame=error_frame,
    places=_PLACES,
    counts=True,
    doc=_COUNT_DOC,
)
