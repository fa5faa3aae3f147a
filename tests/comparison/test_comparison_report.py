"""What the report of a comparison says of records: tables, sentences, pictures, the page, the READMEs."""

import json
import re

import pytest

from comparison import report
from comparison.tables import OURS, Results


def record(variant, scenario="requests", *, rival="semaphore", seed=1, done=300, seconds=31.0, refused=0, **more):
    lost = 300 - done
    at = [index * seconds / 120 for index in range(121)]
    return {
        "rival": rival,
        "scenario": scenario,
        "settings": {"at_once": 7},
        "seed": seed,
        "speed": "virtual",
        "scale": 1.0,
        "variant": variant,
        "calls": 300,
        "done": done,
        "failed": lost,
        "unfinished": 0,
        "failures": {"RateLimitError": lost} if lost else {},
        "attempts": done + refused,
        "refused": refused,
        "refused_once_and_done": min(done, refused),
        "lost_to_refusals": lost,
        "makespan": seconds,
        "ideal": 30.0,
        "over_ideal": None if lost else seconds / 30.0,
        "goodput": 0.9,
        "wait_p50": 1.0,
        "wait_p99": 2.0,
        "latency_p50": 1.5,
        "latency_p99": 2.5,
        "unfairness": None,
        "series": {
            "at": at,
            "done": [done * index / 120 for index in range(121)],
            "refused": [refused * index / 120 for index in range(121)],
            "gauge_at": [0.5, 1.0] if rival == "ours" else [],
            "gauge": [16.0, 20.0] if rival == "ours" else [],
        },
        "versions": {"python": "3.11.7", "openai": "3.54.0"},
        "commit": "abc1234",
        "machine": "Linux x86_64, 2 cores",
        **more,
    }


RECORDS = [
    *(record(OURS, rival="ours", seed=seed, seconds=seconds) for seed, seconds in ((1, 30.0), (2, 33.0), (3, 31.5))),
    record(OURS, "overload", rival="ours", seconds=39.0, refused=12),
    record("Semaphore(10)", done=299, refused=900),
    record("Semaphore(10)", "overload", seconds=90.0),
    record("Semaphore(10), tuned", "overload", seconds=36.0, refused=3),
    record("AsyncOpenAI + gather", rival="plain", done=12, refused=600),
    {
        "rival": "plain",
        "scenario": "overload",
        "variant": "AsyncOpenAI + gather",
        "seed": 1,
        "scale": 1.0,
        "broken": "it died",
    },
    {"rival": "semaphore", "scenario": "overload", "chosen": {"at_once": 7}},
    {"rival": "with_token_throttle", "package": "token-throttle", "speed": "virtual", "not_installed": "needs 3.12"},
]


@pytest.fixture(name="path")
def _path(tmp_path):
    path = tmp_path / "runs.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in RECORDS))
    return path


def rows(table):
    return {row[0]: row[1:] for row in table.rows}


def test_a_cell_is_the_median_of_the_seeds_or_what_was_lost():
    table = Results(RECORDS).overview(["requests", "overload"], "both")
    assert table.columns == ["", "requests", "overload", "refused per 100 calls"]
    assert rows(table) == {
        OURS: ["1.05", "1.30", "2"],
        "AsyncOpenAI + gather": ["96% lost", "broken", "200"],
        "Semaphore(10)": ["0.3% lost", "3.00", "150"],
        "Semaphore(10), tuned": ["-", "1.20", "1"],
        "token-throttle": ["cannot be installed", "cannot be installed", "-"],
    }


def test_ours_comes_first_and_tuned_rows_after_what_is_documented():
    assert Results(RECORDS).variants() == [OURS, "AsyncOpenAI + gather", "Semaphore(10)", "Semaphore(10), tuned"]


def test_the_best_variant_without_losses_is_bold():
    table = Results(RECORDS).overview(["requests", "overload"], "both")
    bold = re.findall(r"^\| ([^|]*?) \|.*?\*\*(.*?)\*\*", table.markdown(), re.MULTILINE)
    assert bold == [(OURS, "1.05"), ("Semaphore(10), tuned", "1.20")]


def test_a_variant_that_lost_calls_never_reads_as_one_that_lost_none():
    one = [
        record("Semaphore(10)", done=300),
        record("Semaphore(10)", done=299, seed=2),
        record("Semaphore(10)", seed=3),
    ]
    [cell] = Results(one).cells.values()
    assert cell.over_ideal is None
    assert cell.outcome() == "0.1% lost"


def test_a_run_that_was_done_again_counts_once():
    [cell] = Results([record("Semaphore(10)"), record("Semaphore(10)", seconds=60.0)]).cells.values()
    assert cell.outcome() == "2.00"


def test_where_another_is_sooner_is_said_with_its_settings_and_where_we_lose_calls_too():
    assert Results(RECORDS).losses() == ["overload: Semaphore(10), tuned (at_once=7) 1.20, we 1.30."]
    worse = Results([record(OURS, rival="ours", done=270), record("Semaphore(10)")])
    assert worse.losses() == ["requests: ours, 10% lost."]


def test_details_show_the_range_of_seeds_and_only_known_figures():
    table = Results(RECORDS).details("requests")
    assert table.title == "requests: 600 RPM, enforced by the second; 300 calls at once"
    assert "connections" not in table.columns
    at = table.columns.index("x ideal") - 1
    assert rows(table)[OURS][at] == "1.050 (1.000 to 1.100)"
    assert rows(table)["Semaphore(10)"][at] == "-"


def test_the_report_is_a_page_with_its_pictures_inside(path, tmp_path, capsys):
    folder = tmp_path / "report"
    assert report.main(["--results", str(path), "--folder", str(folder)]) == 0
    page = (folder / "index.html").read_text()
    assert page.count("<svg") == 4
    assert {each.name for each in folder.iterdir()} == {
        "index.html",
        "tables.md",
        *(f"{name}.{kind}" for name in ("bars", "throughput", "concurrency", "refusals") for kind in ("png", "svg")),
    }
    assert all((folder / f"{name}.png").read_bytes().startswith(b"\x89PNG") for name in ("bars", "concurrency"))
    assert "it died" in page
    assert "token-throttle: needs 3.12" in page
    assert not re.search(r"""(?:src|href)=["']?http""", page)
    assert "4 pictures" in capsys.readouterr().out


def test_no_runs_are_an_error_that_says_how_to_make_some(tmp_path, capsys):
    missing = tmp_path / "runs.jsonl"
    assert report.main(["--results", str(missing), "--folder", str(tmp_path)]) == 1
    assert "compare.py run" in capsys.readouterr().err


def test_runs_of_a_scenario_in_part_say_so_and_are_not_mixed_with_whole_ones():
    part = record("Semaphore(10)", scale=0.1)
    assert "Only 10% of each scenario's calls." in Results([part]).provenance()
    with pytest.raises(ValueError, match="different files"):
        Results([part, record("Semaphore(10)", seed=2)])


def test_publishing_changes_only_the_text_between_the_marks(path, tmp_path, monkeypatch):
    readmes = [tmp_path / "README.md", tmp_path / "benchmarks" / "README.md"]
    readmes[1].parent.mkdir()
    for readme in readmes:
        readme.write_text(f"before\n{report.START}\nold\n{report.END}\nafter\n")
    monkeypatch.setattr(report, "PROJECT", tmp_path)
    monkeypatch.setattr(report, "PICTURES", tmp_path / "pictures")
    for _ in range(2):
        report.main(["--results", str(path), "--folder", str(tmp_path / "report"), "--publish"])
        for readme in readmes:
            text = readme.read_text()
            assert text.startswith(f"before\n{report.START}\n")
            assert text.endswith(f"\n{report.END}\nafter\n")
            assert "old" not in text
            assert "| Semaphore(10) |" in text
        assert "Commit abc1234." in readmes[1].read_text()
    assert {each.name for each in (tmp_path / "pictures").iterdir()} == {"bars.svg", "throughput.svg"}


def test_a_readme_without_marks_is_an_error(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("nothing\n")
    with pytest.raises(ValueError, match=r"README\.md has no"):
        report.insert(readme, "table")
    assert readme.read_text() == "nothing\n"
