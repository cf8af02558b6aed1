"""PURE: why an engine process ended, in one word of a closed set.

The words are label values of a metric and part of log lines, so they never change meaning. What
is not visible from the exit status (whether we sent the signal, whether the kernel ran out of
memory, what the last output lines said) comes in as a fact.
"""

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class ExitCause(StrEnum):
    """One word per way to die."""

    CLEAN = "clean"
    SIGNAL = "signal"
    SEGV = "segv"
    ABORT = "abort"
    OOM = "oom"
    KILLED = "killed"
    LOAD_ERROR = "load_error"
    LOAD_TIMEOUT = "load_timeout"
    WEDGE = "wedge"
    PORT_IN_USE = "port_in_use"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class ExitFacts:
    """
    What is known at the moment of death.

    Attributes:
        returncode: As subprocess counts it: >= 0 an exit code, < 0 the negated signal number.
        signals_sent: The signals this supervisor sent to the process.
        was_ready: The process had answered a readiness probe.
        oom_kills: How many kills for lack of memory the kernel counted while it ran; None where
            it shows no count.
        evicted_for: Why the supervisor was ending it in order to restart it, if it was.
        last_lines: The last lines of its output.
    """

    returncode: int
    signals_sent: frozenset[int] = frozenset()
    was_ready: bool = False
    oom_kills: int | None = None
    evicted_for: ExitCause | None = None
    last_lines: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class ExitReport:
    """The verdict: a *cause* for metrics, and the status words people search for."""

    cause: ExitCause
    returncode: int

    def __str__(self) -> str:
        return f"{self.cause} ({describe(self.returncode)})"


_BY_SIGNAL: dict[int, ExitCause] = {
    signal.SIGSEGV: ExitCause.SEGV,
    signal.SIGBUS: ExitCause.SEGV,
    signal.SIGABRT: ExitCause.ABORT,
    signal.SIGILL: ExitCause.ABORT,
    signal.SIGFPE: ExitCause.ABORT,
}

# Both spellings occur: the engine's own message, and the C library's.
_PORT_WORDS = ("couldn't bind", "address already in use")


def classify(facts: ExitFacts) -> ExitReport:
    """
    Name the cause. First match wins:

    1. we were ending it for a reason of our own -> that reason;
    2. a signal that we sent -> signal;
    3. any other signal while the kernel counted a kill for lack of memory -> oom;
    4. a SIGKILL while it counted none -> killed: a person, or the platform; where the kernel
       shows no count -> oom, which is far more often the reason;
    5. any other signal, by its number;
    6. exit code 0 -> clean;
    7. a non-zero code before readiness -> port_in_use or load_error; after it -> error.
    """
    return ExitReport(_cause(facts), facts.returncode)


def _cause(facts: ExitFacts) -> ExitCause:
    # What did not listen any more may have been about to die of something worth knowing.
    unasked = facts.returncode < 0 and -facts.returncode not in facts.signals_sent
    if facts.evicted_for is not None and not (facts.evicted_for is ExitCause.SIGNAL and unasked):
        return facts.evicted_for
    if facts.returncode < 0:
        return _signal_cause(facts)
    if facts.returncode == 0:
        return ExitCause.CLEAN
    if facts.was_ready:
        return ExitCause.ERROR
    text = "\n".join(facts.last_lines).lower()
    if any(words in text for words in _PORT_WORDS):
        return ExitCause.PORT_IN_USE
    return ExitCause.LOAD_ERROR


def _signal_cause(facts: ExitFacts) -> ExitCause:
    signum = -facts.returncode
    if signum in facts.signals_sent:
        return ExitCause.SIGNAL
    if facts.oom_kills:
        return ExitCause.OOM
    if signum == signal.SIGKILL:
        return ExitCause.OOM if facts.oom_kills is None else ExitCause.KILLED
    return _BY_SIGNAL.get(signum, ExitCause.SIGNAL)


def describe(returncode: int) -> str:
    """Say *returncode* in words: ``exit code 1``, ``SIGSEGV``, ``signal 40``."""
    if returncode >= 0:
        return f"exit code {returncode}"
    try:
        return signal.Signals(-returncode).name
    except ValueError:
        return f"signal {-returncode}"
