"""The words of the command line: its types, and what ``--help`` says below the options."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click

from .plan import endpoint_url

__all__ = ["EPILOG", "FILE", "SECONDS", "Fields", "Key", "Levels", "Url"]

SECONDS = click.FloatRange(min=0, min_open=True, max=86_400)
FILE = click.Path(dir_okay=False, writable=True, path_type=Path)

EPILOG = """
\b
What the columns say
  TTFT             from sending a request to its first event with text in it
                   (a thought or a tool call counts as text)
  between tokens   from one event with text to the next; servers that put
                   several tokens into an event show the time between events
  tokens/s stream  one stream's tokens over the time since its first (p50)
                   Like "between tokens" a dash if more than half of the
                   answers arrived in one piece
  tokens/s total   tokens of all whole answers over the time the level took
  - limited        the level had to wait for a limit (429, 503), so its tokens
                   a second would be those of the limit, not of the server
  client CPU       what this program used of one core. Above about 70 % it
                   may be the bottleneck, and the table says so

\b
What counts as good: an answer with text, a finish_reason and [DONE]. A stream
that ends otherwise is "broken stream" (an error event, a lost connection) or
"truncated", never good. A 429, or a 503 that says when, is waited for and sent
again up to ten times within --timeout; its times count from the last sending.
A connection that the server closed after an answer is replaced without a word.
Tokens come from the usage that the server reports at the end of a stream, else
events with text are counted; the table says which.

\b
Each level keeps so many requests under way until it has none left to begin.
Every prompt begins differently, so that a prompt cache does not help. One
request before the first level is not measured; it opens the connection, and
finds out whether the server wants max_completion_tokens. Models that stop by
themselves: --body '{"ignore_eos": true}' (llama-server, vLLM) keeps them going.

\b
Exit codes
  0  measured; also when Ctrl+C, SIGTERM or --budget ended it early: figures
     are those of what was done until then, and "ended_by" in --json says so
  1  nothing could be measured (or it was ended before anything was), more
     than --max-failures of the requests of an endpoint failed, a file could
     not be written, or a second Ctrl+C came
  2  wrong usage

\b
Examples
  export OPENAI_API_KEY=sk-...
  scripts/benchmark.py --base-url http://host:8000/v1 --html report.html
  scripts/benchmark.py --base-url http://host:8000/v1 \\
      --compare http://host:8080/v1 --concurrency 1,8,32 --seconds 60
"""


class Url(click.ParamType[str]):
    """A base URL, as `endpoint_url` gives it."""

    name = "url"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        """Check *value*."""
        try:
            return endpoint_url(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Levels(click.ParamType[tuple[int, ...]]):
    """Numbers of streams, in the order given, none twice."""

    name = "n,n,..."

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        """Check *value*."""
        if isinstance(value, tuple):
            return value
        try:
            levels = tuple(dict.fromkeys(int(word) for word in str(value).split(",")))
        except ValueError:
            self.fail("must be whole numbers with commas between them", param, ctx)
        if not all(1 <= level <= 4096 for level in levels):
            self.fail("must be from 1 to 4096 each", param, ctx)
        return levels


class Fields(click.ParamType[dict[str, Any]]):
    """More fields for a body."""

    name = "json"

    def convert(self, value: Any, param: Any, ctx: Any) -> dict[str, Any]:
        """Check *value*."""
        try:
            fields = value if isinstance(value, dict) else json.loads(value)
        except ValueError:
            fields = None
        if not isinstance(fields, dict) or {"stream", "messages"} & fields.keys():
            self.fail("must be a JSON object without 'stream' and 'messages'", param, ctx)
        return fields


class Key(click.ParamType[str]):
    """An API key; a bad one is not repeated in the complaint."""

    name = "key"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        """Check *value*."""
        if not re.fullmatch(r"[!-~]*", str(value).strip()):
            # Not repeated here: it may be a real one with a slip in it.
            self.fail("has characters in it that no API key has", param, ctx)
        return str(value).strip()
