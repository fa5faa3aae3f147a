"""A file run: the steps from opening the input, output and sidecar to the finished output.

The process may be killed between any two of these steps; the next run continues from there.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from throttled_openai._clients.base import AsyncThrottledMixin
from throttled_openai._clients.raw import RawCalls
from throttled_openai._clients.wrap import wrap
from throttled_openai._protocol.usage import read_usage
from throttled_openai._stats import spell

from ._feed import FileFeed
from ._ids import Ids
from ._input import Input, InputOptions
from ._order import InOrder
from ._output import SYNC_EVERY, Output, compress, cut, decompress, keep, scan, sort, working_path
from ._result import BatchResult, Written, encoded
from ._runner import Runner
from ._sidecar import Sidecar, WrongRunError
from ._source import STDIN, InputError, measure, zstd
from ._status import Status, status_of
from ._tally import Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from openai import AsyncOpenAI

    from throttled_openai._stats import BudgetStats

    from ._calls import Calls
    from ._feed import Feed
    from ._order import Sink
    from ._prices import Prices

Order = Literal["completion", "input"]
# Default number of retries after an error of the server or the network.
RETRIES: Final = 5
# Default number of seconds for which a run waits for an unreachable server.
OUTAGE: Final = 600.0


@dataclass(frozen=True, slots=True)
class Rules:
    """The options of a run. `limit`: the most requests to send. `max_cost`: the most they may cost, by `prices`.

    `keep_going`: record every failure and continue, even if no request succeeds. `max_outage`: seconds for which
    requests are retried while the server cannot be reached.
    """

    order: Order = "completion"
    retry_errors: bool = False
    limit: int | None = None
    prices: Prices | None = None
    max_cost: float | None = None
    max_retries: int = RETRIES
    keep_going: bool = False
    max_outage: float = OUTAGE


@dataclass(frozen=True, slots=True)
class Summary:
    """The outcome of a run.

    `done`: requests finished by this run, `failed` of them without success. `before`: requests finished by earlier
    runs, `failed_before` of them without success. `total`: requests in the input, and `left`: those not finished;
    None if that is not known. `stopped`: why the run ended before the end of its input, if it did.
    """

    output: str
    total: int | None
    before: int
    failed_before: int
    done: int
    failed: int
    left: int | None
    seconds: float
    input_tokens: int
    output_tokens: int
    cost: float | None
    refusals: int
    errors: dict[str, int] = field(default_factory=dict)
    stopped: str | None = None
    interrupted: bool = False

    @property
    def exit_code(self) -> int:
        """0: every request succeeded; 1: some failed, or the run was stopped; 130: interrupted."""
        if self.interrupted:
            return 130
        return 1 if self.failed or self.failed_before or self.stopped is not None else 0

    def __str__(self) -> str:
        served = self.done - self.failed
        lines = [f"{served:,} requests served and {self.failed:,} failed in {spell(self.seconds)} -> {self.output}"]
        if self.before:
            lines.append(f"{self.before:,} had been done before, {self.failed_before:,} of them failed")
        lines.append(
            f"{self.input_tokens:,} tokens in, {self.output_tokens:,} out; {self.refusals:,} refusals on the way"
        )
        if self.cost is not None:
            lines[-1] += f"; cost {self.cost:,.4f}"
        lines += [f"    {count:,} x {what}" for what, count in Counter(self.errors).most_common(10)]
        if self.stopped is not None:
            lines.append(f"stopped: {self.stopped}")
        if self.left and self.output != STDIN:
            lines.append(f"{self.left:,} are left; run the same command again to continue")
        if (self.failed or self.failed_before) and self.output != STDIN:
            lines.append("--retry-errors sends the failed ones again")
        return "\n".join(lines)


class FileRun:
    """One run over one input. While `run` runs, the other methods may be called on the same event loop."""

    def __init__(self, calls: Calls, source: Input, output: str, rules: Rules) -> None:
        self._source = source
        self._rules = rules
        self._calls = calls
        self._name = output
        self._target = None if output == STDIN or _is_stream(Path(output)) else Path(output).resolve()
        self._path = None if self._target is None else working_path(self._target)
        if self._target is not None and not source.is_stream and self._target == Path(source.name).resolve():
            raise ValueError("the output and the input are the same file")
        if self._target is not None and not self._target.parent.is_dir():
            raise ValueError(f"there is no directory {self._target.parent}")
        self._output: Output | None = None
        self._sidecar: Sidecar | None = None
        self._run = "0" * 8
        self._runner: Runner | None = None
        self._interrupts = 0
        self._given_up = False
        self._closed_pipe: BrokenPipeError | None = None
        self.tally = Tally()

    async def run(self) -> Summary:
        """Send the requests and write their results. If it is cancelled, the results so far are kept.

        Raises `WrongRunError` if the output belongs to another run, and `InputError` or `OSError` if a file cannot be
        read or written.
        """
        # Beside the output, because the directory for temporary files may be in memory.
        ids = Ids(None if self._target is None else str(self._target.parent))
        try:
            done = await self._opened(ids)
            feed = FileFeed(self._source, done, ids, self._count_blank)
            try:
                await (self._to_stdout(feed) if self._path is None else self._to_file(feed))
            finally:
                feed.close()
        finally:
            self.tally.ended = self.tally.ended or self.tally.began + self.tally.seconds
            ids.close()
            if self._sidecar is not None:
                self._sidecar.close()
        return self.summary()

    def interrupt(self) -> str:
        """Stop after the requests in flight; a second call stops at once. Returns a message for the user."""
        self._interrupts += 1
        if self._runner is None:
            raise KeyboardInterrupt
        if self._interrupts == 1:
            self._runner.stop("interrupted")
            count = self._calls.throttle.in_flight
            return f"interrupted: {count:,} requests in flight are finished first; interrupt again to stop at once"
        self._runner.abort("interrupted")
        return "stopped: the requests in flight are dropped"

    def status(self) -> Status:
        runner = self._runner
        stats = self._calls.throttle.stats()
        return status_of(self.tally, stats, reading=runner is None, draining=runner is not None and runner.draining)

    def model_stats(self) -> tuple[BudgetStats, ...]:
        """The figures of each model's budget."""
        return self._calls.throttle.stats().budgets

    def summary(self) -> Summary:
        tally, runner = self.tally, self._runner
        return Summary(
            **tally.counts(),
            output=self._name,
            failed_before=tally.failed_before,
            left=tally.left,
            cost=None if self._rules.prices is None else tally.cost,
            refusals=self._calls.throttle.stats().refused,
            errors=dict(tally.errors),
            stopped=None if runner is None else runner.stopped,
            interrupted=self._interrupts > 0,
        )

    # Opening the files, in a thread

    async def _opened(self, ids: Ids) -> Container[int]:
        opening = asyncio.ensure_future(asyncio.to_thread(self._open, ids))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            self._given_up = True  # the thread checks this
            await asyncio.wait({opening})
            raise

    def _open(self, ids: Ids) -> Container[int]:
        """Lock the output, repair it, and return the lines that are done."""
        source, tally = self._source, self.tally
        known = None if source.is_stream else measure(source.name, source.kind, self._check_given_up)
        tally.total = None if known is None else known.records
        if self._target is None or self._path is None:
            return frozenset()
        if self._target.name.lower().endswith(".zst"):
            zstd()  # raises now rather than at the end if it is not installed
        self._sidecar = sidecar = Sidecar(self._target.with_name(self._target.name + ".run.json"))
        existing = next((path for path in (self._path, self._target) if path.exists() and path.stat().st_size), None)
        if sidecar.is_new and existing is not None:
            sidecar.discard()
            raise WrongRunError(f"{existing.name} exists and is not the output of a run: choose another, or remove it")
        described = {"name": source.name, **({} if known is None else known._asdict())}
        sidecar.begin({"input": described, "settings": source.settings})
        self._run = sidecar.run
        if existing is None:
            return frozenset()
        if existing != self._path:
            decompress(existing, self._path)
        return self._repair(ids)

    def _check_given_up(self, _: int = 0) -> None:
        if self._given_up:
            raise InputError("given up while it was read")

    def _repair(self, ids: Ids) -> Container[int]:
        path, tally = self._path, self.tally
        assert path is not None

        def seen(result: Written, line: bytes) -> None:
            self._check_given_up()
            if result.custom_id != b"null":
                ids.add(result.custom_id, result.line)
            if result.ok and self._rules.prices is not None:
                tally.cost += _cost_of(line, self._rules.prices)

        def wanted(result: Written) -> bool:
            return result.ok or not self._rules.retry_errors

        found = scan(path, self._run, seen, wanted)
        if found.unwanted:
            keep(path, wanted)
        elif found.end < path.stat().st_size:
            cut(path, found.end)
        tally.before, tally.failed_before = found.done.count, found.failed
        return found.done

    # The run

    async def _to_file(self, feed: FileFeed) -> None:
        assert self._path is not None
        loop = asyncio.get_running_loop()
        output = self._output = Output(self._path, self._cannot_write)

        def sink(result: BatchResult, raw: bytes | None) -> None:
            if output.add(encoded(result, self._run, raw)):
                loop.call_soon(output.flush)

        syncing = loop.create_task(self._sync(output))
        try:
            self._runner = self._make_runner(feed, sink)
            await self._runner.run()
        finally:
            syncing.cancel()
            await asyncio.wait({syncing})
            self.tally.ended = self.tally.began + self.tally.seconds
            await asyncio.to_thread(self._close, output)
        if self._runner.stopped is None and not self._runner.reached_limit:
            await asyncio.to_thread(self._finish)

    async def _to_stdout(self, feed: FileFeed) -> None:
        loop = asyncio.get_running_loop()
        kept: list[bytes] = []
        stream = sys.stdout.buffer if self._name == STDIN else Path(self._name).open("wb", buffering=0)  # noqa: ASYNC230, SIM115

        def flush() -> None:
            data = b"".join(kept)
            kept.clear()
            try:
                stream.write(data)
                stream.flush()
            except OSError as error:
                self._cannot_write(error)

        def sink(result: BatchResult, raw: bytes | None) -> None:
            kept.append(encoded(result, self._run, raw))
            if len(kept) == 1:
                loop.call_soon(flush)

        if self._rules.order == "completion":
            self._runner = self._make_runner(feed, sink)
            await self._runner.run()
        else:
            in_order = InOrder(feed, sink)
            self._runner = self._make_runner(in_order, in_order.sink, in_order.has_room)
            try:
                await self._runner.run()
            finally:
                in_order.close()
        if kept:
            flush()
        if stream is not sys.stdout.buffer:
            stream.close()
        if self._closed_pipe is not None:
            raise self._closed_pipe

    def _make_runner(self, feed: Feed, sink: Sink, room: Callable[[], bool] = lambda: True) -> Runner:
        rules = self._rules
        return Runner(
            self._calls,
            feed,
            sink,
            self.tally,
            limit=rules.limit,
            prices=rules.prices,
            max_cost=rules.max_cost,
            keep_going=rules.keep_going,
            room=room,
        )

    def _count_blank(self, count: int) -> None:
        self.tally.blank += count

    def _cannot_write(self, error: OSError) -> None:
        assert self._runner is not None
        if self._path is None and isinstance(error, BrokenPipeError):
            self._closed_pipe = error
            self._runner.abort("the reader of the results has closed the pipe")
            return
        where = "standard output" if self._name == STDIN else self._name
        reason = os.strerror(error.errno) if error.errno else str(error)
        self._runner.abort(f"cannot write {where}: {reason}; answers since then are lost and will be requested again")

    async def _sync(self, output: Output) -> None:
        while True:
            await asyncio.sleep(SYNC_EVERY)
            if output.is_dirty:
                try:
                    await asyncio.shield(asyncio.ensure_future(asyncio.to_thread(output.sync)))
                except OSError as error:
                    self._cannot_write(error)
                    return

    def _close(self, output: Output) -> None:
        with contextlib.suppress(OSError):  # already reported by `_cannot_write`
            output.close()

    def _finish(self) -> None:
        """Every request is done: put the output in order, and compress it."""
        assert self._path is not None
        assert self._target is not None
        if self._rules.order == "input":
            sort(self._path)
        if self._path != self._target:
            compress(self._path, self._target)


def _cost_of(line: bytes, prices: Prices) -> float:
    """The cost of a result of an earlier run; 0 if it reports no usage or its model has no price."""
    body = json.loads(line)["response"]["body"]
    usage, model = read_usage(body), body.get("model") if isinstance(body, dict) else None
    price = prices.of(model) if isinstance(model, str) else None
    return 0.0 if usage is None or price is None else price.of(usage)


def _is_stream(path: Path) -> bool:
    """Whether `path` is a pipe or a device, to which a later run cannot append."""
    return path.exists() and not path.is_file()


def calls_of(client: AsyncOpenAI, rules: Rules) -> RawCalls:
    """The calls of `client`, throttled if it is not already."""
    throttled = client if isinstance(client, AsyncThrottledMixin) else wrap(client)
    return RawCalls(throttled, retries=rules.max_retries, patience=rules.max_outage)


async def run_file(
    client: AsyncOpenAI,
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    watch: Callable[[Status], None] | None = None,
    order: Order = "completion",
    retry_errors: bool = False,
    limit: int | None = None,
    prices: Prices | None = None,
    max_cost: float | None = None,
    max_retries: int = RETRIES,
    keep_going: bool = False,
    max_outage: float = OUTAGE,
    **asked: Any,
) -> Summary:
    """Send the requests of a file and append their results to another. Called again, it continues where it stopped.

    `source` and `output`: paths, or "-" for standard input and output; `.gz` and `.zst` files are compressed.
    `watch`: called with the status twice a second. `asked`: `kind`, `path`, `model`, `system`, `template`, `column`,
    `id_column` and `body`, which mean the same as the options of `throttled-openai run` (`kind` is `--format` there,
    and `path` is `--url`). If the call is cancelled, the results so far are kept.

    Raises `ValueError` if the options do not fit the file, `WrongRunError` if the output belongs to another run, and
    `InputError` or `OSError` if a file cannot be read or written.
    """
    rules = Rules(order, retry_errors, limit, prices, max_cost, max_retries, keep_going, max_outage)
    made = await asyncio.to_thread(Input, os.fspath(source), InputOptions(**asked))
    run = FileRun(calls_of(client, rules), made, os.fspath(output), rules)
    watching = asyncio.ensure_future(_watch(run, watch)) if watch is not None else None
    try:
        return await run.run()
    finally:
        if watching is not None:
            watching.cancel()
            await asyncio.wait({watching})


async def _watch(run: FileRun, watch: Callable[[Status], None]) -> None:
    while True:
        watch(run.status())
        await asyncio.sleep(0.5)
