"""`python -m throttled_openai` is `throttled-openai`."""

import sys

from ._commands.main import main

if __name__ == "__main__":
    sys.exit(main())
