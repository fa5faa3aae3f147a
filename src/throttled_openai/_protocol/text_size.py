"""Text size: UTF-8 bytes of the text in a request, and tokens of its parts that are not text."""

from collections.abc import Mapping
from typing import Final, NamedTuple

from .fields import field, fields_of, items_of

# OpenAI charges this for an image of any size. It is also our price for a part that cannot be read: sound, a file,
# an iterator, which reading would consume.
OPAQUE_TOKENS: Final = 765

# No real body has more values. The bound ends the walk over a list that contains itself.
_MOST_VALUES: Final = 200_000

# The fields in which messages, items and their parts keep text. OpenAI's estimate at admission leaves out the calls
# of tools; they are real tokens nevertheless.
TEXT: Final = frozenset({"content", "text", "refusal", "output", "arguments", "thinking"})
ALL_TEXT: Final = TEXT | {"tool_calls", "function", "custom", "name"}
# An object with any of these fields is a message, an item or a part.
_PART: Final = frozenset({"content", "text", "type"})


class TextSize(NamedTuple):
    """`size`: UTF-8 bytes of text. `tokens`: of all that is not text. `whole`: everything could be read."""

    size: int
    tokens: int
    whole: bool


def measure(content: object, names: frozenset[str] = TEXT, *, items: bool = False) -> TextSize:
    """The size of `content`, which keeps its text in the fields `names`.

    `items`: `content` is a list of messages, or of items of the Responses API, some of which have no text at all.
    """
    walk = _Walk(names)
    walk.stack.append(content if items or not isinstance(content, (list, tuple)) else _Parts(content))
    while walk.stack and walk.left > 0:
        walk.read(walk.stack.pop())
    return TextSize(walk.size, walk.tokens + OPAQUE_TOKENS * walk.opaque, not walk.opaque and walk.left > 0)


def schema_size(body: object) -> int:
    """UTF-8 bytes of the names, descriptions and schemas of functions: about what the model reads of them."""
    functions = [
        *items_of(field(body, "functions")),
        *(field(tool, "function") or tool for tool in items_of(field(body, "tools"))),
    ]
    size = 0
    left = _MOST_VALUES
    stack = [field(function, name) for function in functions for name in ("name", "description", "parameters")]
    while stack and left > 0:
        value = stack.pop()
        if isinstance(value, str):
            size += _utf8_bytes(value)
        elif isinstance(value, dict):
            left -= 1 + 2 * len(value)
            if left > 0:
                stack += value
                stack += value.values()
        elif isinstance(value, (list, tuple)):
            left -= 1 + len(value)
            if left > 0:
                stack += value
    return size


class _Parts(list[object]):
    """The list in a text field: its elements are parts, rather than messages or items."""


class _Walk:
    """A walk through strings, lists, messages and their parts.

    Without recursion, because the sender chooses the depth. It never reads an iterator, which that would consume. A
    part without any text field counts as opaque whatever its type: providers have `video_url`, `audio_url`,
    `image_embeds` and more.
    """

    __slots__ = ("left", "names", "opaque", "size", "stack", "tokens")

    def __init__(self, names: frozenset[str]) -> None:
        self.names = names
        self.size = self.tokens = self.opaque = 0
        self.left = _MOST_VALUES
        self.stack: list[object] = []

    def read(self, value: object) -> None:
        if isinstance(value, str):
            self.size += _utf8_bytes(value)
        elif isinstance(value, (list, tuple)):
            self._read_list(value)
        elif value is not None and not isinstance(value, (int, float)):
            fields = value if isinstance(value, dict) else _part_fields(value)
            if fields is None:
                self.opaque += 1
            else:
                self._read_fields(fields)

    def _read_list(self, values: list[object] | tuple[object, ...]) -> None:
        if values and isinstance(values[0], int):  # a prompt that is already tokens
            self.tokens += len(values)
            return
        self.left -= len(values)
        if self.left <= 0:
            return
        if type(values) is _Parts:
            for part in values:
                self._read_part(part)
        else:
            self.stack += values

    def _read_part(self, part: object) -> None:
        if isinstance(part, str):
            self.size += len(part) if part.isascii() else _utf8_bytes(part)
        elif isinstance(part, (list, tuple)):
            self.stack.append(part if part and isinstance(part[0], int) else _Parts(part))
        elif isinstance(part, dict):
            if part and self.names.isdisjoint(part):
                self.opaque += 1
            else:
                self.stack.append(part)
        elif part is not None and not isinstance(part, (int, float)):
            fields = _part_fields(part)
            if fields is None or self.names.isdisjoint(fields):
                self.opaque += 1
            else:
                self.stack.append(fields)

    def _read_fields(self, fields: dict[str, object]) -> None:
        self.left -= 1 + len(fields)
        if self.left <= 0:
            return
        for name, part in fields.items():
            if name in self.names:
                if isinstance(part, str) and part.isascii():  # most are
                    self.size += len(part)
                elif isinstance(part, (list, tuple)):
                    self.stack.append(_Parts(part))
                else:
                    self.stack.append(_Parts((part,)) if isinstance(part, dict) else part)


def _part_fields(value: object) -> dict[str, object] | None:
    """Fields of a message, item or part that is not a dict, such as one of the SDK's models; None for anything else."""
    fields = getattr(value, "__dict__", None)  # pydantic needs 3 us to find that a field does not exist
    if isinstance(fields, dict) and not _PART.isdisjoint(fields):
        return fields
    if isinstance(value, Mapping) or hasattr(value, "content") or hasattr(value, "text"):
        get = fields_of(value)
        return {name: part for name in ("type", *ALL_TEXT) if (part := get(name)) is not None}
    return None


def _utf8_bytes(text: str) -> int:
    # An ASCII string knows that it is one and is not copied. Others are encoded a slice at a time, because a
    # megabyte at once costs twice as much. A lone surrogate counts its three bytes: the SDK refuses it later.
    if text.isascii():
        return len(text)
    slices = (text[start : start + 8192] for start in range(0, len(text), 8192))
    return sum(len(part.encode("utf-8", "surrogatepass")) for part in slices)
