"""Which GPUs are visible, and how full and busy they are, as ``nvidia-smi`` tells it.

`read_gpus` starts a process and waits for it: call it from a thread. A machine without the tool,
without a GPU or with a driver that hangs has no GPUs as far as the service is concerned.
"""

from __future__ import annotations

import logging
import subprocess
from dataclasses import dataclass

__all__ = ["Gpu", "parse_gpus", "read_gpus"]

_log = logging.getLogger(__name__)

_FIELDS = ("index", "name", "memory.total", "memory.used", "utilization.gpu")
_COMMAND = ("nvidia-smi", f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits")
_MIB = 1 << 20
_TIMEOUT_S = 2.0
_REAP_S = 0.5


@dataclass(frozen=True, slots=True)
class Gpu:
    """
    One GPU.

    Args:
        index: Its number in the driver's order.
        name: The product's name.
        memory_total_bytes: Size of its memory.
        memory_used_bytes: What is taken, by whomever.
        utilisation_percent: Share of the last sample period with work, 0 to 100.

    Figures are None where the driver does not give them, as for a partitioned GPU.
    """

    index: int
    name: str
    memory_total_bytes: int | None
    memory_used_bytes: int | None
    utilisation_percent: int | None


def parse_gpus(text: str) -> tuple[Gpu, ...]:
    """The GPUs in the tool's CSV output; lines that are no GPU are passed over."""
    return tuple(gpu for line in text.splitlines() if (gpu := _parse_line(line)) is not None)


def _parse_line(line: str) -> Gpu | None:
    cells = [cell.strip() for cell in line.split(",")]
    if len(cells) < len(_FIELDS) or not cells[0].isdecimal():
        return None
    total, used, busy = (int(cell) if cell.isdecimal() else None for cell in cells[-3:])
    return Gpu(
        index=int(cells[0]),
        name=", ".join(cells[1:-3]),
        memory_total_bytes=None if total is None else total * _MIB,
        memory_used_bytes=None if used is None else used * _MIB,
        utilisation_percent=busy,
    )


def read_gpus(
    command: tuple[str, ...] = _COMMAND, timeout_s: float = _TIMEOUT_S
) -> tuple[Gpu, ...]:
    """
    Ask the tool; () where there is nothing to tell.

    Args:
        command: What to run.
        timeout_s: Seconds until it is given up; the call takes at most half a second longer.
    """
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            errors="replace",
        )
    except OSError:
        return ()
    try:
        output, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        _give_up(process)
        return ()
    return parse_gpus(output) if process.returncode == 0 else ()


def _give_up(process: subprocess.Popen[str]) -> None:
    """End *process* without waiting for ever: inside a hung driver it cannot be killed."""
    process.kill()
    if process.stdout is not None:
        process.stdout.close()
    try:
        process.wait(_REAP_S)
    except subprocess.TimeoutExpired:
        _log.warning("nvidia-smi did not answer and cannot be ended; the driver may hang")
