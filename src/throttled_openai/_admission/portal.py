"""The portal: a thread with an event loop, which makes decisions for callers on all other threads."""

from __future__ import annotations

import asyncio
import atexit
import functools
import os
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, Generic, TypeVar

from .home import home, post

T = TypeVar("T")
MakeCoroutine = Callable[[], Coroutine[Any, Any, T]]

# Seconds after which a blocked thread checks whether it was interrupted. On Windows an endless wait ignores
# Ctrl-C; on other systems it does not, and -1 means endless.
LOOK: Final = 0.5 if sys.platform == "win32" else -1.0
# Seconds after which a thread checks whether it is its turn to run a loop that has no thread of its own.
TURN: Final = 0.01
# Seconds that the interpreter waits for the portal when it exits.
EXIT: Final = 1.0

# Event loops of a parent process. Closing them would take their files out of the parent's epoll.
_inherited: list[asyncio.AbstractEventLoop] = []


class Portal:
    """A daemon thread with an event loop, started on first use.

    At interpreter exit it drains what was posted and then stops accepting work. A forked child starts a
    portal of its own: earlier submissions are the parent's. If no thread can be started, the threads that
    wait for a result run the loop in turn: Python 3.12 starts none once the main thread has ended, and a
    system may have run out of them.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None  # runs the loop
        self._starting = threading.Lock()
        self._turning: threading.Lock | None = None  # held by the thread whose turn it is to run the loop

    @property
    def here(self) -> bool:
        """Whether the current thread is the portal's, which must not wait for itself."""
        return self._thread is threading.current_thread()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The running loop. Raises `RuntimeError` if no thread can be started."""
        return self._start() if self._loop is None or self._turning is not None else self._loop

    def runs(self, loop: object) -> bool:
        return loop is self._loop

    def _start(self) -> asyncio.AbstractEventLoop:
        with self._starting:
            if self._loop is None or self._turning is not None:
                # Not made by the application's policy: this loop needs only timers.
                loop = self._loop or asyncio.SelectorEventLoop()
                run = (
                    loop.run_forever
                    if self._turning is None
                    else functools.partial(self._take_over, loop, self._turning)
                )
                thread = threading.Thread(target=run, name="throttled-openai", daemon=True)
                try:
                    thread.start()
                except RuntimeError:
                    if self._loop is None:
                        loop.close()
                    raise
                self._loop, self._thread, self._turning = loop, thread, None
            return self._loop

    def _take_over(self, loop: asyncio.AbstractEventLoop, turning: threading.Lock) -> None:
        """From the next result on, run a loop that threads have run in turn."""
        post(loop, loop.stop)
        turning.acquire()
        while self._loop is loop:  # some of those threads may still stop it
            loop.run_forever()

    def _loop_for_a_thread(self) -> asyncio.AbstractEventLoop:
        """The loop, for a caller that can take its turn in running it."""
        try:
            return self.loop
        except RuntimeError:
            with self._starting:
                if self._loop is None:
                    self._turning, self._loop = threading.Lock(), asyncio.SelectorEventLoop()
                return self._loop

    def run(
        self,
        make_coroutine: MakeCoroutine[T],
        on_abandoned: Callable[[T], object] | None = None,
        *,
        patience: float | None = None,
    ) -> T:
        """Run the coroutine on the portal's loop, and return or raise what it does; blocks this thread.

        An exception in this thread cancels the coroutine; a result that it returned all the same is passed to
        `on_abandoned`. Raises `TimeoutError` after `patience` seconds.
        """
        assert not self.here, "the portal would wait for itself"
        answered = threading.Lock()
        answered.acquire()  # the result releases it
        loop = self._loop_for_a_thread()
        wake = functools.partial(self._answered, answered, loop)
        submission = Submission(loop, make_coroutine, wake, on_abandoned)
        deadline = None if patience is None else time.monotonic() + patience
        try:
            submission.submit()
            while not self._wait(answered, loop, LOOK if patience is None else patience):
                _look_at(deadline)
            return submission.result()
        except BaseException:
            submission.abandon()
            raise

    def _wait(self, answered: threading.Lock, loop: asyncio.AbstractEventLoop, seconds: float) -> bool:
        turning = self._turning
        if turning is None:
            return answered.acquire(timeout=seconds)
        if turning.acquire(blocking=False):
            me = threading.current_thread()
            try:
                self._thread = me
                if answered.acquire(blocking=False):
                    return True
                loop.run_forever()  # until a result is there
            finally:
                if self._thread is me:
                    self._thread = None
                turning.release()
        return answered.acquire(timeout=TURN)

    def _answered(self, answered: threading.Lock, loop: asyncio.AbstractEventLoop) -> None:
        answered.release()
        if self._turning is not None:
            loop.stop()

    async def run_async(self, make_coroutine: MakeCoroutine[T], on_abandoned: Callable[[T], object] | None = None) -> T:
        """As `run`, for a task on any event loop."""
        loop = home()
        answered = loop.create_future()
        wake = functools.partial(post, loop, _wake, answered)
        submission = Submission(self.loop, make_coroutine, wake, on_abandoned)
        try:
            submission.submit()
            await answered
            return submission.result()
        except BaseException:
            submission.abandon()
            raise

    def drain(self) -> None:
        """Let the loop do what was posted before, and nothing after that.

        If the interpreter ended while a daemon thread writes a log line, that thread would never release
        the lock of the stream, which is fatal.
        """
        loop, self._loop = self._loop, None
        turned, self._turning = self._turning, None
        if loop is not None and turned is None:
            drained = threading.Event()
            post(loop, _block, drained)
            drained.wait(EXIT)

    def reset_after_fork(self) -> None:
        """Begin anew in a forked child, which has the parent's thread no longer."""
        self._starting, self._turning = threading.Lock(), None
        if self._loop is not None:
            _inherited.append(self._loop)
            self._loop = None


class Submission(Generic[T]):
    """One coroutine run on `loop` for a caller elsewhere; it ends with a result, or is abandoned.

    `wake` tells the caller of the result, or returns False if the caller can no longer hear of it.

    It uses no lock: an exception such as KeyboardInterrupt may hit a thread that has just acquired one,
    and the next thread to wait for it, here the portal, would wait for ever.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        make_coroutine: MakeCoroutine[T],
        wake: Callable[[], object],
        on_abandoned: Callable[[T], object] | None = None,
    ) -> None:
        self._loop = loop
        self._make_coroutine = make_coroutine
        self._wake = wake
        self._on_abandoned = on_abandoned
        self._open = [True]  # the side that takes it out is the first
        self._task: asyncio.Task[None] | None = None
        self._results: list[T] = []
        self._error: BaseException | None = None

    def submit(self) -> None:
        post(self._loop, self._begin)

    def result(self) -> T:
        """Return the result, or raise the error, of a finished submission."""
        if self._error is not None:
            raise self._error
        return self._results[0]

    def abandon(self) -> None:
        """The caller no longer waits for the result."""
        if self._is_first():
            post(self._loop, self._stop)
        else:
            self._hand_over()

    def _begin(self) -> None:
        if self._open:
            self._task = self._loop.create_task(self._run())

    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        try:
            self._results.append(await self._make_coroutine())
        except BaseException as error:  # noqa: BLE001  # every exception is the caller's
            self._error = error
        if not self._is_first() or self._wake() is False:
            self._hand_over()

    def _is_first(self) -> bool:
        try:
            return self._open.pop()
        except IndexError:
            return False

    def _hand_over(self) -> None:
        if self._results and self._on_abandoned is not None:
            self._on_abandoned(self._results.pop())


def _wake(answered: asyncio.Future[None]) -> None:
    if not answered.done():
        answered.set_result(None)


def _look_at(deadline: float | None) -> None:
    if deadline is not None and time.monotonic() >= deadline:
        raise TimeoutError


def _block(drained: threading.Event) -> None:
    drained.set()
    threading.Event().wait()


# One for the whole process: each decision takes microseconds. It ends only with the process.
portal: Final = Portal()
atexit.register(portal.drain)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=portal.reset_after_fork)
