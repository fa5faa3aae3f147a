"""A metered request: its checked body and its measured cost in tokens."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from .fields import BadRequestError, check_fields, read_body
from .form import form_fields
from .wanted import Wanted, wanted

if TYPE_CHECKING:
    from collections.abc import Iterator

# The required field of each metered endpoint.
METERED: Final = {
    "chat/completions": "messages",
    "completions": "prompt",
    "responses": "input",
    "embeddings": "input",
    "moderations": "input",
    "images/generations": "prompt",
    "images/edits": "image",
    "images/variations": "image",
    "audio/speech": "input",
    "audio/transcriptions": "file",
    "audio/translations": "file",
}
# Models of endpoints that do not require one.
_USUAL_MODELS: Final = {
    "moderations": "omni-moderation-latest",
    **dict.fromkeys(("images/generations", "images/edits", "images/variations"), "gpt-image-1"),
}

_NEVER_STREAMED: Final = {"embeddings", "moderations", "images/variations", "audio/speech", "audio/translations"}

# The names under which a client may limit the answer.
_LIMITS: Final = ("max_completion_tokens", "max_output_tokens", "max_tokens")

# Tokens reserved for an answer without a limit.
_RESERVED: Final = 16

# Tokens charged for an image of any size, measured in 2025 and 2026.
_IMAGE: Final = 765

# Tokens that the Responses API charges on top of the input, without and with function tools.
_RESPONSE: Final = 19
_RESPONSE_WITH_FUNCTIONS: Final = 217


@dataclass(frozen=True, slots=True)
class MeteredRequest:
    """A request that the limits apply to. `cost` is charged; `prompt_tokens` is what usage reports."""

    endpoint: str
    model: str
    stream: bool
    body: dict[str, Any]
    cost: int
    prompt_tokens: int
    wanted: Wanted | None = None

    def completion_tokens(self, usual: int) -> int:
        """Tokens of one answer, where `usual` is the length of prose."""
        limit, whole = self._most_tokens, self.whole_tokens(usual)
        return whole if limit is None else max(1, min(whole, limit))

    def whole_tokens(self, usual: int) -> int:
        """The same without the limit that the request sets."""
        return usual if self.wanted is None else self.wanted.tokens

    @property
    def reserved_tokens(self) -> int:
        """The longest answer that the request allows, in tokens, over all its choices."""
        if not self.generates:
            return 0
        limit = self._most_tokens
        return (_RESERVED if limit is None else max(1, limit)) * self.choices

    @property
    def generates(self) -> bool:
        return self.endpoint in {"chat/completions", "completions", "responses"}

    @property
    def choices(self) -> int:
        return self.body.get("n") or 1

    @property
    def _most_tokens(self) -> int | None:
        return next((limit for name in _LIMITS if (limit := self.body.get(name)) is not None), None)


# OpenAI's paths; Azure's with the deployment in the path, its newer /openai/v1, and its other endpoints.
_PATH: Final = re.compile(r"/(?:v1|openai/deployments/(?P<deployment>[^/]+)|openai/v1|openai)/(?P<endpoint>.+)")


def metered_path(path: str) -> tuple[str, str | None] | None:
    """The endpoint and, at Azure, the deployment of a path that the limits apply to; None for any other."""
    found = _PATH.fullmatch(path)
    if found is None or found["endpoint"] not in METERED:
        return None
    return found["endpoint"], found["deployment"]


def parse(endpoint: str, raw: bytes, deployment: str | None = None, content_type: str = "") -> MeteredRequest:
    """Read the body of a metered request, or raise `BadRequestError`."""
    body = form_fields(content_type, raw) if content_type.startswith("multipart/form-data") else read_body(raw)
    model = deployment or body.get("model") or _USUAL_MODELS.get(endpoint)
    if not isinstance(model, str):
        raise BadRequestError("you must provide a model parameter", "model")
    required = METERED[endpoint]
    if body.get(required) is None:
        raise BadRequestError(f"Missing required parameter: '{required}'.", required)
    check_fields(endpoint, body)
    stream = body.get("stream") is True and endpoint not in _NEVER_STREAMED
    cost, prompt_tokens = _measure(endpoint, body)
    return MeteredRequest(endpoint, model, stream, body, cost, prompt_tokens, wanted(endpoint, body))


def _measure(endpoint: str, body: dict[str, Any]) -> tuple[int, int]:
    """Return the tokens that the request is charged, and the prompt tokens that usage reports."""
    if endpoint == "chat/completions":
        messages = body["messages"]
        size, images = _sizes(messages)
        cost = size // 4 + len(messages) + 2 + images * _IMAGE + (body.get("n") or 1) - 1
        # Framing adds 3 tokens and 4 per message; exact in 215 of 215 recorded usages of gpt-4 models.
        return cost, math.ceil(size / 4) + 4 * len(messages) + 3 + images * _IMAGE
    if endpoint == "responses":
        size, images = _sizes([body["input"], body.get("instructions")])
        tokens = math.ceil(size / 4) + images * _IMAGE
        functions = any(tool.get("type") == "function" for tool in body.get("tools") or ())
        return tokens + (_RESPONSE_WITH_FUNCTIONS if functions else _RESPONSE), tokens
    # Images and sound cost nothing here, so these are limited by the number of requests alone.
    text = body.get("prompt") if endpoint.startswith(("images/", "audio/tr")) else body[METERED[endpoint]]
    given = _given_tokens(text)
    size, _ = _sizes(text)
    rounded = round(size / 4) if endpoint == "embeddings" else math.ceil(size / 4)
    return given + rounded, given + math.ceil(size / 4)


def _sizes(content: object) -> tuple[int, int]:
    """Count the UTF-8 bytes of all text, and the images, in messages, items, parts or plain strings."""
    size = images = 0
    for leaf in _leaves(content):
        if isinstance(leaf, str):
            size += len(leaf.encode("utf-8", "surrogatepass"))
        else:
            images += 1
    return size, images


def _leaves(content: object) -> Iterator[str | None]:
    """Each text as itself and each image as None."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for item in content:
            yield from _leaves(item)
    elif isinstance(content, dict):
        if content.get("type") in {"image_url", "input_image"}:
            yield None
        else:
            yield from _leaves(content.get("content"))
            yield from _leaves(content.get("text"))


def _given_tokens(content: object) -> int:
    """Count the tokens of a prompt that is given as arrays of tokens."""
    if not isinstance(content, list):
        return 0
    return sum(1 if isinstance(item, int) else _given_tokens(item) for item in content)
