"""The parent's side of a worker: starts it in a rival's environment, gives it orders, and reads its records."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from contextlib import ExitStack
from typing import Any, ClassVar, Self

from throttled_openai.simulator import Fault, Settings, spawn

from . import environment
from . import scenario as scenarios

# Seconds after which a run is killed, wherever it hangs.
PATIENCE = 300.0

# The cores that this process may use.
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []

Record = dict[str, Any]


class StoppedError(Exception):
    """The comparison was interrupted."""


class WorkerProcess:
    """A process in a rival's environment: one for all runs in virtual time, one for each run on sockets."""

    _all: ClassVar[list[WorkerProcess]] = []
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
        """Stop all workers, from another thread. Waiting for a run, or starting one, then raises `StoppedError`."""
        cls._stopped = True
        for worker in cls._all:
            if (process := worker._process) is not None:  # noqa: SLF001
                process.kill()

    def do(self, order: Record) -> Record:
        """Do one run. The record of a run that did not end has the key `broken`."""
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
        command = [environment.python_of(order["rival"]), environment.PROJECT / "benchmarks" / "compare.py", "worker"]
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
                # Ctrl-C must reach only this process: a run that it interrupts would count as broken.
                start_new_session=True,
            )

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


class pinned:  # noqa: N801  # used like a function
    """Processes that are started inside stay on one core; -1: the last one, None: any core."""

    def __init__(self, core: int | None) -> None:
        self._core = core if CORES else None

    def __enter__(self) -> None:
        if self._core is not None:
            self._before = os.sched_getaffinity(0)
            os.sched_setaffinity(0, {CORES[self._core]})

    def __exit__(self, *_: object) -> None:
        if self._core is not None:
            os.sched_setaffinity(0, self._before)
