"""What is imported as `throttled_openai` if another tool's `sitecustomize` is found first: it makes way."""
# ruff: noqa: INP001  # a directory of the search path, no package

import _throttled_openai

_throttled_openai.start()
_throttled_openai.make_way(__name__)
