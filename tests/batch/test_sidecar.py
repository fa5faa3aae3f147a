"""The sidecar: whose results an output holds, and that one run at a time writes them."""

import contextlib
import json

import pytest

from throttled_openai.batch import WrongRunError
from throttled_openai.batch._sidecar import Sidecar

TOLD = {"input": {"name": "in", "records": 5, "size": 9, "sha256": "ab" * 32}, "settings": {"kind": "batch"}}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "out.run.json"


def begun(path, told=TOLD):
    with contextlib.closing(Sidecar(path)) as sidecar:
        sidecar.begin(told)
        return sidecar.run


def test_a_run_that_goes_on_keeps_its_name(path):
    assert begun(path) == begun(path)
    assert json.loads(path.read_text())["input"]["records"] == 5


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"input": {**TOLD["input"], "sha256": "cd" * 32, "records": 6}}, r"input is in \(6 records, sha256 cdcd"),
        ({"settings": {"kind": "batch", "model": "gpt-4o"}}, "model is 'gpt-4o', it was None"),
        ({"settings": {"kind": "text"}}, "kind is 'text', it was 'batch'"),
    ],
)
def test_another_input_or_model_is_refused_with_what_differs(path, changes, says):
    begun(path)
    with pytest.raises(WrongRunError, match=says):
        begun(path, {**TOLD, **changes})


def test_the_same_input_under_another_name_goes_on(path):
    assert begun(path) == begun(path, {**TOLD, "input": {**TOLD["input"], "name": "moved"}})


def test_a_prompt_is_compared_and_never_kept(path):
    told = {
        **TOLD,
        "settings": {"kind": "text", "system": "secret", "template": "secret {text}", "body": {"a": "secret"}},
    }
    assert begun(path, told) == begun(path, told)
    assert "secret" not in path.read_text()
    other = {**told, "settings": {**told["settings"], "system": "hush"}}
    with pytest.raises(WrongRunError, match="system is another one") as error:
        begun(path, other)
    assert "hush" not in str(error.value)


def test_a_second_run_on_the_same_output_is_refused(path):
    pytest.importorskip("fcntl")
    says = r"another run is writing there.*out\.run"
    with contextlib.closing(Sidecar(path)), pytest.raises(WrongRunError, match=says):
        Sidecar(path)
    Sidecar(path).close()


@pytest.mark.parametrize("content", [b"", b"\0" * 40, b" \n"])
def test_a_sidecar_that_a_power_cut_left_empty_begins_anew(path, content):
    path.write_bytes(content)
    assert begun(path)


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"run": "x"}', b'{"run": "0a1b2c3d", "format": 2}'])
def test_a_file_that_is_no_sidecar_is_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(WrongRunError, match="not a sidecar of this version"):
        begun(path)
