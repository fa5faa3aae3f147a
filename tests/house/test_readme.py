"""The README: every Python block runs, against the simulator on a real socket."""

import re

import pytest

from readme import BLOCKS, README, ROOT
from throttled_openai.simulator import spawn


@pytest.fixture(scope="module")
def account():
    with spawn(rpm=30_000, latency=0.05) as url:
        yield url


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"line {block.line}")
def test_a_block_runs(block, account, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", account)
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "any")
    block.namespace.clear()
    block.evaluate()
    if app := block.namespace.get("app"):
        from fastapi.testclient import TestClient

        with TestClient(app) as service:
            answer = service.get("/ask", params={"question": "How are you?"})
        assert answer.status_code == 200
        assert answer.json()["answer"]


def test_the_readme_has_blocks():
    assert len(BLOCKS) >= 4


def test_ci_runs_the_command_that_the_readme_prints():
    commands = re.findall(r"```console\n(.*?)\n```", README.read_text(), re.DOTALL)
    pattern = re.search(r"grep -m 1 -E '(.*)' README\.md", (ROOT / ".ci" / "run").read_text())
    assert pattern is not None
    assert [c for c in commands if re.fullmatch(pattern[1].strip("^$"), c)] == commands[-1:]
