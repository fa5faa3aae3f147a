"""What the tests of files of requests share: lines, files, servers and runs."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time

from scripted import throttled
from throttled_openai.batch._file import FileRun, Rules, calls_of
from throttled_openai.batch._input import Input, InputOptions
from throttled_openai.simulator import Simulator

# The example lines of vLLM's documentation of `vllm run-batch`, shortened in their texts only.
VLLM = [
    {
        "custom_id": f"request-{number}",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {
            "model": "meta-llama/Meta-Llama-3-8B-Instruct",
            "messages": [{"role": "system", "content": said}, {"role": "user", "content": "Hello world!"}],
            "max_completion_tokens": 1000,
        },
    }
    for number, said in ((1, "Be helpful."), (2, "Be unhelpful."))
] + [
    {
        "custom_id": f"request-{number}",
        "method": "POST",
        "url": "/v1/embeddings",
        "body": {"model": "intfloat/e5-mistral-7b-instruct", "input": "Be helpful."},
    }
    for number in (3, 4)
]


def request(number, model="gpt-4o", **body):
    body = {"model": model, "messages": [{"role": "user", "content": f"number {number}"}], **body}
    return {"custom_id": f"request-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}


def lines(count, **body):
    return "".join(json.dumps(request(number, **body)) + "\n" for number in range(1, count + 1))


def everyone(count):
    """The ids of the requests of `lines(count)`."""
    return sorted(f"request-{number}" for number in range(1, count + 1))


def results(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def lines_in(path):
    """How many whole lines a file has, also while a run writes it."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def ids(path):
    return [each["custom_id"] for each in results(path)]


def steady(**options):
    """Every answer takes exactly a second."""
    return Simulator(**{"latency": 1.0, "latency_sigma": 0.0, "network_sigma": 0.0, **options})


def job(client, source, output, *, asked=None, **rules):
    rules = {"max_retries": 0, "max_outage": 0.0, **rules}
    rules = Rules(**rules)
    return FileRun(calls_of(client, rules), Input(str(source), asked or InputOptions()), str(output), rules)


async def run(server, source, output, *, options=None, asked=None, **rules):
    """One run over a file, through a client with a transport in memory."""
    async with throttled(server, **(options or {})) as client:
        return await job(client, source, output, asked=asked, **rules).run()


ENVIRONMENT = {"OPENAI_API_KEY": "sk-test", "NO_PROXY": "*"}
started = []  # the processes of `command`; the fixture `no_process_stays` ends those that a failing test left


def command(*arguments, **options):
    """The command in a process of its own."""
    environment = {**os.environ, **ENVIRONMENT}
    process = subprocess.Popen(
        [sys.executable, "-m", "throttled_openai", *map(str, arguments)],
        env=environment,
        text=True,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    )
    started.append(process)
    return process


def told(*arguments, timeout=60, **options):
    """Exit code, standard output and standard error of the command."""
    process = command(*arguments, **options)
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


def wait_for(what, seconds=30):
    """Until `what()` is true."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.wait()


@contextlib.asynccontextmanager
async def running(awaitable):
    task = asyncio.ensure_future(awaitable)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
