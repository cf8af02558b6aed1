"""Puts the service together: every part is made here and handed what it needs.

Nothing in here decides anything. Who talks to whom: read `compose`, then the functions below it.
"""

from __future__ import annotations

import random
import resource
from collections.abc import Callable, Mapping

from backend import (
    ConsoleProgress,
    LogProgress,
    ReadAhead,
    RunDir,
    Supervisor,
    default_run_dir,
    probe_engine,
)
from gateway.access.auth import Authenticator, open_principal
from gateway.access.keywatch import KeyWatch
from gateway.access.throttle import WrongKeyThrottle
from gateway.app import App
from gateway.call import Call
from gateway.clocks import Clocks, ExpiryClock
from gateway.dispatch import Dispatch
from gateway.endpoints import Endpoints
from gateway.engine.counter import PromptCounter
from gateway.engine.link import EngineLink
from gateway.engine.slots import SlotWatch
from gateway.engine.warm_slots import WarmSlots
from gateway.foundation import CLOCKS, Foundation, verdict_options
from gateway.front.body import BodyBudget
from gateway.front.cors import CorsPolicy
from gateway.front.listener import open_listener
from gateway.front.proxies import TrustedProxies
from gateway.front.server import FrontServer
from gateway.inference import Inference
from gateway.lifecycle import Parts
from gateway.limits.journal import Journal
from gateway.limits.keeper import LedgerKeeper
from gateway.limits.ledger import Ledger
from gateway.observe.coldstart import ColdStart
from gateway.observe.metrics import KeyLoad, Metrics
from gateway.observe.startwatch import StartWatch, process_started_s
from gateway.preparation import prepare_engine
from gateway.relay import Relay
from gateway.replay import Replay
from gateway.routes import ROUTE_NAMES, route_patterns, route_table
from gateway.settings.model import Settings
from gateway.spending import Spending
from gateway.suspicion.caution import Caution
from gateway.suspicion.inquest import Inquest
from gateway.suspicion.solitude import Solitude
from gateway.suspicion.suspects import Suspects
from gateway.suspicion.wary_counter import WaryCounter
from gateway.tasks import Tasks
from gateway.upkeep import idle_keeper, leak_patience_s, on_leak, watchdog
from gateway.wiring import (
    body_rules,
    default_limits,
    drain_settings,
    field_policy,
    keeps_prompts,
    model_alias,
    relay_settings,
    served_model,
    server_limits,
    supervisor_settings,
)
from health import VerdictOptions
from keys import Keyring, KeyStore

__all__ = ["compose"]

_NO_LIMIT = 1 << 30
_JOURNAL = "usage.json"
"""In DATA_DIR: what each key has used."""


def compose(
    settings: Settings,
    environ: Mapping[str, str],
    foundation: Foundation,
    *,
    announce: Callable[[], None],
    report_fatal: Callable[[str], None],
) -> Parts:
    """Make every part of the service; the public port is open afterwards.

    Must run in the event loop that will serve.

    Raises:
        PortTaken: The public port cannot be opened.
        OperatorError: The folder for the engine's socket is not safe.
    """
    metrics = foundation.metrics
    metrics.know_routes(ROUTE_NAMES | {settings.health_check_path})
    metrics.know_models((model_alias(settings),))
    run_dir = RunDir(default_run_dir())
    progress = LogProgress() if settings.log_format == "json" else ConsoleProgress()
    read_ahead = ReadAhead(clock=CLOCKS.monotonic)
    starts = _start_watch(metrics, read_ahead)
    tasks = Tasks()
    calls: set[Call] = set()
    store = _key_store(settings)
    expiry = ExpiryClock(CLOCKS.wall)
    watch = _key_watch(store, calls, foundation, expiry) if store is not None else None
    slot_dir = run_dir.make_slot_dir() if keeps_prompts(settings) else None
    link = _engine_link(settings, foundation, tasks, WarmSlots(slot_dir))
    ledger = Ledger(default_limits(settings))
    keeper = LedgerKeeper(ledger, Journal(settings.data_dir / _JOURNAL), CLOCKS)
    keeper.restore()
    SlotWatch(
        foundation.admission,
        lambda: link.client,
        tasks,
        on_leak=on_leak(settings, foundation, link),
        patience_s=leak_patience_s(settings),
    )
    link.on_ready = foundation.activity.touch
    metrics.know_busy_keys(
        lambda: {
            key: KeyLoad(in_use, foundation.admission.waiting_of(key))
            for key, in_use in ledger.in_use().items()
        }
    )
    suspects = Suspects(suspends_keys=settings.checks_keys)
    caution = Caution(suspects, Solitude(), Inquest(link, suspects))
    foundation.admission.excused_s = caution.solitude.lasted_s
    spending = _spending(ledger, foundation, link, caution, tasks)
    inference = _inference(
        settings, foundation, spending, caution, link, tasks, watch, starts.first_event
    )
    endpoints = _endpoints(foundation, ledger, link, watch, verdict_options(settings))
    clocks = Clocks(CLOCKS.monotonic, expiry)
    app = _app(settings, foundation, inference, endpoints, store, calls, clocks)
    listener = open_listener(
        settings.host, settings.port, vanished_after_s=settings.client_stall_timeout
    )
    if not settings.auth_enabled:
        foundation.status.reasons = ("auth_disabled",)
    return Parts(
        app=app,
        front=_front(settings, app, metrics),
        listener=listener,
        admission=foundation.admission,
        link=link,
        status=foundation.status,
        tasks=tasks,
        access_log=foundation.access_log,
        keywatch=watch,
        keeper=keeper,
        prepare=lambda: prepare_engine(
            settings, environ, run_dir.address, progress, read_ahead, slot_dir
        ),
        starts=starts,
        supervise=lambda command, on_change: Supervisor(
            command,
            supervisor_settings(settings),
            probe=probe_engine,
            on_change=on_change,
            jitter=random.random,
            run_dir=run_dir,
        ),
        drain=drain_settings(settings),
        on_lag=metrics.loop_lagged,
        watchdog=watchdog(settings, foundation, link),
        idle_keeper=lambda leave: idle_keeper(settings, environ, foundation, link, leave),
        announce=announce,
        report_fatal=report_fatal,
    )


def _start_watch(metrics: Metrics, read_ahead: ReadAhead) -> StartWatch:
    started_s = process_started_s(CLOCKS.monotonic())
    return StartWatch(ColdStart(started_s), metrics, read_ahead, CLOCKS.monotonic)


def _key_store(settings: Settings) -> KeyStore | None:
    """The keys, read once; None where this service does not check them."""
    if not settings.checks_keys:
        return None
    store = KeyStore(settings.auth_keys_file, settings.auth_pepper_file)
    store.reload()
    return store


def _key_watch(
    store: KeyStore, calls: set[Call], foundation: Foundation, expiry: ExpiryClock
) -> KeyWatch:
    return KeyWatch(
        store,
        calls,
        wall=expiry,
        on_failure=foundation.metrics.keys_reload_failed,
        on_problem=foundation.status.keys_are_stale,
    )


def _engine_link(
    settings: Settings, foundation: Foundation, tasks: Tasks, warm: WarmSlots
) -> EngineLink:
    metrics = foundation.metrics

    def on_use(reused: bool) -> None:
        if reused:
            metrics.upstream_reused()
        else:
            metrics.upstream_opened()

    return EngineLink(
        served_model(settings),
        foundation.admission,
        foundation.status,
        connect_timeout_s=settings.backend_connect_timeout,
        on_exit=metrics.engine_exited,
        on_use=on_use,
        tasks=tasks,
        probe=probe_engine,
        warm=warm,
    )


def _spending(
    ledger: Ledger, foundation: Foundation, link: EngineLink, caution: Caution, tasks: Tasks
) -> Spending:
    return Spending(
        ledger=ledger,
        counter=WaryCounter(
            PromptCounter(lambda: link.client), lambda: link.generation, caution, tasks
        ),
        clocks=CLOCKS,
        rates=foundation.admission.rates,
        slots=lambda: link.slots,
    )


def _inference(
    settings: Settings,
    foundation: Foundation,
    spending: Spending,
    caution: Caution,
    link: EngineLink,
    tasks: Tasks,
    watch: KeyWatch | None,
    on_first: Callable[[float], None],
) -> Inference:
    admission, metrics = foundation.admission, foundation.metrics
    welcome = watch.welcome if watch is not None else _everybody_is_welcome
    dispatch = Dispatch(link, admission, still_welcome=welcome)
    replay = Replay(link, dispatch, caution, tasks, on_replay=metrics.replayed)
    link.on_death = replay.judge_left
    relay = Relay(
        link,
        admission,
        relay_settings(settings),
        tasks,
        dispatch=dispatch,
        replay=replay,
        on_first=on_first,
        on_continued=metrics.continued,
    )
    return Inference(
        relay=relay,
        admission=admission,
        spending=spending,
        facts=lambda: link.facts,
        policy=field_policy(settings),
        rules=body_rules(settings),
        # Where keys are not checked all callers are one, who may have all of it.
        budget=BodyBudget(settings.max_body_memory, None if watch else settings.max_body_memory),
        activity=foundation.activity,
        suspects=caution.suspects,
    )


def _endpoints(
    foundation: Foundation,
    ledger: Ledger,
    link: EngineLink,
    watch: KeyWatch | None,
    verdicts: VerdictOptions,
) -> Endpoints:
    return Endpoints(
        status=foundation.status,
        models=link.models,
        created=int(CLOCKS.wall()),
        metrics=foundation.metrics,
        verdicts=verdicts,
        reload=watch.reload if watch is not None else _nothing_to_reload,
        ledger=ledger,
        clocks=CLOCKS,
    )


def _app(
    settings: Settings,
    foundation: Foundation,
    inference: Inference,
    endpoints: Endpoints,
    store: KeyStore | None,
    calls: set[Call],
    clocks: Clocks,
) -> App:
    nobody = Keyring(())
    return App(
        routes=route_table(
            inference,
            endpoints,
            health_check_path=settings.health_check_path,
            metrics_need_key=settings.metrics_auth_enabled,
        ),
        patterns=route_patterns(endpoints),
        auth=Authenticator(
            lambda: store.ring if store is not None else nobody,
            WrongKeyThrottle(settings.auth_failures_per_minute or _NO_LIMIT),
            everybody=open_principal("everybody") if store is None else None,
            on_refused=foundation.metrics.auth_failed,
            hint=_key_hint(settings),
        ),
        cors=CorsPolicy(settings.cors_origins),
        proxies=TrustedProxies(settings.trusted_proxies),
        access_log=foundation.access_log,
        metrics=foundation.metrics,
        clocks=clocks,
        head_block_bytes=settings.max_header_block_size,
        calls=calls,
    )


def _front(settings: Settings, app: App, metrics: Metrics) -> FrontServer:
    return FrontServer(
        app.handle,
        rejected=app.rejected,
        unparsed=app.unparsed,
        stalled=metrics.client_stalled,
        crowded=metrics.stream_crowded_out,
        limits=server_limits(settings, resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
        trusted=TrustedProxies(settings.trusted_proxies),
    )


def _everybody_is_welcome(_: Call) -> bool:
    return True


async def _nothing_to_reload() -> tuple[int, str | None]:
    return 0, "keys are not checked here"


def _key_hint(settings: Settings) -> str | None:
    if settings.platform.startswith("runpod"):
        return "Behind this platform send the gateway's key in the header X-API-Key."
    return None
