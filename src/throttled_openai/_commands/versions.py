"""The versions that reports of measurements and of bugs need."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import openai


def versions() -> dict[str, str]:
    """The versions of this library, the SDK and Python, by name."""
    try:
        ours = version("throttled-openai")
    except PackageNotFoundError:  # run from a checkout
        ours = "(not installed)"
    return {"throttled-openai": ours, "openai": openai.__version__, "python": platform.python_version()}
