"""The simulator is independent of the library it judges, and its rooms are layers."""

import ast
from pathlib import Path

import pytest

from throttled_openai import simulator

HOUSE = Path(simulator.__file__).parent
FILES = sorted(HOUSE.rglob("*.py"))

# A file may import from its own room and from rooms further down.
ROOMS = [
    {"__main__", "__init__"},
    {"_process"},
    {"_cli"},
    {"_simulator"},
    {"_carriers"},
    {"_server"},
    {"_gate", "_backend"},
    {"_answers"},
    {"_wording"},
    {"_quotas"},
    {"_requests"},
    {"_network"},
    {"_settings", "_fault", "_log", "_clock"},
]


def imports(path):
    """Absolute names of the modules that a file imports, for the type checker and inside functions too."""
    package = ["throttled_openai", "simulator", *path.relative_to(HOUSE).parent.parts]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            yield ".".join([*base, node.module or ""])


def rank(room):
    return next(at for at, rooms in enumerate(ROOMS) if room in rooms)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(HOUSE)))
def test_imports_never_point_to_a_higher_room(path):
    room = path.relative_to(HOUSE).parts[0].removesuffix(".py")
    for name in imports(path):
        if name.startswith("throttled_openai.simulator."):
            assert rank(name.split(".")[2]) >= rank(room), name


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(HOUSE)))
def test_it_imports_nothing_of_the_library_it_judges(path):
    for name in imports(path):
        assert name.split(".")[0] != "openai", name
        assert not name.startswith("throttled_openai") or name.startswith("throttled_openai.simulator"), name
