"""Reads settings from YAML files: flat, one key a setting, every entry with its line.

A file is one mapping of setting names. A key that is empty (``port:``) counts as not written, so
that a line may be kept as a reminder. Unknown and repeated keys are problems, not guesses.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import yaml

__all__ = ["Entry", "FileProblem", "read_settings_file"]

_SIZE_LIMIT_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """One value and the place it was written, such as ``config/base.yaml:12``."""

    raw: object
    source: str


@dataclass(frozen=True, slots=True)
class FileProblem:
    """Something wrong with the file itself or with a key in it."""

    name: str
    source: str
    message: str


def read_settings_file(
    path: Path, known: Collection[str]
) -> tuple[dict[str, Entry], list[FileProblem]]:
    """
    The entries of one file, and all that is wrong with it.

    Raises:
        FileNotFoundError: there is no such file.
    """
    label = f"{path.parent.name}/{path.name}"
    try:
        if path.stat().st_size > _SIZE_LIMIT_BYTES:
            return {}, [FileProblem(path.name, label, "must be smaller than 1MiB")]
        text = path.read_text(encoding="utf-8")
        return _entries(text, label, known)
    except FileNotFoundError:
        raise
    except UnicodeDecodeError:
        return {}, [FileProblem(path.name, label, "must be UTF-8 text")]
    except OSError as exc:
        return {}, [FileProblem(path.name, label, f"cannot be read: {exc.strerror}")]
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        where = f"{label}:{mark.line + 1}" if mark else label
        return {}, [FileProblem(path.name, where, f"must be YAML: {_what(exc)}")]


def _what(exc: yaml.YAMLError) -> str:
    """The parser's reason without its quotation of the file, which may hold a secret."""
    return getattr(exc, "problem", None) or "it cannot be parsed"


def _entries(
    text: str, label: str, known: Collection[str]
) -> tuple[dict[str, Entry], list[FileProblem]]:
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return {}, []
        if not isinstance(root, yaml.MappingNode):
            return {}, [FileProblem(label, label, "must be lines of 'name: value'")]
        pairs = [
            (
                loader.construct_object(key, deep=True),
                loader.construct_object(value, deep=True),
                f"{label}:{key.start_mark.line + 1}",
            )
            for key, value in root.value
        ]
    finally:
        loader.dispose()
    return _judge(pairs, known)


def _judge(
    pairs: list[tuple[object, object, str]], known: Collection[str]
) -> tuple[dict[str, Entry], list[FileProblem]]:
    entries: dict[str, Entry] = {}
    problems: list[FileProblem] = []
    for key, value, source in pairs:
        name = str(key)
        if name not in known:
            problems.append(FileProblem(name, source, _unknown(name, known)))
        elif name in entries:
            problems.append(FileProblem(name, source, f"is set twice, see {entries[name].source}"))
        elif value is not None:
            entries[name] = Entry(value, source)
    return entries, problems


def _unknown(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name.lower().replace("-", "_"), known, n=1, cutoff=0.6)
    return "is no setting" + (f"; did you mean {near[0]}?" if near else "")
