"""How many connections this process can open: each takes one of its open files."""

from __future__ import annotations

import functools
import logging
from typing import Final

logger = logging.getLogger("throttled_openai")

# Files left for the rest of the process, and for connections that the throttle does not count.
SPARE_FILES: Final = 200


def within_file_limit(connections: int) -> int:
    """`connections`, or the number this process may open: often 1,024 files on Linux, 256 on a Mac."""
    try:
        import resource  # noqa: PLC0415  # not on Windows
    except ImportError:
        return connections
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return connections
    return min(connections, files - min(SPARE_FILES, files // 2))


@functools.cache  # once for the process
def warn_of_file_limit(connections: int) -> None:
    """Say that the limit of open files holds calls back, and how to raise it."""
    logger.warning(
        "no more than %s calls can be in flight, and others wait: each takes a connection, and this process may have "
        "%s open files (ulimit -n). Raise that before it starts, for example: ulimit -n 10240",
        f"{connections:,}",
        f"{_open_files():,}",
    )


def _open_files() -> int:
    import resource  # noqa: PLC0415  # not on Windows, which has no such limit

    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
