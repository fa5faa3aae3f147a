"""The endpoint: the request of one call, how its answer is read, and which parameters the server rejects."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

import openai

from throttled_openai._protocol.estimate import estimate_tokens
from throttled_openai._protocol.providers import provider_of

from .call import CURRENT, TimedCall

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from throttled_openai._clients.async_client import ThrottledAsyncOpenAI

Kind = Literal["chat", "embeddings"]

# The limit's name before OpenAI's reasoning models, which most other servers kept, and its name since.
_OLD, _NEW = "max_tokens", "max_completion_tokens"
_NEW_AT: Final = frozenset({"openai", "azure"})
# The fields of a delta that are part of an answer.
_REASONING: Final = ("reasoning_content", "reasoning")
_PARTS: Final = ("content", *_REASONING, "tool_calls", "refusal")
# A server's error code; a sentence in its place may quote prompts and keys, and is not shown.
_CODE: Final = re.compile(r"[A-Za-z0-9_.-]{1,48}")


@dataclass(slots=True)
class Endpoint:
    """What calls ask for. `stream`: chat only. `max_tokens`: of the answer. `extra`: more fields of the body."""

    base_url: str
    model: str
    kind: Kind = "chat"
    stream: bool = True
    max_tokens: int = 64
    extra: Mapping[str, Any] = field(default_factory=dict)
    rejected: list[str] = field(default_factory=list)
    """Parameters that the server was found to reject, and that are left out."""

    @property
    def streams(self) -> bool:
        return self.stream and self.kind == "chat"

    def body(self, prompt: str) -> dict[str, Any]:
        """The request body, without the rejected parameters."""
        if self.kind == "embeddings":
            return {"model": self.model, "input": prompt}
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            self._limit: self.max_tokens,
        }
        if self.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return {name: value for name, value in body.items() if name not in self.rejected}

    @property
    def _limit(self) -> str:
        new = provider_of(self.base_url).name in _NEW_AT
        return _NEW if new != self._switched else _OLD

    @property
    def _switched(self) -> bool:
        return _OLD in self.rejected or _NEW in self.rejected

    def tokens_of(self, prompt: str) -> int:
        """An estimate of the tokens of one call: the prompt and the longest answer."""
        path = "/embeddings" if self.kind == "embeddings" else "/chat/completions"
        return round(estimate_tokens(path, self.body(prompt))) + (self.max_tokens if self.kind == "chat" else 0)

    async def probe(self, client: ThrottledAsyncOpenAI, prompt: str) -> TimedCall:
        """Make one call, to see that it works and which parameters the server rejects; later calls omit those.

        Raises the SDK's error if the server answers no such call.
        """
        while True:
            try:
                return await self._ask(client, prompt, _call_now())
            except (openai.BadRequestError, openai.UnprocessableEntityError) as refusal:
                if not self._leave_out(refusal):
                    raise

    def _leave_out(self, refusal: openai.APIStatusError) -> bool:
        """Leave out the parameter that the server rejects, or a likely one: few name it. False: none is left."""
        words = f"{refusal} {refusal.body}"
        # The name in the error may be the one it rejects or the one it wants, so switch to the other.
        if (_OLD in words or _NEW in words) and not self._switched:
            self.rejected.append(self._limit)
            return True
        if self.streams and "stream_options" not in self.rejected:
            self.rejected.append("stream_options")
            return True
        return False

    async def make(self, client: ThrottledAsyncOpenAI, prompt: str, call: TimedCall) -> None:
        """Make `call` and record its outcome in it, failures included."""
        try:
            await self._ask(client, prompt, call)
        except Exception as error:  # noqa: BLE001  # counted and shown
            call.done_at = _now()
            call.failure = failure(error)

    async def _ask(self, client: ThrottledAsyncOpenAI, prompt: str, call: TimedCall) -> TimedCall:
        create: Any = client.embeddings.create if self.kind == "embeddings" else client.chat.completions.create
        token = CURRENT.set(call)
        try:
            answer = await create(**self.body(prompt), extra_body=dict(self.extra) or None)
            if self.streams:
                await _read(answer, call)
            else:
                _count(answer.usage, call)
            call.done_at = _now()
        finally:
            CURRENT.reset(token)
        return call


async def _read(stream: Any, call: TimedCall) -> None:
    chunks, reasoned, last_at = 0, False, 0.0
    async with stream:
        async for chunk in stream:
            deltas = [choice.delta for choice in chunk.choices]
            reasoned = reasoned or _has(deltas, _REASONING)
            if _has(deltas, _PARTS):
                chunks += 1
                now = _now()
                if call.first_at is None:
                    call.first_at = now
                else:
                    call.gaps.append(now - last_at)
                last_at = now
            if chunk.usage is not None:
                _count(chunk.usage, call)
    if call.counted is None:
        call.output_tokens, call.counted = chunks, "chunks"
    if reasoned:
        call.hidden_tokens = 0


def _has(deltas: Sequence[Any], names: Sequence[str]) -> bool:
    return any(getattr(delta, name, None) for delta in deltas for name in names)


def _count(usage: Any, call: TimedCall) -> None:
    if usage is not None:
        call.prompt_tokens = usage.prompt_tokens or 0
        call.output_tokens = getattr(usage, "completion_tokens", None) or 0  # embeddings have none
        details = getattr(usage, "completion_tokens_details", None)
        call.hidden_tokens = getattr(details, "reasoning_tokens", None) or 0
        call.counted = "usage"


def failure(error: Exception) -> str:
    """The kind of failure: exception class, status and code, but no text, which may quote a prompt."""
    name = type(error).__name__
    if isinstance(error, openai.APIStatusError):
        code = str(error.code or "")
        suffix = f", {code}" if _CODE.fullmatch(code) and code != str(error.status_code) else ""
        return f"{name} ({error.status_code}{suffix})"
    cause = error.__cause__
    return name if cause is None else f"{name} ({type(cause).__name__})"


def _call_now() -> TimedCall:
    now = _now()
    return TimedCall(due_at=now, asked_at=now)


def _now() -> float:
    return asyncio.get_running_loop().time()
