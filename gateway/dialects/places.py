"""Where a field of a translated request stands in what the client sent. Pure.

A dialect that is translated into chat is checked as chat. What is wrong is found under chat's names
then, and the client has to be told under its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

from gateway.errors import ApiError

__all__ = ["Places"]


class Places:
    """Pairs of places: chat's, and the client's for the same value."""

    def __init__(self, names: Mapping[str, str] = MappingProxyType({})) -> None:
        self._client = dict(names)

    def note(self, chat: str, client: str) -> None:
        """What stands at *chat*, and everything below it, came from *client*."""
        self._client[chat] = client

    def of(self, chat: str) -> str:
        """The client's place for one of chat's; the same where none was noted."""
        end = len(chat)
        while end > 0:
            found = self._client.get(chat[:end])
            if found is not None:
                return found + chat[end:]
            end = max(chat.rfind(".", 0, end), chat.rfind("[", 0, end))
        return chat

    def told(self, error: ApiError) -> ApiError:
        """*error*, about the client's place."""
        place = self.of(error.param) if error.param is not None else None
        if place == error.param:
            return error
        return ApiError(
            error.code,
            error.message.replace(f"'{error.param}'", f"'{place}'"),
            param=place,
            hint=error.hint,
            retry_after_s=error.retry_after_s,
            limit=error.limit,
            retryable=error.retryable,
            close=error.close,
        )

    @contextmanager
    def naming(self) -> Iterator[None]:
        """Errors raised inside name the client's places."""
        try:
            yield
        except ApiError as error:
            raise self.told(error) from None

    def __repr__(self) -> str:
        return f"<Places {len(self._client)} noted>"
