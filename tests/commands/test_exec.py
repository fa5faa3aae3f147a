"""`throttled-openai exec`: the program runs as without it, and so do the processes it starts, but throttled."""

import argparse
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import openai
import pytest

import throttled_openai
from throttled_openai._clients.install import VARIABLES
from throttled_openai._commands import exec as _exec
from throttled_openai._commands import main as cli

SOURCE = str(Path(throttled_openai.__file__).parents[1])

TELLS = """
    import atexit, pickle, sys, threading, time

    class Local: pass

    def late():
        import __main__
        print("late", __main__.Local, Local)

    print(__name__, globals().get("__file__"), __spec__ and __spec__.name)
    print(sys.argv, sys.path, sys.flags, sys.warnoptions)
    print(pickle.loads(pickle.dumps(Local())).__class__)
    threading.Timer(0.1, late).start()
    atexit.register(late)
    sys.stdout.flush()
    if "fail" in sys.argv:
        def deep(): raise KeyError("gone")
        deep()
    sys.exit(3)
"""
CLIENTS = """
    import multiprocessing, subprocess, sys
    from openai import OpenAI

    def throttled(_):
        client = OpenAI(api_key="k")
        return hasattr(client, "throttle") and client.throttle._options["rpm"]

    if __name__ == "__main__":
        found = [throttled(0)]
        for method in sorted({"spawn", "forkserver"} & set(multiprocessing.get_all_start_methods())):
            with multiprocessing.get_context(method).Pool(1) as pool:
                found += pool.map(throttled, [0])
        found.append(subprocess.check_output([sys.executable, "-c", "import child; child.tell()"], text=True).strip())
        print(found)
"""
CHILD = """
    def tell():
        import throttled_openai, openai
        print(openai.OpenAI(api_key="k").throttle._options["rpm"])
"""


def environment(**more):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("THROTTLED_OPENAI_")}
    return {**kept, "PYTHONPATH": SOURCE, **more}


def python(directory, *arguments, stdin="", env=None):
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        input=stdin,
        timeout=100,
        cwd=directory,
        env=env or environment(),
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def run(directory, *arguments, flags=(), **more):
    return python(directory, *flags, "-m", "throttled_openai", "exec", *arguments, **more)


def write(directory, name, script):
    (directory / name).parent.mkdir(exist_ok=True)
    (directory / name).write_text(textwrap.dedent(script))


@pytest.mark.parametrize(
    ("arguments", "flags"),
    [
        (["x.py", "a", "--rpm", "--", "-m"], []),
        (["./sub/../x.py", "fail"], ["-X", "dev", "-W", "error", "-O", "-u"]),
        (["-m", "x", "fail"], []),
        (["-", "fail"], ["-B"]),
        (["-c", textwrap.dedent(TELLS), "a"], []),
        (["app", "a"], []),
        (["missing.py"], []),
        (["-m", "missing"], []),
    ],
    ids=lambda value: " ".join(value)[:20],
)
def test_a_program_sees_hears_and_ends_as_with_python(tmp_path, arguments, flags):
    for name in ("x.py", "app/__main__.py", "sub/y.py"):
        write(tmp_path, name, TELLS)
    stdin = textwrap.dedent(TELLS)
    assert run(tmp_path, "--quiet", *arguments, flags=flags, stdin=stdin) == python(
        tmp_path, *flags, *arguments, stdin=stdin
    )


@pytest.mark.skipif(sys.platform == "win32", reason="no shebangs")
@pytest.mark.parametrize("program", ["PYTHON x.py", "tool", "bin/tool", "plain", "plain-x", "sh -c tool"])
def test_commands_scripts_and_python_itself_are_run_as_well(tmp_path, program):
    write(tmp_path, "x.py", "import openai; print(openai.OpenAI(api_key='k').throttle)")
    write(tmp_path, "bin/tool", f"#!{sys.executable}\nimport runpy; runpy.run_path('x.py')")
    for name in ("plain", "plain-x"):
        write(tmp_path, name, "import runpy; runpy.run_path('x.py')")
    for name in ("bin/tool", "plain-x"):
        (tmp_path / name).chmod(0o755)
    env = environment(PATH=os.pathsep.join((str(tmp_path / "bin"), os.environ["PATH"])))
    code, out, err = run(
        tmp_path, "--quiet", "--", *program.replace("PYTHON", sys.executable).split(maxsplit=2), env=env
    )
    assert (code, out.startswith("<Throttle ["), err) == (0, True, "")


@pytest.mark.parametrize(
    ("program", "command"),
    [
        (["x.py", "-a"], ["PYTHON", "x.py", "-a"]),
        (["-m", "x", "-m"], ["PYTHON", "-m", "x", "-m"]),
        (["python", "-m", "x"], [str(Path(sys.executable)), "-m", "x"]),
        (["no-such-command", "x"], ["PYTHON", "no-such-command", "x"]),
    ],
)
def test_the_command_line_of_a_program(program, command, monkeypatch, tmp_path):
    monkeypatch.setattr(_exec, "_python", lambda: ["PYTHON"])
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    monkeypatch.chdir(tmp_path)
    if program[0] == "python" and not Path(sys.executable).with_name("python").exists():
        pytest.skip("this Python has another name")
    found = _exec.command_of(program)
    assert [Path(found[0]).name.removesuffix(".exe") if program[0] == "python" else found[0], *found[1:]] == [
        "python" if program[0] == "python" else command[0],
        *command[1:],
    ]


def test_an_activated_environment_goes_before_the_one_we_are_in(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path))
    assert _exec._search_path() == str(tmp_path)
    monkeypatch.setenv("VIRTUAL_ENV", sys.prefix)
    assert _exec._search_path() == os.pathsep.join((str(Path(sys.executable).parent), str(tmp_path)))


def test_processes_of_the_program_are_throttled_and_share_its_limits(tmp_path):
    write(tmp_path, "x.py", CLIENTS)
    write(tmp_path, "child.py", CHILD)
    code, out, err = run(
        tmp_path, "--rpm", "60", "x.py", env=environment(PYTHONPATH=os.pathsep.join((SOURCE, str(tmp_path))))
    )
    assert (code, out.count("60.0")) == (0, 4 if sys.platform != "win32" else 3), err
    assert err.count("has the whole limit") == (0 if sys.platform != "win32" else out.count("60.0") - 1)
    assert "throttled-openai: api.openai.com: 0 requests succeeded" in err


@pytest.mark.parametrize("first", ["import openai", "import throttled_openai"])
@pytest.mark.parametrize("chains", [True, False])
def test_a_sitecustomize_of_another_tool_is_run_too_behind_ours_or_before_it(tmp_path, first, chains):
    """Some, as OpenTelemetry's, put theirs before all others and leave those out."""
    write(tmp_path, "theirs/sitecustomize.py", "print('theirs')")
    write(tmp_path, "x.py", f"{first}\nimport openai, sys\nprint(openai.OpenAI(api_key='k').throttle, openai.__file__)")
    theirs = str(tmp_path / "theirs")
    if chains:
        env = environment(PYTHONPATH=os.pathsep.join((theirs, SOURCE)))
        code, out, err = run(tmp_path, "--quiet", "x.py", env=env)
    else:
        path = os.pathsep.join((theirs, _exec._STARTUP, SOURCE))
        code, out, err = python(tmp_path, "x.py", env=environment(PYTHONPATH=path))
    assert (code, err) == (0, "")
    assert "theirs\n<Throttle [" in out
    assert openai.__file__ in out


def test_a_program_without_the_sdk_gets_a_notice_and_one_that_cannot_be_throttled_goes_on(tmp_path):
    write(tmp_path, "x.py", "print('done')")
    assert run(tmp_path, "x.py") == (0, "done\n", "throttled-openai: the program did not import the SDK\n")
    write(tmp_path, "openai.py", "")  # not the SDK
    write(tmp_path, "x.py", "import openai; print('done')")
    code, out, err = run(tmp_path, "x.py", flags=["-P"])
    assert (code, out) == (0, "done\n") or "NOT throttled: ImportError" in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "name a script, a command, or -m and a module"),
        (["--rpm", "5"], "name a script"),
        (["--rmp", "5", "x.py"], "unrecognized arguments: --rmp; did you mean '--rpm'?"),
        (["--max-conc=5", "x.py"], "did you mean '--max-concurrency'?"),
        (["--rpm", "many", "x.py"], "argument --rpm: invalid float value: 'many'"),
        (["--rpm", "-1", "x.py"], "rpm must be positive"),
        (["--dialect", "klingon", "x.py"], "dialect must be one of"),
        (["python", "-Im", "x"], "with -I Python ignores the environment"),
        (["python3.12", "-u", "-E", "x.py"], "with -E Python ignores the environment"),
    ],
)
def test_wrong_usage_is_2_with_the_usage_of_exec(arguments, says, capsys, monkeypatch):
    monkeypatch.setattr(_exec, "command_of", lambda program: program)
    with pytest.raises(SystemExit) as ended:
        cli.main(["exec", *arguments])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert says in said.partition("\n")[0]
    assert "\nusage: throttled-openai exec [options] script.py" in said


@pytest.mark.parametrize(
    "command", [["python", "-u", "-X", "dev", "x.py"], ["python", "-mISO"], ["tool", "-E"], ["python", "x.py", "-I"]]
)
def test_flags_that_are_not_pythons_or_do_no_harm_are_let_through(command):
    assert _exec._ignores_environment(command) == ""


def test_options_reach_the_program_as_variables():
    given = {"rpm": 5.0, "max_queued": 3, "dialect": "groq"}
    made = _exec.environment_of(given, quiet=True)
    assert {made[f"THROTTLED_OPENAI_{name.upper()}"] for name in given} == {"5.0", "3", "groq"}
    assert set(given) <= set(VARIABLES)
    assert made["PYTHONPATH"].split(os.pathsep)[0] == str(Path(_exec.__file__).with_name("startup"))


def test_a_program_that_cannot_be_run_is_126(capsys, monkeypatch, tmp_path):
    write(tmp_path, "x", "#!/no/such/interpreter\n")
    (tmp_path / "x").chmod(0o755)
    program = argparse.Namespace(program=[str(tmp_path / "x")], quiet=True, **dict.fromkeys(VARIABLES))
    if sys.platform != "win32":
        monkeypatch.setattr(_exec.signal, "signal", lambda *_: None)
        assert _exec.run(program) == 126
        assert "cannot run" in capsys.readouterr().err
