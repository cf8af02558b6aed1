"""What clients really put into bodies, and what becomes of it: the reply and the engine's view.

Each row is a request as some client sends it. The engine is the mock, which tells what it got; what
only the real one can prove is in test_contract_engine.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gateway.dialects import DIALECTS, FieldPolicy, ModelFacts
from gateway.request.fields import sift
from gateway.request.fields.kinds import Integer, Number
from tests.clients.contract_kit import Asker, assert_refused, picked
from tests.clients.contract_rows import (
    BAD_TYPE,
    CHAT,
    LEAST,
    MESSAGES,
    MESSAGES_PATH,
    NAMED,
    RANGES,
    REFUSED,
    REFUSED_MESSAGES,
    RESPONSES,
    SENT_ON,
)
from tests.support.service import ServiceProcess

Make = Callable[..., ServiceProcess]


@pytest.fixture(scope="module")
def ask(make_service: Make) -> Iterator[Asker]:
    asker = Asker(make_service(USE_MOCK_MODEL="true").start().ready())
    yield asker
    asker.close()


# -- fields


@pytest.mark.parametrize(("path", "more", "sent"), SENT_ON)
def test_fields_reach_the_engine_in_its_own_terms(
    ask: Asker, path: str, more: dict[str, Any], sent: dict[str, Any]
) -> None:
    outcome = ask(path, {**LEAST[path], **more})
    assert outcome.reply.status_code == 200, outcome.reply.text
    assert outcome.sent is not None
    assert picked(outcome.sent, sent) == sent
    assert outcome.ignored == ""


@pytest.mark.parametrize(("path", "more", "names"), NAMED)
def test_dropped_fields_are_named_and_stay_here(
    ask: Asker, path: str, more: dict[str, Any], names: str
) -> None:
    outcome = ask(path, {**LEAST[path], **more})
    assert outcome.reply.status_code == 200, outcome.reply.text
    assert outcome.ignored == names
    plain = ask(path, LEAST[path])
    assert outcome.sent == plain.sent


@pytest.mark.parametrize(("path", "more", "status", "code", "param"), REFUSED)
def test_what_cannot_be_done_is_refused_before_the_engine_is_asked(
    ask: Asker, path: str, more: dict[str, Any], status: int, code: str, param: str
) -> None:
    outcome = ask(path, {**LEAST[path], **more})
    assert_refused(outcome, status, code, param)
    assert outcome.error["type"] == "invalid_request_error"


RANGED = [
    pytest.param(path, name, id=f"{DIALECTS[path].name}-{name}")
    for path in (CHAT, RESPONSES, MESSAGES_PATH)
    for name in RANGES
    if path == CHAT or name in {row.name for row in DIALECTS[path].table.rows}
]


@pytest.mark.parametrize(("path", "name"), RANGED)
def test_ranges_end_where_they_should(ask: Asker, path: str, name: str) -> None:
    low, high = RANGES[name]
    whole = {"logprobs": True} if name == "top_logprobs" and path != RESPONSES else {}
    for inside in (low, high):
        outcome = ask(path, {**LEAST[path], **whole, name: inside})
        assert outcome.reply.status_code == 200, outcome.reply.text
    for outside in (low - 1, high + 1):
        outcome = ask(path, {**LEAST[path], **whole, name: outside})
        assert_refused(outcome, 400, "invalid_value", name)


# -- messages


@pytest.mark.parametrize(("given", "sent"), MESSAGES)
def test_messages_reach_the_engine_rebuilt(
    ask: Asker, given: list[dict[str, Any]], sent: list[dict[str, Any]]
) -> None:
    outcome = ask(CHAT, {"messages": given, "max_tokens": 2})
    assert outcome.reply.status_code == 200, outcome.reply.text
    assert outcome.sent is not None
    # An assistant's null content and an empty one are the same thing to every template.
    emptied = [{**each, "content": each["content"] or ""} for each in sent]
    assert outcome.sent["messages"] == emptied
    assert outcome.ignored == ""


@pytest.mark.parametrize(("given", "code", "param"), REFUSED_MESSAGES)
def test_messages_that_cannot_be_put_right_are_refused_with_the_place(
    ask: Asker, given: list[Any], code: str, param: str
) -> None:
    assert_refused(ask(CHAT, {"messages": given}), 400, code, param)


# -- every row of every table

FACTS = ModelFacts(frozenset({"m"}), "m", slots=4, context_tokens=1000, vocab_size=300)


def rows(*kinds: type) -> list[Any]:
    """Path and row of each field whose kind is one of *kinds*; of every field without any."""
    return [
        pytest.param(path, row, id=f"{dialect.name}-{row.name}")
        for path, dialect in DIALECTS.items()
        for row in dialect.table.rows
        if not kinds or isinstance(row.kind, kinds)
    ]


def test_every_route_has_a_least_body() -> None:
    assert LEAST.keys() == DIALECTS.keys()


@pytest.mark.parametrize("path", LEAST)
def test_null_is_absent_for_every_field_of_every_route(ask: Asker, path: str) -> None:
    names = {row.name.replace("*", "x") for row in DIALECTS[path].table.rows}
    nulls = dict.fromkeys(names - LEAST[path].keys())
    outcome = ask(path, {**nulls, **LEAST[path]})
    assert outcome.reply.status_code == 200, outcome.reply.text
    assert outcome.ignored == ""
    assert outcome.sent is not None
    assert outcome.sent == ask(path, LEAST[path]).sent


def test_null_fields_are_no_unknown_ones_where_those_are_refused(make_service: Make) -> None:
    ask = Asker(make_service(USE_MOCK_MODEL="true", UNKNOWN_PARAMS="reject").start().ready())
    for path in LEAST:
        assert ask(path, {**LEAST[path], "made_up": None}).reply.status_code == 200
        refused = ask(path, {**LEAST[path], "made_up": 0})
        assert_refused(refused, 400, "unknown_parameter", "made_up")
    ask.close()


@pytest.mark.parametrize(("path", "row"), rows(Integer))
def test_whole_numbers_may_be_written_as_floats(path: str, row: Any) -> None:
    table = DIALECTS[path].table
    asked, floated = ({row.name: kind(1)} for kind in (int, float))
    plain = sift(asked, table, FACTS, FieldPolicy())
    assert sift(floated, table, FACTS, FieldPolicy()) == plain
    values = [*plain.forward.values(), *plain.translate.values()]
    assert [type(value) for value in values] == [int] * len(values)


@pytest.mark.parametrize(("path", "row"), rows(Integer, Number))
def test_a_number_in_quotes_is_refused_for_every_numeric_field(
    ask: Asker, path: str, row: Any
) -> None:
    outcome = ask(path, {**LEAST[path], row.name: "1"})
    assert_refused(outcome, 400, BAD_TYPE, row.name)
