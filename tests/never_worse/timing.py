"""When a server gives its odd answer, and what it announces on the others."""

import random

SEED = 13


def _tenth(attempt):
    """Every tenth attempt at random: the same ones for stock and for ours, by call and attempt."""
    return random.Random(f"{SEED} {attempt.call} {attempt.nth}").random() < 0.1


TIMINGS = {
    "once": lambda attempt: attempt.number == 0,
    "third": lambda attempt: attempt.number == 2,
    "third on": lambda attempt: attempt.number >= 2,
    "always": lambda attempt: True,
    "first of each": lambda attempt: attempt.nth == 0,
    "alternating": lambda attempt: (attempt.call + attempt.nth) % 2 == 0,
    "ten seconds": lambda attempt: attempt.at < 10.0,
    "seconds 1 to 11": lambda attempt: 1.0 <= attempt.at < 11.0,
    "every tenth": _tenth,
    "never": lambda attempt: False,  # only where a limit is really enforced
}


def _requests(limit, remaining, reset, what="requests"):
    return {
        f"x-ratelimit-limit-{what}": str(limit),
        f"x-ratelimit-remaining-{what}": str(remaining),
        f"x-ratelimit-reset-{what}": str(reset),
    }


def _honest(attempt):
    left = max(0, 100_000 - attempt.number)
    return _requests(100_000, left, f"{(100_000 - left) * 0.6:.0f}ms") | _requests(10**7, 10**7, "0s", "tokens")


def _first(headers, then=_honest):
    return lambda attempt: headers if attempt.number == 0 else then(attempt)


def _nothing(attempt):
    return {}


ANNOUNCED = {
    "nothing": None,
    "honest": _honest,
    "once few tokens": _first(_requests(5, 5, "0s", "tokens")),
    "once few tokens, then nothing": _first(_requests(5, 5, "0s", "tokens"), _nothing),
    "once one request": _first(_requests(1, 0, "60s")),
    "once one a month": _first(_requests(1, 0, "720h", "requests-month")),
    "once a thousand a day": _first(_requests(1000, 3, "12h", "requests-day"), _nothing),
    "once a day's end": _first(_requests(6000, 0, "24h"), _nothing),
    "absurd": lambda attempt: _requests("1e308", "NaN", "-9" * 50) | _requests("", "\u00b9", "x", "tokens"),
    "negative": lambda attempt: _requests(-5, -5, "-5s"),
    "zero": lambda attempt: _requests(0, 0, "0s"),
    "alternating": lambda attempt: _honest(attempt) if attempt.number % 2 else _requests(60, 59, "1s"),
    "other windows each time": lambda attempt: _requests(10_000, 9_999, "0s", f"req-{attempt.number + 1}-second"),
    "nothing left": lambda attempt: _requests(6000, 0, "10ms"),
}
# Where the announcement stays one that the server does not keep to, which no client can know.
UNTRUE = {"alternating"}
