"""Python imports this module at startup; it starts throttling, then imports the `sitecustomize` that it shadows."""
# ruff: noqa: INP001  # this directory is on the search path, and no package

import _throttled_openai

_throttled_openai.start()
_throttled_openai.make_way(__name__)
