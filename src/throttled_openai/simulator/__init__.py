"""A faithful rate-limited server with OpenAI's interface, for tests, benchmarks and trying the library without a key.

It does its own arithmetic and imports nothing of `throttled_openai` outside this package. Lower rooms never
import higher ones:

    _simulator, _process, _cli     what users hold: the object, a process, the command
    _carriers                      how replies reach a client: memory or TCP
    _server, _gate, _backend       the decisions: route, admit or refuse, queue, answer
    _answers                       what is sent back
    _wording                       headers and error bodies, by provider
    _quotas                        the arithmetic of limits
    _requests                      what a request asks for and costs
    _settings, _fault, _log, _network, _clock     plain values and clocks, which import none of the above
"""

from ._carriers.tcp import serve
from ._clock import VirtualTimeLoop, virtual_run
from ._fault import Fault
from ._log import Attempt
from ._process import spawn
from ._settings import Settings
from ._simulator import Simulator

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
