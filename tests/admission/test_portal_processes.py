"""The portal at the exit of the interpreter, at an interrupt, and in forked processes."""

import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from interrupts import unix
from support import Outcome, QueueOptions
from throttled_openai import Throttle
from throttled_openai._admission.call import Call
from throttled_openai._admission.home import post


def run(code, *, interrupt_after=None, timeout=30, **environment):
    """What `code` prints in an interpreter of its own, its exit code, and how long it took."""
    preamble = """
        import os, signal, sys, threading, time
        from throttled_openai import Throttle
        from throttled_openai._admission.call import Call, Outcome, QueueOptions

        def ask(throttle, model="m"):
            return throttle._dispatcher.admit_blocking(Call(model, 1, QueueOptions()))
    """
    process = subprocess.Popen(
        [sys.executable, "-X", "dev", "-c", textwrap.dedent(preamble) + textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONASYNCIODEBUG": "0", **environment},
    )
    try:
        if interrupt_after is not None:
            assert process.stdout.readline() == f"{interrupt_after}\n"
            process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=timeout)
    except BaseException:
        process.kill()
        process.communicate()
        raise
    return process.returncode, out.split(), error


def test_an_interpreter_ends_while_threads_wait():
    code = """
        t = Throttle(max_concurrency=1, threads=True)
        held = ask(t)
        for _ in range(5):
            threading.Thread(target=ask, args=(t,), daemon=True).start()
        while t.stats().waiting < 5:
            time.sleep(0.01)
        print("ends")
    """
    assert run(code) == (0, ["ends"], "")


@unix
def test_an_interpreter_that_waits_ends_at_an_interrupt():
    code = """
        t = Throttle(max_concurrency=1, threads=True)
        held = ask(t)
        try:
            print("waits", flush=True)
            ask(t)
        except KeyboardInterrupt:
            print(t.stats().waiting, t.stats().in_flight)
            raise
    """
    status, out, error = run(code, interrupt_after="waits")
    assert status in {130, -signal.SIGINT}
    assert out == ["0", "1"]
    assert error.strip().endswith("KeyboardInterrupt")


def test_an_interpreter_ends_with_permits_and_streams_in_hand():
    code = """
        t = Throttle(threads=True)
        held = ask(t)
        held.started()
        other = ask(t)
        print("ends")
    """
    assert run(code) == (0, ["ends"], "")


def test_calls_made_at_interpreter_exit_are_answered():
    """By handlers that run before it rests, and after."""
    code = """
        import atexit
        import throttled_openai._admission.portal as p
        atexit.unregister(p.portal.drain)
        t = Throttle(threads=True)

        def use(name):
            permit = ask(t)
            permit.settle(Outcome.SUCCESS)
            print(name)

        atexit.register(use, "after")
        atexit.register(p.portal.drain)
        atexit.register(use, "before")
        use("during")
    """
    assert run(code) == (0, ["during", "before", "after"], "")


def test_an_interpreter_ends_after_what_was_settled_before():
    """With its last log line: a daemon thread that died while it wrote one would be fatal."""
    code = """
        import logging
        from throttled_openai._admission.home import post
        logging.basicConfig(level="DEBUG", stream=sys.stdout, format="%(message)s")
        logging.getLogger("asyncio").disabled = True  # it tells of slow callbacks
        t = Throttle(threads=True)
        permit = ask(t)
        post(permit.loop, time.sleep, 0.3)
        permit.settle(Outcome.SUCCESS)
    """
    status, out, error = run(code)
    assert (status, error) == (0, "")
    assert out[:4] == ["m:", "attempt", "success", "after"]
    assert float(out[4]) >= 0.3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_begins_anew_and_the_parent_goes_on():
    code = """
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork with threads
        t = Throttle(max_concurrency=2, threads=True)
        held = ask(t)
        time.sleep(0.05)
        child = os.fork()
        if not child:
            inherited = held
            print(t.stats().in_flight, flush=True)
            mine = [ask(t), ask(t)]
            inherited.settle(Outcome.SUCCESS)  # the parent's: nothing of ours
            print(t.stats().in_flight, flush=True)
            for permit in mine:
                permit.settle(Outcome.SUCCESS)
            print(t.stats().in_flight, t.stats().succeeded, flush=True)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(status, t.stats().in_flight)
        other = ask(t)
        print(t.stats().in_flight)
        held.settle(Outcome.SUCCESS)
        other.settle(Outcome.SUCCESS)
        print(t.stats().in_flight)
    """
    status, out, error = run(code)
    assert (status, error) == (0, "")
    assert out == ["0", "2", "0", "2", "0", "1", "2", "0"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_that_was_forked_while_the_portal_was_busy_is_as_good():
    code = """
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        t = Throttle(max_concurrency=3, threads=True)
        over = threading.Event()

        def work():
            while not over.is_set():
                ask(t).settle(Outcome.SUCCESS)

        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for _ in range(20):
            child = os.fork()
            if not child:
                for permit in [ask(t), ask(t), ask(t)]:
                    permit.settle(Outcome.SUCCESS)
                os._exit(0 if t.stats().in_flight == 0 and t.stats().succeeded == 3 else 1)
            print(os.waitpid(child, 0)[1])
        over.set()
        for thread in threads:
            thread.join()
        print(t.stats().in_flight, t.stats().waiting)
    """
    status, out, error = run(code, timeout=60)
    assert (status, error) == (0, "")
    assert out == ["0"] * 22


def test_a_throttle_is_shown_though_the_portal_is_busy():
    """A log handler shows it with its lock held, which the portal may be waiting for."""
    throttle = Throttle(rpm=60, threads=True)
    permit = throttle._dispatcher.admit_blocking(Call("m", 1, QueueOptions()))
    busy = threading.Event()
    post(permit.loop, busy.wait, 20)
    try:
        assert "1 in flight" in repr(throttle)
    finally:
        busy.set()
    permit.settle(Outcome.SUCCESS)
