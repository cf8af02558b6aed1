import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys.digest import (
    MAX_KEY_BYTES,
    PEPPER_BYTES,
    SECRET_BYTES,
    TOKEN_PATTERN,
    Digester,
    checksum_holds,
    id_problem,
    make_key,
)

entropy = st.binary(min_size=SECRET_BYTES, max_size=SECRET_BYTES)
key_ids = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}", fullmatch=True).filter(
    lambda key_id: not key_id.startswith("sk-")
)


@given(st.binary(min_size=PEPPER_BYTES, max_size=PEPPER_BYTES), st.binary(max_size=300))
def test_digest_is_hmac_sha256(pepper: bytes, token: bytes) -> None:
    assert Digester(pepper).digest(token) == hmac.digest(pepper, token, hashlib.sha256)


def test_pepper_has_exactly_32_bytes() -> None:
    for size in (0, 31, 33, 64):
        with pytest.raises(ValueError, match="32 bytes"):
            Digester(bytes(size))


def test_pepper_id_names_the_pepper_without_showing_it() -> None:
    one, other = Digester(b"a" * 32), Digester(b"b" * 32)
    assert one.pepper_id != other.pepper_id
    assert one.pepper_id == Digester(b"a" * 32).pepper_id
    assert (b"a" * 32).hex() not in repr(one)


@given(key_ids, entropy)
def test_made_key_is_whole_and_fits_every_header(key_id: str, random: bytes) -> None:
    key = make_key(key_id, random).encode()
    assert key.startswith(f"sk-lg-{key_id}-".encode())
    assert len(key) <= MAX_KEY_BYTES
    assert TOKEN_PATTERN.fullmatch(key)
    assert checksum_holds(key) is True


@given(entropy, entropy)
def test_secret_keeps_all_of_its_256_bits(one: bytes, other: bytes) -> None:
    """Base 62 digits of fixed width lose nothing: different bytes, different key."""
    assert (make_key("a", one) == make_key("a", other)) == (one == other)


def test_longest_and_shortest_secret_have_the_same_length() -> None:
    assert len(make_key("a", bytes(32))) == len(make_key("a", b"\xff" * 32))


@given(entropy, st.data())
def test_one_wrong_character_breaks_the_checksum(random: bytes, data: st.DataObject) -> None:
    key = make_key("alice", random)
    at = data.draw(st.integers(len("sk-lg-alice-"), len(key) - 1))
    wrong = data.draw(st.sampled_from([char for char in "0Az9" if char != key[at]]))
    assert checksum_holds((key[:at] + wrong + key[at + 1 :]).encode()) is False


def test_checksum_says_nothing_about_foreign_keys() -> None:
    for token in (b"", b"sk-proj-abc", b"sk-lg-", b"sk-lg-alice", b"\xff\x00", b"sk-lg-a-short"):
        assert checksum_holds(token) is None


def test_id_that_looks_like_a_secret_is_refused() -> None:
    assert "ids are public" in str(id_problem("sk-lg-alice"))


@pytest.mark.parametrize("key_id", ["", "-a", ".a", "a b", "a:b", "é", "a" * 65, "a\n"])
def test_bad_ids_are_named_as_such(key_id: str) -> None:
    assert id_problem(key_id) is not None
    with pytest.raises(ValueError, match="key id"):
        make_key(key_id, bytes(32))


def test_key_is_not_made_of_too_little_randomness() -> None:
    with pytest.raises(ValueError, match="32 random bytes"):
        make_key("alice", bytes(16))
