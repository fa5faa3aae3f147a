"""The output: which requests are done, incomplete and damaged lines, and the order of results."""

import errno
import gzip
import os

import pytest

from throttled_openai.batch import BatchResult, WrongRunError
from throttled_openai.batch._output import Lines, Output, compress, cut, decompress, keep, scan, sort, working_path
from throttled_openai.batch._result import encoded

RUN = "0a1b2c3d"


def result(line, *, ok=True, run=RUN):
    return encoded(BatchResult(line, f"request-{line}", 200 if ok else 500, "req", {"text": "x" * 20}), run)


def write(path, *parts):
    path.write_bytes(b"".join(parts))
    return path


def lines_of(path):
    return [int(line.split(b'"', 4)[3].rpartition(b"_")[2]) for line in path.read_bytes().splitlines()]


def test_a_set_of_lines_is_a_bit_for_each():
    found = Lines()
    assert found.add(10_000_000)
    assert not found.add(10_000_000)
    assert 10_000_000 in found
    assert 9_999_999 not in found
    assert 20_000_000 not in found
    assert found.count == 1


def test_an_output_says_what_is_done(tmp_path):
    path = write(tmp_path / "out", result(3), result(1, ok=False))
    found = scan(path, RUN)
    assert 1 in found.done
    assert 2 not in found.done
    assert 3 in found.done
    assert (found.failed, found.end, found.unwanted) == (1, path.stat().st_size, 0)


@pytest.mark.parametrize("left", range(1, 60, 7))
def test_a_torn_last_line_is_cut_off_and_not_done(tmp_path, left):
    whole = result(1) + result(2)
    path = write(tmp_path / "out", whole, result(3)[:left])
    found = scan(path, RUN)
    assert found.done.count == 2
    assert found.end == len(whole)
    cut(path, found.end)
    assert path.read_bytes() == whole


def test_lines_that_a_power_cut_damaged_are_left_out(tmp_path):
    path = write(tmp_path / "out", result(1), bytes(50) + b"\n", result(2), result(2))
    found = scan(path, RUN)
    assert (found.done.count, found.unwanted) == (2, 2)
    keep(path, lambda _: True)
    assert path.read_bytes() == result(1) + result(2)


def test_results_of_another_run_are_refused(tmp_path):
    with pytest.raises(WrongRunError, match="results of another run, ffffffff, than its sidecar says, 0a1b2c3d"):
        scan(write(tmp_path / "out", result(1, run="f" * 8)), RUN)


def test_failures_are_taken_out_to_be_sent_again(tmp_path):
    path = write(tmp_path / "out", result(1), result(2, ok=False), result(3), b"{torn")
    found = scan(path, RUN, wanted=lambda told: told.ok)
    assert (found.done.count, found.failed, found.unwanted) == (2, 0, 1)
    assert 2 not in found.done
    keep(path, lambda told: told.ok)
    assert lines_of(path) == [1, 3]


def test_results_are_appended_and_handed_over_at_once(tmp_path):
    path = write(tmp_path / "out", result(1))
    output = Output(path, pytest.fail)
    assert output.add(result(2))
    assert not output.add(result(3))
    output.flush()
    assert lines_of(path) == [1, 2, 3]
    assert output.is_dirty
    output.sync()
    assert not output.is_dirty
    output.close()


@pytest.mark.parametrize("room", [0, 10, len(result(2)), len(result(2)) + 5])
def test_a_line_cut_off_by_a_full_disk_is_removed(tmp_path, monkeypatch, room):
    failures = []
    path = write(tmp_path / "out", result(1))
    output = Output(path, failures.append)
    write_, left = os.write, [room]

    def full(file, data):
        if not left[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        part = data[: left[0]]
        left[0] -= len(part)
        return write_(file, part)

    monkeypatch.setattr(os, "write", full)
    output.add(result(2))
    output.add(result(3))
    output.flush()
    output.add(result(4))
    output.flush()
    output.close()
    monkeypatch.undo()
    assert [failure.errno for failure in failures] == [errno.ENOSPC]
    assert lines_of(path) == ([1, 2] if room >= len(result(2)) else [1])


def test_lines_are_sorted_by_runs_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("throttled_openai.batch._output._RUN_OF_LINES", 1000)
    order = [line * 37 % 101 for line in range(1, 101)]
    path = write(tmp_path / "out", *map(result, order))
    sort(path)
    assert lines_of(path) == sorted(order)
    before = path.stat().st_ino
    sort(path)
    assert path.stat().st_ino == before  # in order already
    assert [each.name for each in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_a_compressed_output_is_made_at_the_end_and_taken_apart_to_go_on(tmp_path, suffix):
    if suffix == "zst":
        pytest.importorskip("zstandard")
    target = tmp_path / f"out.jsonl.{suffix}"
    path = write(working_path(target), result(1), result(2))
    assert path.name == f"out.jsonl.{suffix}.part"
    compress(path, target)
    assert not path.exists()
    if suffix == "gz":
        assert gzip.decompress(target.read_bytes()) == result(1) + result(2)
    decompress(target, path)
    assert lines_of(path) == [1, 2]


def test_a_file_that_cannot_be_replaced_stays_as_it_was(tmp_path, monkeypatch):
    path = write(tmp_path / "out", result(2), result(1))

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        sort(path)
    assert lines_of(path) == [2, 1]
    assert [each.name for each in tmp_path.iterdir()] == ["out"]
