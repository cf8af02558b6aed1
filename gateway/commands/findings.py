"""Looks at everything the service will need, without starting or fetching anything.

Each check answers one question with one or more findings. ``fail`` means that the service would
not start or would refuse every request; ``warn`` that it runs, but perhaps not as meant.
"""

from __future__ import annotations

import errno
import resource
import socket
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from backend import BackendError, find, read_gpus, resolve, validate
from gateway.config import Loaded, Problem
from gateway.settings.model import Settings
from gateway.wiring import find_settings, model_settings
from keys import KeyStore

__all__ = ["CHECKS", "Finding", "examine", "settings_findings"]

Level = Literal["ok", "warn", "fail"]

_OPEN_FILES_LEAST = 256
_OPEN_FILES_GOOD = 4096


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's report."""

    check: str
    level: Level
    message: str
    todo: str | None = None
    """What to do about it; None when there is nothing to do."""


def examine(loaded: Loaded) -> Iterator[Finding]:
    """Every finding, in the order of a start; a check that breaks is a finding, too."""
    yield Finding("settings", "ok", _sources(loaded))
    for warning in loaded.warnings:
        yield Finding("settings", "warn", warning)
    for name, check in CHECKS.items():
        try:
            yield from check(loaded.settings)
        except Exception as exc:
            yield Finding(name, "fail", f"could not be checked: {type(exc).__name__}: {exc}")


def settings_findings(problems: list[Problem]) -> list[Finding]:
    """The findings when the settings cannot even be read."""
    return [Finding("settings", "fail", str(problem)) for problem in problems]


def _sources(loaded: Loaded) -> str:
    profile = f", profile {loaded.profile}" if loaded.profile else ""
    return f"{len(loaded.chosen)} set, platform {loaded.settings.platform}{profile}"


# -- ports


def _ports(s: Settings) -> Iterator[Finding]:
    ports = {"PORT": s.port} if s.one_listener else {"PORT": s.port, "PORT_HEALTH": s.port_health}
    for name, port in ports.items():
        yield _port(name, s.host, port)


def _port(name: str, host: str, port: int) -> Finding:
    where = f"{name} {host}:{port}"
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, proto) as probe:
            # As the server itself does: connections of an earlier run that linger are no hindrance.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except socket.gaierror as exc:
        return Finding("ports", "fail", f"{where}: {exc.strerror}", "set HOST to an address here")
    except OSError as exc:
        todo = {
            errno.EADDRINUSE: f"stop what uses it, or set {name}",
            errno.EACCES: f"set {name} to 1024 or above",
            errno.EADDRNOTAVAIL: "set HOST to an address of this machine",
        }
        return Finding("ports", "fail", f"{where}: {exc.strerror}", todo.get(exc.errno or 0))
    return Finding("ports", "ok", f"{where} is free")


# -- keys


def _keys(s: Settings) -> Iterator[Finding]:
    if not s.auth_enabled:
        yield Finding("keys", "warn", "no key is asked for", "set AUTH_ENABLED=true")
        return
    if s.auth_mode == "platform":
        yield Finding("keys", "ok", "callers are checked by the platform (AUTH_MODE)")
        return
    path = s.auth_keys_file
    if not path.exists():
        yield Finding(
            "keys",
            "warn",
            f"{path} does not exist: every request will be refused",
            "run scripts/key_mgmt.py generate NAME",
        )
        return
    store = KeyStore(path, s.auth_pepper_file)
    store.reload()
    if store.problem is not None:
        yield Finding("keys", "fail", store.problem)
    elif len(store.ring) == 0:
        todo = "run scripts/key_mgmt.py generate NAME"
        yield Finding("keys", "warn", f"{path} holds no key", todo)
    else:
        yield Finding("keys", "ok", f"{len(store.ring)} keys in {path}")


# -- engine and model


def _engine(s: Settings) -> Iterator[Finding]:
    if s.engine == "mock":
        yield Finding("engine", "ok", "the mock engine: answers are made up")
        return
    try:
        found = find(find_settings(s))
    except BackendError as exc:
        yield Finding("engine", "fail", str(exc), "set LLAMA_SERVER to a llama-server that runs")
        return
    if found is None:
        todo = "run llama-gateway engine build (or the first start will do it)"
        yield Finding("engine", "warn", "there is no llama-server yet", todo)
    else:
        text = f"{found.path}, version {found.version}, from {found.source}"
        yield Finding("engine", "ok", text)


def _model(s: Settings) -> Iterator[Finding]:
    if s.engine == "mock":
        yield Finding("model", "ok", "the mock engine needs none")
        return
    here = s.model_path is not None or (s.model_name and not s.model_url and not s.model_hf)
    if not here:
        yield Finding("model", "ok", _model_to_fetch(s))
    else:
        yield _model_file(s)
    if s.mmproj is not None:
        yield _projector(s.mmproj)


def _model_to_fetch(s: Settings) -> str:
    if s.model_url:
        return "from MODEL_URL, fetched when the service starts"
    if s.model_hf:
        return f"{s.model_hf} from Hugging Face, fetched by the engine"
    return "the demo model, fetched when the service first starts"


def _model_file(s: Settings) -> Finding:
    try:
        model = resolve(model_settings(s))
    except BackendError as exc:
        return Finding("model", "fail", str(exc), "set MODEL_PATH or MODEL_NAME to a GGUF file")
    assert model.info is not None
    size_mib = model.info.size_bytes >> 20
    return Finding("model", "ok", f"{model.path}, {model.info.architecture}, {size_mib} MiB")


def _projector(path: Path) -> Finding:
    try:
        info = validate(path)
    except BackendError as exc:
        return Finding("model", "fail", str(exc), "set MMPROJ to the projector of this model")
    if info.kind != "mmproj":
        todo = "set MMPROJ to the projector of this model"
        return Finding("model", "fail", f"{path} is no projector but a {info.kind}", todo)
    return Finding("model", "ok", f"projector {path}")


def _gpu(s: Settings) -> Iterator[Finding]:
    gpus = read_gpus()
    if not gpus:
        yield Finding("gpu", "warn", "none visible: the engine computes on the CPU")
    for gpu in gpus:
        memory_mib = (gpu.memory_total_bytes or 0) >> 20
        yield Finding("gpu", "ok", f"{gpu.index}: {gpu.name}, {memory_mib} MiB")
    if len(gpus) > 1 and not s.tensor_split and s.split_mode is None:
        text = f"{len(gpus)} GPUs, and how the model is divided was not chosen"
        yield Finding("gpu", "warn", text, "set SPLIT_MODE or TENSOR_SPLIT")


# -- the process and its machine


def _parser(_: Settings) -> Iterator[Finding]:
    from aiohttp import http_parser

    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        todo = "install aiohttp with its compiled parts, and unset AIOHTTP_NO_EXTENSIONS"
        yield Finding("parser", "fail", "aiohttp runs on its slow Python parser", todo)
    else:
        yield Finding("parser", "ok", "aiohttp's compiled parser is in use")


def _data_dir(s: Settings) -> Iterator[Finding]:
    # The nearest folder that exists decides; those below it would be made.
    folder = next((p for p in (s.data_dir, *s.data_dir.absolute().parents) if p.exists()), Path())
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as exc:
        text = f"{s.data_dir} cannot be written: {exc.strerror}"
        todo = "fine if models and keys are there already; else set DATA_DIR"
        yield Finding("data", "warn", text, todo)
    else:
        yield Finding("data", "ok", f"{s.data_dir} can be written")


def _open_files(_: Settings) -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= _OPEN_FILES_GOOD:
        yield Finding("files", "ok", f"{soft} open files allowed")
        return
    level: Level = "fail" if soft < _OPEN_FILES_LEAST else "warn"
    todo = f"run ulimit -n {min(65536, hard) if hard > 0 else 65536} before the start"
    yield Finding("files", level, f"only {soft} open files allowed, one for each client", todo)


CHECKS: dict[str, Callable[[Settings], Iterator[Finding]]] = {
    "ports": _ports,
    "keys": _keys,
    "engine": _engine,
    "model": _model,
    "gpu": _gpu,
    "parser": _parser,
    "data": _data_dir,
    "files": _open_files,
}
