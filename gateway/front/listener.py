"""Opens the public port: one listening socket with the options that accepted ones inherit."""

from __future__ import annotations

import socket

__all__ = ["BACKLOG", "PortTaken", "open_listener"]

_SEND_BUFFER_BYTES = 256 << 10
BACKLOG = 2048
"""Connections that may wait to be accepted."""


class PortTaken(OSError):  # noqa: N818  (says what happened)
    """The public port cannot be opened; the text says which and what to change."""


def open_listener(host: str, port: int, *, vanished_after_s: float) -> socket.socket:
    """Bind and listen.

    On Linux an accepted socket takes over these options (tcp(7)): a bounded send buffer, so that
    what a slow reader leaves lying is counted by us and not hidden in the kernel, and keep-alive
    probes, so that a peer that vanished is noticed.

    Args:
        host: Address to bind; a name is resolved.
        port: 0 takes a free one.
        vanished_after_s: Seconds after which unacknowledged data means that the peer is gone.

    Raises:
        PortTaken: It is in use, or may not be used.
    """
    try:
        info = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = info[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as exc:
        raise PortTaken(f"cannot open {host}:{port}: {exc}") from exc
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
        listener.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(vanished_after_s * 1000)
        )
        listener.setblocking(False)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as exc:
        listener.close()
        raise PortTaken(f"cannot open {host}:{port}: {exc.strerror}; choose another PORT") from exc
    return listener
