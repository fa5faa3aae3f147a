"""The simulator in its own process, so that it does not compete with its clients for one core."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from ._cli import arguments_of
from ._settings import Settings, SettingsOptions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ._fault import Fault


@contextmanager
def spawn(
    settings: Settings | None = None, *, faults: Iterable[Fault] = (), **options: Unpack[SettingsOptions]
) -> Iterator[str]:
    """Serve from a new process and give the base URL, which ends in /v1. The process ends with the block.

    The same port serves the counters at /simulator/stats and the attempts at /simulator/log.
    """
    settings = replace(settings or Settings(), **options)
    command = [
        sys.executable,
        "-m",
        "throttled_openai.simulator",
        "--port=0",
        "--quiet",
        *arguments_of(settings, faults),
    ]
    # The child must import the same package, however this process found it.
    home = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))
    with subprocess.Popen(  # noqa: S603  # our own interpreter, our own arguments
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
    ) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            if not url:
                raise RuntimeError("the simulator's process did not start; stderr says why")
            yield url
        finally:
            process.terminate()
