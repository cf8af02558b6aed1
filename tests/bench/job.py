"""One job of the load generator, as the bench tells it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

__all__ = ["Job"]


@dataclass(slots=True)
class Job:
    """One measurement.

    Attributes:
        kind: ``closed`` (requests one after another for *seconds*), ``paced`` (the same
            at *rate*, whether answers come or not), ``streams`` (the same as ``closed`` with
            streams: measured once all are open, and all of them end), ``stampede`` (one stream on
            each connection, all begun at once) or ``idle`` (*connections* that do nothing for
            *seconds* after one request each).
        path: The Unix socket to connect to; None for *port* on 127.0.0.1.
        request: What is sent, as it is; Latin-1.
        status: What must be answered.
        mark: What a right answer has in its body.
        seconds: How long it is measured; a stampede is measured until it is over.
        warm_s: How long it goes on before that, after *over_s*.
        events: Events of a whole stream.
        over_s: Time over which the first requests are spread evenly.
        closes: Whether a connection is closed behind each stream, as the engine itself does it.
            A closed one is wrong otherwise.
        rate: Requests a second, over all connections; they take turns.
        keep: Whether every time to a first event is wanted, too.
        watch: Process ids by name, whose CPU time is wanted.
        cores: Those of the proxy: whether other machines take time from them is wanted.
    """

    kind: str
    request: str
    connections: int
    path: str | None = None
    port: int = 0
    status: int = 200
    mark: str = ""
    seconds: float = 0.0
    warm_s: float = 0.0
    events: int = 0
    over_s: float = 0.0
    closes: bool = False
    rate: float = 0.0
    keep: bool = False
    watch: dict[str, list[int]] = field(default_factory=dict)
    cores: list[int] = field(default_factory=list)

    def line(self) -> str:
        """As the generator reads it."""
        return json.dumps(asdict(self)) + "\n"
