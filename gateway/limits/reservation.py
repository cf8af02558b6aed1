"""PURE. What one request has taken from its key's limits, and how it comes back."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from gateway.limits.account import Account, Holding

__all__ = ["Reservation"]


class Reservation:
    """What one request has taken from its key's limits; made by `Ledger.reserve`.

    Leaving the block gives everything back if the engine was never given the request. If it was,
    the request counts, and of the tokens as many as `settle` was told, also beyond what was held;
    those beyond are charged as of the last moment the ledger was told of. Leaving twice, or
    calling anything after leaving, does nothing.
    """

    __slots__ = ("_account", "_end", "_holding", "_left", "_started", "_used")

    def __init__(
        self, account: Account, holding: Holding, end: Callable[[Account, Holding, bool, int], None]
    ) -> None:
        self._account = account
        self._holding = holding
        self._end = end
        self._started = False
        self._used = 0
        self._left = False

    def __repr__(self) -> str:
        state = "left" if self._left else "started" if self._started else "held"
        return f"<Reservation {self.requests} requests, {self.tokens} tokens, {state}>"

    @property
    def requests(self) -> int:
        """Generations it holds."""
        return self._holding.requests

    @property
    def tokens(self) -> int:
        """Tokens it holds."""
        return self._holding.tokens

    def started(self) -> None:
        """The engine was given the request: from here on it counts."""
        self._started = True

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
            self._account.lower(self._holding, tokens)

    def leave(self) -> None:
        """End it, as leaving the block does."""
        if self._left:
            return
        self._left, started = True, self._started
        self._end(self._account, self._holding, started, self._used if started else 0)

    def __enter__(self) -> Reservation:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.leave()
