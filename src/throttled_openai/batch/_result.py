"""A result: one line of the output, in OpenAI's batch format.

Its `id` contains the run and the line number of the request. So the output alone shows which requests are done, even
if the run was killed.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final, NamedTuple


@dataclass(frozen=True, slots=True)
class BatchResult:
    """The result of one request.

    `line`: the number of the request in the input, from 1. `status_code`, `request_id`, `body`: from the server's
    answer, also if it is an error; None if there was no answer. `error`: a `code` and a `message` if there was no
    answer, or none that can be used. `ok`: whether the request succeeded.
    """

    line: int
    custom_id: str | None
    status_code: int | None = None
    request_id: str | None = None
    body: Any = None
    error: dict[str, Any] | None = None

    @property
    def ok(self) -> bool:
        return self.error is None and self.status_code is not None and 200 <= self.status_code < 300


class Written(NamedTuple):
    """The fields of a result that the next run needs. `custom_id`: as JSON."""

    run: str
    line: int
    custom_id: bytes
    ok: bool


# The start of a line as `encoded` writes it. Quotes inside texts are escaped, so no answer can contain the same.
_HEAD: Final = re.compile(
    rb'\{"id":"batch_req_([0-9a-f]{8})_(\d{1,18})","custom_id":(null|"(?:[^"\\]|\\.)*"),'
    rb'"response":(?:null|\{"status_code":(\d{3}),)'
)
_SERVED: Final = b',"error":null}'
_END: Final = b"}"


def encoded(result: BatchResult, run: str, raw: bytes | None = None) -> bytes:
    """A result as a line with its line end. `raw`: the body of the answer as JSON, if it is available."""
    name = f"batch_req_{run}_{result.line}"
    custom_id = json.dumps(result.custom_id)
    if result.status_code is None:
        response = b"null"
    else:
        if raw is None or b"\n" in raw or b"\r" in raw:
            raw = json.dumps(result.body, separators=(",", ":")).encode()
        request_id = json.dumps(result.request_id or name)
        response = b'{"status_code":%d,"request_id":%b,"body":%b}' % (result.status_code, request_id.encode(), raw)
    error = b"null" if result.error is None else json.dumps(result.error, separators=(",", ":")).encode()
    return b'{"id":"%b","custom_id":%b,"response":%b,"error":%b}\n' % (
        name.encode(),
        custom_id.encode(),
        response,
        error,
    )


def written(line: bytes) -> Written | None:
    """Read a complete line of the output; None if it is damaged or was not written by a run.

    After a power failure, blocks of the file that were not synced may be zeros.
    """
    head = _HEAD.match(line)
    if head is None or not line.endswith(b"}\n") or b"\0" in line:
        return None
    status = head[4]
    served = status is not None and status[:1] == b"2" and line.endswith(_SERVED + b"\n")
    return Written(head[1].decode(), int(head[2]), head[3], served)
