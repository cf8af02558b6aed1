"""PURE. The table of errors as a table on a page, and what an error looks like on each route."""

from __future__ import annotations

from collections.abc import Iterable

import orjson

from gateway.dialects.base import Dialect, ErrorBody, ReplyHead, openai_body
from gateway.errors import ERRORS, ApiError
from gateway.reference.fields import table

__all__ = ["bodies", "error_table", "frames"]

_HEAD = ReplyHead(request_id="req-1", reply_id="1", created=1_800_000_000)
_REFUSED = "invalid_value"
_BROKEN = "engine_restarted"


def error_table(dialects: Iterable[Dialect]) -> str:
    """Every code, by status; a column for each way to name its type."""
    own = {
        dialect.path: dialect.error_body
        for dialect in dialects
        if dialect.error_body is not openai_body and not dialect.counts
    }
    head = ["status", "code", "type", *(f"type on `{path}`" for path in own), "again?", "meaning"]
    lines = []
    for code, kind in sorted(ERRORS.items(), key=lambda item: item[1].status):
        if code == "client_closed":
            continue  # for the log: nobody is there to get it
        types = [f"`{_type(body, code)}`" for body in (openai_body, *own.values())]
        meaning = f"{kind.message} {kind.hint or ''}".strip()
        again = "yes" if kind.retryable else "no"
        lines.append((str(kind.status), f"`{code}`", *types, again, meaning))
    return table(head, lines)


def _type(body: ErrorBody, code: str) -> str:
    return str(orjson.loads(body(ApiError(code), _HEAD))["error"]["type"])


def bodies(dialects: Iterable[Dialect]) -> str:
    """What a refusal looks like; routes that say it alike stand together."""
    error = ApiError(_REFUSED, "'top_p' must be a number from 0 to 1.", param="top_p")
    return _examples((d.path, d.error_body(error, _HEAD)) for d in dialects)


def frames(dialects: Iterable[Dialect]) -> str:
    """How a stream ends that broke before anything but comments went out."""
    error = ApiError(_BROKEN)
    streamed = [dialect for dialect in dialects if dialect.assembler is not None]
    return _examples((d.path, d.error_frame(error, _HEAD)) for d in streamed)


def _examples(shown: Iterable[tuple[str, bytes]]) -> str:
    paths: dict[bytes, list[str]] = {}
    for path, example in shown:
        paths.setdefault(example, []).append(f"`{path}`")
    return "\n".join(
        f"{', '.join(where)}:\n\n{_indented(example.decode().strip())}"
        for example, where in paths.items()
    )


def _indented(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.splitlines())
