"""The portal: a thread with an event loop, where things are decided for callers on all other threads."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import contextvars
import functools
import os
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final, Generic, TypeVar

T = TypeVar("T")
Make = Callable[[], Coroutine[Any, Any, T]]

# Seconds after which a blocked thread looks whether it was interrupted. On Windows a wait without
# an end does not hear Ctrl-C; everywhere else it does, and -1 is without an end.
LOOK: Final = 0.5 if sys.platform == "win32" else -1.0
# Seconds the interpreter waits for the portal at its exit.
EXIT: Final = 1.0

# Event loops of a parent process. Closing them would take their files out of the parent's epoll.
_inherited: list[asyncio.AbstractEventLoop] = []


def post(loop: asyncio.AbstractEventLoop, function: Callable[..., object], *args: object) -> None:
    """Have `function` called on `loop`, in the order of posting; from any thread, and from finalizers.

    Where the loop is closed, nothing happens.
    """
    with contextlib.suppress(RuntimeError):
        # A context of its own: that of the caller would live as long as any timer that is set.
        loop.call_soon_threadsafe(function, *args, context=contextvars.Context())


class Portal:
    """A daemon thread with an event loop, started when it is first asked.

    At the interpreter's exit it rests. A forked child starts one of its own: what was asked before
    is the parent's.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    @property
    def here(self) -> bool:
        """Whether this is its thread, which must not wait for itself."""
        return self._thread is threading.current_thread()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The running loop. Raises `RuntimeError` where the system has no more threads."""
        return self._loop or self._start()

    def _start(self) -> asyncio.AbstractEventLoop:
        with self._starting:
            if self._loop is None:
                # Not by the policy: whatever loop the application likes, this one needs only timers.
                loop = asyncio.SelectorEventLoop()
                self._thread = threading.Thread(target=loop.run_forever, name="throttled-openai", daemon=True)
                try:
                    self._thread.start()
                except RuntimeError:
                    loop.close()
                    raise
                self._loop = loop
            return self._loop

    def ask(self, make: Make[T], unwanted: Callable[[T], object] | None = None) -> T:
        """What the coroutine that `make` makes there returns or raises; blocks this thread.

        Whoever gives up, by whatever exception, cancels it; a result that has come nevertheless
        goes to `unwanted`.
        """
        assert not self.here, "the portal would wait for itself"
        answered = threading.Lock()
        answered.acquire()  # the answer releases it
        question = Question(self.loop, make, answered.release, unwanted)
        try:
            question.ask()
            while not answered.acquire(timeout=LOOK):
                pass
            return question.answer()
        except BaseException:
            question.give_up()
            raise

    async def ask_async(self, make: Make[T], unwanted: Callable[[T], object] | None = None) -> T:
        """As `ask`, for a task on any event loop."""
        loop = asyncio.get_running_loop()
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
        if loop is not None:
            rests = threading.Event()
            post(loop, _rest, rests)
            rests.wait(EXIT)

    def forget(self) -> None:
        """Begin anew in a forked child: the thread is the parent's."""
        self._starting = threading.Lock()
        if self._loop is not None:
            _inherited.append(self._loop)
            self._loop = None


class Question(Generic[T]):
    """One thing asked on `loop`; either it is answered, which `wake` tells, or given up.

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
        if self._is_first():
            self._wake()
        else:
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


def _rest(rests: threading.Event) -> None:
    rests.set()
    threading.Event().wait()


# One for the whole process: it decides in microseconds, and ends with the process only.
portal: Final = Portal()
atexit.register(portal.rest)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=portal.forget)
