"""Which llama-server runs: the one that was named, one on PATH, an earlier build, or a new build.

The order is the promise; the first that is there wins:

1. the path that was set; it must work, because falling back would hide the mistake;
2. a llama-server on PATH that starts;
3. what an earlier build left in the cache for this kind of machine;
4. a new build, only when the caller asks for it (it takes minutes).
"""

from __future__ import annotations

import logging
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from backend.errors import EngineMissing
from backend.supply.build_plan import CudaChoice
from backend.supply.progress import LogProgress, Progress

__all__ = ["FindSettings", "FoundEngine", "build", "cache_root", "find", "find_or_build"]

_log = logging.getLogger(__name__)

_VERSION_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class FindSettings:
    """Where to look for the engine."""

    llama_server: Path | None = None
    """A program named by the operator; wins over everything."""
    cache_dir: Path | None = None
    """Where builds are kept; None means the user's own cache folder."""
    cuda: CudaChoice = "auto"
    search_path: str | None = None
    """Folders in PATH's form; None means the process's own PATH."""


@dataclass(frozen=True, slots=True)
class FoundEngine:
    """An engine that can be started, and where it was found."""

    kind: str
    path: Path
    version: str
    source: str
    """``setting``, ``PATH``, ``cache`` or ``build``."""


def cache_root(cache_dir: Path | None = None) -> Path:
    """Return the folder for everything that can be fetched or built again."""
    if cache_dir is not None:
        return cache_dir
    from platformdirs import user_cache_path

    return user_cache_path("llama-gateway")


def find(settings: FindSettings) -> FoundEngine | None:
    """
    Find an engine without building one.

    Returns:
        The first in the order above, or None when there is none yet.

    Raises:
        EngineMissing: The program that was set is not there or does not start.
    """
    if settings.llama_server is not None:
        return _named(settings.llama_server)
    return _on_path(settings.search_path) or _in_cache(settings)


def build(
    cache_dir: Path | None,
    *,
    cuda: CudaChoice = "auto",
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Build llama-server, or return the finished build; errors as ``build.build_engine``."""
    from backend.supply.build import build_engine

    engines = _engines(cache_dir)
    return build_engine(engines, cuda=cuda, jobs=jobs, progress=progress or LogProgress())


def find_or_build(
    settings: FindSettings, *, jobs: int | None = None, progress: Progress | None = None
) -> FoundEngine:
    """Find an engine; build one when there is none. Takes minutes in that case."""
    found = find(settings)
    if found is not None:
        return found
    path = build(settings.cache_dir, cuda=settings.cuda, jobs=jobs, progress=progress)
    return FoundEngine("llama-server", path, _version_of(path), "build")


def _engines(cache_dir: Path | None) -> Path:
    return cache_root(cache_dir) / "engines"


def _named(path: Path) -> FoundEngine:
    if not path.is_file():
        raise EngineMissing(str(path), "LLAMA_SERVER must name a llama-server program")
    return FoundEngine("llama-server", path, _version_of(path), "setting")


def _on_path(search_path: str | None) -> FoundEngine | None:
    found = shutil.which("llama-server", path=search_path)
    if found is None:
        return None
    try:
        return FoundEngine("llama-server", Path(found), _version_of(Path(found)), "PATH")
    except EngineMissing as exc:
        _log.warning("passing over the llama-server on PATH: %s", exc)
        return None


def _in_cache(settings: FindSettings) -> FoundEngine | None:
    from backend.supply.build import cached_engine

    path = cached_engine(_engines(settings.cache_dir), settings.cuda)
    return FoundEngine("llama-server", path, _version_of(path), "cache") if path else None


def _version_of(path: Path) -> str:
    """
    Return what the program calls its version; this also proves that it starts.

    Raises:
        EngineMissing: It does not start, hangs or fails.
    """
    try:
        done = subprocess.run(
            [path, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_VERSION_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise EngineMissing(f"a working {path}", f"it does not start ({exc})") from exc
    said = (done.stdout + done.stderr).strip()
    if done.returncode != 0:
        last = said.splitlines()[-1] if said else "it said nothing"
        raise EngineMissing(f"a working {path}", f"it ended with {done.returncode}: {last}")
    return _version_in(said)


def _version_in(said: str) -> str:
    for line in said.splitlines():
        if line.startswith("version:"):
            return line.removeprefix("version:").strip()
    return said.partition("\n")[0].strip() or "unknown"
