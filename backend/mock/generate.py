"""The mock at work on one generation: pace, faults, and the bytes as the real server sends them."""

import asyncio
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import orjson

from backend.mock import wire
from backend.mock.answer import Answer, Piece
from backend.mock.http import Connection
from backend.mock.options import MockOptions
from backend.mock.scenario import Scenario
from backend.mock.stats import Stats
from backend.mock.wire import ChatWire, Json, TextWire

_MID_STREAM_ERROR = "Context size has been exceeded."


class Generation:
    """One request from its slot to its last byte."""

    def __init__(
        self,
        connection: Connection,
        answer: Answer,
        options: MockOptions,
        stats: Stats,
        *,
        chat: bool,
    ) -> None:
        self._connection = connection
        self._answer = answer
        self._options = options
        self._stats = stats
        self._chat = chat
        self._wire = (ChatWire if chat else TextWire)(answer.reply_id, answer.model)
        self._scenario = first_time(answer.scenario, options)
        self._sent = 0
        script = self._scenario
        self._delay_s = _pick(script.delay_ms, options.token_delay_ms) / 1000
        self._prefill_s = _pick(script.prefill_ms, options.prefill_ms) / 1000
        cut = script.cut_after if script.cut_after is not None else options.cut_after_bytes
        connection.cut_after, connection.split = cut, script.split

    async def before_slot(self) -> bool:
        """Do what happens before any byte. True: the reply has been sent already."""
        script = self._scenario
        if script.hang_head:
            await asyncio.Event().wait()
        if script.crash_head:
            await die(script, self._options)
        if script.error is None:
            return False
        if script.error == "context":
            payload = wire.context_error(self._answer.counts.prompt, self._options.slot_context)
        else:
            payload = wire.error(int(script.error), f"mock error {script.error}")
        self._refuse(payload)
        return True

    @property
    def linger_s(self) -> float:
        """Seconds that its slots stay busy after the client has left."""
        return self._scenario.linger_ms / 1000

    @property
    def prompt_tokens(self) -> int:
        """What its prompt counts."""
        return self._answer.counts.prompt

    async def run(self) -> None:
        """Answer in full."""
        await (self._stream() if self._answer.stream else self._whole())

    # --- streamed

    async def _stream(self) -> None:
        connection, answer = self._connection, self._answer
        connection.start_stream()
        await self._prefill()
        if self._scenario.ping:
            connection.chunk(b":\n\n")
        await self._faults()
        for index, place, piece in _in_turn(answer.choices):
            await self._pace()
            data = self._event(index, piece)
            connection.chunk(self._wire.role(index) + data if place == 0 else data)
            await self._count()
            if self._scenario.error_after == self._sent:
                connection.chunk(wire.event({"error": wire.error(500, _MID_STREAM_ERROR)}))
                connection.end_stream()
                return
            if place + 1 == len(answer.choices[index]):
                connection.chunk(self._final(index))
        if not answer.choices[0]:
            connection.chunk(self._wire.role(0) + self._final(0))
        connection.chunk(wire.DONE)
        connection.end_stream()

    def _final(self, index: int) -> bytes:
        answer = self._answer
        return self._wire.final(
            index, answer.finish_reason, answer.counts, with_usage=answer.with_usage
        )

    async def _prefill(self) -> None:
        answer, steps = self._answer, max(1, self._scenario.prefill_steps)
        total, cached = answer.counts.prompt, answer.counts.cached
        if answer.with_progress:
            self._progress(cached, 0)
        for step in range(1, steps + 1):
            if self._prefill_s:
                await asyncio.sleep(self._prefill_s / steps)
            if answer.with_progress:
                done = cached + (total - cached) * step // steps
                self._progress(done, int(1000 * self._prefill_s * step / steps))

    def _progress(self, processed: int, time_ms: int) -> None:
        counts = self._answer.counts
        progress = {
            "total": counts.prompt,
            "cache": counts.cached,
            "processed": processed,
            "time_ms": time_ms,
        }
        for index in range(len(self._answer.choices)):
            self._connection.chunk(self._wire.progress(index, progress))

    def _event(self, index: int, piece: Piece) -> bytes:
        top = self._answer.top_logprobs
        if piece.kind == "content" or isinstance(self._wire, TextWire):
            probs = None if top is None else wire.logprobs(piece.text, top)
            return self._wire.token(index, piece.text, probs)
        if piece.kind == "reasoning":
            return self._wire.delta(index, {"reasoning_content": piece.text})
        return self._wire.delta(index, {"tool_calls": [piece.delta]})

    # --- whole

    async def _whole(self) -> None:
        await asyncio.sleep(self._prefill_s)
        await self._faults()
        for _ in _in_turn(self._answer.choices):
            await self._pace()
            await self._count()
            if self._scenario.error_after == self._sent:
                self._refuse(wire.error(500, _MID_STREAM_ERROR))
                return
        choices = [self._choice(index) for index in range(len(self._answer.choices))]
        body = self._wire.whole(choices, self._answer.counts)
        self._connection.reply(200, orjson.dumps(body))

    def _choice(self, index: int) -> Json:
        answer = self._answer
        pieces = answer.choices[index]
        probs = self._whole_logprobs(pieces)
        text = "".join(piece.text for piece in pieces if piece.kind == "content")
        if not self._chat:
            return {
                "text": text,
                "index": index,
                "logprobs": probs,
                "finish_reason": answer.finish_reason,
            }
        message: Json = {"role": "assistant", "content": text}
        reasoning = "".join(piece.text for piece in pieces if piece.kind == "reasoning")
        if reasoning:
            message["reasoning_content"] = reasoning
        calls = _tool_calls(pieces)
        if calls:
            message["tool_calls"] = calls
        choice: Json = {
            "finish_reason": answer.finish_reason,
            "index": index,
            "message": message,
        }
        return choice if probs is None else {**choice, "logprobs": probs}

    def _whole_logprobs(self, pieces: tuple[Piece, ...]) -> Json | None:
        top = self._answer.top_logprobs
        if top is None:
            return None
        each = (wire.logprobs(piece.text, top)["content"] for piece in pieces)
        return {"content": [entry for entries in each for entry in entries]}

    # --- pace and faults

    async def _pace(self) -> None:
        # A pause of zero still lets the loop send, and notice that the client has left.
        await asyncio.sleep(self._delay_s)

    async def _count(self) -> None:
        self._sent += 1
        self._stats.tokens += 1
        await self._faults()

    async def _faults(self) -> None:
        script, options = self._scenario, self._options
        if script.crash_after == self._sent or self._stats.tokens == options.crash_after_events:
            await die(script, options)
        hang_at = options.hang_after_events
        hangs = hang_at is not None and self._stats.tokens >= hang_at
        if script.hang_after == self._sent or hangs:
            self._stats.changed()
            await asyncio.Event().wait()

    def _refuse(self, payload: Json) -> None:
        self._connection.reply(payload["code"], orjson.dumps({"error": payload}))


def _tool_calls(pieces: tuple[Piece, ...]) -> list[Json]:
    """The calls as a whole reply has them, as far as the limit on tokens let them come."""
    calls: list[Json] = []
    for delta in (piece.delta for piece in pieces if piece.delta is not None):
        function = delta["function"]
        if "id" in delta:
            calls.append({"type": "function", "function": dict(function), "id": delta["id"]})
        else:
            calls[delta["index"]]["function"]["arguments"] += function["arguments"]
    return calls


def _in_turn(choices: tuple[tuple[Piece, ...], ...]) -> Iterator[tuple[int, int, Piece]]:
    """All pieces, one of each choice in turn: (choice, place, piece)."""
    longest = max(len(pieces) for pieces in choices)
    for place in range(longest):
        for index, pieces in enumerate(choices):
            if place < len(pieces):
                yield index, place, pieces[place]


def _pick(asked: float | None, default: float) -> float:
    return default if asked is None else asked


def first_time(scenario: Scenario, options: MockOptions) -> Scenario:
    """Drop the faults of a scenario whose `once` name was seen before, in this process or one
    that died of it: the memory is an empty file beside the socket.
    """
    if scenario.once is None:
        return scenario
    if options.host.endswith(".sock"):
        memory = Path(f"{options.host}.{scenario.once}")
    else:
        memory = Path(tempfile.gettempdir()) / f"mock-{options.port}.{scenario.once}"
    try:
        memory.touch(exist_ok=False)
    except FileExistsError:
        return scenario.without_faults()
    return scenario


async def die(scenario: Scenario, options: MockOptions) -> None:
    """End this process the way the request or the flags say, after what was sent has left."""
    for _ in range(2):
        await asyncio.sleep(0)
    how = scenario.crash
    if how is None:
        how = options.crash_signal if options.exit_code is None else str(options.exit_code)
    if how.isdecimal():
        os._exit(int(how))
    signum = signal.Signals[f"SIG{how.upper().removeprefix('SIG')}"]
    if signum not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)
    await asyncio.Event().wait()
