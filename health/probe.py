"""Ask a health URL once: ``python -m health.probe [URL]`` ends with 0 or 1.

For container images without curl. Standard library only, and it follows no proxy settings: the
question is for this machine. Any 2xx means well; everything else, silence included, means not.
"""

from __future__ import annotations

import http.client
import sys
from collections.abc import Sequence
from urllib.parse import urlsplit

__all__ = ["main", "probe"]

DEFAULT_URL = "http://127.0.0.1:8001/health"
TIMEOUT_S = 3.0


def probe(url: str, timeout_s: float = TIMEOUT_S) -> tuple[bool, str]:
    """
    Whether *url* answers a GET with 2xx, and what it said in a few words.

    Args:
        url: An ``http`` URL; the path defaults to ``/health``.
        timeout_s: Seconds for connecting, and again for each read.
    """
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        return False, "not an http URL"
    try:
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout_s)
    except ValueError:
        return False, "not a port"
    try:
        connection.request("GET", parts.path or "/health", headers={"Connection": "close"})
        reply = connection.getresponse()
        status = reply.status
    except (OSError, http.client.HTTPException) as error:
        return False, f"no answer ({type(error).__name__})"
    finally:
        connection.close()
    return 200 <= status < 300, str(status)


def main(arguments: Sequence[str]) -> int:
    """The program: 0 when all is well, 1 when not, 2 for wrong usage."""
    if len(arguments) > 1:
        sys.stderr.write("usage: python -m health.probe [URL]\n")
        return 2
    well, said = probe(arguments[0] if arguments else DEFAULT_URL)
    sys.stdout.write(f"{said}\n")
    return 0 if well else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
