"""What this machine has for building the engine: compiler, cmake, ninja, CUDA, processor, memory.

Reads the machine and decides nothing; the decisions are made in ``build_plan``.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from backend.cores import usable_cores
from backend.errors import EngineMissing
from backend.supply.build_plan import Cuda, Host

__all__ = ["Tools", "find_tools", "look_at_host"]

_PROBE_TIMEOUT_S = 20.0
_CUDA_HOME = Path("/usr/local/cuda/bin")


@dataclass(frozen=True, slots=True)
class Tools:
    """The programs a build runs."""

    cmake: Path
    ninja: Path


def look_at_host() -> Host:
    """Describe this machine; runs nvcc and nvidia-smi where they are, nothing else."""
    return Host(
        system=platform.system().lower(),
        machine=platform.machine().lower(),
        cpu_features=_cpu_features(),
        cores=usable_cores(),
        memory_bytes=_memory_bytes(),
        cuda=_look_for_cuda(),
    )


def find_tools(search_path: str | None = None, beside: Path | None = None) -> Tools:
    """
    Find what a build needs.

    Args:
        search_path: Folders in PATH's form; None means the process's own PATH.
        beside: The folder to look in first; by default that of this interpreter, where the
            wheels of cmake and ninja put their programs (it need not be on PATH).

    Raises:
        EngineMissing: A tool is absent; the error names it and says how to get it.
    """
    if not any(shutil.which(name, path=search_path) for name in ("c++", "g++", "clang++")):
        raise EngineMissing("C++ compiler", _how_to_get_a_compiler())
    first = str(beside or Path(sys.executable).parent)
    return Tools(_need("cmake", first, search_path), _need("ninja", first, search_path))


def _need(name: str, first: str, search_path: str | None) -> Path:
    found = shutil.which(name, path=first) or shutil.which(name, path=search_path)
    if found is None:
        raise EngineMissing(name, f"run '{sys.executable} -m pip install {name}', then try again")
    return Path(found)


def _how_to_get_a_compiler() -> str:
    if platform.system() == "Darwin":
        return "run 'xcode-select --install'"
    return (
        "install one, for example 'apt-get install g++' (Debian, Ubuntu), "
        "'dnf install gcc-c++' (Fedora) or 'apk add g++ linux-headers' (Alpine)"
    )


def _output_of(*argv: str) -> str:
    """Return what a probe printed, or nothing if it failed or took too long."""
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _look_for_cuda() -> Cuda:
    found = shutil.which("nvcc") or shutil.which("nvcc", path=str(_CUDA_HOME))
    release = ""
    if found:
        _, _, rest = _output_of(found, "--version").partition("release ")
        release = rest.partition(",")[0].strip()
    return Cuda(nvcc=Path(found) if found else None, release=release, gpus=_visible_gpus())


def _visible_gpus() -> tuple[str, ...]:
    smi = shutil.which("nvidia-smi")
    if smi:
        listed = _output_of(smi, "--query-gpu=compute_cap", "--format=csv,noheader")
        return tuple(line.strip() for line in listed.splitlines() if line.strip())
    # Some containers have the driver but not its tool.
    cards = Path("/proc/driver/nvidia/gpus")
    return tuple("unknown" for _ in cards.iterdir()) if cards.is_dir() else ()


def _cpu_features() -> frozenset[str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def _memory_bytes() -> int:
    """Return the memory this process may use: the machine's, or its container's if less."""
    try:
        machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 0
    try:
        container = int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii"))
    except (OSError, ValueError):  # no such control, or the word "max"
        return machine
    return min(machine, container)
