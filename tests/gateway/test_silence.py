"""When silence means that the engine is stuck, as a script of moments."""

from gateway.engine.silence import Sign, Silence
from gateway.queue.turns import Signs

BATCH = 512


def decoding(heard_s: float) -> Signs:
    return Signs(heard_s, 0)


def prefilling(heard_s: float) -> Signs:
    return Signs(heard_s, BATCH)


def embedding(heard_s: float, tokens: int) -> Signs:
    return Signs(heard_s, tokens, reports=False)


def test_engine_without_work_and_with_answers_is_never_stuck() -> None:
    silence = Silence(60.0, now=0.0)
    for now in range(1, 1000):
        silence.tick(float(now), 1.0)
        silence.probed(Sign.ALIVE, float(now))
        assert silence.verdict([], float(now)) is None


def test_answer_that_stands_still_for_the_limit_is_a_wedge() -> None:
    silence = Silence(60.0, now=0.0)
    assert silence.verdict([decoding(10.0)], 70.0) is None
    trouble = silence.verdict([decoding(10.0)], 70.1)
    assert trouble is not None
    assert "nothing came of a request" in trouble.why
    assert not trouble.deaf


def test_one_stuck_slot_among_busy_ones_is_a_wedge() -> None:
    silence = Silence(60.0, now=0.0)
    assert silence.verdict([decoding(99.0), decoding(10.0), decoding(99.9)], 100.0)


def test_prompt_has_the_time_of_one_batch_on_a_slow_machine() -> None:
    silence = Silence(60.0, now=0.0)
    assert silence.verdict([prefilling(0.0)], 60.0 + BATCH / 20) is None
    assert silence.verdict([prefilling(0.0)], 60.1 + BATCH / 20)


def test_progress_of_the_prompt_starts_the_clock_anew() -> None:
    silence = Silence(60.0, now=0.0)
    assert silence.verdict([prefilling(1000.0)], 1064.0) is None


def test_prompt_waits_for_the_prompts_before_it() -> None:
    """llama-server fills its batches from one prompt after the other."""
    silence = Silence(60.0, now=0.0)
    assert silence.verdict([prefilling(290.0), prefilling(0.0)], 300.0) is None
    assert silence.verdict([prefilling(0.0), prefilling(0.0)], 100.0)


def test_prompts_do_not_excuse_an_answer_that_stands_still() -> None:
    """Every batch has a token for each answer in it."""
    silence = Silence(60.0, now=0.0)
    works = [prefilling(299.0) for _ in range(20)]
    assert silence.verdict([*works, decoding(0.0)], 60.0 + BATCH / 20) is None
    assert silence.verdict([*works, decoding(0.0)], 100.0)


def test_what_reports_nothing_has_the_time_of_its_whole_text() -> None:
    silence = Silence(60.0, now=0.0)
    assert silence.verdict([embedding(0.0, 2000)], 160.0) is None
    assert silence.verdict([embedding(0.0, 2000), embedding(0.0, 2000)], 260.0) is None
    assert silence.verdict([embedding(0.0, 2000)], 160.1)


def test_probes_must_fail_for_the_limit_and_three_times() -> None:
    silence = Silence(60.0, now=0.0)
    silence.probed(Sign.NONE, 10.0)
    silence.probed(Sign.NONE, 75.0)
    assert silence.verdict([], 80.0) is None
    silence.probed(Sign.NONE, 80.0)
    trouble = silence.verdict([], 80.0)
    assert trouble is not None
    assert "no probe" in trouble.why
    silence.probed(Sign.ALIVE, 80.0)
    assert silence.verdict([], 80.0) is None


def test_probes_that_fail_for_a_moment_prove_nothing() -> None:
    silence = Silence(60.0, now=0.0)
    for at in (1.0, 2.0, 3.0, 4.0):
        silence.probed(Sign.NONE, at)
    assert silence.verdict([], 61.0) is None
    assert silence.verdict([], 61.1)


def test_engine_that_does_not_listen_has_been_told_to_stop() -> None:
    silence = Silence(60.0, now=0.0)
    silence.probed(Sign.DEAF, 10.0)
    assert silence.verdict([], 10.0) is None
    assert silence.in_doubt
    silence.probed(Sign.DEAF, 11.0)
    trouble = silence.verdict([], 11.0)
    assert trouble is not None
    assert trouble.deaf
    silence.probed(Sign.ALIVE, 12.0)
    assert not silence.in_doubt


def test_what_we_slept_through_ourselves_is_nobodys_silence() -> None:
    silence = Silence(60.0, now=0.0)
    silence.tick(1.0, 1.0)
    silence.probed(Sign.NONE, 1.0)
    silence.tick(3600.0, 1.0)
    assert silence.verdict([decoding(1.0)], 3600.0) is None
    assert silence.verdict([decoding(1.0)], 3660.1)


def test_another_process_starts_with_a_clean_slate() -> None:
    silence = Silence(60.0, now=0.0)
    for at in (1.0, 2.0, 3.0):
        silence.probed(Sign.NONE, at)
    silence.start_anew(100.0)
    assert silence.verdict([decoding(1.0)], 160.0) is None
