"""The environments of the rivals, one for each, made with uv from the requirements in its file."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from . import rival as rivals

PROJECT = Path(__file__).parent.parent.parent
FOLDER = PROJECT / ".venv-rivals"


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="compare.py environments", description=__doc__)
    parser.add_argument("rivals", nargs="*", metavar="RIVAL", default=rivals.names())
    for name in parser.parse_args(argv).rivals:
        problem = make(name)
        print(f"{name}: {'ok' if problem is None else f'cannot be installed: {problem}'}", flush=True)
    return 0


def python_of(name: str) -> Path:
    return FOLDER / name / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def make(name: str) -> str | None:
    """Make an environment if it does not exist. Returns the installer's error, or None."""
    rival = rivals.read(name)
    home = FOLDER / name
    made_of = home / "made-of.json"
    ingredients = [rival.python or sys.version, *rival.requirements]
    if made_of.exists() and json.loads(made_of.read_text("utf-8")) == ingredients:
        return None
    shutil.rmtree(home, ignore_errors=True)
    uv = shutil.which("uv", path=os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", ""))))
    if uv is None:
        raise SystemExit("compare.py needs uv: pip install uv")
    commands: list[list[str | Path]] = [
        [uv, "venv", "-q", "--no-python-downloads", "--python", rival.python or sys.executable, home],
        [uv, "pip", "install", "-q", "--python", python_of(name), *rival.requirements],
    ]
    if rival.ours:
        commands[1] += ["--editable", PROJECT]
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            shutil.rmtree(home, ignore_errors=True)
            return " ".join(done.stderr.split())[:300]
    made_of.write_text(json.dumps(ingredients), "utf-8")
    return None
