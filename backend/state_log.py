"""What the log says when the engine's phase changes."""

import logging

from backend.machine import Machine, Phase

_LOG = logging.getLogger(__name__)


def log_change(before: Machine, after: Machine) -> None:
    """Write at most two lines; none while the phase is the same, and one for a whole shortage."""
    if before.phase is after.phase or (before.short and after.short):
        return
    if after.phase is Phase.READY:
        _log_ready(before, after)
    elif after.phase is Phase.FAILED:
        _LOG.error("engine given up: %s; last exit: %s", after.failure, after.last_exit)
    elif after.phase is Phase.EVICTING:
        _LOG.warning("engine is being ended: %s pid=%s", after.evicted_for, after.pid)
    elif after.short:
        wait_s = after.settings.shortage_wait_s
        _LOG.warning("engine waits for what is short; tried again every %.0f s", wait_s)
    elif after.died > before.died:
        _log_death(after)
    else:
        _LOG.info("engine %s pid=%s", after.phase.name.lower(), after.pid)


def _log_ready(before: Machine, after: Machine) -> None:
    _LOG.info("engine ready pid=%s load_s=%.2f", after.pid, after.since_s - before.since_s)
    old, new = before.known_props, after.known_props
    changes = old.changes_to(new) if old is not None and new is not None else ()
    if changes:
        # The model file may have been replaced while no process held it.
        _LOG.warning("engine came back different: %s", ", ".join(changes))


def _log_death(after: Machine) -> None:
    wait_s = (after.next_start_s or after.since_s) - after.since_s
    what_next = "restart in" if after.phase is Phase.BACKOFF else "asleep again, no wake for"
    _LOG.warning("engine ended: %s; %s %.1f s", after.last_exit, what_next, wait_s)
