"""The public listener: it makes the connections, counts them, and ends them.

Connections are bounded, in total and for each address; those on which no request has passed the key
check yet may be half of the total at most, so that strangers cannot shut out everybody else. What
happens on one of them is in `gateway.front.connection`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Container
from dataclasses import dataclass

from gateway.errors import ApiError
from gateway.front.connection import FrontProtocol
from gateway.front.outlet import Crowd, OutletLimits
from gateway.front.reply import DateLine, Reply
from gateway.front.request import FrontRequest

__all__ = ["FrontServer", "ServerLimits"]

_LAST_WORD_S = 0.5

Handler = Callable[[FrontRequest], Awaitable[Reply]]
Rejected = Callable[[FrontRequest, ApiError], Reply]


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Bounds on connections and request heads. Times in seconds, sizes in bytes."""

    header_timeout_s: float = 10.0
    keepalive_s: float = 75.0
    request_line_bytes: int = 8190
    header_line_bytes: int = 8190
    headers: int = 100
    header_block_bytes: int = 32 << 10
    stream_buffer_bytes: int = 4 << 20
    stream_memory_bytes: int = 256 << 20
    """For all slow readers together; each connection may hold 64 KiB besides."""
    client_stall_s: float = 30.0
    connections: int = 10_000
    connections_per_address: int = 256

    @property
    def strangers(self) -> int:
        """Connections on which no request has passed the key check yet."""
        return max(self.connections // 2, 1)

    @property
    def outlet(self) -> OutletLimits:
        """Bounds on one reader."""
        return OutletLimits(self.stream_buffer_bytes, self.client_stall_s)


class FrontServer:
    """Makes and counts the connections of the public port.

    Args:
        handler: Answers one request.
        rejected: Makes the reply for what never became a request.
        unparsed: Told the peer and the error of a head that was refused unread; gives a request id.
        stalled: Called for each reader that was cut because it stood still.
        crowded: Called for each that was cut because all readers together left too much; as
            *stalled* when not given.
        limits: See `ServerLimits`.
        trusted: Proxies in front of us, exempt from the bound for each address.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        rejected: Rejected,
        unparsed: Callable[[str, ApiError], str],
        stalled: Callable[[], None],
        limits: ServerLimits,
        crowded: Callable[[], None] | None = None,
        trusted: Container[str] = (),
    ) -> None:
        self.handler = handler
        self.limits = limits
        self.rejected = rejected
        self.date = DateLine()
        self._loop = asyncio.get_running_loop()
        self._unparsed = unparsed
        self.crowd = Crowd(
            limits.stream_memory_bytes,
            self._loop,
            on_stalled=stalled,
            on_crowded=crowded or stalled,
        )
        self._trusted = trusted
        self._connections: set[FrontProtocol] = set()
        self._addresses: Counter[str] = Counter()
        self.open_connections = 0
        self.strangers = 0
        """Open connections on which no request has passed the key check yet."""

    def __call__(self) -> FrontProtocol:
        """Make the protocol of a new connection."""
        return FrontProtocol(self, self._loop)

    def __repr__(self) -> str:
        return f"<FrontServer {self.open_connections} connections>"

    def admit(self, connection: FrontProtocol, peer: str) -> bool:
        """Count a connection in; False when it is one too many."""
        self._connections.add(connection)
        self._addresses[peer] += 1
        self.open_connections += 1
        self.strangers += 1
        limits = self.limits
        if self.open_connections > limits.connections or self.strangers > limits.strangers:
            return False
        if peer in self._trusted:
            return True
        return self._addresses[peer] <= limits.connections_per_address

    def vouched(self) -> None:
        """A stranger has shown a key."""
        self.strangers -= 1

    def forget(self, peer: str, *, stranger: bool) -> None:
        """Count a connection out."""
        self.open_connections -= 1
        self.strangers -= stranger
        self._addresses[peer] -= 1
        if self._addresses[peer] <= 0:
            del self._addresses[peer]

    def drop(self, connection: FrontProtocol) -> None:
        """Hold *connection* no longer: it is lost, and nobody works for it any more."""
        self._connections.discard(connection)

    def close_idle(self) -> None:
        """Close connections that wait for a next request; the others get their reply.

        Each has a moment left: a request that is on its way just now is better refused in words
        than by a closed connection, which its sender cannot tell from a crash.
        """
        self._loop.call_later(_LAST_WORD_S, self._close_idle_now)

    def _close_idle_now(self) -> None:
        for connection in tuple(self._connections):
            if connection.is_idle:
                connection.close()

    async def shutdown(self, timeout_s: float) -> None:
        """Close all connections; running replies have *timeout_s* to end, and once more to stop."""
        for connection in tuple(self._connections):
            connection.close_soon()
        tasks = [each.task for each in self._connections if each.task is not None]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=timeout_s)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=timeout_s)
        for connection in tuple(self._connections):
            connection.close()

    def raw_refusal(self, peer: str, error: ApiError) -> bytes:
        """A whole reply for a head that was never parsed."""
        request_id = self._unparsed(peer, error)
        body = error.body()
        return (
            f"HTTP/1.1 {error.status} {error.code}\r\nContent-Type: application/json\r\n"
            f"x-request-id: {request_id}\r\nrequest-id: {request_id}\r\nx-api-version: v1\r\n"
            f"Cache-Control: no-store\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        ).encode() + body
