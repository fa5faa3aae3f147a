"""The portal: a thread with an event loop, where things are decided for callers on all other threads."""

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
Make = Callable[[], Coroutine[Any, Any, T]]

# Seconds after which a blocked thread looks whether it was interrupted. On Windows a wait without
# an end does not hear Ctrl-C; everywhere else it does, and -1 is without an end.
LOOK: Final = 0.5 if sys.platform == "win32" else -1.0
# Seconds after which a thread looks whether it is its turn to run the loop, where that has no thread.
TURN: Final = 0.01
# Seconds the interpreter waits for the portal at its exit.
EXIT: Final = 1.0

# Event loops of a parent process. Closing them would take their files out of the parent's epoll.
_inherited: list[asyncio.AbstractEventLoop] = []


class Portal:
    """A daemon thread with an event loop, started when it is first asked.

    At the interpreter's exit it rests. A forked child starts one of its own: what was asked before
    is the parent's. Where no thread can be started, the threads that wait for an answer run the loop
    in turn: Python 3.12 starts none once the main thread has ended, and a system may have no more.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None  # that runs the loop
        self._starting = threading.Lock()
        self._turning: threading.Lock | None = None  # held by the thread that runs it in its turn

    @property
    def here(self) -> bool:
        """Whether this is its thread, which must not wait for itself."""
        return self._thread is threading.current_thread()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop, which runs. Raises `RuntimeError` where no thread can be started."""
        return self._start() if self._loop is None or self._turning is not None else self._loop

    def runs(self, loop: object) -> bool:
        return loop is self._loop

    def _start(self) -> asyncio.AbstractEventLoop:
        with self._starting:
            if self._loop is None or self._turning is not None:
                # Not by the policy: whatever loop the application likes, this one needs only timers.
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
        """Run a loop that threads have run in turn, from the next answer on."""
        post(loop, loop.stop)
        turning.acquire()
        while self._loop is loop:  # some of those threads may still stop it
            loop.run_forever()

    def _loop_for_a_thread(self) -> asyncio.AbstractEventLoop:
        """The loop, for a caller that can run it in its turn."""
        try:
            return self.loop
        except RuntimeError:
            with self._starting:
                if self._loop is None:
                    self._turning, self._loop = threading.Lock(), asyncio.SelectorEventLoop()
                return self._loop

    def ask(self, make: Make[T], unwanted: Callable[[T], object] | None = None, *, patience: float | None = None) -> T:
        """What the coroutine that `make` makes there returns or raises; blocks this thread.

        A caller that gives up, by whatever exception, cancels it; a result that has come nevertheless
        goes to `unwanted`. Raises `TimeoutError` after `patience` seconds.
        """
        assert not self.here, "the portal would wait for itself"
        answered = threading.Lock()
        answered.acquire()  # the answer releases it
        loop = self._loop_for_a_thread()
        question = Question(loop, make, functools.partial(self._answered, answered, loop), unwanted)
        deadline = None if patience is None else time.monotonic() + patience
        try:
            question.ask()
            while not self._wait(answered, loop, LOOK if patience is None else patience):
                _look_at(deadline)
            return question.answer()
        except BaseException:
            question.give_up()
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
                loop.run_forever()  # until somebody is answered
            finally:
                if self._thread is me:
                    self._thread = None
                turning.release()
        return answered.acquire(timeout=TURN)

    def _answered(self, answered: threading.Lock, loop: asyncio.AbstractEventLoop) -> None:
        answered.release()
        if self._turning is not None:
            loop.stop()

    async def ask_async(self, make: Make[T], unwanted: Callable[[T], object] | None = None) -> T:
        """As `ask`, for a task on any event loop."""
        loop = home()
        answered = loop.create_future()
        question = Question(self.loop, make, functools.partial(post, loop, _wake, answered), unwanted)
        try:
            question.ask()
            await answered
            return question.answer()
        except BaseException:
            question.give_up()
            raise

    def rest(self) -> None:
        """Let what was posted be done, then nothing more.

        A daemon thread that the end of the interpreter meets in the middle of a log line would
        never give back the lock of its stream, which is fatal.
        """
        loop, self._loop = self._loop, None
        turned, self._turning = self._turning, None
        if loop is not None and turned is None:
            rests = threading.Event()
            post(loop, _rest, rests)
            rests.wait(EXIT)

    def forget(self) -> None:
        """Begin anew in a forked child: the thread is the parent's."""
        self._starting, self._turning = threading.Lock(), None
        if self._loop is not None:
            _inherited.append(self._loop)
            self._loop = None


class Question(Generic[T]):
    """One thing asked on `loop`; either it is answered, which `wake` tells, or given up.

    Where `wake` returns False, nobody can hear the answer any more.

    Without a lock: an exception such as KeyboardInterrupt may hit a thread that has just taken one,
    and whoever waits for it next would wait for ever. Here that would be the portal.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        make: Make[T],
        wake: Callable[[], object],
        unwanted: Callable[[T], object] | None = None,
    ) -> None:
        self._loop = loop
        self._make = make
        self._wake = wake
        self._unwanted = unwanted
        self._open = [True]  # whoever takes it out comes first
        self._task: asyncio.Task[None] | None = None
        self._result: list[T] = []
        self._error: BaseException | None = None

    def ask(self) -> None:
        post(self._loop, self._begin)

    def answer(self) -> T:
        """The result, or the error, once it is there."""
        if self._error is not None:
            raise self._error
        return self._result[0]

    def give_up(self) -> None:
        """Nobody waits for the answer any more."""
        if self._is_first():
            post(self._loop, self._stop)
        else:
            self._turn_away()

    def _begin(self) -> None:
        if self._open:
            self._task = self._loop.create_task(self._run())

    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        try:
            self._result.append(await self._make())
        except BaseException as error:  # noqa: BLE001  # whatever it is, it is the asker's
            self._error = error
        if not self._is_first() or self._wake() is False:
            self._turn_away()

    def _is_first(self) -> bool:
        try:
            return self._open.pop()
        except IndexError:
            return False

    def _turn_away(self) -> None:
        if self._result and self._unwanted is not None:
            self._unwanted(self._result.pop())


def _wake(answered: asyncio.Future[None]) -> None:
    if not answered.done():
        answered.set_result(None)


def _look_at(deadline: float | None) -> None:
    if deadline is not None and time.monotonic() >= deadline:
        raise TimeoutError


def _rest(rests: threading.Event) -> None:
    rests.set()
    threading.Event().wait()


# One for the whole process: it decides in microseconds, and ends with the process only.
portal: Final = Portal()
atexit.register(portal.rest)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=portal.forget)
