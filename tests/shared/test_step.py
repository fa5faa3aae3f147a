"""One step of a shared budget: the script in the store and its twin give the same answers to the same history."""

import fakeredis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steps import ask
from throttled_openai._shared.ledger import Ledger
from throttled_openai._shared.lines import RedisLine
from throttled_openai._shared.place import read_place
from throttled_openai._shared.share import Note
from throttled_openai._shared.wire import read_answer, write_ask

PLACE = read_place("redis://nowhere:1/0")


def take(ledger, asked, now):
    return read_answer(ledger.step(write_ask(asked), now))


amounts = st.floats(-50, 50).map(lambda x: round(x, 6))
rates = st.sampled_from([0.0, 0.5, 10.0, 1000 / 60])
steps = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.01, 0.3, 2.5, 4000.0]),
        st.builds(
            ask,
            process=st.sampled_from("abc"),
            costs=st.lists(st.sampled_from([0.0, 1.0, 7.5, 400.0]), max_size=8),
            generation=st.sampled_from(["", "before"]),
            held=st.tuples(st.integers(0, 3).map(float), st.sampled_from([0.0, 20.0])),
            spent=st.tuples(amounts, amounts),
            rates=st.tuples(rates, rates, st.sampled_from([0.0, 0.001]), st.sampled_from([0.0, 1.0])),
            learnt=st.tuples(rates, rates),
            levels=st.tuples(st.none() | amounts, st.none() | amounts),
            pause=st.sampled_from([0.0, 0.0, 1.5]),
            in_flight=st.integers(0, 9),
            wish=st.integers(0, 20),
            notes=st.tuples(
                st.builds(Note, st.integers(0, 2), st.sampled_from(["", "{}"])),
                st.builds(Note, st.integers(0, 2), st.sampled_from(["", "7", "12"])),
                st.builds(Note, st.integers(0, 1), st.sampled_from(["", "unpaid"])),
            ),
        ),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=40, deadline=None)
@given(steps)
def test_script_and_twin_agree(history):
    line, ledger, now = RedisLine(PLACE, fakeredis.FakeRedis(decode_responses=True)), Ledger(), 1000.0
    for passed, asked in history:
        now += passed
        clock = f"{now:.6f}"
        assert line.step("b", write_ask(asked, clock)) == ledger.step(write_ask(asked), float(clock))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 0.5), st.sampled_from("abc"), st.integers(0, 30)), max_size=60))
def test_no_window_gives_more_than_the_burst_and_what_refills(history):
    """However processes ask, slots of any window come to burst + rate x window, and one call."""
    ledger, now, slots = Ledger(), 1000.0, []
    for passed, process, wanted in history:
        now += passed
        slots += [now + offset for offset in take(ledger, ask(process, costs=[0.0] * wanted), now).slots]
    slots.sort()
    for first, begin in enumerate(slots):
        for last in range(first, len(slots)):
            assert last - first + 1 <= 8.5 + 10 * (slots[last] - begin) + 1 + 1e-3


def test_a_newcomer_begins_with_one_call():
    ledger = Ledger()
    assert len(take(ledger, ask(costs=[0.0] * 9), 1.0).slots) == 1
    assert len(take(ledger, ask(costs=[0.0] * 9), 1.0).slots) > 5


def test_each_of_two_processes_gets_half_however_often_it_asks():
    ledger, held, got = Ledger(), {"a": [], "b": []}, {"a": 0, "b": 0}
    for step in range(400):
        now = 1 + step / 100
        for process in "ab" if step % 4 else "a":
            held[process] = [slot for slot in held[process] if slot > now]
            count = float(len(held[process]))
            slots = take(ledger, ask(process, costs=[0.0] * 40, rpm=6000, held=(count, 0.0)), now).slots
            held[process] += [now + slot for slot in slots]
            got[process] += len(slots) if step > 100 else 0
    assert got["a"] + got["b"] == pytest.approx(300, rel=0.05)
    assert got["a"] == pytest.approx(got["b"], rel=0.2)


def test_what_is_given_back_can_be_had_again():
    ledger = Ledger()
    take(ledger, ask(costs=[0.0]), 1.0)
    first = take(ledger, ask(costs=[0.0] * 20), 1.0).backlog[0]
    assert take(ledger, ask(spent=(-3.0, 0.0)), 1.0).backlog[0] == pytest.approx(first - 0.3)


def test_a_pause_and_a_debt_hold_all_processes():
    ledger = Ledger()
    take(ledger, ask("a", costs=[0.0]), 1.0)
    take(ledger, ask("a", pause=0.8), 1.0)
    assert take(ledger, ask("b", costs=[0.0]), 1.0).slots == [0.8]
    take(ledger, ask("a", levels=(-10.0, None)), 2.0)
    assert take(ledger, ask("b", costs=[0.0]), 2.0).slots == []


def test_the_lowest_limit_of_live_processes_counts():
    ledger = Ledger()
    assert take(ledger, ask("a", rpm=600), 1.0).rates[0] == pytest.approx(10)
    assert take(ledger, ask("b", rpm=60), 1.1).rates[0] == pytest.approx(1)
    assert take(ledger, ask("a", rpm=600), 1.2).rates[0] == pytest.approx(1)
    assert take(ledger, ask("a", rpm=600), 9.0).rates[0] == pytest.approx(10)  # the other one has ended


def test_a_store_that_forgot_begins_empty():
    ledger = Ledger()
    assert take(ledger, ask(costs=[0.0], generation="earlier", rpm=6000), 1.0).slots == pytest.approx([0.31])


def test_what_one_process_learnt_is_for_all_and_the_first_one_to_see_it_writes():
    ledger = Ledger()
    told = ask("a", rpm=0, learnt=(2.0, 0.0), notes=(Note(0, "lesson"), Note(), Note()))
    assert take(ledger, told, 1.0).notes[0].version == 1
    late = take(ledger, ask("b", rpm=0, learnt=(9.0, 0.0), notes=(Note(0, "other"), Note(), Note())), 1.0)
    assert (late.notes[0].text, late.rates[0]) == ("lesson", 2.0)


def test_a_found_room_is_divided_and_comes_back_when_a_process_dies():
    ledger = Ledger()
    told = ask("a", in_flight=4, wish=30, notes=(Note(), Note(0, "10"), Note()))
    assert take(ledger, told, 1.0).places == 10
    lacks = ask("b", wish=30)
    assert take(ledger, lacks, 1.1).places == 1
    assert take(ledger, ask("a", in_flight=4, wish=30), 1.2).places == 5
    assert take(ledger, lacks, 1.3).places == 5
    assert take(ledger, lacks, 3.0).places == 10


@pytest.mark.parametrize("texts", [[], ["x"] * 5, ["g", "many"] + ["0"] * 30, ["g", "1"] + ["?"] * 30])
def test_an_odd_answer_is_refused(texts):
    with pytest.raises((ValueError, IndexError)):
        read_answer(texts)
