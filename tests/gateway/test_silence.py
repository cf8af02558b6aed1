"""When silence means that the engine is stuck, as a script of moments."""

from gateway.engine.silence import Silence
from gateway.queue.turns import Signs


def decoding(heard_s: float) -> Signs:
    return Signs(heard_s, 0)


def prefilling(heard_s: float, tokens: int) -> Signs:
    return Signs(heard_s, tokens)


def test_engine_without_work_and_with_answers_is_never_stuck() -> None:
    silence = Silence(60.0, now=0.0)
    for now in range(1, 1000):
        silence.tick(float(now), 1.0)
        silence.answered()
        assert silence.verdict([], float(now)) is None


def test_answer_that_stands_still_for_the_limit_is_a_wedge() -> None:
    silence = Silence(60.0, now=0.0)
    assert silence.verdict([decoding(10.0)], 70.0) is None
    assert "nothing came of a request" in str(silence.verdict([decoding(10.0)], 70.1))


def test_one_stuck_slot_among_busy_ones_is_a_wedge() -> None:
    silence = Silence(60.0, now=0.0)
    assert silence.verdict([decoding(99.0), decoding(10.0), decoding(99.9)], 100.0)


def test_long_prompt_has_the_time_of_a_slow_machine() -> None:
    silence = Silence(60.0, now=0.0)
    assert silence.verdict([prefilling(0.0, 2000)], 159.0) is None
    assert silence.verdict([prefilling(0.0, 2000)], 161.0)


def test_progress_of_the_prompt_starts_the_clock_anew() -> None:
    silence = Silence(60.0, now=0.0)
    assert silence.verdict([prefilling(1000.0, 100)], 1064.0) is None


def test_prompt_waits_for_the_prompts_before_it() -> None:
    """llama-server fills its batches from one prompt after the other."""
    silence = Silence(60.0, now=0.0)
    works = [prefilling(290.0, 100_000), prefilling(0.0, 10), decoding(200.0)]
    assert silence.verdict(works, 300.0) is None


def test_probes_must_fail_for_the_limit_and_three_times() -> None:
    silence = Silence(60.0, now=0.0)
    silence.unanswered(10.0)
    silence.unanswered(75.0)
    assert silence.verdict([], 80.0) is None
    silence.unanswered(80.0)
    assert "no probe" in str(silence.verdict([], 80.0))
    silence.answered()
    assert silence.verdict([], 80.0) is None


def test_probes_that_fail_for_a_moment_prove_nothing() -> None:
    silence = Silence(60.0, now=0.0)
    for at in (1.0, 2.0, 3.0, 4.0):
        silence.unanswered(at)
    assert silence.verdict([], 61.0) is None
    assert silence.verdict([], 61.1)


def test_what_we_slept_through_ourselves_is_nobodys_silence() -> None:
    silence = Silence(60.0, now=0.0)
    silence.tick(1.0, 1.0)
    silence.unanswered(1.0)
    silence.tick(3600.0, 1.0)
    assert silence.verdict([decoding(1.0)], 3600.0) is None
    assert silence.verdict([decoding(1.0)], 3660.1)


def test_another_process_starts_with_a_clean_slate() -> None:
    silence = Silence(60.0, now=0.0)
    for at in (1.0, 2.0, 3.0):
        silence.unanswered(at)
    silence.start_anew(100.0)
    assert silence.verdict([decoding(1.0)], 160.0) is None
