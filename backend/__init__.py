"""The llama.cpp child: finding it, starting it, watching it, and talking to it.

What the rest of the service uses of this room. A name is loaded when it is first used: the mock
engine and the health port need little of it, and a build or a download may never be needed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from backend.address import Address, TcpAddress, UnixAddress
    from backend.client import EngineClient, Exchange, Sink
    from backend.command import EngineCommand, EngineSettings, build_command
    from backend.cores import engine_threads
    from backend.engine import FindSettings, FoundEngine, build, find, find_or_build
    from backend.errors import (
        BackendError,
        ConnectFailed,
        EngineError,
        EngineGone,
        EngineTimeout,
        OperatorError,
    )
    from backend.gguf_file import validate
    from backend.gpu import Gpu, read_gpus
    from backend.model import ModelSettings, ResolvedModel, public_name, resolve
    from backend.probe import Probe, ProbeReady, probe_engine
    from backend.progress import ConsoleProgress, Progress
    from backend.rundir import RunDir
    from backend.rundir import default_path as default_run_dir
    from backend.states import SupervisorSettings
    from backend.status import FAILURE_EXIT_CODES, EngineProps, EngineSnapshot, EngineState, Failure
    from backend.supervisor import Supervisor

__all__ = [
    "FAILURE_EXIT_CODES",
    "Address",
    "BackendError",
    "ConnectFailed",
    "ConsoleProgress",
    "EngineClient",
    "EngineCommand",
    "EngineError",
    "EngineGone",
    "EngineProps",
    "EngineSettings",
    "EngineSnapshot",
    "EngineState",
    "EngineTimeout",
    "Exchange",
    "Failure",
    "FindSettings",
    "FoundEngine",
    "Gpu",
    "ModelSettings",
    "OperatorError",
    "Probe",
    "ProbeReady",
    "Progress",
    "ResolvedModel",
    "RunDir",
    "Sink",
    "Supervisor",
    "SupervisorSettings",
    "TcpAddress",
    "UnixAddress",
    "build",
    "build_command",
    "default_run_dir",
    "engine_threads",
    "find",
    "find_or_build",
    "probe_engine",
    "public_name",
    "read_gpus",
    "resolve",
    "validate",
]

_HOMES = {
    "Address": "address",
    "BackendError": "errors",
    "ConnectFailed": "errors",
    "ConsoleProgress": "progress",
    "EngineClient": "client",
    "EngineCommand": "command",
    "EngineError": "errors",
    "EngineGone": "errors",
    "EngineProps": "status",
    "EngineSettings": "command",
    "EngineSnapshot": "status",
    "EngineState": "status",
    "EngineTimeout": "errors",
    "Exchange": "client",
    "FAILURE_EXIT_CODES": "status",
    "Failure": "status",
    "FindSettings": "engine",
    "FoundEngine": "engine",
    "Gpu": "gpu",
    "ModelSettings": "model",
    "OperatorError": "errors",
    "Probe": "probe",
    "ProbeReady": "probe",
    "Progress": "progress",
    "ResolvedModel": "model",
    "RunDir": "rundir",
    "Sink": "client",
    "Supervisor": "supervisor",
    "SupervisorSettings": "states",
    "TcpAddress": "address",
    "UnixAddress": "address",
    "build": "engine",
    "build_command": "command",
    "engine_threads": "cores",
    "default_run_dir": "rundir:default_path",
    "find": "engine",
    "find_or_build": "engine",
    "probe_engine": "probe",
    "public_name": "model",
    "read_gpus": "gpu",
    "resolve": "model",
    "validate": "gguf_file",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(name)
    module, _, attribute = home.partition(":")
    value = getattr(import_module(f"backend.{module}"), attribute or name)
    globals()[name] = value
    return value
