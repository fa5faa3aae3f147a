"""The store behind the endpoints that are not metered: models, files, batches, stored responses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

from .._requests.fields import BadRequestError
from .._requests.form import multipart
from .._wording.dates import EPOCH
from .batches import Batch, advance, cancel, new_batch

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .batches import AnswerLine

Json = dict[str, Any]
_T = TypeVar("_T")

_KEPT: Final = 1000
# Bytes of all files. The content of the oldest goes first, their records stay.
_KEPT_BYTES: Final = 256 * 1024 * 1024
_KNOWN_MODELS: Final = ("gpt-4o", "gpt-4o-mini", "gpt-5-mini", "text-embedding-3-small", "omni-moderation-latest")


class Store:
    """Files, batches and responses by id, the latest 1,000 of each."""

    def __init__(self) -> None:
        self._files: dict[str, Json] = {}
        self._contents: dict[str, bytes] = {}
        self._bytes = 0
        self._made = 0
        self._begun = 0
        self._batches: dict[str, Batch] = {}
        self._responses: dict[str, Json] = {}
        self._inputs: dict[str, list[Json]] = {}

    def keep_response(self, response: Json, given: object) -> None:
        """Keep a response, and the input that it was `given`."""
        _keep(self._responses, response["id"], response)
        _keep(self._inputs, response["id"], _input_items(response["id"], given))

    def keep_file(self, content_type: str, body: bytes, now: float) -> Json:
        """Keep a multipart upload."""
        parts = multipart(content_type, body)
        if "file" not in parts:
            raise BadRequestError("Missing required parameter: 'file'.", "file")
        filename, content = parts["file"]
        return self.add_file(
            filename, content, parts.get("purpose", ("", b"user_data"))[1].decode("utf-8", "replace"), now
        )

    def add_file(self, filename: str, content: bytes, purpose: str, now: float) -> Json:
        file: Json = {
            "id": f"file-{self._made:024x}",
            "object": "file",
            "bytes": len(content),
            "created_at": EPOCH + int(now),
            "filename": filename,
            "purpose": purpose,
            "status": "processed",
        }
        self._made += 1
        _keep(self._files, file["id"], file)
        self._contents[file["id"]] = content
        self._bytes += len(content)
        while self._bytes > _KEPT_BYTES or len(self._contents) > _KEPT:
            self._bytes -= len(self._contents.pop(next(iter(self._contents))))
        return file

    def content(self, file_id: str) -> bytes | None:
        return self._contents.get(file_id)

    def start_batch(self, body: Json, now: float, latency: float) -> Json:
        content = self._contents.get(str(body.get("input_file_id")))
        if body.get("input_file_id") is not None and content is None:
            raise BadRequestError(f"No such File object: {body['input_file_id']!s:.60}", "input_file_id")
        batch = new_batch(body, self._begun, content or b"", now, latency)
        self._begun += 1
        _keep(self._batches, batch.body["id"], batch)
        return batch.body

    def cancel_batch(self, name: str, now: float) -> Json | None:
        batch = self._batches.get(name)
        return None if batch is None else cancel(batch, now)

    def find(
        self, path: str, query: Mapping[str, str], models: Iterable[str], answer: AnswerLine, now: float
    ) -> Json | None:
        """The answer to a GET below /v1; None: not found."""
        kind, _, name = path.partition("/")
        found: Json | None
        match kind, name:
            case "models", "":
                found = _listed([_model(model) for model in dict.fromkeys((*_KNOWN_MODELS, *models))])
            case "models", _:
                found = _model(name)
            case "files", "":
                files = [file for file in self._files.values() if query.get("purpose") in {None, file["purpose"]}]
                found = _page(files, query, usual=10_000)
            case "files", _:
                found = self._files.get(name)
            case "batches", "":
                batches = [advance(batch, self.add_file, answer, now) for batch in reversed(self._batches.values())]
                found = _page(batches, query, usual=20)
            case "batches", _:
                batch = self._batches.get(name)
                found = None if batch is None else advance(batch, self.add_file, answer, now)
            case "responses", _ if name.endswith("/input_items"):
                items = self._inputs.get(name.removesuffix("/input_items"))
                found = None if items is None else _page(items, query, usual=20)
            case "responses", _:
                found = self._responses.get(name)
            case _:
                found = None
        return found

    def delete(self, path: str) -> Json | None:
        kind, _, name = path.partition("/")
        if kind == "files" and self._files.pop(name, None) is not None:
            self._bytes -= len(self._contents.pop(name, b""))
            return {"id": name, "object": "file", "deleted": True}
        if kind == "responses" and self._responses.pop(name, None) is not None:
            self._inputs.pop(name, None)
            return {"id": name, "object": "response", "deleted": True}
        return None


def _keep(store: dict[str, _T], name: str, item: _T) -> None:
    store[name] = item
    if len(store) > _KEPT:
        del store[next(iter(store))]


def _listed(items: list[Json]) -> Json:
    return {"object": "list", "data": items}


def _page(items: list[Json], query: Mapping[str, str], *, usual: int) -> Json:
    """The part of a list that a request asks for: `limit` items behind the one that `after` names."""
    names = [item["id"] for item in items]
    after = query.get("after")
    start = names.index(after) + 1 if after in names else 0
    limit = query.get("limit", "")
    count = max(1, min(int(limit), usual)) if limit.isdecimal() and len(limit) < 9 else usual
    return {**_listed(items[start : start + count]), "has_more": start + count < len(items)}


def _model(name: str) -> Json:
    return {"id": name, "object": "model", "created": EPOCH, "owned_by": "simulator"}


def _input_items(response_id: str, given: object) -> list[Json]:
    """The input of a response as items with ids, newest first."""
    if isinstance(given, str):
        given = [{"type": "message", "role": "user", "content": given}]
    items = []
    for number, item in enumerate(given if isinstance(given, list) else ()):
        if not isinstance(item, dict):
            continue
        said: Json = {"type": "message", "status": "completed"} if item.get("type") in {None, "message"} else {}
        if isinstance(item.get("content"), str):
            said |= {"content": [{"type": "input_text", "text": item["content"]}]}
        items.append({"id": f"item_{response_id[5:]}_{number}", **item, **said})
    return items[::-1]
