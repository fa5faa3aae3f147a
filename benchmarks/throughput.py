"""What a call costs, by how many are in flight: the client on one core, real sockets, the server on another.

    python benchmarks/throughput.py                      # every width, and ten thousand calls at once
    python benchmarks/throughput.py --tls 50 1000        # some widths, over TLS (needs `openssl`)
    python benchmarks/throughput.py --messages 20 10 50  # prompts of twenty messages
    python benchmarks/throughput.py --stream --uvloop 50 # streamed answers, on uvloop if installed
    python benchmarks/throughput.py --burst              # the ten thousand only
    python benchmarks/throughput.py --rate               # 30,000 requests a minute only

CPU per call is the client process's own time. Each rival is a process of its own; they take turns,
and ratios are medians over the turns, so that a busy machine slows all of them alike. Linux only.
Exits with 1 if a target is missed.

Rivals: `stock`, the SDK; `aiohttp`, the SDK's aiohttp client, if installed; `unchanged`, the throttled client on
aiohttp, whose answers and requests are made by the SDK; `floor`, the SDK over a transport that answers at once;
`pool`, the SDK with our pool; `ours`, the throttled client; `fast`, the same with `fast_parameters()`.
With `--rate` also `semaphore`, the SDK behind `asyncio.Semaphore(1000)`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import resource
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import openai

from throttled_openai import ThrottledAsyncOpenAI, fast_parameters
from throttled_openai._clients import answers, stencils
from throttled_openai._pool import PooledAsyncHttpxClient

WIDTHS = (10, 50, 500, 1000)
RIVALS = ("stock", "aiohttp", "unchanged", "floor", "pool", "ours", "fast")
REFERENCE = "ours at 10"
ROUNDS = 3
BURST = 10_000
LIMIT = 1_000
RPM = 10_000_000
# The rate test: 30,000 requests a minute need 1,000 calls in flight when each takes two seconds.
# Counting begins some seconds after the first answer, when they are in flight.
# A client that is not done after PATIENCE seconds is stopped.
PATIENCE = 240.0
RATE, LATENCY, WARM, SECONDS, QUEUED = 500, 2.0, 5.0, 60.0, 36_000

BODY = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": "gpt-4o",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "yes " * 100}, "finish_reason": "stop"},
        ],
        "usage": {"prompt_tokens": 8, "completion_tokens": 100, "total_tokens": 108},
    }
).encode()
CHUNK = {
    "id": "chatcmpl-1",
    "object": "chat.completion.chunk",
    "created": 0,
    "model": "gpt-4o",
    "choices": [{"index": 0, "delta": {"content": "yes yes yes yes yes "}, "finish_reason": None}],
}
EVENTS = f"data: {json.dumps(CHUNK)}\n\n".encode() * 20 + b"data: [DONE]\n\n"
JSON, SSE = "application/json", "text/event-stream"
TURN = [
    {"role": "user", "content": "What is 2 squared?"},
    {"role": "assistant", "content": "2 squared is 4, that is 2 times 2."},
]


# The server.


class Bucket:
    """Refuses what exceeds `rate` requests per second; one second's worth may come at once."""

    def __init__(self, rate: float) -> None:
        self.rate = rate or float("inf")
        self.level, self.at = float(rate), 0.0
        self.made = self.served = self.refused = 0

    def admits(self, now: float) -> bool:
        if self.rate < float("inf"):
            self.level = min(self.rate, self.level + self.rate * (now - self.at))
            self.at = now
            if self.level < 1:
                self.refused += 1
                return False
            self.level -= 1
        self.served += 1
        return True


class Connection(asyncio.Protocol):
    def __init__(self, latency: float, bucket: Bucket) -> None:
        self.latency = latency
        self.bucket = bucket
        self.buffer = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.bucket.made += 1

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end].lower()
            _, found, rest = head.partition(b"content-length:")
            whole = end + 4 + (int(rest.split(b"\r\n")[0]) if found else 0)
            if len(self.buffer) < whole:
                return
            request, self.buffer = self.buffer[:whole], self.buffer[whole:]
            loop = asyncio.get_running_loop()
            if head.startswith(b"get /stats"):
                self.bucket.made -= 1
                told = {name: getattr(self.bucket, name) for name in ("made", "served", "refused")}
                self.reply("200 OK", json.dumps(told).encode())
            elif self.bucket.admits(loop.time()):
                answer = (EVENTS, SSE) if b'"stream":true' in request else (BODY, JSON)
                loop.call_later(self.latency, self.reply, "200 OK", *answer)
            else:
                self.reply("429 Too Many Requests", b'{"error": {"code": "rate_limit_exceeded"}}')

    def reply(self, status: str, body: bytes, kind: str = JSON) -> None:
        if not self.transport.is_closing():
            head = f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
            self.transport.write(head.encode() + body)


async def serve(latency: float, rate: float, certificate: str | None) -> None:
    context = None
    bucket = Bucket(rate)
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(latency, bucket), "127.0.0.1", 0, backlog=4096, ssl=context
    )
    print(f"http{'s' if context else ''}://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await server.serve_forever()


# The clients.


def family() -> Any:
    """httpx or httpx2, whichever the SDK is built on."""
    return sys.modules[openai.DefaultAsyncHttpxClient.__mro__[1].__module__]


def instant() -> Any:
    httpx = family()

    class Instant(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: Any) -> Any:
            sent = b"".join([part async for part in request.stream])
            body, kind = (EVENTS, SSE) if b'"stream":true' in sent else (BODY, JSON)
            headers = {"content-type": kind, "content-length": str(len(body))}
            return httpx.Response(200, headers=headers, stream=httpx.ByteStream(body))

    return Instant()


def client(name: str, url: str, rpm: float | None = None) -> openai.AsyncOpenAI:
    many = family().Limits(max_connections=LIMIT, max_keepalive_connections=LIMIT, keepalive_expiry=50)
    options: dict[str, Any] = {"api_key": "none", "base_url": url}
    match name:
        case "floor":
            return openai.AsyncOpenAI(**options, http_client=openai.DefaultAsyncHttpxClient(transport=instant()))
        case "stock" | "semaphore":
            return openai.AsyncOpenAI(**options)
        case "aiohttp":
            return openai.AsyncOpenAI(**options, http_client=openai.DefaultAioHttpClient(limits=many))
        case "pool":
            return openai.AsyncOpenAI(**options, http_client=PooledAsyncHttpxClient())
        case "unchanged":
            answers.construct = lambda *_: None
            stencils._shape = lambda *_: None  # noqa: SLF001
            return ThrottledAsyncOpenAI(**options, rpm=rpm, max_concurrency=LIMIT, pool="aiohttp")
        case "ours" | "fast":
            if name == "fast":
                fast_parameters()
            return ThrottledAsyncOpenAI(**options, rpm=rpm, max_concurrency=None if rpm == 60 * RATE else LIMIT)
        case _:
            raise ValueError(name)


async def call(sdk: openai.AsyncOpenAI, messages: int = 1, *, stream: bool = False) -> None:
    prompt: Any = (TURN * ((messages + 1) // 2))[:messages]
    answer: Any = await sdk.chat.completions.create(model="gpt-4o", messages=prompt, stream=stream)
    if stream:
        async for _ in answer:
            pass


async def calls(sdk: openai.AsyncOpenAI, width: int, count: int, messages: int, *, stream: bool) -> float:
    """`count` calls by `width` tasks; microseconds of CPU per call."""
    left = count

    async def task() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await call(sdk, messages, stream=stream)

    began = time.process_time()
    await asyncio.gather(*(task() for _ in range(width)))
    return (time.process_time() - began) / count * 1e6


async def take_turns(name: str, url: str, width: int, messages: int, *, stream: bool) -> None:
    """A turn for every line on stdin."""
    # A known rate lets the throttle begin with all that the rate may need in flight.
    async with client(name, url, rpm=RPM).with_options(max_retries=5) as sdk:
        await calls(sdk, width, width, messages, stream=stream)
        print(json.dumps(None), flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            cost = await calls(sdk, width, max(width, 300), messages, stream=stream)
            print(json.dumps(cost), flush=True)


async def rate(name: str, url: str) -> None:
    """More calls than a minute allows, all at once; how many are done in a minute."""
    done = failed = 0
    answered = asyncio.Event()
    places = asyncio.Semaphore(1000 if name == "semaphore" else QUEUED)

    async def one(sdk: openai.AsyncOpenAI) -> None:
        nonlocal done, failed
        try:
            async with places:
                await call(sdk)
            done += 1
        except openai.OpenAIError:
            failed += 1
        answered.set()

    async with client(name, url, rpm=60 * RATE) as sdk:
        tasks = [asyncio.create_task(one(sdk)) for _ in range(QUEUED)]
        await answered.wait()
        await asyncio.sleep(WARM)
        told = await asyncio.to_thread(stats, url)
        before, cpu, began = done, time.process_time(), time.perf_counter()
        await asyncio.sleep(SECONDS)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        later = await asyncio.to_thread(stats, url)
        refused, served = (later[name] - told[name] for name in ("refused", "served"))
        found = {
            "share": (done - before) / seconds / RATE,
            "refused": refused / max(1, refused + served),
            "refused_before": told["refused"],
            "failed": failed,
            "made": later["made"],
            "cpu": cpu / seconds,
        }
        print(json.dumps(found), flush=True)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def burst(name: str, url: str) -> None:
    """Ten thousand calls in one `gather`."""
    async with client(name, url).with_options(max_retries=0) as sdk:
        await asyncio.gather(*(call(sdk) for _ in range(10)))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.perf_counter()
        results = await asyncio.gather(*(call(sdk) for _ in range(BURST)), return_exceptions=True)
        seconds = time.perf_counter() - began
        memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / BURST
    failures = [type(result).__name__ for result in results if result is not None]
    made = stats(url)["made"]
    found = {"failed": len(failures), "as": sorted(set(failures)), "KB": memory, "seconds": seconds, "made": made}
    print(json.dumps(found))


# The bench.


@contextlib.contextmanager
def process(core: int, *arguments: object, **environment: str) -> Any:
    """This file again, on one core; killed after the block."""
    command = [sys.executable, __file__, "--as", *map(str, (core, *arguments))]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
        env={**os.environ, **environment},
    ) as child:
        try:
            yield child
        finally:
            child.kill()


@contextlib.contextmanager
def server(latency: float, certificate: str | None, core: int, rate: float = 0) -> Any:
    with process(core, "server", latency, rate, certificate or "") as child:
        yield child.stdout.readline().strip()


def trusting(certificate: str | None) -> dict[str, str]:
    """The environment in which `certificate` is an authority."""
    return {"SSL_CERT_FILE": certificate} if certificate else {}


def stats(url: str) -> dict[str, int]:
    """What the server counted, without the connections that ask for it."""
    certificate = os.environ.get("SSL_CERT_FILE")
    context = ssl.create_default_context(cafile=certificate) if certificate else None
    with urllib.request.urlopen(url.replace("/v1", "/stats"), context=context) as answer:
        told: dict[str, int] = json.loads(answer.read())
    return told


def measure(
    width: int, certificate: str | None, cores: list[int], rounds: int, kind: tuple[object, ...]
) -> dict[str, list[float]]:
    """Microseconds of CPU per call of each rival, turn by turn."""
    trust = trusting(certificate)
    # As many as `width` stay in flight as long as a call takes less than a millisecond of the client.
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(server(min(0.001 * width, 0.6), certificate, cores[-1]))
        near = stack.enter_context(server(0.01, certificate, cores[-1]))
        names = [name for name in RIVALS if name not in {"aiohttp", "unchanged"} or has_aiohttp()]
        rivals = {name: ("take_turns", name, url, width, *kind) for name in names}
        rivals[REFERENCE] = ("take_turns", "ours", near, 10, *kind)
        children = {name: stack.enter_context(process(cores[0], *rival, **trust)) for name, rival in rivals.items()}
        for child in children.values():
            json.loads(child.stdout.readline())
        turns: dict[str, list[float]] = {name: [] for name in children}
        for _ in range(rounds):
            for name, child in children.items():
                child.stdin.write("\n")
                turns[name].append(json.loads(child.stdout.readline()))
    return turns


def has_aiohttp() -> bool:
    try:
        openai.DefaultAioHttpClient()
    except RuntimeError:
        return False
    return True


def ratio(turns: dict[str, list[float]], name: str, to: str) -> float:
    return statistics.median(one / other for one, other in zip(turns[name], turns[to], strict=True))


def show_widths(
    widths: list[int], certificate: str | None, cores: list[int], rounds: int, messages: int, *, stream: bool, uv: bool
) -> bool:
    print(
        f"CPU per call over {'TLS' if certificate else 'plain HTTP'}{' on uvloop' if uv else ''}, {messages} messages, "
        f"answers {'streamed' if stream else 'plain'}, as multiples of stock; {rounds} rounds",
        flush=True,
    )
    good = True
    for width in widths:
        turns = measure(width, certificate, cores, rounds, (messages, int(stream), int(uv)))
        shown = "  ".join(
            f"{name} {ratio(turns, name, 'stock'):.2f}" for name in turns if name not in {"stock", REFERENCE}
        )
        print(f"{width:>6} in flight: stock {statistics.median(turns['stock']):.0f} us  {shown}", flush=True)
        for says, value, most in targets(turns, width, messages, stream=stream):
            good &= value <= most
            print(f"        {says}: {value:.2f}, at most {most}: {'ok' if value <= most else 'MISSED'}", flush=True)
    return good


def targets(
    turns: dict[str, list[float]], width: int, messages: int, *, stream: bool
) -> list[tuple[str, float, float]]:
    """What is measured, the value, and the most that it may be."""
    found = []
    if messages == 1 and not stream and width in {10, 50, 1000}:
        most, fast = (0.30, 0.25) if width == 1000 else (0.60, 0.45)
        found += [("ours / stock", ratio(turns, "ours", "stock"), most)]
        found += [("fast / stock", ratio(turns, "fast", "stock"), fast)]
    if messages == 20 and not stream:
        found += [("fast / stock", ratio(turns, "fast", "stock"), 0.20)]
    if "aiohttp" in turns:
        found += [("ours / aiohttp", ratio(turns, "ours", "aiohttp"), 1.0)]
    if width == 1000:
        found += [("ours at 1,000 / ours at 10", ratio(turns, "ours", REFERENCE), 1.2)]
    return found


def show_burst(certificate: str | None, cores: list[int]) -> bool:
    print(f"{BURST:,} calls in one gather over {'TLS' if certificate else 'plain HTTP'}, 0.5 s each", flush=True)
    trust = trusting(certificate)
    good = True
    for name in ("stock", "ours"):
        with server(0.5, certificate, cores[-1]) as url, process(cores[0], "burst", name, url, **trust) as child:
            result = json.loads(child.stdout.readline())
        print(
            f"    {name}: {result['failed']} failed {' '.join(result['as'])}, {result['made']} connections,"
            f" {result['KB']:.1f} KB per call, {result['seconds']:.1f} s",
            flush=True,
        )
    # Of ours, which is the last.
    for says, value, most in (
        ("failed", result["failed"], 0),
        ("connections", result["made"], 1.05 * LIMIT),
        ("KB per waiting call", result["KB"], 8),
    ):
        good &= value <= most
        print(f"        {says}: {value:.1f}, at most {most:g}: {'ok' if value <= most else 'MISSED'}", flush=True)
    return good


def show_rate(certificate: str | None, cores: list[int]) -> bool:
    print(f"{60 * RATE:,} requests a minute allowed, {LATENCY:g} s each, for {SECONDS:g} s", flush=True)
    trust = trusting(certificate)
    good = False
    for name in ("ours", "semaphore", "stock"):
        with (
            server(LATENCY, certificate, cores[-1], RATE) as url,
            process(cores[0], "rate", name, url, **trust) as child,
        ):
            late = threading.Timer(PATIENCE, child.kill)
            late.start()
            line = child.stdout.readline()
            late.cancel()
        if not line:
            print(f"    {name}: not done in {PATIENCE:g} s", flush=True)
            continue
        result = json.loads(line)
        print(
            f"    {name}: {result['share']:.1%} of the limit, {result['refused']:.2%} of attempts refused"
            f" ({result['refused_before']} before), {result['failed']} calls failed,"
            f" {result['made']} connections, {result['cpu']:.0%} of a core",
            flush=True,
        )
        if name == "ours":
            good = result["share"] >= 0.99 and result["refused"] <= 0.0005 and result["cpu"] <= 0.6
            says = "at least 99 %, at most 0.05 % refused, at most 60 % of a core"
            print(f"        {says}: {'ok' if good else 'MISSED'}", flush=True)
    return good


def make_certificate(folder: str) -> str:
    key, certificate = Path(folder, "key.pem"), Path(folder, "certificate.pem")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=bench"
    extensions = ["subjectAltName=IP:127.0.0.1", "keyUsage=critical,digitalSignature,keyCertSign"]
    options = [option for extension in extensions for option in ("-addext", extension)]
    subprocess.run([*command.split(), "-keyout", key, "-out", certificate, *options], check=True, capture_output=True)
    certificate.write_text(certificate.read_text() + key.read_text())
    return str(certificate)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("widths", nargs="*", type=int, help=f"calls in flight: {WIDTHS}")
    parser.add_argument("--tls", action="store_true", help="over TLS; without it, plain HTTP")
    parser.add_argument("--messages", type=int, default=1, help="messages of each prompt; default 1")
    parser.add_argument("--stream", action="store_true", help="streamed answers")
    parser.add_argument("--uvloop", action="store_true", help="clients on uvloop")
    parser.add_argument("--burst", action="store_true", help="only the ten thousand calls at once")
    parser.add_argument("--rate", action="store_true", help="only the 30,000 requests a minute")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    assert len(cores) > 1, "needs a core for the client and one for the server"
    with tempfile.TemporaryDirectory() as folder:
        certificate = make_certificate(folder) if arguments.tls else None
        good = True
        if not (arguments.burst or arguments.rate):
            good = show_widths(
                arguments.widths or list(WIDTHS),
                certificate,
                cores,
                arguments.rounds,
                arguments.messages,
                stream=arguments.stream,
                uv=arguments.uvloop,
            )
        if arguments.burst or not (arguments.widths or arguments.rate):
            good &= show_burst(certificate, cores)
        if arguments.rate or not (arguments.widths or arguments.burst):
            good &= show_rate(certificate, cores)
    return 0 if good else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--as"]:
        _, _, core, role, *given = sys.argv
        os.sched_setaffinity(0, {int(core)})
        roles = {
            "server": lambda latency, rate, certificate: serve(float(latency), float(rate), certificate or None),
            "take_turns": lambda name, url, width, messages, stream, _: take_turns(
                name, url, int(width), int(messages), stream=stream == "1"
            ),
            "burst": burst,
            "rate": rate,
        }
        loops = None
        if role == "take_turns" and given[-1] == "1":
            import uvloop

            loops = uvloop.new_event_loop
        with contextlib.suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=loops) as runner:
            runner.run(roles[role](*given))
    else:
        sys.exit(main())
