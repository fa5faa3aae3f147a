"""`python -m throttled_openai.simulator`: the simulator on a TCP port."""

import sys

from ._cli import add_arguments, main, run

__all__ = ["add_arguments", "main", "run"]

if __name__ == "__main__":
    sys.exit(main())
