"""Counts the rooms of the library, the imports between them, and the size of `_control`.

`python tests/house/structure.py [FOLDER]` prints the figures of this package, or of one in another folder.
"""

import ast
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "src/throttled_openai"


def modules(name, folder):
    """The files of a package by their dotted names."""
    for path in sorted(folder.rglob("*.py")):
        parts = [name, *path.relative_to(folder).with_suffix("").parts]
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imported(name, path):
    """Every dotted name that a file imports: at run time, for the type checker only, and inside functions."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            prefix = ".".join([*base, *filter(None, [node.module])])
            yield prefix
            yield from (f"{prefix}.{alias.name}" for alias in node.names)


def imports_of(name, folder):
    """Which files of a package each of its files imports."""
    files = dict(modules(name, folder))
    # A package runs before its modules: naming it in an import of one of them is no arrow of its own.
    return {
        file: {other for other in imported(file, path) if other in files and not f"{file}.".startswith(f"{other}.")}
        for file, path in files.items()
    }


def room_of(file):
    """The subpackage or module directly below the package that a file belongs to."""
    parts = file.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def arrows(imports):
    """Which rooms each room imports, from the imports of files."""
    rooms = {room_of(file): set() for file in imports}
    for file, others in imports.items():
        rooms[room_of(file)] |= {room_of(other) for other in others} - {room_of(file)}
    return rooms


def circles(graph):
    """Groups of nodes that reach each other."""
    reach = {node: _reachable(graph, node) for node in graph}
    groups = {frozenset(other for other in reach[node] if node in reach[other]) for node in graph}
    return sorted(map(sorted, filter(None, groups)))


def _reachable(graph, start):
    found, left = set(), [start]
    while left:
        new = graph[left.pop()] - found
        found |= new
        left += new
    return found


def floors(graph):
    """The number of rooms on the longest way along the arrows."""
    depths = {}

    def depth(node):
        if node not in depths:
            depths[node] = 1 + max(map(depth, graph[node]), default=0)
        return depths[node]

    return None if circles(graph) else max(map(depth, graph))


def lines(folder):
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in folder.rglob("*.py"))


def constants(folder):
    """Numbers in capitals at the top of modules, such as `REST: Final = 0.5`, and those inside classes."""
    return [
        f"{path.stem}.{name}"
        for path in sorted(folder.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Assign | ast.AnnAssign) and _is_number(node.value)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if (name := ast.unparse(target)).isidentifier() and name.isupper()
    ]


def _is_number(value):
    """Whether an expression is made of numbers and of other constants only."""
    if isinstance(value, ast.Constant):
        return isinstance(value.value, int | float) and not isinstance(value.value, bool)
    if isinstance(value, ast.Name):
        return value.id.isupper()
    if isinstance(value, ast.UnaryOp):
        return _is_number(value.operand)
    return isinstance(value, ast.BinOp) and _is_number(value.left) and _is_number(value.right)


def main(folder=PACKAGE):
    imports = imports_of("throttled_openai", folder)
    rooms = arrows(imports)
    print(f"{len(rooms)} rooms, {len(imports)} files, {lines(folder):,} lines")
    for room in sorted(rooms):
        path = folder / room
        size = lines(path) if path.is_dir() else len(path.with_suffix(".py").read_text(encoding="utf-8").splitlines())
        print(f"    {room:12} {size:6,} lines  imports {', '.join(sorted(rooms[room])) or 'none'}")
    print(f"{sum(map(len, rooms.values()))} arrows between rooms, {sum(map(len, imports.values()))} between files")
    print(f"{floors(rooms) or 'no'} floors")
    print(f"circles of rooms: {circles(rooms) or 'none'}")
    print(f"circles of files: {circles(imports) or 'none'}")
    for room in ("_control", "_core"):
        if (folder / room).is_dir():
            print(f"{room}: {lines(folder / room):,} lines, {len(constants(folder / room))} constants")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
