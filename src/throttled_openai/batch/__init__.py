"""BATCH. Many requests, from a file or from Python, each answered once, as fast as the limits allow.

`run_batch` takes requests from Python; `run_file` and the command `throttled-openai run` take files. Imports point
one way, from whole runs (`_stream`, `_file`, `_status`) to the runner (`_runner`, `_feed`, `_order`, `_verdict`,
`_tally`), from there to the files (`_source`, `_input`, `_output`, `_sidecar`, `_ids`), and from there to the formats
(`_request`, `_result`, `_prompts`). `_calls` says how requests are sent: by `_clients.raw` in this process, or by
`_processes`, whose `_worker`s answer over a `_channel`. The command line is in `_commands.run`.
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
