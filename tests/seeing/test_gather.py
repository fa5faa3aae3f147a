"""`gather` and `as_completed`: asyncio's, with a bar whose time left comes from the limits."""

import asyncio
import io
import sys
import types

import pytest

import throttled_openai
from scripted import say, throttled
from support import call, start, throttle, ticks, virtual
from throttled_openai._clients import bar
from throttled_openai._clients.gather import as_completed, gather
from throttled_openai.simulator import Simulator


class Seen:
    """A display that keeps what it is shown, as text."""

    def __init__(self):
        self.lines = []

    def show(self, progress, *, last=False):
        self.lines.append((str(progress), last))


@pytest.fixture
def seen(monkeypatch):
    shown = Seen()
    monkeypatch.setattr("throttled_openai._clients.gather.display_for", lambda progress: shown if progress else None)
    return shown


def test_results_come_in_the_order_of_the_calls(seen):
    @virtual
    async def main():
        async with throttled(Simulator(rpm=600)) as client:
            return await gather(*(say(client, str(number)) for number in range(30)))

    assert len(main()) == 30
    assert seen.lines[0] == ("0 of 30 done", False)  # before any call begins
    assert seen.lines[-1] == ("30 of 30 done", True)


def test_the_time_left_is_that_of_the_limits_before_the_first_answer(seen):
    @virtual
    async def main():
        t = throttle(rpm=60)
        await gather(*(call(t, seconds=3) for _ in range(121)))

    main()
    early = [line for line, _ in seen.lines if line.startswith("0 of 121 done")]
    assert early[1] == "0 of 121 done; about 2 min left; 60 requests/min, sent evenly"


def test_the_first_error_is_raised_at_once_and_the_other_calls_go_on(seen):
    @virtual
    async def main():
        t = throttle()

        async def fails():
            await asyncio.sleep(1)
            raise KeyError

        other = start(call(t, seconds=5))
        with pytest.raises(KeyError):
            await gather(other, fails())
        assert not other.done()
        assert await other == 0.0

    main()
    assert seen.lines[-1] == ("1 of 2 done, 1 failed", True)


def test_errors_may_be_returned(seen):
    @virtual
    async def main():
        async def fails():
            raise KeyError

        return await gather(fails(), asyncio.sleep(1, "ok"), return_exceptions=True)

    error, ok = main()
    assert (type(error), ok) == (KeyError, "ok")
    assert seen.lines[-1] == ("2 of 2 done, 1 failed", True)


def test_cancelling_it_cancels_the_calls(seen):
    @virtual
    async def main():
        t = throttle(rpm=60)
        tasks = [start(call(t)) for _ in range(5)]
        whole = gather(*tasks)
        await ticks()
        whole.cancel()
        with pytest.raises(asyncio.CancelledError):
            await whole
        await ticks()
        assert sum(task.cancelled() for task in tasks) == 4
        assert t.waiting == 0

    main()
    assert seen.lines[-1][1]


def test_as_completed_gives_the_calls_as_they_end(seen):
    @virtual
    async def main():
        calls = [asyncio.sleep(seconds, seconds) for seconds in (3, 1, 2)]
        return [task.result() async for task in as_completed(calls)]

    assert main() == [1, 2, 3]
    assert seen.lines[-1] == ("3 of 3 done", True)


def test_a_loop_that_is_left_early_leaves_the_calls_running(seen):
    @virtual
    async def main():
        tasks = [start(asyncio.sleep(seconds, seconds)) for seconds in (1, 5)]
        async for task in as_completed(tasks):
            assert task is tasks[0]
            break
        return await tasks[1]

    assert main() == 5
    assert seen.lines


def test_one_call_may_be_given_twice_and_none_at_all():
    @virtual
    async def main():
        once = asyncio.sleep(1, "x")
        assert await gather(once, once, progress=False) == ["x", "x"]
        assert await gather(progress=True) == []
        assert [task async for task in as_completed([])] == []

    main()


def test_a_display_that_fails_harms_no_call(monkeypatch):
    class Fails:
        def show(self, progress, *, last=False):
            raise ValueError

    monkeypatch.setattr("throttled_openai._clients.gather.display_for", lambda _: Fails())

    @virtual
    async def main():
        return await gather(asyncio.sleep(1, 1))

    assert main() == [1]


def test_outside_of_an_event_loop_it_says_so():
    with pytest.raises(RuntimeError, match="no running event loop"):
        gather()


# --- displays -------------------------------------------------------------------------------------


def some(done, last=None):
    return bar.Progress(100, done, 0, last, "because" if last else "")


def test_in_a_log_it_is_a_line_now_and_then(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(bar.time, "monotonic", lambda: clock[0])
    stream = io.StringIO()
    lines = bar.Lines(stream)
    for instant in (0.0, 0.05, 0.2, 1.0, 2.0, 4.0, 6.0, 10.0, 15.1):
        clock[0] = instant
        lines.show(some(int(instant), 5.0))
    lines.show(some(100), last=True)
    assert [line.split(" of")[0] for line in stream.getvalue().splitlines()] == ["0", "0", "2", "6", "15", "100"]


def test_on_a_terminal_it_is_a_bar_in_place():
    stream = io.StringIO()
    stream.isatty = lambda: True
    lines = bar.Lines(stream)
    lines.show(some(50, 5.0))
    lines.show(some(100), last=True)
    assert stream.getvalue().startswith("\r[############------------] 50 of 100 done; about 5.0 s left; because")
    assert stream.getvalue().endswith("\n")


def test_with_tqdm():
    tqdm = pytest.importorskip("tqdm").tqdm
    stream = io.StringIO()
    display = bar.display_for(
        type("Mine", (tqdm,), {"__init__": lambda self, **o: tqdm.__init__(self, file=stream, **o)})
    )
    display.show(some(50, 5.0))
    display.show(some(100), last=True)
    assert "50/100, about 5.0 s left; because" in stream.getvalue()
    assert "100/100" in stream.getvalue()


def test_with_rich():
    progress = pytest.importorskip("rich.progress")
    console = pytest.importorskip("rich.console").Console(file=io.StringIO(), force_terminal=True, width=100)
    with progress.Progress(console=console) as bars:
        display = bar.display_for(bars)
        display.show(some(50, 5.0))
        assert (bars.tasks[0].completed, bars.tasks[0].description) == (50, "about 5.0 s left; because")
        display.show(some(100), last=True)
        assert bars.finished
    own = bar.RichBar()
    own.show(some(100), last=True)


def test_in_a_notebook_it_needs_no_widgets(monkeypatch):
    shown = []

    class Handle:
        def update(self, data, *, raw):
            shown.append(data["text/html"])

    def display(data, *, raw, display_id):
        shown.append(data["text/html"])
        return Handle()

    shell = type("ZMQInteractiveShell", (), {})()
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", types.SimpleNamespace(display=display))
    made = bar.display_for(True)
    made.show(some(50, 5.0))
    made.show(some(100), last=True)
    assert 'value="50" max="100"' in shown[0]
    assert "100 of 100 done" in shown[1]


def test_what_it_can_be_shown_with_is_checked():
    assert bar.display_for(False) is None
    with pytest.raises(TypeError, match="progress must be True, False"):
        bar.display_for("yes")
    assert throttled_openai.gather is gather
