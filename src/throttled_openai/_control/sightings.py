"""Sightings: which of the limits that a server announced are believed, and for how long."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from throttled_openai._protocol.durations import MINUTE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from throttled_openai._protocol.headers import Dimension

    Key = tuple[Dimension, float]

# Limits of one dimension that are remembered; a provider announces two or three.
MOST_LIMITS: Final = 8
# Announcements in a row after which a limit is certain: it is forgotten only when other limits take its place.
CERTAIN: Final = 3
# Responses without a limit before it is forgotten, for each response that announced it; up to MOST of these count.
MISSED: Final = 2
MOST: Final = 10
# Seconds for which a limit that was announced only once may hold calls back. Then one goes, and the server decides.
DOUBTED: Final = 1.0


class Sightings:
    """How often each limit was announced, by dimension and period, and how often left out since.

    A gateway's odd response may announce a limit that does not exist, such as one request a month. Until it is
    announced again, a limit is doubtful: it holds calls back for `DOUBTED` seconds at most, and is forgotten when later
    responses do not repeat it, or when the server accepts what it forbids.
    """

    __slots__ = ("_missed", "_refusing", "_seen", "doubtful")

    def __init__(self) -> None:
        self._seen: dict[Key, int] = {}  # the most recently announced last
        self._missed: dict[Key, int] = {}
        self._refusing: set[Key] = set()  # announced by a refusal, which other responses need not repeat
        self.doubtful: set[Key] = set()
        """Limits that were announced only once."""

    def __contains__(self, key: Key) -> bool:
        return key in self._seen

    def __iter__(self) -> Iterator[Key]:
        return iter(self._seen)

    def __bool__(self) -> bool:
        return bool(self._seen)

    def add(self, key: Key, *, refused: bool) -> None:
        """A response announced it; `refused`: one that refused a call."""
        if refused:
            self._refusing.add(key)
        seen = self._seen.pop(key, 0)
        self._seen[key] = min(MOST, seen + 1)
        self._missed[key] = 0
        if seen:
            self.doubtful.discard(key)
        else:
            self.doubtful.add(key)

    def discard(self, key: Key) -> None:
        """The limit does not exist."""
        self._seen.pop(key, None)
        self._missed.pop(key, None)
        self._refusing.discard(key)
        self.doubtful.discard(key)

    def surplus(self, dimension: Dimension) -> list[Key]:
        """The least recently announced of too many."""
        keys = [key for key in self._seen if key[0] == dimension]
        return keys[: max(0, len(keys) - MOST_LIMITS)]

    def missed(self, dimension: Dimension, announced: set[float]) -> list[Key]:
        """A response announced limits of these periods. Returns the limits that it disproves by leaving them out."""
        forgotten = []
        for key, seen in self._seen.items():
            if key[0] != dimension or key[1] in announced:
                continue
            if not announced and self._outlasts_silence(key, seen):
                continue
            self._missed[key] += 1
            if self._missed[key] >= MISSED * seen:
                forgotten.append(key)
        return forgotten

    def _outlasts_silence(self, key: Key, seen: int) -> bool:
        """Whether responses that announce nothing leave it as it is.

        A server that announces nothing for a while still has the limits it had, and some announce them with refusals
        only. But a limit that holds calls for hours, and was announced once or twice, has to be announced again.
        """
        if key[1] > MINUTE:
            return seen >= CERTAIN
        return seen > 1 or key in self._refusing
