"""The commands `run` and `validate` as processes: exit codes, Ctrl-C, kill -9, a full disk."""

import json
import os
import random
import signal
import subprocess
import sys

import pytest

from batches import command, everyone, ids, kill, lines, lines_in, request, results, told, wait_for
from throttled_openai._commands import main as cli

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals")

# Seed of the instants of kills.
SEED = 17


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text(lines(200))
    return path


def test_a_run_that_is_killed_again_and_again_loses_and_doubles_nothing(server, source, output):
    dice = random.Random(SEED)
    arguments = ["run", source, "-o", output, "--base-url", server, "--rpm", "6000", "--quiet"]
    done = 0
    for _ in range(3):
        process = command(*arguments)
        goal = done + dice.randint(5, 40)
        wait_for(lambda: lines_in(output) >= goal or process.poll() is not None)  # noqa: B023
        kill(process)
        process.communicate()
        done = lines_in(output)
        with output.open("ab") as file:  # as if the kill had come in the middle of a line
            file.write(b'{"id":"batch_req_'[: dice.randint(0, 17)])
    code, _, err = told(*arguments)
    assert (code, err) == (0, "")
    assert sorted(ids(output)) == everyone(200)
    assert all(each["response"]["status_code"] == 200 for each in results(output))


def test_ctrl_c_waits_for_what_is_in_flight_and_says_so(server, source, output):
    process = command("run", source, "-o", output, "--base-url", server, "--rpm", "1200")
    wait_for(lambda: lines_in(output) >= 10)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "requests in flight are finished first; interrupt again to stop at once" in err
    assert "run the same command again to continue" in err
    assert "Traceback" not in err
    done = lines_in(output)
    assert 10 <= done < 200

    second = told("run", source, "-o", output, "--base-url", server, "--rpm", "60000", "--json")
    summary = json.loads(second[2].splitlines()[-1])
    assert (second[0], summary["before"], summary["done"]) == (0, done, 200 - done)
    assert sorted(ids(output)) == everyone(200)


def test_two_runs_on_one_output_are_refused(server, source, output):
    process = command("run", source, "-o", output, "--base-url", server, "--rpm", "60", "--quiet")
    try:
        wait_for(lambda: lines_in(output) >= 1)
        code, _, err = told("run", source, "-o", output, "--base-url", server)
    finally:
        kill(process)
        process.communicate()
    assert code == 2
    assert "another run is writing there" in err


def test_a_full_disk_ends_the_run_and_the_same_command_goes_on(server, source, output):
    arguments = ["run", source, "-o", output, "--base-url", server]
    script = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); "
        "from throttled_openai._commands.main import main; sys.exit(main(sys.argv[1:]))"
    )
    environment = {**os.environ, "OPENAI_API_KEY": "k"}
    full = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert full.returncode == 1
    assert "cannot write" in full.stderr
    assert "File too large" in full.stderr
    assert output.read_bytes().endswith(b"}\n")
    assert 0 < len(ids(output)) < 200
    assert told(*arguments)[0] == 0
    assert sorted(ids(output)) == everyone(200)


def test_from_standard_input_to_standard_output(server):
    process = command("run", "-", "-o", "-", "--format", "text", "--model", "gpt-4o", "--base-url", server,
                      "--order", "input", "--quiet", stdin=subprocess.PIPE)  # fmt: skip
    out, err = process.communicate("one\ntwo\n\nthree", timeout=60)
    assert (process.returncode, err) == (0, "")
    assert [json.loads(line)["custom_id"] for line in out.splitlines()] == ["line-1", "line-2", "line-4"]


def test_from_standard_input_a_run_goes_on_with_the_same_lines_only(server, source, output):
    def fed(text, *options):
        process = command("run", "-", "-o", output, "--base-url", server, "--quiet", *options, stdin=subprocess.PIPE)
        _, err = process.communicate(text, timeout=60)
        return process.returncode, err

    text = source.read_text()
    fed(text, "--limit", "20")
    assert len(ids(output)) == 20
    code, err = fed(text.replace("request-", "other-"))
    assert code == 2
    assert "line 1 of standard input has the custom_id 'other-1'" in err
    assert len(ids(output)) == 20
    assert fed(text)[0] == 0
    assert sorted(ids(output)) == everyone(200)


def test_a_closed_output_pipe_ends_the_run_silently(server, source):
    process = command("run", source, "-o", "-", "--base-url", server, "--rpm", "600", "--quiet")
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=30) == 141
    assert process.stderr.read() == ""
    process.stderr.close()


def test_a_pipe_that_waits_does_not_hold_up_ctrl_c_nor_the_results(server):
    process = command("run", "-", "-o", "-", "--format", "text", "--model", "gpt-4o", "--base-url", server, "--quiet",
                      stdin=subprocess.PIPE)  # fmt: skip
    process.stdin.write("one\n")
    process.stdin.flush()
    assert json.loads(process.stdout.readline())["custom_id"] == "line-1"
    process.send_signal(signal.SIGINT)
    wait_for(lambda: process.poll() is not None)
    process.communicate()
    assert process.returncode == 130


def test_validate_reports_every_kind_of_bad_line(tmp_path, capsys):
    source = tmp_path / "in.jsonl"
    source.write_bytes(b"\n".join([json.dumps(request(1)).encode()] * 2 + [b"{", b"\xff", b'{"custom_id": "x"}']))
    codes = "duplicate_custom_id", "invalid_json", "invalid_utf8", "invalid_url"
    assert cli.main(["validate", str(source)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "line 2 has the custom_id of line 1",
        "line 3 is not JSON: Expecting property name enclosed in double quotes at character 2",
        "line 4 is not UTF-8 at byte 1",
        "line 5 url is missing",
        f"1 requests are good, 4 lines are not: {', '.join(f'1 x {code}' for code in codes)}",
    ]


def test_a_dry_run_counts_without_a_key_and_sends_nothing(source, output, tmp_path, monkeypatch, capsys):
    prices = tmp_path / "prices.toml"
    prices.write_text("[gpt-4o]\ninput = 2.5\noutput = 10.0\n")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    told = ["--dry-run", "--rpm", "60", "--tpm", "6000", "--prices", str(prices)]
    assert cli.main(["run", str(source), "-o", str(output), *told]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "200 requests",
        "    gpt-4o: 200 requests, about 1,000 tokens in, at most 0 out",
        "        200 of them set no maximum for their answers",
        "        3 min 20 s at its limits; the request limit binds",
        "time: 3 min 20 s at least, by the limits that are known",
        "cost: at most 0.0025, without answers that have no maximum",
        "nothing was sent",
    ]
    assert not output.exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run"], "the following arguments are required"),
        (["run", "{in}", "-o", "{in}"], "the output and the input are the same file"),
        (["run", "{in}", "-o", "none/out"], "there is no directory"),
        (["run", "-", "-o", "out", "--format", "csv", "--model", "m"], "a table cannot come from standard input"),
        (["run", "{in}", "-o", "out", "--rpm", "0"], "must be a positive number"),
        (["run", "{in}", "-o", "out", "--max-cost", "5"], "--max-cost needs --prices"),
        (["run", "{in}", "-o", "out", "--limits", "x.toml", "--rpm", "5"], "write either --limits or --rpm"),
        (["run", "{in}", "-o", "out", "--limits", "missing.toml"], "missing.toml: No such file"),
        (["run", "{in}", "-o", "out", "--header", "secret"], "--header must be"),
        (["run", "{in}", "-o", "out", "--body", "secret"], "--body must be a JSON object"),
        (["run", "{in}", "-o", "out", "--api-key-env", "NO_SUCH_KEY"], "set NO_SUCH_KEY"),
        (["run", "{in}", "-o", "out", "--system", "secret"], "--system is for texts and tables"),
        (["run", "nothing.jsonl", "-o", "out"], "cannot read nothing.jsonl"),
        (["validate", "{in}", "--url", "/v1/files"], "--url must be one of"),
    ],
)
def test_wrong_usage_is_2_and_repeats_no_secret(arguments, says, source, capsys, monkeypatch):
    tmp_path = source.parent
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    with pytest.raises(SystemExit) as ended:
        cli.main([each.replace("{in}", str(source)) for each in arguments])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert says in said
    assert "secret" not in said.replace("--system", "")
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_limits_of_models_come_from_a_file(tmp_path):
    from throttled_openai import Limits
    from throttled_openai._commands.run.settings import read_limits_file

    path = tmp_path / "limits.toml"
    path.write_text('["gpt-4o"]\nrpm = 500\ntpm = 30000\n[both]\nmodels = ["a", "b"]\nrpd = 9\n')
    found = read_limits_file(str(path))
    assert found["gpt-4o"] == Limits(rpm=500, tpm=30_000)
    assert found["a"] is found["b"]
    path.write_text("[m]\nrpm = 0\n")
    with pytest.raises(ValueError, match=r"limits.toml: \[m\]: rpm must be positive"):
        read_limits_file(str(path))


def test_the_report_is_one_page_without_links(server, source, output, tmp_path):
    report = tmp_path / "report.html"
    code, _, _ = told("run", source, "-o", output, "--base-url", server, "--rpm", "6000", "--report", report)
    assert code == 0
    page = report.read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert "http" not in page
    assert "<script" not in page
    assert "prefers-color-scheme: dark" in page
    assert page.count("<svg") >= 4
    assert "gpt-4o" in page
