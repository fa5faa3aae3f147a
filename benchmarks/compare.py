"""This library and its rivals, on the same work, on the same server.

    python benchmarks/compare.py environments               # one for each rival, made with uv in .venv-rivals
    python benchmarks/compare.py run                        # virtual time; recorded runs are not repeated
    python benchmarks/compare.py run --speed real --seeds 3
    python benchmarks/compare.py run --scenarios burst overload --rivals ours semaphore --no-tuning
    python benchmarks/compare.py report                     # pictures, a page, and the tables of the READMEs

benchmarks/README.md explains the method, and how to add a rival or a scenario.
"""

from __future__ import annotations

import argparse
import importlib
import sys

COMMANDS = {"environments": "comparison.environment", "run": "comparison.runs", "report": "comparison.report"}


def main() -> int:
    if sys.argv[1:] == ["worker"]:
        return importlib.import_module("comparison.worker").main()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=COMMANDS)
    if not sys.argv[1:] or sys.argv[1] not in COMMANDS:
        parser.parse_args()
    return importlib.import_module(COMMANDS[sys.argv[1]]).main(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
