"""What the command says while it serves, and at its end."""

import re
import signal
import subprocess
import sys

import httpx
import pytest

from servers import real
from simulated import chat
from throttled_openai.simulator import Simulator, serve


@real
async def test_each_request_is_a_line_without_its_words():
    lines, server = [], Simulator(rpm=1, latency=0.0)
    async with serve(server, access_log=lines.append) as url, httpx.AsyncClient(base_url=url) as client:
        for _ in range(2):
            await client.post("/chat/completions", json=chat(10, model="m\n0"))
        await client.get("/models?secret=1")
    assert [re.sub(r" \d+\.\d\d s", "", line) for line in lines] == [
        "200 POST /v1/chat/completions m?0, 10 tokens",
        "429 POST /v1/chat/completions m?0, refused: requests",
        "200 GET /v1/models",
    ]


@pytest.mark.skipif(sys.platform == "win32", reason="no signals")
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_the_command_sums_up_when_it_is_told_to_end(sent):
    command = [sys.executable, "-m", "throttled_openai.simulator", "--port=0", "--latency=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        url = process.stdout.readline().strip()
        with httpx.Client(trust_env=False) as client:
            assert client.post(f"{url}/chat/completions", json=chat(10)).status_code == 200
            process.send_signal(sent)
            _, said = process.communicate(timeout=20)
    assert process.returncode == 0
    export, line, summary = said.splitlines()
    assert export == f"export OPENAI_BASE_URL={url} OPENAI_API_KEY=any"
    assert re.fullmatch(r"\d\d:\d\d:\d\d 200 POST /v1/chat/completions 0\.\d\d s gpt-4o, 10 tokens", line)
    assert summary == "1 attempts: 1 succeeded, 0 refused, 0 failed, 0 abandoned; at most 1 in flight"
