"""All the runs: which there are to do, who does them, and the file their records are added to."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cache
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from throttled_openai.simulator import Fault, Settings, spawn

from . import environment
from . import rival as rivals
from . import scenario as scenarios

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .rival import Choice, Rival
    from .scenario import Scenario

PROJECT = environment.PROJECT
RESULTS = PROJECT / "benchmarks" / "results" / "runs.jsonl"
TUNED = "{}, tuned"
# The seed that settings are chosen with; none that is measured.
TUNING_SEED = 0
# Seconds for one run, wherever it hangs.
PATIENCE = 300.0

# The cores that this process may use, all of them.
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []

Record = dict[str, Any]


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="compare.py run", description=__doc__)
    parser.add_argument("--scenarios", nargs="+", choices=scenarios.names(), metavar="NAME", help="default: all")
    parser.add_argument("--rivals", nargs="+", choices=rivals.names(), metavar="NAME", help="default: all")
    parser.add_argument("--speed", choices=("virtual", "real"), default="virtual")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="from 1 to N (default: 3)")
    parser.add_argument(
        "--scale", type=scale, default=1.0, metavar="SHARE", help="of each scenario's calls: 0.1 for a quick look"
    )
    parser.add_argument("--no-tuning", action="store_true", help="only what the documentations say")
    parser.add_argument(
        "--results",
        type=Path,
        metavar="FILE",
        help="where records are kept (benchmarks/results/runs.jsonl; with a scale, runs-SHARE.jsonl)",
    )
    parser.add_argument("--again", action="store_true", help="do runs again that are there already")
    options = parser.parse_args(argv)
    if options.results is None:
        options.results = RESULTS if options.scale == 1 else RESULTS.with_stem(f"{RESULTS.stem}-{options.scale:g}")
    book = Book(options.results)
    began = time.monotonic()
    files = [scenarios.read(name) for name in options.scenarios or scenarios.names()]
    chosen = [rivals.read(name) for name in options.rivals or rivals.names()]

    def prepare(rival: Rival) -> bool:
        problem = environment.make(rival.name)
        if problem is not None:
            book.add({"rival": rival.name, "package": rival.package, "speed": options.speed, "not_installed": problem})
            say(f"{rival.package}: cannot be installed: {problem}")
        return problem is None

    def take(pairs: Iterator[tuple[Rival, Scenario]]) -> None:
        with Worker() as worker:
            for rival, scenario in pairs:
                compete(rival, scenario, worker, book, options)

    # On real sockets client and server have a core each; in virtual time every core is a client's.
    at_once = 1 if options.speed == "real" else os.cpu_count() or 1
    with ThreadPoolExecutor(at_once) as pool:
        try:
            able = [each for each in chosen if options.speed in each.speeds]
            ready = [rival for rival, there in zip(able, pool.map(prepare, able), strict=True) if there]
            # One iterator, of which every thread takes.
            pairs = iter([each for each in product(ready, files) if options.speed in each[1].speeds])
            for future in [pool.submit(take, pairs) for _ in range(at_once)]:
                future.result()
        except KeyboardInterrupt:
            Worker.stop_all()
            say(f"Interrupted; {book.runs} runs are in {options.results}, and will not be done again.")
            return 130
    took = time.monotonic() - began
    say(f"{book.runs} runs in {took:.0f} s, {60 * book.runs / took:.0f} a minute")
    return 0


def scale(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def compete(rival: Rival, scenario: Scenario, worker: Worker, book: Book, options: argparse.Namespace) -> None:
    """All runs of one rival in one scenario that are not in the book yet."""
    order: Record = {"rival": rival.name, "scenario": scenario.name, "speed": options.speed, "scale": options.scale}
    variants = dict(rival.variants)
    if rival.grid and scenario.tuning and not options.no_tuning:
        variants |= tuned(rival, order, worker, book)
    for variant, settings in variants.items():
        for seed in range(1, options.seeds + 1):
            one = {**order, "settings": settings, "seed": seed, "variant": variant}
            if options.again or not book.has(one):
                record = worker.do(one)
                book.add({**record, "commit": commit(), "machine": machine()})
                say(f"{scenario.name}, {variant}, seed {seed}: {brief(record)}")


def tuned(rival: Rival, order: Record, worker: Worker, book: Book) -> dict[str, Choice]:
    """One more variant: with the settings with which most was done, and of those the quickest.

    They are chosen in virtual time, where a rival can run in it: that is sooner done.
    """
    wanted = {name: order[name] for name in ("rival", "scenario", "scale")} | {"grid": rival.grid}
    found = next((each for each in book.records if "chosen" in each and wanted.items() <= each.items()), None)
    if found is None:
        speed = "virtual" if "virtual" in rival.speeds else order["speed"]
        trial = {**order, "speed": speed, "seed": TUNING_SEED}
        records = [worker.do({**trial, "settings": each}) for each in rival.choices()]
        ended = [each for each in records if "broken" not in each]
        best = min(ended, key=lambda each: (-each["done"], each["makespan"]), default={"settings": None})
        found = {**wanted, "chosen": best["settings"]}
        if len(ended) == len(records) or not ended:  # else once more, the next time
            book.add(found)
    if found["chosen"] is None:
        return {}
    return {TUNED.format(next(iter(rival.variants))): found["chosen"]}


class StoppedError(Exception):
    """Nothing more is to be done."""


class Worker:
    """A process in a rival's environment. In virtual time it does all its runs; on sockets, each has its own."""

    _all: ClassVar[list[Worker]] = []
    _stopped: ClassVar[bool] = False

    def __init__(self) -> None:
        self._all.append(self)
        self._kind: tuple[str, str] | None = None
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    @classmethod
    def stop_all(cls) -> None:
        """From another thread: whoever waits for a run, or asks for another, gets `StoppedError`."""
        cls._stopped = True
        for worker in cls._all:
            if (process := worker._process) is not None:  # noqa: SLF001
                process.kill()

    def do(self, order: Record) -> Record:
        """Do one run; `broken` is in the record of one that did not come to its end."""
        kind = order["rival"], order["speed"]
        if kind != self._kind:
            self._stop()
            self._kind = kind
        if order["speed"] == "virtual":
            return self._ask(order)
        scenario = scenarios.read(order["scenario"])
        faults = [Fault(**fault) for fault in scenario.faults]
        settings = Settings(seed=order["seed"], **scenario.server)
        with ExitStack() as stack:
            with pinned(-1):
                url = stack.enter_context(spawn(settings, faults=faults))
            try:
                record = self._ask({**order, "url": url})
            finally:
                self._stop()
        del record["url"]
        return record

    def _ask(self, order: Record) -> Record:
        if self._process is None and not self._stopped:
            self._start(order)
        process: Any = self._process
        if self._stopped:
            raise StoppedError
        patience = threading.Timer(PATIENCE, process.kill)
        patience.start()
        try:
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            patience.cancel()
        if self._stopped:
            raise StoppedError
        if not line:
            self._stop()
            return {**order, "broken": f"the worker died, or took more than {PATIENCE:.0f} s"}
        record: Record = json.loads(line)
        return record

    def _start(self, order: Record) -> None:
        command = [environment.python_of(order["rival"]), PROJECT / "benchmarks" / "compare.py", "worker"]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "PYTHON"))}
        quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "HF_HUB_OFFLINE": "1"}
        with pinned(0 if order["speed"] == "real" else None):
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env={**inherited, **quiet},
                # An interrupt is for who gives the orders: a run that it broke off would count as broken.
                start_new_session=True,
            )

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


class Book:
    """The records that there are, in a file of JSON lines; threads may add to it. `runs`: how many were added."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._lock = threading.Lock()
        self.records = read(path)
        self.runs = 0

    def add(self, record: Record) -> None:
        with self._lock:
            self.records.append(record)
            self.runs += "variant" in record
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")

    def has(self, order: Record) -> bool:
        return any("broken" not in each and order.items() <= each.items() for each in self.records)


def read(path: Path) -> list[Record]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


class pinned:  # noqa: N801  # used like a function
    """Processes started inside of it stay on one core; -1: the last, None: anywhere."""

    def __init__(self, core: int | None) -> None:
        self._core = core if CORES else None

    def __enter__(self) -> None:
        if self._core is not None:
            self._before = os.sched_getaffinity(0)
            os.sched_setaffinity(0, {CORES[self._core]})

    def __exit__(self, *_: object) -> None:
        if self._core is not None:
            os.sched_setaffinity(0, self._before)


@cache
def commit() -> str:
    """Of this checkout; with a + if something is not committed."""
    told = ["git", "describe", "--always", "--dirty=+", "--exclude", "*"]
    done = subprocess.run(told, capture_output=True, text=True, check=False, cwd=PROJECT)
    return done.stdout.strip() or "unknown"


def machine() -> str:
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"


def brief(record: Record) -> str:
    if "broken" in record:
        return f"broken: {record['broken']}"
    over = f"{record['over_ideal']:.3f} x ideal" if record["over_ideal"] else f"{record['goodput']:.0%} of the limit"
    lost = record["failed"] + record["unfinished"]
    return f"{record['done']} done, {lost} lost, {record['refused']} refused, {over}"


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
