"""Run the grid and print the cells that break the promise, by kind: `python -m tests.never_worse --help`."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from never_worse.report import main

sys.exit(main(argparse.ArgumentParser(prog="python -m tests.never_worse", description=__doc__)))
