"""A run over a file: it continues where it stopped, and nothing is lost or duplicated."""

import asyncio
import gzip
import json
import threading

import pytest

from batches import everyone, ids, job, lines, request, results, run, running, steady, wait_for
from scripted import Says, Script, throttled
from support import virtual, virtual_run
from throttled_openai import run_file
from throttled_openai.batch import Price, Prices, WrongRunError
from throttled_openai.batch._input import InputOptions
from throttled_openai.simulator import Fault


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text(lines(50))
    return path


@virtual
async def test_every_line_has_its_result(source, output):
    summary = await run(steady(), source, output)
    assert sorted(ids(output)) == everyone(50)
    assert (summary.done, summary.failed, summary.left, summary.exit_code) == (50, 0, 0, 0)
    assert summary.output_tokens == 50 * 16
    assert "50 requests served and 0 failed" in str(summary)


@virtual
async def test_done_is_done(source, output):
    server = steady()
    await run(server, source, output)
    before = output.read_bytes()
    summary = await run(server, source, output)
    assert (summary.before, summary.done, summary.exit_code) == (50, 0, 0)
    assert output.read_bytes() == before
    assert server.counters.attempts == 50


@virtual
async def test_a_limit_sends_some_now_and_the_rest_later(source, output):
    summary = await run(steady(), source, output, limit=20)
    assert (summary.done, summary.left, summary.exit_code) == (20, 30, 0)
    summary = await run(steady(), source, output)
    assert (summary.before, summary.done) == (20, 30)
    assert sorted(ids(output)) == everyone(50)


@virtual
async def test_a_cancelled_run_keeps_what_is_finished_and_goes_on(source, output):
    server = steady()
    async with throttled(server, rpm=600) as client:
        async with running(job(client, source, output).run()):
            while not output.exists() or len(ids(output)) < 10:
                await asyncio.sleep(0.1)
        done = len(ids(output))
        assert 10 <= done < 50
        assert client.throttle.in_flight == client.throttle.waiting == 0
    summary = await run(steady(), source, output)
    assert summary.before == done
    assert sorted(ids(output)) == everyone(50)


def test_no_thread_is_left_behind(source, output):
    virtual_run(run(steady(), source, output, limit=5))
    wait_for(lambda: not [each for each in threading.enumerate() if "throttled-openai input" in each.name])


@virtual
async def test_an_interrupt_waits_for_what_is_in_flight_and_sends_nothing_more(source, output):
    server = steady(latency=5.0)
    async with throttled(server, max_concurrency=10) as client:
        this = job(client, source, output)
        async with running(this.run()) as task:
            while client.throttle.in_flight < 10:
                await asyncio.sleep(0.1)
            assert (
                this.interrupt()
                == "interrupted: 10 requests in flight are finished first; interrupt again to stop at once"
            )
            summary = await task
    assert server.counters.attempts == 10
    assert len(ids(output)) == 10
    assert (summary.exit_code, summary.left, summary.interrupted) == (130, 40, True)


@virtual
async def test_a_second_interrupt_waits_for_nothing(source, output):
    async with throttled(steady(latency=500.0), max_concurrency=10) as client:
        this = job(client, source, output)
        async with running(this.run()) as task:
            while client.throttle.in_flight < 10:
                await asyncio.sleep(0.1)
            this.interrupt()
            assert this.interrupt() == "stopped: the requests in flight are dropped"
            summary = await task
        assert client.throttle.in_flight == 0
    assert (summary.exit_code, summary.done) == (130, 0)


@virtual
async def test_failures_are_results_that_are_sent_again_when_asked(source, output):
    server = steady()
    server.faults = [Fault("status", status=400, code="bad", first=10, last=14)]
    summary = await run(server, source, output)
    assert (summary.failed, summary.exit_code) == (5, 1)
    assert summary.errors == {"status 400 bad": 5}
    refused = [each for each in results(output) if each["response"]["status_code"] == 400]
    assert [each["error"] for each in refused] == [None] * 5
    assert refused[0]["response"]["body"]["error"]["code"] == "bad"

    again = await run(steady(), source, output)
    assert (again.done, again.failed_before, again.exit_code) == (0, 5, 1)
    server = steady()
    again = await run(server, source, output, retry_errors=True)
    assert (again.before, again.done, again.exit_code) == (45, 5, 0)
    assert server.counters.attempts == 5
    assert sorted(ids(output)) == everyone(50)


@virtual
async def test_bad_lines_are_results_and_stop_nothing(tmp_path, output):
    source = tmp_path / "in.jsonl"
    good = json.dumps(request(1)).encode()
    source.write_bytes(
        b"\n".join([good, b"{nonsense", b"", good, b'{"a": "\xff"}', json.dumps(request(2)).encode(), b"   "])
    )
    summary = await run(steady(), source, output)
    assert (summary.done, summary.failed, summary.left) == (5, 3, 0)
    told = {each["id"].rpartition("_")[2]: each for each in results(output)}
    assert sorted(told) == ["1", "2", "4", "5", "6"]
    assert told["4"]["error"] == {
        "code": "duplicate_custom_id", "message": "line 4 has the custom_id of line 1", "line": 4,
    }  # fmt: skip
    assert told["4"]["custom_id"] is None
    assert [told[line]["error"]["code"] for line in "25"] == ["invalid_json", "invalid_utf8"]


@virtual
async def test_a_duplicate_of_a_line_that_was_done_before_is_one(tmp_path, output):
    source = tmp_path / "in.jsonl"
    source.write_text(lines(3) + json.dumps(request(2)) + "\n")
    await run(steady(), source, output, limit=3)
    await run(steady(), source, output)
    assert [each["custom_id"] for each in results(output)].count("request-2") == 1


@virtual
async def test_results_in_the_order_of_the_input(source, output):
    server = Script(*(Says(delay=number * 7 % 13) for number in range(50)))
    await run(server, source, output, order="input")
    assert ids(output) == [f"request-{number}" for number in range(1, 51)]


@virtual
async def test_an_order_that_was_interrupted_is_right_in_the_end(source, output):
    delays = [Says(delay=number * 7 % 13) for number in range(50)]
    await run(Script(*delays[:20]), source, output, order="input", limit=20)
    await run(Script(*delays[20:]), source, output, order="input")
    assert ids(output) == [f"request-{number}" for number in range(1, 51)]


@virtual
async def test_a_compressed_output_is_whole_at_the_end_and_goes_on_before(source, tmp_path):
    output = tmp_path / "out.jsonl.gz"
    await run(steady(), source, output, limit=20)
    assert not output.exists()
    assert len(ids(tmp_path / "out.jsonl.gz.part")) == 20
    await run(steady(), source, output, order="input")
    found = [json.loads(line)["custom_id"] for line in gzip.decompress(output.read_bytes()).splitlines()]
    assert found == [f"request-{number}" for number in range(1, 51)]
    summary = await run(steady(), source, output)
    assert (summary.before, summary.done) == (50, 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl.gz", "out.jsonl.gz.run.json"]


@virtual
async def test_another_input_is_refused_before_anything_is_sent(source, output):
    await run(steady(), source, output)
    source.write_text(lines(51))
    server = steady()
    with pytest.raises(WrongRunError, match=r"in\.jsonl \(51 records"):
        await run(server, source, output)
    assert server.counters.attempts == 0


@virtual
async def test_another_model_is_refused(source, output):
    await run(steady(), source, output, asked=InputOptions(model="gpt-4o"))
    with pytest.raises(WrongRunError, match="model is 'gpt-4', it was 'gpt-4o'"):
        await run(steady(), source, output, asked=InputOptions(model="gpt-4"))


@virtual
async def test_a_file_that_is_no_output_of_a_run_is_left_alone(source, output):
    output.write_text("mine\n")
    with pytest.raises(WrongRunError, match=r"out\.jsonl exists and is not the output of a run"):
        await run(steady(), source, output)
    assert output.read_text() == "mine\n"
    assert not output.with_name("out.jsonl.run.json").exists()


@virtual
async def test_the_input_is_never_the_output(source):
    with pytest.raises(ValueError, match="the output and the input are the same file"):
        await run(steady(), source, source)


@virtual
async def test_an_unpaid_bill_ends_the_run_at_once_and_it_goes_on_when_it_is_paid(tmp_path, output):
    source = tmp_path / "in.jsonl"
    source.write_text(lines(10_000))
    server = steady()
    server.faults = [Fault("status", status=429, code="insufficient_quota", first=0)]
    summary = await run(server, source, output)
    assert summary.stopped == "the account has to be paid for first (insufficient_quota)"
    assert (summary.done, summary.exit_code, summary.left) == (0, 1, 10_000)
    assert server.counters.attempts < 300
    source_lines = await run(steady(), source, output, limit=50)
    assert source_lines.done == 50


@virtual
async def test_the_cost_never_exceeds_max_cost(source, output):
    prices = Prices({"gpt-4o": Price(input=0.0, output=1e6)})
    source.write_text(lines(50, max_completion_tokens=16))
    summary = await run(steady(), source, output, prices=prices, max_cost=16.0 * 20)
    assert summary.done == 20
    assert summary.cost == 16.0 * 20
    assert summary.stopped == "max_cost=320 would be passed"
    again = await run(steady(), source, output, prices=prices, max_cost=16.0 * 30)  # of all runs together
    assert (again.before, again.done, again.cost) == (20, 10, 16.0 * 30)


@virtual
async def test_the_status_is_reported_while_a_run_runs(source, output):
    seen = []
    async with throttled(steady(), rpm=600) as client:
        await run_file(client, source, output, watch=seen.append)
    assert seen[0].reason in {"reading the input", "beginning"}
    assert any(each.reason == "request limit binds" and each.rpm_limit == 600 for each in seen)
    assert all("50 done" in str(each) or each.total in {None, 50} for each in seen)


@virtual
async def test_a_run_is_sampled_in_memory_that_stays_the_same(source, output):
    async with throttled(steady(), rpm=1) as client:
        this = job(client, source, output)
        await this.run()
    assert len(this.tally.all_samples()) < 1000
    done = sum(each.done * each.seconds for each in this.tally.all_samples())
    assert done == pytest.approx(50)
