"""Private files at the edge: read only what nobody else could have written, replace in one step.

Rules:
- a file is opened once, without blocking, and judged by what was opened: a regular file, owned
  by us or by root, no bits for group or others, not absurdly large. Symbolic links are followed,
  because mounted secrets are made of them;
- a write is a new file beside the old one, flushed, renamed over it, and the directory flushed:
  killed at any instant, readers find the old content or the new, complete;
- writers exclude each other by a lock on a file of its own, because the file itself is replaced.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from keys.errors import FileRefused, LockTimeout, WriteFailed

__all__ = [
    "MAX_FILE_BYTES",
    "Look",
    "distrust",
    "locked",
    "look",
    "read_private",
    "write_private",
    "writing_problem",
]

MAX_FILE_BYTES = 16 * 1024 * 1024
_PRIVATE = 0o600
_LOCK_RETRY_S = 0.02

Look = tuple[int, ...] | None
"""What a change of a file is noticed by; None while there is nothing to look at."""


def look(path: Path) -> Look:
    """A cheap look at *path*.

    Besides inode, size and modification time it holds the change time, so that a ``chmod`` that
    makes a refused file good is noticed too.
    """
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def read_private(path: Path, *, any_owner: bool = False, limit: int = MAX_FILE_BYTES) -> bytes:
    """Read a whole file that must be private.

    Args:
        path: The file, or a link to it.
        any_owner: Do not ask whose file it is: root looks after the files of others.
        limit: Bytes; a larger file is refused.

    Raises:
        FileRefused: With a sentence on what is wrong.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as exc:
        missing = exc.errno == errno.ENOENT
        raise FileRefused(path, _reading_problem(exc), missing=missing) from exc
    try:
        reason = distrust(os.fstat(fd), os.geteuid(), any_owner=any_owner, limit=limit)
        if reason is not None:
            raise FileRefused(path, reason)
        return _read_all(fd, path, limit)
    except OSError as exc:
        raise FileRefused(path, _reading_problem(exc)) from exc
    finally:
        os.close(fd)


def _read_all(fd: int, path: Path, limit: int) -> bytes:
    parts: list[bytes] = []
    total = 0
    while part := os.read(fd, 1 << 20):
        parts.append(part)
        total += len(part)
        if total > limit:
            raise FileRefused(path, _too_large(limit))
    return b"".join(parts)


def _reading_problem(exc: OSError) -> str:
    if exc.errno == errno.ENOENT:
        return "there is no such file"
    if exc.errno in (errno.EACCES, errno.EPERM):
        return f"the file may not be read by user {os.geteuid()}; it must belong to that user"
    return f"the file cannot be read ({os.strerror(exc.errno or 0)})"


def distrust(found: os.stat_result, user: int, *, any_owner: bool, limit: int) -> str | None:
    """Why an opened file cannot be trusted by *user*, or None."""
    if not stat.S_ISREG(found.st_mode):
        return "this is not a regular file"
    if not any_owner and found.st_uid not in (user, 0):
        return (
            f"the file belongs to user {found.st_uid}; it must belong to user {user} "
            "(who runs this) or to root: use chown"
        )
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        return f"others have access to the file (mode {mode:04o}); use chmod 600"
    if found.st_size > limit:
        return _too_large(limit)
    return None


def _too_large(limit: int) -> str:
    return f"the file is larger than {limit} bytes"


@contextmanager
def locked(path: Path, timeout_s: float = 10.0) -> Iterator[None]:
    """Keep other writers of *path* out.

    The lock file stays behind: removing it would let two writers lock two different files.

    Args:
        path: The file that is to be changed; its directory must exist.
        timeout_s: How long another writer may take.

    Raises:
        LockTimeout: It took longer.
        WriteFailed: The lock file cannot be made.
    """
    target = _real(path)
    lock_path = target.with_name(target.name + ".lock")
    try:
        fd = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, _PRIVATE)
    except OSError as exc:
        raise WriteFailed(writing_problem(exc.errno, lock_path)) from exc
    try:
        _hand_over(fd, target)
        _wait_for(fd, lock_path, timeout_s)
        yield
    finally:
        os.close(fd)


def _wait_for(fd: int, lock_path: Path, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise LockTimeout(
                    f"{lock_path}: another program has held this lock for {timeout_s:g} seconds"
                ) from None
            time.sleep(_LOCK_RETRY_S)
        except OSError as exc:
            raise WriteFailed(writing_problem(exc.errno, lock_path)) from exc
        else:
            return


def write_private(path: Path, data: bytes) -> None:
    """Replace *path* by a file of mode 0600 that holds *data*, in one step.

    Call it inside `locked`: whatever an earlier, killed writer left behind is removed first.

    Raises:
        WriteFailed: It did not work; what was there is intact.
    """
    target = _real(path)
    temporary = target.with_name(f".{target.name}.tmp-{secrets.token_hex(8)}")
    try:
        _sweep(target)
        try:
            _write_new(temporary, data, target)
            temporary.replace(target)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        _flush_directory(target.parent)
    except OSError as exc:
        raise WriteFailed(writing_problem(exc.errno, target)) from exc


def _write_new(temporary: Path, data: bytes, target: Path) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(temporary, flags, _PRIVATE)
    try:
        os.fchmod(fd, _PRIVATE)
        _hand_over(fd, target)
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(fd, rest) :]
        os.fsync(fd)
    finally:
        os.close(fd)


def _hand_over(fd: int, target: Path) -> None:
    """When root changes another user's file, that user must still be able to read the new one."""
    if os.geteuid() != 0:
        return
    try:
        like = target.lstat()  # links are followed already, all but one that leads to itself
    except FileNotFoundError:
        like = target.parent.stat()
    if like.st_uid != 0:
        os.fchown(fd, like.st_uid, like.st_gid)


def _sweep(target: Path) -> None:
    for found in target.parent.iterdir():
        if found.name.startswith(f".{target.name}.tmp-"):
            with suppress(FileNotFoundError):
                found.unlink()


def _flush_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as exc:
        if exc.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems
            raise
    finally:
        os.close(fd)


def _real(path: Path) -> Path:
    """Where the file really is: renaming over a link would replace the link."""
    return Path(os.path.realpath(path))


def writing_problem(number: int | None, path: Path) -> str:
    """Say what a failed write of *path* means for the operator."""
    match number:
        case errno.EBUSY:
            return (
                f"{path} is itself a mount point, so it cannot be replaced. Mount the directory "
                "that holds it: with a single file mounted, a file replaced on the host would "
                "never be seen in here either. Nothing was changed"
            )
        case errno.EROFS:
            return f"{path} is on a read-only file system; nothing was changed"
        case errno.ENOSPC | errno.EDQUOT:
            return f"there is no space left to write {path}; nothing was changed"
        case errno.EACCES | errno.EPERM:
            return f"user {os.geteuid()} may not write in {path.parent}; nothing was changed"
        case errno.ENOENT:
            return f"the directory {path.parent} does not exist; nothing was changed"
        case _:
            return f"{path} cannot be written ({os.strerror(number or 0)}); nothing was changed"
