"""The queue before one budget: waiting calls in order and by size, and their deadlines."""

from __future__ import annotations

import heapq
import math
import sys
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import asyncio
    import weakref
    from collections.abc import Callable, Iterator

    from .call import Call
    from .home import Home

    Place = tuple[int, int]

# Cancelled waiters removed in one go; 100,000 at once hold the loop for 0.3 s.
CANCELLED_AT_ONCE: Final = 2_000
# While calls of higher priority overtake others, every tenth place goes to the longest waiting call: otherwise
# urgent calls arriving faster than the limit would keep all others waiting for ever.
FAIRNESS_INTERVAL: Final = 10
# Cancelled waiters may stay in the heaps until they are more than this, and more than those still waiting.
CANCELLED_KEPT: Final = 100
# Sorts after every real queue position.
LAST: Final = (sys.maxsize, 0)


class Waiter:
    """One call that waits until `deadline`.

    Its future brings what its limiter grants it, or None: enter again, as another event loop decides now.
    """

    __slots__ = ("call", "deadline", "future", "order", "queue", "since", "size", "tokens", "turn")

    queue: Queue

    def __init__(self, call: Call, order: Place, since: float, future: asyncio.Future[Any]) -> None:
        self.call = call
        self.order = order
        self.since = since
        self.tokens = call.tokens
        self.size = int(call.tokens).bit_length()
        self.future = future
        self.turn = 0  # how many leave the queue before it, if none is cancelled
        max_wait = call.queue_options.max_wait
        self.deadline = math.inf if max_wait is None else since + max_wait - call.waited

    def __lt__(self, other: Waiter) -> bool:
        return self.order < other.order


class Queue:
    """Waiters in order, in one heap for each priority and size class (powers of two of tokens).

    This way the oldest of each size is at hand, and adding or removing one costs O(log n). If
    priorities differ, every tenth place (`FAIRNESS_INTERVAL`) goes to the longest waiting call.
    """

    def __init__(self) -> None:
        self.waiting = 0  # those not cancelled
        self.tokens = 0.0  # of these, as they were estimated on arrival
        self._heaps: dict[tuple[int, int], list[tuple[Place, Waiter]]] = {}
        self._entries = 0  # in the heaps
        self._overtaken = 0  # places taken before others of lower priority, since the last one that fairness gave away
        self._due: Waiter | None = None  # the one whose fair turn it is, until it leaves: it may have to save tokens
        self._deadlines: list[tuple[float, Waiter]] = []
        self._taken = 0

    def add(self, waiter: Waiter) -> bool:
        """Return True if it may now be first in its heap (everything ahead of it was cancelled)."""
        waiter.queue = self
        heap = self._heaps.setdefault(_heap_of(waiter), [])
        heapq.heappush(heap, (waiter.order, waiter))
        self._entries += 1
        if waiter.deadline < math.inf:
            heapq.heappush(self._deadlines, (waiter.deadline, waiter))
            waiter.turn = self._taken + self._before(waiter.order[0])
        self.waiting += 1
        self.tokens += waiter.tokens
        return heap[0][1] is waiter or heap[0][1].future.done()

    def oldest(self) -> list[Waiter]:
        """The first of each heap, in the order in which they go; empty if too many cancelled ones are to be cleared."""
        if not self.waiting:
            self._empty()
            return []
        cancelled = 0
        found = []
        for key, heap in list(self._heaps.items()):
            while heap and heap[0][1].future.done():
                heapq.heappop(heap)
                self._entries -= 1
                cancelled += 1
                if cancelled == CANCELLED_AT_ONCE:
                    return []
            if heap:
                found.append(heap[0][1])
            else:
                del self._heaps[key]
        if len(found) > 1:
            found.sort()
            if self._overtaken >= FAIRNESS_INTERVAL - 1:
                self._due = self._due if self._due in found else min(found, key=_age)
                found.remove(self._due)
                found.insert(0, self._due)
        return found

    def take(self, waiter: Waiter) -> None:
        """Remove one that is first in its heap."""
        heapq.heappop(self._heaps[_heap_of(waiter)])
        self._entries -= 1
        self.waiting -= 1
        self.tokens -= waiter.tokens
        self._taken += 1
        if waiter is self._due:
            self._overtaken, self._due = 0, None
        elif any(before > waiter.order[0] for before, _ in self._heaps):
            self._overtaken += 1

    def head(self) -> Place:
        """The position of the call that goes next; `LAST` if no call waits."""
        oldest = self.oldest()
        return oldest[0].order if oldest else LAST

    def next_tokens(self) -> float:
        """Tokens of the call that goes next."""
        heads = (
            next((waiter for _, waiter in heap if not waiter.future.done()), None) for heap in self._heaps.values()
        )
        first = min((waiter for waiter in heads if waiter is not None), default=None)
        return 0.0 if first is None else first.tokens

    def place_of(self, task: asyncio.Task[Any]) -> tuple[int, float] | None:
        """The place of the call that `task` waits for, and the tokens that it and all ahead of it take."""
        waiters = self.all()
        mine = min((waiter for waiter in waiters if waiter.call.task is task), default=None)
        if mine is None:
            return None
        ahead = [waiter.tokens for waiter in waiters if waiter.order <= mine.order]
        return len(ahead), sum(ahead)

    def longest(self) -> int:
        """The arrival number of the longest waiting call, of any priority."""
        return min(map(_age, self.oldest()), default=sys.maxsize)

    def favour_longest(self) -> None:
        """Let the longest waiting call leave next."""
        self._overtaken = FAIRNESS_INTERVAL

    def expired(self, now: float) -> Iterator[Waiter]:
        """Remove those whose deadline has passed."""
        while self.next_deadline() <= now:
            waiter = heapq.heappop(self._deadlines)[1]
            self.waiting -= 1
            self.tokens -= waiter.tokens
            yield waiter

    def ahead_of(self, waiter: Waiter) -> int:
        """Upper bound on the calls queued ahead of a waiter with a deadline; includes those cancelled meanwhile."""
        return max(0, waiter.turn - self._taken)

    def _before(self, priority: int) -> int:
        """Calls queued ahead of the newest one of `priority`; some cancelled ones may be included."""
        if len({before for before, _ in self._heaps}) == 1:
            return self.waiting
        return sum(len(heap) for (before, _), heap in self._heaps.items() if before <= priority) - 1

    def left(self, tokens: float = 0.0) -> None:
        """Stop counting a cancelled waiter of `tokens`; it may stay in its heap until it is first."""
        self.waiting = max(0, self.waiting - 1)  # 0: the queue had been cleared before
        self.tokens = max(0.0, self.tokens - tokens) if self.waiting else 0.0
        self.clear_away()

    def clear_away(self) -> None:
        """Remove cancelled waiters once they outnumber those still waiting."""
        if self._entries > 2 * self.waiting + CANCELLED_KEPT:
            heaps = {key: [entry for entry in heap if not entry[1].future.done()] for key, heap in self._heaps.items()}
            self._heaps = {key: sorted(heap) for key, heap in heaps.items() if heap}
            self._entries = sum(map(len, self._heaps.values()))
            self._deadlines = sorted(entry for entry in self._deadlines if not entry[1].future.done())

    def next_deadline(self) -> float:
        while self._deadlines and self._deadlines[0][1].future.done():
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else math.inf

    def clear(self) -> list[Waiter]:
        """Remove and return all waiters."""
        left = self.all()
        self._empty()
        self.waiting -= len(left)  # one cancelled in this very tick has yet to be counted out
        self.tokens = 0.0
        return left

    def all(self) -> list[Waiter]:
        return [waiter for heap in self._heaps.values() for _, waiter in heap if not waiter.future.done()]

    def fail(self, which: Callable[[Call], bool], make_error: Callable[[], Exception]) -> int:
        """Fail the waiting calls that are among `which`, each with an error of its own; returns how many."""
        make_error()  # if that raises, all of them are still in the queue
        staying = []
        waiters = self.clear()
        for waiter in waiters:
            if which(waiter.call):
                resolve(waiter.future, make_error)
            else:
                staying.append(waiter)
        for waiter in staying:
            self.add(waiter)
        return len(waiters) - len(staying)

    def cancel_from(self, homes: set[weakref.ref[Home]]) -> None:
        """Cancel calls that wait for event loops that have ended."""
        for waiter in self.all():
            if waiter.call.home in homes:
                waiter.future.cancel()

    def _empty(self) -> None:
        self._heaps.clear()
        self._deadlines.clear()
        self._entries = 0


def resolve(future: asyncio.Future[Any], make: Callable[..., Any], *args: Any) -> None:
    """End a wait with the permit or error that `make` returns or raises.

    Its waiter has left the queue already, so nothing else would ever end the wait.
    """
    try:
        made = make(*args)
    except BaseException as error:  # noqa: BLE001
        made = error
    if isinstance(made, BaseException):
        future.set_exception(made)
    else:
        future.set_result(made)


def _heap_of(waiter: Waiter) -> tuple[int, int]:
    return waiter.order[0], waiter.size


def _age(waiter: Waiter) -> int:
    return waiter.order[1]
