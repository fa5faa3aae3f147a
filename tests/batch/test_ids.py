"""Ids seen before, in a table on disk."""

import contextlib

from throttled_openai.batch._ids import Ids


def test_an_id_belongs_to_the_first_line_that_has_it(tmp_path):
    with contextlib.closing(Ids(str(tmp_path))) as ids:
        assert ids.add(b"a", 1) is None
        assert ids.add(b"b", 2) is None
        assert ids.add(b"a", 3) == 1
        assert ids.add(b"a", 1) is None  # the same line again


def test_many_ids_are_kept_apart_as_the_table_grows(tmp_path):
    with contextlib.closing(Ids(str(tmp_path))) as ids:
        for line in range(1, 20_001):
            assert ids.add(b"%d" % line, line) is None
        for line in range(1, 20_001, 97):
            assert ids.add(b"%d" % line, 0) == line


def test_it_leaves_no_file_behind(tmp_path):
    with contextlib.closing(Ids(str(tmp_path))) as ids:
        ids.add(b"a", 1)
        assert list(tmp_path.iterdir()) == []


def test_the_line_of_an_id_is_found_without_adding_it(tmp_path):
    ids = Ids(str(tmp_path))
    for line in range(1, 5001):
        ids.add(b"%d" % line, line)
    assert [ids.line_of(b"%d" % line) for line in (1, 2500, 5000, 5001)] == [1, 2500, 5000, None]
    assert ids.add(b"5001", 5001) is None
    ids.close()
