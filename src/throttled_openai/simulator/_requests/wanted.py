"""What a request wants besides prose: JSON that fits a schema, or the call of a tool."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from .example import example
from .fields import BadRequestError

_INPUT: Final = "some text"  # of a tool that takes any text


@dataclass(frozen=True, slots=True)
class Wanted:
    """The content of the answer: `text`, or the call of `tool` with it as arguments."""

    text: str
    tool: str | None = None
    custom: bool = False
    # The request left no choice but this tool.
    forced: bool = False

    @property
    def tokens(self) -> int:
        return max(1, -(-len(self.text) // 4))


def wanted(endpoint: str, body: dict[str, Any]) -> Wanted | None:
    """None: prose. Raises `BadRequestError` for a schema or choice of tools that cannot be fulfilled."""
    if endpoint not in {"chat/completions", "responses"}:
        return None
    return _tool(endpoint, body) or _format(endpoint, body)


def _tool(endpoint: str, body: dict[str, Any]) -> Wanted | None:
    tools = [_callable(tool) for tool in body.get("tools") or ()]
    offered = {tool.tool: tool for tool in tools if tool is not None and tool.tool is not None}
    choice = body.get("tool_choice")
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        allowed = choice.get("allowed_tools", choice)
        allowed = allowed if isinstance(allowed, dict) else {}
        named = [_name(tool) for tool in allowed.get("tools") or ()] if isinstance(allowed.get("tools"), list) else []
        offered = {name: tool for name, tool in offered.items() if name in named}
        choice = allowed.get("mode")
    if isinstance(choice, dict):
        name = _name(choice)
        if name is None:  # a tool that OpenAI runs itself
            return None
        if name not in offered:
            raise BadRequestError(f"Tool choice '{name}' not found in 'tools' parameter.", "tool_choice")
        return Wanted(offered[name].text, name, offered[name].custom, forced=True)
    if choice == "none" or not offered or (choice != "required" and _told(endpoint, body)):
        return None
    return next(iter(offered.values()))


def _callable(tool: dict[str, Any]) -> Wanted | None:
    """The call of this tool; None for one that OpenAI runs itself."""
    kind, name = tool.get("type"), _name(tool)
    if name is None or (kind != "function" and kind != "custom"):  # noqa: PLR1714  # it may be of any type
        return None
    if kind == "custom":
        return Wanted(_INPUT, name, custom=True)
    function = tool.get("function")
    schema = (function if isinstance(function, dict) else tool).get("parameters")
    found = example(schema, f"tools.{name}") if schema else {}
    return Wanted(_encoded(found if isinstance(found, dict) else {}), name)


def _name(tool: object) -> str | None:
    """The name of a tool, which chat has in an inner object."""
    if not isinstance(tool, dict):
        return None
    inner = tool.get(str(tool.get("type")))
    name = (inner if isinstance(inner, dict) else tool).get("name")
    return name if isinstance(name, str) else None


def _told(endpoint: str, body: dict[str, Any]) -> bool:
    """Whether the last message is what a tool found: then a model answers."""
    items = body["messages" if endpoint == "chat/completions" else "input"]
    last = items[-1] if isinstance(items, list) and items else None
    if not isinstance(last, dict):
        return False
    return last.get("role") == "tool" or last.get("type") in {"function_call_output", "custom_tool_call_output"}


def _format(endpoint: str, body: dict[str, Any]) -> Wanted | None:
    text = body.get("text")
    given = (
        body.get("response_format") if endpoint == "chat/completions" else isinstance(text, dict) and text.get("format")
    )
    if not isinstance(given, dict):
        return None
    name = "response_format" if endpoint == "chat/completions" else "text.format"
    match given.get("type"):
        case "json_object":
            return Wanted(_encoded({"answer": _INPUT}))
        case "json_schema":
            inner = given.get("json_schema") if endpoint == "chat/completions" else given
            schema = inner.get("schema") if isinstance(inner, dict) else None
            if not isinstance(schema, dict):
                raise BadRequestError(f"Missing required parameter: '{name}.schema'.", name)
            return Wanted(_encoded(example(schema, name)))
        case _:
            return None


def _encoded(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
