"""Open files: each connection takes one, and many systems allow a process only 256 or 1,024 by default."""

from __future__ import annotations

from contextlib import suppress


def allow_open_files(most: int | None = None) -> None:
    """Allow this process up to `most` open files, as far as the system lets us; None: as many as it lets."""
    try:
        import resource  # noqa: PLC0415  # not on Windows
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    endless = resource.RLIM_INFINITY
    wanted = hard if most is None or (hard != endless and most > hard) else most
    if soft != endless and (wanted == endless or soft < wanted):
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
