"""Waiting for a process that was started."""

from __future__ import annotations

import socket
import subprocess

__all__ = ["START_S", "STEP_S", "free_port", "pause_on", "wait_for_port"]

START_S = 60.0
STEP_S = 0.02


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int, process: subprocess.Popen[str]) -> None:
    """Wait until *process* listens there."""
    for _ in range(int(START_S / STEP_S)):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        pause_on(process)
    raise AssertionError(f"{process.args!r} does not listen")


def pause_on(process: subprocess.Popen[str]) -> None:
    """Let a moment pass, unless the process ends in it."""
    try:
        code = process.wait(STEP_S)
    except subprocess.TimeoutExpired:
        return
    raise AssertionError(f"{process.args!r} ended with {code}")
