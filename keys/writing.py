"""Records to the text of a version 2 keys file. PURE; the inverse of `keys.reading.read`."""

from __future__ import annotations

import re

from keys.records import KeyFile, KeyRecord, Secret, instant_text, limit_items, weight_text

__all__ = ["write"]

_PLAIN_ID = re.compile(r"[A-Za-z][A-Za-z0-9._-]*")
_YAML_WORDS = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"}

_HEADER = """\
# llama-gateway API keys. Change them with scripts/key_mgmt.py: it locks this file, checks it and
# replaces it in one step; comments are not kept. Only digests are stored, no key can be read here.
"""


def write(file: KeyFile) -> str:
    """The text of a version 2 file; fields that say nothing new are left out."""
    lines = [_HEADER + "version: 2"]
    if file.pepper_id is not None:
        lines.append(f'pepper: "{file.pepper_id}"')
    lines.append("keys:" if file.records else "keys: {}")
    for record in file.records.values():
        _write_record(record, lines)
    lines.append("...\n")
    return "\n".join(lines)


def _write_record(record: KeyRecord, lines: list[str]) -> None:
    lines.append(f"  {_id_text(record.key_id)}:")
    lines.append(f"    digest: hmac-sha256:{record.secret.digest.hex()}")
    if record.secret.legacy:
        lines.append("    legacy: true")
    for name in ("created", "rotated", "expires"):
        moment = getattr(record, name)
        if moment is not None:
            lines.append(f"    {name}: {instant_text(moment)}")
    if record.disabled:
        lines.append("    disabled: true")
    lines.append(f"    scopes: [{', '.join(sorted(record.scopes))}]")
    limits = ", ".join(f"{name}: {value}" for name, value in limit_items(record.limits))
    if limits:
        lines.append(f"    limits: {{{limits}}}")
    if record.priority != "normal":
        lines.append(f"    priority: {record.priority}")
    if record.weight != 1.0:
        lines.append(f"    weight: {weight_text(record.weight)}")
    if record.models is not None:
        lines.append(f"    models: [{', '.join(_quoted(name) for name in sorted(record.models))}]")
    if record.continue_streams:
        lines.append("    continue_streams: true")
    if record.note:
        lines.append(f"    note: {_quoted(record.note)}")
    if record.previous:
        lines.append("    previous:")
        lines.extend(_previous_text(secret) for secret in record.previous)


def _previous_text(secret: Secret) -> str:
    assert secret.until is not None
    legacy = ", legacy: true" if secret.legacy else ""
    digest = f'"hmac-sha256:{secret.digest.hex()}"'
    return f'      - {{digest: {digest}, until: "{instant_text(secret.until)}"{legacy}}}'


def _id_text(key_id: str) -> str:
    """Other YAML readers take some words and numbers for something else than text."""
    if _PLAIN_ID.fullmatch(key_id) and key_id.lower() not in _YAML_WORDS:
        return key_id
    return _quoted(key_id)


def _quoted(text: str) -> str:
    """Double-quoted YAML; the text is printable, so only two characters need care."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
