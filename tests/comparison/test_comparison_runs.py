"""What `compare.py run` does and keeps: with this environment in place of each rival's."""

import json
import sys

import pytest

from comparison import book, environment, runs, worker_process


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.setattr(environment, "make", lambda _: None)
    monkeypatch.setattr(environment, "python_of", lambda _: sys.executable)


@pytest.fixture(name="path")
def _path(tmp_path):
    return tmp_path / "runs.jsonl"


def run(path, *options, seeds=1):
    arguments = ["--results", str(path), "--scale", "0.05", "--seeds", str(seeds)]
    assert runs.main([*arguments, *options]) == 0
    return book.read(path)


def kept(records):
    return sorted((each["variant"], each["scenario"], each["seed"]) for each in records if "variant" in each)


def test_every_variant_is_run_in_every_scenario_with_every_seed(path):
    records = run(path, "--rivals", "ours", "plain", "--scenarios", "requests", "tokens", "--no-tuning", seeds=2)
    variants = [*runs.rivals.read("ours").variants, *runs.rivals.read("plain").variants]
    assert kept(records) == sorted(
        (each, at, seed) for each in variants for at in ("requests", "tokens") for seed in (1, 2)
    )
    assert all(each["calls"] == 15 == each["done"] + each["failed"] + each["unfinished"] for each in records)
    assert all({"versions", "commit", "machine"} <= each.keys() for each in records)


def test_recorded_runs_are_not_repeated_unless_asked_for(path):
    chosen = "--rivals", "plain", "--scenarios", "requests", "--no-tuning"
    first = run(path, *chosen)
    assert run(path, *chosen) == first
    assert kept(run(path, *chosen, seeds=2)) == sorted([*kept(first), *((name, at, 2) for name, at, _ in kept(first))])
    assert len(run(path, *chosen, "--again")) == 3 * len(first)


def test_settings_are_chosen_once_and_by_another_seed_than_those_that_are_measured(path):
    chosen = "--rivals", "semaphore", "--scenarios", "overload"
    records = run(path, *chosen)
    [choice] = [each["chosen"] for each in records if "chosen" in each]
    tuned = [each for each in records if each.get("variant", "").endswith(", tuned")]
    assert [each["settings"] for each in tuned] == [choice]
    assert choice in runs.rivals.read("semaphore").choices()
    assert {each["seed"] for each in records if "seed" in each} == {1}
    assert run(path, *chosen) == records


def test_a_rival_that_cannot_be_installed_is_reported_and_the_others_run(path, monkeypatch, capsys):
    monkeypatch.setattr(environment, "make", lambda name: "no wheel for it" if name == "plain" else None)
    records = run(path, "--rivals", "plain", "with_tenacity", "--scenarios", "requests", "--no-tuning")
    assert [each["not_installed"] for each in records if each["rival"] == "plain"] == ["no wheel for it"]
    assert any(each["rival"] == "with_tenacity" and "done" in each for each in records)
    assert "cannot be installed: no wheel for it" in capsys.readouterr().err


def test_a_worker_that_dies_is_a_broken_run_and_is_tried_again_the_next_time(path, monkeypatch):
    chosen = "--rivals", "plain", "--scenarios", "requests", "--no-tuning"
    with monkeypatch.context() as patch:
        patch.setattr(worker_process, "PATIENCE", 0.01)
        broken = run(path, *chosen)
    assert all("the worker died" in each["broken"] for each in broken)
    assert len([each for each in run(path, *chosen) if "done" in each]) == len(broken)


@pytest.mark.parametrize("scale", ["0", "1.5", "-1", "many"])
def test_a_scale_is_a_share(scale, capsys):
    with pytest.raises(SystemExit):
        runs.main(["--scale", scale])
    assert "--scale" in capsys.readouterr().err


def test_runs_in_part_are_kept_in_a_file_of_their_own(path, monkeypatch):
    monkeypatch.setattr(runs, "RESULTS", path)
    assert (
        runs.main(["--rivals", "plain", "--scenarios", "tokens", "--no-tuning", "--seeds", "1", "--scale", "0.05"]) == 0
    )
    assert not path.exists()
    records = [json.loads(line) for line in path.with_name("runs-0.05.jsonl").read_text().splitlines()]
    assert {each["scale"] for each in records} == {0.05}
