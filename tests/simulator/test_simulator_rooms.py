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
    """The modules that a file imports, for the type checker and inside functions too; ours begin with `simulator`."""
    package = ["simulator", *path.relative_to(HOUSE).parent.parts]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level <= len(package), "imports something of the library"
            base = package[: len(package) - node.level + 1] if node.level else []
            yield ".".join([*base, node.module or ""])


def rank(room):
    return next(at for at, rooms in enumerate(ROOMS) if room in rooms)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(HOUSE)))
def test_imports_never_point_to_a_higher_room(path):
    room = path.relative_to(HOUSE).parts[0].removesuffix(".py")
    for name in imports(path):
        if name.startswith("simulator."):
            assert rank(name.split(".")[1]) >= rank(room), name


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(HOUSE)))
def test_it_imports_nothing_of_the_library_it_judges(path):
    # Nor itself by the library's name: the benchmarks import it by itself, where the library is not installed.
    assert not {name.split(".")[0] for name in imports(path)} & {"openai", "throttled_openai"}
