"""What the mock engine behind a service has seen; its page waits until something is so."""

from __future__ import annotations

from typing import Any

import httpx

from tests.support.service import ServiceProcess


def engine_stats(service: ServiceProcess, **until: int) -> dict[str, Any]:
    """The mock's ``/mock/stats``; waits until each named number is as given.

    ``active=0`` waits for an idle engine, ``requests_min=3`` for at least three requests.
    """
    transport = httpx.HTTPTransport(uds=service.engine_socket)
    with httpx.Client(transport=transport, timeout=20) as client:
        reply = client.get("http://engine/mock/stats", params=until)
        value = reply.json()
    assert isinstance(value, dict)
    return value
