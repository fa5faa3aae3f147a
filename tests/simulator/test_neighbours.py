"""Other clients of the account, who use its limits too."""

import pytest

from simulated import headers_of, post, statuses
from throttled_openai.simulator import Simulator


def taken(server, now):
    """What the neighbours of gpt-4o have taken until now."""
    return server.stats(now)["neighbours"]["gpt-4o"]


def remaining(server, now):
    return server.stats(now)["models"]["gpt-4o"]


def hammer(server, seconds):
    """Ask forty times a second; how many got in."""
    return sum(post(server, now=number / 40).status == 200 for number in range(seconds * 40))


def test_neighbours_take_requests_and_tokens_between_two_looks():
    server = Simulator(rpm=600, tpm=60_000, neighbour_rpm=200, neighbour_tpm=20_000, initial_level=0.0)
    post(server)
    assert remaining(server, 15.0) == {"requests": 100, "tokens": 10_000}
    assert remaining(server, 45.0) == {"requests": 300, "tokens": 30_000}
    assert taken(server, 45.0) == pytest.approx({"requests": 150, "tokens": 15_000})
    assert taken(server, 3600.0)["requests"] == pytest.approx(200 * 60)


@pytest.mark.parametrize(("takes", "left"), [(0, 600), (60, 540), (200, 400), (300, 300), (599, 300), (6000, 300)])
def test_we_get_what_neighbours_leave_and_half_from_greedy_ones(takes, left):
    server = Simulator(rpm=600, neighbour_rpm=takes, initial_level=0.0)
    ours = hammer(server, 120)
    assert ours == pytest.approx(2 * left, abs=1)
    assert ours + taken(server, 120.0)["requests"] == pytest.approx(1200, abs=1)


def test_greedy_neighbours_leave_half_of_the_capacity():
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


def test_greedy_neighbours_leave_half_of_a_window_to_a_quick_client():
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


def test_neighbours_take_nothing_without_a_limit():
    server = Simulator(tpm=6000, neighbour_rpm=600, neighbour_tpm=600)
    post(server)
    assert taken(server, 60.0) == pytest.approx({"requests": 0, "tokens": 600})


def test_neighbours_come_and_go_while_it_runs():
    server = Simulator(rpm=600)
    post(server)
    server.change(neighbour_rpm=300, now=60.0)
    server.change(neighbour_rpm=0, now=120.0)
    assert taken(server, 600.0)["requests"] == pytest.approx(300)


def test_on_a_restarted_clock_neighbours_go_on():
    server = Simulator(rpm=600, neighbour_rpm=300)
    post(server, now=1000.0)
    assert taken(server, 1060.0)["requests"] == pytest.approx(300)
    post(server, now=0.0)
    assert taken(server, 60.0)["requests"] == pytest.approx(600)
