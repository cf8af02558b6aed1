"""PURE. POST /v1/responses: OpenAI's Responses API, told as chat to the engine and back.

A request becomes a body of chat, as a client could have sent it, and that is built like any other:
whatever holds for chat holds here. The engine's own route of this name is not used; it ignores
structured output, calls cut answers complete, and sends events that SDKs cannot read.

Nothing is stored: whoever wants a second turn sends the first one again, with what came back.
"""

from __future__ import annotations

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
from gateway.dialects.responses_input import STATELESS, items_as_messages
from gateway.errors import ApiError
from gateway.request.fields import Fate, Row, Sifted, Table, sift
from gateway.request.fields.kinds import (
    AnyValue,
    Flag,
    Integer,
    TokenLimit,
    wrong_type,
)
from gateway.request.fields.rows import (
    ENGINE_ONLY,
    LIMITS,
    MODEL,
    REFUSED,
    SAMPLING,
    THINKING,
    WITHOUT_EFFECT,
    forwarded,
    same_fate,
    translated,
)
from gateway.stream.events import MARK

__all__ = ["RESPONSES", "RESPONSES_COUNT_DIALECT", "RESPONSES_DIALECT", "ResponsesTranslator"]

MAX_REPEATED_BYTES = 64 * 1024
"""Of instructions, tools and a schema, the most that a response repeats of each; what is longer is
left out there. A stream has the response three times."""

MAX_LOGPROBS_BYTES = 1 << 20
"""Of logprobs, the most that a stream repeats behind the deltas that brought them."""

_PATH = "/v1/responses"

RESPONSES = Table(
    "responses",
    [
        MODEL,
        translated(
            "input", AnyValue("a string or a list of items"), "Required. Items are told above."
        ),
        translated("instructions", AnyValue("a string"), "The first system message."),
        translated("max_output_tokens", TokenLimit(), "The smallest limit counts."),
        *LIMITS,
        translated("stream", Flag(), "Events instead of one JSON reply."),
        translated(
            "tools", AnyValue("a list of tools"), "Functions; others are dropped and named."
        ),
        translated("tool_choice", AnyValue("a word or an object"), "See [tools](#tools)."),
        forwarded("parallel_tool_calls", Flag()),
        translated(
            "text",
            AnyValue("an object"),
            "`format` is enforced, see [JSON schemas](#json-schemas).",
        ),
        translated("reasoning", AnyValue("an object"), "`effort` is chat's `reasoning_effort`."),
        translated("top_logprobs", Integer(0, 20), "Brings logprobs; not together with tools."),
        translated("include", AnyValue("a list"), "`message.output_text.logprobs` is read."),
        translated("background", Flag(), "`true` is refused."),
        translated("chat_template_kwargs", AnyValue("an object of scalars"), "As in chat."),
        *THINKING,
        *same_fate(Fate.DROP, "truncation max_tool_calls client_metadata stream_options"),
        Row("n", Fate.DROP_NAMED, locked=True, note="There is one answer."),
        *same_fate(Fate.DROP_NAMED, "context_management"),
        *same_fate(Fate.REFUSE, "previous_response_id conversation prompt", STATELESS, locked=True),
        Row("messages", Fate.REFUSE, locked=True, note="Use `input`."),
        Row("response_format", Fate.REFUSE, locked=True, note="Use `text.format`."),
    ],
    SAMPLING,
    WITHOUT_EFFECT,
    ENGINE_ONLY,
    REFUSED,
)

_SAME_IN_CHAT = (
    *("model", "stream", "max_tokens", "max_completion_tokens", "n_predict"),
    "chat_template_kwargs",
)
_PLACES = {
    "messages": "input",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
    "tool_choice.function": "tool_choice",
    "tool_choice.allowed_tools": "tool_choice",
}
_CHOICES = {"function", "allowed_tools", "auto", "none", "any", "required", "tool"}
_LOGPROBS = "message.output_text.logprobs"


# -- a request


def build(body: dict[str, Any], facts: ModelFacts, policy: FieldPolicy) -> EngineCall:
    """
    Make the engine's chat request.

    Raises:
        ApiError: 400 or 404, with the exact field.
    """
    asked = _Asked(sift(body, RESPONSES, facts, policy))
    with asked.places.naming():
        call = chat.build(asked.chat, facts, policy)
    call.ignored = asked.ignored(call)
    call.echo = orjson.dumps(asked.repeated(call.ignored))
    return call


def build_count(body: dict[str, Any], facts: ModelFacts, policy: FieldPolicy) -> EngineCall:
    """
    Make the engine's counting request for the same body.

    Raises:
        ApiError: 400 or 404, with the exact field.
    """
    asked = _Asked(sift(body, RESPONSES, facts, policy))
    with asked.places.naming():
        call = counting.build(asked.chat, facts, policy)
    call.ignored = asked.ignored(call)
    return call


class _Asked:
    """A request, and the body of chat that asks for the same."""

    def __init__(self, sifted: Sifted) -> None:
        given = sifted.translate
        self.sifted = sifted
        self.places = Places(_PLACES)
        self.chat: dict[str, Any] = dict(sifted.forward)
        self._functions: list[dict[str, Any]] = []
        if given.get("background"):
            raise ApiError(
                "unsupported_parameter",
                "'background' is not supported here.",
                param="background",
                hint="Ask for a stream: it is told where it stands while it waits.",
            )
        self.chat.update({name: given[name] for name in _SAME_IN_CHAT if name in given})
        if given.get("stream"):
            # Every response ends with its usage.
            self.chat["stream_options"] = {"include_usage": True}
        if limits := [given[name] for name in ("max_output_tokens", "max_tokens") if name in given]:
            self.chat["max_tokens"] = min(limits)
        self.chat["messages"] = items_as_messages(given, self.places)
        self._set_tools(given)
        self._set_choice(given.get("tool_choice"))
        self._set_format(given.get("text"))
        self._set_effort(given.get("reasoning"))
        self._set_logprobs(given)

    def ignored(self, call: EngineCall) -> tuple[str, ...]:
        """What was left out, here and in chat."""
        return (*self.sifted.ignored_names(), *map(self.places.of, call.ignored))

    def repeated(self, ignored: tuple[str, ...]) -> dict[str, Any]:
        """What a response says of its request; everything in it has been checked."""
        given, asked = self.sifted.translate, self.chat
        text = given.get("text") or {}
        tools = [_tool_told(function) for function in self._functions]
        choice = asked.get("tool_choice") if tools else None
        effort = asked.get("reasoning_effort")
        if "reasoning.effort" in ignored:
            effort = None
        return {
            "instructions": _short(given.get("instructions"), None),
            "max_output_tokens": given.get("max_output_tokens"),
            "parallel_tool_calls": asked.get("parallel_tool_calls", True),
            "reasoning": {
                "effort": _short(effort if isinstance(effort, str) else None, None),
                "summary": None,
            },
            "temperature": asked.get("temperature"),
            "text": {"format": _short(_format_told(text.get("format")), {"type": "text"})},
            "tool_choice": _short(choice, "auto"),
            "tools": _short(tools, []),
            "top_p": asked.get("top_p"),
        }

    def _set_tools(self, given: dict[str, Any]) -> None:
        tools = given.get("tools")
        if tools is None:
            return
        if not isinstance(tools, list):
            raise wrong_type("tools", "a list")
        kept: list[Any] = []
        for at, tool in enumerate(tools):
            place = f"tools[{at}]"
            if not isinstance(tool, dict):
                raise wrong_type(place, "an object")
            kind = tool.get("type")
            if isinstance(kind, str) and kind != "function":
                # Codex and the agents always offer some that a server would have to run.
                self.sifted.ignored.append(place)
                continue
            function = tool.get("function")
            chat_place = f"tools[{len(kept)}]"
            self.places.note(chat_place, place)
            if not isinstance(function, dict):
                function = tool
                self.places.note(f"{chat_place}.function", place)
            self._functions.append(function)
            kept.append({"type": kind, "function": function})
        self.chat["tools"] = kept

    def _set_choice(self, choice: Any) -> None:
        if choice is None:
            return
        if isinstance(choice, dict):
            kind = choice.get("type")
            if isinstance(kind, str) and kind not in _CHOICES:
                self.sifted.ignored.append("tool_choice")
                return
            if kind == "allowed_tools" and isinstance(listed := choice.get("tools"), list):
                functions = [tool for tool in listed if _is_function(tool)]
                if listed and not functions:
                    # None of the functions may be called, and the rest is not here.
                    self.sifted.ignored.append("tool_choice")
                    choice = "none"
                else:
                    choice = {**choice, "tools": functions}
        if self.chat.get("tools") == [] and choice not in ("auto", "none"):
            self.sifted.ignored.append("tool_choice")  # all that could be chosen was left out
        self.chat["tool_choice"] = choice

    def _set_format(self, text: Any) -> None:
        if text is None:
            return
        if not isinstance(text, dict):
            raise wrong_type("text", "an object")
        wanted = text.get("format")
        if isinstance(wanted, dict) and "json_schema" not in wanted:
            # Flat here; chat has it one level down.
            self.places.note("response_format.json_schema", "text.format")
            wanted = {"json_schema": wanted, **wanted}
        self.chat["response_format"] = wanted

    def _set_effort(self, reasoning: Any) -> None:
        if reasoning is None:
            return
        if not isinstance(reasoning, dict):
            raise wrong_type("reasoning", "an object")
        self.chat["reasoning_effort"] = reasoning.get("effort")

    def _set_logprobs(self, given: dict[str, Any]) -> None:
        include, top = given.get("include", []), given.get("top_logprobs", 0)
        if not isinstance(include, list):
            raise wrong_type("include", "a list")
        if top or _LOGPROBS in include:
            self.chat["logprobs"], self.chat["top_logprobs"] = True, top
            self.places.note("logprobs", "top_logprobs" if top else "include")


def _is_function(tool: Any) -> bool:
    return not isinstance(tool, dict) or tool.get("type") in (None, "function")


def _tool_told(function: dict[str, Any]) -> dict[str, Any]:
    strict = function.get("strict")
    return {
        "type": "function",
        "name": function["name"],
        "description": function.get("description"),
        "parameters": function.get("parameters") or None,
        "strict": strict if isinstance(strict, bool) else None,
    }


def _format_told(wanted: dict[str, Any] | None) -> dict[str, Any] | None:
    names = ("type", "name", "description", "schema", "strict")
    return wanted and {name: wanted[name] for name in names if name in wanted}


def _short(value: Any, otherwise: Any) -> Any:
    """A value to repeat, unless there is none or it is too long."""
    if value is None or len(orjson.dumps(value)) > MAX_REPEATED_BYTES:
        return otherwise
    return value


# -- an answer


class ResponsesTranslator(BlockTranslator):
    """Tells an answer as a response: a block is an item with at most one part."""

    def __init__(self, call: EngineCall, head: ReplyHead, *, silent: bool = False) -> None:
        super().__init__(call, head, silent=silent)
        self._sequence = 0
        self._logprob_bytes = 0
        self._mark: Any = None
        self._broken = False

    def _begin(self, prompt_tokens: int | None) -> None:
        if self._silent:
            return
        response = self._response("in_progress")
        self._emit("response.created", {"response": response})
        self._emit("response.in_progress", {"response": response})

    def _opened(self, block: Block) -> None:
        item = self._item(block, "in_progress")
        self._emit("response.output_item.added", {"output_index": block.index, "item": item})
        if block.kind != "call":
            self._emit("response.content_part.added", {**self._at(block), "part": _part_of(block)})

    def _added(self, block: Block, piece: str, logprobs: list[Any]) -> None:
        told = self._at(block)
        told["delta"] = piece
        if block.kind == "text":
            told["logprobs"] = self._logprobs(block, logprobs) if logprobs else []
        self._emit(f"response.{_DELTAS[block.kind]}.delta", told)

    def _closed(self, block: Block) -> None:
        if block.kind == "call" and not block.pieces and not self._cut:
            # OpenAI's calls always carry JSON, and programs read it without a look.
            block.pieces.append("{}")
            self._added(block, "{}", [])
        if self._silent:
            return
        item, at, event = self._item(block), self._at(block), f"response.{_DELTAS[block.kind]}.done"
        if block.kind == "call":
            self._emit(event, {**at, "name": block.name, "arguments": item["arguments"]})
        else:
            part = item["content"][0]
            told = {name: part[name] for name in ("text", "logprobs") if name in part}
            self._emit(event, {**at, **told})
            self._emit("response.content_part.done", {**at, "part": part})
        self._emit("response.output_item.done", {"output_index": block.index, "item": item})

    def _ended(self) -> None:
        if not self._silent:
            response = self._whole()
            self._emit(f"response.{response['status']}", {"response": response})

    def _failed(self, error: ApiError) -> None:
        self._broken = True
        response = {**self._response("failed"), "error": _inner(error)}
        self._emit("response.failed", {"response": response, "error": error.error_object()})

    def _whole(self) -> dict[str, Any]:
        return self._response("incomplete" if self._cut else "completed")

    def _take(self, event: dict[str, Any]) -> None:
        self._mark = event.get(MARK, self._mark)
        super()._take(event)

    def _emit(self, kind: str, payload: dict[str, Any]) -> None:
        self._emit_whole(kind, {"type": kind, "sequence_number": self._sequence, **payload})
        self._sequence += 1

    # -- what is in the events

    @property
    def _cut(self) -> bool:
        """Whether the token limit ended it."""
        return self.finish_reason == "length"

    def _response(self, status: str) -> dict[str, Any]:
        response = _blank(self.head, status, self.call.model)
        response.update(orjson.loads(self.call.echo or b"{}"))
        if status != "in_progress":
            response["output"] = [self._item(block) for block in self.blocks]
            response["usage"] = self._usage_told()
        if status == "incomplete":
            response["incomplete_details"] = {"reason": "max_output_tokens"}
        if self._mark is not None:
            response[MARK] = self._mark
        return response

    def _usage_told(self) -> dict[str, Any] | None:
        usage = self.usage
        if usage is None:
            return None
        return {
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
            "output_tokens": usage.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        }

    def _id(self, block: Block) -> str:
        return f"{_PREFIXES[block.kind]}_{self.head.reply_id}_{block.index}"

    def _at(self, block: Block) -> dict[str, Any]:
        at = {"item_id": self._id(block), "output_index": block.index}
        if block.kind != "call":
            at["content_index"] = 0
        return at

    def _logprobs(self, block: Block, logprobs: list[Any]) -> list[orjson.Fragment]:
        """Those of a piece; kept for the block's end, unless that is getting too large."""
        texts = [orjson.dumps(_logprob(one)) for one in logprobs]
        self._logprob_bytes += sum(map(len, texts))
        told = list(map(orjson.Fragment, texts))
        if self._silent or self._logprob_bytes <= MAX_LOGPROBS_BYTES:
            block.logprobs += told
        else:
            block.logprobs.clear()
        return told

    def _item(self, block: Block, status: str | None = None) -> dict[str, Any]:
        """A block as an item; with *status* as it is before it has any content."""
        begins = status is not None
        if status is None:
            last = block is self.blocks[-1]
            status = "incomplete" if last and (self._cut or self._broken) else "completed"
        item: dict[str, Any] = {"id": self._id(block), "type": _TYPES[block.kind], "status": status}
        if block.kind == "call":
            item.update(call_id=block.call_id, name=block.name, arguments=block.content)
            return item
        if block.kind == "text":
            item["role"] = "assistant"
        else:
            item["summary"] = []
        item["content"] = [] if begins else [_part_of(block)]
        return item


_TYPES = {"text": "message", "reasoning": "reasoning", "call": "function_call"}
_PREFIXES = {"text": "msg", "reasoning": "rs", "call": "fc"}
_DELTAS = {"text": "output_text", "reasoning": "reasoning_text", "call": "function_call_arguments"}


def _part_of(block: Block) -> dict[str, Any]:
    if block.kind == "reasoning":
        return {"type": "reasoning_text", "text": block.content}
    told = {"type": "output_text", "text": block.content, "annotations": []}
    return {**told, "logprobs": block.logprobs}


def _logprob(token: dict[str, Any]) -> dict[str, Any]:
    """Chat's, without what only the engine knows."""
    kept = {name: token.get(name) for name in ("token", "logprob", "bytes")}
    if "top_logprobs" in token:
        kept["top_logprobs"] = list(map(_logprob, token["top_logprobs"]))
    return kept


def _blank(head: ReplyHead, status: str, model: str) -> dict[str, Any]:
    return {
        "id": f"resp_{head.reply_id}",
        "object": "response",
        "created_at": head.created,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "metadata": {},
        "model": model,
        "output": [],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "store": False,
        "temperature": None,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": None,
        "truncation": "disabled",
        "usage": None,
    }


def _inner(error: ApiError) -> dict[str, Any]:
    """A response's own error; Codex asks again after a `server_error`."""
    if error.code in ("context_length_exceeded", "rate_limit_exceeded"):
        code = error.code
    else:
        code = "server_error" if error.status >= 500 or error.retryable else "invalid_prompt"
    return {"code": code, "message": error.message}


def error_frame(error: ApiError, head: ReplyHead) -> bytes:
    """The one event of a stream that failed before anything was told."""
    event = {
        "type": "response.failed",
        "sequence_number": 0,
        "response": {**_blank(head, "failed", ""), "error": _inner(error)},
        "error": error.error_object(),
    }
    return b"event: response.failed\ndata: " + orjson.dumps(event) + b"\n\n"


def _translator(call: EngineCall, head: ReplyHead) -> Translator:
    return ResponsesTranslator(call, head)


def _assembler(call: EngineCall, head: ReplyHead) -> Assembler:
    return BlockAssembler(ResponsesTranslator(call, head, silent=True))


_DOC = f"""\
OpenAI's Responses. The request becomes a chat request, so what is said of [messages](#messages),
[media](#media), [tools](#tools) and [JSON schemas](#json-schemas) holds here; errors name the field
of this route. Nothing is stored: send the whole conversation each time.

| item of `input` | what happens |
|---|---|
| a message, with or without `type` | `user`, `system`, `developer`, `assistant`; text parts \
become text, `input_image` is an image, as a data URL, `input_audio` sound |
| `function_call`, `function_call_output` | the call and its answer, a string or parts |
| `reasoning` | goes along as the thoughts before the next answer; without text it is dropped |
| `item_reference`, `custom_tool_call`, `input_file` parts, any other | 400 |

- `tools` and the schema in `text.format` are flat, as this API has them; chat's shape does as well.
- Tools that a server would have to run (`web_search`, ...) are dropped and named.
- An answer that hit its token limit has `status` `incomplete`, and its last event is
  `response.incomplete`. There is no `[DONE]`.
- A response repeats the request's instructions, tools and schema only up to
  {MAX_REPEATED_BYTES >> 10} KiB each, and a stream its logprobs up to \
{MAX_LOGPROBS_BYTES >> 20} MiB: the deltas have brought them.
- `reasoning_tokens` and `cache_write_tokens` are always 0: the engine does not count them.
"""

_COUNT_DOC = """\
Tokens of a Responses request's prompt, template and tools included. The reply tells `input_tokens`.
It takes no slot and waits in no queue, and counts as a request but spends no tokens.
"""

RESPONSES_DIALECT = Dialect(
    "responses",
    _PATH,
    RESPONSES,
    build,
    assembler=_assembler,
    translator=_translator,
    error_frame=error_frame,
    places=Places(_PLACES),
    doc=_DOC,
)
RESPONSES_COUNT_DIALECT = Dialect(
    "responses_count",
    f"{_PATH}/input_tokens",
    RESPONSES,
    build_count,
    places=Places(_PLACES),
    counts=True,
    doc=_COUNT_DOC,
)
