"""What the benchmark tells while it measures, and when it cannot."""

from __future__ import annotations

import errno
from array import array

import aiohttp
import pytest

from scripts.benchmarking.figures import level_figures
from scripts.benchmarking.plan import Plan
from scripts.benchmarking.progress import Progress
from scripts.benchmarking.samples import Failure, Refusals, Round, Sample
from scripts.benchmarking.trouble import connection_words, first_refusal, key_words


def test_first_refusal_of_an_endpoint_is_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(Plan(), ["http://a/v1", "http://b/v1"], bar=False, lines=False)
    for which in (0, 0, 1, 0):
        progress.refused(which, Failure("http 429", "Rate limit reached."), 12.0)
    told = capsys.readouterr().err.splitlines()
    assert [line.partition(" ")[0] for line in told] == ["http://a/v1", "http://b/v1"]
    assert "Rate limit reached." in told[0]
    assert "scripts/key_mgmt.py set NAME --rpm 100000" in told[0]


def test_busy_server_is_not_blamed_on_the_key() -> None:
    assert "key" not in first_refusal("http://a/v1", Failure("http 503", "starting"), 1.0)


def test_level_is_a_line_where_no_bar_is(capsys: pytest.CaptureFixture[str]) -> None:
    sample = Sample(0.15, 0.2, array("d", [0.05]), 2, 9, True)
    level = level_figures(4, [Round(1, [sample], refusals=Refusals(1, 9.0), wall_s=10.0)])
    Progress(Plan(), ["http://a/v1"], bar=False, lines=True).finished(0, level)
    line = "http://a/v1, 4 streams: 1 good, 0 bad; TTFT p50 150.0 ms, tokens/s - limited\n"
    assert capsys.readouterr().err == line
    Progress(Plan(), ["http://a/v1"], bar=False, lines=False).finished(0, level)
    assert capsys.readouterr().err == ""


def test_key_that_is_missing_is_told_apart_from_a_wrong_one() -> None:
    wrong = Failure("http 401", "no")
    assert "does not accept the API key" in str(key_words(wrong, "u", 0, given=True))
    assert "no API key was given; use $OPENAI" in str(key_words(wrong, "u", 0, given=False))
    assert "no API key was given; use $COMPARE" in str(key_words(wrong, "u", 1, given=False))
    assert "let this API key" in str(key_words(Failure("http 403"), "u", 0, given=True))
    assert key_words(Failure("http 500"), "u", 0, given=True) is None


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed"), "nothing listens"),
        (OSError(errno.EHOSTUNREACH, "x"), "no way to that host"),
        (OSError(errno.ETIMEDOUT, "x"), "no answer in time"),
        (aiohttp.ServerDisconnectedError(), "closed without an answer"),
        (aiohttp.ClientPayloadError("x"), "lost within the answer"),
        (aiohttp.ConnectionTimeoutError(), "no answer in time"),
        (TimeoutError(), "no answer in time"),
        (aiohttp.InvalidURL("http://x y"), "InvalidURL: http://x y"),
    ],
)
def test_trouble_with_a_connection_is_told_in_plain_words(error: Exception, words: str) -> None:
    assert words in connection_words(error)
