"""Open files: each connection takes one, and many systems allow a process only 256 or 1,024 by default."""

from __future__ import annotations

from contextlib import suppress


def allow_open_files(most: int) -> None:
    """Allow this process up to `most` open files, as far as the system lets us."""
    try:
        import resource  # noqa: PLC0415  # not on Windows
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
