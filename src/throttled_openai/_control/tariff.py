"""The tariff: what the attempts of one budget cost in tokens, as its provider counts them.

An estimate says what a request may take; the tariff says what to debit, from what it has seen of usage,
announcements and refusals. Numbers in brackets are sections of the project's reference on how providers count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from throttled_openai._protocol.estimate import Estimate, Usage
    from throttled_openai._protocol.providers import Provider

# The share of each response in the moving averages (7).
ALPHA: Final = 0.1
# Tokens that the ratio of 1 weighs at first, so that a tiny prompt alone does not decide about long ones.
FIRST_INPUT: Final = 100.0
# How far real tokens may be from a quarter of the bytes: 0.56 for Hindi, 2.7 for base64 (7).
LEAST_RATIO: Final = 0.25
MOST_RATIO: Final = 4.0
# Tokens of an answer before any has been seen: a usual one has 150 to 300 (5).
FIRST_OUTPUT: Final = 256.0

# An observation says something about the output if the output is this many times what may be wrong
# with the observation: its noise, and this share of the input.
CLEAR: Final = 4.0
INPUT_ERROR: Final = 0.1
# It is for one side if it is this close to it, as a share of the output. With a noise of one standard
# deviation, an observation for the wrong side is three deviations off.
CLOSE: Final = 0.25
# So many for the same side in a row change the tariff.
NEEDED: Final = 3

# How far the input of a refused request may be from its estimate: this share of it, and so many tokens.
REQUESTED_ERROR: Final = 0.3
REQUESTED_SLACK: Final = 8.0


class Tariff:
    """What the attempts of one budget cost, learnt.

    `reserves_output`: whether the most output a request allows is taken at admission. Starts as what is known
    of the provider, else with no; changed by evidence only.
    """

    __slots__ = ("_against", "_answer", "_estimated", "_fresh", "_provider", "_read", "_used", "reserves_output")

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self.reserves_output = bool(provider.reserves_output)
        self._against = 0  # observations in a row that contradict it
        # Moving averages, in tokens: of an answer, of estimated and of real input. The ratio is that of the two
        # averages, not an average of ratios, so that a token counts as much in a long prompt as in a short one.
        self._answer = FIRST_OUTPUT
        self._estimated = FIRST_INPUT
        self._used = FIRST_INPUT
        # The same of all input that was reported and of the part that no cache had. A long prompt that comes
        # again and again weighs more than the short ones beside it, as it does at the server.
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
            return taken + self._reserve(estimate)
        if self._provider.charges == "usage" and self._provider.counts_output:
            return taken + self._expected_output(estimate)
        return taken

    def _charged_input(self, estimate: Estimate) -> float:
        """Input tokens the limit is expected to lose: without cached ones where the provider does not count them."""
        taken = self._input(estimate)
        return taken if self._provider.counts_cached else taken * self._fresh / self._read

    def final_cost(self, estimate: Estimate, usage: Usage) -> float | None:
        """Tokens the provider has taken in the end; None: what it took at admission."""
        if self._provider.charges == "usage":
            taken = usage.input if self._provider.counts_cached else max(0, usage.input - usage.cached)
            return float(taken + usage.output if self._provider.counts_output else taken)
        if estimate.real:
            return float(usage.input + estimate.surcharge) + (self._reserve(estimate) if self.reserves_output else 0.0)
        return None

    def learn_usage(self, estimate: Estimate, usage: Usage) -> None:
        """An attempt has ended, and reported what it used."""
        if estimate.choices > 0:
            self._answer += ALPHA * (usage.output / estimate.choices - self._answer)
        if usage.input > 0:
            self._read += ALPHA * (usage.input - self._read)
            self._fresh += ALPHA * (max(0, usage.input - usage.cached) - self._fresh)
        estimated = float(estimate.input - estimate.surcharge)
        # OpenAI's own estimate of a chat is not to be corrected (7); what could not be read is no error of the ratio.
        if not estimate.real or not estimate.whole or estimated <= 0.0 or usage.input <= 0:
            return
        used = min(MOST_RATIO * estimated, max(LEAST_RATIO * estimated, usage.input))
        self._estimated += ALPHA * (estimated - self._estimated)
        self._used += ALPHA * (used - self._used)

    def learn_charge(self, charged: float, estimate: Estimate, noise: float) -> None:
        """The server took `charged` for the attempts of `estimate`, give or take `noise` (a standard deviation).

        Three clear observations in a row are needed to change anything.
        """
        taken, output = self._input(estimate), self._reserve(estimate)
        if not noise >= 0.0 or not output >= CLEAR * (noise + INPUT_ERROR * taken) or output <= 0.0:
            return
        share = (charged - taken) / output
        if abs(share - self.reserves_output) <= CLOSE:
            self._against = 0
        elif abs(share - (not self.reserves_output)) <= CLOSE:
            self._against += 1
            if self._against >= NEEDED:
                self._set(reserves_output=not self.reserves_output)
        else:
            self._against = 0  # something else is going on

    def learn_requested(self, requested: float, estimate: Estimate) -> None:
        """A refusal told how many tokens it was asked for: exact, so one is enough."""
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
        self._against = 0

    def _input(self, estimate: Estimate) -> float:
        if not estimate.real:
            return float(estimate.input)
        return self.ratio * (estimate.input - estimate.surcharge) + estimate.surcharge

    def _reserve(self, estimate: Estimate) -> float:
        return float(estimate.output or estimate.choices * self._provider.default_output)

    def _expected_output(self, estimate: Estimate) -> float:
        expected = estimate.choices * self._answer
        return min(expected, estimate.output) if estimate.output > 0 else expected
