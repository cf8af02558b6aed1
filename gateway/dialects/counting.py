"""How many tokens does a prompt have? Asked by clients, and by the gateway before it queues a call.

POST /v1/chat/completions/input_tokens takes the same body as chat, checks it the same way, and uses
no slot of the engine. `count_call` makes the like for a call that is already planned: one request
to the engine for all of its prompts, answered in about a millisecond without a slot. It is for
the rare call of which a bound does not tell enough, and works from the planned body, so that the
common path pays nothing for it.

How one request counts many texts (read in llama-server's `tokenize_mixed`, and tested): a list of
texts and numbers is tokenized text by text and joined, numbers pass as they are, and only a text
in the first place gets the model's begin and end tokens. So the first text is empty, which shows
how many those are, and a number that is no token's parts the texts.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.dialects.base import Dialect, EngineCall, FieldPolicy, ModelFacts
from gateway.dialects.chat import CHAT, prompt_fields
from gateway.dialects.common import plain_call
from gateway.request.fields import sift

__all__ = ["CHAT_COUNT_DIALECT", "CountCall", "Counted", "build", "count_call"]

_PATH = "/v1/chat/completions/input_tokens"
_TOKENIZE = "/tokenize"
_CHAT = "/v1/chat/completions"
_COMPLETIONS = "/v1/completions"
_EMBEDDINGS = "/v1/embeddings"
_RERANK = "/v1/rerank"
_NO_TOKEN = -1
_TOKENS = re.compile(rb'\{"tokens":\[((?:-?[0-9]+(?:,-?[0-9]+)*)?)\]\}')


def build(body: dict[str, Any], facts: ModelFacts, policy: FieldPolicy) -> EngineCall:
    """
    Make the engine's counting request for a chat body.

    Raises:
        ApiError: 400 or 404, with the exact field.
    """
    sifted = sift(body, CHAT, facts, policy)
    out = prompt_fields(sifted, facts, policy)
    return plain_call(_PATH, out, 0, sifted)


_DOC = """\
Tokens of a chat request's prompt, template and tools included. The reply tells `input_tokens`. It
takes no slot and waits in no queue, and counts as a request but spends no tokens.
"""

CHAT_COUNT_DIALECT = Dialect("chat_count", _PATH, CHAT, build, counts=True, doc=_DOC)


@dataclass(frozen=True, slots=True)
class Counted:
    """The engine need not be asked."""

    tokens: tuple[int, ...]
    """Tokens of each prompt, in order; none where no prompt is worked on."""


@dataclass(frozen=True, slots=True)
class CountCall:
    """One POST to the engine that tells the tokens of every prompt of a planned call."""

    path: str
    body: bytes
    exact: bool
    """False: the prompts have at least so many; the model's own template adds some to each."""
    read: Callable[[bytes], tuple[int, ...]]
    """From the body of a 200 to the tokens of each prompt, in order; raises ValueError if it is not
    what was asked for."""

    def __repr__(self) -> str:
        return f"<CountCall {self.path} {len(self.body)} bytes>"


def count_call(call: EngineCall) -> CountCall | Counted:
    """
    How to ask the engine for the number of prompt tokens of *call*.

    Exact means equal to what the engine will report as `usage.prompt_tokens` (of all prompts
    together, where there are several). Several answers to one prompt count it once.
    """
    if call.path == _CHAT:
        # The engine reads both bodies with the same code, so it gets the very same one.
        return CountCall(_PATH, call.body, True, _read_chat)
    if call.path == _PATH:
        return Counted(())
    return _count_of[call.path](orjson.loads(call.body))


def _completions(body: dict[str, Any]) -> CountCall | Counted:
    return _prompts(body["prompt"])


def _embeddings(body: dict[str, Any]) -> CountCall | Counted:
    return _prompts(body["input"])


def _rerank(body: dict[str, Any]) -> CountCall:
    asked = _tokenize([body["query"], *body["documents"]])

    def read(answer: bytes) -> tuple[int, ...]:
        _, query, *documents = _read_texts(answer, 1 + len(body["documents"]))
        return tuple(query + document for document in documents)

    return CountCall(_TOKENIZE, asked, False, read)


_count_of: dict[str, Callable[[dict[str, Any]], CountCall | Counted]] = {
    _COMPLETIONS: _completions,
    _EMBEDDINGS: _embeddings,
    _RERANK: _rerank,
}


def _prompts(value: Any) -> CountCall | Counted:
    """For a text, a list of tokens, or a list of either."""
    one = isinstance(value, str) or isinstance(value[0], int)
    prompts = [value] if one else value
    texts = [each for each in prompts if isinstance(each, str)]
    if not texts:
        return Counted(tuple(map(len, prompts)))

    def read(answer: bytes) -> tuple[int, ...]:
        added, *counts = _read_texts(answer, len(texts))
        text = iter(counts)
        return tuple(next(text) + added if isinstance(each, str) else len(each) for each in prompts)

    return CountCall(_TOKENIZE, _tokenize(texts), True, read)


def _tokenize(texts: list[str]) -> bytes:
    content: list[str | int] = [""]
    for text in texts:
        content += (_NO_TOKEN, text)
    return orjson.dumps({"content": content, "add_special": True, "parse_special": True})


def _read_texts(answer: bytes, count: int) -> list[int]:
    """Tokens of the empty text (those the model adds) and of each of *count* texts."""
    found = _TOKENS.fullmatch(answer.strip())
    if found is None:
        raise ValueError("the engine's answer holds no list of tokens")
    # Megabytes of numbers are not made into a list: each gets two commas, which are counted.
    numbers = found[1] and b"," + found[1].replace(b",", b",,") + b","
    texts = numbers.split(b",%d," % _NO_TOKEN)
    if len(texts) != count + 1:
        raise ValueError("the engine's answer is not to the texts that were asked for")
    return [text.count(b",") // 2 for text in texts]


def _read_chat(answer: bytes) -> tuple[int, ...]:
    tokens = _field(answer, "input_tokens")
    if not isinstance(tokens, int) or isinstance(tokens, bool) or tokens < 0:
        raise ValueError("the engine's answer holds no number of tokens")
    return (tokens,)


def _field(answer: bytes, name: str) -> Any:
    # orjson's own error is a ValueError too.
    value = orjson.loads(answer)
    return value.get(name) if isinstance(value, dict) else None
