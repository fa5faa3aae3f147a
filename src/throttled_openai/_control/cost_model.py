"""The cost model: how many tokens an attempt costs, as its provider counts them.

An estimate says what a request may use. The cost model says what to take from the budget for it. It learns from
reported usage, from refusals that name a number of tokens, and from announced levels: what a bucket lost between two
attempts is what the second one cost.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from throttled_openai._protocol.estimate import Estimate
    from throttled_openai._protocol.headers import Announcement
    from throttled_openai._protocol.providers import Provider
    from throttled_openai._protocol.usage import Usage

# Share of each response in the moving averages: some twenty responses decide.
ALPHA: Final = 0.1
# Tokens with which the first ratio, 1, is weighted, so that one tiny prompt does not decide about long ones.
FIRST_INPUT: Final = 100.0
# Bounds of the ratio of real tokens to a quarter of the bytes. Measured: 0.56 for Hindi, 2.7 for base64.
LEAST_RATIO: Final = 0.25
MOST_RATIO: Final = 4.0
# Tokens assumed for an answer before one has been seen. A typical one has 150 to 300.
FIRST_OUTPUT: Final = 256.0

# An observed cost says something about the output only if the output is this many times the possible error: the noise
# of the observation, plus this share of the input.
CLEAR: Final = 4.0
INPUT_ERROR: Final = 0.1
# It supports "reserved" or "not reserved" if it is this close to it, as a share of the output. With noise of one
# standard deviation, an observation that supports the wrong one is three deviations off.
CLOSE: Final = 0.25
# Observations in a row that contradict the model before it changes.
NEEDED: Final = 3
# Announced levels for which a server of unknown habits is presumed to reserve output, unless they show it earlier. A
# wrong presumption delays a few calls; its opposite costs a refusal for each call that leaves meanwhile.
PRESUMED: Final = 16

# Possible error of the estimated input of a refused request: this share of it, plus this number of tokens.
REQUESTED_ERROR: Final = 0.3
REQUESTED_SLACK: Final = 8.0

# Announced levels that are kept, to be compared with those of the attempts before and after. Answers arrive in the
# order of their service times, not in the order of their attempts.
KEPT: Final = 256
# Seconds by which two attempts may have reached the server closer together or further apart than they left.
SPREAD: Final = 0.03


class _Level(NamedTuple):
    """What the server had left once it had admitted an attempt."""

    sent_at: float
    remaining: float
    limit: float
    rate: float
    estimate: Estimate
    provider: Provider


class CostModel:
    """What the attempts of one budget cost. Clients of several providers may share a budget."""

    def __init__(self) -> None:
        self._providers: dict[str, ProviderCosts] = {}
        self._levels: OrderedDict[int, _Level] = OrderedDict()  # by number of the attempt

    def cost(self, estimate: Estimate, provider: Provider) -> float:
        """Tokens to reserve for an attempt, by what is known now."""
        return self._of(provider).cost(estimate)

    def settled_cost(self, estimate: Estimate, provider: Provider, usage: Usage) -> float | None:
        """Learn from reported usage. Returns the tokens the server charged in the end; None: as estimated."""
        costs = self._of(provider)
        final = costs.final_cost(estimate, usage)
        costs.learn_usage(estimate, usage)
        return final

    def learn_requested(self, requested: float, estimate: Estimate, provider: Provider) -> None:
        """A refusal named the number of tokens it was asked for."""
        self._of(provider).learn_requested(requested, estimate)

    def learn_level(
        self, announcement: Announcement, number: int, sent_at: float, estimate: Estimate, provider: Provider
    ) -> None:
        """Attempt `number` brought back an announced level: compare it with those of the attempts beside it.

        What the bucket lost between two consecutive attempts, plus what it refilled in that time, is the cost of the
        second. It shows whether the server reserves output.
        """
        window = next((window for window in announcement.tokens if window.remaining is not None), None)
        if window is None or window.remaining is None:
            return
        level = _Level(sent_at, window.remaining, window.limit, window.rate, estimate, provider)
        self._of(provider).presume()
        self._levels[number] = level
        while len(self._levels) > KEPT:
            self._levels.popitem(last=False)
        for first, second in ((self._levels.get(number - 1), level), (level, self._levels.get(number + 1))):
            if first is not None and second is not None and first.limit == second.limit and second.estimate.output > 0:
                # It does not refill beyond the limit.
                before = min(second.limit, first.remaining + second.rate * (second.sent_at - first.sent_at))
                noise = 1.0 if before == second.limit else 1.0 + SPREAD * second.rate
                self._of(second.provider).learn_charge(before - second.remaining, second.estimate, noise)

    def _of(self, provider: Provider) -> ProviderCosts:
        costs = self._providers.get(provider.name)
        if costs is None:
            costs = self._providers[provider.name] = ProviderCosts(provider)
        return costs

    def rebind(self) -> None:
        """Forget instants: the clock has changed."""
        self._levels.clear()


class ProviderCosts:
    """What attempts cost at one provider.

    `reserves_output`: whether the server takes the largest output a request allows when it admits it. Starts with what
    is known of the provider, or no; only evidence changes it. Where nothing is known, it is presumed once the server
    announces a limit of tokens, until its levels show what it takes.
    """

    __slots__ = (
        "_against", "_answer", "_estimated", "_fresh", "_presumed", "_provider", "_read", "_used", "reserves_output",
    )  # fmt: skip

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self.reserves_output = bool(provider.reserves_output)
        self._against = 0  # observations in a row that contradict `reserves_output`
        # Levels for which reserving is presumed; 0: not at all, or no longer. A server of one's own that announces
        # limits is a gateway, which may reserve.
        self._presumed = PRESUMED if provider.reserves_output is None or not provider.hosted else 0
        # Moving averages, in tokens: of one answer, of estimated input, of real input. The ratio is taken between the
        # averages, so that a token counts as much in a long prompt as in a short one.
        self._answer = FIRST_OUTPUT
        self._estimated = FIRST_INPUT
        self._used = FIRST_INPUT
        # Moving averages of all reported input, and of its part that did not come from a cache.
        self._read = FIRST_INPUT
        self._fresh = FIRST_INPUT

    @property
    def ratio(self) -> float:
        """Real tokens for each token estimated."""
        return self._used / self._estimated

    def cost(self, estimate: Estimate) -> float:
        """Tokens to take from the budget when an attempt is admitted."""
        taken = self._charged_input(estimate)
        if self.reserves_output:
            # Of a presumption, only what the request itself allows: the default is another provider's.
            return taken + (estimate.output if self._presumed else self._reserve(estimate))
        if self._provider.charges == "usage" and self._provider.counts_output:
            return taken + self._expected_output(estimate)
        return taken

    def _charged_input(self, estimate: Estimate) -> float:
        """Input tokens the server is expected to charge: without cached ones where it does not count them."""
        taken = self._input(estimate)
        return taken if self._provider.counts_cached else taken * self._fresh / self._read

    def final_cost(self, estimate: Estimate, usage: Usage) -> float | None:
        """Tokens the provider charged in the end; None: what it took at admission."""
        if self._provider.charges == "usage":
            taken = usage.input if self._provider.counts_cached else max(0, usage.input - usage.cached)
            return float(taken + usage.output if self._provider.counts_output else taken)
        if estimate.real:
            return float(usage.input + estimate.surcharge) + (self._reserve(estimate) if self.reserves_output else 0.0)
        return None

    def learn_usage(self, estimate: Estimate, usage: Usage) -> None:
        """An attempt ended and reported its usage."""
        if estimate.choices > 0:
            self._answer += ALPHA * (usage.output / estimate.choices - self._answer)
        if usage.input > 0:
            self._read += ALPHA * (usage.input - self._read)
            self._fresh += ALPHA * (max(0, usage.input - usage.cached) - self._fresh)
        estimated = float(estimate.input - estimate.surcharge)
        # Only guesses of real tokens are corrected: OpenAI charges chats by its own estimate. A prompt that could not
        # be read completely says nothing about the ratio.
        if not estimate.real or not estimate.whole or estimated <= 0.0 or usage.input <= 0:
            return
        used = min(MOST_RATIO * estimated, max(LEAST_RATIO * estimated, usage.input))
        self._estimated += ALPHA * (estimated - self._estimated)
        self._used += ALPHA * (used - self._used)

    def presume(self) -> None:
        """The server has announced a level."""
        if self._presumed == PRESUMED:
            self.reserves_output = True
        if self._presumed > 0:
            self._presumed -= 1
            if self._presumed == 0:
                self._set(reserves_output=False)

    def learn_charge(self, charged: float, estimate: Estimate, noise: float) -> None:
        """The server took `charged` for the attempts of `estimate`, give or take `noise` (a standard deviation).

        It takes three clear observations in a row to change anything.
        """
        taken, output = self._input(estimate), self._reserve(estimate)
        if not noise >= 0.0 or not output >= CLEAR * (noise + INPUT_ERROR * taken) or output <= 0.0:
            return
        share = (charged - taken) / output
        if abs(share - self.reserves_output) <= CLOSE:
            self._against = self._presumed = 0
        elif abs(share - (not self.reserves_output)) <= CLOSE:
            self._against += 1
            if self._against >= NEEDED:
                self._set(reserves_output=not self.reserves_output)
        else:
            self._against = 0  # something else is going on

    def learn_requested(self, requested: float, estimate: Estimate) -> None:
        """A refusal named the number of tokens it was asked for. That is exact, so one is enough."""
        taken, output = self._input(estimate), self._reserve(estimate)
        error = REQUESTED_ERROR * taken + REQUESTED_SLACK
        if not estimate.whole or output <= 2.0 * error:
            return
        if abs(requested - taken) <= error:
            self._set(reserves_output=False)
        elif abs(requested - taken - output) <= error:
            self._set(reserves_output=True)

    def _set(self, *, reserves_output: bool) -> None:
        self.reserves_output = reserves_output
        self._against = self._presumed = 0

    def _input(self, estimate: Estimate) -> float:
        if not estimate.real:
            return float(estimate.input)
        return self.ratio * (estimate.input - estimate.surcharge) + estimate.surcharge

    def _reserve(self, estimate: Estimate) -> float:
        return float(estimate.output or estimate.choices * self._provider.default_output)

    def _expected_output(self, estimate: Estimate) -> float:
        expected = estimate.choices * self._answer
        return min(expected, estimate.output) if estimate.output > 0 else expected
