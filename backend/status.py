"""PURE: what the rest of the service may know about the engine process: words and numbers."""

from dataclasses import dataclass
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


class Failure(StrEnum):
    """Why the machine gave up."""

    CRASH_LOOP = "crash_loop"
    LOAD_TIMEOUT = "load_timeout"
    NOT_REAPED = "not_reaped"
    INTERNAL = "internal"


# What the service exits with, so that a platform's log tells the cases apart.
FAILURE_EXIT_CODES = {
    Failure.CRASH_LOOP: 70,
    Failure.LOAD_TIMEOUT: 70,
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
        next_start_s: When the next start is due, while waiting for one.
        output_tail: The last lines it wrote, redacted, oldest first.
        failure: Why it was given up, when *state* is failed.
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
