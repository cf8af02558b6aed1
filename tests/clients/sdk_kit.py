"""What the checks with the ``openai`` package have in common; see `tests.clients.openai_sdk`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import openai

TIMEOUT_S = 30.0
Check = Callable[["Target"], Any]
CHECKS: dict[str, dict[str, Check]] = {}


@dataclass(frozen=True)
class Target:
    """The service that is looked at."""

    base_url: str
    key: str
    limited_key: str
    pid: int

    def client(self, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(**self._options(options))

    def async_client(self, **options: Any) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(**self._options(options))

    def _options(self, options: dict[str, Any]) -> dict[str, Any]:
        ours = {"base_url": self.base_url, "api_key": self.key}
        return {**ours, "max_retries": 0, "timeout": TIMEOUT_S, **options}

    @property
    def model(self) -> str:
        return self.client().models.list().data[0].id


def check(group: str) -> Callable[[Check], Check]:
    def add(function: Check) -> Check:
        CHECKS.setdefault(group, {})[function.__name__] = function
        return function

    return add


def user(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


QUESTION = user("Tell me a story.")
SAME = {"temperature": 0, "seed": 7, "max_tokens": 24}
"""Makes an answer that is the same each time, and ends by length."""


TOOL: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}


def raised(
    kind: type[BaseException], call: Callable[[], Any], **expected: Any
) -> openai.APIStatusError:
    """Check that *call* raises exactly *kind*, whose attributes are as *expected*."""
    try:
        call()
    except Exception as error:
        return as_expected(error, kind, **expected)
    raise AssertionError(f"nothing was raised instead of {kind.__name__}")


def as_expected(error: Exception, kind: type[BaseException], **expected: Any) -> Any:
    assert type(error) is kind, f"{error!r} instead of {kind.__name__}"
    found = {name: getattr(error, name) for name in expected}
    assert found == expected, f"{found} instead of {expected}: {error}"
    if isinstance(error, openai.APIStatusError):
        assert error.request_id, "no request id"
        assert error.request_id == error.response.headers["request-id"]
        assert {"hint", "retryable"} <= set(error.body), error.body  # type: ignore[arg-type]
    return error


def told(error: Any) -> dict[str, Any]:
    return {"message": error.message, "code": error.code, "type": error.type, "param": error.param}
