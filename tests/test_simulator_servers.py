"""The simulator plays servers of many kinds: far away, silent, counting in windows, queueing, shared with others."""

import asyncio
import contextlib
import importlib
import json
import re
from dataclasses import asdict
from importlib.util import find_spec
from typing import get_args

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from throttled_openai.simulator import Fault, Settings, Simulator, serve, virtual_run
from throttled_openai.simulator._settings import DialectName

FAMILIES = ["httpx", *(["httpx2"] if find_spec("httpx2") else [])]


def http_client(simulator, family=FAMILIES[-1], **options):
    transport = simulator.transport() if family == "httpx" else simulator.transport2()
    options = {"base_url": "http://simulator/v1", **options}
    return importlib.import_module(family).AsyncClient(transport=transport, **options)


def steady(**options):
    """Every answer takes exactly one second, and every message on the network as long as every other."""
    return Simulator(**{"latency": 1.0, "latency_sigma": 0.0, "network_sigma": 0.0, **options})


def chat(tokens=10, model="gpt-4o", **more):
    """A chat body that costs `tokens`: one message and 2 go on top of a quarter of its bytes."""
    return {"model": model, "messages": [{"role": "user", "content": "a" * 4 * (tokens - 3)}], **more}


def post(simulator, body=None, *, now=0.0, endpoint="chat/completions"):
    """Ask without a carrier, and end the answer at once."""
    reply = simulator.receive("POST", f"/v1/{endpoint}", {}, json.dumps(body or chat()).encode(), now)
    simulator.finish(reply, delivered=True)
    return reply


def statuses(simulator, count, *, now=0.0, **more):
    return [post(simulator, now=now, **more).status for _ in range(count)]


def error_of(reply):
    return json.loads(reply.pieces[0])["error"]


def headers_of(reply):
    return {name: value for name, value in reply.headers if name.startswith(("x-ratelimit", "retry-after"))}


def clock():
    return asyncio.get_running_loop().time()


def seen(simulator):
    """The counters that have to add up."""
    all_ = simulator.counters
    assert all_.attempts == all_.succeeded + all_.refused + all_.failed + all_.abandoned + all_.in_flight
    return all_


# Network.


@pytest.mark.parametrize("family", FAMILIES)
def test_a_request_arrives_and_its_answer_comes_back_one_way_later_each(family):
    async def main():
        async with http_client(server, family) as client:
            await client.post("/chat/completions", json=chat())
        return clock()

    server = steady(network=0.25)
    assert virtual_run(main()) == pytest.approx(1.5)
    assert server.log[0].at == 0.25


def test_a_refusal_travels_too():
    async def main():
        async with http_client(steady(rpm=1, network=0.25, initial_level=0.0)) as client:
            response = await client.post("/chat/completions", json=chat())
        assert response.status_code == 429
        return clock()

    assert virtual_run(main()) == 0.5


def test_the_head_of_a_stream_travels_and_its_pieces_follow_as_they_were_sent():
    async def main():
        server = steady(network=0.25)
        async with (
            http_client(server) as client,
            client.stream("POST", "/chat/completions", json=chat(stream=True)) as response,
        ):
            head = clock()
            async for _ in response.aiter_bytes():
                pass
        assert (server.in_flight, server.open_streams, server.succeeded) == (0, 0, 1)
        return head, clock()

    assert virtual_run(main()) == pytest.approx((0.25 + 0.3 + 0.25, 1.5))


def test_attempts_overtake_each_other_on_a_network_that_scatters():
    async def main():
        async with http_client(server) as client:
            bodies = [chat(model=str(number)) for number in range(20)]
            await asyncio.gather(*(client.post("/chat/completions", json=body) for body in bodies))
        return [attempt.model for attempt in server.log]

    def order():
        nonlocal server
        server = Simulator(network=0.02)
        return virtual_run(main())

    server = None
    assert sorted(order()) == sorted(map(str, range(20)))
    assert order() == order() != [str(number) for number in range(20)]


def test_one_way_times_scatter_around_their_median_and_do_not_shift_latencies():
    near, far = Simulator(seed=3), Simulator(seed=3, network=0.02)
    times = sorted(far.network.to_server(far.settings) for _ in range(1001))
    assert times[500] == pytest.approx(0.02, rel=0.1)
    assert times[-1] > 0.06
    assert [post(near).delay for _ in range(5)] == [post(far).delay for _ in range(5)]
    assert near.network.to_server(near.settings) == 0.0


def test_there_and_back_have_their_own_dice():
    one, other = Simulator(network=1.0), Simulator(network=1.0)
    _ = [one.network.to_client(one.settings) for _ in range(7)]
    assert one.network.to_server(one.settings) == other.network.to_server(other.settings)
    assert one.network.to_server(one.settings) != one.network.to_client(one.settings)


@pytest.mark.parametrize(
    ("leaves_at", "counted"),
    [
        (0.1, {"attempts": 0, "abandoned": 0, "succeeded": 0}),
        (0.5, {"attempts": 1, "abandoned": 1, "succeeded": 0}),
        (1.4, {"attempts": 1, "abandoned": 0, "succeeded": 1}),
    ],
)
def test_who_leaves_is_unheard_of_or_abandoned_or_answered_depending_on_where_the_message_is(leaves_at, counted):
    async def main():
        async with http_client(server) as client:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(leaves_at):
                    await client.post("/chat/completions", json=chat())
        await asyncio.sleep(10)

    server = steady(network=0.25)
    virtual_run(main())
    assert {name: getattr(seen(server), name) for name in counted} == counted
    assert server.in_flight == 0


def test_who_leaves_while_the_head_of_a_stream_is_on_its_way_abandons_it():
    async def main():
        async with http_client(server) as client:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.6):
                    await client.post("/chat/completions", json=chat(stream=True))

    server = steady(network=0.25)
    virtual_run(main())
    assert (server.counters.abandoned, server.in_flight, server.open_streams) == (1, 0, 0)


@pytest.mark.parametrize(("patience", "attempts"), [(0.2, 0), (1.2, 1), (1.4, 1)])
def test_a_clients_patience_covers_the_way_there_and_back(patience, attempts):
    async def main():
        async with http_client(server, timeout=patience) as client:
            with pytest.raises(importlib.import_module(FAMILIES[-1]).ReadTimeout):
                await client.post("/chat/completions", json=chat())
        return clock()

    server = steady(network=0.25)
    assert virtual_run(main()) == pytest.approx(patience)
    assert seen(server).attempts == attempts


def test_over_tcp_the_network_is_the_real_one():
    async def main():
        async with serve(Simulator(latency=0.0, network=30.0)) as url, httpx.AsyncClient(base_url=url) as client:
            return (await client.post("/chat/completions", json=chat(), timeout=5)).status_code

    assert asyncio.run(main()) == 200


# Silence.


def test_a_server_may_refuse_without_a_number_and_without_the_name_of_a_limit():
    server = Simulator(rpm=1, explain_refusals=False)
    post(server)
    refused = post(server)
    assert error_of(refused) == {
        "message": "Rate limit reached, please slow down.",
        "type": "rate_limit_error",
        "param": None,
        "code": "rate_limit_exceeded",
    }
    assert headers_of(refused)["retry-after"] == "60"
    assert server.log[1].dimension == "requests"


def test_a_server_may_say_nothing_at_all():
    server = Simulator(rpm=1, tpm=1000, max_in_flight=1, announce=False, retry_after=False, explain_refusals=False)
    assert headers_of(post(server)) == {}
    slow, large = post(server), post(server, chat(2000), now=60.0)
    server.change(rpm=None)
    server.receive("POST", "/v1/chat/completions", {}, json.dumps(chat()).encode(), 60.0)
    crowded = post(server, now=60.0)
    assert [attempt.dimension for attempt in server.log] == [None, "requests", "tokens", None, "concurrency"]
    assert [reply.status for reply in (slow, large, crowded)] == [429] * 3
    assert [headers_of(reply) for reply in (slow, large, crowded)] == [{}] * 3
    assert error_of(slow) == error_of(large) == error_of(crowded)


# Fixed windows.


def test_a_minute_window_shows_its_use_grow_and_its_end_come_near():
    server = Simulator(rpm=60, tpm=6000, fixed_window=60.0)
    post(server, now=90.0)
    assert headers_of(post(server, now=100.0)) == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "58",
        "x-ratelimit-reset-requests": "20s",
        "x-ratelimit-limit-tokens": "6000",
        "x-ratelimit-remaining-tokens": "5980",
        "x-ratelimit-reset-tokens": "20s",
    }
    assert headers_of(post(server, now=119.999))["x-ratelimit-remaining-requests"] == "57"
    assert headers_of(post(server, now=120.0))["x-ratelimit-remaining-requests"] == "59"


def test_a_used_up_minute_window_opens_again_at_its_end_and_whole():
    server = Simulator(rpm=60, fixed_window=60.0)
    assert statuses(server, 61, now=10.0) == [200] * 60 + [429]
    refused = post(server, now=47.5)
    assert headers_of(refused)["retry-after-ms"] == "12500"
    assert "Limit 60, Used 60, Requested 1. Please try again in 12.5s." in error_of(refused)["message"]
    assert statuses(server, 61, now=60.0) == [200] * 60 + [429]


def test_around_the_boundary_of_two_windows_twice_the_limit_gets_in():
    server = Simulator(rpm=60, fixed_window=60.0)
    assert statuses(server, 61, now=59.9).count(200) + statuses(server, 61, now=60.1).count(200) == 120


def test_a_hidden_window_of_a_second_stands_beside_the_minute_bucket():
    server = Simulator(rpm=600, fixed_window=1.0)
    assert statuses(server, 11, now=5.25) == [200] * 10 + [429]
    refused = post(server, now=5.5)
    assert headers_of(refused) == {
        "retry-after": "1",
        "retry-after-ms": "500",
        "x-ratelimit-limit-requests": "600",
        "x-ratelimit-remaining-requests": "592",  # ten taken, two and a half refilled
        "x-ratelimit-reset-requests": "750ms",
    }
    assert statuses(server, 11, now=6.0) == [200] * 10 + [429]


def test_a_hidden_window_admits_no_more_than_its_share_of_the_minute():
    server = Simulator(tpm=6000, fixed_window=10.0)
    assert [post(server, chat(400)).status for _ in range(3)] == [200, 200, 429]
    assert [post(server, chat(400), now=9.999).status, post(server, chat(400), now=10.0).status] == [429, 200]


def test_a_request_larger_than_a_hidden_window_blocks_as_many_windows_as_it_is_worth():
    server = Simulator(tpm=6000, fixed_window=1.0)  # 100 tokens a second
    assert post(server, chat(250), now=0.5).status == 200
    assert headers_of(post(server, chat(50), now=0.5))["retry-after-ms"] == "1500"
    assert post(server, chat(50), now=1.999).status == 429
    assert post(server, chat(50), now=2.0).status == 200


def test_less_than_one_request_a_window_is_one_in_several():
    server = Simulator(rpm=6, fixed_window=1.0)
    admitted = [second for second in range(31) if post(server, now=float(second)).status == 200]
    assert admitted == [0, 10, 20, 30]


@pytest.mark.parametrize("window", [0.1, 0.7, 1.0, 10.0, 60.0])
def test_who_waits_for_the_windows_end_exactly_as_told_is_admitted(window):
    server, now = Simulator(rpm=700, fixed_window=window), 0.123
    for _ in range(5):
        while (reply := post(server, now=now)).status == 200:
            pass
        now += int(headers_of(reply)["retry-after-ms"]) / 1000
        assert post(server, now=now).status == 200


def test_windows_come_and_go_while_it_runs():
    server = Simulator(rpm=600)
    server.change(fixed_window=1.0, now=0.0)
    assert statuses(server, 11) == [200] * 10 + [429]
    server.change(fixed_window=2.0, now=0.0)
    assert statuses(server, 1, now=1.5) == [429]
    assert statuses(server, 21, now=2.0) == [200] * 20 + [429]
    server.change(fixed_window=60.0, now=2.0)
    assert headers_of(post(server, now=2.0))["x-ratelimit-reset-requests"] == "58s"
    server.change(fixed_window=None, now=2.0)
    assert headers_of(post(server, now=2.0))["x-ratelimit-remaining-requests"] == "578"


def test_a_window_and_a_burst_may_both_be_hidden():
    server = Simulator(rpm=600, burst=0.5, fixed_window=1.0)
    assert statuses(server, 6) == [200] * 5 + [429]
    assert statuses(server, 6, now=0.5) == [200] * 5 + [429]
    assert headers_of(post(server, now=0.75))["retry-after-ms"] == "250"


# A backend with a queue.


async def arrivals(server, count, **more):
    """Send all at once; return when each came back."""

    async def one(client):
        await client.post("/chat/completions", json=chat(**more))
        return clock()

    async with http_client(server, timeout=None) as client:
        return await asyncio.gather(*(one(client) for _ in range(count)))


@pytest.mark.parametrize("stream", [False, True])
def test_slots_answer_so_many_at_once_and_the_others_in_order(stream):
    server = steady(slots=2)
    assert virtual_run(arrivals(server, 6, stream=stream)) == pytest.approx([1, 1, 2, 2, 3, 3])
    assert (seen(server).succeeded, server.counters.queued, server.counters.peak_queued) == (6, 0, 4)
    assert (server.refused, server.peak_in_flight) == (0, 6)


def test_who_starts_among_others_takes_longer_and_alone_takes_its_plain_latency():
    server = steady(slots=4, slowdown=1.0)
    assert virtual_run(arrivals(server, 1)) == [1.0]
    assert virtual_run(arrivals(server, 4)) == pytest.approx([1.0, 1.25, 1.5, 1.75])


def test_throughput_saturates_at_the_slots():
    def per_second(concurrency):
        async def worker(client):
            while clock() < 400:
                await client.post("/chat/completions", json=chat())

        async def main():
            async with http_client(server, timeout=None) as client:
                await asyncio.gather(*(worker(client) for _ in range(concurrency)))
            return server.succeeded / clock()

        server = steady(slots=8, slowdown=1.0)
        return virtual_run(main())

    rates = [per_second(concurrency) for concurrency in (1, 4, 8, 16, 64)]
    assert rates == pytest.approx([1, 4 / 1.375, 8 / 1.875, 8 / 1.875, 8 / 1.875], rel=0.02)


@pytest.mark.parametrize("stream", [False, True])
def test_who_leaves_frees_a_place_in_the_line_or_a_slot(stream):
    async def main():
        async with http_client(server, timeout=None) as client:
            calls = [asyncio.create_task(client.post("/chat/completions", json=chat(stream=stream))) for _ in range(4)]
            await asyncio.sleep(0.25)
            calls[2].cancel()
            await asyncio.sleep(0.25)
            assert (server.counters.queued, server.in_flight) == (2, 3)
            calls[0].cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert (server.counters.queued, server.in_flight) == (1, 2)
            await calls[1]
            assert clock() == pytest.approx(1.5)
            await calls[3]
            return clock()

    server = steady(slots=1)
    assert virtual_run(main()) == pytest.approx(2.5)
    assert (seen(server).abandoned, server.succeeded, server.counters.peak_queued) == (2, 2, 3)


def test_a_client_waits_in_the_line_no_longer_than_its_patience():
    async def main():
        async with http_client(server, timeout=2.5) as client:
            calls = [client.post("/chat/completions", json=chat()) for _ in range(4)]
            results = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(result).__name__ for result in results] == ["Response", "Response", "ReadTimeout", "ReadTimeout"]
        return clock()

    server = steady(slots=1)
    assert virtual_run(main()) == 2.5
    assert (seen(server).abandoned, server.in_flight, server.counters.queued) == (2, 0, 0)


def test_more_slots_are_taken_at_once():
    async def main():
        calls = asyncio.create_task(arrivals(server, 5))
        await asyncio.sleep(0.5)
        server.change(slots=4)
        assert server.counters.queued == 1
        await asyncio.sleep(0.25)
        server.change(slots=None)
        return await calls

    server = steady(slots=1)
    assert virtual_run(main()) == pytest.approx([1.0, 1.5, 1.5, 1.5, 1.75])


def test_an_attempt_that_queued_does_not_know_its_processing_time_beforehand():
    server = steady(slots=1)
    first, second = (
        server.receive("POST", "/v1/chat/completions", {}, json.dumps(chat()).encode(), 0.0) for _ in range(2)
    )
    assert dict(first.headers)["openai-processing-ms"] == "1000"
    assert "openai-processing-ms" not in dict(second.headers)


def test_over_tcp_attempts_stand_in_line_and_leave_it_too():
    async def main():
        server = steady(slots=1, latency=0.1)
        async with serve(server) as url, httpx.AsyncClient(base_url=url, timeout=30) as client:
            calls = [asyncio.create_task(client.post("/chat/completions", json=chat())) for _ in range(4)]
            while server.in_flight < 4:
                await asyncio.sleep(0.001)
            assert server.counters.queued == 3
            calls[0].cancel()
            results = await asyncio.gather(*calls, return_exceptions=True)
        assert [getattr(result, "status_code", 0) for result in results] == [0, 200, 200, 200]
        assert (seen(server).succeeded, server.counters.abandoned, server.counters.queued) == (3, 1, 0)

    asyncio.run(main())


# Neighbours.


def taken(server, now):
    """What the neighbours of gpt-4o have taken until now."""
    return server.stats(now)["neighbours"]["gpt-4o"]


def remaining(server, now):
    return server.stats(now)["models"]["gpt-4o"]


def hammer(server, seconds):
    """Ask forty times a second; how many got in."""
    return sum(post(server, now=number / 40).status == 200 for number in range(seconds * 40))


def test_neighbours_take_their_share_of_requests_and_tokens_while_nobody_looks():
    server = Simulator(rpm=600, tpm=60_000, neighbour_rpm=200, neighbour_tpm=20_000, initial_level=0.0)
    post(server)
    assert remaining(server, 15.0) == {"requests": 100, "tokens": 10_000}
    assert remaining(server, 45.0) == {"requests": 300, "tokens": 30_000}
    assert taken(server, 45.0) == pytest.approx({"requests": 150, "tokens": 15_000})
    assert taken(server, 3600.0)["requests"] == pytest.approx(200 * 60)


@pytest.mark.parametrize(("takes", "left"), [(0, 600), (60, 540), (200, 400), (300, 300), (599, 300), (6000, 300)])
def test_we_get_what_they_leave_and_of_greedy_ones_half(takes, left):
    server = Simulator(rpm=600, neighbour_rpm=takes, initial_level=0.0)
    ours = hammer(server, 120)
    assert ours == pytest.approx(2 * left, abs=1)
    assert ours + taken(server, 120.0)["requests"] == pytest.approx(1200, abs=1)


def test_greedy_neighbours_leave_half_of_what_fits_in():
    server = Simulator(rpm=600, neighbour_rpm=1200)
    post(server)
    assert remaining(server, 10.0)["requests"] == 499
    assert remaining(server, 29.0)["requests"] == 309
    assert [remaining(server, now)["requests"] for now in (31.0, 100.0)] == [300, 300]
    assert statuses(server, 301, now=100.0) == [200] * 300 + [429]
    assert remaining(server, 130.0)["requests"] == 150


def test_neighbours_make_the_announced_wait_too_short():
    server = Simulator(rpm=60, neighbour_rpm=30)
    assert statuses(server, 61) == [200] * 60 + [429]
    assert headers_of(post(server))["retry-after-ms"] == "1000"
    assert [post(server, now=now).status for now in (1.0, 1.99, 2.01)] == [429, 429, 200]


def test_neighbours_draw_on_hidden_limits_too():
    server = Simulator(rpm=600, burst=1.0, fixed_window=10.0, neighbour_rpm=300)
    assert statuses(server, 11) == [200] * 10 + [429]
    assert statuses(server, 6, now=1.001) == [200] * 5 + [429]
    window = Simulator(rpm=600, fixed_window=10.0, neighbour_rpm=300)
    post(window)
    assert statuses(window, 50, now=9.99) == [200] * 49 + [429]
    assert statuses(window, 101, now=10.0) == [200] * 100 + [429]
    assert taken(window, 15.0)["requests"] == pytest.approx(9.99 * 5, abs=0.3)  # nothing was left to take


def test_greedy_neighbours_leave_half_of_a_window_to_who_is_quick():
    server = Simulator(rpm=600, fixed_window=60.0, neighbour_rpm=6000)
    post(server, now=0.0)
    assert remaining(server, 2.0)["requests"] == 399
    assert remaining(server, 4.0)["requests"] == pytest.approx(295, abs=1)
    assert remaining(server, 59.9)["requests"] == pytest.approx(15, abs=1)
    assert remaining(server, 60.0)["requests"] == 600


def test_neighbours_draw_on_the_day_too():
    server = Simulator(rpm=600, rpd=1000, neighbour_rpm=60)
    post(server)
    assert remaining(server, 300.0)["requests"] == 1000 - 1 - 300 + 3
    assert remaining(server, 86_400.0)["requests"] == pytest.approx(500, abs=1)


def test_neighbours_take_nothing_where_there_is_no_limit():
    server = Simulator(tpm=6000, neighbour_rpm=600, neighbour_tpm=600)
    post(server)
    assert taken(server, 60.0) == pytest.approx({"requests": 0, "tokens": 600})


def test_neighbours_come_and_go_while_it_runs():
    server = Simulator(rpm=600)
    post(server)
    server.change(neighbour_rpm=300, now=60.0)
    server.change(neighbour_rpm=0, now=120.0)
    assert taken(server, 600.0)["requests"] == pytest.approx(300)


def test_on_a_clock_that_starts_again_neighbours_go_on():
    server = Simulator(rpm=600, neighbour_rpm=300)
    post(server, now=1000.0)
    assert taken(server, 1060.0)["requests"] == pytest.approx(300)
    post(server, now=0.0)
    assert taken(server, 60.0)["requests"] == pytest.approx(600)


# Days.


def test_where_requests_per_day_are_limited_the_headers_show_the_day_and_hide_the_minute():
    server = Simulator(rpm=500, rpd=10_000, tpm=200_000)
    assert headers_of(post(server, chat(27))) == {
        "x-ratelimit-limit-requests": "10000",
        "x-ratelimit-remaining-requests": "9999",
        "x-ratelimit-reset-requests": "8.64s",
        "x-ratelimit-limit-tokens": "200000",
        "x-ratelimit-remaining-tokens": "199973",
        "x-ratelimit-reset-tokens": "8ms",
    }
    assert statuses(server, 500) == [200] * 499 + [429]
    refused = post(server)
    assert "requests per min (RPM): Limit 500, Used 500" in error_of(refused)["message"]
    assert headers_of(refused)["x-ratelimit-remaining-requests"] == "9500"


@pytest.mark.parametrize(("limit", "again"), [(50, "28m48s"), (200, "7m12s"), (2000, "43.2s")])
def test_a_day_refills_as_a_minute_does(limit, again):
    server = Simulator(rpd=limit)
    assert statuses(server, limit) == [200] * limit
    refused = post(server)
    assert (
        f"on requests per day (RPD): Limit {limit}, Used {limit}, Requested 1. Please try again in {again}."
        in error_of(refused)["message"]
    )
    assert error_of(refused)["type"] == "requests"
    assert post(server, now=86_400 / limit).status == 200


def test_tokens_per_day_show_only_in_refusals():
    server = Simulator(tpm=100_000, tpd=100_000)
    server.drain("gpt-4o", tokens=97_050, now=0.0)
    refused = post(server, chat(3619), now=60.0)
    assert headers_of(refused)["x-ratelimit-remaining-tokens"] == "100000"
    assert (
        "on tokens per day (TPD): Limit 100000, Used 96981, Requested 3619. Please try again in 8m38.016s."
        in error_of(refused)["message"]
    )


def test_windows_and_bursts_are_of_the_minute_not_of_the_day():
    server = Simulator(rpm=600, rpd=1000, burst=1.0, fixed_window=60.0)
    assert statuses(server, 11) == [200] * 10 + [429]
    assert [statuses(server, 10, now=float(second)) for second in range(1, 60)] == [[200] * 10] * 59
    assert statuses(server, 1, now=59.0) == [429]
    day = [number for minute in (1, 2) for number in statuses(server, 11, now=60.0 * minute)]
    assert day.count(200) == 20


# Shared limits.


def test_models_whose_names_start_alike_may_share_their_limits():
    server = Simulator(rpm=2, shared_limit="gpt-4.1")
    dated = chat(model="gpt-4.1-2025-04-14")
    assert [post(server, body).status for body in (dated, chat(model="gpt-4.1"), chat(model="o3"))] == [200] * 3
    refused = post(server, dated)
    assert error_of(refused)["message"].startswith(
        "Rate limit reached for gpt-4.1-2025-04-14 (for limit gpt-4.1) in organization org-simulator on requests per"
    )
    assert "for limit" not in error_of(post(server, chat(model="gpt-4.1")))["message"]
    assert server.stats(0.0)["models"] == {
        "gpt-4.1": {"requests": 0, "tokens": None},
        "o3": {"requests": 1, "tokens": None},
    }


# What is charged, and when.


def left(server, now=0.0):
    return server.stats(now)["models"]["gpt-4o"]["tokens"]


@pytest.mark.parametrize(
    ("more", "cost"),
    [
        ({}, 10 + 16),
        ({"max_tokens": 300}, 10 + 300),
        ({"max_completion_tokens": 200, "max_tokens": 300}, 10 + 200),
        ({"max_tokens": 300, "n": 3}, 10 + 2 + 3 * 300),
        ({"n": 2}, 10 + 1 + 2 * 16),
    ],
)
def test_a_reserve_for_the_answer_may_be_charged_too(more, cost):
    server = Simulator(tpm=10_000, charge="reserve")
    reply = post(server, chat(**more))
    assert headers_of(reply)["x-ratelimit-remaining-tokens"] == str(10_000 - cost)
    assert left(server) == 10_000 - cost
    assert server.log[0].tokens == cost


def test_a_reserve_counts_towards_what_is_too_large():
    refused = post(Simulator(tpm=1000, charge="reserve"), chat(max_tokens=1000))
    assert error_of(refused)["message"].startswith("Request too large for gpt-4o")
    assert "Limit 1000, Requested 1010." in error_of(refused)["message"]


def test_embeddings_have_no_answer_to_reserve_for():
    server = Simulator(tpm=10_000, charge="reserve")
    post(server, {"model": "gpt-4o", "input": "a" * 40}, endpoint="embeddings")
    assert left(server) == 10_000 - 10


@pytest.mark.parametrize(("delivered", "kept"), [(True, 10 + 16), (False, 10)])
def test_what_is_left_of_a_reserve_may_be_given_back_in_the_end(delivered, kept):
    server = Simulator(tpm=10_000, charge="reserve", refund=True)
    body = json.dumps(chat(max_tokens=500)).encode()
    reply = server.receive("POST", "/v1/chat/completions", {}, body, 0.0)
    assert headers_of(reply)["x-ratelimit-remaining-tokens"] == str(10_000 - 510)
    server.finish(reply, delivered=delivered)
    server.finish(reply, delivered=delivered)
    assert left(server) == 10_000 - kept


def test_a_refund_does_not_overfill():
    server = Simulator(tpm=6000, charge="reserve", refund=True)
    body = json.dumps(chat(max_tokens=500)).encode()
    reply = server.receive("POST", "/v1/chat/completions", {}, body, 0.0)
    assert left(server, 100.0) == 6000
    server.finish(reply, delivered=True)
    assert left(server, 100.0) == 6000


@pytest.mark.parametrize(("delivered", "used"), [(True, 7 + 7 + 16), (False, 14)])
def test_usage_may_be_charged_in_the_end_alone(delivered, used):
    server = Simulator(tpm=10_000, charge="usage")
    reply = server.receive("POST", "/v1/chat/completions", {}, json.dumps(chat()).encode(), 0.0)
    assert headers_of(reply)["x-ratelimit-remaining-tokens"] == "10000"
    server.finish(reply, delivered=delivered)
    assert left(server) == 10_000 - used
    assert server.log[0].tokens == 30


def test_usage_may_leave_debt_and_who_comes_then_waits_until_a_token_is_there():
    server = Simulator(tpm=6000, charge="usage", completion_tokens=2000)
    replies = [server.receive("POST", "/v1/chat/completions", {}, json.dumps(chat()).encode(), 0.0) for _ in range(4)]
    assert {reply.status for reply in replies} == {200}
    for reply in replies:
        server.finish(reply, delivered=True)
    refused = post(server)  # 8,056 of 6,000
    assert headers_of(refused)["retry-after-ms"] == "20570"
    assert "Limit 6000, Used 6000, Requested 1." in error_of(refused)["message"]
    assert post(server, now=20.569).status == 429
    assert post(server, now=20.57).status == 200


def test_who_charges_usage_never_finds_a_request_too_large():
    assert post(Simulator(tpm=1000, charge="usage"), chat(5000)).status == 200


# Refusals that no limit caused.


def test_an_exhausted_account_is_told_so_at_the_door():
    async def main():
        async with http_client(server) as client:
            response = await client.post("/chat/completions", json=chat())
        return response, clock()

    server = steady(rpm=2, tpm=1000, faults=[Fault(status=429, code="insufficient_quota", last=0)])
    response, at = virtual_run(main())
    assert (response.status_code, at) == (429, 0.0)
    assert response.json()["error"] == {
        "message": "You exceeded your current quota, please check your plan and billing details. For more "
        "information on this error, read the docs: https://platform.openai.com/docs/guides/error-codes/api-errors.",
        "type": "insufficient_quota",
        "param": None,
        "code": "insufficient_quota",
    }
    assert "x-ratelimit-limit-requests" not in response.headers
    assert headers_of(post(server))["x-ratelimit-remaining-requests"] == "1"
    assert (seen(server).failed, server.succeeded, server.peak_in_flight) == (1, 1, 1)
    assert (server.log[0].status, server.log[0].fault) == (429, "status")


@pytest.mark.parametrize("status", [401, 402, 403, 413, 429, 500, 503, 529])
def test_any_status_may_be_said_at_the_door_or_late(status):
    server = steady(rpm=10, faults=[Fault(status=status, late=False, last=0), Fault(status=status, last=1)])
    early, late, fine = (post(server) for _ in range(3))
    assert [reply.status for reply in (early, late, fine)] == [status, status, 200]
    assert [reply.delay for reply in (early, late, fine)] == [0.0, 1.0, 1.0]
    assert error_of(early) == error_of(late)
    assert headers_of(fine)["x-ratelimit-remaining-requests"] == "8"


def test_at_the_door_comes_before_the_limits():
    server = Simulator(rpm=1, max_in_flight=1, faults=[Fault(status=401, late=False, first=1)])
    server.receive("POST", "/v1/chat/completions", {}, json.dumps(chat()).encode(), 0.0)
    assert post(server).status == 401


def test_a_sudden_increase_is_told_to_slow_down():
    server = Simulator(slow_down_above=5.0)
    assert statuses(server, 60) == [200] * 50 + [503] * 10
    refused = post(server)
    assert error_of(refused)["code"] == "slow_down"
    assert error_of(refused)["message"].startswith("Slow Down")
    assert headers_of(refused) == {}
    assert server.log[-1].dimension == "growth"
    assert (seen(server).refused, server.succeeded) == (11, 50)
    assert post(server, now=9.9).status == 503
    assert post(server, now=10.0).status == 200


def test_half_as_much_again_as_in_the_last_quarter_of_an_hour_is_not_sudden():
    server = Simulator(slow_down_above=5.0)
    for number in range(900 * 4):
        assert post(server, now=number / 4).status == 200  # 4 a second, not worth a look
    assert [post(server, now=900 + number / 6).status for number in range(600)] == [200] * 600  # 6: 1.5 times as many
    assert 503 in [post(server, now=1000 + number / 8).status for number in range(200)]  # 8: more than that


def test_each_model_has_its_own_quarter_of_an_hour():
    server = Simulator(slow_down_above=1.0)
    assert [post(server, chat(model=model)).status for model in ["a"] * 10 + ["b"]] == [200] * 11
    assert post(server, chat(model="a")).status == 503


# Streams that turn out to be refusals.


async def outcome(server, **more):
    """What the SDK makes of a streamed response: the events, and the error it raises."""
    client = AsyncOpenAI(api_key="x", base_url="http://s/v1", http_client=http_client(server), max_retries=0)
    seen_events = []
    try:
        async for event in await client.responses.create(model="m", input="hi", stream=True, **more):
            seen_events.append(event)
    except openai.APIError as caught:
        return seen_events, caught
    return seen_events, None


def test_a_response_may_break_off_with_a_wrapped_error():
    server = steady(faults=[Fault("stream_error", retry_after=1.2)])
    events, error = virtual_run(outcome(server))
    assert events == []
    assert error.code == "rate_limit_exceeded"
    assert error.message == "Rate limit reached, please try again later. Please try again in 1.2s."


def test_a_response_may_break_off_with_a_flat_error_which_the_sdk_does_not_raise():
    fault = Fault("stream_error", shape="flat", message="Rate limit reached for m.", retry_after=1.2, after=4)
    server = steady(faults=[fault])
    events, error = virtual_run(outcome(server))
    assert error is None
    assert [event.type for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "error",
    ]
    assert events[-1].to_dict() == {
        "type": "error",
        "code": "rate_limit_exceeded",
        "message": "Rate limit reached for m. Please try again in 1.2s.",
        "param": None,
        "sequence_number": 4,
    }


def test_a_response_may_fail_in_its_last_event():
    server = steady(faults=[Fault("stream_error", shape="failed", code="no_capacity", message="Full.", after=1)])
    events, error = virtual_run(outcome(server))
    assert error is None
    assert [(event.type, event.sequence_number) for event in events] == [
        ("response.created", 0),
        ("response.failed", 1),
    ]
    assert events[-1].response.status == "failed"
    assert events[-1].response.error.to_dict() == {"code": "no_capacity", "message": "Full."}
    assert events[-1].response.usage is None


@pytest.mark.parametrize("shape", ["wrapped", "flat", "failed"])
def test_before_any_other_event_the_error_has_number_0(shape):
    server = Simulator(faults=[Fault("stream_error", shape=shape)])
    (piece,) = post(server, {"model": "m", "input": "hi", "stream": True}, endpoint="responses").pieces
    name, data = piece.decode().splitlines()[:2]
    assert name == ("event: response.failed" if shape == "failed" else "event: error")
    assert json.loads(data.removeprefix("data: "))["sequence_number"] == 0


def test_a_chat_has_one_shape_of_error_and_it_may_come_late():
    server = Simulator(faults=[Fault("stream_error", shape="failed", after=3)])
    pieces = post(server, chat(stream=True)).pieces
    assert len(pieces) == 4
    assert json.loads(pieces[-1].removeprefix(b"data: ")) == {
        "error": {
            "message": "Rate limit reached, please try again later.",
            "type": "requests",
            "param": None,
            "code": "rate_limit_exceeded",
        }
    }


def test_an_error_never_follows_the_last_event():
    server = Simulator(faults=[Fault("stream_error", after=1000)])
    pieces = post(server, chat(stream=True)).pieces
    assert b"[DONE]" not in b"".join(pieces)
    assert b'"error"' in pieces[-1]


# Dialects.


def told(reply):
    """The headers that tell of limits, in any dialect."""
    usual = {"content-type", "x-request-id", "openai-version", "openai-processing-ms"}
    return {name: value for name, value in reply.headers if name not in usual}


def spoken(dialect, **options):
    """A success with 2 of 3 requests and 2,000 of 6,000 tokens left, a refusal, and what can never be admitted."""
    server = Simulator(rpm=3, tpm=6000, dialect=dialect, **options)
    return [post(server, chat(tokens), now=10.0) for tokens in (4000, 3000, 7000)]


def test_azure_tells_a_period_and_bare_milliseconds():
    success, refused, never = spoken("azure")
    limits = {
        "x-ratelimit-limit-requests": "3",
        "x-ratelimit-remaining-requests": "2",
        "x-ratelimit-renewalperiod-requests": "60",
        "x-ratelimit-reset-requests": "20000",
        "x-ratelimit-limit-tokens": "6000",
        "x-ratelimit-remaining-tokens": "2000",
        "x-ratelimit-renewalperiod-tokens": "60",
        "x-ratelimit-reset-tokens": "40000",
    }
    assert told(success) == told(never) == limits
    assert told(refused) == {**limits, "retry-after": "10", "retry-after-ms": "10000"}
    assert error_of(refused) == {
        "code": "429",
        "message": "Requests to the ChatCompletions_Create Operation under Azure OpenAI API version "
        "2024-08-01-preview have exceeded token rate limit of your current OpenAI S0 pricing tier. Please retry after "
        "10 seconds. Please go here: https://aka.ms/oai/quotaincrease if you would like to further increase the "
        "default rate limit.",
    }
    assert "Please retry after 86400 seconds." in error_of(never)["message"]


def test_azure_calls_requests_calls():
    server = Simulator(rpm=1, dialect="azure", retry_after=False)
    post(server)
    refused = post(server)
    assert "have exceeded call rate limit" in error_of(refused)["message"]
    assert "retry after" not in error_of(refused)["message"]
    assert "retry-after" not in told(refused)


def test_groq_tells_of_requests_a_day_and_tokens_a_minute():
    success, refused, never = spoken("groq", rpd=1000)
    limits = {
        "x-ratelimit-limit-requests": "1000",
        "x-ratelimit-remaining-requests": "999",
        "x-ratelimit-reset-requests": "1m26.4s",
        "x-ratelimit-limit-tokens": "6000",
        "x-ratelimit-remaining-tokens": "2000",
        "x-ratelimit-reset-tokens": "40s",
    }
    assert told(success) == told(never) == limits
    assert told(refused) == {**limits, "retry-after": "10"}
    assert error_of(refused) == {
        "message": "Rate limit reached for model `gpt-4o` in organization `org_simulator` service tier `on_demand` on "
        "tokens per minute (TPM): Limit 6000, Used 4000, Requested 3000. Please try again in 10s. Need more tokens? "
        "Upgrade to Dev Tier today at https://console.groq.com/settings/billing",
        "type": "tokens",
        "code": "rate_limit_exceeded",
    }
    assert (refused.status, never.status) == (429, 413)
    assert "Limit 6000, Requested 7000, please reduce your message size and try again." in error_of(never)["message"]


def test_groq_never_tells_of_requests_a_minute():
    server = Simulator(rpm=1, dialect="groq")
    assert told(post(server)) == {}
    assert "on requests per minute (RPM): Limit 1, Used 1, Requested 1." in error_of(post(server))["message"]


def test_mistral_has_the_period_in_the_names_and_no_word_on_when_to_come_back():
    success, refused, _ = spoken("mistral", rpd=1000)
    assert (
        told(success)
        == told(refused)
        == {
            "x-ratelimit-limit-req-day": "1000",
            "x-ratelimit-remaining-req-day": "999",
            "x-ratelimit-limit-tokens-minute": "6000",
            "x-ratelimit-remaining-tokens-minute": "2000",
        }
    )
    assert json.loads(refused.pieces[0]) == {
        "object": "error",
        "message": "Tokens rate limit exceeded",
        "type": "rate_limited",
        "param": None,
        "code": "1300",
    }


def test_cerebras_has_the_period_in_the_names_and_seconds_with_a_fraction():
    server = Simulator(rpd=1000, tpm=60_000, dialect="cerebras", charge="reserve")
    assert told(post(server, chat(max_tokens=700))) == {
        "x-ratelimit-limit-requests-day": "1000",
        "x-ratelimit-remaining-requests-day": "999",
        "x-ratelimit-reset-requests-day": "86.4",
        "x-ratelimit-limit-tokens-minute": "60000",
        "x-ratelimit-remaining-tokens-minute": "59290",
        "x-ratelimit-reset-tokens-minute": "0.71",
    }
    refused = post(server, chat(max_tokens=59_900))
    assert told(refused)["retry-after"] == "1"
    assert json.loads(refused.pieces[0])["code"] == "token_quota_exceeded"


def test_anthropic_tells_instants_of_the_servers_own_calendar():
    success, refused, _ = spoken("anthropic")
    limits = {
        "date": "Sun, 15 Jun 2025 15:06:50 GMT",
        "anthropic-ratelimit-requests-limit": "3",
        "anthropic-ratelimit-requests-remaining": "2",
        "anthropic-ratelimit-requests-reset": "2025-06-15T15:07:10Z",
        "anthropic-ratelimit-input-tokens-limit": "6000",
        "anthropic-ratelimit-input-tokens-remaining": "2000",
        "anthropic-ratelimit-input-tokens-reset": "2025-06-15T15:07:30Z",
        "anthropic-ratelimit-tokens-limit": "6000",
        "anthropic-ratelimit-tokens-remaining": "2000",
        "anthropic-ratelimit-tokens-reset": "2025-06-15T15:07:30Z",
    }
    assert told(success) == limits
    assert told(refused) == {**limits, "retry-after": "10", "x-should-retry": "true"}
    assert error_of(refused) == {
        "code": "rate_limit_error",
        "message": "This request would exceed the rate limit for your organization of 6,000 input tokens per minute. "
        "For details, refer to: https://docs.anthropic.com/en/api/rate-limits.",
        "type": "invalid_request_error",
        "param": None,
    }


def test_anthropic_rounds_tokens_to_thousands():
    reply = post(Simulator(tpm=100_000, dialect="anthropic"), chat(30_400))
    assert told(reply)["anthropic-ratelimit-input-tokens-remaining"] == "70000"


def test_openrouter_tells_only_those_it_refuses_and_in_the_body():
    success, refused, _ = spoken("openrouter")
    assert told(success) == {}
    assert told(refused) == {"date": "Sun, 15 Jun 2025 15:06:50 GMT"}
    assert error_of(refused) == {
        "message": "Rate limit exceeded: tokens-per-min. ",
        "code": 429,
        "metadata": {
            "headers": {
                "X-RateLimit-Limit": "6000",
                "X-RateLimit-Remaining": "0",
                "X-RateLimit-Reset": "1750000020000",
            },
            "provider_name": None,
        },
    }


def test_gemini_answers_with_a_list_of_details():
    success, refused, never = spoken("gemini")
    assert told(success) == told(refused) == {}
    (only,) = json.loads(refused.pieces[0])
    assert (only["error"]["code"], only["error"]["status"]) == (429, "RESOURCE_EXHAUSTED")
    assert only["error"]["details"][0]["violations"][0]["quotaId"].endswith("InputTokensPerModelPerMinute-FreeTier")
    assert only["error"]["details"][1]["retryDelay"] == "10.000000000s"
    assert len(json.loads(never.pieces[0])[0]["error"]["details"]) == 1


def test_the_ietfs_draft_has_two_headers_with_lists():
    success, refused, _ = spoken("ietf")
    limits = {
        "ratelimit-policy": '"requests";q=3;w=60, "tokens";q=6000;w=60',
        "ratelimit": '"requests";r=2;t=20, "tokens";r=2000;t=40',
    }
    assert told(success) == limits
    assert told(refused) == {**limits, "retry-after": "10"}
    assert json.loads(refused.pieces[0])["violated-policies"] == ["tokens"]
    assert told(post(Simulator(dialect="ietf"))) == {}


@pytest.mark.parametrize("dialect", get_args(DialectName))
def test_every_dialect_can_be_silent(dialect):
    success, refused, never = spoken(dialect, announce=False, retry_after=False, explain_refusals=False)
    assert told(success) == told(refused) == told(never) == {}
    assert error_of(refused)["message"] == "Rate limit reached, please slow down."


@pytest.mark.parametrize("dialect", get_args(DialectName))
def test_every_dialect_refuses_for_a_day_too(dialect):
    server = Simulator(rpd=1, tpd=6000, dialect=dialect)
    refused = [post(server), post(server)][1]
    assert (refused.status, server.log[1].dimension) == (429, "requests")
    server.change(rpd=None)
    server.drain("gpt-4o", tokens=6000)
    assert (post(server).status, server.log[2].dimension) == (429, "tokens")


# Settings and faults that cannot be.


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"network": -0.1}, "network must be at least 0, got -0.1"),
        ({"fixed_window": 61}, "fixed_window must be at most 60, got 61"),
        ({"slots": 0}, "slots must be at least 1, got 0"),
        ({"slots": 1.5}, "slots must be a whole number, got 1.5"),
        ({"slowdown": None}, "slowdown must be a finite number, got None"),
        ({"rpd": 0}, "rpd must be at least 1, got 0"),
        ({"neighbour_rpm": "many"}, "neighbour_rpm must be a finite number, got 'many'"),
        ({"dialect": "latin"}, "dialect must be one of openai, azure, groq"),
        ({"charge": "nothing"}, "charge must be one of estimate, reserve, usage, got 'nothing'"),
        ({"refund": 1}, "refund must be true or false, got 1"),
        ({"shared_limit": ""}, "shared_limit must be the start of a model's name, got ''"),
        ({"shared_limit": 4}, "shared_limit must be the start of a model's name, got 4"),
    ],
)
def test_settings_that_cannot_be_say_why(options, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        Simulator(**options)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hang:late=false", "only a status can come early: a hang is always late"),
        ("status:late=no", "expected true or false, got 'no'"),
        ("stream_error:shape=round", "a fault's shape must be one of wrapped, flat, failed, got 'round'"),
        ("stream_error:after=-1", "a fault's error comes after 0 or more events, got -1"),
    ],
)
def test_a_fault_that_cannot_be_says_why(text, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        Fault.parse(text)


@pytest.mark.parametrize("text", ["status:late=False,status=401", "stream_error:shape=flat,after=3,late=true"])
def test_a_fault_is_written_as_it_is_read(text):
    assert Fault.parse(str(Fault.parse(text))) == Fault.parse(text)


def test_everything_can_be_set_over_http():
    server = Simulator()
    options = {"rpd": 100, "slots": 2, "charge": "usage", "shared_limit": "gpt", "fixed_window": 1.0, "network": 0.1}
    reply = server.receive("POST", "/simulator/settings", {}, json.dumps(options).encode(), 0.0)
    assert json.loads(reply.pieces[0]) == asdict(Settings(**options))
