"""Cells that still break the promise: `open.txt` lists them, and each leaves the list when it is mended.

They run all the same and are reported as expected failures; a cell that is not on the list has to pass.
"""

from pathlib import Path

import pytest

OPEN = frozenset((Path(__file__).parent / "open.txt").read_text(encoding="utf-8").splitlines())


def pytest_collection_modifyitems(items):
    for item in items:
        if item.nodeid.partition("never_worse/")[2] in OPEN:
            # Not strict: some stand at the edge of a bound, and other machines and Pythons are on its other side.
            item.add_marker(pytest.mark.xfail(reason="worse than stock, not mended yet", strict=False))
