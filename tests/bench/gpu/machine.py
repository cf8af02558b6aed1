"""What the machine must have, said before minutes are spent on finding out.

The decisions are plain functions of values; `look` and `engine_of` go and get those.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import psutil

from backend import BackendError, ConsoleProgress, read_gpus
from backend.supply.build import build_engine, unpack_llama_cpp
from backend.supply.engine import cache_root
from backend.supply.progress import Progress
from tests.bench.gpu.random_gguf import Shape
from tests.bench.gpu.replies import Load

__all__ = [
    "CannotRun",
    "Device",
    "DeviceKind",
    "check_disk",
    "check_folder",
    "check_gpu",
    "devices_in",
    "engine_of",
    "look",
    "memory_needed",
]

DeviceKind = Literal["cuda", "cpu"]

_DEVICE = re.compile(r"^\s+(CUDA\d+): (.+) \((\d+) MiB, (\d+) MiB free\)$", re.MULTILINE)
_MIB = 1 << 20
_ROOT = Path(__file__).parents[3]
_BESIDE_BYTES = 1 << 30
"""Of an engine besides weights and context: buffers for computing, and the CUDA context."""


class CannotRun(Exception):  # noqa: N818 (says what is so)
    """This machine lacks something; the text says what, and what can be done."""


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU, as llama-server sees it."""

    id: str
    name: str
    total_bytes: int
    free_bytes: int


def devices_in(text: str) -> tuple[Device, ...]:
    """The GPUs in what ``llama-server --list-devices`` prints."""
    return tuple(
        Device(match[1], match[2], int(match[3]) * _MIB, int(match[4]) * _MIB)
        for match in _DEVICE.finditer(text)
    )


def memory_needed(shape: Shape, load: Load, slots: int) -> int:
    """Bytes on the GPU for the two engines that are asked in turns."""
    context = slots * load.slot_tokens * shape.kv_bytes_a_token
    return 2 * (shape.file_bytes + context + _BESIDE_BYTES)


def check_gpu(devices: tuple[Device, ...], needed_bytes: int) -> None:
    """Raise `CannotRun` unless the engine has GPUs, and *needed_bytes* are free on them."""
    if not devices:
        raise CannotRun(
            "this llama-server sees no CUDA device: it was built without CUDA, or the driver does "
            "not answer (see nvidia-smi). Give another with --binary, or measure with --device cpu"
        )
    free = sum(device.free_bytes for device in devices)
    if free < needed_bytes:
        raise CannotRun(
            f"{needed_bytes / 1e9:.1f} GB of GPU memory are needed for two engines side by side, "
            f"{free / 1e9:.1f} are free. Fewer streams or tokens need less: --streams 1,8"
        )


def check_disk(folder: Path, shape: Shape) -> None:
    """Raise `CannotRun` unless a model of *shape* fits into *folder*."""
    free, needed = shutil.disk_usage(folder).free, shape.file_bytes + 64 * _MIB
    if free < needed:
        raise CannotRun(
            f"{folder}: {needed / 1e9:.1f} GB of disk are needed for the model, {free / 1e9:.1f} "
            "are free. Choose another folder with --out"
        )


def check_folder(folder: Path) -> None:
    """Make *folder*; raise `CannotRun` where it cannot be made or written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as exc:
        raise CannotRun(f"--out {folder}: {exc.strerror}. Choose another folder") from exc


def _check_tools(device: DeviceKind) -> None:
    """Raise `CannotRun` where an engine for CUDA cannot be built."""
    if device == "cpu":
        return
    if not read_gpus() and not Path("/proc/driver/nvidia/gpus").is_dir():
        raise CannotRun(
            "no NVIDIA GPU found (nvidia-smi tells of none). To try the program itself on a CPU: "
            "--device cpu"
        )
    cuda_home = "/usr/local/cuda/bin"
    if shutil.which("nvcc") is None and shutil.which("nvcc", path=cuda_home) is None:
        raise CannotRun(
            f"nvcc is neither on PATH nor in {cuda_home}: install the CUDA toolkit to build "
            "llama-server, or give one that was built for CUDA with --binary"
        )


def engine_of(
    device: DeviceKind, binary: Path | None, source: Path | None
) -> tuple[Path, tuple[str, ...]]:
    """
    Find or build llama-server.

    Args:
        device: What to build it for.
        binary: One to take as it is.
        source: A folder with llama.cpp, or the pinned source distribution, for machines without a
            network; else the distribution is fetched.

    Returns:
        The program, and the command that made it; () where there is none.
    """
    if binary is not None:
        if not os.access(binary, os.X_OK) or not binary.is_file():
            raise CannotRun(f"--binary {binary}: no program there")
        return binary.resolve(), ()
    _check_tools(device)
    cuda: Literal["on", "off"] = "on" if device == "cuda" else "off"
    if source is not None:
        return _built_from(source, cuda), ()
    command = (sys.executable, "-m", "gateway", "engine", "build", "--cuda", cuda)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, process_group=0) as build:
        try:
            told, _ = build.communicate()
        except BaseException:
            build.send_signal(signal.SIGINT)  # a plain kill would leave the compilers
            raise
    if build.returncode != 0:
        raise CannotRun("llama-server could not be built (the reason is above)")
    return Path(told.strip()), command


def _built_from(source: Path, cuda: Literal["on", "off"]) -> Path:
    def provide(downloads: Path, tree: Path, progress: Progress) -> None:
        if source.is_dir():
            shutil.copytree(source, tree)
        else:
            unpack_llama_cpp(source, tree)

    if not source.exists():
        raise CannotRun(f"--source {source}: there is no such file or folder")
    cache = os.environ.get("CACHE_DIR")
    engines = cache_root(Path(cache) if cache else None) / "engines"
    try:
        return build_engine(
            engines, cuda=cuda, jobs=None, progress=ConsoleProgress(), source=provide
        )
    except (BackendError, OSError, tarfile.TarError) as exc:
        raise CannotRun(f"building llama-server from {source}: {exc}") from exc


def look(binary: Path) -> tuple[tuple[Device, ...], dict[str, str]]:
    """The GPUs that *binary* sees, and what to tell of this machine beside the figures."""
    devices = devices_in(_said(binary, "--list-devices"))
    version = re.search(r"^version: (.+)$", _said(binary, "--version"), re.MULTILINE)
    cpu = re.search(r"^model name\s*: (.+)$", _read("/proc/cpuinfo"), re.MULTILINE)
    about = {
        "gpu": ", ".join(f"{device.name} ({device.total_bytes / 1e9:.0f} GB)" for device in devices)
        or "none",
        "driver": _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "cpu": f"{cpu[1] if cpu else platform.machine()}, {os.cpu_count()} cores",
        "memory": f"{psutil.virtual_memory().total / 1e9:.0f} GB",
        "system": platform.platform(),
        "engine": version[1] if version else "unknown",
        "python": platform.python_version(),
        "commit": _said("git", "-C", str(_ROOT), "describe", "--always", "--dirty"),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return devices, about


def _said(*command: str | Path) -> str:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (done.stdout + done.stderr).strip("\n") if done.returncode == 0 else ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
