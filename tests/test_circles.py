"""No circle of imports inside a room, counting imports for the type checker and inside functions too."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HOUSES = {
    "throttled_openai.simulator": ROOT / "src/throttled_openai/simulator",
    "throttled_openai.batch": ROOT / "src/throttled_openai/batch",
    "throttled_openai._commands.bench": ROOT / "src/throttled_openai/_commands/bench",
    "throttled_openai._commands.demo": ROOT / "src/throttled_openai/_commands/demo",
    "throttled_openai._protocol": ROOT / "src/throttled_openai/_protocol",
    "throttled_openai._pool": ROOT / "src/throttled_openai/_pool",
    "comparison": ROOT / "benchmarks/comparison",
}


def modules(name, folder):
    """The files of a package by their dotted names."""
    for path in folder.rglob("*.py"):
        parts = [name, *path.relative_to(folder).with_suffix("").parts]
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imported(name, path):
    """Every dotted name that a file imports, anywhere in it."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            prefix = ".".join([*base, *filter(None, [node.module])])
            yield prefix
            yield from (f"{prefix}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("house", HOUSES)
def test_no_file_imports_itself_in_a_circle(house):
    files = dict(modules(house, HOUSES[house]))
    # A package runs before its modules, so naming it in an import of one of them is no arrow of its own.
    graph = {
        name: {other for other in imported(name, path) if other in files and other not in {name, house}}
        for name, path in files.items()
    }
    assert len(graph) > 1
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle
