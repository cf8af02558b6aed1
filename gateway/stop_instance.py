"""Asks the platform to stop this machine: IDLE_ACTION=stop-instance.

Where it is asked, and with which key, the platform says in the environment of the instance:
- RunPod Pods: ``POST /v1/pods/$RUNPOD_POD_ID/stop``, with the key of the Pod (RunPod's REST API);
- Vast: ``PUT /api/v0/instances/$CONTAINER_ID/`` with ``{"state": "stopped"}``, with the key of the
  instance (Vast's REST API, what its ``stop instance`` command sends).
Elsewhere STOP_INSTANCE_URL names what is to be called.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["StopRequest", "ask_to_stop", "stop_request"]

_log = logging.getLogger(__name__)

_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class StopRequest:
    """One HTTP request that stops this machine. Holds a key, hence no repr of its headers."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: Mapping[str, str] | None = None


def stop_request(platform: str, url: str | None, environ: Mapping[str, str]) -> StopRequest | None:
    """
    What to send, or None when it is not known here how this machine is stopped.

    Args:
        platform: The platform's name.
        url: What the operator chose; it is called with POST and without a key.
        environ: The variables that the platform sets.
    """
    if url is not None:
        return StopRequest("POST", url)
    pod, container = environ.get("RUNPOD_POD_ID"), environ.get("CONTAINER_ID")
    if platform == "runpod-pod" and pod and environ.get("RUNPOD_API_KEY"):
        return StopRequest(
            "POST",
            f"https://rest.runpod.io/v1/pods/{pod}/stop",
            {"Authorization": f"Bearer {environ['RUNPOD_API_KEY']}"},
        )
    if platform == "vast" and container and environ.get("CONTAINER_API_KEY"):
        return StopRequest(
            "PUT",
            f"https://console.vast.ai/api/v0/instances/{container}/",
            {"Authorization": f"Bearer {environ['CONTAINER_API_KEY']}"},
            {"state": "stopped"},
        )
    return None


async def ask_to_stop(request: StopRequest) -> bool:
    """Send *request*; False, and a line in the log, when it was not accepted.

    The platform then ends this process as it ends every other, with SIGTERM.
    """
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.request(
                request.method,
                request.url,
                headers=dict(request.headers),
                json=request.body,
                allow_redirects=False,
            ) as reply,
        ):
            if reply.status < 300:
                _log.info("the platform was asked to stop this machine")
                return True
            _log.warning("the platform does not stop this machine: status %d", reply.status)
    except (aiohttp.ClientError, TimeoutError) as exc:
        _log.warning("the platform could not be asked to stop this machine: %s", type(exc).__name__)
    return False
