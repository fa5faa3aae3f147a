"""The rate of calls that a budget allows."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from throttled_openai._control.budget import Budget


class Rates:
    """A budget, and the mean cost of its calls, which turns a token limit into a rate of calls."""

    __slots__ = ("budget", "tokens_per_call")

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.tokens_per_call = 0.0  # smoothed

    @property
    def known(self) -> float | None:
        """Calls per second that all known limits allow; None if that is not known."""
        return self._calls_per_second(self.budget.request_rate, self.budget.token_rate)

    @property
    def configured(self) -> float | None:
        """The same, by the limits that the user configured."""
        configured = self.budget.configured
        return self._calls_per_second(configured["requests"], configured["tokens"])

    def _calls_per_second(self, requests: float | None, tokens: float | None) -> float | None:
        if tokens is None or self.tokens_per_call <= 0:
            return requests
        by_tokens = tokens / self.tokens_per_call
        return by_tokens if requests is None else min(requests, by_tokens)
