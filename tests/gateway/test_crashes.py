"""The engine is killed under load: nobody is misled, nobody is lost, nothing is left behind."""

from __future__ import annotations

import pytest

from tests.load.crashes import crashes
from tests.load.verdict import ANSWERED, TOLD, Reply, Verdict, judge

CHUNK = b'data: {"choices":[{"index":0,"finish_reason":null,"delta":{"content":"a"}}]}\n\n'
LAST = b'data: {"choices":[{"index":0,"finish_reason":"stop","delta":{}}]}\n\n'
ERROR = b'data: {"error":{"code":"engine_restarted"}}\n\n'
DONE = b"data: [DONE]\n\n"


@pytest.mark.parametrize("engine", ["mock", "real"])
def test_kills_cost_those_who_wait_nothing_but_time(engine: str) -> None:
    report = crashes(4, engine=engine, seed=7)
    assert report.kills == 4
    assert report.good, report.told()


# -- the judge must see what a client might not


@pytest.mark.parametrize(
    ("body", "verdict"),
    [
        (CHUNK + LAST + DONE, Verdict(ANSWERED, begun=True)),
        (b": queued\n\n" + CHUNK + ERROR, Verdict(TOLD, "engine_restarted", begun=True)),
        (b": queued\n\n" + ERROR, Verdict(TOLD, "engine_restarted")),
    ],
)
def test_honest_end_of_a_stream_is_seen_as_such(body: bytes, verdict: Verdict) -> None:
    assert judge(Reply(200, streamed=True, body=body, whole=True)) == verdict


@pytest.mark.parametrize(
    "reply",
    [
        None,
        Reply(),
        Reply(200, True, CHUNK + LAST + DONE, whole=False),
        Reply(200, True, CHUNK + DONE, whole=True),
        Reply(200, True, CHUNK + LAST, whole=True),
        Reply(200, True, CHUNK, whole=True),
        Reply(200, True, CHUNK + ERROR + DONE, whole=True),
        Reply(200, True, CHUNK + b'data: {"choi\n\n', whole=True),
        Reply(200, True, b": queued\n\n", whole=True),
        Reply(200, True, DONE, whole=True),
        Reply(200, False, b'{"choices":[{"finish_rea', whole=True),
        Reply(200, False, b'{"choices":[{"finish_reason":null}]}', whole=True),
        Reply(502, False, b"Bad Gateway", whole=True),
    ],
)
def test_misleading_end_is_seen_as_such(reply: Reply | None) -> None:
    assert judge(reply).misleading
