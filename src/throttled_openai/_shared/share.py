"""The share: what this process may spend of a budget that it has in common with others.

A process asks for the slots of the calls at the head of its queue, all in one step, and one step at a time. The answer
says when each may go. A slot is not bound to a call: it is a request and an amount of tokens that may leave from an
instant on, so that the order of the queue stays the process's own affair. What is not used in time is given back.

Where no answer comes, a process goes on by itself at the last known rate divided by the last known number of processes;
or not at all, if the user prefers that.
"""

from __future__ import annotations

import math
import uuid
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from throttled_openai._control.bucket import ROUNDING

if TYPE_CHECKING:
    from throttled_openai._protocol.headers import Dimension

Fallback = Literal["open", "closed"]

# Seconds for which slots are given in advance: within them calls go in the order of their arrival, whichever process
# they are in. At least two round trips.
HORIZON: Final = 0.3
# Seconds without an answer after which a process goes on by itself, and until it asks again after a failure.
PATIENCE: Final = 0.5
RETRY: Final = 0.25
# Seconds between two steps of a process whose calls wait: others divide by the number of processes that were heard of
# within a second.
BEAT: Final = 0.3
# Seconds after which a slot that no call has used is given back.
LAPSE: Final = 0.25
# Seconds by which a pause must be longer than the one that all go by, to be told at once.
PAUSES_ALIKE: Final = 0.1
# Most calls in one step, which takes the store about a microsecond each.
MOST_COSTS: Final = 256
# Seconds of a day's limit that may leave at once: all of it.
DAY: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Note:
    """Something that one process found out and all go by. `version`: how often it changed; `age`: seconds."""

    version: int = 0
    text: str = ""
    age: float = 0.0


Notes = tuple[Note, Note, Note]
"""What refusals taught of rates; how many may be in flight; the reason why nothing is sent."""


@dataclass(frozen=True, slots=True)
class View:
    """What a process knows by itself, and has to tell the others.

    `rates`: configured or announced units per second: requests, tokens, and the same of daily limits; 0: not known.
    `learnt`: what refusals taught of the first two. `pause`: seconds for which nothing may leave. `notes`: those that
    changed here have a text, and the version that this process went by until then.
    """

    rates: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    burst: float = 0.85
    learnt: tuple[float, float] = (0.0, 0.0)
    pause: float = 0.0
    waiting: int = 0
    in_flight: int = 0
    notes: Notes = (Note(), Note(), Note())


@dataclass(frozen=True, slots=True)
class Ask:
    """One step: what this process wants, and what has happened since the last one."""

    process: str
    name: str
    generation: str
    horizon: float
    held: tuple[float, float]
    spent: tuple[float, float]
    rates: tuple[float, ...]
    burst: float
    learnt: tuple[float, float]
    levels: tuple[float | None, float | None]
    pause: float
    waiting: int
    in_flight: int
    wish: int
    notes: Notes
    costs: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Answer:
    """`slots`: seconds until each of the first calls may go. `again`: seconds until asking again makes sense.

    `live`: processes. `rates`: in force. `spent`: requests and tokens of all processes until now. `backlog`: seconds
    until all that is spent has come back. `places`: in flight, for this process; 0: not shared.
    """

    generation: str
    live: int
    pause: float
    again: float
    rates: tuple[float, ...]
    spent: tuple[float, float]
    backlog: tuple[float, float]
    notes: Notes
    places: int
    slots: list[float]


class Share:
    """What this process may spend of a shared budget. It has no clock and no connection.

    `ask` returns what is to be sent now, if anything is; then exactly one call of `answered` or `failed` follows.
    """

    def __init__(self, name: str, *, fallback: Fallback = "open") -> None:
        self.name = name
        self.process = uuid.uuid4().hex[:12]
        self.rates: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
        self.live = 1
        self.places = 0
        self.paused_until = -math.inf
        self.notes: Notes = (Note(), Note(), Note())
        self.others = [0.0, 0.0]  # spent by other processes since last taken
        self.alone = False  # whether it goes on by itself
        self._closed = fallback == "closed"
        self._generation = ""
        self._slots: deque[tuple[float, float]] = deque()  # instant and tokens, in order
        self._ready = [0.0, 0.0]  # of slots whose instant has come
        self._ready_at = -math.inf
        self._batch = 0  # slots in the last answer that had any
        self._spent = [0.0, 0.0]  # without a slot, since the last step; negative: given back
        self._asking: Ask | None = None
        self._asked_at = self._answered_at = -math.inf
        self._again_at = -math.inf  # before that, no slot can be had
        self._round_trip = 0.0
        self._pressed_until = -math.inf
        self._own = [0.0, 0.0]  # spent by this process, as the store counts it
        self._total: tuple[float, float] | None = None
        self._arrival = [0.0] * 4  # while alone
        self._known = False  # whether it was ever answered
        self._burst = 0.0
        self._told = View().rates
        self._levels: list[float | None] = [None, None]

    @property
    def asking(self) -> bool:
        """Whether a step is under way."""
        return self._asking is not None

    # Spending

    @property
    def limited(self) -> bool:
        """Whether the processes together have a known limit."""
        return any(self.rates)

    @property
    def _counts_tokens(self) -> bool:
        return self.rates[1] > 0 or self.rates[3] > 0

    def delay(self, tokens: float, now: float) -> float:
        """Seconds until a call of `tokens` may go by its share; 0 if it may now."""
        paused = max(0.0, self.paused_until - now)
        if self._known and not self.limited and not self._late(now):
            return paused
        self._ripen(now)
        missing = max(0.0, tokens - self._ready[1]) if self._counts_tokens else 0.0
        wants = 1.0 - self._ready[0]
        if missing <= ROUNDING and wants <= ROUNDING:
            return paused
        for at, amount in self._slots:
            missing, wants = missing - amount * self._counts_tokens, wants - 1.0
            if missing <= ROUNDING and wants <= ROUNDING:
                return max(paused, at - now)
        if not self._late(now):
            return max(paused, RETRY)
        if self._closed:
            return RETRY
        return max(paused, self._delay_alone(tokens, now))

    def _late(self, now: float) -> bool:
        """Whether this process goes on by itself."""
        if not self.alone and self._asking is not None and now - self._asked_at >= PATIENCE:
            self._go_alone(now)
        return self.alone

    def _go_alone(self, now: float) -> None:
        """Begin without a burst: all processes do this at the same time, and the store has given theirs away."""
        self.alone = True
        begins = max(now, self._slots[-1][0] if self._slots else now)
        burst = self._bursts
        self._arrival = [begins + (burst[i] if i < 2 else 0.0) for i in range(4)] if self._known else [now] * 4

    @property
    def _bursts(self) -> tuple[float, ...]:
        burst = self._burst
        return burst, burst, DAY, DAY

    def _delay_alone(self, tokens: float, now: float) -> float:
        delay = 0.0
        for i, rate in enumerate(self.rates):
            if rate > 0:
                cost = (tokens if i % 2 else 1.0) * self.live / rate
                delay = max(delay, max(self._arrival[i], now) + min(cost, self._bursts[i]) - self._bursts[i] - now)
        return delay if delay > ROUNDING else 0.0

    def reserve(self, tokens: float, now: float) -> None:
        """A call leaves."""
        self._ripen(now)
        if self._ready[0] >= 1.0 - ROUNDING:
            self._ready = [self._ready[0] - 1.0, max(0.0, self._ready[1] - tokens)]
        elif self.alone:
            for i, rate in enumerate(self.rates):
                if rate > 0:
                    cost = (tokens if i % 2 else 1.0) * self.live / rate
                    self._arrival[i] = max(self._arrival[i], now) + cost
        else:
            self.adjust(1.0, tokens)

    def adjust(self, requests: float, tokens: float) -> None:
        """So much more is spent; negative: given back."""
        self._spent[0] += requests
        self._spent[1] += tokens

    def _ripen(self, now: float) -> None:
        while self._slots and self._slots[0][0] <= now + ROUNDING:
            self._ready_at, tokens = self._slots.popleft()
            self._ready[0] += 1.0
            self._ready[1] += tokens

    def pressed(self, elapsed: float, now: float) -> float:
        """Seconds of the last `elapsed` in which the common limit held calls back, as far as is known."""
        return max(0.0, min(elapsed, self._pressed_until - (now - elapsed)))

    # Asking

    def refused_at(self, dimension: Dimension, level: float) -> None:
        """A refusal has shown that the server has at most `level` left."""
        i = 1 if dimension == "tokens" else 0
        if level < math.inf:
            known = self._levels[i]
            self._levels[i] = level if known is None else min(known, level)

    def due_at(self, now: float, *, waiting: int, in_flight: int) -> float:
        """The instant of the next step if nothing else happens."""
        if self._asking is not None:
            return max(now, self._asked_at + PATIENCE) if waiting and not self.alone else math.inf
        if not self._has_to_tell(waiting, in_flight):
            return math.inf
        due = max(now, self._answered_at + BEAT, self._again_at if self.alone else -math.inf)
        return min(due, self._again_at) if waiting and self._again_at > now else due

    def ask(self, view: View, costs: list[float], now: float) -> Ask | None:
        """The next step, if it is due. `costs`: tokens of the calls at the head of the queue, in order."""
        if self._asking is not None or (self.alone and now < self._again_at):
            return None
        self._ripen(now)
        free = self._known and not self.limited and not self.alone
        wanted = [] if free else self._uncovered(costs)
        held = self._ready[0] + len(self._slots)
        asks = wanted and now >= self._again_at and held <= self._batch / 2
        if not (asks or self._is_news(view)) and (
            now < self._answered_at + BEAT - ROUNDING or not self._has_to_tell(view.waiting, view.in_flight)
        ):
            return None
        self._give_back_unused(costs, now)
        self._burst, self._told = view.burst, view.rates
        self._asking = Ask(
            process=self.process,
            name=self.name,
            generation=self._generation,
            horizon=max(HORIZON, 2 * self._round_trip),
            held=(self._ready[0] + len(self._slots), self._ready[1] + sum(tokens for _, tokens in self._slots)),
            spent=(self._spent[0], self._spent[1]),
            rates=view.rates,
            burst=view.burst,
            learnt=view.learnt,
            levels=(self._levels[0], self._levels[1]),
            pause=max(0.0, view.pause),
            waiting=view.waiting,
            in_flight=view.in_flight,
            wish=view.in_flight + view.waiting,
            notes=view.notes,
            costs=wanted if asks else [],
        )
        self._spent, self._asked_at = [0.0, 0.0], now
        self._levels = [None, None]
        return self._asking

    def _is_news(self, view: View) -> bool:
        """Whether something must be told at once."""
        if self._levels != [None, None] or view.rates != self._told:
            return True
        if view.pause > 0 and self._asked_at + view.pause > self.paused_until + PAUSES_ALIKE:
            return True
        return any(note.text for note in view.notes)

    def _has_to_tell(self, waiting: int, in_flight: int) -> bool:
        """Whether a step is due although no slot is wanted: to stay known, or to settle."""
        if waiting or any(self._spent) or self._ready[0] > ROUNDING or self._slots:
            return True
        return bool(in_flight and (self.places or self.notes[0].version))

    def _uncovered(self, costs: list[float]) -> list[float]:
        """Costs of the calls for which there is no slot yet."""
        requests = self._ready[0] + len(self._slots)
        tokens = math.inf
        if self._counts_tokens:
            tokens = self._ready[1] + sum(amount for _, amount in self._slots)
        for at, cost in enumerate(costs):
            requests, tokens = requests - 1.0, tokens - cost
            if requests < -ROUNDING or tokens < -ROUNDING:
                first = min(cost, -tokens) if tokens < 0 else 0.0 if self._counts_tokens else cost
                return [first, *costs[at + 1 : MOST_COSTS]]
        return []

    def _give_back_unused(self, costs: list[float], now: float) -> None:
        """Slots that no call has used in time, and tokens of calls that cost less than expected."""
        if self._ready[0] >= 1.0 and (not costs or now - self._ready_at > LAPSE):
            self.adjust(-self._ready[0], -self._ready[1])
            self._ready = [0.0, 0.0]
        elif self._ready[0] < ROUNDING and self._ready[1] > 0 and not costs:
            self.adjust(0.0, -self._ready[1])
            self._ready[1] = 0.0

    def answered(self, answer: Answer, now: float) -> None:
        """The answer to the last `ask`."""
        asked, self._asking = self._asking, None
        if asked is None:
            return
        self._round_trip += 0.2 * (now - self._asked_at - self._round_trip)
        self._answered_at = now
        self._known = True
        self.rates, self.live, self.places = answer.rates, max(1, answer.live), answer.places
        if self.alone:
            self._rejoin(now, new=answer.generation != self._generation)
        self._generation = answer.generation
        self.paused_until = max(self.paused_until, now + answer.pause) if answer.pause > 0 else self.paused_until
        granted = list(zip(answer.slots, asked.costs, strict=False))
        self._slots.extend((now + offset, tokens) for offset, tokens in granted)
        self._again_at = now + answer.again if self.limited else now + BEAT
        if granted:
            self._batch = len(granted)
        elif answer.again <= 0 and asked.costs:
            self._batch = int(asked.held[0])  # its share is in use: ask again when half of it has left
        self._pressed_until = now + BEAT if max(answer.backlog) > 0 else now
        self._count_others(asked, answer, granted)
        self.notes = answer.notes

    def _rejoin(self, now: float, *, new: bool) -> None:
        """Tell what was spent alone and has not come back yet. A `new` ledger begins as if all had been spent."""
        self.alone = False
        if new and self._generation:
            return
        debts = [
            max(0.0, self._arrival[i] - now) * rate / self.live if rate > 0 else 0.0
            for i, rate in enumerate(self.rates[:2])
        ]
        self.adjust(*debts)

    def _count_others(self, asked: Ask, answer: Answer, granted: list[tuple[float, float]]) -> None:
        self._own[0] += asked.spent[0] + len(granted)
        self._own[1] += asked.spent[1] + sum(tokens for _, tokens in granted)
        if self._total is not None and asked.generation == answer.generation:
            for i in range(2):
                self.others[i] += max(0.0, answer.spent[i] - self._total[i] - self._own[i])
        self._total = answer.spent
        self._own = [0.0, 0.0]

    def failed(self, now: float) -> None:
        """No answer came, or an error."""
        asked, self._asking = self._asking, None
        if asked is None:
            return
        if not self.alone:
            self._go_alone(now)
        self._again_at = now + RETRY
        self._answered_at = now
        # It may have been counted or not: debts are told again, and what was given back is not.
        self.adjust(*(max(0.0, amount) for amount in asked.spent))

    def take_others(self) -> tuple[float, float]:
        """Requests and tokens that other processes have spent since this was last asked."""
        taken = self.others[0], self.others[1]
        self.others = [0.0, 0.0]
        return taken

    def rebind(self, *, same_clock: bool) -> None:
        """Continue on another loop. What it had asked is not heard of any more."""
        self._asking = None
        if not same_clock:
            self.adjust(-self._ready[0] - len(self._slots), -self._ready[1] - sum(tokens for _, tokens in self._slots))
            self._ready, self._batch = [0.0, 0.0], 0
            self._slots.clear()
            self.paused_until = self._ready_at = self._asked_at = self._answered_at = self._again_at = -math.inf
            self._pressed_until = -math.inf
            self._arrival = [-math.inf] * 4
