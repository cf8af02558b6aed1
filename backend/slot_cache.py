"""The processed prompts that an engine's slots hold, written to files and read back.

llama-server does both between two batches: a slot that is busy makes it wait. What was measured
of it (0.5.0-dev, CPU):

- a file that ends too early can abort the whole engine when it is restored, so whoever restores
  must know that the file is as it was written; other damage is answered with 400;
- a write that fails (disk full, file too large) is answered with 500, and the slot lives on;
- a slot number that does not exist is accepted, and means another slot;
- `/slots` tells how long a prompt is only of slots that have worked since the engine started.
"""

from __future__ import annotations

import resource
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from backend.client import EngineClient
from backend.errors import EngineError, SlotRefused
from backend.inquiry import read_slots

__all__ = [
    "HeldPrompt",
    "SavedSlot",
    "bound_new_files",
    "held_prompts",
    "restore_slot",
    "save_slot",
]


@dataclass(frozen=True, slots=True)
class HeldPrompt:
    """
    What an idle slot holds.

    Attributes:
        slot: Its number, from 0.
        tokens: Of prompt and answer; None where the engine does not tell.
        task: Grows with each request; the highest was the last to use a slot. None: never used.
    """

    slot: int
    tokens: int | None
    task: int | None


@dataclass(frozen=True, slots=True)
class SavedSlot:
    """What the engine says it wrote."""

    tokens: int
    size_bytes: int


async def held_prompts(client: EngineClient, timeout_s: float) -> tuple[HeldPrompt, ...]:
    """Ask what the slots hold; those that are at work are left out.

    Raises:
        EngineError: The answer is not the list of slots that llama-server gives.
        EngineTimeout, ConnectFailed, EngineGone: As `EngineClient.request`.
    """
    slots = await read_slots(client, timeout_s)
    return tuple(_held(slot) for slot in slots if not slot["is_processing"])


def _held(slot: dict[str, Any]) -> HeldPrompt:
    number = slot.get("id")
    if not isinstance(number, int):
        raise EngineError("/slots does not number its slots")
    prompt, task = slot.get("n_prompt_tokens"), slot.get("id_task")
    tokens = prompt + _answered(slot) if isinstance(prompt, int) else None
    return HeldPrompt(number, tokens, task if isinstance(task, int) else None)


def _answered(slot: dict[str, Any]) -> int:
    try:
        return int(slot["next_token"][0]["n_decoded"])
    except (KeyError, IndexError, TypeError, ValueError):
        return 0


async def save_slot(client: EngineClient, slot: int, filename: str, timeout_s: float) -> SavedSlot:
    """Have the prompt of *slot* written to *filename* in the engine's folder for that.

    When this is cancelled or times out, the engine goes on writing.

    Raises:
        SlotRefused: It could not.
        EngineError: Its answer makes no sense.
        EngineTimeout, ConnectFailed, EngineGone: As `EngineClient.request`.
    """
    told = await _act(client, slot, "save", filename, timeout_s)
    return SavedSlot(_number(told, "n_saved"), _number(told, "n_written"))


async def restore_slot(client: EngineClient, slot: int, filename: str, timeout_s: float) -> int:
    """Have *slot* filled from *filename*; returns the tokens it holds then.

    Args:
        client: A client of the engine.
        slot: One that exists.
        filename: Must be known to be whole: see above.
        timeout_s: Seconds it may take in all.

    Raises:
        SlotRefused: It could not, which leaves the slot empty.
        EngineError: Its answer makes no sense.
        EngineTimeout, ConnectFailed, EngineGone: As `EngineClient.request`.
    """
    told = await _act(client, slot, "restore", filename, timeout_s)
    return _number(told, "n_restored")


async def _act(
    client: EngineClient, slot: int, action: str, filename: str, timeout_s: float
) -> dict[str, Any]:
    status, body = await client.request(
        "POST",
        f"/slots/{slot}?action={action}",
        orjson.dumps({"filename": filename}),
        timeout_s=timeout_s,
        limit_bytes=1 << 20,
    )
    if status != 200:
        raise SlotRefused(f"slot {slot}: {action} answered {status}")
    try:
        told = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise EngineError(f"slot {slot}: {action} answered no JSON") from None
    if not isinstance(told, dict):
        raise EngineError(f"slot {slot}: {action} answered no object")
    return told


def _number(told: dict[str, Any], name: str) -> int:
    value = told.get(name)
    if not isinstance(value, int) or value < 0:
        raise EngineError(f"the engine did not tell {name}")
    return value


# --- how large a file may become --------------------------------------------------------------


def bound_new_files(pid: int, limit_bytes: int) -> bool:
    """Let the kernel refuse process *pid* to make any file larger than *limit_bytes*.

    Nothing else knows beforehand how large a slot's file will be, and a write cannot be called
    off. The bound stays until the next call: an engine that is ready writes nothing else. It is for
    processes that ignore SIGXFSZ, which get an error from their write then; any other would be
    killed. The launcher is a Python program, which ignores that signal, and exec passes that on.

    Returns:
        Whether the bound holds.
    """
    try:
        if not _ignores(pid, signal.SIGXFSZ):
            return False
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        soft = limit_bytes if hard == resource.RLIM_INFINITY else min(limit_bytes, hard)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))
    except (OSError, ValueError, AttributeError):
        return False
    return True


def _ignores(pid: int, signum: int) -> bool:
    """Whether *pid* ignores a signal; raises OSError where that cannot be known."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    for line in status.splitlines():
        name, _, value = line.partition(":")
        if name == "SigIgn":
            return bool(int(value, 16) >> (signum - 1) & 1)
    return False
