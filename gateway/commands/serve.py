"""`llama-gateway serve`: runs the service until it is told to stop.

The order matters: settings, logs, health port, and only then whatever takes long to import. A
platform probes the health port from the first second on.
"""

from __future__ import annotations

import gc
import logging
import signal
import sys
import threading
from types import FrameType
from typing import TYPE_CHECKING

import click

from gateway.cli import load_and_log, settings_options

if TYPE_CHECKING:
    from gateway.config import Loaded
    from gateway.foundation import Foundation
    from gateway.observe.readiness_log import ReadinessLog
    from gateway.settings.model import Settings

__all__ = ["serve"]

_log = logging.getLogger(__name__)


@click.command()
@click.option(
    "--first-run",
    is_flag=True,
    help="Make the first API key when there is none, and show how to use the service.",
)
@settings_options
def serve(first_run: bool, **flags: object) -> None:
    """Run the service.

    Exit codes: 0 stopped as asked; 1 it cannot start, or the engine crashed too often or never
    became ready; 2 the settings are wrong; 70 a bug in the supervision; 71 the engine could not be
    killed; 128+n a second signal n forced the end.
    """
    _mind_early_signals()

    loaded = load_and_log(**flags)
    settings = loaded.settings
    _say_what_is_odd(loaded)
    secret = _first_key(settings) if first_run else None
    sys.exit(_serve(settings, secret, first_run))


def _mind_early_signals() -> None:
    """Until the service's own handlers are there: leave in order when told to, ignore a hang-up."""

    def leave(number: int, _: FrameType | None) -> None:
        _log.info("%s before the service was up", signal.Signals(number).name)
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _serve(settings: Settings, secret: str | None, first_run: bool) -> int:
    from gateway.foundation import CLOCKS, lay_foundation, verdict_options
    from gateway.observe.accesslog import AccessLog
    from gateway.observe.readiness_log import ReadinessLog
    from gateway.version import VERSION
    from health import HEALTH_PATHS, HealthPortError, HealthServer

    access_log = AccessLog(
        sys.stderr.fileno(),
        line_format="json" if settings.log_format == "json" else "text",
        clock=CLOCKS.wall,
        quiet_routes=HEALTH_PATHS | {settings.health_check_path},
    )
    foundation = lay_foundation(settings, access_log, VERSION)
    readiness = ReadinessLog(settings.model_log)
    health: HealthServer | None = None
    if not settings.one_listener:
        health = HealthServer(
            settings.host,
            settings.port_health,
            snapshot=foundation.status.snapshot,
            metrics=lambda: foundation.metrics.render(foundation.status.snapshot()),
            clock=CLOCKS.monotonic,
            options=verdict_options(settings),
        )
        try:
            health.start()
        except HealthPortError as exc:
            _log.error("%s", exc)
            readiness.fatal("health_port")
            return 1
        _log.info("health port is open on %s:%d", settings.host, health.port)
    try:
        return _run(settings, foundation, readiness, secret, first_run)
    finally:
        if health is not None:
            health.stop()


def _run(
    settings: Settings,
    foundation: Foundation,
    readiness: ReadinessLog,
    secret: str | None,
    first_run: bool,
) -> int:
    import uvloop

    from backend import OperatorError
    from gateway.commands.first_run import base_url, welcome
    from gateway.config import environment
    from gateway.front.listener import PortTaken
    from gateway.lifecycle import Lifecycle
    from gateway.service import compose
    from gateway.wiring import model_alias

    async def run() -> int:
        parts = compose(
            settings,
            environment(),
            foundation,
            announce=lambda: announce(parts.listener.getsockname()[1]),
            report_fatal=readiness.fatal,
        )
        # What the start has made stays. Looking it all through again with every full collection
        # holds up all streams, by some 40 ms every few seconds of heavy load.
        gc.collect()
        gc.freeze()
        lifecycle = Lifecycle(parts)
        lifecycle.mind_signals()
        port = parts.listener.getsockname()[1]
        _log.info("api port is open on %s:%d", settings.host, port)
        return await lifecycle.run()

    def announce(port: int) -> None:
        _log.info("ready: %s/v1", base_url(settings.host, port))
        if settings.public_url:
            _log.info("clients outside reach it at %s/v1", settings.public_url.rstrip("/"))
        readiness.ready(model_alias(settings))
        if first_run:
            auth = settings.checks_keys
            text = welcome(settings.host, port, model_alias(settings), secret, auth=auth)
            click.echo(text)

    try:
        return uvloop.run(run())
    except (PortTaken, OperatorError) as exc:
        _log.error("%s", exc)
        readiness.fatal("cannot_start")
        return 1


def _first_key(settings: Settings) -> str | None:
    from keys import KeysError, create_first_key

    if not settings.checks_keys:
        return None
    try:
        return create_first_key(
            settings.auth_keys_file, settings.auth_pepper_file, "made by the first run"
        )
    except KeysError as exc:
        raise click.ClickException(str(exc)) from exc


def _say_what_is_odd(loaded: Loaded) -> None:
    for warning in loaded.warnings:
        _log.warning("%s", warning)
    if not loaded.settings.auth_enabled:
        _remind_of_open_door()


def _remind_of_open_door() -> None:
    """Say it again every ten minutes; at the start the settings' own warning has said it."""

    def remind() -> None:
        _log.warning("AUTH_ENABLED is false: everyone who reaches the port may use the service")
        _remind_of_open_door()

    timer = threading.Timer(600.0, remind)
    timer.daemon = True
    timer.start()
