"""What the health port shows, made before anything else of the service.

Kept apart from `gateway.service` because that imports everything: a platform probes the health port
within the first second, and until then only this much is loaded.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

from gateway.activity import Activity
from gateway.clocks import Clocks
from gateway.observe.accesslog import AccessLog
from gateway.observe.metrics import Metrics
from gateway.queue.admission import Admission
from gateway.queue.fairqueue import FairQueue
from gateway.queue.rates import ServiceRates
from gateway.settings.model import Settings
from gateway.status import ServiceStatus
from health import VerdictOptions

__all__ = ["CLOCKS", "Foundation", "lay_foundation", "verdict_options"]

CLOCKS = Clocks(monotonic=time.monotonic, wall=time.time)  # noqa: TID251 (the edge it comes in by)


@dataclass(frozen=True, slots=True)
class Foundation:
    """The parts that both ports share."""

    admission: Admission
    activity: Activity
    status: ServiceStatus
    metrics: Metrics
    access_log: AccessLog


def lay_foundation(settings: Settings, access_log: AccessLog, version: str) -> Foundation:
    """Make them; nothing here is slow."""
    admission = Admission(
        FairQueue(
            max_waiting=settings.max_queue_size,
            max_waiting_per_key=settings.max_queue_per_key,
            ageing_s=settings.priority_ageing,
        ),
        ServiceRates(),
        max_queue=settings.max_queue_size,
        max_wait_s=settings.max_queue_wait,
        clock=CLOCKS.monotonic,
        jitter=random.random,
    )
    activity = Activity(CLOCKS.monotonic)
    status = ServiceStatus(
        admission,
        activity,
        clock=CLOCKS.monotonic,
        version=version,
        platform=settings.platform,
        node_id=settings.node_id,
        slots_limit=settings.max_concurrent_requests,
    )
    metrics = Metrics(keys_max=settings.metrics_max_keys, log_dropped=lambda: access_log.dropped)
    return Foundation(admission, activity, status, metrics, access_log)


def verdict_options(settings: Settings) -> VerdictOptions:
    """What the operator chose about the probes."""
    return VerdictOptions(
        health_check_path=settings.health_check_path,
        ping_while_loading=200 if settings.ping_while_loading == "200" else 204,
    )
