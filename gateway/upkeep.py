"""Makes what looks after the engine while the service runs: for silence, lost slots, and idleness.

Each of them decides for itself; here they are told what to look at and what to do.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from backend import ExitCause
from gateway.engine.link import EngineLink
from gateway.engine.silence import Trouble
from gateway.engine.watchdog import Watchdog
from gateway.foundation import Foundation
from gateway.idle import IdleKeeper
from gateway.settings.model import Settings
from gateway.stop_instance import ask_to_stop, stop_request

__all__ = ["idle_keeper", "leak_patience_s", "on_leak", "watchdog"]

_log = logging.getLogger(__name__)

_LEAK_S = 30.0


def on_leak(settings: Settings, foundation: Foundation, link: EngineLink) -> Callable[[int], None]:
    """What is done about slots that stay at work for nobody."""

    def leaked(slots: int) -> None:
        foundation.metrics.slots_leaked(slots)
        # At work for nobody, and nobody else is there: it is stuck. Others are not made to pay.
        if settings.watchdog_seconds and not foundation.admission.in_flight:
            foundation.metrics.engine_stuck()
            link.evict(link.generation, ExitCause.WEDGE)

    return leaked


def leak_patience_s(settings: Settings) -> float:
    """How long a slot may be at work for nobody."""
    return min(_LEAK_S, settings.watchdog_seconds or _LEAK_S)


def watchdog(settings: Settings, foundation: Foundation, link: EngineLink) -> Watchdog | None:
    """Replaces an engine that is stuck; None where WATCHDOG_SECONDS is 0."""
    if not settings.watchdog_seconds:
        return None

    def on_stuck(generation: int, trouble: Trouble) -> None:
        if trouble.deaf:
            link.evict(generation, ExitCause.SIGNAL)
            return
        foundation.metrics.engine_stuck()
        link.evict(generation, ExitCause.WEDGE)

    return Watchdog(
        settings.watchdog_seconds,
        foundation.admission,
        serving=lambda: link.serving,
        ask=link.sign_of_life,
        on_stuck=on_stuck,
    )


def idle_keeper(
    settings: Settings,
    environ: Mapping[str, str],
    foundation: Foundation,
    link: EngineLink,
    leave: Callable[[], None],
) -> IdleKeeper | None:
    """Carries out IDLE_ACTION; None where there is nothing to do, or no way to do it.

    Args:
        settings: The effective settings.
        environ: The process's environment, in which a platform says how it is asked to stop.
        foundation: What is known of the service.
        link: The engine.
        leave: Ends the service.
    """

    async def exit_process() -> bool:
        leave()
        return True

    async def stop_machine() -> bool:
        assert request is not None
        return await ask_to_stop(request)

    action = settings.idle_action
    request = stop_request(settings.platform, settings.stop_instance_url, environ)
    acts = {"unload": link.unload, "exit": exit_process, "stop-instance": stop_machine}
    if action == "stop-instance" and request is None:
        _log.warning("IDLE_ACTION has no effect: how this machine is stopped is not known here")
        return None
    if action not in acts:
        return None
    return IdleKeeper(
        settings.idle_timeout,
        foundation.activity,
        serving=lambda: link.serving is not None,
        act=acts[action],
        name=action,
    )
