"""What is public, and which module may import which."""

import ast
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import pytest

import throttled_openai

PACKAGE = Path(throttled_openai.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# Imports go from the top of this list downwards, never up, also those for the type checker only.
LAYERS = [
    {"__main__"},
    {"_commands"},
    {"__init__"},
    {"batch", "otel"},
    {"_clients"},
    {"_exchange", "_pool"},
    {"_admission"},
    {"errors"},
    {"_control"},
    {"_protocol"},
    {"_seeing"},
    {"simulator", "_limits", "_stats", "_spelling"},
    {"_numbers"},
]
# These may know the SDK and its HTTP libraries; the command line shows the SDK at work.
SEAMS = {"_clients", "_exchange", "_pool", "batch", "errors", "_commands", "__main__"}
FOREIGN = {"openai", "httpx", "httpx2", "httpcore", "httpcore2"}


def layer_of(name):
    found = [rank for rank, names in enumerate(LAYERS) if name in names]
    assert found, f"{name} is new: say in LAYERS what it may import"
    return found[0]


def unit(path):
    """The module or subpackage of ours that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def is_type_checking(node):
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def imports(path, *, run_time=False, inside_functions=True, guarded=True):
    """Absolute names that `path` imports; `run_time`: without those for the type checker only."""
    own = ["throttled_openai", *path.relative_to(PACKAGE).with_suffix("").parts]

    def walk(node):
        if run_time and is_type_checking(node):
            for child in node.orelse:
                yield from walk(child)
            return
        if not guarded and isinstance(node, ast.Try):
            return
        if not inside_functions and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            return
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [*own[: len(own) - node.level], node.module] if node.level else [node.module]
            prefix = ".".join(filter(None, base))
            yield prefix
            yield from (f"{prefix}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            yield from walk(child)

    return set(walk(ast.parse(path.read_text(encoding="utf-8"))))


def our_units(names):
    """Modules of ours among imported names; the package itself where its public names are meant."""
    for name in names:
        top, _, rest = name.partition(".")
        if top == "throttled_openai" and rest:
            first = rest.split(".")[0]
            is_module = (PACKAGE / f"{first}.py").exists() or (PACKAGE / first).is_dir()
            yield first if is_module else "__init__"


# --- public names ---------------------------------------------------------------------------------


def test_all_is_what_is_public():
    for name in throttled_openai.__all__:
        getattr(throttled_openai, name)  # some are imported at their first use
    public = {
        name
        for name, value in vars(throttled_openai).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert public - {"annotations", "TYPE_CHECKING"} == set(throttled_openai.__all__)
    assert len(throttled_openai.__all__) == len(set(throttled_openai.__all__))


def test_every_public_name_can_be_imported_and_says_what_it_is():
    for name in throttled_openai.__all__:
        value = getattr(throttled_openai, name)
        assert value.__doc__, name


def test_the_package_is_marked_as_typed():
    assert (PACKAGE / "py.typed").read_text() == ""
    project = tomllib.loads((PACKAGE.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert "Typing :: Typed" in project["classifiers"]


def test_a_throttle_shows_what_its_users_need_and_nothing_else():
    names = {name for name in dir(throttled_openai.Throttle()) if not name.startswith("_")}
    assert names == {
        *("adjust", "changed", "enforce", "explain", "in_flight", "max_refusals"),
        *("pause", "resume", "stats", "subscribe", "threads", "waiting"),
    }


# --- imports --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    here = unit(path)
    for other in set(our_units(imports(path))) - {here}:
        assert layer_of(here) < layer_of(other), f"{here} imports {other}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_seams_know_the_sdk_and_its_http_libraries(path):
    if unit(path) in SEAMS:
        return
    names = {name.split(".")[0] for name in imports(path)}
    if unit(path) == "simulator":
        # It gives out clients of either library, and imports that one when it is asked for it.
        assert "openai" not in names
        names = {name.split(".")[0] for name in imports(path, run_time=True, inside_functions=False)}
    assert not names & FOREIGN


def test_nothing_a_client_needs_imports_the_simulator():
    importers = {unit(path) for path in FILES if "simulator" in set(our_units(imports(path)))}
    assert importers <= {"_commands", "simulator"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_httpx2_is_not_needed_to_import_a_module(path):
    """The SDK before version 3 comes without it."""
    at_import = imports(path, run_time=True, inside_functions=False, guarded=False)
    assert not {name.split(".")[0] for name in at_import} & {"httpx2", "httpcore2"}


@pytest.mark.parametrize("room", ["_control", "_protocol"])
def test_what_decides_and_what_reads_is_imported_without_the_sdk(room):
    code = (
        "import sys, types\n"
        f"package = types.ModuleType('throttled_openai'); package.__path__ = [{str(PACKAGE)!r}]\n"
        "sys.modules['throttled_openai'] = package\n"
        f"import pkgutil, importlib; room = importlib.import_module('throttled_openai.{room}')\n"
        "for module in pkgutil.iter_modules(room.__path__):\n"
        f"    importlib.import_module(f'throttled_openai.{room}.{{module.name}}')\n"
        "print(sorted({'openai', 'httpx', 'httpx2', 'tenacity'} & set(sys.modules)))\n"
    )
    imported = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert imported.stdout.strip() == "[]"


@pytest.mark.parametrize("room", ["_control", "_protocol"])
def test_what_decides_and_what_reads_never_reads_the_wall_clock(room):
    """Time is an argument, or the loop's clock."""
    for path in (PACKAGE / room).glob("*.py"):
        read = [
            node.attr
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Attribute)
            and (
                (isinstance(node.value, ast.Name) and node.value.id == "time")
                or (isinstance(node.value, ast.Name) and node.value.id == "datetime" and node.attr in ("now", "utcnow"))
            )
        ]
        assert not read, path.name
