"""What the commands show: records as tables, as a page, as JSON. PURE.

No digest is ever shown: it would only be a thing to lose.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from keys.changes import state_of
from keys.records import KeyRecord, instant_text, limit_items, weight_text
from keys.usage import COUNTED_TOGETHER, Counters

__all__ = ["as_dict", "as_page", "as_table", "table", "usage_dict", "usage_table"]

_NOW = ("in_progress", "waiting")
_SINCE_START = ("requests", "prompt_tokens", "completion_tokens")


def as_dict(record: KeyRecord, now: float) -> dict[str, Any]:
    """A record for programs; times as ISO 8601, None for what is not set."""
    return {
        "key_id": record.key_id,
        "state": state_of(record, now),
        "created": _instant(record.created),
        "rotated": _instant(record.rotated),
        "expires": _instant(record.expires),
        "disabled": record.disabled,
        "scopes": sorted(record.scopes),
        "limits": dict(limit_items(record.limits)),
        "priority": record.priority,
        "weight": record.weight,
        "models": None if record.models is None else sorted(record.models),
        "continue_streams": record.continue_streams,
        "note": record.note,
        "old_shape": record.secret.legacy,
        "previous_valid_until": [_instant(until) for until in _overlaps(record, now)],
    }


def as_page(record: KeyRecord, now: float) -> str:
    """A record for people, one field per line."""
    lines = [
        ("id", record.key_id),
        ("state", state_of(record, now)),
        ("created", _instant(record.created) or "unknown"),
        ("rotated", _instant(record.rotated) or "never"),
        ("expires", _instant(record.expires) or "never"),
        ("scopes", ", ".join(sorted(record.scopes)) or "none"),
        ("limits", _limits(record) or "the service's defaults"),
        ("priority", record.priority),
        ("weight", weight_text(record.weight)),
        ("models", "all" if record.models is None else ", ".join(sorted(record.models))),
        ("note", record.note or "-"),
    ]
    if record.continue_streams:
        lines.append(("streams", "continued when their engine dies"))
    if record.secret.legacy:
        lines.append(("shape", "old (from a migrated file); rotate replaces it"))
    lines.extend(
        ("old secret", f"valid until {instant_text(until)}") for until in _overlaps(record, now)
    )
    return "\n".join(f"{name + ':':<12}{value}" for name, value in lines)


def as_table(records: Iterable[KeyRecord], now: float) -> str:
    """Records for people, one per line."""
    rows = [
        (
            record.key_id,
            state_of(record, now),
            _day(record.created),
            _instant(record.expires) or "never",
            ",".join(sorted(record.scopes)) or "none",
            _limits(record) or "default",
            _rank(record),
            record.note or "-",
        )
        for record in records
    ]
    return table(("ID", "STATE", "CREATED", "EXPIRES", "SCOPES", "LIMITS", "RANK", "NOTE"), rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, two blanks between them."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (head, *rows)
    )
    return "\n".join(lines)


def usage_table(
    records: Iterable[KeyRecord], counters: Mapping[str, Counters] | None, now: float
) -> str:
    """What keys use and have used, one per line; a dash where nobody knows."""
    rows = []
    for record in records:
        used = _used(record.key_id, counters)
        figures = ["-"] * 5
        if used is not None:
            figures = [str(getattr(used, name)) for name in (*_NOW, *_SINCE_START)]
        rows.append((record.key_id, state_of(record, now), *figures))
    head = ("ID", "STATE", "IN PROGRESS", "WAITING", "REQUESTS", "PROMPT", "COMPLETION")
    return table(head, rows)


def usage_dict(
    records: Iterable[KeyRecord],
    counters: Mapping[str, Counters] | None,
    problem: str | None,
    now: float,
) -> dict[str, Any]:
    """What keys use and have used, for programs; None where nobody knows."""
    keys = []
    for record in records:
        used = _used(record.key_id, counters)
        keys.append(
            {
                **as_dict(record, now),
                "now": _figures(used, _NOW),
                "since_service_start": _figures(used, _SINCE_START),
            }
        )
    return {"problem": problem, "keys": keys}


def _figures(used: Counters | None, names: Sequence[str]) -> dict[str, int] | None:
    return None if used is None else {name: getattr(used, name) for name in names}


def _used(key_id: str, counters: Mapping[str, Counters] | None) -> Counters | None:
    """A key without a counter has used nothing, unless many keys were counted together."""
    if counters is None:
        return None
    if key_id not in counters and COUNTED_TOGETHER in counters:
        return None
    return counters.get(key_id, Counters())


def _overlaps(record: KeyRecord, now: float) -> list[int]:
    return [old.until for old in record.previous if old.until is not None and old.until > now]


def _rank(record: KeyRecord) -> str:
    """Priority, and the weight unless it is 1."""
    weight = "" if record.weight == 1 else f" x{weight_text(record.weight)}"
    return record.priority + weight


def _limits(record: KeyRecord) -> str:
    return " ".join(f"{name}={value}" for name, value in limit_items(record.limits))


def _instant(seconds: int | None) -> str | None:
    return None if seconds is None else instant_text(seconds)


def _day(seconds: int | None) -> str:
    return "-" if seconds is None else instant_text(seconds)[:10]
