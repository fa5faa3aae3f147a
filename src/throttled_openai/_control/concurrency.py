"""The limit on attempts in flight: where the server's room ends, as far as its answers tell.

This is the one place that decides it. The evidence:

- **A refusal for lack of room** tells where the room ends: at what is in flight without the refused
  attempt. The limit goes there at once, whatever the overshoot, and no known rate overrides it.
- **Answers** while the limit is in use tell that the room is still there. After `PATIENCE` of them
  without a refusal one more is tried, then more and more, each as soon as bad news would have come.
- **Silence**: refusals come back in a round trip, answers only after the service time. While nothing
  has been refused yet, the limit doubles as long as calls wait and no bad news comes.
- **Refusals that go on however little is in flight** are not about room: the limit goes back to what it
  was before them (`in_vain`), and refusals of that share are not heard for a while.
- **Faults** (timeouts, broken gateways) are about room only if they are many, and fewer with less in
  flight. Where nothing at all succeeds, less in flight would only make the failing slower.
- **Latency**, before a server that neither announces nor refuses (`LatencyGradient`).

Each step up waits until everything that has arrived is heard (`may_grow`, then `grow`): a busy event loop works off
hundreds of answers while the refusals of the last step lie unread.

A refusal for a rate is the pacers' business and never moves this limit.
"""

from __future__ import annotations

import math
from typing import Final

from .bucket import ROUNDING
from .doubt import DRY, Doubt
from .latency_gradient import LatencyGradient

# Attempts in flight before anything is known: small enough not to flood an unknown server.
START: Final = 16.0
# Answers without a refusal, at the limit, before one more is tried. As a try costs about one refusal,
# its inverse is the share of attempts that are refused in the long run: below 2 %, at any latency and room.
PATIENCE: Final = 70
# The way up is felt no faster than bad news travels: this many times as long as the last refusal took.
NEWS: Final = 2.5
SHORTEST_NEWS: Final = 0.02
# The first steps are of one attempt, as what is in transit may hide that it is one too many. Each further
# one is twice the last, but no more than this share of the limit: what the last step oversteps is refused.
SMALL_STEPS: Final = 3
LARGEST_STEP: Final = 0.2
# Seconds of silence in which the limit doubles while nothing was ever refused: where a rate is known it
# paces what is sent; elsewhere only the answers do, so silence has to last longer.
SILENCE: Final = 0.1
LONG_SILENCE: Final = 1.0
# How often a limit that grows by silence is looked at, in seconds.
STEP: Final = 0.02
# The limit doubles by answers at most once in this many seconds, whatever the latency.
DOUBLING: Final = 1.0
# Refusals in a row without an answer in between cut deeper, each twice as deep as the last: while a room
# shrinks, every freed place would be asked for and refused. Five of them halve the limit.
FIRST_CUT: Final = 0.05
# Of a refusal that says nothing: it is not about room if this many times as much was served since.
MORE: Final = 1.3
# Weight of one outcome in the smoothed share of faults, and the share above which they may be about room.
FAULT_GAIN: Final = 0.05
MANY_FAULTS: Final = 0.1
# An attempt that failed after this many latencies waited in vain; of what is answered in that time, this
# part may be in flight. Seconds over which the rate of answers is smoothed.
SLOW: Final = 2.0
FITS: Final = 0.7
METER: Final = 2.0
# Little's law: rate x latency attempts are in flight; 25 % for the spread of latencies, 2 for tiny rates.
HEADROOM: Final = 1.25
LATENCY_GAIN: Final = 1 / 20


class ConcurrencyLimit:
    """How many attempts may be in flight. The page above says how that is found.

    Attempts are numbered as they leave; what left before the last event is its echo.
    """

    __slots__ = (
        "_answered",
        "_answered_at",
        "_before",
        "_calm",
        "_ceiling",
        "_doubt",
        "_dry",
        "_echoes_until",
        "_failed_from",
        "_faults",
        "_floor",
        "_found",
        "_grown_at",
        "_heard_at",
        "_knee",
        "_least",
        "_limit",
        "_most",
        "_needed",
        "_news",
        "_paced",
        "_proven",
        "_row_from",
        "_served",
        "_served_lately",
        "_steps",
        "_tried",
        "_wall",
        "believes",
        "latency",
        "may_grow",
    )

    def __init__(self, ceiling: int, most: int | None = None) -> None:
        """`ceiling`: what it may grow to by itself; `most`: what a known rate may need, by default no more."""
        self._ceiling = ceiling
        self._most = ceiling if most is None else most
        self._limit = min(START, ceiling)
        self.may_grow = False
        """Whether the limit is to `grow` once what has arrived is known to hold no refusal."""
        self._needed = 0.0
        self._paced = False  # whether a rate is known, which paces what is sent
        self._found = False  # whether a refusal has told where the room ends
        self._wall = math.inf  # what was in flight when it did; above the limit after a deeper cut
        self._proven = math.inf  # what the server is known to serve
        self._tried = 0.0  # what is tried beyond that
        self._floor = 1.0  # of the limit, by the last event and its echoes
        self._echoes_until = 0  # number of the newest attempt at the last event
        self._calm = 0  # answers since, of attempts sent since, while the limit was in use
        self._dry = 0  # events in a row between which nothing was accepted
        self._steps = 0  # steps up since the last event
        self._grown_at = -math.inf
        self._heard_at = -math.inf  # when anything last came back
        self._news = SILENCE / NEWS  # seconds the last refusal took to come back
        self._doubt = Doubt()
        self.believes = True
        """Whether the last refusal was believed to be for lack of room."""
        self._before = (self._limit, self._found)  # when the row of refusals began
        self._row_from: int | None = None  # number of the newest attempt at the first of some events close together
        self._served = 0  # most in flight at once of what was sent and served since
        self._served_lately = 0  # the same since the last event
        self._faults = 0.0  # smoothed share of attempts that failed
        self._least = math.inf  # seconds of the quickest answer
        self._answered = 0.0  # answers, of which each counts less the longer ago it came
        self._answered_at = 0.0
        self._failed_from = (self._limit, 0, 0)  # the limit at the last fault that counted; answered and failed then
        self._knee: LatencyGradient | None = LatencyGradient()
        self.latency: float | None = None  # smoothed seconds of successful attempts

    @property
    def found(self) -> bool:
        """Whether a refusal has told where the room ends."""
        return self._found

    @property
    def is_calm(self) -> bool:
        """Whether the server has long served as much as the limit allows."""
        return self._found and self._calm >= PATIENCE

    def never_served(self, crowd: int) -> bool:
        """Whether as many were never served since refusals began, though some were."""
        return self._row_from is not None and 0 < self._served < crowd

    def has_served_more(self, crowd: int, *, lately: bool) -> bool:
        """Whether more than `crowd` attempts were served, so that it is not room that lacks.

        Since refusals began; or `lately`, since the last one, as the room may have shrunk in between.
        """
        served = self._served_lately if lately else self._served
        return self._row_from is not None and served >= max(crowd + 2, MORE * crowd)

    def value(self) -> int:
        """The limit now."""
        return max(1, int(self._limit))

    @property
    def _top(self) -> float:
        return max(self._ceiling, self._needed)

    def expect(self, rate: float | None) -> None:
        """The rate (requests per second) that the budget comes to; None: not known."""
        self._paced = rate is not None
        if rate is not None:
            self._knee = None
            if self.latency is not None:
                self._needed = min(self._most, HEADROOM * rate * self.latency + 2)

    def ignore_latency(self) -> None:
        """The server has limits: its latency is its own affair, and going by it would throttle us."""
        self._knee = None

    def look(self, now: float) -> float | None:
        """Grow by silence: calls wait, and the limit is what holds them. Returns seconds until the next look."""
        if self._found:
            # Whatever was tried beyond the proven limit is under way: no more until it is known to be served.
            self._limit = min(self._limit, self._proven)
            return None
        if self._limit >= self._top:
            return None
        if self._paced:
            self._limit = min(self._limit * 2 ** (min(now - self._grown_at, STEP) / SILENCE), self._top)
            self._grown_at = now
            return STEP
        if self._knee is not None and not self._knee.ramping:
            return None
        if self._grown_at == -math.inf:
            self._grown_at = now
        since = max(self._grown_at, self._heard_at)
        if now - since >= LONG_SILENCE - ROUNDING:
            self._grown_at = since = now
            self._limit = min(2 * self._limit, self._top)
        return since + LONG_SILENCE - now

    def succeeded(
        self, number: int, began_at: float, latency: float, in_flight: float, *, crowd: int, binding: bool
    ) -> None:
        """An attempt succeeded after `latency` seconds, beside `in_flight` attempts on average.

        `crowd`: attempts in flight when it began, with itself. `binding`: the limit was in use then.
        """
        now = self._heard_at = began_at + latency
        self._faults *= 1 - FAULT_GAIN
        self.latency = latency if self.latency is None else self.latency + LATENCY_GAIN * (latency - self.latency)
        if self._knee is not None:
            found = self._knee.sample(began_at, latency, in_flight, self._limit)
            if found is not None:
                self._limit = min(max(1.0, found), self._ceiling)
            if not self._knee.ramping:
                return
        self._least = min(self._least, latency)
        self._answered = 1.0 + self._answered * math.exp((self._answered_at - now) / METER)
        self._answered_at = now
        self._count_served(number, crowd)
        if not binding:
            return
        if not self._found:
            self._limit = min(self._limit + min(1.0, latency / DOUBLING), self._top)
        elif number > self._echoes_until:
            self._calm += 1
            if self._calm == PATIENCE // 2:
                self._row_from = None
            self._climb(now)

    def _count_served(self, number: int, crowd: int) -> None:
        lately = number > self._echoes_until
        if lately:
            self._doubt.went_well()
        if self._row_from is not None and number > self._row_from:
            self._served = max(self._served, crowd)
            if lately:
                self._served_lately = max(self._served_lately, crowd)

    def _climb(self, now: float) -> None:
        proven = self._proven
        if proven < self._wall:
            # Between a deeper cut and where it was refused: half of the way in each round trip.
            self._limit = self._proven = min(self._wall, proven + max(1.0, (self._wall - proven) / 2) / proven)
        elif self._calm >= PATIENCE and now - self._grown_at >= NEWS * self._news:
            self.may_grow = True

    def grow(self, now: float) -> None:
        """Try more. Called when `may_grow`, once everything that has arrived by now has been heard."""
        if self.may_grow:
            self.may_grow = False
            proven = self._proven
            if self._limit < self._tried:  # it was under way, and was served
                proven = self._proven = self._wall = self._tried
                self._steps += 1
            size = min(2.0 ** max(0, self._steps + 1 - SMALL_STEPS), max(1.0, LARGEST_STEP * proven))
            self._limit = self._tried = min(proven + size, self._top)
            self._grown_at = now

    def refused(self, number: int, newest: int, in_flight: int, now: float, took: float) -> bool:
        """The server has no room beside `in_flight` other attempts; whether this is a new event.

        `newest`: number of the newest attempt. `took`: seconds until the refusal came.
        """
        self._heard_at = now
        self.may_grow = False
        event = number > self._echoes_until
        if event:
            self._doubt.went_badly()
        self.believes = self._doubt.hears(number)
        if not self.believes:
            return False
        self._news = max(SHORTEST_NEWS, took)
        self._knee = None
        gap = number - self._echoes_until
        if event:
            self._begin_event(gap, newest)
        self._found = True
        held = min(self._limit, self._proven)
        limit = self._wall = max(1.0, min(held, max(self._floor, float(in_flight))))
        if event and self._dry > 1:
            limit -= max(1.0, limit * FIRST_CUT * 2 ** min(self._dry - 2, 3))
        elif event and self._doubt.row > 1 and gap < PATIENCE // 2:
            limit = self._wall = limit - max(1.0, limit * FIRST_CUT)
        self._limit = self._proven = self._tried = max(1.0, min(self._floor, held), limit)
        if not in_flight and self._dry > 1:  # an outage: where the room was says nothing now
            self._forget(1.0)
        return event

    def _forget(self, limit: float) -> None:
        """Nothing is known of the room any more; begin again with this limit."""
        self._limit, self._found, self._wall, self._proven = limit, False, math.inf, math.inf

    def _begin_event(self, gap: int, newest: int) -> None:
        """`gap`: attempts since the last event, until the one that was refused."""
        self._echoes_until = newest
        self._floor = self._limit / 2
        if self._calm >= PATIENCE:
            self._doubt.end_row()
        if self._doubt.row == 0:
            self._before = self._limit, self._found
        if self._row_from is None:
            self._row_from, self._served = newest, 0
        if gap > DRY:  # what was served before tells nothing of a room that shrinks
            self._served_lately = 0
        self._dry = self._dry + 1 if gap <= DRY else 1
        self._doubt.event(gap, self._limit)
        self._calm = self._steps = 0

    def in_vain(self, number: int, newest: int) -> bool:
        """Whether less in flight has not helped, so that it is not room; asked before `refused`. Then it goes back."""
        gap = number - self._echoes_until
        # What was sent alone before was accepted: the room cannot have ended.
        if gap >= PATIENCE or not self._doubt.in_vain(gap, self._limit, newest, alone=self._limit < 2):
            return False
        self.take_back()
        return True

    def take_back(self) -> None:
        """It was not room that lacked: the limit goes back to what it was before the refusals began."""
        limit, found = self._before
        self._forget(limit)
        if found:
            self._found, self._wall, self._proven, self._tried = True, limit, limit, limit
        self._doubt.end_row()

    def failed(self, number: int, newest: int, now: float, took: float) -> bool:
        """An attempt timed out or met a broken gateway; whether this is a new event.

        One that failed quickly was turned away: the limit goes to the share that was answered. One that
        waited in vain stood in too long a line: the limit goes to what is answered while it waited.
        """
        self._heard_at = now
        self.may_grow = False
        self._faults += FAULT_GAIN * (1 - self._faults)
        event = number > self._echoes_until
        if event:
            self._doubt.went_badly()
        if self.latency is None:  # nothing has ever succeeded
            self._limit = min(self._limit + 1.0, self._top)
            return False
        if self._faults < MANY_FAULTS or not self._doubt.hears(number):
            return False
        if event:
            if self.in_vain(number, newest):
                return True
            self._news, self._knee = max(SHORTEST_NEWS, took), None
            self._failed_from = self._limit, self._doubt.answered, 0
            self._begin_event(number - self._echoes_until, newest)
        limit, good, bad = self._failed_from
        self._failed_from = limit, good, bad + 1
        answered = self._answered * math.exp((self._answered_at - now) / METER)
        if took > SLOW * self._least:
            limit = min(limit, FITS * took * answered / METER) if event and answered > 1.0 else self._limit
        elif good:
            limit = min(self._limit, limit * good / (good + bad + 1))
        else:
            limit = self._limit
        self._found = True
        self._limit = self._proven = self._tried = self._wall = max(1.0, limit)
        return event
