"""Vast's side of a serverless worker, on loopback: the key, the router's signature, the reports.

As vastai 1.9.1 speaks with it: ``GET /pubkey/`` gives the key in PEM, ``POST /worker_status/``
takes what the worker says of itself, ``POST /delete_requests/`` which requests are over. Callers
get their ``auth_data`` from `sign`, as they would from the router.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

GUARD_S = 30.0
# DigestInfo of SHA-256, RFC 8017 section 9.2 note 1; the object identifier of RSA keys.
_SHA256 = bytes.fromhex("3031300d060960864801650304020105000420")
_RSA = bytes.fromhex("300d06092a864886f70d0101010500")
_EXPONENT = 65537


class VastAutoscaler:
    """``with`` runs it; `url` is what REPORT_ADDR is set to."""

    def __init__(self) -> None:
        self.reports: list[dict[str, Any]] = []
        self.deleted: list[dict[str, Any]] = []
        self._news = threading.Condition()
        self._modulus, self._private = _new_key(random.Random(7))
        self._requests = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def sign(self, url: str) -> dict[str, Any]:
        """The ``auth_data`` of a request to the worker at *url*."""
        self._requests += 1
        message = json.dumps({"url": url}, indent=4, sort_keys=True).encode()
        return {
            "cost": "100",
            "endpoint": "test",
            "reqnum": self._requests,
            "request_idx": self._requests,
            "signature": base64.b64encode(self._signature(message)).decode(),
            "url": url,
        }

    def reports_of(self, worker: int) -> list[dict[str, Any]]:
        """What the worker with that CONTAINER_ID has said, oldest first."""
        return [each for each in self.reports if each["id"] == worker]

    def until(
        self,
        worker: int,
        what: Callable[[dict[str, Any]], bool],
        nudge: Callable[[], object] = lambda: None,
    ) -> dict[str, Any]:
        """Wait for a report of *worker* for which *what* holds; *nudge* is called between them.

        Looks at the newest report only. A nudge is for the SDK, which else reports every 10 s.
        """
        seen = 0
        while True:
            told = self._more_than(seen, worker)
            if what(told[-1]):
                return told[-1]
            seen = len(told)
            nudge()

    def _more_than(self, seen: int, worker: int) -> list[dict[str, Any]]:
        """Wait for a report beyond the first *seen*; returns all of them."""
        with self._news:
            fresh = self._news.wait_for(lambda: len(self.reports_of(worker)) > seen, GUARD_S)
            assert fresh, f"no more reports; the last ones: {self.reports_of(worker)[-2:]}"
            return self.reports_of(worker)

    def _signature(self, message: bytes) -> bytes:
        """PKCS #1 v1.5, RFC 8017 section 8.2.1."""
        size = (self._modulus.bit_length() + 7) // 8
        digest = _SHA256 + hashlib.sha256(message).digest()
        padded = b"\x00\x01" + b"\xff" * (size - len(digest) - 3) + b"\x00" + digest
        number = pow(int.from_bytes(padded, "big"), self._private, self._modulus)
        return number.to_bytes(size, "big")

    def _public_key(self) -> bytes:
        key = _der(0x30, _number(self._modulus) + _number(_EXPONENT))
        whole = _der(0x30, _RSA + _der(0x03, b"\x00" + key))
        body = base64.encodebytes(whole).decode()
        return f"-----BEGIN PUBLIC KEY-----\n{body}-----END PUBLIC KEY-----\n".encode()

    def _take(self, path: str, body: dict[str, Any]) -> None:
        with self._news:
            if path == "/worker_status/":
                self.reports.append(body)
            else:
                self.deleted += body["requests"]
            self._news.notify_all()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                assert self.path == "/pubkey/", self.path
                self._answer(fake._public_key())

            def do_POST(self) -> None:
                assert self.path in ("/worker_status/", "/delete_requests/"), self.path
                length = int(self.headers["Content-Length"])
                fake._take(self.path, json.loads(self.rfile.read(length)))
                self._answer(b"{}")

            def _answer(self, body: bytes) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        return Handler


def _new_key(dice: random.Random) -> tuple[int, int]:
    """Modulus and private exponent of 1024 bits: enough for a test, and quick."""
    while True:
        p, q = _prime(dice), _prime(dice)
        if (p - 1) % _EXPONENT and (q - 1) % _EXPONENT and p != q:
            return p * q, pow(_EXPONENT, -1, (p - 1) * (q - 1))


def _prime(dice: random.Random) -> int:
    while True:
        number = dice.getrandbits(512) | 1 | 3 << 510
        if all(pow(base, number - 1, number) == 1 for base in (2, 3, 5, 7)):
            return number


def _der(tag: int, body: bytes) -> bytes:
    size = len(body)
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    length = bytes([size]) if size < 128 else bytes([0x80 | len(octets)]) + octets
    return bytes([tag]) + length + body


def _number(value: int) -> bytes:
    return _der(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))
