"""The store behind the endpoints that are not metered: models, files, stored responses."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from .._requests.fields import BadRequestError
from .._wording.dates import EPOCH

if TYPE_CHECKING:
    from collections.abc import Iterable

Json = dict[str, Any]

_KEPT: Final = 1000
# The most parts of a form that are read.
_MOST_PARTS: Final = 100
_KNOWN_MODELS: Final = ("gpt-4o", "gpt-4o-mini", "gpt-5-mini", "text-embedding-3-small", "omni-moderation-latest")


class Store:
    """Files and responses by id, the latest 1,000 of each."""

    def __init__(self) -> None:
        self._files: dict[str, Json] = {}
        self._responses: dict[str, Json] = {}

    def keep_response(self, response: Json) -> None:
        _keep(self._responses, response)

    def keep_file(self, content_type: str, body: bytes, now: float) -> Json:
        """Record a multipart upload; its content is not kept."""
        parts = _multipart(content_type, body)
        if "file" not in parts:
            raise BadRequestError("Missing required parameter: 'file'.", "file")
        filename, content = parts["file"]
        file = {
            "id": f"file-{len(self._files):024x}",
            "object": "file",
            "bytes": len(content),
            "created_at": EPOCH + int(now),
            "filename": filename,
            "purpose": parts.get("purpose", ("", b"user_data"))[1].decode("utf-8", "replace"),
            "status": "processed",
        }
        _keep(self._files, file)
        return file

    def find(self, path: str, models: Iterable[str]) -> Json | None:
        """The answer to a GET below /v1; None: not found."""
        kind, _, name = path.partition("/")
        match kind, name:
            case "models", "":
                return _listed([_model(model) for model in dict.fromkeys((*_KNOWN_MODELS, *models))])
            case "models", _:
                return _model(name)
            case "files", "":
                return {**_listed(list(self._files.values())), "has_more": False}
            case "responses", _:
                return self._responses.get(name)
            case _:
                return None

    def delete(self, path: str) -> Json | None:
        kind, _, name = path.partition("/")
        if kind != "responses" or self._responses.pop(name, None) is None:
            return None
        return {"id": name, "object": "response", "deleted": True}


def _keep(store: dict[str, Json], item: Json) -> None:
    store[item["id"]] = item
    if len(store) > _KEPT:
        del store[next(iter(store))]


def _listed(items: list[Json]) -> Json:
    return {"object": "list", "data": items}


def _model(name: str) -> Json:
    return {"id": name, "object": "model", "created": EPOCH, "owned_by": "simulator"}


def _multipart(content_type: str, body: bytes) -> dict[str, tuple[str, bytes]]:
    """Return the file name and content of each part, by field name."""
    boundary = re.search(r'boundary="?([^";]+)', content_type)
    if boundary is None:
        raise BadRequestError("Expected a multipart/form-data body.")
    parts = {}
    for chunk in body.split(b"--" + boundary[1].encode("utf-8", "replace"), _MOST_PARTS)[1:-1]:
        head, _, content = chunk.partition(b"\r\n\r\n")
        # After a separator only: `filename="..."` ends in the same letters.
        name = re.search(rb'[;\s]name="([^"]*)"', head)
        filename = re.search(rb'[;\s]filename="([^"]*)"', head)
        if name is not None:
            given = filename[1].decode("utf-8", "replace") if filename is not None else ""
            parts[name[1].decode("utf-8", "replace")] = (given, content.removesuffix(b"\r\n"))
    return parts
