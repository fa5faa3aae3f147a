"""Files of requests, and streams of them: each answered once, as fast as the limits allow.

`run_batch` is for requests from Python, `run_file` and the command `throttled-openai run` for files. Imports point
one way: formats (`_request`, `_result`, `_prompts`), then what reads and writes them (`_source`, `_input`, `_output`,
`_sidecar`, `_ids`), then the runner (`_feed`, `_order`, `_verdict`, `_runner`, `_tally`), then whole runs (`_stream`,
`_file`, `_status`). Calls go through `_clients.raw`; the command line is in `_commands.run`.
"""

from ._file import Summary, run_file
from ._prices import Price, Prices
from ._result import BatchResult
from ._sidecar import WrongRunError
from ._source import InputError
from ._status import Status
from ._stream import BatchStoppedError, run_batch

__all__ = [
    "BatchResult",
    "BatchStoppedError",
    "InputError",
    "Price",
    "Prices",
    "Status",
    "Summary",
    "WrongRunError",
    "run_batch",
    "run_file",
]
