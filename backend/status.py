"""PURE: what the rest of the service may know about the engine process: words and numbers."""

from dataclasses import dataclass, fields
from enum import StrEnum


class EngineState(StrEnum):
    """What others see. The words go into health answers, logs and metrics."""

    STOPPED = "stopped"
    STARTING = "starting"
    LOADING = "loading"
    READY = "ready"
    RESTARTING = "restarting"
    FAILED = "failed"
    STOPPING = "stopping"
    SLEEPING = "sleeping"  # no process, or one that is being unloaded; comes back when asked


class Failure(StrEnum):
    """Why the machine gave up."""

    CRASH_LOOP = "crash_loop"
    LOAD_TIMEOUT = "load_timeout"
    NOT_REAPED = "not_reaped"
    INTERNAL = "internal"


# What the service exits with: 1 where another box may do better, so that the platform replaces this
# worker. The others have codes of their own, so that a platform's log tells them apart.
FAILURE_EXIT_CODES = {
    Failure.CRASH_LOOP: 1,
    Failure.LOAD_TIMEOUT: 1,
    Failure.NOT_REAPED: 71,
    Failure.INTERNAL: 70,
}


@dataclass(frozen=True, slots=True)
class EngineProps:
    """
    What a ready engine says about itself.

    Attributes:
        slots: Requests it works on at the same time, at least 1.
        context_tokens: Context of one slot.
        build: Its build name.
        vocab_size, embedding_size, trained_context: Facts of the model, None where not told.
        vision, audio: Whether it takes such input.
    """

    slots: int
    context_tokens: int
    build: str = ""
    vocab_size: int | None = None
    embedding_size: int | None = None
    trained_context: int | None = None
    vision: bool = False
    audio: bool = False

    def changes_to(self, other: "EngineProps") -> tuple[str, ...]:
        """Say what is different in *other*, such as ``slots 4 -> 2``; empty when nothing is."""
        names = (each.name for each in fields(self))
        pairs = ((name, getattr(self, name), getattr(other, name)) for name in names)
        return tuple(f"{name} {old} -> {new}" for name, old, new in pairs if old != new)


@dataclass(frozen=True, slots=True)
class EngineSnapshot:
    """
    One consistent view of the engine. Times are seconds on the monotonic clock.

    Attributes:
        state: Where it is now.
        since_s: When it got there.
        pid: Process id, or None when there is no process.
        restarts: Starts that followed a death.
        last_exit: Cause and status of the last death in words, e.g. ``segv (SIGSEGV)``.
        ready_ever: It was ready at least once since the service started.
        generation: Counts processes; a change means that all connections to it are dead.
        props: What it says about itself; only while ready.
        next_start_s: When the next start is due, while waiting for one; in sleeping after a wake
            that failed: the moment before which no wake starts the engine.
        output_tail: The last lines it wrote, redacted, oldest first.
        failure: Why it was given up, when *state* is failed.
        loaded_s: When the process of this generation said that its model is loaded; None before, or
            where that was not heard.
        waking: It was asked to wake and is not ready yet: it starts, loads, waits for the moment
            when it may start, or is still being unloaded.
        deaths: Processes that ended unasked, or could not be made, since the service started.
            Each step up is one death, whose cause is in *last_exit*.
    """

    state: EngineState = EngineState.STOPPED
    since_s: float = 0.0
    pid: int | None = None
    restarts: int = 0
    last_exit: str | None = None
    ready_ever: bool = False
    generation: int = 0
    props: EngineProps | None = None
    next_start_s: float | None = None
    output_tail: tuple[str, ...] = ()
    failure: Failure | None = None
    waking: bool = False
    deaths: int = 0
    loaded_s: float | None = None
