"""The family of backend failures, each saying whose fault it is.

Three parties can be at fault, and the class says which, so that a caller decides without
reading the text:

- the operator (``OperatorError``): a tool, a file or an argument is wrong. Trying again changes
  nothing; start-up ends with the message and a non-zero exit code.
- the world outside (``DownloadFailed``): a network or a full disk. Trying again may help.
- the engine (``EngineError``): the child refused, vanished or fell silent. The supervisor acts on
  it and the client gets a 5xx.

Texts are for the operator. They may name local paths, so they never go to a client.
"""

# ruff: noqa: N818  (the names say what happened; an "Error" at the end of each adds nothing)

from __future__ import annotations

from pathlib import Path

__all__ = [
    "BackendError",
    "BadEngineArgument",
    "BuildFailed",
    "ConnectFailed",
    "DownloadFailed",
    "EngineError",
    "EngineGone",
    "EngineMissing",
    "EngineTimeout",
    "ModelInvalid",
    "ModelNotFound",
    "OperatorError",
    "SlotRefused",
]


class BackendError(Exception):
    """Anything that went wrong in this room."""


class OperatorError(BackendError):
    """Something on this machine must be changed by a person before another try makes sense."""


class EngineMissing(OperatorError):
    """There is no engine to run, or a tool that is needed to build one is absent."""

    def __init__(self, tool: str, how: str) -> None:
        """
        Name what is missing.

        Args:
            tool: The program that was looked for, in words a person can search for.
            how: What to do to get it.
        """
        super().__init__(f"{tool} not found: {how}")
        self.tool = tool
        self.how = how


class BuildFailed(OperatorError):
    """The compiler, cmake or ninja ended with an error."""

    def __init__(self, step: str, tail: tuple[str, ...] = (), log: Path | None = None) -> None:
        """
        Say which step failed.

        Args:
            step: ``download``, ``configure``, ``compile`` or what else was being done.
            tail: The last lines the tool wrote.
            log: The file that holds all of its output.
        """
        where = f" (all output: {log})" if log is not None else ""
        super().__init__("\n".join([f"building llama-server failed: {step}{where}", *tail]))
        self.step = step
        self.tail = tail
        self.log = log


class ModelNotFound(OperatorError):
    """The model that was asked for is not where it was said to be."""


class ModelInvalid(OperatorError):
    """The model file is there but no engine could load it."""

    def __init__(
        self,
        path: Path,
        reason: str,
        expected_bytes: int | None = None,
        found_bytes: int | None = None,
    ) -> None:
        """
        Name the file and what is wrong with it.

        Args:
            path: The file that was looked at.
            reason: What is wrong, without the sizes.
            expected_bytes: The least size the file's own header asks for, where that is known.
            found_bytes: The size on disk.
        """
        sizes = ""
        if expected_bytes is not None and found_bytes is not None:
            sizes = f" (expected at least {expected_bytes} bytes, found {found_bytes})"
        elif found_bytes is not None:
            sizes = f" (found {found_bytes} bytes)"
        super().__init__(f"{path}: {reason}{sizes}")
        self.path = path
        self.reason = reason
        self.expected_bytes = expected_bytes
        self.found_bytes = found_bytes


class BadEngineArgument(OperatorError, ValueError):
    """An extra engine argument that the gateway sets itself, or that would open a hole."""


class DownloadFailed(BackendError):
    """A file could not be fetched; what arrived so far is kept for the next try."""


class EngineError(BackendError):
    """The engine process is at fault; the request or the client is not."""


class ConnectFailed(EngineError):
    """No connection could be made, so the engine has seen nothing of the request."""


class EngineGone(EngineError):
    """The connection ended before the response did."""


class EngineTimeout(EngineError):
    """The engine stayed silent for longer than the caller allowed."""


class SlotRefused(EngineError):
    """It lives, but would not save or restore what a slot holds."""
