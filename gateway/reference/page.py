"""Makes docs/api.md: what each route takes, and what it does with that.

``python -m gateway.reference.page`` writes it; a test holds it to the code. Field tables, limits
and errors come from what the service works with; `gateway.reference.words` has the rest.
"""

from __future__ import annotations

import sys
from pathlib import Path

from gateway.dialects import DIALECTS, Dialect
from gateway.reference import words
from gateway.reference.failures import bodies, error_table, frames
from gateway.reference.fields import link, own_fields, shared_fields, table
from gateway.request import forced_calls, media, messages, schema_guard, tools

__all__ = ["FILES", "api_page", "main"]


def api_page() -> str:
    """docs/api.md."""
    dialects = list(DIALECTS.values())
    parts = [
        words.INTRO,
        "## Routes\n",
        _routes(dialects),
        words.ROUTES,
        words.DIFFERENCES,
        words.REQUEST,
        words.REPLY,
        *(_dialect(dialect, dialects) for dialect in dialects),
        "## Shared fields\n",
        shared_fields(),
        f"## Messages\n\n{messages.DOC}",
        f"## Media\n\n{media.DOC}",
        f"## Tools\n\n{tools.DOC}\n{forced_calls.DOC}",
        f"## JSON schemas\n\n{schema_guard.DOC}",
        words.MODELS,
        words.ERRORS,
        bodies(dialects),
        words.RETRIES,
        error_table(dialects),
        words.FRAMES,
        frames(dialects),
    ]
    return "\n".join(parts)


def _routes(dialects: list[Dialect]) -> str:
    generated = [
        (f"[`POST {dialect.path}`]({link(_title(dialect))})", "`inference`", _does(dialect))
        for dialect in dialects
    ]
    return table(("route", "key", "answer"), [*generated, *words.OTHER_ROUTES])


def _title(dialect: Dialect) -> str:
    return f"POST {dialect.path}"


def _does(dialect: Dialect) -> str:
    """The first sentence that is said about it."""
    sentence = dialect.doc.replace("\n", " ").partition(". ")[0].strip().rstrip(".")
    return f"{sentence}; also as a stream" if dialect.assembler is not None else sentence


def _dialect(dialect: Dialect, dialects: list[Dialect]) -> str:
    first = next(other for other in dialects if other.table is dialect.table)
    if first is dialect:
        fields = own_fields(dialect.table)
    else:
        fields = f"The same fields as [`POST {first.path}`]({link(_title(first))}).\n"
    return f"## {_title(dialect)}\n\n{dialect.doc}\n{fields}"


FILES = {"docs/api.md": api_page}
"""What is made, by path from the checkout's root."""


def main(root: Path | None = None) -> None:
    """Write the file into a checkout, by default the one that this module lies in."""
    root = root or Path(__file__).resolve().parents[2]
    for name, make in FILES.items():
        (root / name).write_text(make(), encoding="utf-8")
        sys.stdout.write(f"wrote {name}\n")


if __name__ == "__main__":
    main()
