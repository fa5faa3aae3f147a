"""Forms: the fields and files of a multipart body."""

from __future__ import annotations

import re
from typing import Any, Final

from .fields import BadRequestError

# The most parts of a form that are read.
_MOST_PARTS: Final = 100
_SWITCHES: Final = {"true": True, "false": False}


def multipart(content_type: str, body: bytes) -> dict[str, tuple[str, bytes]]:
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


def form_fields(content_type: str, body: bytes) -> dict[str, Any]:
    """The fields as JSON would have them: numbers and switches are such, and files are their size in bytes."""
    fields: dict[str, Any] = {}
    for name, (filename, content) in multipart(content_type, body).items():
        key = name.removesuffix("[]")
        if filename:
            fields[key] = len(content)
            continue
        text = content.decode("utf-8", "replace")
        whole = int(text) if re.fullmatch(r"\d{1,9}", text) else None
        fields[key] = whole if key == "n" and whole is not None else _SWITCHES.get(text, text)
    return fields
