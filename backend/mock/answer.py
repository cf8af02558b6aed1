"""PURE: a request body -> what will be answered: which pieces, how many tokens, how it ends.

The same body always gets the same answer. Ids come from what is asked, not from how (``stream``
or not), so that a streamed reply can be compared with a whole one.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from backend.mock.example import example
from backend.mock.options import MockOptions
from backend.mock.scenario import BadScenario, Scenario, parse_scenario
from backend.mock.wire import Counts, Json, context_error, error

_WORDS = (
    *(" the", " old", " river", " is", " and", " light", " by", " day", " one", " small"),
    *(" stone", " will", " find", " that", " dark", " red", " house", " with", " no", " wind"),
    *(" keep", " open", " naïve", " café", " Zürich", " 東京", " 🦙", " green", " walk"),
    *(" from", " a"),
)
_OPEN_END = 1 << 31
_PIECE = re.compile(r"\s*\S+\s*$|\s*\S+|\s+")
_JSON_PIECE_CHARS = 6
_TOKENS_PER_MESSAGE = 4
_TOKENS_PER_PROMPT = 3

Kind = Literal["content", "reasoning", "tool"]


class Refused(Exception):  # noqa: N818 - what happened
    """The engine would answer this request with an error object."""

    def __init__(self, payload: Json) -> None:
        super().__init__(payload["message"])
        self.payload = payload


@dataclass(frozen=True, slots=True)
class Piece:
    """One token's worth of output. For a tool call *delta* is the whole entry."""

    kind: Kind
    text: str = ""
    delta: Json | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """Everything about one reply but its timing."""

    reply_id: str
    model: str
    stream: bool
    with_usage: bool
    with_progress: bool
    top_logprobs: int | None
    choices: tuple[tuple[Piece, ...], ...]
    finish_reason: str
    counts: Counts
    scenario: Scenario


def chat_answer(body: Json, options: MockOptions) -> Answer:
    """Answer a body of /v1/chat/completions; raises Refused."""
    if "messages" not in body:
        raise Refused(error(400, "'messages' is required"))
    text = last_user_text(body["messages"])
    scenario = _scenario(text)
    prompt = scenario.prompt_tokens or count_chat(body)
    count = _choice_count(body, options)
    make = _Writer(body, options, scenario, prompt).chat
    asked = ("messages", "tools", "response_format", "json_schema")
    seed = digest({name: body[name] for name in asked if name in body})
    probs = int(body.get("top_logprobs") or 0) if body.get("logprobs") else None
    return _answer(body, options, scenario, prompt, seed, count, make, probs)


def text_answer(body: Json, options: MockOptions) -> Answer:
    """Answer a body of /v1/completions; raises Refused."""
    if "prompt" not in body:
        message = "[json.exception.out_of_range.403] key 'prompt' not found"
        raise Refused(error(400, message))
    prompts = _prompts(body["prompt"])
    scenario = _scenario(prompts[0])
    prompt = scenario.prompt_tokens or count_text(body["prompt"])
    count = len(prompts) * _choice_count(body, options)
    make = _Writer(body, options, scenario, prompt).text
    seed = digest({"prompt": body["prompt"]})
    probs = None if body.get("logprobs") in (None, False) else int(body["logprobs"])
    return _answer(body, options, scenario, prompt, seed, count, make, probs)


def _answer(
    body: Json,
    options: MockOptions,
    scenario: Scenario,
    prompt: int,
    seed: str,
    count: int,
    make: Callable[[str, int], "_Written"],
    probs: int | None,
) -> Answer:
    if prompt >= options.slot_context:
        raise Refused(context_error(prompt, options.slot_context))
    written = [make(seed, index) for index in range(count)]
    first = written[0]
    stream_options = body.get("stream_options") or {}
    return Answer(
        reply_id="chatcmpl-" + seed[:32],
        model=options.alias,
        stream=bool(body.get("stream")),
        with_usage=bool(stream_options.get("include_usage")),
        with_progress=bool(body.get("return_progress")),
        top_logprobs=probs,
        choices=tuple(each.pieces for each in written),
        finish_reason=first.finish_reason,
        counts=Counts(prompt, min(scenario.cached, prompt - 1), len(first.pieces)),
        scenario=scenario,
    )


# --- writing ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Written:
    pieces: tuple[Piece, ...]
    finish_reason: str


class _Writer:
    """Writes one choice within the request's limits."""

    def __init__(self, body: Json, options: MockOptions, scenario: Scenario, prompt: int) -> None:
        self._body = body
        self._scenario = scenario
        self._tokens = options.tokens if scenario.tokens is None else scenario.tokens
        self._room = min(max_tokens(body), options.slot_context - prompt)

    def text(self, seed: str, index: int) -> _Written:
        return self._cut(self._content(seed, index))

    def chat(self, seed: str, index: int) -> _Written:
        tools = self._tools()
        reasoning = [Piece("reasoning", word) for word in _words(seed, 7, self._scenario.reasoning)]
        if not tools:
            return self._cut(reasoning + self._content(seed, index))
        calls = [self._call(tool, seed, index, place) for place, tool in enumerate(tools)]
        pieces = [piece for place, call in enumerate(calls) for piece in _call_pieces(call, place)]
        written = self._cut(reasoning + pieces)
        reason = "tool_calls" if written.finish_reason == "stop" else written.finish_reason
        return _Written(written.pieces, reason)

    def _cut(self, pieces: list[Piece]) -> _Written:
        pieces, stopped = _cut_at_stop(pieces, self._body.get("stop"))
        reason = "stop" if stopped or len(pieces) <= self._room else "length"
        # Even a limit of 0 makes one token.
        kept = tuple(pieces[: max(self._room, 1)])
        return _Written(kept, self._scenario.finish or reason)

    def _content(self, seed: str, index: int) -> list[Piece]:
        said = self._said()
        if said is None:
            # One more than there is room for, to tell an answer that was cut from one that ended.
            said = _words(seed, index, min(self._tokens, self._room + 1))
        return [Piece("content", word) for word in said]

    def _said(self) -> list[str] | None:
        if self._scenario.say is not None:
            return _PIECE.findall(self._scenario.say)
        schema = self._schema()
        if schema is None:
            return None
        made = example(schema)
        if "json_schema" in self._body:  # no client can send that one: it is a call
            made = self._scripted(made)
        return _chunks(orjson.dumps(made).decode())

    def _schema(self) -> Json | None:
        """What the whole answer has to fit."""
        native = self._body.get("json_schema")
        if isinstance(native, dict):
            return native
        asked = self._body.get("response_format")
        if not isinstance(asked, dict) or asked.get("type") not in ("json_object", "json_schema"):
            return None
        return (asked.get("json_schema") or asked).get("schema") or {"properties": {}}

    def _scripted(self, made: Any) -> Any:
        """Calls that are to be written as text, as many and with what the script says."""
        if isinstance(made, list):
            return [self._scripted(made[0])] * max(1, self._scenario.tool_calls)
        arguments = self._scenario.tool_args
        if arguments is None or not isinstance(made, dict) or "arguments" not in made:
            return made
        return {**made, "arguments": orjson.Fragment(arguments)}

    def _tools(self) -> list[Json]:
        """The functions to call: as many as the script says, or the one that must be called.

        A script's calls are made once: when their results are there, the answer follows.
        """
        functions = [each.get("function") or {} for each in self._body.get("tools") or ()]
        choice = self._body.get("tool_choice")
        if isinstance(choice, dict):
            name = (choice.get("function") or {}).get("name")
            return [each for each in functions if each.get("name") == name][:1]
        scripted = 0 if self._has_results() else self._scenario.tool_calls
        count = scripted or (1 if choice == "required" else 0)
        if choice == "none" or not functions:
            return []
        return [functions[place % len(functions)] for place in range(count)]

    def _has_results(self) -> bool:
        messages = self._body["messages"]
        return bool(messages) and messages[-1].get("role") == "tool"

    def _call(self, function: Json, seed: str, index: int, place: int) -> Json:
        arguments = self._scenario.tool_args
        if arguments is None:
            arguments = orjson.dumps(example(function.get("parameters")) or {}).decode()
        call_id = hashlib.sha256(f"{seed}/{index}/{place}".encode()).hexdigest()[:32]
        return {
            "type": "function",
            "function": {"name": function.get("name"), "arguments": arguments},
            "id": call_id,
        }


def _call_pieces(call: Json, place: int) -> list[Piece]:
    """The name comes with the first piece of the arguments, then only arguments come."""
    name, parts = call["function"]["name"], _chunks(call["function"]["arguments"]) or [""]
    head = {
        "index": place,
        "id": call["id"],
        "type": "function",
        "function": {"name": name, "arguments": parts[0]},
    }
    rest = [{"index": place, "function": {"arguments": part}} for part in parts[1:]]
    return [Piece("tool", delta=delta) for delta in (head, *rest)]


def _chunks(text: str) -> list[str]:
    return [text[at : at + _JSON_PIECE_CHARS] for at in range(0, len(text), _JSON_PIECE_CHARS)]


def _words(seed: str, index: int, count: int) -> list[str]:
    start = int(seed[:8], 16) + 11 * index
    return [_WORDS[(start + 7 * step) % len(_WORDS)] for step in range(count)]


def _cut_at_stop(pieces: list[Piece], stop: object) -> tuple[list[Piece], bool]:
    stops = [stop] if isinstance(stop, str) else [each for each in stop or () if each]  # type: ignore[attr-defined]
    if not stops:
        return pieces, False
    text = ""
    for place, piece in enumerate(pieces):
        text += piece.text
        found = min((at for each in stops if (at := text.find(each)) >= 0), default=-1)
        if found >= 0:
            kept = piece.text[: max(0, len(piece.text) - (len(text) - found))]
            return [*pieces[:place], *([Piece(piece.kind, kept)] if kept else [])], True
    return pieces, False


# --- reading ----------------------------------------------------------------------------------


def max_tokens(body: Json) -> int:
    """The limit of a body; the first of the three names that is set wins, -1 is none."""
    for name in ("n_predict", "max_completion_tokens", "max_tokens"):
        value = body.get(name)
        if isinstance(value, int) and value != -1:
            return value
    return _OPEN_END


def last_user_text(messages: object) -> str:
    """The text of the last user message, its parts joined."""
    if not isinstance(messages, list):
        raise Refused(error(400, "Expected 'messages' to be an array"))
    for message in reversed(messages):
        if isinstance(message, dict) and message.get("role") == "user":
            return _text(message.get("content"))
    return ""


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict))


def _prompts(prompt: Any) -> list[str]:
    if isinstance(prompt, str):
        return [prompt]
    if _is_many(prompt):
        return [each if isinstance(each, str) else "" for each in prompt]
    return [""]


def _is_many(prompt: Any) -> bool:
    """A list of prompts, as opposed to one given as a list of token numbers."""
    return isinstance(prompt, list) and bool(prompt) and isinstance(prompt[0], (str, list))


def count_chat(body: Json) -> int:
    """Tokens of a chat prompt: its words, and some for each message."""
    messages = body.get("messages")
    messages = messages if isinstance(messages, list) else []
    known = [each for each in messages if isinstance(each, dict)]
    words = sum(len(_text(each.get("content")).split()) for each in known)
    tools = len(orjson.dumps(body["tools"])) // 4 if body.get("tools") else 0
    return _TOKENS_PER_PROMPT + _TOKENS_PER_MESSAGE * len(known) + words + tools


def count_text(prompt: Any) -> int:
    """Tokens of a prompt: its words; of a list, those of the first."""
    if isinstance(prompt, str):
        return max(1, len(prompt.split()))
    if _is_many(prompt):
        return count_text(prompt[0])
    return max(1, len(prompt)) if isinstance(prompt, list) else 1


def text_tokens(content: Any) -> list[int]:
    """As many made-up tokens as `count_text` counts; of a list, the numbers as they are and the
    tokens of its texts, all in one.
    """
    if isinstance(content, list):
        return [token for each in content for token in text_tokens(each)]
    if isinstance(content, int):
        return [content]
    return list(range(count_text(content))) if content else []


def _choice_count(body: Json, options: MockOptions) -> int:
    asked = body.get("n")
    count = asked if isinstance(asked, int) else 1
    if not 1 <= count <= options.parallel:
        limits = f"between 1 <= value <= {options.parallel}, but got {count}"
        raise Refused(error(400, f"Field 'n': Value must be {limits}"))
    return count


def _scenario(text: str) -> Scenario:
    try:
        return parse_scenario(text)
    except BadScenario as exc:
        raise Refused(error(400, str(exc))) from exc


def digest(value: object) -> str:
    """A name for *value*, 64 hexadecimal digits."""
    return hashlib.sha256(orjson.dumps(value)).hexdigest()
