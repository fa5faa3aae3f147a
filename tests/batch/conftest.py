"""Fixtures of the tests of files of requests; they also use the servers and clients of the folder above."""

import sys
from pathlib import Path

import pytest

from throttled_openai.simulator import spawn

for folder in (Path(__file__).parent, Path(__file__).parents[1]):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


@pytest.fixture(scope="module")
def server():
    """The URL of a simulator in a process of its own."""
    with spawn(latency=0.05, rpm=60_000) as url:
        yield url


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out.jsonl"


@pytest.fixture(autouse=True)
def no_process_stays():
    """A test that fails between start and end of a process leaves it neither running nor open."""
    from batches import started  # after the path above

    yield
    while started:
        with started.pop() as process:
            process.kill()
