"""`throttled-openai top`: only the same user can look, and what is changed there changes the running program."""

import asyncio
import io
import json
import os
import socket
import stat
import subprocess
import sys
import threading

import pytest

from support import Limits, call, start, throttle, ticks
from throttled_openai._clients import live
from throttled_openai._clients.install import install, uninstall
from throttled_openai._commands import exec as _exec
from throttled_openai._commands.main import main
from throttled_openai._commands.top import cli
from throttled_openai._commands.top.source import ProcessSource, Shown, Snapshot, processes

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no Unix sockets there")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The runtime directory of this user, short enough for a socket's address."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv("THROTTLED_OPENAI_TOP", raising=False)
    yield tmp_path / f"throttled-openai-{os.geteuid()}"
    live.view.end()


class Busy:
    """A program in another thread: one budget, of which one call is answered and three wait."""

    def __enter__(self):
        self._ready, self._stop = threading.Event(), None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        self._ready.wait(5)
        return self.throttle

    async def _run(self):
        self._stop, self._loop = asyncio.Event(), asyncio.get_running_loop()
        self.throttle = throttle({"top-test": Limits(rpm=1, tpm=6000, burst=1.0)})
        await call(self.throttle, 10, model="top-test")
        tasks = [start(call(self.throttle, 10, model="top-test")) for _ in range(3)]
        await ticks()
        self._ready.set()
        await self._stop.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()


def mine(snapshot):
    [found] = [shown for shown in snapshot.budgets if shown.stats.name == "top-test"]
    return found


def test_the_socket_and_its_directory_are_this_users_only(folder):
    live.view.begin()
    live.view.begin()  # a second time changes nothing
    path = folder / f"{os.getpid()}.sock"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    live.view.end()
    assert not path.exists()


@pytest.mark.parametrize("mode", [0o755, 0o770])
def test_a_directory_that_others_can_open_is_not_used(folder, mode, caplog):
    folder.mkdir()
    folder.chmod(mode)
    live.view.begin()
    assert "no live view of this process" in caplog.text
    assert not list(folder.glob("*.sock"))
    assert main(["top"]) == 1


def test_a_link_in_the_place_of_the_directory_is_not_followed(folder, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    folder.symlink_to(elsewhere)
    with pytest.raises(PermissionError):
        live.directory()


def test_what_is_shown_is_what_stats_say(folder):
    live.view.begin()
    with Busy() as t:
        snapshot = ProcessSource(folder / f"{os.getpid()}.sock").read()
        shown = mine(snapshot)
        assert (shown.stats.waiting, shown.stats.succeeded) == (3, 1)
        assert shown.stats.windows[0].limit == t.stats().budgets[0].windows[0].limit == 1
        assert f"process {os.getpid()}" in snapshot.title


def test_changes_reach_the_program(folder, capsys):
    live.view.begin()
    with Busy() as t:
        assert main(["top", str(os.getpid()), "--budget", "top-test", "--pause"]) == 0
        assert "top-test: paused by you, 3 waiting" in capsys.readouterr().out
        assert t.stats().budgets[0].pause.reason == "user"
        assert main(["top", "--budget", "top-test", "--rpm", "6000"]) == 0
        assert t.stats().budgets[0].windows[0].limit == 6000
        assert t.waiting == 3
        assert main(["top", "--budget", "top-test", "--resume"]) == 0
        for _ in range(100):
            if not t.stats().waiting:
                break
        assert main(["top", "--budget", "nothing", "--pause"]) == 1
        assert "there is no budget 'nothing'" in capsys.readouterr().err
        assert main(["top", "--json"]) == 0
        assert "top-test" in {budget["name"] for budget in json.loads(capsys.readouterr().out)}


def test_an_odd_question_costs_its_answer_only(folder):
    live.view.begin()
    path = str(folder / f"{os.getpid()}.sock")
    for question in (b"\n", b"[]\n", b"{not json\n", b"\xff" * 10 + b"\n", b'{"do": "shut down"}\n'):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(path)
            connection.sendall(question)
            connection.settimeout(5)
            connection.recv(1 << 20)
    with Busy():
        source = ProcessSource(folder / f"{os.getpid()}.sock")
        shown = mine(source.read())
        assert "there is no 'explode'" in source.change(shown, "explode").error
        assert "rpm must be" in source.change(shown, "adjust", rpm=-1.0).error


def test_sockets_of_ended_processes_are_removed(folder):
    live.directory()
    left = folder / "999999.sock"
    with socket.socket(socket.AF_UNIX) as closed:
        closed.bind(str(left))
    assert processes() == []
    assert not left.exists()


def test_without_a_program_it_says_how_to_start_one(folder, capsys):
    assert main(["top"]) == 1
    assert "exec --top" in capsys.readouterr().err
    assert folder.exists()


def test_it_is_opt_in(folder, monkeypatch):
    install(rpm=5)
    uninstall()
    assert not list(folder.glob("*.sock"))
    install(rpm=5, top=True)
    uninstall()
    assert len(list(folder.glob("*.sock"))) == 1
    live.view.end()
    monkeypatch.setenv("THROTTLED_OPENAI_TOP", "1")
    install(rpm=5)
    uninstall()
    assert len(list(folder.glob("*.sock"))) == 1


def test_exec_asks_for_it_through_the_environment(monkeypatch):
    became = {}
    monkeypatch.setattr(_exec, "_become", lambda command, environment: became.update(environment) or 0)
    assert main(["exec", "--top", "--shadow", "--rpm", "5", "x.py"]) == 0
    assert (became["THROTTLED_OPENAI_TOP"], became["THROTTLED_OPENAI_ENFORCE"]) == ("1", "0")
    became.clear()
    assert main(["exec", "--rpm", "5", "x.py"]) == 0
    assert "THROTTLED_OPENAI_TOP" not in became


def test_shadow_mode_comes_from_the_environment(monkeypatch):
    from openai import OpenAI

    monkeypatch.setenv("THROTTLED_OPENAI_ENFORCE", "0")
    install()
    try:
        client = OpenAI(api_key="none", base_url="http://server/v1")
    finally:
        uninstall()
    assert client.throttle.enforce is False
    client.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork there")
def test_a_forked_child_has_a_socket_of_its_own(folder):
    code = (
        "import os, time, warnings; warnings.simplefilter('ignore')\n"
        "from throttled_openai._clients import live\n"
        "from throttled_openai._commands.top.source import processes\n"
        "live.view.begin()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    time.sleep(5); os._exit(0)\n"
        "for _ in range(100):\n"
        "    found = {each.process for each in processes()}\n"
        "    if len(found) == 2: break\n"
        "    time.sleep(0.05)\n"
        "print(found == {os.getpid(), child})\n"
        "os.kill(child, 9); os.waitpid(child, 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == "True"
    assert folder.exists()


# --- the picture ----------------------------------------------------------------------------------


class Fixed:
    """A source that is not a process."""

    def __init__(self, *budgets):
        self.asked = []
        self.snapshot = Snapshot("a store", 12.0, tuple(Shown("0", each) for each in budgets))

    def read(self):
        return self.snapshot

    def change(self, shown, what, **values):
        self.asked.append((shown.stats.name, what, values))
        return self.snapshot


def drawn(snapshot, **options):
    console = pytest.importorskip("rich.console").Console(file=io.StringIO(), width=110)
    from throttled_openai._commands.top.view import History, picture

    history = History()
    history.add(snapshot)
    console.print(picture(snapshot, history, **options))
    return console.file.getvalue()


def test_the_picture_says_which_limit_binds(folder):
    live.view.begin()
    with Busy():
        text = drawn(ProcessSource(folder / f"{os.getpid()}.sock").read())
    assert "1 of 1 per min (configured)" in text
    assert "3 waiting; 1 of 1 requests this minute used; the next goes in about" in text
    assert "q quit" in text


def test_an_empty_program_is_a_picture_too():
    assert "no call so far" in drawn(Snapshot("x", 0.0, ()))
    assert "gone" in drawn(Snapshot("x", 0.0, (), "gone"))


def test_keys_change_the_chosen_budget():
    from throttled_openai import BudgetStats, PauseStats, WindowStats

    window = WindowStats("requests", 60.0, 100.0, 0.0)
    source = Fixed(BudgetStats("a", 0, 0, 1, 0, 0, 0, 0, (window,)), BudgetStats("b", 0, 0, 1, 0, 0, 0, 0, ()))
    shown, other = source.snapshot.budgets
    for key in "p+-x":
        cli._pressed(source, source.snapshot, shown, key)
    cli._pressed(source, source.snapshot, other, "+")  # no limit that could be changed
    paused = Shown("0", BudgetStats("c", 0, 0, 1, 0, 0, 0, 0, (), pause=PauseStats(1.0, "user")))
    cli._pressed(source, source.snapshot, paused, "p")
    assert [(name, what) for name, what, _ in source.asked] == [
        ("a", "pause"),
        ("a", "adjust"),
        ("a", "adjust"),
        ("c", "resume"),
    ]
    assert source.asked[1][2] == {"rpm": pytest.approx(110), "tpm": None}
    assert [cli._moved(0, "j", 2), cli._moved(1, "\x1b[B", 2), cli._moved(1, "k", 2)] == [1, 1, 0]


def test_a_row_of_blocks_shows_the_course_of_a_number():
    pytest.importorskip("rich")
    from throttled_openai._commands.top.view import bar, sparkline

    assert sparkline([1, 2, 4, 8]) == "▁▂▄█"
    assert sparkline([0, 0]) == "··"
    assert sparkline([]) == ""
    assert bar(0.5).plain.count("█") == 14
    assert bar(7.0).plain.count("█") == 28
