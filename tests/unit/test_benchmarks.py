"""What the benchmarks share: records, tables, pages, and training for equal time."""

import json
import os
from argparse import Namespace
from hashlib import sha256
from types import SimpleNamespace

import pytest
import torch

from artart.data.datamodule import ArtDataModule
from artart.io.page import Table
from benchmarks import harness, speedrun, training
from benchmarks.judge import Judge
from benchmarks.loop import Clock
from benchmarks.records import Records, cell, page, table, write
from benchmarks.speedrun import Race
from benchmarks.training import steps_in

STAMP = {"command": "python -m benchmarks some", "commit": "abc", "machine": "one", "date": "2026-01-01"}
SOME = SimpleNamespace(
    __doc__="Some title.\n\n    python -m benchmarks some\n\nAbout it.\n",
    tables=lambda records: [table("means", records, {"kid": "KID"}, "A note.")],
)


def records(folder, settings=None, **stamp) -> Records:
    return Records(folder, settings or {"minutes": "1"}, STAMP | stamp)


def test_steps_for_a_budget_follow_from_two_runs():
    costs = [10 + 0.5 * 20, 10 + 0.5 * 60]  # startup and half a second a step
    assert steps_in(100, costs, (20, 60)) == 180
    assert steps_in(1, costs, (20, 60)) == 1


def test_records_are_measured_once_and_shared(tmp_path):
    calls = []

    def measure(value):
        calls.append(value)
        return {"kid": value}

    first = records(tmp_path).once({"row": "a, b", "seed": 0}, measure, 0.5)
    assert records(tmp_path).once({"row": "a, b", "seed": 0}, measure, 0.7) == first
    assert records(tmp_path).once({"row": "a, b", "seed": 1}, measure, 0.7)["kid"] == 0.7
    assert calls == [0.5, 0.7]
    assert [one["seed"] for one in records(tmp_path)] == [0, 1]
    assert {"row", "seed", "kid", "commit", "machine", "date", "command"} <= first.keys()


def test_records_of_other_settings_are_refused(tmp_path):
    records(tmp_path).once({"row": "a"}, dict)
    with pytest.raises(SystemExit, match=r"minutes=1\); name another folder by --out"):
        records(tmp_path, {"minutes": "2"}).once({"row": "b"}, dict)


def test_rounds_take_turns_and_medians_ignore_an_outlier(tmp_path):
    turns, ours = iter([1.0, 10.0, 1.2, 11.0, 99.0, 12.0]), records(tmp_path)
    order = []
    ours.rounds("ab", 3, lambda name: order.append(name) or {"ms": next(turns)})
    assert order == [*"ababab"]
    made = table("medians", ours, {"ms": "ms", "unknown": "?"}, middle=lambda values: f"{sorted(values)[1]}")
    assert made == Table("medians", ["", "ms"], [["a", "1.2"], ["b", "11.0"]])


def test_cells_show_spread_or_interval():
    runs = [{"kid": 0.1, "kid_low": 0.05, "kid_high": 0.2}, {"kid": 0.3}, {"kid": None}]
    assert cell(runs[:1], "kid") == "0.1 (0.05 to 0.2)"
    assert cell(runs, "kid") == "0.2 ± 0.1"
    assert cell([{"seconds": 1434.5}, {"seconds": 1885.1}], "seconds") == "1,660 ± 319"
    assert cell([{"seconds": 747.0}, {"seconds": 779.5}], "seconds") == "763 ± 23"
    assert cell(runs[2:], "kid") == cell(runs, "recall") == ""
    assert cell([{"parameters": 1_300_000}], "parameters") == "1,300,000"


def test_written_results_gain_runs_of_other_days_and_machines(tmp_path):
    settings = {"minutes": "1"}

    def add(folder, value, seed, **stamp):
        ours = records(tmp_path / folder, **stamp)
        ours.once({"row": "a", "seed": seed}, lambda: {"kid": value})
        write("some", SOME, ours, settings, tmp_path)

    add("monday", 0.1, 0)
    add("tuesday", 0.3, 1, date="2026-01-02")
    add("again", 0.5, 1)  # replaces that of Tuesday
    text = (tmp_path / "some.md").read_text()
    assert len(json.loads((tmp_path / "some.json").read_text())["records"]) == 2
    assert text.startswith("# Some title\n\n```\npython -m benchmarks some\n```\n\nAbout it.\n")
    assert "|  | KID |\n|---|---|\n| a | 0.3 ± 0.3 |\n\nA note." in text
    add("elsewhere", 0.9, 0, machine="other")
    text = (tmp_path / "some.md").read_text()
    assert "**means; one**" in text
    assert "**means; other**\n\n|  | KID |\n|---|---|\n| a | 0.9 |" in text
    with pytest.raises(SystemExit, match="minutes=1"):
        write("some", SOME, [], {"minutes": "3"}, tmp_path)


def test_pages_render_from_what_was_written(tmp_path):
    ours = records(tmp_path)
    ours.once({"row": "a"}, lambda: {"kid": 1.5})
    assert "| a | 1.5 |" in page("some", SOME, {"records": [*ours]})


def test_commands_in_results_name_no_path():
    words = ["peers", "--root", "/home/me/art", "--weights", "w.pth", "--out", "/tmp/x", "--write", "--minutes", "3"]
    assert harness.shown(words) == "python -m benchmarks peers --root ART --weights WEIGHTS --minutes 3"
    assert harness.shown(["samplers", "--checkpoint", "/home/me/last.ckpt"]) == (
        "python -m benchmarks samplers --checkpoint CHECKPOINT"
    )


def test_a_setting_that_is_a_file_is_its_content_wherever_it_lies(tmp_path):
    for name, content in (("a", b"weights"), ("b", b"weights"), ("c", b"others")):
        (tmp_path / name).write_bytes(content)
    same, moved, other = (harness.setting(tmp_path / name) for name in "abc")
    assert same == moved == sha256(b"weights").hexdigest()[:12] != other
    assert harness.setting(tmp_path) == str(tmp_path)
    assert harness.setting(0.5) == "0.5"


def test_benchmarks_are_listed_and_an_unknown_one_is_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        harness.main(["nothing"])
    assert stop.value.code == 2
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert listed == list(harness.names()) == sorted(listed)
    assert {"families", "speedrun", "fuzz_checkpoints"} <= {*listed}
    assert not {"harness", "records", "mutations", "__main__"} & {*listed}


def test_quick_changes_defaults_and_not_what_is_named(tmp_path):
    from benchmarks import peers

    args = harness.parse("peers", peers, ["--quick", "--root", str(tmp_path), "--images", "64"])
    assert (args.images, args.num_samples, args.title) == (64, 24, "peers_equal")


def test_a_clock_does_not_count_pauses_and_a_race_ends_at_its_target():
    clock, kids = Clock(torch.device("cpu"), 1), iter([0.2, 0.1, 0.05])
    clock.now = iter(range(0, 1000, 10)).__next__  # each reading is 10 s later
    clock.started = clock.now()
    with clock.paused():
        clock.now()
    assert clock.seconds == 20  # of 50 s, 20 + 10 in the pause
    race, steps = Race(clock, 30, 0.1, lambda samples: next(kids)), []
    while not race.is_over(len(steps), lambda: None):
        steps.append(1)
    assert [point["kid"] for point in race.points] == [0.2, 0.1]
    assert race.points[1]["seconds"] - race.points[0]["seconds"] >= 30


def test_speedrun_lists_those_that_reached_the_target_first():
    def run(row, seconds, reached, size=32, target=0.005):
        facts = {"commit": "abc", "machine": "one", "images": 320, "kid": 0.004, "minutes": 8.0, "precision": "32-true"}
        return {"row": row, "seconds": seconds, "reached": reached, "size": size, "target": target, **facts}

    runs = [run("fast but not there", 10.0, False), run("slow", 90.0, True), run("fast", 30.0, True)]
    found, larger = speedrun.tables([*runs, run("fast", 50.0, True), run("fast", 500.0, True, 128, 0.02)])
    assert (found.title, larger.title) == ("32 px, to a KID of 0.005, 32-true", "128 px, to a KID of 0.02, 32-true")
    assert [row[0] for row in found.rows] == ["fast", "slow", "fast but not there"]
    assert found.rows[0][1:] == ["8", "40 ± 14", "320", "0.004 ± 0", "2 of 2", "abc", "one"]


@pytest.mark.slow
def test_judge_finds_copies_and_noise(alexnet_weights):
    data = ArtDataModule(image_size=16, num_demo_images=100, val_fraction=0.4)
    data.load()
    judge = Judge(data, str(alexnet_weights), "cpu")
    art, copies = judge.of_art(40), judge(judge.train[:40])
    noise = judge(torch.randint(0, 256, (40, 3, 16, 16), dtype=torch.uint8, generator=torch.manual_seed(0)))
    assert copies["rate"] > 0.9 > 0.5 > art["rate"]
    assert copies["rate_third"] > 0.9
    assert noise["kid"] > 10 * abs(art["kid"])
    assert noise["kid_low"] < noise["kid"] < noise["kid_high"]
    assert noise["recall"] < copies["recall"]
    assert noise["spectrum_db"] > art["spectrum_db"]


@pytest.mark.parametrize(("device", "accelerator", "seconds"), [("cpu", "cpu", 3.0), ("cuda", "gpu", 7.0)])
def test_a_training_runs_on_the_device_whose_seconds_count(device, accelerator, seconds, monkeypatch, tmp_path):
    asked: list[list[str]] = []

    def spent(command, *_, **environment):
        asked.append([*command, environment["PYTHONPATH"]])
        return 7.0, 3.0  # wall and CPU

    monkeypatch.setattr(training, "spent", spent)
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    args = Namespace(root=tmp_path, val_fraction=0.3, precision="32-true", device=device)
    assert training.train(args, tmp_path / "row" / "run", "trainer.max_steps=2") == seconds
    ((*words, path),) = asked
    assert f"trainer.accelerator={accelerator}" in words
    assert path.endswith(f"{os.pathsep}elsewhere")


def test_a_training_that_was_interrupted_begins_anew(monkeypatch, tmp_path):
    """Else its seconds would be those of its last part, or it would be refused."""
    (tmp_path / "row" / "run" / "checkpoints").mkdir(parents=True)
    monkeypatch.setattr(training, "spent", lambda *_, **__: (7.0, 99.0 * (tmp_path / "row" / "run").exists()))
    args = Namespace(root=tmp_path, val_fraction=0.3, precision="32-true", device="cpu")
    assert training.train(args, tmp_path / "row" / "run") == 0.0


def test_a_measurement_replaces_nothing_that_identifies_its_run(tmp_path):
    with pytest.raises(AssertionError, match="identifies the run"):
        records(tmp_path).once({"row": "a", "rate": 3.0}, lambda: {"rate": 0.01})
    assert not list(records(tmp_path))
