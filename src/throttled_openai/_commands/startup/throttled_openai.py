"""Shadows `throttled_openai` where another tool has a `sitecustomize`: starts throttling, imports the real module."""
# ruff: noqa: INP001  # this directory is on the search path, and no package

import _throttled_openai

_throttled_openai.start()
_throttled_openai.make_way(__name__)
