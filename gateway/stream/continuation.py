"""PURE. A chat stream that lost its engine goes on with the next one, if the client wants that.

Measured with llama-server (the build of `make setup`), and why the engine is asked as it is:

- a last message of the assistant is continued when the body has ``continue_final_message: true``
  and ``add_generation_prompt: false``; with the first alone it is refused (400). Without both it is
  continued too (the engine's ``--prefill-assistant``, on by default), but then the engine repeats
  the text in an event that has ``prompt_progress`` beside it. Such text is dropped here, for
  engines that know the fields less well;
- the text goes behind the generation prompt as it is, past the template: white space at its ends
  survives templates that trim messages. A template of a thinking model closes its thoughts first
  (``<think></think>``), so text that came with thoughts is never continued;
- without a text to continue, the engine leaves the generation prompt out: then the same body is
  sent again;
- progress events, then the role event, come as for any request. `usage` counts the text that was
  handed over as prompt, and only what is new as completion;
- the text is cut into tokens anew. Where the last token of the first part was the beginning of a
  longer one, the model sees another sequence than it wrote, and may go on differently. The
  generator of random numbers starts anew, so only answers at temperature 0 can be the same. Even
  there the engine rounds otherwise over a prompt in batches than token by token: of 20 cuts with
  the demo model 13 gave the same text, the others parted where two tokens were close;
- what the engine had held back, as the possible beginning of a stop string or of a character, was
  never sent. It is not in the text and is made again;
- images work: the prefill comes behind them.

The bytes of the first part are passed on unchanged. Those of the second are written anew: they get
the first part's `id` and `created`, and the event with the finish_reason is marked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from io import StringIO
from typing import Any

import orjson

from gateway.dialects.base import EngineCall
from gateway.stream.events import DONE, MARK, EventSplitter
from gateway.stream.sse import EVENT_LIMIT_BYTES, EventStream, Outcome

__all__ = ["MARK", "TEXT_LIMIT_CHARS", "Continuation", "continuable"]

TEXT_LIMIT_CHARS = 1 << 20
"""An answer that has grown longer is not continued any more."""

_PATH = "/v1/chat/completions"
_NEVER = frozenset(
    {
        "add_generation_prompt",
        "continue_final_message",
        "grammar",
        "json_schema",
        "logprobs",
        "reasoning_format",
        "response_format",
        "tools",
    }
)
"""Fields of the engine's body beside which an answer is not continued: what was written so far
would be parsed, constrained or reported otherwise than in one go."""
_HEAD = ("id", "created", "model", "system_fingerprint")
_DONE = b"data: [DONE]\n\n"

Out = Callable[[bytes], None]


def continuable(plan: EngineCall) -> bool:
    """
    Whether a stream of this call may be continued by another engine.

    Parses the body, which may take milliseconds: ask only for calls that want it.
    """
    if plan.path != _PATH or not plan.stream or plan.choices != 1 or not plan.max_tokens:
        return False
    body = orjson.loads(plan.body)
    messages = body.get("messages")
    # An answer that the client itself began is repeated by the engine; its text has two authors.
    begun = not messages or messages[-1].get("role") == "assistant"
    return not begun and _NEVER.isdisjoint(body)


class Continuation:
    """
    Stands between the events of a chat stream and the client, over the death of one engine.

    Args:
        plan: The call as it was built; `continuable`.
    """

    def __init__(self, plan: EngineCall) -> None:
        assert plan.max_tokens is not None
        self._plan = plan
        self._max_tokens = plan.max_tokens
        self._text: StringIO = StringIO()
        self._events = EventSplitter(EVENT_LIMIT_BYTES)
        self._head: dict[str, Any] = {}
        self._tokens = 0
        self._first: EventStream | None = None
        self._finished = False
        self._told_usage = False
        self._ruled_out = False
        self.resumed = False
        """The second engine has the answer; there is no third."""

    def __repr__(self) -> str:
        state = "resumed" if self.resumed else "possible" if self.possible else "ruled out"
        return f"<Continuation {state}, {self._tokens} tokens>"

    @property
    def possible(self) -> bool:
        """Whether the stream, if it broke off now, could be brought to its end."""
        return not (self._ruled_out or self.resumed) and self._events.between

    @property
    def tokens(self) -> int:
        """Events with text that the first engine sent; a token each, or several."""
        return self._tokens

    def through(self, out: Out, events: EventStream) -> Out:
        """
        Where an engine's events are to go, the first's and then the second's.

        Args:
            out: The client.
            events: What watches this engine's stream; knows the size of the prompt.
        """
        if self.resumed:
            return self._rewriter(out)
        self._first = events
        return self._recorder(out)

    def ending(self) -> bytes | None:
        """The events that are missing, where no text is missing any more; else None."""
        if not self._finished and self._tokens < self._max_tokens:
            return None
        events = []
        if not self._finished:
            choice = {"finish_reason": "length", "index": 0, "delta": {}}
            events.append(self._event([choice], {MARK: self._mark()}))
        if self._plan.include_usage and not self._told_usage:
            usage = _usage(self._prompt_of(self._tokens), self._tokens, 0)
            events.append(self._event([], {"usage": usage, MARK: self._mark()}))
        return b"".join(events) + _DONE

    def resume(self) -> EngineCall:
        """
        The call for the second engine; from now on `through` rewrites.

        Only while `possible`, and when there is no `ending`. A stream of which nothing was passed
        on gets the same call again and stays as it is: it can be resumed later.
        """
        assert self.possible, "asked to continue what cannot be continued"
        if not self._head:
            return self._plan
        self.resumed = True
        left = max(1, self._max_tokens - self._tokens)
        body = self._body(left)
        self._text = StringIO()
        return replace(self._plan, body=body, max_tokens=left)

    def joined(self, outcome: Outcome) -> Outcome:
        """What both engines did, as if it had been one.

        Args:
            outcome: Of the second engine's stream.
        """
        if not self.resumed or outcome.prompt_tokens is None:
            return outcome
        prompt = self._prompt_of(outcome.prompt_tokens)
        cached = outcome.cached_tokens
        return replace(
            outcome,
            prompt_tokens=prompt,
            cached_tokens=None if cached is None else min(cached, prompt),
            completion_tokens=self._tokens + (outcome.completion_tokens or 0),
        )

    # -- the first engine

    def _recorder(self, out: Out) -> Out:
        def record(events: bytes) -> None:
            out(events)
            if self._ruled_out:
                return
            try:
                for event in self._split(events):
                    self._note(event)
            except ValueError:  # passed on all the same: nobody has to understand it
                self._rule_out()

        return record

    def _note(self, event: dict[str, Any]) -> None:
        self._told_usage = self._told_usage or "usage" in event
        choices = event.get("choices")
        if not choices:
            return
        if not self._head:
            self._head = {name: event[name] for name in _HEAD if name in event}
        choice = choices[0]
        delta = choice.get("delta") or {}
        if len(choices) > 1 or choice.get("index") or not delta.keys() <= {"role", "content"}:
            self._rule_out()
            return
        self._finished = self._finished or choice.get("finish_reason") is not None
        if text := delta.get("content"):
            self._tokens += 1
            self._text.write(text)
            if self._text.tell() > TEXT_LIMIT_CHARS:
                self._rule_out()

    def _rule_out(self) -> None:
        self._ruled_out = True
        self._text = StringIO()

    def _body(self, left: int) -> bytes:
        body = orjson.loads(self._plan.body)
        body["max_tokens"] = left
        text = self._text.getvalue()
        if text:
            body["messages"].append({"role": "assistant", "content": text})
            body["continue_final_message"] = True
            body["add_generation_prompt"] = False
        return orjson.dumps(body)

    # -- the second engine

    def _rewriter(self, out: Out) -> Out:
        def rewrite(events: bytes) -> None:
            written = b"".join(map(self._rewritten, self._split(events, with_done=True)))
            if written:
                out(written)

        return rewrite

    def _rewritten(self, event: dict[str, Any]) -> bytes:
        if not event:
            return _DONE
        event.update(self._head)
        choices = event.get("choices") or []
        if choices and not _adds(choices[0], repeats="prompt_progress" in event):
            return b""
        event.pop("prompt_progress", None)
        if usage := event.get("usage"):
            event["usage"] = self._corrected(usage)
        if not choices or choices[0].get("finish_reason") is not None:
            event[MARK] = self._mark()
        return _frame(event)

    def _corrected(self, usage: dict[str, Any]) -> dict[str, Any]:
        details = usage.get("prompt_tokens_details") or {}
        prompt = self._prompt_of(usage.get("prompt_tokens", 0))
        completion = self._tokens + usage.get("completion_tokens", 0)
        return _usage(prompt, completion, details.get("cached_tokens", 0))

    def _prompt_of(self, told: int) -> int:
        """Tokens of the prompt alone, where the second engine told *told*."""
        known = self._first.prompt_tokens if self._first is not None else None
        return max(0, told - self._tokens) if known is None else known

    # -- both

    def _mark(self) -> dict[str, Any]:
        return {"reason": "engine_restarted", "after_tokens": self._tokens}

    def _event(self, choices: list[dict[str, Any]], more: dict[str, Any]) -> bytes:
        return _frame({"choices": choices, **self._head, "object": "chat.completion.chunk", **more})

    def _split(self, events: bytes, *, with_done: bool = False) -> Iterator[dict[str, Any]]:
        """
        The events in what has come, which may end anywhere; ``[DONE]`` is an empty one.

        Raises:
            ValueError: An event is no JSON object, or far too large.
        """
        for payload in self._events.feed(events):
            if payload == DONE:
                if with_done:
                    yield {}
                continue
            event = orjson.loads(payload)
            if not isinstance(event, dict):
                raise ValueError("an event is no object")
            yield event


def _adds(choice: dict[str, Any], *, repeats: bool) -> bool:
    """Take out of a choice what the client has already; return whether something is left."""
    delta = choice.get("delta") or {}
    delta.pop("role", None)
    if repeats or delta.get("content") is None:
        delta.pop("content", None)
    choice["delta"] = delta
    return bool(delta) or choice.get("finish_reason") is not None


def _usage(prompt: int, completion: int, cached: int) -> dict[str, Any]:
    return {
        "completion_tokens": completion,
        "prompt_tokens": prompt,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": min(cached, prompt)},
    }


def _frame(event: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(event) + b"\n\n"
