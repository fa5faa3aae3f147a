"""Batches: a file of requests that is answered in the background, and becomes files of results."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from .._requests.fields import BadRequestError
from .._wording.dates import EPOCH

if TYPE_CHECKING:
    from collections.abc import Callable

    # The path and body of a request, to the status and body of its answer.
    AnswerLine = Callable[[str, object], tuple[int, dict[str, Any]]]
    # The name, content, purpose and time of a file, to its object.
    AddFile = Callable[[str, bytes, str, float], dict[str, Any]]

Json = dict[str, Any]

_ENDPOINTS: Final = {
    f"/v1/{name}" for name in ("chat/completions", "completions", "responses", "embeddings", "moderations")
}
_DAY: Final = 86_400


@dataclass(slots=True)
class Batch:
    """A batch and its clock: it completes once `ready_at` has come, unless it was cancelled before."""

    body: Json
    ready_at: float
    lines: list[bytes] = field(default_factory=list)


def new_batch(body: Json, number: int, content: bytes, now: float, latency: float) -> Batch:
    """Check the request and begin the batch. Raises `BadRequestError`."""
    for name in ("input_file_id", "endpoint", "completion_window"):
        if not isinstance(body.get(name), str):
            raise BadRequestError(f"Missing required parameter: '{name}'.", name)
    if body["endpoint"] not in _ENDPOINTS:
        known = ", ".join(sorted(_ENDPOINTS))
        raise BadRequestError(f"Invalid value: '{body['endpoint']:.60}'. Supported values are: {known}.", "endpoint")
    lines = [line for line in content.splitlines() if line.strip()]
    created = EPOCH + int(now)
    batch = {
        "id": f"batch_{number:032x}",
        "object": "batch",
        "endpoint": body["endpoint"],
        "errors": None,
        "input_file_id": body["input_file_id"],
        "completion_window": body["completion_window"],
        "status": "validating",
        "output_file_id": None,
        "error_file_id": None,
        "created_at": created,
        "in_progress_at": None,
        "expires_at": created + _DAY,
        "finalizing_at": None,
        "completed_at": None,
        "failed_at": None,
        "expired_at": None,
        "cancelling_at": None,
        "cancelled_at": None,
        "request_counts": {"total": 0, "completed": 0, "failed": 0},
        "metadata": body.get("metadata"),
    }
    return Batch(batch, now + latency, lines)


def advance(batch: Batch, add_file: AddFile, answer: AnswerLine, now: float) -> Json:
    """Bring the batch up to `now`, and give its object."""
    body, at = batch.body, EPOCH + int(now)
    if body["status"] not in {"validating", "in_progress"}:
        return body
    if body["status"] == "validating" and (problems := _problems(batch.lines, body["endpoint"])):
        batch.lines = []
        body |= {"status": "failed", "failed_at": at, "errors": {"object": "list", "data": problems}}
    elif now < batch.ready_at:
        total = {"total": len(batch.lines), "completed": 0, "failed": 0}
        body |= {"status": "in_progress", "in_progress_at": body["in_progress_at"] or at, "request_counts": total}
    else:
        _complete(batch, add_file, answer, now)
    return body


def cancel(batch: Batch, now: float) -> Json:
    body, at = batch.body, EPOCH + int(now)
    if body["status"] in {"validating", "in_progress"}:
        body |= {"status": "cancelled", "cancelling_at": at, "cancelled_at": at}
        batch.lines = []
    return body


def _problems(lines: list[bytes], endpoint: str) -> list[Json]:
    """What is wrong with the file: the first ten lines that are no request for `endpoint`."""
    problems: list[Json] = []
    seen: set[str] = set()

    def problem(code: str, message: str, line: int | None) -> None:
        problems.append({"code": code, "message": message, "param": None, "line": line})

    if not lines:
        problem("empty_file", "The input file is empty.", None)
    for number, line in enumerate(lines, 1):
        request = _parsed(line)
        name = request.get("custom_id") if isinstance(request, dict) else None
        if not isinstance(request, dict):
            problem("invalid_json_line", "This line is not parseable as valid JSON.", number)
        elif not isinstance(name, str):
            problem("missing_required_parameter", "Missing required parameter: 'custom_id'.", number)
        elif name in seen:
            problem("duplicate_custom_id", "The custom_id for this request has already been used.", number)
        elif request.get("url") != endpoint:
            problem("mismatched_endpoint", "The URL of this request is not the batch's endpoint.", number)
        if len(problems) == 10:
            break
        if isinstance(name, str):
            seen.add(name)
    return problems


def _complete(batch: Batch, add_file: AddFile, answer: AnswerLine, now: float) -> None:
    body, at = batch.body, EPOCH + int(now)
    output: list[bytes] = []
    errors: list[bytes] = []
    for number, line in enumerate(batch.lines):
        request = _parsed(line)
        status, said = answer(request["url"], request.get("body"))
        result = {
            "id": f"batch_req_{number:032x}",
            "custom_id": request["custom_id"],
            "response": {"status_code": status, "request_id": f"req_{number:032x}", "body": said},
            "error": None,
        }
        (output if status == 200 else errors).append(json.dumps(result).encode() + b"\n")
    for name, lines in (("output", output), ("error", errors)):
        if lines:
            file = add_file(f"{body['id']}_{name}.jsonl", b"".join(lines), "batch_output", now)
            body[f"{name}_file_id"] = file["id"]
    counts = {"total": len(batch.lines), "completed": len(output), "failed": len(errors)}
    times = {"in_progress_at": body["in_progress_at"] or at, "finalizing_at": at, "completed_at": at}
    body |= {"status": "completed", "request_counts": counts, **times}
    batch.lines = []


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
