"""Plain inputs become requests: bodies, texts, rows."""

import json

import pytest

from batches import request
from throttled_openai.batch._input import Input, InputOptions
from throttled_openai.batch._request import BadLineError


def requests(name, **asked):
    found = []
    source = Input(str(name), InputOptions(**asked))
    for chunk in source.chunks():
        for record in chunk:
            try:
                found.append(source.request(record))
            except BadLineError as error:
                found.append(str(error))
    return found


def put(path, text):
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    return path


def bodies(found):
    return [each.body for each in found]


def test_the_first_recognisable_line_decides_the_format(tmp_path):
    told = json.dumps(request(1))
    assert Input(str(put(tmp_path / "a.jsonl", "nonsense\n\n" + told)), InputOptions()).kind == "batch"
    assert Input(str(put(tmp_path / "b.jsonl", json.dumps(request(1)["body"]))), InputOptions()).kind == "bodies"
    assert Input("-", InputOptions()).kind == "batch"


def test_the_cookbooks_sample_is_an_input_as_it_is(tmp_path):
    sample = "".join(json.dumps({"model": "text-embedding-3-small", "input": f"{n}\n"}) + "\n" for n in range(3))
    found = requests(put(tmp_path / "example_requests_to_parallel_process.jsonl", sample))
    assert [(each.custom_id, each.path) for each in found] == [(f"line-{n}", "/embeddings") for n in (1, 2, 3)]
    assert bodies(found)[2] == {"model": "text-embedding-3-small", "input": "2\n"}


def test_texts(tmp_path):
    path = put(tmp_path / "in.txt", "one\n\ntwo\r\n")
    found = requests(path, model="m", template="Say {text}, {{please}}", system="Be brief.", body={"temperature": 0})
    assert found[1] is None
    assert [found[0].custom_id, found[2].custom_id] == ["line-1", "line-3"]
    assert found[2].body == {
        "model": "m",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say two, {please}"}],
        "temperature": 0,
    }
    assert json.loads(found[2].content) == found[2].body


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/embeddings", {"input": "one"}),
        ("/moderations", {"input": "one"}),
        ("/completions", {"prompt": "one"}),
        ("/responses", {"input": "one", "instructions": "Be brief."}),
    ],
)
def test_texts_for_each_endpoint(tmp_path, path, asked):
    found = requests(put(tmp_path / "in.txt", "one"), model="m", path=path, system="Be brief.")
    assert bodies(found) == [{"model": "m", **asked}]


def test_a_column_of_a_table(tmp_path):
    path = put(tmp_path / "in.csv", "custom_id,name,text\na,Ann,hello\n,Bob,bye\nc,Cid,\n")
    found = requests(path, model="m")
    assert [each if isinstance(each, str) else each.custom_id for each in found] == ["a", "line-2", "has no text"]
    found = requests(path, model="m", template="{name} says {text}", id_column="name")
    assert [each.custom_id for each in found] == ["Ann", "Bob", "Cid"]
    assert found[0].body["messages"][0]["content"] == "Ann says hello"


def test_invalid_utf8_fails_only_its_row(tmp_path):
    path = put(tmp_path / "in.csv", "text\nfine\nb\udcffd\nfine\n")
    found = requests(path, model="m")
    assert [isinstance(each, str) for each in found] == [False, True, False]
    assert found[1] == "is not UTF-8"


@pytest.mark.parametrize(
    ("name", "asked", "says"),
    [
        ("in.txt", {}, "need --model"),
        ("in.txt", {"model": "m", "column": "text"}, "--column is for tables"),
        ("in.txt", {"model": "m", "template": "{name}"}, r"has \{name\}; a line of text is \{text\}"),
        ("in.csv", {"model": "m", "column": "c"}, "no column 'c'; the columns are 'a', 'b'"),
        ("in.csv", {"model": "m"}, "name the column of the texts with --column"),
        ("in.csv", {"model": "m", "template": "{a} {c}"}, r"has \{c\}, which is no column"),
        ("in.jsonl", {"system": "x"}, "--system is for texts and tables"),
        ("in.jsonl", {"path": "/embeddings"}, "--url is for inputs whose lines have none"),
    ],
)
def test_options_that_do_not_fit_the_input_are_reported(tmp_path, name, asked, says):
    content = {"in.txt": "x", "in.csv": "a,b\n1,2\n", "in.jsonl": json.dumps(request(1))}[name]
    with pytest.raises(ValueError, match=says):
        Input(str(put(tmp_path / name, content)), InputOptions(**asked))


def test_a_model_for_all_goes_over_that_of_each_request(tmp_path):
    found = requests(put(tmp_path / "in.jsonl", json.dumps(request(1))), model="other", body={"service_tier": "flex"})
    assert json.loads(found[0].content)["model"] == "other"
    assert json.loads(found[0].content)["service_tier"] == "flex"
