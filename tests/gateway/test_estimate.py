import orjson
from hypothesis import given
from hypothesis import strategies as st

from gateway.limits.estimate import TEMPLATE_TOKENS, upper_tokens


@given(st.lists(st.text(max_size=200), min_size=1, max_size=20))
def test_estimate_covers_a_token_for_every_byte_of_text(texts: list[str]) -> None:
    body = orjson.dumps({"messages": [{"role": "user", "content": text} for text in texts]})
    worst = sum(len(text.encode()) for text in texts)
    assert upper_tokens(len(body), 1, 10**9) >= worst + TEMPLATE_TOKENS


def test_estimate_is_never_more_than_the_context_holds() -> None:
    assert upper_tokens(10**6, 1, 4096) == 4096
    assert upper_tokens(10**6, 3, 4096) == 3 * 4096


def test_each_prompt_has_its_own_template() -> None:
    assert upper_tokens(100, 2, 4096) == 100 + 2 * TEMPLATE_TOKENS


def test_media_may_fill_the_context_whatever_their_bytes() -> None:
    assert upper_tokens(100, 1, 4096, media=True) == 4096
