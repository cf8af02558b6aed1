"""What every dialect of the API is made of: values in, one engine call out.

A dialect turns the parsed body of one public route into the one request the engine gets. It
knows no HTTP, no keys and no clock; whatever it needs to know about the model it is handed as
`ModelFacts`, whatever the operator chose as `FieldPolicy`.

Rule: the body of an `EngineCall` is rebuilt from an allow-list. Nothing a client wrote reaches the
engine unless a table row or a rebuild function let it through.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from gateway.dialects.places import Places
from gateway.errors import ApiError, sse_error_frame
from gateway.request.fields.table import Table

__all__ = [
    "Assembler",
    "Dialect",
    "EngineCall",
    "ErrorBody",
    "FieldPolicy",
    "ModelFacts",
    "ReplyHead",
    "Translator",
    "openai_body",
]


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What is known of the loaded model; `None` where the engine has not told (yet)."""

    names: frozenset[str]
    """Every name a client may use for the model, the alias included."""
    alias: str
    """The public name: what the engine is told and what replies carry."""
    slots: int
    """Requests the engine decodes at once; at least 1."""
    context_tokens: int
    """Tokens one slot holds, prompt and answer together; at least 1."""
    vocab_size: int | None = None
    embedding_size: int | None = None
    vision: bool = False
    audio: bool = False
    generates: bool = True
    """Whether the engine was started to write text."""
    embeddings: bool = False
    """Whether the engine was started for `/v1/embeddings`."""
    rerank: bool = False
    """Whether the engine was started for `/v1/rerank`."""


@dataclass(frozen=True, slots=True)
class FieldPolicy:
    """What the operator decided about request fields."""

    unknown: Literal["drop", "reject"] = "drop"
    """Fields no table knows: dropped and named, or refused with 400."""
    allow: frozenset[str] = frozenset()
    """Names of top-level fields to let through that the tables would drop or refuse."""
    cache_prompt: bool = True
    """False: the engine is told not to reuse what an earlier prompt left in its cache."""
    max_tokens_cap: int | None = None
    """Upper bound for the tokens of one answer; `None` leaves the slot's context as the bound."""
    max_choices: int = 4
    """Upper bound for `n`; the number of slots is one too."""


@dataclass(slots=True)
class EngineCall:
    """One request to the engine, ready to send, and how its answer is to be read.

    Not frozen, which would triple what making one costs. Once its dialect has built it, nobody
    changes it: what is to be sent instead is a copy.
    """

    path: str
    """Path on the engine."""
    body: bytes
    """JSON, rebuilt from the allow-list."""
    generates: bool
    """The engine answers with an event stream; otherwise with one JSON body."""
    stream: bool
    """The client asked for events."""
    include_usage: bool
    """The client asked for the usage event (only with `stream`)."""
    model: str
    """The public model name, for logs and metrics."""
    choices: int = 1
    """Independent answers in the reply: `n` times the number of prompts."""
    prompts: int = 1
    """Prompts they answer."""
    tasks: int = 1
    """Pieces of work this makes in the engine (answers, inputs or documents); each wants a slot.
    0: it takes none."""
    max_tokens: int | None = None
    """Most tokens one choice may have; `None` where nothing is generated."""
    open_ended: bool = False
    """The client set no token limit: `max_tokens` is the most there could be, not a wish."""
    ignored: tuple[str, ...] = ()
    """Names for `x-ignored-params`: printable ASCII without comma, bounded in count and length."""
    forced_calls: bool = False
    """The engine writes its tool calls as plain JSON, see `gateway.request.forced_calls`."""
    echo: bytes = b""
    """JSON of what the dialect's reply repeats of the request; only the dialect reads it."""


@dataclass(slots=True)
class ReplyHead:
    """What makes one reply different from all others."""

    request_id: str
    """As in the reply's headers."""
    reply_id: str
    """Unique; the part of the ids in a reply that comes behind their prefix."""
    created: int
    """Unix seconds."""


class Assembler(Protocol):
    """Makes the JSON reply of a client that did not ask for a stream."""

    def feed(self, events: bytes) -> None:
        """Take events of the engine, cut anywhere; raises ValueError if they make no sense."""

    def result(self) -> bytes:
        """The JSON body; raises ValueError when the events so far do not make one."""


class Translator(Protocol):
    """Turns the engine's events into those of another dialect."""

    def feed(self, events: bytes, prompt_tokens: int | None = None) -> bytes:
        """
        The events that *events*, cut anywhere, make in this dialect; there may be none.

        Args:
            events: Of the engine.
            prompt_tokens: Size of the prompt, if it is known by now.

        Raises:
            ValueError: The engine's events make no sense.
        """

    def fail(self, error: ApiError) -> bytes:
        """What ends the stream after *error*; nothing is fed any more."""


Build = Callable[[dict[str, Any], ModelFacts, FieldPolicy], EngineCall]


ErrorBody = Callable[[ApiError, ReplyHead], bytes]


def openai_body(error: ApiError, head: ReplyHead) -> bytes:
    """The body of a reply with an error status, as OpenAI's SDKs read it."""
    return error.body()


def openai_frame(error: ApiError, head: ReplyHead) -> bytes:
    """The event that ends a begun stream, as OpenAI's SDKs read it on chat and completions."""
    return sse_error_frame(error)


_SAME_NAMES = Places()


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one public route is spoken."""

    name: str
    """Closed set of words for metrics and logs."""
    path: str
    """The public path."""
    table: Table
    """The fields of its request."""
    build: Build
    """Raises `ApiError` with a 4xx code and the exact `param`; nothing else."""
    assembler: Callable[[EngineCall, ReplyHead], Assembler] | None = None
    """`None` where the engine's reply is passed on as it is."""
    translator: Callable[[EngineCall, ReplyHead], Translator] | None = None
    """`None` where the bytes of the engine's events are passed on as they are."""
    error_body: ErrorBody = openai_body
    """The body of a reply with an error status."""
    error_frame: Callable[[ApiError, ReplyHead], bytes] = openai_frame
    """What ends a stream of which nothing but comments went out; without a translator, any."""
    places: Places = _SAME_NAMES
    """What chat's fields are called here, for what is wrong with them."""
    counts: bool = False
    """It only has tokens counted: no slot, no queue, no tokens spent."""
    doc: str = ""
    """For docs/api.md, in Markdown: what a user of the route should know besides its fields."""

    def __repr__(self) -> str:
        return f"<Dialect {self.name} {self.path}>"
