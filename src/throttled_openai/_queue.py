"""The queue before one budget: who waits, in order and by size, and until when."""

from __future__ import annotations

import heapq
import math
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator

    from ._permit import Call, Permit

# Waiters that have given up and are cleared away in one go; 100,000 at once hold the loop for 0.3 s.
GIVEN_UP_AT_ONCE: Final = 2_000
# The place of nobody: after all others.
LAST: Final = (sys.maxsize, 0)


class Waiter:
    """One call that waits, until `deadline`."""

    __slots__ = ("call", "deadline", "future", "order", "since", "size")

    def __init__(self, call: Call, order: tuple[int, int], since: float, future: asyncio.Future[Permit]) -> None:
        self.call = call
        self.order = order
        self.since = since
        self.size = int(call.tokens).bit_length()
        self.future = future
        max_wait = call.manners.max_wait
        self.deadline = math.inf if max_wait is None else since + max_wait - call.waited

    def __lt__(self, other: Waiter) -> bool:
        return self.order < other.order


class Queue:
    """Waiters by their order; those of about equal size (powers of two of tokens) in a heap of their own.

    So the oldest of each size is at hand, and adding or taking one costs O(log n).
    """

    def __init__(self) -> None:
        self.waiting = 0  # those that have not given up
        self._sizes: dict[int, list[tuple[tuple[int, int], Waiter]]] = {}
        self._deadlines: list[tuple[float, Waiter]] = []

    def add(self, waiter: Waiter) -> bool:
        """Whether it may now be the oldest of its size: any before it have given up."""
        heap = self._sizes.setdefault(waiter.size, [])
        heapq.heappush(heap, (waiter.order, waiter))
        if waiter.deadline < math.inf:
            heapq.heappush(self._deadlines, (waiter.deadline, waiter))
        self.waiting += 1
        return heap[0][1] is waiter or heap[0][1].future.done()

    def oldest(self) -> list[Waiter]:
        """The oldest of each size, the oldest of all first; empty also if too many have given up to clear at once."""
        if not self.waiting:
            self._sizes.clear()
            self._deadlines.clear()
            return []
        given_up = 0
        found = []
        for size, heap in list(self._sizes.items()):
            while heap and heap[0][1].future.done():
                heapq.heappop(heap)
                given_up += 1
                if given_up == GIVEN_UP_AT_ONCE:
                    return []
            if heap:
                found.append(heap[0][1])
            else:
                del self._sizes[size]
        if len(found) > 1:
            found.sort()
        return found

    def take(self, waiter: Waiter) -> None:
        """Remove one of the oldest."""
        heapq.heappop(self._sizes[waiter.size])
        self.waiting -= 1

    def head(self) -> tuple[int, int]:
        """The place in line of whom would go next; after all others where nobody waits."""
        oldest = self.oldest()
        return oldest[0].order if oldest else LAST

    def expired(self, now: float) -> Iterator[Waiter]:
        """Remove those whose deadline has passed."""
        while self.next_deadline() <= now:
            waiter = heapq.heappop(self._deadlines)[1]
            self.waiting -= 1
            yield waiter

    def left(self) -> None:
        """One has given up; it stays in its heap until it comes up."""
        self.waiting = max(0, self.waiting - 1)  # 0: the queue had been cleared before

    def next_deadline(self) -> float:
        while self._deadlines and self._deadlines[0][1].future.done():
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else math.inf

    def clear(self) -> list[Waiter]:
        """Remove everybody."""
        left = [waiter for heap in self._sizes.values() for _, waiter in heap if not waiter.future.done()]
        self._sizes.clear()
        self._deadlines.clear()
        self.waiting -= len(left)  # one cancelled in this very tick is still to be counted out
        return left
