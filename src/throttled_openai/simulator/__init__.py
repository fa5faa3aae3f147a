"""A faithful rate-limited server with OpenAI's interface, for tests, benchmarks and people without a key.

It does its own arithmetic and imports nothing of `throttled_openai` outside this package.
"""

from ._clock import VirtualTimeLoop, virtual_run
from ._fault import Fault
from ._log import Attempt
from ._process import spawn
from ._server import Simulator
from ._settings import Settings
from ._tcp import serve

__all__ = [
    "Attempt",
    "Fault",
    "Settings",
    "Simulator",
    "VirtualTimeLoop",
    "serve",
    "spawn",
    "virtual_run",
]
