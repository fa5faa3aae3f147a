"""The grid of rates and rooms: what its oracle does, and how its figures are judged."""

from __future__ import annotations

from dataclasses import replace

import pytest

import field
import grid

CELL = replace(grid.cells(0.2)["below/configured/429-text/requests"], until=14.0, calls=700)


@pytest.fixture(scope="module")
def oracle():
    return grid.job(CELL, 1, by_oracle=True)


def test_the_oracle_fills_the_room_and_no_more(oracle):
    # A call takes 0.51 s on the mean, and twice 0.023 s in the network.
    assert oracle.whole / 12 / CELL.until == pytest.approx(20 / 0.56, rel=0.05)


def test_the_oracle_keeps_a_rate_of_tokens():
    cell = replace(grid.cells(0.2)["near/configured/429-text/tokens"], until=6.0, calls=400)
    assert grid.job(cell, 1, by_oracle=True).whole == pytest.approx((1 + 6 - 0.5) * 50 * grid.unit("tokens"), rel=0.06)


def test_a_known_rate_and_less_room(oracle):
    row = grid.judge(CELL, [grid.job(CELL, 1, by_oracle=False)], [oracle])
    assert row.figures["lost"] == 0
    assert row.figures["whole"] >= 0.95
    assert row.figures["refused"] <= 0.03


def test_what_misses_its_targets_says_which():
    run, best = grid.Run(late=90, whole=100, attempts=100, refused=3, lost=1), grid.Run(late=100, whole=100)
    row = grid.judge(CELL, [run, run], [best, best])
    assert row.missed == ["late >= 0.97", "refused <= 2 %", "no call lost"]


def test_the_worst_seed_counts():
    best = grid.Run(late=100, whole=100)
    runs = [grid.Run(late=late, whole=100, attempts=100) for late in (99, 95, 100)]
    assert grid.judge(CELL, runs, [best] * 3).figures["late"] == 0.95


def test_words_of_one_column_add_up_and_columns_narrow_down():
    names = [cell.name for cell in grid.chosen(["below", "near", "429-bare", "tokens"], 0.2)]
    rates = ("announced", "configured", "learnt")
    assert names == [f"{shape}/{rate}/429-bare/tokens" for shape in ("below", "near") for rate in rates]
    with pytest.raises(SystemExit, match="no column has nearby"):
        grid.chosen(["nearby"], 0.2)


def test_a_row_of_the_field_says_what_it_misses():
    row = field.ROWS["room-40"]
    good = field.Outcome(row.possible, 1010, 10, 1000, {}, 1.0)
    assert field.missed(row, good) == []
    bad = replace(good, seconds=20.0, refused=50, errors={"APIError": 2})
    assert field.missed(row, bad) == ["more than 11.7 s", "more than 49 refused", "2 lost"]
