"""PURE: takes secrets and control characters out of text that is about to be written somewhere.

Rules:
- what looks like one of our keys goes, also percent-encoded or inside base64, and so does
  whatever follows ``Bearer`` or the name of a header that carries credentials; a caller's key may
  be the account key of the platform in front of us, so its form cannot be known;
- secrets that are known word for word (from the settings) go wherever they stand;
- hiding too much is fine here, hiding too little is not;
- every pattern is linear in the text: none begins with an open repetition.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["Redactor", "escape_controls"]

_MASK = "***"
_DASH = r"(?:-|%2[dD])"

# "sk-lg-" in base64, at each of the three places it can have in a group of three bytes.
_BASE64_FORMS = "c2stbGct|NrLWxnL|zay1sZy"

_KEYS = re.compile(
    rf"sk{_DASH}(?:lg{_DASH})?[A-Za-z0-9._~%-]{{3,}}"
    rf"|(?:{_BASE64_FORMS})[A-Za-z0-9+/_=-]*"
    r"|\bhf_[A-Za-z0-9]{8,}|\brpa_[A-Za-z0-9]{8,}"
)
_BEARER = re.compile(r"(?i)(\b(?:bearer|basic)(?:\s|%20|\+|\\t)+)[^\s'\",;<>]+")
# A header's name, then what stands between name and value as written on the wire, in a
# dictionary's repr or in a tuple of bytes; then the value, to its closing quote or the line's end.
_HEADER = re.compile(
    r"(?i)(\b(?:x-api-key|api-key|(?:proxy-)?authorization|(?:set-)?cookie)"
    r"(?:['\"]?\s*[:=]\s*|['\"]\s*,\s*))"
    r"(?:b?(['\"]).*?\2|[^\r\n]+)"
)

# Controls, line and paragraph separators, marks that turn the direction of text around, and lone
# surrogates, which is how bytes that are no UTF-8 are carried.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


class Redactor:
    """Masks secrets in text.

    Args:
        secrets: Masked word for word; those shorter than 6 characters would mask ordinary words
            and are left out.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        known = sorted({s for s in secrets if len(s) >= 6}, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, known))) if known else None

    def __repr__(self) -> str:
        return "<Redactor>"

    def __call__(self, text: str) -> str:
        """*text* without secrets."""
        if self._known is not None:
            text = self._known.sub(_MASK, text)
        text = _HEADER.sub(rf"\1{_MASK}", text)
        text = _BEARER.sub(rf"\1{_MASK}", text)
        return _KEYS.sub(_MASK, text)


def escape_controls(text: str) -> str:
    r"""*text* on one line: control characters become ``\n``, ``\x1b`` and the like."""
    return _CONTROLS.sub(_escape, text) if _CONTROLS.search(text) else text


def _escape(match: re.Match[str]) -> str:
    char = match[0]
    if short := _SHORT.get(char):
        return short
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
