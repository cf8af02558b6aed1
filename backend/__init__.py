"""The llama.cpp child: finding it, starting it, watching it, and talking to it.

What the rest of the service uses of this room. Modules that only a first start needs (the build,
the download) are loaded when they are called.
"""

from backend.address import Address, TcpAddress, UnixAddress
from backend.client import EngineClient, Exchange, Sink
from backend.command import EngineCommand, EngineSettings, build_command
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
from backend.probe import probe_engine
from backend.progress import ConsoleProgress, Progress
from backend.rundir import RunDir
from backend.rundir import default_path as default_run_dir
from backend.states import SupervisorSettings
from backend.status import (
    FAILURE_EXIT_CODES,
    EngineProps,
    EngineSnapshot,
    EngineState,
    Failure,
)
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
    "find",
    "find_or_build",
    "probe_engine",
    "public_name",
    "read_gpus",
    "resolve",
    "validate",
]
