"""Where records come from: lines of any length, compressed files, tables."""

import gzip
import hashlib
import itertools

import pytest

from throttled_openai.batch import InputError
from throttled_openai.batch import _source as source


def records(path, kind="batch"):
    return list(itertools.chain.from_iterable(source.chunks(str(path), kind)))


def put(path, content):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_lines_are_numbered_from_one_with_and_without_a_last_end(tmp_path, end):
    path = put(tmp_path / "in", b"a\n\nb\r\nc" + end)
    assert records(path) == [(1, b"a"), (2, b""), (3, b"b\r"), (4, b"c")]
    assert source.measure(str(path), "batch").records == 4


def test_an_empty_file_has_no_records(tmp_path):
    path = put(tmp_path / "in", b"")
    assert records(path) == []
    assert source.measure(str(path), "batch").records == 0


def test_lines_that_are_read_in_pieces_are_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "_PIECE", 7)
    whole = [b"x" * size for size in (0, 1, 6, 7, 8, 30, 3)]
    assert records(put(tmp_path / "in", b"\n".join(whole))) == list(enumerate(whole, 1))


def test_a_line_that_is_too_long_is_counted_and_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "_PIECE", 10)
    monkeypatch.setattr(source, "LONGEST", 25)
    path = put(tmp_path / "in", b"a\n" + b"x" * 26 + b"\n" + b"y" * 25 + b"\n" + b"z" * 500)
    assert records(path) == [(1, b"a"), (2, None), (3, b"y" * 25), (4, None)]


def test_an_input_is_known_by_its_content(tmp_path):
    path = put(tmp_path / "in", b"a\nb\n")
    found = source.measure(str(path), "batch")
    assert found == (2, 4, hashlib.sha256(b"a\nb\n").hexdigest())


def test_compressed_lines(tmp_path):
    path = put(tmp_path / "in.jsonl.gz", gzip.compress(b"a\nb") + gzip.compress(b"c\n"))
    assert records(path) == [(1, b"a"), (2, b"bc")]
    assert source.measure(str(path), "batch").records == 2
    assert source.suffix_of(str(path)) == ".jsonl"


def test_zstd(tmp_path):
    zstandard = pytest.importorskip("zstandard")
    path = put(tmp_path / "in.jsonl.zst", zstandard.compress(b"a\nb\n") + zstandard.compress(b"c\n"))
    assert records(path) == [(1, b"a"), (2, b"b"), (3, b"c")]


@pytest.mark.parametrize("cut", [5, 15, -4])
def test_a_compressed_file_that_is_cut_off_says_so(tmp_path, cut):
    path = put(tmp_path / "in.gz", gzip.compress(b"a\n" * 50)[:cut])
    with pytest.raises(InputError, match="cut off or damaged"):
        records(path)


def test_a_file_that_is_missing_says_so(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*nothing: No such file"):
        records(tmp_path / "nothing")


def test_rows_of_a_csv_file(tmp_path):
    path = put(tmp_path / "in.csv", '\ufeffid,text\n1,"two\nlines"\n2\n3,x,y\n'.encode())
    found = records(path, "csv")
    assert [(line, row["id"], row["text"]) for line, row in found] == [
        (1, "1", "two\nlines"),
        (2, "2", ""),
        (3, "3", "x"),
    ]
    assert source.measure(str(path), "csv").records == 3
    assert source.columns(str(path), "csv") == ["id", "text"]


def test_tabs_and_compression(tmp_path):
    path = put(tmp_path / "in.tsv.gz", gzip.compress(b"a\tb\n1\t2\n"))
    assert records(path, "csv") == [(1, {"a": "1", "b": "2"})]


def test_parquet(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    path = tmp_path / "in.parquet"
    parquet.write_table(pyarrow.table({"n": [1, 2], "text": ["a", None]}), path)
    assert records(path, "parquet") == [(1, {"n": "1", "text": "a"}), (2, {"n": "2", "text": ""})]
    assert source.measure(str(path), "parquet").records == 2
    assert source.columns(str(path), "parquet") == ["n", "text"]


def test_a_missing_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "zstandard", None)
    with pytest.raises(InputError, match=r'pip install "throttled-openai\[run\]"'):
        records(put(tmp_path / "in.zst", b""))
