"""The module that Python imports at startup."""
# ruff: noqa: INP001  # a directory of the search path, no package

import _throttled_openai

_throttled_openai.start()
_throttled_openai.make_way(__name__)
