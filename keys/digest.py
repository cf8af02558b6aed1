"""The shape of a key, and the keyed digest that is all we store of it. PURE.

    sk-lg-<id>-<secret><checksum>

- ``<id>`` is public: it finds the record, and appears in logs and metrics;
- ``<secret>`` is 43 characters of base 62, which hold 256 random bits without loss;
- ``<checksum>`` is 6 characters of base 62, the CRC-32 of everything before it. It protects
  nothing; it tells a mistyped key from a revoked one without asking any file.

The secret has no dash, so the id may have some. At rest there is only HMAC-SHA256(pepper, whole
key). A fast hash is right here: a slow one defends guessable passwords, and 256 random bits
cannot be guessed however fast the guesses are; what a slow one would do is let a stranger burn
our event loop. The pepper makes a stolen keys file useless for checking guesses at all.

Randomness is passed in, so that nothing here depends on more than its arguments.
"""

from __future__ import annotations

import hashlib
import re
import zlib

__all__ = [
    "ID_PATTERN",
    "MAX_KEY_BYTES",
    "PEPPER_BYTES",
    "PREFIX",
    "SECRET_BYTES",
    "TAIL_CHARS",
    "TOKEN_PATTERN",
    "Digester",
    "checksum_holds",
    "id_problem",
    "make_key",
]

PREFIX = "sk-lg-"
PEPPER_BYTES = 32
SECRET_BYTES = 32
MAX_KEY_BYTES = 256
"""Longer tokens are not looked at, which bounds the work a stranger can ask for."""

_SECRET_CHARS = 43
_CHECKSUM_CHARS = 6
TAIL_CHARS = 1 + _SECRET_CHARS + _CHECKSUM_CHARS
"""The dash, the secret and the checksum: what follows the id in a key of ours."""

ID_PATTERN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
TOKEN_PATTERN = re.compile(rb"[A-Za-z0-9._~-]{1,256}")

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_KEY_PATTERN = re.compile(
    rb"sk-lg-[A-Za-z0-9_][A-Za-z0-9._-]{0,63}-[0-9A-Za-z]{43}([0-9A-Za-z]{6})"
)
_BLOCK_BYTES = 64
_INNER = bytes(value ^ 0x36 for value in range(256))
_OUTER = bytes(value ^ 0x5C for value in range(256))


class Digester:
    """HMAC-SHA256 under one pepper.

    The two padded blocks are hashed once, here; each digest then copies them. That is HMAC as
    RFC 2104 suggests to implement it, at a third of the cost of `hmac.digest`.

    Args:
        pepper: Exactly `PEPPER_BYTES` random bytes.

    Raises:
        ValueError: The pepper has another length.
    """

    __slots__ = ("_inner", "_outer", "pepper_id")

    def __init__(self, pepper: bytes) -> None:
        if len(pepper) != PEPPER_BYTES:
            raise ValueError("a pepper has exactly 32 bytes")
        block = pepper.ljust(_BLOCK_BYTES, b"\0")
        self._inner = hashlib.sha256(block.translate(_INNER))
        self._outer = hashlib.sha256(block.translate(_OUTER))
        self.pepper_id = self.digest(b"llama-gateway pepper id").hex()[:16]
        """Names the pepper without giving it away; the keys file carries it."""

    def __repr__(self) -> str:
        return f"<Digester of pepper {self.pepper_id}>"

    def digest(self, token: bytes) -> bytes:
        """The 32 bytes that stand for *token* at rest."""
        inner = self._inner.copy()
        inner.update(token)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.digest()


def id_problem(key_id: str) -> str | None:
    """What is wrong with *key_id* as a name for a key, or None.

    An id is shown everywhere, so one that looks like a secret is refused: it usually is one, in
    the wrong column.
    """
    if key_id.startswith("sk-"):
        return "a key id must not begin with 'sk-': that looks like a secret, and ids are public"
    if ID_PATTERN.fullmatch(key_id) is None:
        return (
            "a key id is 1 to 64 of the characters A-Z a-z 0-9 . _ - and begins with a letter, "
            "a digit or _"
        )
    return None


def make_key(key_id: str, entropy: bytes) -> str:
    """Make the key for *key_id* from random bytes.

    Args:
        key_id: Must pass `id_problem`.
        entropy: Exactly `SECRET_BYTES` bytes from the system's random source.

    Raises:
        ValueError: The id or the number of random bytes is wrong.
    """
    problem = id_problem(key_id)
    if problem is not None:
        raise ValueError(problem)
    if len(entropy) != SECRET_BYTES:
        raise ValueError("a secret is made of exactly 32 random bytes")
    secret = _base62(int.from_bytes(entropy, "big"), _SECRET_CHARS)
    body = f"{PREFIX}{key_id}-{secret}"
    return body + _checksum(body.encode("ascii"))


def checksum_holds(token: bytes) -> bool | None:
    """Whether the checksum of *token* is right; None if it is not shaped like a key of ours."""
    match = _KEY_PATTERN.fullmatch(token)
    if match is None:
        return None
    return _checksum(token[:-_CHECKSUM_CHARS]).encode("ascii") == match[1]


def _checksum(body: bytes) -> str:
    return _base62(zlib.crc32(body), _CHECKSUM_CHARS)


def _base62(number: int, width: int) -> str:
    digits: list[str] = []
    for _ in range(width):
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))
