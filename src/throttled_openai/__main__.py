"""`python -m throttled_openai` is `throttled-openai`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
