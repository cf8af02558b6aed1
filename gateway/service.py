"""Puts the service together: every part is made here and handed what it needs.

Nothing in here decides anything; to see who talks to whom, read `compose` from top to bottom.
"""

from __future__ import annotations

import random
import resource
from collections.abc import Callable, Mapping

from backend import (
    ConsoleProgress,
    EngineCommand,
    EngineSnapshot,
    RunDir,
    Supervisor,
    default_run_dir,
    probe_engine,
)
from gateway.access.auth import Authenticator, open_principal
from gateway.access.keywatch import KeyWatch
from gateway.access.throttle import WrongKeyThrottle
from gateway.app import App
from gateway.endpoints import Endpoints
from gateway.engine_link import EngineLink
from gateway.foundation import CLOCKS, Foundation, verdict_options
from gateway.front.body import BodyBudget
from gateway.front.cors import CorsPolicy
from gateway.front.listener import open_listener
from gateway.front.proxies import TrustedProxies
from gateway.front.server import FrontServer
from gateway.inference import Inference
from gateway.lifecycle import Parts
from gateway.preparation import prepare_engine
from gateway.relay import Relay
from gateway.routes import ROUTE_NAMES, route_patterns, route_table
from gateway.settings.model import Settings
from gateway.tasks import Tasks
from gateway.wiring import (
    body_rules,
    drain_settings,
    field_policy,
    model_alias,
    relay_settings,
    served_model,
    server_limits,
    supervisor_settings,
)
from keys import Keyring, KeyStore

__all__ = ["compose"]


def compose(
    settings: Settings,
    environ: Mapping[str, str],
    foundation: Foundation,
    *,
    announce: Callable[[], None],
) -> Parts:
    """Make every part of the service; the public port is open afterwards.

    Must run in the event loop that will serve.

    Raises:
        PortTaken: The public port cannot be opened.
        OperatorError: The folder for the engine's socket is not safe.
    """
    admission, status, metrics = foundation.admission, foundation.status, foundation.metrics
    run_dir = RunDir(default_run_dir())
    metrics.know_routes(ROUTE_NAMES | {settings.health_check_path})
    metrics.know_models((model_alias(settings),))
    tasks = Tasks()
    keys_wanted = settings.auth_enabled and settings.auth_mode == "keys"
    store = KeyStore(settings.auth_keys_file, settings.auth_pepper_file) if keys_wanted else None
    if store is not None:
        store.reload()
    if not settings.auth_enabled:
        status.reasons = ("auth_disabled",)
    watch = (
        KeyWatch(
            store,
            lambda: app.calls,
            wall=CLOCKS.wall,
            on_failure=metrics.keys_reload_failed,
            on_problem=status.keys_are_stale,
        )
        if store is not None
        else None
    )
    link = EngineLink(
        served_model(settings),
        admission,
        status,
        connect_timeout_s=settings.backend_connect_timeout,
        on_exit=metrics.engine_exited,
        on_use=lambda reused: metrics.upstream_reused() if reused else metrics.upstream_opened(),
        tasks=tasks,
        probe=probe_engine,
    )
    relay = Relay(
        link,
        admission,
        relay_settings(settings),
        tasks,
        still_welcome=watch.welcome if watch is not None else lambda call: True,
    )
    inference = Inference(
        relay=relay,
        admission=admission,
        facts=lambda: link.facts,
        policy=field_policy(settings),
        rules=body_rules(settings),
        budget=BodyBudget(settings.max_body_memory),
    )
    endpoints = Endpoints(
        status=status,
        models=link.models,
        created=int(CLOCKS.wall()),
        metrics=metrics,
        verdicts=verdict_options(settings),
        reload=watch.reload if watch is not None else _nothing_to_reload,
        clock=CLOCKS.monotonic,
    )
    empty = Keyring(())
    app = App(
        routes=route_table(
            inference,
            endpoints,
            health_check_path=settings.health_check_path,
            metrics_need_key=settings.metrics_auth_enabled,
        ),
        patterns=route_patterns(endpoints),
        auth=Authenticator(
            lambda: store.ring if store is not None else empty,
            WrongKeyThrottle(settings.auth_failures_per_minute or 1 << 30),
            everybody=None if keys_wanted else open_principal("everybody"),
            on_refused=metrics.auth_failed,
            hint=_key_hint(settings),
        ),
        cors=CorsPolicy(settings.cors_origins),
        proxies=TrustedProxies(settings.trusted_proxies),
        access_log=foundation.access_log,
        metrics=metrics,
        clocks=CLOCKS,
        head_block_bytes=settings.max_header_block_size,
    )
    listener = open_listener(
        settings.host, settings.port, vanished_after_s=settings.client_stall_timeout
    )
    front = FrontServer(
        app.handle,
        rejected=app.rejected,
        unparsed=app.unparsed,
        stalled=metrics.client_stalled,
        limits=server_limits(settings, resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
        trusted=TrustedProxies(settings.trusted_proxies),
    )

    def prepare() -> EngineCommand:
        return prepare_engine(settings, environ, run_dir.address, ConsoleProgress())

    def supervise(
        command: EngineCommand, on_change: Callable[[EngineSnapshot], None]
    ) -> Supervisor:
        return Supervisor(
            command,
            supervisor_settings(settings),
            probe=probe_engine,
            on_change=on_change,
            jitter=random.random,
            run_dir=run_dir,
        )

    return Parts(
        app=app,
        front=front,
        listener=listener,
        admission=admission,
        link=link,
        status=status,
        tasks=tasks,
        access_log=foundation.access_log,
        keywatch=watch,
        prepare=prepare,
        supervise=supervise,
        drain=drain_settings(settings),
        on_lag=metrics.loop_lagged,
        announce=announce,
    )


async def _nothing_to_reload() -> tuple[int, str | None]:
    return 0, "keys are not checked here"


def _key_hint(settings: Settings) -> str | None:
    if settings.platform.startswith("runpod"):
        return "Behind this platform send the gateway's key in the header X-API-Key."
    return None
