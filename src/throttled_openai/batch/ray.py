"""Calls of a model in Ray Data: a class for `map_batches`. Importing this does not import Ray."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Final

from throttled_openai._clients.async_client import ThrottledAsyncOpenAI
from throttled_openai._clients.raw import RawCalls
from throttled_openai._protocol.error_body import parse_error_body

from ._request import guessed_path

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Body = Mapping[str, Any]

__all__ = ["ModelCalls"]

# Characters of an error; the rest of a page of HTML says no more.
_LONGEST: Final = 500


class ModelCalls:
    """Calls a model once for each row, and adds two columns: `response` and `error`, one of which is None.

        def body(row):
            return {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": row["question"]}]}

        answered = questions.map_batches(
            ModelCalls,
            fn_constructor_args=[body],
            fn_constructor_kwargs={"shared": "redis://host:6379/0", "rpm": 5_000, "tpm": 2_000_000},
            batch_size=256,
            compute=ray.data.ActorPoolStrategy(size=4),
            num_cpus=0,  # an actor only waits for answers
        )

    `body`: gives the body of the request for a row, a dict; its fields tell the endpoint (chat, responses, embeddings,
    completions or moderations). `options`: those of `ThrottledAsyncOpenAI`; `api_key` is taken from the environment
    of the actors unless it is given. `response`: the server's answer, as JSON. `error`: why there is none; a row that
    fails does not end the job.

    Each actor has the limits for itself unless they share them, with `shared=`. Ray sends a batch again whose actor
    has died, so some calls of it may be made twice.
    """

    def __init__(self, body: Callable[[dict[str, Any]], Body], **options: Any) -> None:
        self._body = body
        self._client = ThrottledAsyncOpenAI(**options)
        self._calls = RawCalls(self._client)

    async def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch with its answers. Ray runs several of these at a time, on one event loop."""
        rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
        answers = await asyncio.gather(*map(self._answer, rows))
        return {**batch, "response": [each for each, _ in answers], "error": [each for _, each in answers]}

    async def _answer(self, row: dict[str, Any]) -> tuple[str | None, str | None]:
        """The answer, or the error."""
        try:
            content = json.dumps(self._body(row), default=_plain).encode()
            body = json.loads(content)
            answer = await self._calls.post(guessed_path(body), content, body)
        except Exception as error:  # noqa: BLE001  # also of `body`: it costs one row, not the job
            return None, f"{type(error).__name__}: {' '.join(str(error).split())}"[:_LONGEST]
        text = answer.content.decode("utf-8", "replace")
        if 200 <= answer.status < 300:
            return text, None
        said = parse_error_body(answer.content)
        return None, " ".join(f"{answer.status} {said.code or ''} {said.message}".split())[:_LONGEST]


def _plain(value: Any) -> Any:
    """A value of NumPy as one of Python."""
    return value.tolist()
