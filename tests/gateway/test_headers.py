"""What a request head may look like, and whose key it carries."""

import pytest

from gateway.errors import ApiError
from gateway.front.headers import check_head, content_is_json, credential, safe_request_id

HOST = (b"Host", b"example.test:8000")


@pytest.mark.parametrize(
    ("version", "target", "headers", "code"),
    [
        ((2, 0), "/", (HOST,), "http_version"),
        ((1, 1), "/v1/models#x", (HOST,), "invalid_http"),
        ((1, 1), "/", (HOST, HOST), "invalid_http"),
        ((1, 1), "/", ((b"Host", b"a, b"),), "invalid_http"),
        ((1, 1), "/", ((b"Host", b"a/#"),), "invalid_http"),
        ((1, 1), "/", ((b"Host", b""),), "invalid_http"),
        ((1, 1), "/", (HOST, (b"Transfer-Encoding", b"gzip, chunked")), "invalid_http"),
        ((1, 0), "/", (HOST, (b"Transfer-Encoding", b"chunked")), "invalid_http"),
        ((1, 1), "/", (HOST, (b"Content-Length", b"+5")), "invalid_http"),
        ((1, 1), "/", (HOST, (b"Content-Length", b"99999999999999999999")), "invalid_http"),
        (
            (1, 1),
            "/",
            (HOST, (b"Content-Length", b"5"), (b"content-length", b"5")),
            "invalid_http",
        ),
        (
            (1, 1),
            "/",
            (HOST, (b"Content-Length", b"5"), (b"Transfer-Encoding", b"chunked")),
            "invalid_http",
        ),
        (
            (1, 1),
            "/",
            (HOST, (b"Authorization", b"Bearer a"), (b"authorization", b"Bearer b")),
            "invalid_http",
        ),
        ((1, 1), "/", (HOST, *(((b"X-A", b"v" * 8000),) * 5)), "headers_too_large"),
    ],
)
def test_head_that_two_parsers_could_read_differently_is_refused(
    version: tuple[int, int], target: str, headers: tuple[tuple[bytes, bytes], ...], code: str
) -> None:
    with pytest.raises(ApiError) as refusal:
        check_head(version, target, headers)
    assert refusal.value.code == code


@pytest.mark.parametrize("host", [b"a", b"a.b:80", b"127.0.0.1:8000", b"[::1]:8000", b"a_b-c"])
def test_ordinary_head_passes(host: bytes) -> None:
    check_head((1, 1), "/v1/models?x=1", ((b"Host", host), (b"Accept", b"*/*"), (b"Accept", b"a")))


def test_a_head_whose_names_were_seen_before_is_looked_at_all_the_same() -> None:
    names = (b"hOsT", b"CONTENT-length", b"X-A")
    check_head((1, 1), "/", tuple(zip(names, (b"a", b"5", b"v"), strict=True)))
    for values in ((b"a, b", b"5", b"v"), (b"a", b"+5", b"v"), (b"a", b"\xb2", b"v")):
        with pytest.raises(ApiError, match="invalid_http"):
            check_head((1, 1), "/", tuple(zip(names, values, strict=True)))
    with pytest.raises(ApiError, match="headers_too_large"):
        check_head(
            (1, 1),
            "/",
            tuple(zip(names, (b"a", b"5", b"v" * 100), strict=True)),
            block_limit_bytes=100,
        )
    for _ in range(2):
        with pytest.raises(ApiError, match="invalid_http"):
            check_head((1, 1), "/", ((b"hOsT", b"a"), (b"HoSt", b"a")))


def test_the_size_of_a_head_counts_what_stands_between_its_fields() -> None:
    head = ((b"Host", b"ab"), (b"X-A", b"v"))
    check_head((1, 1), "/", head, block_limit_bytes=18)
    with pytest.raises(ApiError, match="headers_too_large"):
        check_head((1, 1), "/", head, block_limit_bytes=17)
    check_head((1, 0), "/", ())


def test_dedicated_header_wins_and_an_invalid_one_never_falls_back() -> None:
    assert credential("a", "b", "Bearer c").value == "a"
    assert credential(None, "b", "Bearer c").value == "b"
    assert credential(None, None, "bEaReR c").value == "c"
    assert credential("not a token", None, "Bearer c").value is None
    assert credential("", None, "Bearer c").reason == "missing"


@pytest.mark.parametrize(
    ("authorization", "reason"),
    [
        (None, "missing"),
        ("Bearer", "malformed"),
        ("Basic abc", "malformed"),
        ("Bearer  two-spaces", "malformed"),
        ("Bearer a b", "malformed"),
        ("Bearer \u00e9", "malformed"),
        ("Bearer " + "a" * 257, "malformed"),
    ],
)
def test_unusable_authorization_is_told_apart(authorization: str | None, reason: str) -> None:
    found = credential(None, None, authorization)
    assert (found.value, found.reason) == (None, reason)


def test_credential_hides_the_key_from_logs() -> None:
    assert "secret" not in repr(credential("secret", None, None))


@pytest.mark.parametrize("presented", ["req_1", "a.b-c_D", "x" * 64])
def test_well_formed_request_id_is_taken_over(presented: str) -> None:
    assert safe_request_id(presented) == presented


@pytest.mark.parametrize("presented", [None, "", "x" * 65, "a b", "a\nb", "<script>", "é"])
def test_other_request_ids_are_replaced(presented: str | None) -> None:
    assert safe_request_id(presented) is None


@pytest.mark.parametrize(
    ("content_type", "accepted"),
    [
        (None, True),
        ("application/json", True),
        ("Application/JSON; charset=UTF-8", True),
        ('application/json;charset="utf-8"', True),
        ("application/json; charset=utf-16", False),
        ("text/plain;charset=UTF-8", False),
        ("application/x-www-form-urlencoded", False),
        ("multipart/form-data; boundary=x", False),
    ],
)
def test_body_types(content_type: str | None, accepted: bool) -> None:
    assert content_is_json(content_type) is accepted
