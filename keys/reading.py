"""The text of a version 2 keys file to records. PURE.

Rules:
- a file is good as a whole or not used at all, and every problem in it is named with its line;
- a problem's text never holds a value, because the value may be a secret in the wrong place;
- the file ends with the line ``...``: one that was cut off between two keys is still valid YAML
  with fewer keys in it, and would revoke the rest.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from keys.digest import id_problem
from keys.errors import RecordProblem, RecordsInvalid
from keys.principal import PRIORITIES, SCOPES, Limits
from keys.records import (
    LIMIT_NAMES,
    MAX_LIMIT,
    MAX_MODEL_CHARS,
    MAX_NOTE_CHARS,
    MAX_PROBLEMS,
    MAX_WEIGHT,
    MIN_WEIGHT,
    KeyFile,
    KeyRecord,
    Secret,
    parse_instant,
)
from keys.yamltree import Mapping, Node, Scalar, Sequence, parse_tree

__all__ = ["read"]

_DIGEST = re.compile(r"hmac-sha256:([0-9a-f]{64})")
_PEPPER_ID = re.compile(r"[0-9a-f]{16}")
_FIELD_NAME = re.compile(r"[a-z_]{1,32}")
_NUMBER = re.compile(r"[0-9]{1,13}")
_DECIMAL = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6})?")


def read(text: str) -> KeyFile:
    """Read a version 2 file.

    Raises:
        RecordsInvalid: With up to `MAX_PROBLEMS` problems, in the order of the lines.
    """
    problems: list[RecordProblem] = []
    records: dict[str, KeyRecord] = {}

    def member(key_id: str, line: int, node: Node) -> None:
        record = _record(key_id, line, node, problems)
        if record is not None:
            records[key_id] = record

    tree = parse_tree(text, "keys", member)
    pepper_id = _file(tree.root, problems)
    problems.extend(tree.problems)
    if records and pepper_id is None and not problems:
        problems.append(RecordProblem(tree.root.line, "'pepper' is missing: the pepper's id"))
    if not tree.ended:
        problems.append(RecordProblem(tree.last_line, _CUT_OFF))
    if problems:
        problems.sort(key=lambda problem: problem.line)
        raise RecordsInvalid(problems[:MAX_PROBLEMS])
    return KeyFile(pepper_id, records)


_CUT_OFF = (
    "the end mark '...' is missing, so the file may have been cut off; "
    "if it is complete, add a last line with three dots"
)


class _WrongError(Exception):
    def __init__(self, node: Node, message: str) -> None:
        self.problem = RecordProblem(node.line, message)


def _file(root: Node, problems: list[RecordProblem]) -> str | None:
    """Check the top of the file; returns the id of the pepper."""
    fields = _fields(root, _FILE_FIELDS, "the file", problems)
    if isinstance(root, Mapping):
        for name, example in (("version", "version: 2"), ("keys", "keys: {}")):
            if name not in root.items:
                message = f"'{name}' is missing, as in '{example}'"
                problems.append(RecordProblem(root.line, message))
    return fields.get("pepper")


def _record(key_id: str, line: int, node: Node, problems: list[RecordProblem]) -> KeyRecord | None:
    wrong_id = id_problem(key_id)
    if wrong_id is not None:
        problems.append(RecordProblem(line, wrong_id))
        return None
    fields = _fields(node, _KEY_FIELDS, f"key {key_id}", problems)
    digest = fields.pop("digest", None)
    legacy = fields.pop("legacy", False)
    if digest is None:
        if not isinstance(node, Mapping) or "digest" not in node.items:
            problems.append(RecordProblem(line, f"key {key_id} has no digest"))
        return None
    return KeyRecord(key_id=key_id, secret=Secret(digest, legacy), **fields)


def _fields(
    node: Node,
    schema: dict[str, Callable[[Node], Any]],
    where: str,
    problems: list[RecordProblem],
) -> dict[str, Any]:
    """Read a mapping by its schema; what is wrong is added to *problems* and left out."""
    if not isinstance(node, Mapping):
        problems.append(RecordProblem(node.line, f"{where} must be a mapping of fields"))
        return {}
    found: dict[str, Any] = {}
    for name, (line, value) in node.items.items():
        reader = schema.get(name)
        if reader is None:
            shown = f" '{name}'" if _FIELD_NAME.fullmatch(name) else ""
            known = ", ".join(schema)
            problems.append(
                RecordProblem(line, f"unknown field{shown} in {where}; known are {known}")
            )
            continue
        try:
            found[name] = reader(value)
        except _WrongError as wrong:
            problem = wrong.problem
            problems.append(RecordProblem(problem.line, f"'{name}' in {where} {problem.message}"))
    return found


def _text(node: Node, message: str) -> str:
    if not isinstance(node, Scalar) or node.is_null:
        raise _WrongError(node, message)
    return node.text


def _version(node: Node) -> int:
    if _text(node, "must be 2") != "2":
        raise _WrongError(node, "must be 2; this program knows no other version")
    return 2


def _pepper_id(node: Node) -> str | None:
    if isinstance(node, Scalar) and node.is_null:
        return None
    message = "must be the 16 hexadecimal digits that name the pepper"
    text = _text(node, message)
    if _PEPPER_ID.fullmatch(text) is None:
        raise _WrongError(node, message)
    return text


def _keys(node: Node) -> None:
    if not isinstance(node, Mapping):
        raise _WrongError(node, "must be a mapping of key ids; without keys write 'keys: {}'")


def _digest(node: Node) -> bytes:
    message = "must be 'hmac-sha256:' and 64 hexadecimal digits, as key_mgmt.py writes it"
    match = _DIGEST.fullmatch(_text(node, message))
    if match is None:
        raise _WrongError(node, message)
    return bytes.fromhex(match[1])


def _bool(node: Node) -> bool:
    if isinstance(node, Scalar) and node.plain and node.text in ("true", "false"):
        return node.text == "true"
    raise _WrongError(node, "must be true or false")


def _time(node: Node) -> int:
    message = "must be a time such as 2027-01-31T12:00:00Z, or a date"
    try:
        return parse_instant(_text(node, message))
    except ValueError:
        raise _WrongError(node, message) from None


def _time_or_never(node: Node) -> int | None:
    return None if isinstance(node, Scalar) and node.is_null else _time(node)


def _scopes(node: Node) -> frozenset[str]:
    return frozenset(_words(node, "scopes", SCOPES))


def _words(node: Node, what: str, known: tuple[str, ...]) -> Iterable[str]:
    message = f"must be a list of {what} out of: {', '.join(known)}"
    if not isinstance(node, Sequence):
        raise _WrongError(node, message)
    for item in node.items:
        if _text(item, message) not in known:
            raise _WrongError(item, message)
    return (item.text for item in node.items if isinstance(item, Scalar))


def _limits(node: Node) -> Limits:
    if not isinstance(node, Mapping):
        raise _WrongError(node, f"must be a mapping of: {', '.join(LIMIT_NAMES)}")
    found: dict[str, int | None] = {}
    for name, (_line, value) in node.items.items():
        if name not in LIMIT_NAMES:
            raise _WrongError(value, f"has an unknown limit; known are {', '.join(LIMIT_NAMES)}")
        found[LIMIT_NAMES[name]] = _limit(value)
    return Limits(**found)


def _limit(node: Node) -> int | None:
    if isinstance(node, Scalar) and node.plain:
        if node.is_null:
            return None
        if _NUMBER.fullmatch(node.text) and 1 <= int(node.text) <= MAX_LIMIT:
            return int(node.text)
    raise _WrongError(node, f"must hold whole numbers from 1 to {MAX_LIMIT}")


def _priority(node: Node) -> str:
    message = f"must be one of: {', '.join(PRIORITIES)}"
    text = _text(node, message)
    if text not in PRIORITIES:
        raise _WrongError(node, message)
    return text


def _weight(node: Node) -> float:
    if isinstance(node, Scalar) and node.plain and _DECIMAL.fullmatch(node.text):
        value = float(node.text)
        if MIN_WEIGHT <= value <= MAX_WEIGHT:
            return value
    raise _WrongError(node, f"must be a number from {MIN_WEIGHT} to {MAX_WEIGHT:g}")


def _models(node: Node) -> frozenset[str] | None:
    if isinstance(node, Scalar) and node.is_null:
        return None
    message = (
        f"must be a list of model names of 1 to {MAX_MODEL_CHARS} printable characters; "
        "leave it out to allow every model"
    )
    if not isinstance(node, Sequence) or not node.items:
        raise _WrongError(node, message)
    names = [_text(item, message) for item in node.items]
    for name in names:
        if not (name.isprintable() and 1 <= len(name) <= MAX_MODEL_CHARS):
            raise _WrongError(node, message)
    return frozenset(names)


def _note(node: Node) -> str:
    if isinstance(node, Scalar) and node.is_null:
        return ""
    message = f"must be one line of at most {MAX_NOTE_CHARS} printable characters"
    text = _text(node, message)
    if not text.isprintable() or len(text) > MAX_NOTE_CHARS:
        raise _WrongError(node, message)
    return text


def _previous(node: Node) -> tuple[Secret, ...]:
    message = "must be a list of mappings with digest, until and perhaps legacy"
    if not isinstance(node, Sequence):
        raise _WrongError(node, message)
    found: list[Secret] = []
    for item in node.items:
        problems: list[RecordProblem] = []
        fields = _fields(item, _PREVIOUS_FIELDS, "previous", problems)
        if problems or "digest" not in fields or "until" not in fields:
            raise _WrongError(item, message)
        found.append(Secret(fields["digest"], fields.get("legacy", False), fields["until"]))
    return tuple(found)


_PREVIOUS_FIELDS: dict[str, Callable[[Node], Any]] = {
    "digest": _digest,
    "until": _time,
    "legacy": _bool,
}

_KEY_FIELDS: dict[str, Callable[[Node], Any]] = {
    "digest": _digest,
    "legacy": _bool,
    "previous": _previous,
    "created": _time,
    "rotated": _time,
    "expires": _time_or_never,
    "disabled": _bool,
    "scopes": _scopes,
    "limits": _limits,
    "priority": _priority,
    "weight": _weight,
    "models": _models,
    "continue_streams": _bool,
    "note": _note,
}

_FILE_FIELDS: dict[str, Callable[[Node], Any]] = {
    "version": _version,
    "pepper": _pepper_id,
    "keys": _keys,
}
