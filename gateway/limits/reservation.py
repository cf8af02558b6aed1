"""PURE. What one request has taken from its key's limits, and how it comes back."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from gateway.limits.gcra import Taken

if TYPE_CHECKING:
    from gateway.limits.account import Account

__all__ = ["Reservation"]


class Reservation:
    """What one request has taken from its key's limits; made by `Ledger.reserve`.

    Leaving the block gives everything back if the engine was never given the request. If it was,
    the request counts, and of the tokens as many as `settle` was told, also beyond what was held;
    those beyond are charged as of the last moment the ledger was told of. Leaving twice, or
    calling anything after leaving, does nothing.
    """

    __slots__ = (
        "_account",
        "_left",
        "_started",
        "_used",
        "day",
        "rate",
        "requests",
        "token_rate",
        "tokens",
    )

    def __init__(
        self,
        account: Account,
        requests: int,
        tokens: int,
        day: int,
        rate: Taken | None,
        token_rate: Taken | None,
    ) -> None:
        self._account = account
        self.requests = requests
        """Generations it holds."""
        self.tokens = tokens
        """Tokens it holds."""
        self.day = day
        """The day they count for."""
        self.rate = rate
        """The requests, as far as they are limited by the minute."""
        self.token_rate = token_rate
        """The tokens, as far as they are limited by the minute."""
        self._started = False
        self._used = 0
        self._left = False

    def __repr__(self) -> str:
        state = "left" if self._left else "started" if self._started else "held"
        return f"<Reservation {self.requests} requests, {self.tokens} tokens, {state}>"

    def started(self, tokens: int = 0) -> None:
        """The engine was given the request: from here on it counts, and so do *tokens*, at least 0.

        Of those the last word wins, as of `settle`.
        """
        self._started = True
        self._used = tokens

    def settle(self, tokens: int) -> None:
        """Tell how many tokens were really used, at least 0; the last word before leaving wins."""
        if tokens < 0:
            raise ValueError(f"must be at least 0, not {tokens}")
        self._used = tokens

    def lower_to(self, tokens: int) -> None:
        """Hold no more than *tokens*, at least 0: the prompt turned out to be smaller."""
        if tokens < 0:
            raise ValueError(f"must be at least 0, not {tokens}")
        if not self._left:
            self._account.lower(self, tokens)

    def leave(self) -> None:
        """End it, as leaving the block does."""
        if self._left:
            return
        self._left, started = True, self._started
        self._account.take_back(self, started, self._used if started else 0)

    def __enter__(self) -> Reservation:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.leave()
