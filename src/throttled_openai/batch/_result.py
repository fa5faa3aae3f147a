"""The result: one line of the output, in OpenAI's batch format, and what can be read back of it.

The output is its own journal: `id` names the run and the number of the input's line, so that a run which was killed
knows from its output alone what is done. What belongs here is this format, written and read.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final, NamedTuple


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What became of one request.

    `line`: its place in the input, from 1. `status_code`, `request_id`, `body`: the server's answer, also one that
    refuses; None where there is none. `error`: `code` and `message` where the request got no HTTP answer, or one that
    is of no use. `ok`: whether it was served.
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
    """What a line of the output says of itself. `custom_id`: as JSON."""

    run: str
    line: int
    custom_id: bytes
    ok: bool


# As `encoded` writes it. Quotes inside texts are escaped, so nothing in an answer can look like it.
_HEAD: Final = re.compile(
    rb'\{"id":"batch_req_([0-9a-f]{8})_(\d{1,18})","custom_id":(null|"(?:[^"\\]|\\.)*"),'
    rb'"response":(?:null|\{"status_code":(\d{3}),)'
)
_SERVED: Final = b',"error":null}'
_END: Final = b"}"


def encoded(result: BatchResult, run: str, raw: bytes | None = None) -> bytes:
    """The line of the output, with its end. `raw`: the answer's body as JSON, if it is at hand."""
    name = f"batch_req_{run}_{result.line}"
    custom_id = json.dumps(result.custom_id)
    if result.status_code is None:
        response = b"null"
    else:
        if raw is None or b"\n" in raw or b"\r" in raw:
            raw = json.dumps(result.body, separators=(",", ":")).encode()
        told = json.dumps(result.request_id or name)
        response = b'{"status_code":%d,"request_id":%b,"body":%b}' % (result.status_code, told.encode(), raw)
    error = b"null" if result.error is None else json.dumps(result.error, separators=(",", ":")).encode()
    return b'{"id":"%b","custom_id":%b,"response":%b,"error":%b}\n' % (
        name.encode(),
        custom_id.encode(),
        response,
        error,
    )


def written(line: bytes) -> Written | None:
    """What a whole line of the output says of itself; None for one that is damaged or of somebody else.

    After a power cut, blocks that were not written yet may be zeros.
    """
    head = _HEAD.match(line)
    if head is None or not line.endswith(b"}\n") or b"\0" in line:
        return None
    status = head[4]
    served = status is not None and status[:1] == b"2" and line.endswith(_SERVED + b"\n")
    return Written(head[1].decode(), int(head[2]), head[3], served)
