"""File descriptors put by, so that the engine can be restarted while there are none left.

They are lent within the loop's thread, to code that does not give the loop a turn: clients, who are
accepted in the same thread, cannot take them meanwhile. Other threads could; then the caller meets
the shortage that it would have met without us.
"""

import contextlib
import os
from collections.abc import Iterator

# Measured for one spawn (six for its pipes, one for /dev/null, one for the watch over its end), and
# a pair for what else is open at that moment.
SPAWN_DESCRIPTORS = 10


class SpareDescriptors:
    """
    Holds up to *count* descriptors between `fill` and `drop`; fewer while there are none to have.

    Args:
        count: How many to put by.
    """

    def __init__(self, count: int = SPAWN_DESCRIPTORS) -> None:
        self._count = count
        self._held: list[int] = []

    def __len__(self) -> int:
        return len(self._held)

    def fill(self) -> None:
        """Take what is missing, as far as it is to be had."""
        with contextlib.suppress(OSError):
            while len(self._held) < self._count:
                self._held.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))

    def drop(self) -> None:
        """Give all of them back."""
        while self._held:
            os.close(self._held.pop())

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """They are free for the block, and taken back after it."""
        self.drop()
        try:
            yield
        finally:
            self.fill()
