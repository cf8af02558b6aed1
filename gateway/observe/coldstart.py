"""PURE: how long each part of a start took, made of the moments at which things happened.

    process started -> engine spawned -> model loaded -> ready -> first event of an answer
                  boot             load          warm_up   first_token

- ``boot``, ``load`` and ``warm_up`` follow one another and add up to the time until ready.
  ``boot`` is what is done before there is an engine: imports, both ports opened, engine and model
  found, and built or fetched where they are missing.
- ``model_read`` is beside them, not between: the file is read ahead while ``boot`` ends and
  ``load`` runs. It is no part of the sum.
- ``load`` ends with the engine's own word. llama-server says it after the empty run it warms up
  with, so ``warm_up`` holds only what is left: the way to the first good probe. When its word was
  not heard before the probe, ``load`` ends with the probe.
- ``first_token`` begins when the engine is ready, or when the request came, if that was later:
  the time in which nobody asked for anything is no part of a start.

A restart or a wake replaces ``load``, ``warm_up`` and ``first_token``; ``boot`` and ``model_read``
are of the process and stay.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PHASES", "ColdStart", "Start", "words"]

PHASES = ("boot", "model_read", "load", "warm_up", "first_token")
_WORDS = {"boot": "boot", "load": "load", "warm_up": "warm-up"}
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Start:
    """One start that came to its end. Times in seconds.

    Attributes:
        number: Which process of the engine it was, from 1.
        phases: Those that add up to *total_s*, in their order.
        total_s: From its beginning to ready: of the process for the first engine, else of the
            engine.
        ports_s: From the process's beginning to both ports open; None when not of this start.
        model_read_s, model_read_bytes: What was read ahead meanwhile; None when nothing was.
    """

    number: int
    phases: dict[str, float]
    total_s: float
    ports_s: float | None = None
    model_read_s: float | None = None
    model_read_bytes: int = 0


class ColdStart:
    """Takes the moments of a start, all in seconds on one clock, and gives what lies between.

    Args:
        started_s: When the process began.
    """

    def __init__(self, started_s: float) -> None:
        self._started_s = started_s
        self._ports_s: float | None = None
        self._spawned_s: float | None = None
        self._ready_s: float | None = None
        self._read: tuple[float, int] | None = None
        self._number = 0
        self._answered = False
        self._phases: dict[str, float] = {}
        self.total_s: float | None = None
        """Of the newest start that became ready; None before there was one."""

    def __repr__(self) -> str:
        return f"<ColdStart {self.phases}>"

    @property
    def phases(self) -> dict[str, float]:
        """Seconds by phase, as far as known; in the order of `PHASES`."""
        return {phase: self._phases[phase] for phase in PHASES if phase in self._phases}

    def ports_open(self, at_s: float) -> None:
        """Both ports answer; the first time counts."""
        if self._ports_s is None:
            self._ports_s = max(at_s - self._started_s, 0.0)

    def model_read(self, took_s: float, size_bytes: int) -> None:
        """So much of the model was read ahead in so many seconds."""
        self._read = (took_s, size_bytes)
        self._phases["model_read"] = took_s

    def spawned(self, at_s: float) -> None:
        """A process of the engine began; what was known of the one before is forgotten."""
        self._number += 1
        self._spawned_s, self._ready_s, self._answered = at_s, None, False
        for phase in ("load", "warm_up", "first_token"):
            self._phases.pop(phase, None)
        self._phases.setdefault("boot", max(at_s - self._started_s, 0.0))

    def ready(self, at_s: float, loaded_s: float | None) -> Start | None:
        """
        The engine answers its probe.

        Args:
            at_s: Now.
            loaded_s: When it said that its model is loaded; None when it was not heard.

        Returns:
            What this start took; None when there was none, or it was told already.
        """
        spawned_s = self._spawned_s
        if spawned_s is None or self._ready_s is not None:
            return None
        self._ready_s = at_s = max(at_s, spawned_s)
        loaded_s = at_s if loaded_s is None else min(max(loaded_s, spawned_s), at_s)
        self._phases["load"] = loaded_s - spawned_s
        self._phases["warm_up"] = at_s - loaded_s
        first = self._number == 1
        names = ("boot", "load", "warm_up") if first else ("load", "warm_up")
        phases = {name: self._phases[name] for name in names}
        self.total_s = sum(phases.values())
        read = self._read if first else None
        return Start(
            number=self._number,
            phases=phases,
            total_s=self.total_s,
            ports_s=self._ports_s if first else None,
            model_read_s=read[0] if read else None,
            model_read_bytes=read[1] if read else 0,
        )

    def first_event(self, at_s: float, asked_s: float) -> float | None:
        """
        The engine sent an event of an answer.

        Args:
            at_s: Now.
            asked_s: When the request came.

        Returns:
            Seconds of ``first_token``, for the first event of this start; None for all others.
        """
        if self._ready_s is None or self._answered:
            return None
        self._answered = True
        took_s = max(at_s - max(self._ready_s, asked_s), 0.0)
        self._phases["first_token"] = took_s
        return took_s


def words(start: Start) -> str:
    """The line for the log."""
    told = [f"{_WORDS[phase]} {took_s:.2f} s" for phase, took_s in start.phases.items()]
    if start.ports_s is not None:
        told[0] += f" (ports open after {start.ports_s:.2f} s)"
    title = "cold start" if start.number == 1 else f"engine start {start.number}"
    line = f"{title}: {', '.join(told)}; ready after {start.total_s:.2f} s"
    if start.model_read_s is None:
        return line
    size = f"{start.model_read_bytes / _MIB:.0f} MiB"
    return f"{line}; meanwhile {size} of the model read ahead in {start.model_read_s:.2f} s"
