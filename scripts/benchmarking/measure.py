"""Warm-up, then rounds of requests side by side, all bounded in time.

- Closed loop: a level of N streams has N requests under way until it has none left to begin.
- With two endpoints each level has several rounds, and they take turns in going first, so that a
  machine that gets slower in between does so for both.
- What was measured is in the `Book` at each moment, so whoever ends a run early has it.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import aiohttp
import orjson

from .ask import Asker, open_session, said
from .figures import EndpointFigures, LevelFigures, level_figures
from .plan import Endpoint, Form, Plan, prompt_text
from .samples import Failure, Refusals, Round, Sample
from .trouble import connection_words, key_words

__all__ = ["Book", "CannotMeasure", "Watcher", "measure"]

_WARM_UP_TOKENS = 16


class CannotMeasure(Exception):  # noqa: N818 - what it means
    """An endpoint that does not answer even one request, in words for the user."""


class Watcher:
    """Is told what happens, and does nothing about it. Endpoints are numbers from 0."""

    def ended(self, which: int, streams: int) -> None:
        """A request of a level ended, well or not."""

    def refused(self, which: int, refusal: Failure, wait_s: float) -> None:
        """A request was told to come back, and will; the one before the first level too."""

    def finished(self, which: int, level: LevelFigures) -> None:
        """All rounds of a level are done."""


@dataclass(slots=True)
class Book:
    """What was measured so far, for each endpoint."""

    endpoints: Sequence[Endpoint]
    forms: dict[int, Form] = field(default_factory=dict)
    rounds: dict[tuple[int, int], list[Round]] = field(default_factory=dict)
    """(endpoint, streams) -> its rounds."""

    def open(self, which: int, streams: int) -> Round:
        """A new round; noted from its first request on."""
        current = Round()
        self.rounds.setdefault((which, streams), []).append(current)
        return current

    def level(self, which: int, streams: int) -> LevelFigures:
        """A level that was begun."""
        return level_figures(streams, self.rounds[which, streams])

    def figures(self) -> tuple[EndpointFigures, ...]:
        """One for each endpoint, with the levels that were begun."""
        return tuple(self._endpoint(which) for which in range(len(self.endpoints)))

    def _endpoint(self, which: int) -> EndpointFigures:
        endpoint = self.endpoints[which]
        form = self.forms.get(which)
        levels = [self.level(whose, streams) for whose, streams in self.rounds if whose == which]
        model = form.model if form else endpoint.model or "?"
        return EndpointFigures(endpoint.base_url, model, tuple(levels))


async def measure(plan: Plan, book: Book, watcher: Watcher) -> None:
    """
    Do what *plan* says and note it in *book*.

    Raises:
        CannotMeasure: An endpoint does not answer; nothing was measured.
        TimeoutError: ``plan.budget_s`` is spent; what was measured until then is in the book.
    """
    async with open_session(plan.timeout_s) as session:
        async with asyncio.timeout(plan.budget_s):
            await _Measurement(plan, book, session, watcher).run()


class _Measurement:
    def __init__(
        self, plan: Plan, book: Book, session: aiohttp.ClientSession, watcher: Watcher
    ) -> None:
        self._plan = plan
        self._book = book
        self._session = session
        self._watcher = watcher
        self._salt = secrets.token_hex(3)
        self._numbers = itertools.count(1)
        self._askers = [
            Asker(session, each, plan.timeout_s, partial(watcher.refused, which))
            for which, each in enumerate(book.endpoints)
        ]

    async def run(self) -> None:
        for which in range(len(self._askers)):
            self._book.forms[which] = await self._warm_up(which)
        for streams in self._plan.concurrency:
            for number in range(self._plan.rounds):
                turns = range(len(self._askers))
                for which in turns if number % 2 == 0 else reversed(turns):
                    await self._round(which, streams, number)
            for which in range(len(self._askers)):
                self._watcher.finished(which, self._book.level(which, streams))

    async def _warm_up(self, which: int) -> Form:
        """Ask once, unmeasured: does it answer, and what does it want to have in a body?"""
        endpoint = self._book.endpoints[which]
        form = Form(endpoint.model or await self._first_model(which))
        while True:
            body = self._body(form, min(_WARM_UP_TOKENS, self._plan.max_tokens), warm_up=True)
            outcome = await self._askers[which].ask(body, Refusals())
            if isinstance(outcome, Sample):
                return form
            other = form.after(outcome.detail) if outcome.kind == "http 400" else None
            if other is None:
                raise CannotMeasure(self._why(which, endpoint.base_url, outcome))
            form = other

    async def _first_model(self, which: int) -> str:
        endpoint = self._book.endpoints[which]
        url = endpoint.base_url + "/models"
        try:
            async with asyncio.timeout(self._plan.timeout_s):
                async with self._session.get(url, headers=endpoint.headers) as reply:
                    status, body = reply.status, await reply.read()
        except (aiohttp.ClientError, OSError) as error:
            failure = Failure("connection", endpoint.hide(connection_words(error)))
            raise CannotMeasure(self._why(which, url, failure)) from None
        try:
            if status == 200:
                return str(orjson.loads(body)["data"][0]["id"])
            failure = Failure(f"http {status}", endpoint.hide(said(body)))
        except (ValueError, LookupError, TypeError):
            failure = Failure("the list is empty, or not in OpenAI's shape")
        why = self._why(which, url, failure, "names no model")
        # Another model is no help to who is not let in.
        raise CannotMeasure(why if status == 401 else f"{why} (or say which with --model)")

    def _why(self, which: int, url: str, failure: Failure, what: str = "does not answer") -> str:
        """Why an endpoint cannot be measured; a wrong key comes first."""
        given = bool(self._book.endpoints[which].api_key)
        if words := key_words(failure, url, which, given=given):
            return words
        if failure.kind == "connection":
            return f"{url} cannot be reached: {failure.detail}"
        return f"{url} {what}: " + ": ".join(filter(None, (failure.kind, failure.detail)))

    def _body(self, form: Form, max_tokens: int, *, warm_up: bool = False) -> bytes:
        number = next(self._numbers)
        # What a prompt of the user's does to a server is to be measured, not warmed up with.
        plan = Plan(prompt_tokens=self._plan.prompt_tokens) if warm_up else self._plan
        prompt = prompt_text(plan, number, self._salt)
        return orjson.dumps(form.body(self._plan, prompt, max_tokens))

    async def _round(self, which: int, streams: int, number: int) -> None:
        current = self._book.open(which, streams)
        begin = _Begin(self._plan, streams, number)
        with _timed(current):
            async with asyncio.TaskGroup() as tasks:
                for _ in range(streams):
                    tasks.create_task(self._stream(which, streams, current, begin))

    async def _stream(self, which: int, streams: int, current: Round, begin: _Begin) -> None:
        """One request after the other."""
        asker, form = self._askers[which], self._book.forms[which]
        while begin.one_more():
            current.started += 1
            body = self._body(form, self._plan.max_tokens)
            outcome = await asker.ask(body, current.refusals)
            current.note(outcome)
            current.gave_up |= begin.ended(good=isinstance(outcome, Sample))
            self._watcher.ended(which, streams)


class _Begin:
    """Whether one more request of a round may begin."""

    def __init__(self, plan: Plan, streams: int, number: int) -> None:
        total = plan.requests_at(streams)
        self._left = None if total is None else plan.share(total, number)
        self._until_s = time.perf_counter() + (plan.seconds or 0.0) / plan.rounds
        self._failures_left = self._patience = max(10, 2 * streams)

    def one_more(self) -> bool:
        """Take one, if there is one to take."""
        if self._failures_left <= 0:
            return False
        if self._left is None:
            return time.perf_counter() < self._until_s
        self._left -= 1
        return self._left >= 0

    def ended(self, *, good: bool) -> bool:
        """Note how a request ended; whether so many failed in a row that more make no sense."""
        self._failures_left = self._patience if good else self._failures_left - 1
        return self._failures_left <= 0


@contextmanager
def _timed(current: Round) -> Iterator[None]:
    """Time a round, also one that is ended early."""
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    try:
        yield
    finally:
        current.wall_s = time.perf_counter() - wall_s
        current.client_cpu_s = time.process_time() - cpu_s
