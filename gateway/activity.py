"""Is anybody being served, and since when not? The clock that scale to zero goes by.

Only real work moves it: a request with a valid key and body that needs the engine, from the moment
it is accepted to the last byte of its reply. Probes, metrics, model lists and refusals do not.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Activity"]


class Activity:
    """Counts the requests that are being served.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._working = 0
        self._considered = 0
        self._quiet_since_s = clock()
        self.changes = 0
        """Grows with each request and each `touch`; the same number twice: nothing was."""

    def __repr__(self) -> str:
        return f"<Activity {self._working} requests>"

    @property
    def busy(self) -> bool:
        """Whether anybody is being served."""
        return self._working > 0

    @property
    def idle_s(self) -> float:
        """Seconds since the last reply ended, or there could be one; 0 with work, or maybe some."""
        if self._working or self._considered:
            return 0.0
        return max(self._clock() - self._quiet_since_s, 0.0)

    def touch(self) -> None:
        """Start anew: the engine has just become ready."""
        self.changes += 1
        self._quiet_since_s = self._clock()

    def consider(self) -> None:
        """It is being found out whether a request may be served, until `considered`."""
        self._considered += 1

    def considered(self) -> None:
        """It was found out; what may not be served was never there."""
        self._considered -= 1

    def begin(self) -> None:
        """A request is being served, until `end`."""
        self._working += 1
        self.changes += 1

    def end(self) -> None:
        """One that had begun has come to its end."""
        self._working -= 1
        self._quiet_since_s = self._clock()
