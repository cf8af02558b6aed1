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
    from backend.errors import (
        BackendError,
        BadEngineArgument,
        ConnectFailed,
        EngineError,
        EngineGone,
        EngineTimeout,
        OperatorError,
        SlotRefused,
    )
    from backend.exits import ExitCause
    from backend.extra_args import refuse_extra_args
    from backend.gpu import Gpu, read_gpus
    from backend.inquiry import busy_slots
    from backend.probe import Probe, ProbeReady, probe_engine
    from backend.procfs import start_ticks
    from backend.rundir import RunDir
    from backend.rundir import default_path as default_run_dir
    from backend.slot_cache import (
        HeldPrompt,
        SavedSlot,
        bound_new_files,
        held_prompts,
        restore_slot,
        save_slot,
    )
    from backend.states import SupervisorSettings
    from backend.status import FAILURE_EXIT_CODES, EngineProps, EngineSnapshot, EngineState, Failure
    from backend.supervisor import Supervisor
    from backend.supply.engine import FindSettings, FoundEngine, build, find, find_or_build
    from backend.supply.gguf_file import validate
    from backend.supply.model import (
        ModelSettings,
        ResolvedModel,
        model_files,
        public_name,
        resolve,
    )
    from backend.supply.progress import ConsoleProgress, LogProgress, Progress
    from backend.supply.readahead import ReadAhead
    from backend.tied import TiedProcess

__all__ = [
    "FAILURE_EXIT_CODES",
    "Address",
    "BackendError",
    "BadEngineArgument",
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
    "ExitCause",
    "Failure",
    "FindSettings",
    "FoundEngine",
    "Gpu",
    "HeldPrompt",
    "LogProgress",
    "ModelSettings",
    "OperatorError",
    "Probe",
    "ProbeReady",
    "Progress",
    "ReadAhead",
    "ResolvedModel",
    "RunDir",
    "SavedSlot",
    "Sink",
    "SlotRefused",
    "Supervisor",
    "SupervisorSettings",
    "TcpAddress",
    "TiedProcess",
    "UnixAddress",
    "bound_new_files",
    "build",
    "build_command",
    "busy_slots",
    "default_run_dir",
    "engine_threads",
    "find",
    "find_or_build",
    "held_prompts",
    "model_files",
    "probe_engine",
    "public_name",
    "read_gpus",
    "refuse_extra_args",
    "resolve",
    "restore_slot",
    "save_slot",
    "start_ticks",
    "validate",
]

_HOMES = {
    "Address": "address",
    "BackendError": "errors",
    "BadEngineArgument": "errors",
    "ConnectFailed": "errors",
    "ConsoleProgress": "supply.progress",
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
    "ExitCause": "exits",
    "FAILURE_EXIT_CODES": "status",
    "Failure": "status",
    "FindSettings": "supply.engine",
    "FoundEngine": "supply.engine",
    "Gpu": "gpu",
    "LogProgress": "supply.progress",
    "ModelSettings": "supply.model",
    "OperatorError": "errors",
    "Probe": "probe",
    "ProbeReady": "probe",
    "Progress": "supply.progress",
    "ReadAhead": "supply.readahead",
    "ResolvedModel": "supply.model",
    "RunDir": "rundir",
    "Sink": "client",
    "Supervisor": "supervisor",
    "SupervisorSettings": "states",
    "TcpAddress": "address",
    "TiedProcess": "tied",
    "UnixAddress": "address",
    "build": "supply.engine",
    "build_command": "command",
    "busy_slots": "inquiry",
    "engine_threads": "cores",
    "default_run_dir": "rundir:default_path",
    "find": "supply.engine",
    "find_or_build": "supply.engine",
    "model_files": "supply.model",
    "probe_engine": "probe",
    "public_name": "supply.model",
    "read_gpus": "gpu",
    "refuse_extra_args": "extra_args",
    "resolve": "supply.model",
    "start_ticks": "procfs",
    "SlotRefused": "errors",
    "validate": "supply.gguf_file",
    "HeldPrompt": "slot_cache",
    "SavedSlot": "slot_cache",
    "bound_new_files": "slot_cache",
    "held_prompts": "slot_cache",
    "restore_slot": "slot_cache",
    "save_slot": "slot_cache",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(name)
    module, _, attribute = home.partition(":")
    value = getattr(import_module(f"backend.{module}"), attribute or name)
    globals()[name] = value
    return value
