"""The second port: what probes and scrapers ask, answered whatever the API port is doing.

`HealthServer` is loaded on first use, because it brings aiohttp along: the tables and the probe
program need none of that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from health.verdict import (
    HEALTH_PATHS,
    Answer,
    ServiceState,
    Snapshot,
    VerdictOptions,
    answer,
    is_stalled,
)

if TYPE_CHECKING:
    from health.server import METRICS_CONTENT_TYPE, HealthPortError, HealthServer

__all__ = [
    "HEALTH_PATHS",
    "METRICS_CONTENT_TYPE",
    "Answer",
    "HealthPortError",
    "HealthServer",
    "ServiceState",
    "Snapshot",
    "VerdictOptions",
    "answer",
    "is_stalled",
]


def __getattr__(name: str) -> Any:
    if name in ("METRICS_CONTENT_TYPE", "HealthPortError", "HealthServer"):
        from health import server

        return getattr(server, name)
    raise AttributeError(name)
