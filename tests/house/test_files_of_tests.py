"""Files of tests are short, and share code through modules of their own."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda path: path.relative_to(TESTS).as_posix())
def test_a_file_of_tests_has_at_most_600_lines(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 600


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda path: path.relative_to(TESTS).as_posix())
def test_no_file_imports_from_a_file_of_tests(path):
    assert not re.findall(r"^(?:from|import) test_\w+", path.read_text(encoding="utf-8"), re.MULTILINE)
