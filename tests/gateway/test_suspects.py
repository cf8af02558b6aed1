"""Who may have killed the engine, and who did."""

from gateway.suspicion.suspects import Judgement, Suspects, digest_of

BODY = digest_of("/v1/chat/completions", b'{"messages": []}')
OTHER = digest_of("/v1/chat/completions", b'{"messages": [1]}')
CONVICTED = Judgement(convicted=True, suspended=False)
ACCUSED = Judgement(convicted=False, suspended=False)


def test_the_same_text_is_the_same_request_and_another_path_is_not() -> None:
    assert digest_of("/v1/completions", b"x") == digest_of("/v1/completions", b"x")
    assert digest_of("/v1/completions", b"x") != digest_of("/v1/embeddings", b"x")
    assert digest_of("/v1/completions", b"x") != digest_of("/v1/completions", b"y")


def test_nothing_is_looked_up_while_nobody_is_accused() -> None:
    suspects = Suspects()
    assert not suspects
    suspects.accuse(BODY, "anna", 1, 0.0)
    assert suspects


def test_accused_is_a_suspect_until_it_is_cleared_or_forgotten() -> None:
    suspects = Suspects(remember_s=600.0)
    suspects.accuse(BODY, "anna", 1, 0.0)
    assert suspects.must_be_alone(BODY, "bert", 599.0)
    assert not suspects.must_be_alone(OTHER, "bert", 1.0)
    suspects.clear(BODY, "anna")
    assert not suspects.must_be_alone(BODY, "bert", 1.0)
    suspects.accuse(BODY, "anna", 1, 10.0)
    assert not suspects.must_be_alone(BODY, "bert", 610.0)
    assert not suspects


def test_accused_under_which_it_dies_again_alone_is_refused_for_ten_minutes() -> None:
    suspects = Suspects()
    suspects.accuse(BODY, "anna", 1, 0.0)
    assert suspects.died_alone(BODY, "anna", 2, 5.0) == CONVICTED
    assert suspects.quarantined_s(BODY, 5.0) == 600.0
    assert suspects.quarantined_s(BODY, 604.0) == 1.0
    assert suspects.quarantined_s(BODY, 605.0) == 0.0
    assert not suspects.is_accused(BODY, 6.0)
    assert suspects.quarantined_s(OTHER, 6.0) == 0.0


def test_one_death_convicts_nobody_however_alone_it_was() -> None:
    suspects = Suspects()
    assert suspects.died_alone(BODY, "anna", 1, 0.0) == ACCUSED
    assert suspects.is_accused(BODY, 1.0)
    assert suspects.quarantined_s(BODY, 1.0) == 0.0


def test_two_lone_deaths_within_ten_minutes_suspend_the_key_alone() -> None:
    suspects = Suspects()
    assert not suspects.died_alone(BODY, "anna", 1, 0.0).suspended
    assert not suspects.died_alone(b"theirs", "bert", 2, 1.0).suspended
    assert suspects.died_alone(OTHER, "anna", 3, 599.0).suspended
    assert suspects.suspended_s("anna", 600.0) == 599.0
    assert suspects.suspended_s("bert", 600.0) == 0.0
    assert suspects.suspended_s("anna", 1199.0) == 0.0


def test_lone_deaths_far_apart_suspend_nobody() -> None:
    suspects = Suspects()
    assert not suspects.died_alone(BODY, "anna", 1, 0.0).suspended
    assert not suspects.died_alone(OTHER, "anna", 2, 600.0).suspended


def test_key_that_was_inside_at_two_deaths_is_on_probation_until_it_is_answered() -> None:
    """With another text each time no request would ever be a suspect."""
    suspects = Suspects()
    suspects.accuse(b"one", "anna", 1, 0.0)
    suspects.accuse(b"two", "anna", 1, 0.0)
    assert not suspects.must_be_alone(b"three", "anna", 1.0)
    suspects.accuse(b"three", "anna", 2, 5.0)
    assert suspects.must_be_alone(b"four", "anna", 6.0)
    assert not suspects.must_be_alone(b"four", "bert", 6.0)
    suspects.clear(b"four", "anna")
    assert not suspects.must_be_alone(b"five", "anna", 7.0)


def test_deaths_far_apart_put_no_key_on_probation() -> None:
    suspects = Suspects()
    suspects.accuse(b"one", "anna", 1, 0.0)
    suspects.accuse(b"two", "anna", 2, 600.0)
    assert not suspects.must_be_alone(b"three", "anna", 601.0)


def test_key_that_dodges_probation_is_suspended_after_five_deaths_of_its_own() -> None:
    """A harmless request after every second death would clear it each time."""
    suspects = Suspects()
    for generation in range(4):
        suspects.accuse(bytes([generation]), "anna", generation, 0.0)
        suspects.clear(bytes([generation]), "anna")
    assert suspects.suspended_s("anna", 0.0) == 0.0
    suspects.accuse(b"five", "anna", 4, 0.0)
    assert suspects.suspended_s("anna", 0.0) == 600.0


def test_deaths_that_others_shared_suspend_nobody() -> None:
    """The first of those inside is heard of before the second."""
    suspects = Suspects()
    for generation in range(20):
        suspects.accuse(b"hers", "anna", generation, 0.0)
        suspects.accuse(b"his", "bert", generation, 0.0)
    assert suspects.suspended_s("anna", 0.0) == 0.0
    assert suspects.suspended_s("bert", 0.0) == 0.0


def test_what_is_old_enough_needs_no_looking_up_any_more() -> None:
    suspects = Suspects()
    suspects.accuse(BODY, "anna", 1, 0.0)
    suspects.forget_old(599.0)
    assert suspects
    suspects.forget_old(600.0)
    assert not suspects


def test_all_callers_under_one_name_are_never_suspended() -> None:
    suspects = Suspects(suspends_keys=False)
    deaths = [suspects.died_alone(bytes([n]), "everybody", n, float(n)) for n in range(5)]
    assert not any(death.suspended for death in deaths)
    assert suspects.suspended_s("everybody", 5.0) == 0.0


def test_memory_is_bounded_and_forgets_the_oldest() -> None:
    suspects = Suspects()
    digests = [n.to_bytes(2, "big") for n in range(3000)]
    for n, digest in enumerate(digests):
        suspects.accuse(digest, "anna", 1, n / 1000)
    assert not suspects.must_be_alone(digests[0], "bert", 3.0)
    assert suspects.must_be_alone(digests[-1], "bert", 3.0)
    assert repr(suspects) == "<Suspects 1024 accused, 0 convicted>"
