"""No circle of imports between files: at run time, for the type checker only, or inside functions."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOUSES = {
    "throttled_openai": ROOT / "src/throttled_openai",
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


def graph_of(house):
    """Which files of a package each of its files imports."""
    files = dict(modules(house, HOUSES[house]))
    # A package runs before its modules: naming it in an import of one of them is no arrow of its own.
    return {
        name: {other for other in imported(name, path) if other in files and not f"{name}.".startswith(f"{other}.")}
        for name, path in files.items()
    }


@pytest.mark.parametrize("house", HOUSES)
def test_no_file_imports_itself_in_a_circle(house):
    graph = graph_of(house)
    assert len(graph) > 10
    assert sum(map(len, graph.values())) > len(graph)
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle
