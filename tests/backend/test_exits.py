import pytest

from backend.exits import ExitCause, ExitFacts, classify, describe


@pytest.mark.parametrize(
    ("facts", "cause"),
    [
        (ExitFacts(0), ExitCause.CLEAN),
        (ExitFacts(-11), ExitCause.SEGV),
        (ExitFacts(-6), ExitCause.ABORT),
        (ExitFacts(-9), ExitCause.OOM),
        (ExitFacts(-9, oom_kills=1), ExitCause.OOM),
        (ExitFacts(-9, oom_kills=0), ExitCause.KILLED),
        (ExitFacts(-11, oom_kills=0), ExitCause.SEGV),
        (ExitFacts(-9, signals_sent=frozenset({9}), oom_kills=1), ExitCause.SIGNAL),
        (ExitFacts(-9, signals_sent=frozenset({9})), ExitCause.SIGNAL),
        (ExitFacts(-15, signals_sent=frozenset({15})), ExitCause.SIGNAL),
        (ExitFacts(-15), ExitCause.SIGNAL),
        (ExitFacts(-11, oom_kills=1), ExitCause.OOM),
        (ExitFacts(1), ExitCause.LOAD_ERROR),
        (ExitFacts(127), ExitCause.LOAD_ERROR),
        (ExitFacts(1, last_lines=("couldn't bind HTTP server socket",)), ExitCause.PORT_IN_USE),
        (ExitFacts(1, was_ready=True), ExitCause.ERROR),
        (ExitFacts(-9, evicted_for=ExitCause.LOAD_TIMEOUT), ExitCause.LOAD_TIMEOUT),
        (ExitFacts(-40), ExitCause.SIGNAL),
    ],
)
def test_causes_of_death_are_told_apart(facts, cause):
    assert classify(facts).cause is cause


def test_exit_status_in_words():
    assert [describe(code) for code in (0, 70, -9, -63)] == [
        "exit code 0",
        "exit code 70",
        "SIGKILL",
        "signal 63",
    ]
