"""The promise, and what breaks it: what ours may do worse than stock on one server, in one place."""

import re
from collections import Counter
from dataclasses import dataclass

import throttled_openai

from .calls import KEY, PROMPT
from .cells import LATENCY
from .server import Room
from .timing import UNTRUE

# Seconds that ours may take longer than stock, whatever happens: it opens the way by doubling, and
# pauses for a moment after a refusal.
SLACK = 5.0
# Seconds of a wait that the server named without keeping to it: a probe a minute finds that out. As
# long ours may try where no call of a limiter has been accepted since the first refusal.
MINUTE = 60.0
# Attempts of a call more than stock's that a refusal for rate or room may cost, as many as fit into `MINUTE`: six with
# pauses that double from a quarter of a second, or as the server names them, then one every fifteen seconds.
REFUSED_AGAIN = 9
# Waits that the server names with its refusals and ours keeps to, one after another, while it finds out how many calls
# at once or a second it takes. Stock keeps to two of them and then loses the calls.
KEPT_WAITS = 6
# A wait that ours keeps to without being asked: the SDK's own bound.
LONGEST_WAIT = 120.0
# Timings by the clock: which calls they hit depends on when those come.
BY_CLOCK = frozenset({"ten seconds", "seconds 1 to 11"})
# Statuses of a gateway that did not keep up: ours gives a server that was answering a minute to come back.
BROKEN_GATEWAY = frozenset({408, 503, 504, 520, 521, 522, 523, 524, 529})

# What stays different on purpose: name -> (the sentence for the README, whether a breach is of it).
DIFFERENCES: dict = {}


@dataclass(frozen=True)
class Breach:
    """One way in which ours was worse. `kind` groups them."""

    kind: str
    sentence: str

    def __str__(self):
        return f"{self.kind}: {self.sentence}"


def breaches(cell, stock, ours):
    """All ways in which ours was worse than stock in `cell`, without those that are on purpose."""
    found = dict.fromkeys(_breaches(cell, stock, ours))
    return [breach for breach in found if not any(meant(cell, breach) for _, meant in DIFFERENCES.values())]


def _announces(cell):
    """Whether answers of this server announce a limit that it does not keep to."""
    return cell.announced not in {"nothing", "honest"} or cell.header.startswith("limits")


def _breaches(cell, stock, ours):
    assert not stock.hung, "stock never ended: the server's script is wrong"
    if ours.spun:
        yield Breach("spins", f"took all of the processor; stock {stock}")
        return
    if ours.hung:
        yield Breach("hangs", f"{ours.hung} calls never ended")
    yield from _endings(cell, stock, ours)
    yield from _time(cell, stock, ours)
    yield from _attempts(cell, stock, ours)
    yield from (Breach("leaves", left) for left in ours.left)
    yield from _secrets(ours)


# 1. Ours fails only where stock fails, and with the same error.


def _endings(cell, stock, ours):
    failures = [ending for ending in ours.failures if not _came_at_another_time(cell, ending)]
    more = len(failures) - len(stock.failures)
    if more > 0:
        told = Counter(str(ending) for ending in ours.failures).most_common(2)
        yield Breach("fails more", f"{more} more calls failed: {told}")
    known = stock.failures
    for ending in dict.fromkeys(ours.endings):
        if ending.ok:
            # In place of an answer; where it comes by the clock, a limit may have held ours until then.
            odd_time = cell.timing in BY_CLOCK and _announces(cell)
            if ending.value and not odd_time and all(ending != other for other in stock.endings):
                yield Breach("other answer", str(ending))
        elif not any(_same(ending, other) for other in known) and not _came_at_another_time(cell, ending):
            expected = sorted({str(other) for other in known})[:2]
            yield Breach("other error", f"{ending}; stock: {expected or 'none'}")


def _came_at_another_time(cell, ending):
    """Whether a call may have met a server that fails for some seconds because ours sent it at another time than stock.

    Two things make the time another one: a limit that the server announced, and a refusal that two calls met and that
    none could escape, after which no call is sent until one has tried, in ten seconds (billing) or a minute (a wait).
    """
    if cell.timing not in BY_CLOCK:
        return False
    if issubclass(ending.cls, throttled_openai.AccountBlocked):
        return True
    return _announces(cell) and ending.status == cell.answer.status


def _same(ending, other):
    if ending == other:
        return ending.cls is other.cls
    # An error of ours speaks of the refusal of another call: it has its status, its code where that is a word, and no
    # body. A refusal in the middle of a stream had no status of its own, and there ours is 429.
    ours = ending.cls.__module__.startswith(throttled_openai.__name__)
    status = ending.status == (429 if other.status is None else other.status)
    return ours and status and _word(ending.code) == _word(other.code) and issubclass(ending.cls, other.cls)


def _word(code):
    """A code as errors of ours show it: not what is no text, nor a megabyte of it."""
    return code if code is not None and re.fullmatch(r"'[^']{1,98}'", code) else None


# 2. Ours takes no longer, but while a limit holds it that the server keeps to; and then it has said so.


def _enforced(cell, ours):
    """Seconds for which the server itself held the calls, whatever the client."""
    limit = cell.server().limit
    if limit is not None:
        return limit.needs(cell.calls, LATENCY) * (2.0 if isinstance(limit, Room) else 1.0)
    if cell.answer.refuses and cell.timing in ("ten seconds", "seconds 1 to 11"):
        return 11.0 + LATENCY * cell.calls
    return 0.0


def unproven(cell):
    """Seconds that ours may take the server at its word."""
    answer = cell.answer
    if _announces(cell):
        return MINUTE
    if answer.status in BROKEN_GATEWAY and cell.timing in ("third on", *BY_CLOCK):
        return MINUTE  # it was answering, and may again: an outage of less than that costs no call
    if not answer.refuses or answer.final:
        return 0.0
    wait = answer.wait or 0.0
    if cell.limit != "none":
        return max(MINUTE, KEPT_WAITS * wait if wait <= LONGEST_WAIT else 0.0)
    # Refusals that come again and again may be an unannounced limit. Of a single one the SDK keeps the wait where
    # `max_refusals=0` leaves it to it.
    if cell.timing not in {"once", "third"}:
        return MINUTE
    return 0.0 if cell.configured == "max_refusals=0" else min(wait, MINUTE)


def _time(cell, stock, ours):
    needed = max(stock.took, _enforced(cell, ours))
    most = needed + SLACK + unproven(cell)
    if ours.took > most:
        yield Breach("slower", f"{ours.took:.1f} s, stock {stock.took:.1f} s, at most {most:.1f} s")
    elif ours.slowest - stock.slowest > most - stock.took:
        yield Breach("slower call", f"one took {ours.slowest:.1f} s, the slowest of stock {stock.slowest:.1f} s")
    said_by = stock.took + SLACK + MINUTE
    if ours.took > said_by and ours.warned_at > said_by and cell.announced not in UNTRUE:
        yield Breach("silent", f"{ours.took:.1f} s, stock {stock.took:.1f} s, and no warning within {said_by:.1f} s")


# 3. Ours sends no more, but what a refusal needs.


def _attempts(cell, stock, ours):
    again = 0
    if cell.answer.refuses and not cell.answer.final and cell.configured != "max_refusals=0":
        again = REFUSED_AGAIN
    most = max(stock.per_call.values(), default=0) + again
    worst = max(ours.per_call.values(), default=0)
    if worst > most:
        yield Breach(
            "more attempts", f"{worst} of one call, at most {most}; {ours.attempts} in all, stock {stock.attempts}"
        )


# 4. No prompt or key appears in what is printed.


def _secrets(ours):
    for _, _, text in ours.said:
        if PROMPT in text or KEY in text:
            yield Breach("secret", f"in a log line or warning: {text[:80]}")
    for ending in ours.failures:
        if ending.cls.__module__.startswith(throttled_openai.__name__) and tells(ending.error):
            yield Breach("secret", f"in an {ending.name}, which carries another call's request")


def tells(error):
    """Whether an error of ours carries the prompt or the key of a call."""
    told = [str(error), repr(error)]
    for request in (_of(error, "request"), _of(_of(error, "response"), "request")):
        if request is not None:
            told += [str(request.url), str(sorted(request.headers.items())), repr(getattr(request, "_content", b""))]
    return any(secret in text for secret in (PROMPT, KEY) for text in told)


def _of(thing, name):
    try:
        return getattr(thing, name, None)
    except RuntimeError:  # httpx's, where there is no request
        return None
