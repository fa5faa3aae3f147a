"""The bodies of answers with images and sound: the smallest that programs can open."""

from __future__ import annotations

import struct
import zlib
from base64 import b64encode
from typing import TYPE_CHECKING, Any, Final

from .bodies import to_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .bodies import Answer

Json = dict[str, Any]

_RATE: Final = 24_000
_SECONDS: Final = 0.25
_SILENCE: Final = bytes(int(_RATE * _SECONDS) * 2)
# Speech is what these headers, or frames, begin. Other formats would need an encoder.
_MP3: Final = (b"\xff\xfb\x90\x00" + bytes(413)) * 10
_SPEECH: Final = {"mp3": "audio/mpeg", "wav": "audio/wav", "pcm": "audio/pcm"}

_TEXTS: Final = {"text": "{text}\n", "srt": "1\n00:00:00,000 --> 00:00:01,000\n{text}\n\n",
                 "vtt": "WEBVTT\n\n00:00:00.000 --> 00:00:01.000\n{text}\n\n"}  # fmt: skip


def media(answer: Answer) -> tuple[str, bytes]:
    """The content type and body of an answer with images, speech or a transcript."""
    body, endpoint = answer.request.body, answer.request.endpoint
    if endpoint == "audio/speech":
        kind = body.get("response_format") or "mp3"
        return _SPEECH.get(kind, _SPEECH["mp3"]), _speech(kind)
    if endpoint.startswith("images/"):
        return "application/json", to_bytes(_images(answer))
    kind = body.get("response_format") or "json"
    if kind in _TEXTS:
        return "text/plain; charset=utf-8", _TEXTS[kind].format(text=answer.text.strip()).encode()
    return "application/json", to_bytes(_transcript(answer, kind))


def media_events(answer: Answer) -> Iterator[Json]:
    """The events of a streamed transcript or image; speech has none."""
    if answer.request.endpoint.startswith("images/"):
        kind = "image_edit" if answer.request.endpoint == "images/edits" else "image_generation"
        yield {
            "type": f"{kind}.completed",
            "b64_json": _PICTURE,
            "background": "opaque",
            "created_at": answer.created,
            "output_format": "png",
            "quality": "medium",
            "size": "1024x1024",
            "usage": _images(answer)["usage"],
        }
        return
    for piece in answer.pieces:
        yield {"type": "transcript.text.delta", "delta": piece, "logprobs": []}
    yield {"type": "transcript.text.done", "text": answer.text, "logprobs": [], "usage": _usage(answer)}


def _images(answer: Answer) -> Json:
    body, request = answer.request.body, answer.request
    by_url = request.model.startswith("dall-e") and body.get("response_format") != "b64_json"
    image = {"url": f"data:image/png;base64,{_PICTURE}"} if by_url else {"b64_json": _PICTURE}
    details = {"image_tokens": 0, "text_tokens": request.prompt_tokens}
    usage = {
        "input_tokens": request.prompt_tokens,
        "input_tokens_details": details,
        "output_tokens": answer.tokens,
        "total_tokens": request.prompt_tokens + answer.tokens,
    }
    return {"created": answer.created, "data": [image] * request.choices, "usage": usage}


def _transcript(answer: Answer, kind: str) -> Json:
    text = {"text": answer.text}
    segment = {"id": 0, "start": 0.0, "end": 1.0, "text": answer.text}
    task = "translate" if answer.request.endpoint == "audio/translations" else "transcribe"
    whole = {"task": task, "duration": 1.0, **text}
    seconds = {"usage": {"type": "duration", "seconds": 1}}
    if kind == "verbose_json":
        scores = {"seek": 0, "tokens": [], "temperature": 0.0, "avg_logprob": -0.1, "compression_ratio": 1.0}
        segments = [{**segment, **scores, "no_speech_prob": 0.0}]
        return {**whole, "language": "english", "segments": segments, **seconds}
    if kind == "diarized_json":
        spoken = {**segment, "id": "seg_0", "type": "transcript.text.segment", "speaker": "A"}
        return {**whole, "segments": [spoken], **seconds}
    return text if task == "translate" else {**text, "usage": _usage(answer)}


def _usage(answer: Answer) -> Json:
    heard, said = answer.request.prompt_tokens, answer.tokens
    return {"type": "tokens", "input_tokens": heard, "output_tokens": said, "total_tokens": heard + said}


def _speech(kind: str) -> bytes:
    if kind == "pcm":
        return _SILENCE
    if kind != "wav":
        return _MP3
    size = len(_SILENCE)
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, _RATE, 2 * _RATE, 2, 16)
    return struct.pack("<4sI4s", b"RIFF", 36 + size, b"WAVE") + form + struct.pack("<4sI", b"data", size) + _SILENCE


def _picture() -> str:
    """One grey pixel as PNG, in base64."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\x00\x80")) + chunk(b"IEND", b"")
    return b64encode(b"\x89PNG\r\n\x1a\n" + parts).decode()


_PICTURE: Final = _picture()
