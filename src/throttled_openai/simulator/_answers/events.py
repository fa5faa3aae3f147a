"""Streamed answers: the same bodies as server-sent events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from .._wording.errors import error
from .._wording.headers import go_duration
from .bodies import Answer, Json, answer_object, message, output_item, part, response, to_bytes, tool_call
from .media import media_events

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .._fault import Fault, StreamErrorShape

_DONE: Final = b"data: [DONE]\n\n"


def events(answer: Answer) -> tuple[bytes, ...]:
    """All events of a streamed answer, in order."""
    if answer.request.endpoint == "responses":
        return tuple(
            _named({**event, "sequence_number": number}) for number, event in enumerate(_response_events(answer))
        )
    if answer.request.endpoint.startswith(("images/", "audio/")):
        return tuple(_named(event) for event in media_events(answer))
    chunks = _chat_chunks(answer) if answer.request.endpoint == "chat/completions" else _text_chunks(answer)
    return (*(_data(chunk) for chunk in _with_usage(answer, chunks)), _DONE)


def broken_off(answer: Answer, pieces: tuple[bytes, ...], fault: Fault) -> tuple[bytes, ...]:
    """Cut the stream short with the error event that `fault` describes."""
    # Never after the last event: clients stop reading there.
    before = pieces[: min(fault.after, len(pieces) - 1)]
    hint = "" if fault.retry_after is None else f" Please try again in {go_duration(fault.retry_after)}."
    code = fault.code or "rate_limit_exceeded"
    return (*before, _error_event(answer, fault.text + hint, code, fault.shape, len(before)))


def _error_event(answer: Answer, message: str, code: str, shape: StreamErrorShape, number: int) -> bytes:
    body = error(message, "requests", code)
    if answer.request.endpoint != "responses":
        return _data(body)
    match shape:
        case "wrapped":
            event: Json = {"type": "error", **body}
        case "flat":
            event = {"type": "error", "code": code, "message": message, "param": None}
        case "failed":
            failed = {"status": "failed", "error": {"code": code, "message": message}}
            event = {"type": "response.failed", "response": {**response(answer, started=True), **failed}}
    return _named({**event, "sequence_number": number})


def _with_usage(answer: Answer, chunks: Iterator[Json]) -> Iterator[Json]:
    """Add `usage` if the request asks for it: null in each chunk, and a final chunk with the numbers."""
    options = answer.request.body.get("stream_options")
    if not (isinstance(options, dict) and options.get("include_usage") is True):
        yield from chunks
        return
    for chunk in chunks:
        yield {**chunk, "usage": None}
    yield {**_frame(answer), "choices": [], "usage": answer.usage}


def _frame(answer: Answer) -> Json:
    whole = answer_object(answer)
    kind = "chat.completion.chunk" if whole["object"] == "chat.completion" else whole["object"]
    return {"id": whole["id"], "object": kind, "created": whole["created"], "model": whole["model"]}


def _chat_chunks(answer: Answer) -> Iterator[Json]:
    frame = _frame(answer)

    def chunks(delta: Json, finish_reason: str | None = None) -> Iterator[Json]:
        for index in range(answer.request.choices):
            choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
            yield {**frame, "choices": [choice]}

    if answer.tool is not None:
        call = tool_call(answer, "")
        filled = "input" if answer.tool.custom else "arguments"
        yield from chunks({"role": "assistant", "content": None, "refusal": None, "tool_calls": [{"index": 0, **call}]})
        for piece in answer.pieces:
            yield from chunks({"tool_calls": [{"index": 0, call["type"]: {filled: piece}}]})
        yield from chunks({}, answer.finish_reason)
        return
    yield from chunks({"role": "assistant", "content": "", "refusal": None})
    for piece in answer.pieces:
        yield from chunks({"content": piece})
    yield from chunks({}, answer.finish_reason)


def _text_chunks(answer: Answer) -> Iterator[Json]:
    frame = _frame(answer)
    for piece in (*answer.pieces, None):
        for index in range(answer.request.choices):
            reason = answer.finish_reason if piece is None else None
            choice = {"index": index, "text": piece or "", "logprobs": None, "finish_reason": reason}
            yield {**frame, "choices": [choice]}


def _response_events(answer: Answer) -> Iterator[Json]:
    whole = response(answer)
    started = response(answer, started=True)
    item = output_item(answer)
    place: dict[str, Any] = {"item_id": item["id"], "output_index": 0, "content_index": 0}

    yield {"type": "response.created", "response": started}
    yield {"type": "response.in_progress", "response": started}
    if answer.tool is not None:
        yield from _call_events(answer, item)
        yield {"type": f"response.{whole['status']}", "response": whole}
        return
    yield {"type": "response.output_item.added", "output_index": 0, "item": message(answer, started=True)}
    yield {"type": "response.content_part.added", **place, "part": part("")}
    for piece in answer.pieces:
        yield {"type": "response.output_text.delta", **place, "delta": piece, "logprobs": []}
    yield {"type": "response.output_text.done", **place, "text": answer.text, "logprobs": []}
    yield {"type": "response.content_part.done", **place, "part": part(answer.text)}
    yield {"type": "response.output_item.done", "output_index": 0, "item": item}
    yield {"type": f"response.{whole['status']}", "response": whole}


def _call_events(answer: Answer, item: Json) -> Iterator[Json]:
    """The call of a tool, from its start to its end."""
    assert answer.tool is not None
    custom = answer.tool.custom
    kind, filled = ("custom_tool_call_input", "input") if custom else ("function_call_arguments", "arguments")
    place: Json = {"item_id": item["id"], "output_index": 0}
    yield {"type": "response.output_item.added", "output_index": 0, "item": output_item(answer, started=True)}
    for piece in answer.pieces:
        yield {"type": f"response.{kind}.delta", **place, "delta": piece}
    done = {filled: answer.text} if custom else {filled: answer.text, "name": answer.tool.tool}
    yield {"type": f"response.{kind}.done", **place, **done}
    yield {"type": "response.output_item.done", "output_index": 0, "item": item}


def _data(event: Json) -> bytes:
    return b"data: " + to_bytes(event) + b"\n\n"


def _named(event: Json) -> bytes:
    return f"event: {event['type']}\n".encode() + _data(event)
