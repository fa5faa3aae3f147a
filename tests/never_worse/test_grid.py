"""The promise over the grid: statuses, bodies, headers, faults, timings, loads and settings, in virtual time.

A longer run: `NEVER_WORSE_CELLS=5000 NEVER_WORSE_SEED=7 python -m pytest tests/never_worse/test_grid.py`, or
`python -m tests.never_worse --cells 5000 --seed 7`, which lists what fails by kind.
"""

import os

import pytest

from .cells import grid
from .promise import breaches
from .run import run

CELLS = int(os.environ.get("NEVER_WORSE_CELLS", "80"))
SEED = int(os.environ.get("NEVER_WORSE_SEED", "1"))


@pytest.mark.parametrize("cell", grid(CELLS, SEED), ids=str)
def test_ours_is_never_worse_than_stock(cell):
    stock = run(cell, ours=False)
    ours = run(cell, ours=True)

    found = breaches(cell, stock, ours)
    told = "\n".join(map(str, found))
    assert not found, f"{cell!r}, seed {SEED}\n{told}\nstock: {stock}\nours:  {ours}"
