"""The bodies of successful answers, complete enough for the SDK's types."""

from __future__ import annotations

import json
from array import array
from base64 import b64encode
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from .._requests.metered import MeteredRequest
    from .._requests.wanted import Wanted

Json = dict[str, Any]

# The most deltas of a stream. A longer answer puts several tokens into each: more deltas would only cost time.
_MOST_DELTAS: Final = 20

_TEXT_FORMAT: Final = {"format": {"type": "text"}}

_WORDS: Final = ("This", " answer", " is", " simulated", ",", " token", " by", " token", ".", "\n")

_CATEGORIES: Final = (
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)


# `json.dumps` would build an encoder for each of the twenty events of a stream.
_encode: Final = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


def to_bytes(body: Json) -> bytes:
    return _encode(body).encode()


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: the request it belongs to, and its length in tokens."""

    request: MeteredRequest
    number: int
    created: int
    tokens: int
    shortened: bool

    @property
    def pieces(self) -> tuple[str, ...]:
        """The text in parts, as streams send it."""
        wanted = self.request.wanted
        return _pieces(self.tokens) if wanted is None else _parts_of(wanted.text, self.tokens)

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def tool(self) -> Wanted | None:
        """The call that this answer is; None if it is text."""
        wanted = self.request.wanted
        return None if wanted is None or wanted.tool is None else wanted

    @property
    def finish_reason(self) -> str:
        if self.shortened:
            return "length"
        # As at OpenAI: a call that was forced is no reason of its own.
        return "tool_calls" if self.tool is not None and not self.tool.forced else "stop"

    @property
    def usage(self) -> Json:
        prompt, completion = self.request.prompt_tokens, self.tokens * self.request.choices
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        }


def body_of(answer: Answer) -> bytes:
    """The body of an answer that is not streamed."""
    return _embeddings(answer.request) if answer.request.endpoint == "embeddings" else to_bytes(answer_object(answer))


def answer_object(answer: Answer) -> Json:
    match answer.request.endpoint:
        case "chat/completions":
            return _chat(answer)
        case "completions":
            return _completion(answer)
        case "responses":
            return response(answer)
        case _:
            return _moderation(answer)


def _chat(answer: Answer) -> Json:
    message: Json = {"role": "assistant", "content": answer.text, "refusal": None, "annotations": []}
    if answer.tool is not None:
        message |= {"content": None, "tool_calls": [tool_call(answer, answer.text)]}
    choices = [
        {"index": index, "message": message, "logprobs": None, "finish_reason": answer.finish_reason}
        for index in range(answer.request.choices)
    ]
    return {
        "id": f"chatcmpl-{answer.number:024x}",
        "object": "chat.completion",
        "created": answer.created,
        "model": answer.request.model,
        "choices": choices,
        "usage": answer.usage,
        "service_tier": "default",
        "system_fingerprint": None,
    }


def tool_call(answer: Answer, text: str) -> Json:
    """The call of a tool, of a chat."""
    assert answer.tool is not None
    kind, filled = ("custom", "input") if answer.tool.custom else ("function", "arguments")
    return {"id": f"call_{answer.number:024x}", "type": kind, kind: {"name": answer.tool.tool, filled: text}}


def _completion(answer: Answer) -> Json:
    choices = [
        {"index": index, "text": answer.text, "logprobs": None, "finish_reason": answer.finish_reason}
        for index in range(answer.request.choices)
    ]
    return {
        "id": f"cmpl-{answer.number:024x}",
        "object": "text_completion",
        "created": answer.created,
        "model": answer.request.model,
        "choices": choices,
        "usage": answer.usage,
    }


def response(answer: Answer, *, started: bool = False) -> Json:
    """A Response object. `started`: as the stream's first event has it, without output and usage."""
    body, tokens = answer.request.body, answer.tokens
    status = "in_progress" if started else "incomplete" if answer.shortened else "completed"
    usage = {
        "input_tokens": answer.request.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": answer.request.prompt_tokens + tokens,
    }
    return {
        "id": f"resp_{answer.number:032x}",
        "object": "response",
        "created_at": answer.created,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "metadata": body.get("metadata") or {},
        "model": answer.request.model,
        "output": [] if started else [output_item(answer)],
        "parallel_tool_calls": True,
        "previous_response_id": body.get("previous_response_id"),
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "store": True,
        "temperature": 1.0,
        "text": _TEXT_FORMAT if answer.request.wanted is None else body.get("text") or _TEXT_FORMAT,
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": body.get("tools") or [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": None if started else usage,
    }


def output_item(answer: Answer, *, started: bool = False) -> Json:
    """The one output item of a Response."""
    if answer.tool is None:
        return message(answer, started=started)
    kind, filled = ("custom_tool_call", "input") if answer.tool.custom else ("function_call", "arguments")
    item = {
        "id": f"{'ctc' if answer.tool.custom else 'fc'}_{answer.number:032x}",
        "type": kind,
        "call_id": f"call_{answer.number:024x}",
        "name": answer.tool.tool,
        filled: "" if started else answer.text,
    }
    if not answer.tool.custom:
        item["status"] = "in_progress" if started else "incomplete" if answer.shortened else "completed"
    return item


def message(answer: Answer, *, started: bool = False) -> Json:
    final = "incomplete" if answer.shortened else "completed"
    return {
        "id": f"msg_{answer.number:032x}",
        "type": "message",
        "status": "in_progress" if started else final,
        "role": "assistant",
        "content": [] if started else [part(answer.text)],
    }


def part(text: str) -> Json:
    return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}


def _embeddings(request: MeteredRequest) -> bytes:
    """Joined from bytes: all vectors are equal, so one is encoded once instead of 2,000 times."""
    given = request.body["input"]
    several = isinstance(given, list) and not (given and isinstance(given[0], int))
    size = request.body.get("dimensions") or 1536
    vector = _vector(size, base64=request.body.get("encoding_format") == "base64")
    parts = [b'{"object":"list","data":[']
    for index in range(len(given) if several else 1):
        parts += (b'{"object":"embedding","index":%d,"embedding":' % index, vector, b"},")
    parts[-1] = parts[-1].rstrip(b",")
    usage = {"prompt_tokens": request.prompt_tokens, "total_tokens": request.prompt_tokens}
    return b"".join((*parts, b"],", to_bytes({"model": request.model, "usage": usage})[1:]))


def _moderation(answer: Answer) -> Json:
    given = answer.request.body["input"]
    result = {
        "flagged": False,
        "categories": dict.fromkeys(_CATEGORIES, False),
        "category_scores": dict.fromkeys(_CATEGORIES, 0.0),
        "category_applied_input_types": {category: ["text"] for category in _CATEGORIES},
    }
    # A list of strings is several texts; a list of parts is one text with images.
    several = isinstance(given, list) and all(isinstance(item, str) for item in given)
    return {
        "id": f"modr-{answer.number:024x}",
        "model": answer.request.model,
        "results": [result] * (len(given) if several else 1),
    }


def _parts_of(text: str, tokens: int) -> tuple[str, ...]:
    """As much of `text` as the tokens are enough for, in no more parts than prose has."""
    text = text[: 4 * tokens]
    step = -(-len(text) // _MOST_DELTAS) or 1
    return tuple(text[start : start + step] for start in range(0, len(text), step))


@lru_cache(maxsize=1024)
def _pieces(tokens: int) -> tuple[str, ...]:
    words = [_WORDS[index % len(_WORDS)] for index in range(tokens)]
    step = -(-tokens // _MOST_DELTAS)
    return tuple("".join(words[start : start + step]) for start in range(0, tokens, step))


@lru_cache(maxsize=16)
def _vector(size: int, *, base64: bool) -> bytes:
    """The unit vector that every text gets."""
    vector = [size**-0.5] * size
    return b'"%b"' % b64encode(array("f", vector).tobytes()) if base64 else _encode(vector).encode()
