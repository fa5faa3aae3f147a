"""Runs the recipes, each with the newest release of its library, in environments made for them.

    python tests/recipes/run.py [--folder .venv-recipes] [litellm dspy ...]

An environment is kept until what it is made of changes; delete the folder to have newer releases.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import distributions
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent.parent

# By environment: each recipe and the package it is for. As few as the packages' own pins allow.
ENVIRONMENTS = {
    "newest": {
        "langchain": "langchain-openai",
        "pydantic_ai": "pydantic-ai-slim[openai]",
        "openai_agents": "openai-agents",
        "haystack": "haystack-ai",
    },
    # LlamaIndex wants openai<3, as did LiteLLM until 1.109, which DSPy needs too. Instructor wants
    # jiter<0.15, which openai does not take since 3.4.
    "older": {
        "llama_index": "llama-index-llms-openai",
        "litellm": "litellm",
        "dspy": "dspy",
        "instructor": "instructor",
    },
    "celery": {"celery": "celery"},
    "ray": {"ray": "ray[data]"},
}
# Only run by name: 630 MB to install.
LARGE = {"ray"}

# Seconds. A recipe takes some five and its imports up to ten, on a machine that does nothing else.
PATIENCE = 300

# What a warning or a traceback of ours has in its path.
OURS = str(Path("src", "throttled_openai"))
# A socket that a library leaves open is reported at the line that happens to run when it is collected.
WHEREVER = re.compile(r"^.*ResourceWarning: unclosed <socket\.socket .*\n(?:  .*\n)?", re.MULTILINE)

# The libraries', so that they fetch and report nothing.
SILENCE = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "HAYSTACK_TELEMETRY_ENABLED": "False", "HF_HUB_OFFLINE": "1"}


def main():
    known = [recipe for recipes in ENVIRONMENTS.values() for recipe in recipes]
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "recipes", nargs="*", metavar="RECIPE", help=f"one of {', '.join(known)}; default: all but {', '.join(LARGE)}"
    )
    parser.add_argument("--folder", type=Path, default=PROJECT / ".venv-recipes", help="where environments are kept")
    options = parser.parse_args()
    unknown = [recipe for recipe in options.recipes if recipe not in known]
    if unknown:
        parser.error(f"no recipe is called {', '.join(unknown)}; there are {', '.join(known)}")
    folder, wanted = options.folder.resolve(), options.recipes or [recipe for recipe in known if recipe not in LARGE]
    uv = uv_in(folder)
    # An environment to a core: most of the time goes into installing and importing.
    with ThreadPoolExecutor(max_workers=2) as pool:
        passed = [ok for each in pool.map(lambda name: tried(name, wanted, folder, uv), ENVIRONMENTS) for ok in each]
    print(f"{sum(passed)} passed, {len(passed) - sum(passed)} failed")
    return 0 if all(passed) else 1


def tried(name, wanted, folder, uv):
    """Run the wanted recipes of one environment, and say of each how it went."""
    recipes = {recipe: package for recipe, package in ENVIRONMENTS[name].items() if recipe in wanted}
    if not recipes:
        return []
    started = time.monotonic()
    problem = install(folder / name, list(ENVIRONMENTS[name].values()), uv)
    if problem:
        say(f"failed  {', '.join(recipes)}: could not be installed", problem)
        return [False] * len(recipes)
    say(f"        {name} environment: {time.monotonic() - started:.1f} s")
    return [run(recipe, package, folder / name) for recipe, package in recipes.items()]


def install(environment, packages, uv):
    """Make the environment, unless it is there; returns what went wrong."""
    made_of = environment / "made-of"
    ingredients = "\n".join([sys.version, *packages, (PROJECT / "pyproject.toml").read_text("utf-8")])
    if made_of.exists() and made_of.read_text("utf-8") == ingredients:
        return ""
    shutil.rmtree(environment, ignore_errors=True)
    for command in (
        [uv, "venv", "--quiet", "--python", sys.executable, environment],
        [uv, "pip", "install", "--quiet", "--python", python_of(environment), "--editable", PROJECT, *packages],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return done.stderr
    made_of.write_text(ingredients, "utf-8")
    return ""


def run(recipe, package, environment):
    """Run one recipe and print its line. Warnings that mention this library are failures too."""
    # Without PYTHONDONTWRITEBYTECODE, or each recipe would compile its libraries anew.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "PYTHON"))}
    command = [python_of(environment), "-W", "default::ResourceWarning", HERE / f"with_{recipe}.py"]
    started = time.monotonic()
    try:
        done = subprocess.run(
            command, env={**inherited, **SILENCE}, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        said, ok = done.stdout + done.stderr, done.returncode == 0 and OURS not in WHEREVER.sub("", done.stderr)
    except subprocess.TimeoutExpired as late:
        said, ok = f"{late}\n{(late.stderr or b'').decode()}", False
    seconds = time.monotonic() - started
    library = package.partition("[")[0]
    versions = f"{library} {version(library, environment)}, openai {version('openai', environment)}"
    line = f"{'ok' if ok else 'failed':7} {recipe:14} {versions:44} {seconds:5.1f} s"
    say(line, *([] if ok else [said]))
    return ok


def say(*lines):
    """Print at once, as two threads do."""
    print("".join(f"{line}\n" for line in lines), end="", flush=True)


def version(package, environment):
    site = next(environment.glob("[Ll]ib/**/site-packages"))
    return next(found.version for found in distributions(name=package, path=[str(site)]))


def python_of(environment):
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def uv_in(folder):
    """The uv of this machine, or else one of our own. With pip it takes ten times as long."""
    own = folder / "uv"
    found = shutil.which("uv") or shutil.which("uv", path=own / "bin")
    if found is None:
        subprocess.run([sys.executable, "-m", "pip", "install", "-qq", "--target", own, "uv"], check=True)
        found = shutil.which("uv", path=own / "bin")
    return found


if __name__ == "__main__":
    sys.exit(main())
