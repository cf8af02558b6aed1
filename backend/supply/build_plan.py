"""PURE: what to build for a given machine, and under which name to keep it.

The flags are few on purpose: one static program, the server only. What is left out would be
attack surface (subprocess tools, TLS client, web page) or slower. The name holds everything that
changes the result, so a cache shared by machines of different kinds never hands out a wrong
program.

Measured with the demo model on two cores with AVX-512, in tokens a second (prompt, generation):

    threads                                    1            2
    this build                                 195, 100     336, 143
    with GGML_OPENMP                           198, 100     347-390, 137-167
    with GGML_NATIVE, LLAMAFILE, CPU_REPACK    175,  92     311, 131

The differences are within what other work on the machine does, so the lean build stands: it needs
no OpenMP library and runs on the next machine too.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = [
    "BuildPlan",
    "Cuda",
    "CudaChoice",
    "CudaUnavailable",
    "Host",
    "choose_jobs",
    "plan_build",
    "steps_of",
]

CudaChoice = Literal["auto", "on", "off"]

ENGINE_COMMIT = "0c1e57098"
"""The commit of llama.cpp that the pinned source holds (it is not recorded in the files)."""

_FLAGS = {
    "CMAKE_BUILD_TYPE": "Release",
    "BUILD_SHARED_LIBS": "OFF",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_APP": "OFF",
    "LLAMA_BUILD_NUMBER": "0",
    "LLAMA_BUILD_COMMIT": ENGINE_COMMIT,
    "LLAMA_OPENSSL": "OFF",
    # The default fetches the web page's files while building.
    "LLAMA_USE_PREBUILT_UI": "OFF",
    # Takes shell tools and the model router out of the program.
    "LLAMA_SUBPROCESS": "OFF",
    "GGML_OPENMP": "OFF",
    "GGML_LLAMAFILE": "OFF",
    "GGML_CPU_REPACK": "OFF",
}
# What ggml compiles for on x86-64 when it is not told to look at the processor.
_X86_BASELINE = frozenset({"sse4_2", "avx", "avx2", "bmi2", "fma", "f16c"})
_GIB = 1 << 30
_NINJA_STEP = re.compile(r"^\[(\d+)/(\d+)\] ")


class CudaUnavailable(ValueError):  # noqa: N818 (says what happened)
    """CUDA was demanded and this machine cannot build for it; the text says what is missing."""


@dataclass(frozen=True, slots=True)
class Cuda:
    """What was found of CUDA; building for it needs the compiler and a GPU."""

    nvcc: Path | None
    release: str
    """For example ``13.0``; empty without nvcc."""
    gpus: tuple[str, ...]
    """Compute capability of each visible GPU (``9.0``), or ``unknown``; empty without one."""


@dataclass(frozen=True, slots=True)
class Host:
    """The parts of a machine that change what is built or how fast."""

    system: str
    machine: str
    cpu_features: frozenset[str]
    cores: int
    memory_bytes: int
    cuda: Cuda


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """One build: its cmake options, its name in the cache, and why it is of this kind."""

    flags: tuple[str, ...]
    key: str
    cuda: bool
    why: str


def plan_build(host: Host, cuda: CudaChoice, source_version: str) -> BuildPlan:
    """
    Decide what to build on *host*.

    Args:
        host: The machine.
        cuda: ``auto`` builds for CUDA when both nvcc and a GPU are there.
        source_version: The release of the pinned source; part of the name.

    Raises:
        CudaUnavailable: *cuda* is ``on`` and nvcc or a GPU is missing.
    """
    with_cuda, why = _decide_cuda(host, cuda)
    native = not _has_baseline(host)
    flags = {**_FLAGS, "GGML_NATIVE": "ON" if native else "OFF"}
    if with_cuda:
        flags |= {
            "GGML_CUDA": "ON",
            "CMAKE_CUDA_ARCHITECTURES": "native",
            "CMAKE_CUDA_COMPILER": str(host.cuda.nvcc),
        }
    options = tuple(f"-D{name}={value}" for name, value in flags.items())
    return BuildPlan(
        options, _key(host, options, with_cuda, native, source_version), with_cuda, why
    )


def choose_jobs(host: Host, *, cuda: bool) -> int:
    """Return how many compilers may run at once: one a core, as far as the memory goes."""
    each = 3 * _GIB if cuda else _GIB
    return max(1, min(host.cores, host.memory_bytes // each)) if host.memory_bytes else host.cores


def steps_of(line: str) -> tuple[int, int] | None:
    """Return (done, all) from a line ``[done/all] ...`` of ninja, or None for another line."""
    match = _NINJA_STEP.match(line)
    return (int(match[1]), int(match[2])) if match else None


def _decide_cuda(host: Host, choice: CudaChoice) -> tuple[bool, str]:
    if choice == "off":
        return False, "for the CPU, as asked"
    if host.cuda.nvcc is not None and host.cuda.gpus:
        found = ", ".join(host.cuda.gpus)
        return True, f"for CUDA {host.cuda.release} (compute capability {found})"
    lacks = "there is no NVIDIA GPU to be seen" if host.cuda.nvcc else "nvcc was not found"
    if choice == "on":
        raise CudaUnavailable(f"a CUDA build was asked for, but {lacks}")
    return False, f"for the CPU, because {lacks}"


def _has_baseline(host: Host) -> bool:
    """
    Say whether a build that does not look at the processor runs well here.

    On x86-64 with the usual vector units it does, and the result can be moved between machines.
    An older processor would stop at the first instruction it lacks, and on Arm the generic build
    leaves out the dot products that make it usable.
    """
    return host.machine in ("x86_64", "amd64") and host.cpu_features >= _X86_BASELINE


def _key(host: Host, options: Sequence[str], cuda: bool, native: bool, version: str) -> str:
    parts = [*options]
    if native:
        parts += sorted(host.cpu_features)
    if cuda:
        parts += [host.cuda.release, *sorted(set(host.cuda.gpus))]
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:10]
    kind = "cuda" if cuda else "cpu"
    return f"llama-server-{version}-{host.system}-{host.machine}-{kind}-{digest}"
