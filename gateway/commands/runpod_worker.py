"""`llama-gateway runpod-worker`: the service behind the queue of a RunPod Serverless endpoint."""

from __future__ import annotations

import asyncio
import logging
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli import load_and_log, settings_options

if TYPE_CHECKING:
    from gateway.config import Loaded
    from gateway.runpod.environments import Endpoint

__all__ = ["runpod_worker"]

_log = logging.getLogger(__name__)


@click.command("runpod-worker")
@settings_options
def runpod_worker(**flags: object) -> None:
    """Run the service behind the queue of a RunPod Serverless endpoint.

    Starts the service on this machine only, waits until it is ready, then takes jobs with RunPod's
    SDK, as many at a time as the engine has slots. For load-balancing endpoints and Pods use serve.

    Exit codes: 0 stopped as asked, or RunPod's worker ended with 0; 1 it cannot start; 2 the
    settings are wrong; the service's own code (see serve) when that ended by itself; RunPod's
    worker's code likewise; 128+n a second signal n forced the end, or signal n killed either.
    """
    loaded = load_and_log(**flags)
    sys.exit(_run(loaded, flags))


def _run(loaded: Loaded, flags: Mapping[str, object]) -> int:
    from gateway.config import CONFIG_DIR_ENV, PROFILE_ENV, environment
    from gateway.runpod.environments import gateway_env
    from gateway.runpod.supervision import Plan, supervise
    from keys import KeysError

    environ = environment()
    if (obstacle := _obstacle(environ)) is not None:
        _log.error("%s", obstacle)
        return 1
    if loaded.settings.idle_action != "none":
        _log.warning(
            "IDLE_ACTION=%s is taken as none: the platform stops idle workers itself",
            loaded.settings.idle_action,
        )
    own = dict(flags)
    for name, variable in (("profile", PROFILE_ENV), ("config_dir", CONFIG_DIR_ENV)):
        if (value := own.pop(name, None)) is not None:
            environ = {**environ, variable: str(value)}
    with ExitStack() as stack:
        try:
            endpoint = stack.enter_context(_endpoint(loaded))
        except (KeysError, OSError) as exc:
            _log.error("cannot make the key for this run: %s", exc)
            return 1
        plan = Plan(
            endpoint=endpoint,
            environ=environ,
            gateway_env=gateway_env(environ, endpoint, loaded.settings, own, loaded.chosen),
            drain_timeout_s=loaded.settings.drain_timeout,
            engine_stop_s=loaded.settings.engine_stop_timeout,
        )
        return asyncio.run(supervise(plan))


def _obstacle(environ: Mapping[str, str]) -> str | None:
    """Why there can be no worker here."""
    if find_spec("runpod") is None:
        return "the package runpod is not installed: pip install 'llama-gateway[runpod]'"
    if not environ.get("RUNPOD_WEBHOOK_GET_JOB"):
        return (
            "RUNPOD_WEBHOOK_GET_JOB is not set: this is no worker of a RunPod queue endpoint; "
            "use 'llama-gateway serve' for a load-balancing endpoint or a Pod"
        )
    return None


@contextmanager
def _endpoint(loaded: Loaded) -> Iterator[Endpoint]:
    """Ports and a key for this run, in a folder that is gone afterwards."""
    from gateway.runpod.environments import Endpoint
    from keys import create_first_key

    settings, chosen = loaded.settings, loaded.chosen
    folder = Path(tempfile.mkdtemp(prefix="llama-gateway-worker-"))
    try:
        keys_file, pepper_file = folder / "keys.yaml", folder / "keys.pepper"
        key = create_first_key(keys_file, pepper_file, "made for this run")
        assert key is not None
        port = settings.port if "port" in chosen else 0
        port_health = settings.port_health if "port_health" in chosen else 0
        spare = _free_ports()
        yield Endpoint(port or spare[0], port_health or spare[1], keys_file, pepper_file, key)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _free_ports() -> tuple[int, int]:
    """Two ports of the loopback address that nobody has at this moment."""
    with socket.socket() as one, socket.socket() as other:
        for each in (one, other):
            each.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]
