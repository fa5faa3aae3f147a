"""The queue before one budget: who waits, in order and by size, and until when."""

from __future__ import annotations

import heapq
import math
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator

    from .limiter import Limiter
    from .permit import Call, Permit

    Place = tuple[int, int]

# Waiters that have given up and are cleared away in one go; 100,000 at once hold the loop for 0.3 s.
GIVEN_UP_AT_ONCE: Final = 2_000
# Of so many calls that leave before others of lower priority, one is the oldest whatever its own:
# urgent calls that come faster than the limit would keep all others waiting for ever.
FAIR: Final = 10
# Waiters that have given up may stay behind others until they are this many, and more than those that wait.
STAYING: Final = 100
# The place of nobody: after all others.
LAST: Final = (sys.maxsize, 0)


class Waiter:
    """One call that waits, until `deadline`. Its future brings the permit, or None: ask again, elsewhere."""

    __slots__ = ("call", "deadline", "future", "lane", "order", "queue", "since", "size", "turn")

    lane: Limiter
    queue: Queue

    def __init__(self, call: Call, order: Place, since: float, future: asyncio.Future[Permit | None]) -> None:
        self.call = call
        self.order = order
        self.since = since
        self.size = int(call.tokens).bit_length()
        self.future = future
        self.turn = 0  # how many leave the queue before it, if nobody gives up
        max_wait = call.manners.max_wait
        self.deadline = math.inf if max_wait is None else since + max_wait - call.waited

    def __lt__(self, other: Waiter) -> bool:
        return self.order < other.order


class Queue:
    """Waiters by their order; those of one priority and about one size (powers of two of tokens) in a heap.

    So the oldest of each size is at hand, and adding or taking one costs O(log n). Where
    priorities differ, every tenth (`FAIR`) to leave is the one that has waited longest.
    """

    def __init__(self) -> None:
        self.waiting = 0  # those that have not given up
        self._heaps: dict[tuple[int, int], list[tuple[Place, Waiter]]] = {}
        self._entries = 0  # in the heaps
        self._overtaken = 0  # how often others of lower priority were left behind since it was their turn
        self._due: Waiter | None = None  # that one, from its turn until it leaves: it may have to save up
        self._deadlines: list[tuple[float, Waiter]] = []
        self._taken = 0

    def add(self, waiter: Waiter) -> bool:
        """Whether it may now be the oldest of its heap: any before it have given up."""
        waiter.queue = self
        heap = self._heaps.setdefault(_heap_of(waiter), [])
        heapq.heappush(heap, (waiter.order, waiter))
        self._entries += 1
        if waiter.deadline < math.inf:
            heapq.heappush(self._deadlines, (waiter.deadline, waiter))
            waiter.turn = self._taken + self._before(waiter.order[0])
        self.waiting += 1
        return heap[0][1] is waiter or heap[0][1].future.done()

    def oldest(self) -> list[Waiter]:
        """The oldest of each heap, who goes next first; empty also if too many have given up to clear at once."""
        if not self.waiting:
            self._empty()
            return []
        given_up = 0
        found = []
        for key, heap in list(self._heaps.items()):
            while heap and heap[0][1].future.done():
                heapq.heappop(heap)
                self._entries -= 1
                given_up += 1
                if given_up == GIVEN_UP_AT_ONCE:
                    return []
            if heap:
                found.append(heap[0][1])
            else:
                del self._heaps[key]
        if len(found) > 1:
            found.sort()
            if self._overtaken >= FAIR - 1:
                self._due = self._due if self._due in found else min(found, key=_age)
                found.remove(self._due)
                found.insert(0, self._due)
        return found

    def take(self, waiter: Waiter) -> None:
        """Remove one of the oldest."""
        heapq.heappop(self._heaps[_heap_of(waiter)])
        self._entries -= 1
        self.waiting -= 1
        self._taken += 1
        if waiter is self._due:
            self._overtaken, self._due = 0, None
        elif any(before > waiter.order[0] for before, _ in self._heaps):
            self._overtaken += 1

    def head(self) -> Place:
        """The place in line of whom would go next; after all others where nobody waits."""
        oldest = self.oldest()
        return oldest[0].order if oldest else LAST

    def longest(self) -> int:
        """The arrival of the call that has waited longest, whatever its priority."""
        return min(map(_age, self.oldest()), default=sys.maxsize)

    def favour_longest(self) -> None:
        """The one that has waited longest is the next to leave."""
        self._overtaken = FAIR

    def expired(self, now: float) -> Iterator[Waiter]:
        """Remove those whose deadline has passed."""
        while self.next_deadline() <= now:
            waiter = heapq.heappop(self._deadlines)[1]
            self.waiting -= 1
            yield waiter

    def ahead_of(self, waiter: Waiter) -> int:
        """How many calls had still to go before one with a deadline, those that gave up meanwhile among them."""
        return max(0, waiter.turn - self._taken)

    def _before(self, priority: int) -> int:
        """How many wait that go before the newest, of `priority`; some that have given up may be counted in."""
        if len({before for before, _ in self._heaps}) == 1:
            return self.waiting
        return sum(len(heap) for (before, _), heap in self._heaps.items() if before <= priority) - 1

    def left(self) -> None:
        """One has given up; it may stay in its heap until it comes up."""
        self.waiting = max(0, self.waiting - 1)  # 0: the queue had been cleared before
        self.clear_away()

    def clear_away(self) -> None:
        """Let go of those that have given up, once they are more than those that wait."""
        if self._entries > 2 * self.waiting + STAYING:
            heaps = {key: [entry for entry in heap if not entry[1].future.done()] for key, heap in self._heaps.items()}
            self._heaps = {key: sorted(heap) for key, heap in heaps.items() if heap}
            self._entries = sum(map(len, self._heaps.values()))
            self._deadlines = sorted(entry for entry in self._deadlines if not entry[1].future.done())

    def next_deadline(self) -> float:
        while self._deadlines and self._deadlines[0][1].future.done():
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else math.inf

    def clear(self) -> list[Waiter]:
        """Remove everybody."""
        left = self.all()
        self._empty()
        self.waiting -= len(left)  # one cancelled in this very tick is still to be counted out
        return left

    def all(self) -> list[Waiter]:
        return [waiter for heap in self._heaps.values() for _, waiter in heap if not waiter.future.done()]

    def _empty(self) -> None:
        self._heaps.clear()
        self._deadlines.clear()
        self._entries = 0


def _heap_of(waiter: Waiter) -> tuple[int, int]:
    return waiter.order[0], waiter.size


def _age(waiter: Waiter) -> int:
    return waiter.order[1]
