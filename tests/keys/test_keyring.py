from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys import Keyring, Limits, Principal, Refused
from keys.digest import Digester, make_key
from keys.records import KeyRecord, Secret

Maker = Callable[..., tuple[str, KeyRecord]]


def test_right_key_gets_its_principal(make: Maker, digester: Digester) -> None:
    key, record = make(
        "alice",
        expires=200,
        scopes=frozenset({"inference", "admin"}),
        limits=Limits(requests_per_minute=5),
        priority="high",
        weight=2.0,
        models=frozenset({"m"}),
        continue_streams=True,
    )
    expected = Principal(
        key_id="alice",
        scopes=frozenset({"inference", "admin"}),
        limits=Limits(requests_per_minute=5),
        priority="high",
        weight=2.0,
        models=frozenset({"m"}),
        expires_at=200,
        continue_streams=True,
    )
    ring = Keyring([record], digester)
    assert ring.identify(key, 100.0) == expected
    assert ring.identify(key.encode(), 100.0) == expected


def test_ring_without_keys_refuses_everything(make: Maker) -> None:
    key, _ = make("alice")
    assert Keyring().identify(key, 0.0) == Refused("unknown")
    assert len(Keyring()) == 0


def test_ring_with_keys_needs_their_pepper(make: Maker) -> None:
    with pytest.raises(ValueError, match="pepper"):
        Keyring([make("alice")[1]])


def test_every_refusal_has_its_reason(make: Maker, digester: Digester) -> None:
    key, record = make("alice")
    ring = Keyring([record], digester)
    swapped = key[:-8] + ("0" if key[-8] != "0" else "1") + key[-7:]
    cases = {
        "": "missing",
        "x" * 257: "malformed",
        "with blank": "malformed",
        "\N{EURO SIGN}": "malformed",
        "\udc80\ud800": "malformed",
        "sk-lg-": "malformed",
        key[:-1]: "malformed",
        key + "0": "malformed",
        swapped: "checksum",
        make_key("nobody", bytes(32)): "unknown",
        "sk-proj-of-someone-else": "unknown",
        make_key("alice", bytes(32)): "wrong_secret",
    }
    assert {token: ring.identify(token, 0.0).reason for token in cases} == cases  # type: ignore[union-attr]


def test_expiry_begins_at_its_second(make: Maker, digester: Digester) -> None:
    key, record = make("alice", expires=100)
    ring = Keyring([record], digester)
    assert isinstance(ring.identify(key, 99.999), Principal)
    assert ring.identify(key, 100.0) == Refused("expired")


def test_disabled_key_is_refused(make: Maker, digester: Digester) -> None:
    key, record = make("alice", disabled=True)
    assert Keyring([record], digester).identify(key, 0.0) == Refused("disabled")


def test_state_of_a_key_is_told_to_its_holder_only(make: Maker, digester: Digester) -> None:
    """Who does not know the secret learns nothing, not even in our own metrics."""
    _, disabled = make("alice", disabled=True)
    _, expired = make("bob", expires=1)
    ring = Keyring([disabled, expired], digester)
    assert ring.identify(make_key("alice", bytes(32)), 9.0) == Refused("wrong_secret")
    assert ring.identify(make_key("bob", bytes(32)), 9.0) == Refused("wrong_secret")


def test_old_secret_works_until_the_overlap_is_over(make: Maker, digester: Digester) -> None:
    old, record = make("alice")
    new, fresh = make("alice")
    rotated = replace(fresh, previous=(replace(record.secret, until=100),))
    ring = Keyring([rotated], digester)
    assert isinstance(ring.identify(new, 500.0), Principal)
    assert isinstance(ring.identify(old, 99.0), Principal)
    assert ring.identify(old, 100.0) == Refused("wrong_secret")


def test_key_of_the_old_shape_is_found_by_its_digest(digester: Digester) -> None:
    secret = Secret(digester.digest(b"sk-prod-abcdefghijkl"), legacy=True)
    ring = Keyring([KeyRecord("production", secret, expires=50)], digester)
    found = ring.identify("sk-prod-abcdefghijkl", 10.0)
    assert isinstance(found, Principal)
    assert found.key_id == "production"
    assert ring.identify("sk-prod-abcdefghijkl", 60.0) == Refused("expired")
    assert ring.identify("sk-prod-abcdefghijkm", 10.0) == Refused("unknown")


def test_rotated_key_of_the_old_shape_keeps_its_overlap(make: Maker, digester: Digester) -> None:
    new, record = make("production")
    old = Secret(digester.digest(b"sk-prod-abcdefghijkl"), legacy=True, until=100)
    ring = Keyring([replace(record, previous=(old,))], digester)
    assert isinstance(ring.identify(new, 500.0), Principal)
    assert isinstance(ring.identify("sk-prod-abcdefghijkl", 99.0), Principal)
    assert ring.identify("sk-prod-abcdefghijkl", 100.0) == Refused("unknown")


def test_old_secret_under_another_pepper_is_worthless(make: Maker) -> None:
    key, record = make("alice")
    assert Keyring([record], Digester(b"x" * 32)).identify(key, 0.0) == Refused("wrong_secret")


def test_standing_follows_the_ring_for_requests_under_way(make: Maker, digester: Digester) -> None:
    records = [
        make("valid")[1],
        make("expires", expires=100)[1],
        make("disabled", disabled=True)[1],
    ]
    ring = Keyring(records, digester)
    assert [ring.standing(record.key_id, 100.0) for record in records] == [
        "valid",
        "expired",
        "disabled",
    ]
    assert ring.standing("removed", 100.0) == "removed"
    assert ring.standing("\ud800", 100.0) == "removed"


def test_ring_holds_its_own_principals_whose_keys_are_valid_at_any_time(
    make: Maker, digester: Digester
) -> None:
    key, record = make("alice")
    ring = Keyring([record], digester)
    found = ring.identify(key, 0.0)
    assert isinstance(found, Principal)
    assert ring.holds(found)
    later = Keyring([replace(record, disabled=True)], digester)
    assert not any(other.holds(found) for other in (later, Keyring(), Keyring([record], digester)))
    key, record = make("bert", expires=100)
    ring = Keyring([record], digester)
    found = ring.identify(key, 0.0)
    assert isinstance(found, Principal)
    assert not ring.holds(found)


def test_ring_shows_its_size_and_no_secret(make: Maker, digester: Digester) -> None:
    key, record = make("alice")
    assert repr(Keyring([record], digester)) == "<Keyring of 1 keys>"
    assert record.secret.digest.hex() not in repr(record)
    assert repr(record.secret.digest) not in repr(record)
    assert key not in repr(record)


@given(st.one_of(st.text(max_size=300), st.binary(max_size=300)))
def test_no_token_at_all_makes_the_check_fail(token: str | bytes) -> None:
    """Whatever comes in a header gets an answer, and never entry."""
    digester = Digester(bytes(32))
    key = make_key("alice", bytes(32))
    ring = Keyring([KeyRecord("alice", Secret(digester.digest(key.encode())))], digester)
    assert isinstance(ring.identify(token, 0.0), Refused)


def test_each_of_ten_thousand_keys_is_told_from_the_others(digester: Digester) -> None:
    keys = {f"key-{n}": make_key(f"key-{n}", n.to_bytes(32, "big")) for n in range(10_000)}
    ring = Keyring(
        (KeyRecord(name, Secret(digester.digest(key.encode()))) for name, key in keys.items()),
        digester,
    )
    assert len(ring) == 10_000
    for name, key in keys.items():
        found = ring.identify(key, 0.0)
        assert isinstance(found, Principal)
        assert found.key_id == name
