"""What is wrong is told under the names that the client used."""

import pytest

from gateway.dialects.places import Places
from gateway.errors import ApiError

PLACES = Places({"messages[1]": "input[3]", "messages[1].content": "input[3].output"})
PLACES.note("max_tokens", "max_output_tokens")


@pytest.mark.parametrize(
    ("chat", "client"),
    [
        ("messages[1]", "input[3]"),
        ("messages[1].role", "input[3].role"),
        ("messages[1].content[0].text", "input[3].output[0].text"),
        ("messages[10].role", "messages[10].role"),
        ("messages", "messages"),
        ("max_tokens", "max_output_tokens"),
        ("max_tokens_more", "max_tokens_more"),
        ("", ""),
    ],
)
def test_longest_place_that_was_noted_is_replaced(chat: str, client: str) -> None:
    assert PLACES.of(chat) == client


def test_error_is_told_with_the_clients_place_in_param_and_message() -> None:
    with pytest.raises(ApiError) as caught, PLACES.naming():
        raise ApiError(
            "invalid_type",
            "'max_tokens' must be an integer.",
            param="max_tokens",
            hint="h",
            retryable=True,
        )
    error = caught.value
    assert error.param == "max_output_tokens"
    assert error.message == "'max_output_tokens' must be an integer."
    assert (error.code, error.status, error.hint, error.retryable) == (
        "invalid_type",
        400,
        "h",
        True,
    )


@pytest.mark.parametrize("param", [None, "temperature"])
def test_error_about_something_else_is_left_alone(param: str | None) -> None:
    raised = ApiError("invalid_value", param=param)
    with pytest.raises(ApiError) as caught, PLACES.naming():
        raise raised
    assert caught.value is raised
