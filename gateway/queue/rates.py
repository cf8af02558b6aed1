"""PURE. How long work takes, learned from the requests that finished.

Averages are exponentially weighted over the last some dozens of requests, and plain means until
there are so many. A rate is the average time divided by the average number of tokens: long requests
count for more than short ones, as they do for whoever waits behind them.
"""

from __future__ import annotations

import math

__all__ = ["ServiceRates"]

_MEMORY = 32  # requests; each new one counts for at least 1/32

# Until something was measured: a small model on a CPU, rather too slow than too fast.
_GUESS_PROMPT_S = 0.002  # per token
_GUESS_COMPLETION_S = 0.05  # per token
_GUESS_COMPLETION_TOKENS = 128.0
_GUESS_REQUEST_S = 2.0  # rather too fast: whoever is called back too early asks again

_LEAST_S = 0.001
_MOST_S = 3600.0  # no estimate is longer, and no single measurement counts for more


class _Average:
    __slots__ = ("count", "value")

    def __init__(self) -> None:
        self.count = 0
        self.value = 0.0

    def note(self, value: float) -> None:
        count = self.count
        if count < _MEMORY:
            self.count = count = count + 1
        self.value += (value - self.value) / count


class _Rate:
    """Seconds per token: the average of the one by the average of the other."""

    __slots__ = ("count", "seconds", "tokens", "value")

    def __init__(self, guess_s: float) -> None:
        self.count = 0
        self.seconds = 0.0
        self.tokens = 0.0
        self.value = guess_s

    def note(self, seconds: float, tokens: int) -> None:
        if tokens > 0:
            count = self.count
            if count < _MEMORY:
                self.count = count = count + 1
            self.seconds += (seconds - self.seconds) / count
            self.tokens += (tokens - self.tokens) / count
            self.value = self.seconds / self.tokens


class ServiceRates:
    """What requests took, and what one will probably take."""

    def __init__(self) -> None:
        self._prompt = _Rate(_GUESS_PROMPT_S)
        self._completion = _Rate(_GUESS_COMPLETION_S)
        self._completion_tokens = _Average()
        self._slot = _Average()

    def __repr__(self) -> str:
        return (
            f"<ServiceRates {self._prompt.value:.3g} s per prompt token,"
            f" {self._completion.value:.3g} s per token, {self.mean_s:.3g} s per request>"
        )

    @property
    def known(self) -> bool:
        """Whether anything was measured."""
        return self._slot.count > 0

    @property
    def mean_s(self) -> float:
        """Slot-seconds of a request, on average; above 0 while nothing is known."""
        if not self.known:
            return _GUESS_REQUEST_S
        return self._slot.value

    @property
    def usual_tokens(self) -> int:
        """Tokens that are generated for a request, on average; a guess before any was."""
        usual = self._completion_tokens
        return math.ceil(usual.value if usual.count else _GUESS_COMPLETION_TOKENS)

    def note(
        self, *, slot_s: float, prefill_s: float | None, prompt_tokens: int, completion_tokens: int
    ) -> None:
        """Learn from a request that ran to its end.

        All is measured here: what an engine says of its own times leaves out what it was held up
        by. What is not a sane measurement is ignored.

        Args:
            slot_s: Slots times the seconds they were held.
            prefill_s: The part of them before the first token; None if that is not known.
            prompt_tokens: Tokens of the prompts that were worked on.
            completion_tokens: Tokens generated; 0 for embeddings and the like.
        """
        if not 0 <= slot_s < math.inf:
            return
        if slot_s > _MOST_S:
            slot_s = _MOST_S
        self._slot.note(slot_s)
        if completion_tokens <= 0:
            self._prompt.note(slot_s, prompt_tokens)
            return
        if prefill_s is not None and 0 <= prefill_s < math.inf:
            prefill_s = min(prefill_s, slot_s)
            self._prompt.note(prefill_s, prompt_tokens)
        else:
            prefill_s = 0.0
        self._completion_tokens.note(completion_tokens)
        self._completion.note(slot_s - prefill_s, completion_tokens)

    def expect_s(self, *, prompt_tokens: int, max_tokens: int | None, tasks: int) -> float:
        """Estimate the slot-seconds of a request.

        Clients allow far more tokens than they get, so a completion is expected to be of average
        length, or as long as is allowed if that is less.

        Args:
            prompt_tokens: Tokens of all prompts together.
            max_tokens: Tokens each task may generate: 0 for embeddings and the like, None for as
                many as fit.
            tasks: Generations the request makes.

        Returns:
            Seconds, from a millisecond to an hour.
        """
        expected_s = prompt_tokens * self._prompt.value
        if max_tokens != 0:
            usual = self._completion_tokens
            completion_tokens = usual.value if usual.count else _GUESS_COMPLETION_TOKENS
            if max_tokens is not None and max_tokens < completion_tokens:
                completion_tokens = max_tokens
            expected_s += tasks * completion_tokens * self._completion.value
        if expected_s < _LEAST_S:
            return _LEAST_S
        return expected_s if expected_s < _MOST_S else _MOST_S
