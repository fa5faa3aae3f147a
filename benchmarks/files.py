"""Files of requests: what a line costs, how close to the limit it goes, in how much memory, and what kills lose.

    python benchmarks/files.py scale --lines 100000 --rpm 60000
    python benchmarks/files.py kills --lines 20000 --kills 50
    python benchmarks/files.py cost --lines 3000 --cookbook api_request_parallel_processor.py

Each prints its receipt. `scale` runs the same command over 1,000 lines and over all, and compares their memory. `kills`
kills a run with signal 9 at instants that a seed decides, and counts each `custom_id` in the end. `cost` lets the typed
client, `throttled-openai run` and, if its path is given, the script of OpenAI's cookbook do the same lines in turn; the
script needs aiohttp, and a stand-in counts its tokens where tiktoken is missing (its vocabulary is a download).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import types
import urllib.request
from collections import Counter
from pathlib import Path

from throttled_openai import ThrottledAsyncOpenAI, run_file
from throttled_openai.simulator import spawn

MODEL = "gpt-4o"
ANSWER = 16


def body(number):
    said = f"Say hello in one word, please. This is request number {number}."
    return {"model": MODEL, "messages": [{"role": "user", "content": said}], "max_completion_tokens": ANSWER}


def write(path, count):
    with path.open("w") as file:
        for number in range(count):
            line = {"custom_id": f"request-{number}", "method": "POST", "url": "/v1/chat/completions"}
            file.write(json.dumps({**line, "body": body(number)}) + "\n")


def start(url, source, output, *options):
    command = [sys.executable, "-m", "throttled_openai", "run", source, "-o", output, "--base-url", url, *options]
    environment = {**os.environ, "OPENAI_API_KEY": "none"}
    process = subprocess.Popen(list(map(str, command)), env=environment, stderr=subprocess.PIPE, text=True)
    if hasattr(os, "sched_setaffinity") and (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(process.pid, {0})  # one core
    return process


def finish(process):
    """Seconds of its CPU, most memory in MB, and what it said."""
    said = process.stderr.read()
    _, code, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(code)
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, said


def ids(path):
    with path.open() as file:
        return Counter(json.loads(line)["custom_id"] for line in file)


@contextlib.contextmanager
def folder(given):
    with contextlib.nullcontext(given) if given else tempfile.TemporaryDirectory() as path:
        Path(path).mkdir(parents=True, exist_ok=True)
        yield Path(path)


def scale(arguments):
    with folder(arguments.folder) as path:
        found = []
        for count in (1000, arguments.lines):
            source, output = path / f"in-{count}.jsonl", path / f"out-{count}.jsonl"
            write(source, count)
            options = ["--rpm", arguments.rpm, "--json", "--report", path / f"report-{count}.html"]
            with spawn(rpm=arguments.rpm, latency=arguments.latency, burst=1.0) as url:
                process = start(url, source, output, *options)
                cpu, memory, said = finish(process)
            summary = json.loads(said.splitlines()[-1])
            counted = ids(output)
            found.append(memory)
            rate = summary["done"] / summary["seconds"]
            print(
                f"{count:,} lines: exit code {process.returncode}, {len(counted):,} custom_ids, each once: "
                f"{set(counted.values()) == {1}}; {summary['seconds']:.1f} s, {rate:,.0f} lines/s = "
                f"{60 * rate / arguments.rpm:.1%} of the limit; {1e6 * cpu / count:,.0f} us of CPU a line "
                f"with start and end; {summary['refusals']} refusals; {memory:.0f} MB at most",
                flush=True,
            )
        print(f"memory: {found[1] - found[0]:+.0f} MB from 1,000 to {arguments.lines:,} lines")


def kills(arguments):
    dice = random.Random(arguments.seed)
    with folder(arguments.folder) as path:
        source, output = path / "in.jsonl", path / "out.jsonl"
        write(source, arguments.lines)
        torn = killed = starts = 0
        with spawn(rpm=arguments.rpm, latency=arguments.latency) as url:
            options = ["--rpm", arguments.rpm, "--quiet"]
            while killed < arguments.kills:
                process = start(url, source, output, *options)
                starts += 1
                # One in six dies as it starts; the others on their way through what is left, and a little later.
                done = size_of(output)
                share = (arguments.lines - done) / (arguments.kills - killed + 1)
                goal = done + share * 2 * dice.random()
                deadline = time.monotonic() + (arguments.start * dice.random() if dice.random() < 1 / 6 else 600)
                while process.poll() is None and time.monotonic() < deadline and size_of(output) < goal:
                    time.sleep(0.01)
                time.sleep(0.05 * dice.random())
                if process.poll() is not None:
                    print(f"    it was done after {killed} kills", flush=True)
                    break
                process.send_signal(signal.SIGKILL)
                finish(process)
                killed += 1
                torn += output.exists() and output.read_bytes()[-1:] not in {b"\n", b""}
                if killed % 10 == 0:
                    print(f"    {killed} kills: {size_of(output):,} lines done", flush=True)
            process = start(url, source, output, *options)
            _, _, said = finish(process)
            asked = json.loads(_get(url))
        counted = ids(output)
        expected = {f"request-{number}" for number in range(arguments.lines)}
        missing, foreign = len(expected - counted.keys()), len(counted.keys() - expected)
        doubled = sum(count > 1 for count in counted.values())
        again = asked - arguments.lines
        print(f"receipt (seed {arguments.seed}): {killed} kills with signal 9, {torn} of them left a torn line")
        print(f"    last exit code {process.returncode}{': ' + said if said else ''}")
        print(f"    {arguments.lines:,} lines in, {sum(counted.values()):,} out")
        print(f"    missing {missing}, foreign {foreign}, doubled {doubled}")
        print(f"    the server was asked {again:,} times more than lines: {again / max(1, killed):.1f} for each kill")
        return 0 if counted == Counter(expected) else 1


def size_of(path):
    """Lines that are whole."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _get(url):
    with urllib.request.urlopen(url.removesuffix("/v1") + "/simulator/stats") as answer:
        return str(json.load(answer)["attempts"])


# What a line costs


def cost(arguments):
    with folder(arguments.folder) as path:
        source = path / "in.jsonl"
        write(source, arguments.lines)
        bodies = path / "bodies.jsonl"
        bodies.write_text("".join(json.dumps(body(number)) + "\n" for number in range(arguments.lines)))
        told = {}
        with spawn(latency=0.02, latency_sigma=0.0, rpm=6_000_000) as url:
            for turn in range(arguments.turns):
                for name in ("typed", "run", *(["cookbook"] if arguments.cookbook else [])):
                    files = source, bodies, path / f"{name}-{turn}.jsonl", arguments.cookbook or "-"
                    command = [sys.executable, __file__, "worker", name, url, *files]
                    out = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout
                    told.setdefault(name, []).append(float(out.split()[-1]))
        middle = {name: sorted(values)[len(values) // 2] for name, values in told.items()}
        for name, value in middle.items():
            print(f"{name:9} {value:7,.0f} us of CPU a line ({value / middle['typed']:.2f} of typed); {told[name]}")


def worker(arguments):
    used = {"typed": _typed, "run": _run, "cookbook": _cookbook}[arguments.name](arguments)
    print(1e6 * used)


def cpu():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _typed(arguments):
    async def main():
        async with ThrottledAsyncOpenAI(api_key="none", base_url=arguments.url, rpm=6e6, max_concurrency=50) as client:
            with open(arguments.source) as lines, open(arguments.output, "w") as results:  # noqa: ASYNC230, PTH123

                async def work():
                    for line in lines:
                        told = json.loads(line)
                        answer = await client.chat.completions.create(**told["body"])
                        results.write(json.dumps({"custom_id": told["custom_id"], "response": answer.to_dict()}) + "\n")

                return await _metered(lambda: asyncio.gather(*(work() for _ in range(50))), arguments.source)

    return asyncio.run(main())


def _run(arguments):
    async def main():
        options = {"api_key": "none", "base_url": arguments.url, "rpm": 6e6, "max_concurrency": 50}
        async with ThrottledAsyncOpenAI(**options) as client:
            return await _metered(lambda: run_file(client, arguments.source, arguments.output), arguments.source)

    return asyncio.run(main())


async def _metered(make, source):
    before = cpu()
    await make()
    return (cpu() - before) / Path(source).read_bytes().count(b"\n")  # noqa: ASYNC240


def _cookbook(arguments):
    if importlib.util.find_spec("tiktoken") is None:
        words = types.ModuleType("tiktoken")
        words.get_encoding = lambda _: types.SimpleNamespace(encode=lambda text: text[::4])
        sys.modules["tiktoken"] = words
    spec = importlib.util.spec_from_file_location("cookbook", arguments.cookbook)
    script = importlib.util.module_from_spec(spec)
    sys.modules["cookbook"] = script
    spec.loader.exec_module(script)
    script.api_endpoint_from_url = lambda url: url.partition("/v1/")[2]  # its own knows https only

    async def main():
        def process():
            return script.process_api_requests_from_file(
                requests_filepath=arguments.bodies, save_filepath=arguments.output,
                request_url=f"{arguments.url}/chat/completions", api_key="none", max_requests_per_minute=6e6,
                max_tokens_per_minute=6e9, token_encoding_name="cl100k_base", max_attempts=5, logging_level=40,
            )  # fmt: skip

        return await _metered(process, arguments.bodies)

    return asyncio.run(main())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, run, lines, rpm in (("scale", scale, 100_000, 60_000), ("kills", kills, 20_000, 30_000)):
        command = commands.add_parser(name)
        command.add_argument("--lines", type=int, default=lines)
        command.add_argument("--rpm", type=float, default=rpm)
        command.add_argument("--latency", type=float, default=0.5)
        command.add_argument("--folder", help="kept (default: a temporary one)")
        command.set_defaults(run=run)
        if name == "kills":
            command.add_argument("--kills", type=int, default=50)
            command.add_argument("--seed", type=int, default=17)
            command.add_argument("--start", type=float, default=2.0, help="seconds that Python takes to start")
    command = commands.add_parser("cost")
    command.add_argument("--lines", type=int, default=3000)
    command.add_argument("--turns", type=int, default=3)
    command.add_argument("--cookbook", help="path of its api_request_parallel_processor.py")
    command.add_argument("--folder")
    command.set_defaults(run=cost)
    command = commands.add_parser("worker")
    for name in ("name", "url", "source", "bodies", "output", "cookbook"):
        command.add_argument(name)
    command.set_defaults(run=worker)
    arguments = parser.parse_args()
    return arguments.run(arguments)


if __name__ == "__main__":
    sys.exit(main())
