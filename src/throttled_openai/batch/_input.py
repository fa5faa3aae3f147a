"""The input of a run: which kind of file it is, and how each of its records becomes a request."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from ._prompts import Prompts
from ._request import LONGEST, BadLineError, Request, is_batch_line, read_body, read_request, text_of
from ._source import STDIN, InputError, chunks, columns, opened, suffix_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ._source import Record

Kind = Literal["batch", "bodies", "text", "csv", "parquet"]
KINDS: Final = get_args(Kind)
_BY_SUFFIX: Final[dict[str, Kind]] = {
    ".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".txt": "text", ".text": "text", ".md": "text",
}  # fmt: skip
# The first lines, from which batch lines and bodies are distinguished.
_LOOKED_AT: Final = 100


@dataclass(frozen=True, slots=True)
class InputOptions:
    """The options that describe an input. `body`: fields added to every request body."""

    kind: Kind | None = None
    path: str | None = None
    model: str | None = None
    system: str | None = None
    template: str | None = None
    column: str | None = None
    id_column: str | None = None
    body: Mapping[str, Any] = field(default_factory=dict)


class Input:
    """The requests of one input. Raises `ValueError` if `asked` does not fit it, and `InputError`."""

    def __init__(self, name: str, asked: InputOptions) -> None:
        self.name = name
        self.asked = asked
        self.kind: Kind = asked.kind or _BY_SUFFIX.get(suffix_of(name)) or _kind_of_lines(name)
        self._changes = dict(asked.body)
        self._prompts: Prompts | None = None
        if self.kind in {"batch", "bodies"}:
            for option in ("system", "template", "column", "id_column"):
                if getattr(asked, option) is not None:
                    raise ValueError(f"--{option.replace('_', '-')} is for texts and tables, and these are requests")
            if self.kind == "batch" and asked.path is not None:
                raise ValueError("--url is for inputs whose lines have none")
            if asked.model is not None:
                self._changes["model"] = asked.model
        else:
            self._prompts = self._made_prompts()

    @property
    def is_stream(self) -> bool:
        """Whether it can be read only once."""
        return self.name == STDIN

    @property
    def settings(self) -> dict[str, Any]:
        """The options that, with the content of the file, determine the requests."""
        options = {name: value for name, value in dataclasses.asdict(self.asked).items() if value not in (None, {})}
        return {**options, "kind": self.kind}

    def chunks(self) -> Iterator[list[Record]]:
        return chunks(self.name, self.kind)

    def request(self, record: Record) -> Request | None:
        """The request of a record; None for a blank line. Raises `BadLineError`."""
        line, payload = record
        if payload is None:
            raise BadLineError("too_long", f"is longer than {LONGEST // 1024**2} MB")
        if isinstance(payload, dict):
            assert self._prompts is not None
            return self._prompts.of_row(payload, line)
        if not payload or payload.isspace():
            return None
        if self.kind == "batch":
            return read_request(payload, line, self._changes)
        if self.kind == "bodies":
            return read_body(payload, line, self.asked.path, self._changes)
        assert self._prompts is not None
        return self._prompts.of_text(text_of(payload), line)

    def _made_prompts(self) -> Prompts:
        asked = self.asked
        if asked.model is None:
            raise ValueError("texts and tables need --model")
        made = Prompts(
            asked.model, asked.path or "/chat/completions", asked.template, asked.system, asked.column,
            asked.id_column, asked.body,
        )  # fmt: skip
        if self.kind != "text" and self.is_stream:
            raise ValueError("a table cannot come from standard input")
        if self.kind != "text":
            return made.with_columns(columns(self.name, self.kind))
        if asked.column is not None or asked.id_column is not None:
            raise ValueError("--column is for tables, and this is text; --format says otherwise")
        unknown = made.used() - {"text"}
        if unknown:
            raise ValueError(f"the template has {{{min(unknown)}}}; a line of text is {{text}}")
        return made


def _kind_of_lines(name: str) -> Kind:
    """The kind of the first line that is either a batch line or a body."""
    if name == STDIN:
        return "batch"
    for _, line in itertools.islice(itertools.chain.from_iterable(chunks(name, "batch")), _LOOKED_AT):
        found = is_batch_line(line) if isinstance(line, bytes) else None
        if found is not None:
            return "batch" if found else "bodies"
    return "batch"


__all__ = ["KINDS", "Input", "InputError", "InputOptions", "Kind", "opened"]
