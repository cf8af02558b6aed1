"""Programs from Debian for benches and guards, without being root: found on PATH, else fetched.

Fetched packages are unpacked into the user's cache, under their file names, which have the versions
in them; nothing is installed. Two processes may fetch at the same time.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from platformdirs import user_cache_path

__all__ = ["FetchError", "Tool", "tool"]

_PATIENCE_S = 180.0
_SYSTEM_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")


class FetchError(Exception):
    """A program is not here, and could not be had either."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A program that can be run."""

    path: Path
    root: Path | None
    """Where the package was unpacked; None for a program that is installed."""


def tool(name: str, packages: Sequence[str], program: str, cache: Path | None = None) -> Tool:
    """Find a program, or fetch it.

    Args:
        name: As it is called on PATH.
        packages: Debian packages to unpack together; the first is the one that *program* is in.
        program: Where the package keeps it, such as ``usr/sbin/nginx``.
        cache: Where packages are unpacked; the user's cache folder when None.

    Raises:
        FetchError: It is not installed, and there is no apt-get or the fetch failed.
    """
    folders = os.pathsep.join([os.environ.get("PATH", os.defpath), *_SYSTEM_FOLDERS])
    installed = shutil.which(name, path=folders)
    if installed is not None:
        return Tool(Path(installed), None)
    for needed in ("apt-get", "dpkg"):
        if shutil.which(needed) is None:
            raise FetchError(f"{name} is not installed, and {needed} is not here: install {name}")
    shelf = (cache or user_cache_path("llama-gateway")) / "debian"
    shelf.mkdir(parents=True, exist_ok=True)
    with FileLock(shelf / "fetch.lock"):
        root = _here_or_fetched(shelf, packages)
    return Tool(root / program, root)


def _here_or_fetched(shelf: Path, packages: Sequence[str]) -> Path:
    try:
        return _unpacked(shelf, packages)
    except FetchError:
        # Without a network, what was fetched before will do.
        earlier = sorted(shelf.glob(f"{packages[0]}_*"), key=lambda path: path.stat().st_mtime)
        if not earlier:
            raise
        return earlier[-1]


def _unpacked(shelf: Path, packages: Sequence[str]) -> Path:
    """The folder of the newest versions, made when it is not there yet."""
    apt, files = _newest(shelf, packages)
    target = shelf / _safe("+".join(name.removesuffix(".deb") for name in files))
    if target.is_dir():
        return target
    with tempfile.TemporaryDirectory(prefix=".part-", dir=shelf) as folder:
        _run([*apt, "download", *packages], Path(folder))
        root = Path(folder) / "root"
        for package in sorted(Path(folder).glob("*.deb")):
            _run(["dpkg", "-x", str(package), str(root)], Path(folder))
        root.rename(target)
    return target


def _newest(shelf: Path, packages: Sequence[str]) -> tuple[list[str], list[str]]:
    """How to call apt-get, and the file names that it would fetch."""
    plain = ["apt-get", "-qq"]
    try:
        return plain, _names(plain, packages, shelf)
    except FetchError:
        # No package lists, as in a fresh container: have some of our own.
        own = [*plain, *_own_lists(shelf / "apt")]
        _run([*own, "update"], shelf)
        return own, _names(own, packages, shelf)


def _own_lists(folder: Path) -> list[str]:
    for part in ("lists/partial", "cache/archives/partial"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    places = {"Dir::State::Lists": folder / "lists", "Dir::Cache": folder / "cache"}
    return [word for name, at in places.items() for word in ("-o", f"{name}={at}")]


def _names(apt: Sequence[str], packages: Sequence[str], folder: Path) -> list[str]:
    told = _run([*apt, "--print-uris", "download", *packages], folder)
    names = [line.split()[1] for line in told.splitlines() if line.startswith("'")]
    if len(names) != len(packages):
        raise FetchError(f"apt-get knows no way to fetch {', '.join(packages)}")
    return names


def _run(command: Sequence[str], folder: Path) -> str:
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE_S,
        )
    except subprocess.TimeoutExpired:
        raise FetchError(f"{command[0]} did not end within {_PATIENCE_S:g} s") from None
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise FetchError(f"{' '.join(command[:2])} failed: {last}")
    return done.stdout


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._+~-]", "_", name)
