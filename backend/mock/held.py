"""What the mock's slots hold, and the files that it writes them to: ``/slots/N?action=...``.

The mock has no cache; it remembers how many tokens went through, slots in turn, and a file holds
that number. It is enough to see whether files are written, read, refused and cleared away.
"""

from pathlib import Path

import orjson

from backend.mock import wire
from backend.mock.answer import Refused
from backend.mock.wire import Json

_MAGIC = b"mock-slot "
_OFF = "This server does not support slots action. Start it with `--slot-save-path`"
_DAMAGED = "Unable to restore slot: No available space in KV cache or invalid slot save file"


class HeldSlots:
    """Tokens by slot.

    Args:
        total: Slots.
        folder: Where files go; None switches that off.
    """

    def __init__(self, total: int, folder: str | None) -> None:
        self._total = total
        self._folder = None if folder is None else Path(folder)
        self._tasks = 0
        self._tokens: dict[int, int] = {}
        self._task_of: dict[int, int] = {}

    def note(self, tokens: int) -> None:
        """A request of so many tokens ended; the next slot holds it."""
        slot = self._tasks % self._total
        self._tasks += 1
        self._tokens[slot] = tokens
        self._task_of[slot] = self._tasks

    def facts(self, slot: int) -> Json:
        """What ``/slots`` says besides: nothing of a slot that has not worked in this process."""
        if slot not in self._task_of:
            return {}
        return {"id_task": self._task_of[slot], "n_prompt_tokens": self._tokens[slot]}

    def act(self, slot: str, action: str, body: Json) -> Json:
        """
        Save, restore or erase.

        Raises:
            Refused: As the real one does.
        """
        if self._folder is None:
            raise Refused(wire.error(501, _OFF))
        name = body.get("filename")
        if not slot.isdecimal() or not isinstance(name, str) or "/" in name or ".." in name:
            raise Refused(wire.error(400, "Invalid filename"))
        number = int(slot)
        if action == "save":
            return self._save(number, self._folder / name)
        if action == "restore":
            return self._restore(number, self._folder / name)
        raise Refused(wire.error(400, "Invalid action"))

    def _save(self, slot: int, path: Path) -> Json:
        tokens = self._tokens.get(slot, 0)
        data = _MAGIC + str(tokens).encode()
        try:
            path.write_bytes(data)
        except OSError:
            raise Refused(wire.error(500, "Unable to save slot")) from None
        return {"id_slot": slot, "filename": path.name, "n_saved": tokens, "n_written": len(data)}

    def _restore(self, slot: int, path: Path) -> Json:
        self._tokens[slot] = 0
        try:
            data = path.read_bytes()
        except OSError:
            raise Refused(wire.error(400, _DAMAGED)) from None
        digits = data.removeprefix(_MAGIC)
        if not data.startswith(_MAGIC) or not digits.isdigit():
            raise Refused(wire.error(400, _DAMAGED))
        tokens = self._tokens[slot] = int(digits)
        return {"id_slot": slot, "filename": path.name, "n_restored": tokens, "n_read": len(data)}


def parsed(body: bytes) -> Json:
    """The body of a request; empty when it is no object."""
    try:
        given = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return given if isinstance(given, dict) else {}
