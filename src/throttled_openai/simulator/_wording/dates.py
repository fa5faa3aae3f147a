"""The calendar of the simulated server, which starts at a fixed instant: the loop's clock knows no dates."""

from __future__ import annotations

from email.utils import formatdate
from typing import Final

# Seconds since 1970 at which the loop's clock reads 0.
EPOCH: Final = 1_750_000_000

# The end of the year 9999, the last that dates can be written for.
_LAST_SECOND: Final = 253_402_300_799


def unix_time(now: float) -> float:
    """Seconds since 1970."""
    return min(EPOCH + now, _LAST_SECOND)


def date_header(now: float) -> tuple[str, str]:
    """The server's date. Clients need it to read the instants in other headers, which are not near the real date."""
    return "date", formatdate(unix_time(now), usegmt=True)
