"""Browsers may call from the origins that were named, and read what they need to back off."""

from gateway.front.cors import CorsPolicy


def test_nothing_is_allowed_unless_origins_are_named() -> None:
    policy = CorsPolicy()
    assert not policy.enabled
    assert policy.reply_headers("https://a.test") == []


def test_named_origin_may_read_and_others_may_not() -> None:
    policy = CorsPolicy(["https://a.test"])
    allowed = dict(policy.reply_headers("https://a.test"))
    assert allowed["Access-Control-Allow-Origin"] == "https://a.test"
    assert "retry-after-ms" in allowed["Access-Control-Expose-Headers"]
    assert allowed["Vary"] == "Origin"
    assert dict(policy.reply_headers("https://b.test")) == {"Vary": "Origin"}
    assert dict(policy.preflight_headers("https://b.test", "x-a")) == {"Vary": "Origin"}


def test_preflight_echoes_well_formed_header_names_only() -> None:
    policy = CorsPolicy(["*"])
    asked = "authorization, x-stainless-lang,content-type"
    assert dict(policy.preflight_headers("null", asked))["Access-Control-Allow-Headers"] == asked
    for hostile in ("a\r\nSet-Cookie: x", "a b", "", "x" * 65):
        answered = dict(policy.preflight_headers("null", hostile))
        assert answered["Access-Control-Allow-Headers"].startswith("authorization")


def test_credentials_are_never_allowed() -> None:
    for origins in (["*"], ["https://a.test"]):
        names = dict(CorsPolicy(origins).preflight_headers("https://a.test", None))
        assert "Access-Control-Allow-Credentials" not in names
