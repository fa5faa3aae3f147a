"""The prompts: requests made from texts or table rows, with one model and one template for all."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from ._request import BadLineError, Request, checked_body, dumped

if TYPE_CHECKING:
    from collections.abc import Mapping

_NAME: Final = re.compile(r"\{\{|\}\}|\{(\w[\w .-]*)\}")
# Names of columns that are used as the text if the user names no column.
_USUAL: Final = ("prompt", "text", "input", "question", "content")
TEXT: Final = "text"


@dataclass(frozen=True, slots=True)
class Prompts:
    """Makes requests. `template`: a text with `{text}` or `{column}` in it. `more`: further fields of each body."""

    model: str
    path: str = "/chat/completions"
    template: str | None = None
    system: str | None = None
    column: str | None = None
    id_column: str | None = None
    more: Mapping[str, Any] = field(default_factory=dict)

    def of_text(self, text: str, line: int) -> Request:
        return self._request(line, {TEXT: text}, f"line-{line}")

    def of_row(self, row: Mapping[str, str], line: int) -> Request:
        custom_id = row.get(self.id_column or "custom_id") or f"line-{line}"
        fields = row if self.column is None else {**row, TEXT: row.get(self.column, "")}
        return self._request(line, fields, custom_id)

    def with_columns(self, names: list[str]) -> Prompts:
        """The same for a table with the columns `names`. Raises `ValueError` if a column is missing."""
        known = ", ".join(map(repr, names))
        column = self.column
        for asked in (column, self.id_column):
            if asked is not None and asked not in names:
                raise ValueError(f"there is no column {asked!r}; the columns are {known}")
        used = self.used()
        if column is None and (self.template is None or TEXT in used - set(names)):
            usual = [name for name in names if name.lower() in _USUAL]
            column = names[0] if len(names) == 1 else (usual[0] if len(usual) == 1 else None)
            if column is None:
                raise ValueError(f"name the column of the texts with --column; the columns are {known}")
        missing = used - {*names, TEXT}
        if missing:
            raise ValueError(f"the template has {{{min(missing)}}}, which is no column; the columns are {known}")
        made: Any = {name: getattr(self, name) for name in ("model", "path", "template", "system", "id_column", "more")}
        return Prompts(**made, column=column)

    def used(self) -> set[str]:
        """Names in braces in the template."""
        return {match[1] for match in _NAME.finditer(self.template or "") if match[1]}

    def _request(self, line: int, fields: Mapping[str, str], custom_id: str) -> Request:
        text = fields.get(TEXT, "") if self.template is None else self._filled(fields)
        try:
            text.encode()
            custom_id.encode()
        except UnicodeEncodeError:
            raise BadLineError("invalid_utf8", "is not UTF-8") from None
        if not text.strip():
            raise BadLineError("empty", "has no text")
        body = {"model": self.model, **self._asked(text), **self.more}
        checked_body(body)
        return Request(line, custom_id, self.path, dumped(body), body)

    def _filled(self, fields: Mapping[str, str]) -> str:
        def fill(match: re.Match[str]) -> str:
            return fields.get(match[1], match[0]) if match[1] else match[0][0]

        assert self.template is not None
        return _NAME.sub(fill, self.template)

    def _asked(self, text: str) -> dict[str, Any]:
        if self.path == "/chat/completions":
            system = [] if self.system is None else [{"role": "system", "content": self.system}]
            return {"messages": [*system, {"role": "user", "content": text}]}
        if self.path == "/completions":
            return {"prompt": text}
        if self.path == "/responses" and self.system is not None:
            return {"instructions": self.system, "input": text}
        return {"input": text}
