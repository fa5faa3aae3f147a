"""The command `run`: which runs are to do, and the workers that do them."""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from . import environment
from . import rival as rivals
from . import scenario as scenarios
from .book import Book, Record
from .worker_process import WorkerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .rival import Choice, Rival
    from .scenario import Scenario

PROJECT = environment.PROJECT
RESULTS = PROJECT / "benchmarks" / "results" / "runs.jsonl"
TUNED = "{}, tuned"
# The seed that settings are tuned with; it is never measured.
TUNING_SEED = 0


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="compare.py run", description=__doc__)
    parser.add_argument("--scenarios", nargs="+", choices=scenarios.names(), metavar="NAME", help="default: all")
    parser.add_argument("--rivals", nargs="+", choices=rivals.names(), metavar="NAME", help="default: all")
    parser.add_argument("--speed", choices=("virtual", "real"), default="virtual")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="from 1 to N (default: 3)")
    parser.add_argument(
        "--scale",
        type=scale,
        default=1.0,
        metavar="SHARE",
        help="make only this share of each scenario's calls; 0.1 for a quick look",
    )
    parser.add_argument("--no-tuning", action="store_true", help="only the settings from the rivals' documentation")
    parser.add_argument(
        "--results",
        type=Path,
        metavar="FILE",
        help="file for the records (benchmarks/results/runs.jsonl; with a scale, runs-SHARE.jsonl)",
    )
    parser.add_argument("--again", action="store_true", help="repeat runs that are already recorded")
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
        with WorkerProcess() as worker:
            for rival, scenario in pairs:
                compete(rival, scenario, worker, book, options)

    # On real sockets client and server have a core each; in virtual time every core is a client's.
    at_once = 1 if options.speed == "real" else os.cpu_count() or 1
    with ThreadPoolExecutor(at_once) as pool:
        try:
            able = [each for each in chosen if options.speed in each.speeds]
            ready = [rival for rival, there in zip(able, pool.map(prepare, able), strict=True) if there]
            # One iterator that all threads draw from.
            pairs = iter([each for each in product(ready, files) if options.speed in each[1].speeds])
            for future in [pool.submit(take, pairs) for _ in range(at_once)]:
                future.result()
        except KeyboardInterrupt:
            WorkerProcess.stop_all()
            say(f"Interrupted; {book.runs} runs are in {options.results} and will not be repeated.")
            return 130
    took = time.monotonic() - began
    say(f"{book.runs} runs in {took:.0f} s, {60 * book.runs / took:.0f} a minute")
    return 0


def scale(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def compete(rival: Rival, scenario: Scenario, worker: WorkerProcess, book: Book, options: argparse.Namespace) -> None:
    """Do all runs of one rival in one scenario that are not in the book yet."""
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


def tuned(rival: Rival, order: Record, worker: WorkerProcess, book: Book) -> dict[str, Choice]:
    """One more variant, with the settings that completed the most calls and, among those, took the least time.

    They are chosen in virtual time if the rival can run in it, which is faster.
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
        if len(ended) == len(records) or not ended:  # otherwise tune again next time
            book.add(found)
    if found["chosen"] is None:
        return {}
    return {TUNED.format(next(iter(rival.variants))): found["chosen"]}


@cache
def commit() -> str:
    """The commit of this checkout, with a + if there are uncommitted changes."""
    command = ["git", "describe", "--always", "--dirty=+", "--exclude", "*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=PROJECT)
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
