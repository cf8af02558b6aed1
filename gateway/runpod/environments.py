"""PURE: the environments of the two processes behind a RunPod queue.

The gateway listens on this machine only, with a key made for this run. The SDK's process gets that
key by environment, because everybody on the machine can read arguments.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from gateway.settings.model import SPECS, Settings

__all__ = ["WORKER_KEY", "WORKER_SLOTS", "WORKER_URL", "Endpoint", "gateway_env", "sdk_env"]

WORKER_URL = "LLAMA_GATEWAY_WORKER_URL"
WORKER_KEY = "LLAMA_GATEWAY_WORKER_KEY"
WORKER_SLOTS = "LLAMA_GATEWAY_WORKER_SLOTS"

_ACCOUNT_SECRETS = frozenset(("RUNPOD_API_KEY", "RUNPOD_AI_API_KEY"))


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the gateway of this run is, and how to get in."""

    port: int
    port_health: int
    keys_file: Path
    pepper_file: Path
    key: str

    @property
    def url(self) -> str:
        """The API's base, without a path."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def ready_url(self) -> str:
        """What to ask whether requests may come."""
        return f"http://127.0.0.1:{self.port_health}/readyz"


def gateway_env(
    environ: Mapping[str, str],
    endpoint: Endpoint,
    settings: Settings,
    flags: Mapping[str, object],
    chosen: Collection[str],
) -> dict[str, str]:
    """
    The environment of `serve`.

    Args:
        environ: Ours.
        endpoint: Where it is to listen, and its only key.
        settings: The effective settings.
        flags: By field name, what was given on our command line; None where nothing was.
        chosen: Names of settings that some source set.
    """
    env = {name: value for name, value in environ.items() if name not in _ACCOUNT_SECRETS}
    env |= {SPECS[name].env: _text(v) for name, v in flags.items() if v is not None}
    env |= {
        "HOST": "127.0.0.1",
        "PORT": str(endpoint.port),
        "PORT_HEALTH": str(endpoint.port_health),
        "AUTH_ENABLED": "true",
        "AUTH_MODE": "keys",
        "AUTH_KEYS_FILE": str(endpoint.keys_file),
        "AUTH_PEPPER_FILE": str(endpoint.pepper_file),
        # Nobody is to be told that it goes; its only client is stopped before it.
        "DRAIN_DELAY": "0",
        "IDLE_ACTION": "none",
    }
    return env | _unless_chosen(settings, chosen)


def sdk_env(environ: Mapping[str, str], endpoint: Endpoint, slots: int) -> dict[str, str]:
    """
    The environment of the SDK's process.

    Two of the SDK's defaults are changed: at DEBUG it writes every prompt and answer to the log,
    and it refuses to start with less than 10 % of the disk free, which a model easily takes.
    """
    secrets = {spec.env for spec in SPECS.values() if spec.secret}
    env = {name: value for name, value in environ.items() if name not in secrets}
    env.setdefault("RUNPOD_MIN_DISK_PERCENT", "2")
    if "RUNPOD_DEBUG_LEVEL" not in env:
        env.setdefault("RUNPOD_LOG_LEVEL", "INFO")
    return env | {WORKER_URL: endpoint.url, WORKER_KEY: endpoint.key, WORKER_SLOTS: str(slots)}


def _unless_chosen(settings: Settings, chosen: Collection[str]) -> dict[str, str]:
    """One key stands for all clients, and no load balancer ends what takes long."""
    values = {
        "max_requests_per_minute": "0",
        "max_tokens_per_minute": "0",
        "max_queue_per_key": str(max(settings.max_queue_size, 1)),
        "request_timeout": f"{SPECS['request_timeout'].default}s",
    }
    return {SPECS[name].env: value for name, value in values.items() if name not in chosen}


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
