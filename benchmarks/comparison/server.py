"""The server of a run: the simulator, imported by itself.

The library is not installed where rivals are, and the simulator needs nothing of it.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).parent.parent.parent / "src" / "throttled_openai"


def simulator() -> Any:
    """The package `simulator`."""
    if str(SOURCE) not in sys.path:
        sys.path.append(str(SOURCE))
    return importlib.import_module("simulator")
