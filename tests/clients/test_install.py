"""`install()` and `throttled-openai exec`: throttling programs that do not import us."""

import asyncio
import copy
import inspect
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module

import openai
import pytest

import throttled_openai
from scripted import HI, URL, say
from servers import real
from throttled_openai import Throttle, ThrottledAsyncOpenAI
from throttled_openai._clients.install import installed_stats
from throttled_openai.simulator import Simulator, serve, spawn

HTTP = openai.DefaultHttpxClient()
STOCK = openai.AsyncOpenAI  # as `from openai import AsyncOpenAI` of a module that came before us


@pytest.fixture(autouse=True)
def undone(monkeypatch):
    for name in (*import_module("throttled_openai._clients.install").VARIABLES, "exec_pid"):
        monkeypatch.delenv(f"THROTTLED_OPENAI_{name.upper()}", raising=False)
    yield
    throttled_openai.uninstall()


def test_clients_are_throttled_wherever_the_class_was_had_from():
    throttled_openai.install(rpm=60)
    client = STOCK(api_key="k")
    assert client.throttle.stats().budgets == ()
    assert (type(client).__name__, type(client).__module__) == ("AsyncOpenAI", STOCK.__module__)
    assert isinstance(client, STOCK)
    assert openai.AsyncOpenAI is STOCK
    assert repr(client).startswith("<openai.AsyncOpenAI object at ")


@real
async def test_a_program_that_makes_a_client_for_every_call_keeps_to_one_limit():
    simulator = Simulator(rpm=600, burst=2.0, latency=0.05)
    throttled_openai.install(rpm=600)
    async with serve(simulator) as url:

        async def ask():
            async with STOCK(api_key="k", base_url=url) as client:
                return await say(client)

        began = asyncio.get_running_loop().time()
        await asyncio.gather(*(ask() for _ in range(40)))
        assert asyncio.get_running_loop().time() - began > 2.5
        assert simulator.stats()["succeeded"] == 40


def test_threads_and_event_loops_of_a_program_keep_to_one_limit_together():
    """With the module's own client, synchronous ones, and a loop in each of some threads."""
    throttled_openai.install(rpm=600)
    with spawn(rpm=600, latency=0.05) as url, ThreadPoolExecutor(8) as threads:

        def blocking(_):
            with openai.OpenAI(api_key="k", base_url=url) as client:
                return client.chat.completions.create(model="gpt-4o", messages=HI)

        def looping(_):
            async def main():
                async with STOCK(api_key="k", base_url=url) as client:
                    return await asyncio.gather(*(say(client) for _ in range(5)))

            return asyncio.run(main())

        began = time.monotonic()
        work = [threads.submit(function, None) for _ in range(4) for function in (blocking, looping)]
        assert all(each.result() for each in work)
        assert time.monotonic() - began > 1.3
        ((host, stats),) = installed_stats()
        assert (host, stats.succeeded, stats.in_flight, stats.waiting) == ("127.0.0.1", 24, 0, 0)


def test_accounts_have_throttles_of_their_own_and_copies_that_of_theirs():
    throttled_openai.install(rpm=60)
    one, same, other, elsewhere = (
        STOCK(api_key=key, base_url=url)
        for key, url in (("a", URL), ("a", f"{URL}/sub"), ("b", URL), ("a", "http://elsewhere/v1"))
    )
    assert one.throttle is same.throttle
    assert len({id(client.throttle) for client in (one, other, elsewhere)}) == 3
    assert one.copy(timeout=3).throttle is one.throttle
    assert one.copy(api_key="b").throttle is other.throttle
    assert one.with_options(base_url="http://elsewhere/v1").throttle is elsewhere.throttle


def test_a_copy_with_limits_of_its_own_keeps_them():
    throttled_openai.install(rpm=500)
    client = STOCK(api_key="k")
    assert client.copy(timeout=1).throttle is client.throttle
    assert client.copy(api_key="other").throttle is not client.throttle
    slower = client.copy(rpm=5)
    assert slower.throttle is not client.throttle
    assert slower.copy(timeout=1).throttle is slower.throttle


def test_threads_that_make_the_first_clients_of_an_account_at_once_share_its_throttle():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(20):
            throttled_openai.install(rpm=500)
            together = threading.Barrier(4)

            def make(together=together):
                together.wait()
                return openai.OpenAI(api_key="k", http_client=HTTP).throttle

            with ThreadPoolExecutor(4) as threads:
                made = [threads.submit(make) for _ in range(4)]
                assert len({id(each.result()) for each in made}) == 1
            throttled_openai.uninstall()
    finally:
        sys.setswitchinterval(before)


def test_clients_have_our_connections():
    throttled_openai.install(rpm=500)
    assert isinstance(STOCK(api_key="k")._client, throttled_openai.PooledAsyncHttpxClient)
    assert isinstance(openai.OpenAI(api_key="k")._client, throttled_openai.PooledHttpxClient)


def test_the_classes_show_the_arguments_they_had():
    class Mine(openai.OpenAI):
        def __init__(self, *, colour):
            super().__init__(api_key=colour)

    classes = openai.OpenAI, STOCK, openai.AsyncAzureOpenAI, Mine
    before = [inspect.signature(cls.__init__) for cls in classes]
    throttled_openai.install(rpm=500)
    throttled_openai.uninstall()
    for cls, signature in zip(classes, before, strict=True):
        assert list(inspect.signature(cls).parameters.values()) == list(signature.parameters.values())[1:]


def test_a_client_made_before_can_be_copied():
    client = STOCK(api_key="k")
    throttled_openai.install(rpm=500)
    assert copy.copy(client).throttle is STOCK(api_key="k").throttle
    assert not hasattr(client, "throttle")


def test_a_throttle_that_is_given_is_everybodys():
    shared = Throttle(rpm=60, threads=True)
    throttled_openai.install(throttle=shared)
    assert STOCK(api_key="a").throttle is STOCK(api_key="b").throttle is shared


def test_clients_made_before_stay_as_they_are_and_those_made_after_uninstall_are_the_sdks():
    before = STOCK(api_key="k")
    throttled_openai.install(rpm=60)
    during = STOCK(api_key="k")
    throttled_openai.uninstall()
    after = STOCK(api_key="k")
    assert type(before) is type(after) is STOCK
    assert not hasattr(before.copy(), "throttle")
    assert during.copy(timeout=1).throttle is during.throttle
    throttled_openai.uninstall()  # a second time does no harm


def test_it_can_be_installed_again_after_uninstall():
    throttled_openai.install(rpm=60)
    with pytest.raises(RuntimeError, match="uninstall"):
        throttled_openai.install(rpm=70)
    throttled_openai.uninstall()
    throttled_openai.install(rpm=70)
    assert STOCK(api_key="k").throttle._options["rpm"] == 70


def test_azures_clients_and_classes_of_a_librarys_own_are_throttled_too():
    class Library(STOCK):
        def __init__(self, name):
            self.name = name
            super().__init__(api_key="k", base_url=URL)

        def hello(self):
            return f"hello {self.name}"

    throttled_openai.install(rpm=60)
    client = Library("you")
    assert (client.hello(), type(client).__qualname__) == ("hello you", Library.__qualname__)
    assert client.throttle
    azure = openai.AsyncAzureOpenAI(api_key="k", api_version="1", azure_endpoint="https://a.openai.azure.com")
    assert azure.throttle
    assert isinstance(azure, openai.AsyncAzureOpenAI)


def test_our_own_clients_are_left_alone():
    throttled_openai.install(rpm=60)
    client = ThrottledAsyncOpenAI(api_key="k", rpm=5)
    assert type(client) is ThrottledAsyncOpenAI
    assert client.throttle._options["rpm"] == 5


def test_a_client_with_connections_of_its_own_keeps_them_whatever_pool_was_asked_for():
    throttled_openai.install(pool="sdk")
    mine = openai.DefaultAsyncHttpxClient()
    assert STOCK(api_key="k", http_client=mine)._client is mine


def test_settings_are_read_from_the_environment_and_arguments_go_over_them(monkeypatch):
    monkeypatch.setenv("THROTTLED_OPENAI_RPM", "500")
    monkeypatch.setenv("THROTTLED_OPENAI_TPM", " 3e4 ")
    monkeypatch.setenv("THROTTLED_OPENAI_MAX_WAIT", "2.5")
    monkeypatch.setenv("THROTTLED_OPENAI_PRIORITY", "")
    throttled_openai.install(rpm=60)
    client = STOCK(api_key="k")
    assert (client.throttle._options["rpm"], client.throttle._options["tpm"]) == (60, 30_000)
    assert client._queue_options.max_wait == 2.5


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("RPM", "many", "THROTTLED_OPENAI_RPM must be a number such as 500; it is 'many'"),
        ("MAX_QUEUED", "1.5", "THROTTLED_OPENAI_MAX_QUEUED must be a whole number such as 100"),
        ("RPM", "-3", "rpm must be positive"),
        ("DIALECT", "klingon", "dialect must be one of"),
        ("POOL", "big", "pool must be one of"),
    ],
)
def test_invalid_environment_variables_fail_at_install(monkeypatch, name, text, says):
    monkeypatch.setenv(f"THROTTLED_OPENAI_{name}", text)
    with pytest.raises(ValueError, match=says):
        throttled_openai.install()
    assert type(STOCK(api_key="k")) is STOCK


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ThrottledAsyncOpenAI(api_key="k", rmp=3), "'rmp'; did you mean 'rpm'?"),
        (lambda: throttled_openai.ThrottledOpenAI(api_key="k", tmp=3), "'tmp'; did you mean 'tpm'?"),
        (lambda: ThrottledAsyncOpenAI(api_key="k", max_retry=3), "did you mean 'max_retries'?"),
        (lambda: ThrottledAsyncOpenAI(api_key="k").copy(rmp=3), "did you mean 'rpm'?"),
        (lambda: ThrottledAsyncOpenAI(api_key="k").with_throttle(priorty=3), "did you mean 'priority'?"),
        (lambda: Throttle(rmp=3), "did you mean 'rpm'?"),
        (lambda: throttled_openai.wrap(STOCK(api_key="k"), rmp=3), "wrap() got an unexpected"),
        (lambda: throttled_openai.wrap_http_client(openai.DefaultAsyncHttpxClient(), rmp=3), "did you mean 'rpm'?"),
        (lambda: throttled_openai.queue_options(max_wiat=3), "did you mean 'max_wait'?"),
        (lambda: throttled_openai.install(rmp=3), "install() got an unexpected keyword argument 'rmp'; did you mean"),
    ],
)
def test_a_mistyped_option_is_an_error_that_names_the_right_one(make, says):
    with pytest.raises(TypeError) as caught:
        make()
    assert says in str(caught.value)


def test_an_option_of_a_librarys_own_class_may_resemble_ours():
    class Library(throttled_openai.AsyncThrottledMixin, STOCK):
        def __init__(self, limit, **options):
            self.limit = limit
            super().__init__(api_key="k", **options)

    assert Library(limit=3, rpm=60).limit == 3
    with pytest.raises(TypeError, match="'rmp'; did you mean 'rpm'"):
        Library(limit=3, rmp=60)


def test_signatures_are_unchanged_by_the_check_of_names():
    assert list(inspect.signature(Throttle).parameters)[:2] == ["limits", "rpm"]
    assert list(inspect.signature(throttled_openai.queue_options).parameters) == ["priority", "max_wait", "max_queued"]


def test_a_mistyped_variable_is_a_warning(monkeypatch, caplog):
    monkeypatch.setenv("THROTTLED_OPENAI_RMP", "5")
    throttled_openai.install(rpm=60)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "THROTTLED_OPENAI_RMP is ignored" in record.getMessage()
    assert "did you mean 'THROTTLED_OPENAI_RPM'?" in record.getMessage()


def test_a_child_process_logs_once_that_it_uses_the_whole_limit(monkeypatch, caplog):
    monkeypatch.setenv("THROTTLED_OPENAI_EXEC_PID", "1")
    throttled_openai.install(rpm=60)
    for key in "ab":
        assert STOCK(api_key=key).throttle
    (record,) = caplog.records
    assert "has the whole limit" in record.getMessage()


# --- the command ----------------------------------------------------------------------------------

SCRIPT = """
    import asyncio, sys
    from openai import AsyncOpenAI
    from throttled_openai.simulator import Simulator, serve

    async def main():
        simulator = Simulator(rpm=600, latency=0.05)
        async with serve(simulator) as url:
            async def ask(number):
                async with AsyncOpenAI(base_url=url, api_key="sk-secret", max_retries=0) as client:
                    return await client.chat.completions.create(
                        model="gpt-4o", messages=[{"role": "user", "content": str(number)}])
            print(len(await asyncio.gather(*(ask(number) for number in range(30)))), "answers")
        print(sys.argv[1:], __name__, __file__)

    asyncio.run(main())
"""


def run(tmp_path, script, *arguments, before=(), module=False, **environment):
    (tmp_path / "program.py").write_text(textwrap.dedent(script))
    named = ["-m", "program"] if module else [str(tmp_path / "program.py")]
    return subprocess.run(
        [sys.executable, "-m", "throttled_openai", "exec", *before, *named, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        env={**import_module("os").environ, **environment},
        check=False,
    )


@pytest.mark.parametrize("module", [False, True])
def test_a_script_runs_unchanged_and_is_summed_up_at_its_end(tmp_path, module):
    done = run(tmp_path, SCRIPT, "--rpm", "7", before=["--rpm", "600"], module=module)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "30 answers"
    assert "['--rpm', '7'] __main__" in done.stdout
    assert "127.0.0.1: 30 requests succeeded in" in done.stderr
    assert "600 requests/min" in done.stderr
    assert "secret" not in done.stdout + done.stderr


def test_the_environment_sets_it_too_and_quiet_says_nothing(tmp_path):
    done = run(tmp_path, SCRIPT, before=["--quiet"], THROTTLED_OPENAI_RPM="600")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("script", "code", "says"),
    [
        ("import sys; sys.exit(3)", 3, ""),
        ("raise SystemExit('no luck')", 1, "no luck"),
        ("def deep():\n    raise KeyError('gone')\ndeep()", 1, "KeyError: 'gone'"),
        ("import sys; sys.exit()", 0, ""),
    ],
)
def test_the_exit_code_and_the_traceback_are_the_programs(tmp_path, script, code, says):
    done = run(tmp_path, script, before=["--quiet"])
    assert done.returncode == code
    assert says in done.stderr
    assert "runpy" not in done.stderr
    assert "throttled_openai" not in done.stderr


def test_the_programs_own_excepthook_is_called(tmp_path):
    done = run(tmp_path, "import sys; sys.excepthook = lambda kind, error, trace: print('mine:', error)\n1 / 0")
    assert (done.returncode, done.stdout) == (1, "mine: division by zero\n")


def test_it_is_summed_up_after_the_programs_threads(tmp_path):
    script = """
        import threading, time
        from openai import OpenAI
        def work():
            time.sleep(0.3)
            OpenAI(api_key="k")
        threading.Thread(target=work).start()
    """
    assert "api.openai.com" in run(tmp_path, textwrap.dedent(script)).stderr


def test_what_cannot_be_run_says_so(tmp_path):
    done = run(tmp_path, "", before=["--rpm", "-1"])
    assert done.returncode == 2
    assert "rpm must be positive" in done.stderr
    alone = subprocess.run(
        [sys.executable, "-m", "throttled_openai", "exec"], capture_output=True, text=True, timeout=60, check=False
    )
    assert alone.returncode == 2
    assert "name a script" in alone.stderr
