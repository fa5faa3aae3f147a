"""Async code and its blocking twin are the same, except for the differences listed here."""

import ast
import difflib

import pytest

from structure import PACKAGE

# What a name of async code is called in blocking code.
BLOCKING = {
    "AsyncAzureOpenAI": "AzureOpenAI",
    "AsyncByteStream": "SyncByteStream",
    "AsyncIterator": "Iterator",
    "AsyncRetrying": "Retrying",
    "AsyncThrottledMixin": "ThrottledMixin",
    "Permit": "PostedPermit",
    "StopAsyncIteration": "StopIteration",
    "__aiter__": "__iter__",
    "__anext__": "__next__",
    "aclose": "close",
    "aread": "read",
    "AsyncClient": "Client",
}
CALLED_BY_FUNCTION = {"__iter__": "iter", "__next__": "next"}


class Blocking(ast.NodeTransformer):
    """Turns async code into blocking code: without `async` and `await`, and with the blocking names."""

    def visit_AsyncFunctionDef(self, node):
        return self.visit_FunctionDef(ast.FunctionDef(**{name: getattr(node, name, None) for name in node._fields}))

    def visit_FunctionDef(self, node):
        if ast.get_docstring(node) is not None:
            node.body = node.body[1:]
        node.name = BLOCKING.get(node.name, node.name)
        return self.generic_visit(node)

    def visit_ClassDef(self, node):
        if ast.get_docstring(node) is not None:
            node.body = node.body[1:]
        return self.generic_visit(node)

    def visit_Await(self, node):
        return self.visit(node.value)

    def visit_Name(self, node):
        node.id = BLOCKING.get(node.id, node.id)
        return node

    def visit_Attribute(self, node):
        node.attr = BLOCKING.get(node.attr, node.attr)
        return self.generic_visit(node)

    def visit_Subscript(self, node):
        if isinstance(node.value, ast.Name) and node.value.id == "Awaitable":
            return self.visit(node.slice)
        return self.generic_visit(node)

    def visit_BinOp(self, node):
        node = self.generic_visit(node)
        return node.left if ast.dump(node.left) == ast.dump(node.right) else node  # `str | Awaitable[str]`

    def visit_Call(self, node):
        node = self.generic_visit(node)
        name = getattr(node.func, "attr", None)
        if name in CALLED_BY_FUNCTION:
            return ast.Call(ast.Name(CALLED_BY_FUNCTION[name]), [node.func.value], [])
        return node


def find(path, name):
    """The definition `name`, such as `ThrottledMixin.request`, at any depth of conditions."""
    found = ast.parse((PACKAGE / path).read_text(encoding="utf-8"))
    for part in name.split("."):
        found = next(node for node in ast.walk(found) if getattr(node, "name", None) == part)
    return found


def differences(ours, blocking):
    """Lines that only the async code has, with `-`, and those that only the blocking code has, with `+`."""
    before, after = (ast.unparse(ast.fix_missing_locations(Blocking().visit(find(*each)))) for each in (ours, blocking))
    lines = difflib.unified_diff(_lines(before), _lines(after), n=0, lineterm="")
    return [f"{line[0]} {line[1:].strip()}" for line in lines if line[:3] not in ("---", "+++") and line[0] != "@"]


def _lines(source):
    """The lines of a source, with each parameter of a function on a line of its own."""
    return [
        part
        for line in source.splitlines()
        for part in (line.replace(", ", "\n") if line.lstrip().startswith("def ") else line).splitlines()
    ]


SENDERS = "_exchange/send.py", "_exchange/send_sync.py"
MIXINS = ("_clients/base.py", "AsyncThrottledMixin"), ("_clients/sync_client.py", "ThrottledMixin")
CLIENTS = "_clients/async_client.py", "_clients/sync_client.py"

SENDER_DIFFERENCES = {
    "send_admitted": [  # HTTP clients, which are async only, send the same request again
        "- renew: Renew | None=None) -> httpx.Response:",
        "+ renew: Renew) -> httpx.Response:",
        "- renewed = request if renew is None else renew()",
        "+ renewed = renew()",
    ],
    "_exchange": [  # only an async SDK client may have a throttled HTTP client below it
        "- request.extensions[ADMITTED] = True",
        "- finally:",
        "- request.extensions.pop(ADMITTED, None)",
    ],
    "SettlingStream": [  # a dropped stream is closed on its event loop, or in a thread
        "- self._loop = home()",
        "+ self._dropped = False",
        "+ if self._dropped:",
        "+ return",
        "- if self.permit.open:",
        "- _drop(self._inner, self.permit, self._loop)",
        "+ self._dropped = self.permit.open",
        "+ _drop(self._inner, self.permit)",
    ],
}
MIXIN_DIFFERENCES = {
    "request": [  # an SDK without hooks is throttled in its HTTP client; the SDK asks for the platform in a thread
        "- if not hooked():",
        "- return super().request(*args, **kwargs)",
        "- if self._platform is None:",
        "- self._platform = known_platform() or platform_from_thread()",
    ],
    "_prepare_options": [],
    "_send_request": [],
    "_renewed": [],
    "_admit": [],
    "_admitted": [
        "- return wait(self._waits(), dispatcher_of(current.throttle).admit(call))",
        "+ return wait_blocking(self._waits(), current.throttle, call)",
    ],
    "close": [],
}


@pytest.mark.parametrize("name", SENDER_DIFFERENCES)
def test_the_senders_differ_only_as_listed(name):
    assert differences(*((path, name) for path in SENDERS)) == SENDER_DIFFERENCES[name]


@pytest.mark.parametrize("name", MIXIN_DIFFERENCES)
def test_the_mixins_differ_only_as_listed(name):
    assert differences(*((path, f"{mixin}.{name}") for path, mixin in MIXINS)) == MIXIN_DIFFERENCES[name]


@pytest.mark.parametrize("kind", ["OpenAI", "AzureOpenAI"])
def test_constructors_take_the_same_arguments(kind):
    names = [f"Throttled{each}{kind}.__init__" for each in ("Async", "")]
    assert differences(*zip(CLIENTS, names, strict=True)) == []
