"""PURE: defaults that follow from the platform or from other settings.

The platform chooses defaults and labels and nothing else, so a wrong guess costs little and
PLATFORM= always corrects it. A value that was set anywhere is never touched here.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gateway.settings.model import Settings

__all__ = ["Derived", "derive", "detect_platform"]


@dataclass(frozen=True, slots=True)
class Derived:
    """A default that was worked out, and what from."""

    value: Any
    because: str


@dataclass(frozen=True, slots=True)
class _Platform:
    """What differs from a plain machine."""

    volume: str | None = None
    drain_timeout_s: float | None = None
    request_timeout_s: float | None = None
    body_limit_bytes: int | None = None
    shares_port: bool = False
    host: str | None = None
    port: int | None = None
    node_id_names: tuple[str, ...] = ()


# Drain: what is left of the platform's grace between its signal and SIGKILL, where it says;
# 25 s on RunPod and 8 s on Vast and Modal are guesses on the safe side, as they do not say.
# RunPod's load balancer ends a request after 330 s, carries 30 MB, and probes PORT when
# PORT_HEALTH is not set. On Vast Serverless, callers reach the PyWorker, and only that reaches us;
# 18000 is where the vendor's own model servers listen.
_RUNPOD = _Platform(
    drain_timeout_s=25.0,
    body_limit_bytes=30_000_000,
    shares_port=True,
    node_id_names=("RUNPOD_POD_ID",),
)
_PLATFORMS: Mapping[str, _Platform] = {
    "runpod-serverless": replace(_RUNPOD, volume="/runpod-volume", request_timeout_s=320.0),
    "runpod-pod": replace(_RUNPOD, volume="/workspace"),
    "vast-serverless": _Platform(
        "/workspace", 8.0, host="127.0.0.1", port=18000, node_id_names=("CONTAINER_ID",)
    ),
    "vast": _Platform("/workspace", 8.0, node_id_names=("CONTAINER_ID", "VAST_CONTAINERLABEL")),
    "fly": _Platform(drain_timeout_s=0.0, node_id_names=("FLY_MACHINE_ID",)),
    "knative": _Platform(drain_timeout_s=15.0, node_id_names=("HOSTNAME",)),
    "cloud-run": _Platform(drain_timeout_s=8.0, node_id_names=("K_REVISION",)),
    "kubernetes": _Platform(drain_timeout_s=15.0, node_id_names=("HOSTNAME",)),
    "modal": _Platform(drain_timeout_s=8.0, node_id_names=("MODAL_TASK_ID",)),
}


def detect_platform(environ: Mapping[str, str]) -> str:
    """The platform that *environ* speaks of, else ``generic``; the first match counts."""

    def has(name: str) -> bool:
        return bool(environ.get(name))

    if has("RUNPOD_ENDPOINT_ID"):
        return "runpod-serverless"
    if has("RUNPOD_POD_ID"):
        return "runpod-pod"
    if has("VAST_CONTAINERLABEL"):
        reports = has("MASTER_TOKEN") and has("REPORT_ADDR")
        serverless = reports or environ.get("SERVERLESS", "").lower() == "true"
        return "vast-serverless" if serverless else "vast"
    if has("FLY_MACHINE_ID"):
        return "fly"
    if has("K_SERVICE"):
        return "knative" if has("KUBERNETES_SERVICE_HOST") else "cloud-run"
    if has("KUBERNETES_SERVICE_HOST"):
        return "kubernetes"
    return "modal" if has("MODAL_TASK_ID") else "generic"


def derive(
    settings: Settings,
    chosen: Collection[str],
    environ: Mapping[str, str],
    *,
    is_dir: Callable[[str], bool],
    host_name: str,
    user_cache_dir: Path,
) -> dict[str, Derived]:
    """
    The defaults that differ from those in `Settings`.

    Args:
        settings: What was set, and plain defaults for the rest.
        chosen: Names that were set; they are left alone.
        environ: Looked at for the platform and its id of this instance.
        is_dir: Whether a folder exists.
        host_name: Name of this machine.
        user_cache_dir: Where this user's caches lie.
    """
    name = settings.platform if "platform" in chosen else detect_platform(environ)
    platform = _PLATFORMS.get(name, _Platform())
    found = {"platform": Derived(name, "found from the environment")}
    found |= _from_platform(name, platform)
    port = settings.port if "port" in chosen or platform.port is None else platform.port
    found["port_health"] = _health_port(port, chosen, name, platform)
    if name == "vast" and (url := _vast_url(port, environ)):
        found["public_url"] = Derived(url, f"PUBLIC_IPADDR and VAST_TCP_PORT_{port}")
    found["node_id"] = _node_id(platform, environ, host_name)
    found["cache_dir"] = Derived(user_cache_dir, "the user's cache folder")
    found["max_request_body_size"] = _body_limit(settings, name, platform)
    if not settings.checks_keys:
        found |= _one_key_for_all(settings)
    found |= _folders(settings, chosen, _data_dir(name, platform, is_dir))
    return {key: value for key, value in found.items() if key not in chosen}


def _from_platform(name: str, platform: _Platform) -> dict[str, Derived]:
    because = f"platform {name}"
    values = {
        "host": platform.host,
        "port": platform.port,
        "drain_timeout": platform.drain_timeout_s,
        "request_timeout": platform.request_timeout_s,
    }
    return {key: Derived(value, because) for key, value in values.items() if value is not None}


def _health_port(port: int, chosen: Collection[str], name: str, platform: _Platform) -> Derived:
    if port == 0:
        return Derived(0, "PORT is 0: any free port here too")
    if platform.shares_port and "port" in chosen:
        return Derived(port, f"PORT, as platform {name} probes it")
    # 65535 has no neighbour above; the checks then ask for PORT_HEALTH.
    return Derived(min(port + 1, 65535), "PORT + 1")


def _vast_url(port: int, environ: Mapping[str, str]) -> str | None:
    """Where *port* is seen from outside: Vast maps each port to a random public one."""
    address = environ.get("PUBLIC_IPADDR", "").strip()
    outside = environ.get(f"VAST_TCP_PORT_{port}", "").strip()
    if not (outside.isascii() and outside.isdigit()):
        return None
    try:
        at = ipaddress.ip_address(address)
    except ValueError:
        return None
    return f"http://[{at}]:{outside}" if at.version == 6 else f"http://{at}:{outside}"


def _node_id(platform: _Platform, environ: Mapping[str, str], host_name: str) -> Derived:
    for name in platform.node_id_names:
        if value := environ.get(name):
            return Derived(_clean(value), name)
    return Derived(_clean(host_name) or "local", "host name")


def _clean(text: str) -> str:
    return "".join(c for c in text if c.isascii() and (c.isalnum() or c in "._:-"))[:128]


def _body_limit(settings: Settings, name: str, platform: _Platform) -> Derived:
    limit, because = settings.max_request_body_size, "built in"
    if settings.mmproj is not None:
        limit, because = 32 << 20, "MMPROJ is set: media arrive inline"
    if platform.body_limit_bytes is not None and limit > platform.body_limit_bytes:
        limit, because = platform.body_limit_bytes, f"platform {name}"
    return Derived(limit, because)


def _one_key_for_all(settings: Settings) -> dict[str, Derived]:
    """Without keys all callers are one, and what is meant for one of many would hem them all in."""
    because = "keys are not checked: all callers are one"
    return {
        "max_requests_per_minute": Derived(0, because),
        "max_tokens_per_minute": Derived(0, because),
        "max_queue_per_key": Derived(max(settings.max_queue_size, 1), because),
    }


def _data_dir(name: str, platform: _Platform, is_dir: Callable[[str], bool]) -> Derived:
    if platform.volume is not None and is_dir(platform.volume):
        return Derived(Path(platform.volume), f"platform {name}")
    if is_dir("/data"):
        return Derived(Path("/data"), "/data exists")
    return Derived(Path("data"), "built in")


def _folders(settings: Settings, chosen: Collection[str], data_dir: Derived) -> dict[str, Derived]:
    base = settings.data_dir if "data_dir" in chosen else data_dir.value
    keys = settings.auth_keys_file if "auth_keys_file" in chosen else base / "keys.yaml"
    return {
        "data_dir": data_dir,
        "models_dir": Derived(base / "models", "under DATA_DIR"),
        "auth_keys_file": Derived(keys, "under DATA_DIR"),
        "auth_pepper_file": Derived(keys.with_suffix(".pepper"), "next to AUTH_KEYS_FILE"),
    }
