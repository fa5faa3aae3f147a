"""What the tests of the budget share: a budget with an accepted call, its levels, one refused attempt."""

from support import NOTHING, Limits, now, pass_time
from throttled_openai._control.budget import Budget
from throttled_openai._protocol.durations import MINUTE

BOTH = ("requests", "tokens")


def accepted(told=NOTHING, **limits):
    """A budget whose server has accepted an empty call and announced the limits `told`; 100 seconds later."""
    budget = Budget(Limits(**limits))
    first = budget.reserve(0, now())
    for _ in range(2):  # announced once, it would be doubtful
        budget.observe(told, first, now())
    budget.succeeded(first, now())
    pass_time(100)
    return budget


def window_level(budget, dimension="tokens", period=MINUTE):
    return budget.windows[dimension, period].level


def refuse(budget, told, tokens=1.0, *, headers=NOTHING, jitter=0.0):
    """One attempt of `tokens` that the server refuses at once; whether it is a new event."""
    return budget.refused(told, headers, budget.reserve(tokens, now()), now(), jitter=jitter)
