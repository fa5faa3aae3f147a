"""The structure of the library: no circles of imports, few rooms, few crossings. The bounds are those of today."""

import pytest

from crossings import between_rooms, crossings
from structure import PACKAGE, arrows, circles, constants, floors, imports_of, lines, main
from throttled_openai.simulator import virtual_run

ROOT = PACKAGE.parents[1]
HOUSES = {"throttled_openai": PACKAGE, "comparison": ROOT / "benchmarks/comparison"}


@pytest.mark.parametrize("house", HOUSES)
def test_no_file_imports_itself_in_a_circle(house):
    imports = imports_of(house, HOUSES[house])
    assert len(imports) > 10
    assert sum(map(len, imports.values())) > len(imports)
    assert circles(imports) == []


def test_rooms_are_few_and_imports_between_them_point_one_way():
    rooms = arrows(imports_of("throttled_openai", PACKAGE))
    assert len(rooms) <= 18
    assert sum(map(len, rooms.values())) <= 58
    assert circles(rooms) == []
    assert floors(rooms) <= 9


def test_the_control_room_grows_no_further():
    assert lines(PACKAGE / "_control") <= 2_900
    assert len(constants(PACKAGE / "_control")) <= 116


@pytest.mark.parametrize(("refused", "most", "most_between_rooms"), [(False, 130, 36), (True, 340, 95)])
def test_a_call_crosses_between_files_no_more_often(refused, most, most_between_rooms):
    entered = virtual_run(crossings(refused=refused))
    assert 0 < len(entered) <= most
    assert 0 < between_rooms(entered) <= most_between_rooms


def test_a_circle_is_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [["b", "c"]]


def test_the_figures_are_printed(capsys):
    main()
    printed = capsys.readouterr().out
    assert "circles of files: none" in printed
    assert "_control: " in printed
