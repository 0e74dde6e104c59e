"""Studies of a fake training, which needs no time."""

import csv
import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from filelock import FileLock
from optuna.trial import TrialState

from artart import ArtError
from artart.config.space import Parameter
from artart.training.optuna_sweep import MAX_STARTS, OptunaSweep, Study

SPACE = [Parameter("a", (), 1e-4, 1.0, True), Parameter("b", (), 1, 8, is_int=True), Parameter("c", ("x", "y"))]


def score_of(words: list[str]) -> float:
    """The best is a=0.01 b=5."""
    values = dict(word.split("=") for word in words)
    return -abs(math.log10(float(values["a"])) + 2) - abs(int(values["b"]) - 5)


def fake(words: list[str], folder: Path, should_prune) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "result.json").write_text(json.dumps({"best": {"score": score_of(words)}}))


def study_in(folder: Path, num_trials: int = 12, **settings) -> Study:
    return Study(OptunaSweep(num_trials, **settings), SPACE, ("seed=1",), "score", "max", folder)


def trials_of(study: Study) -> list[tuple]:
    return [(one.params, one.value, one.state) for one in study.study.trials]


def rows(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "sweep.csv").read_text().splitlines()))


@pytest.mark.slow
def test_the_same_seed_gives_the_same_trials(tmp_path):
    found = []
    for name, seed in (("one", 3), ("two", 3), ("other", 4)):
        study = study_in(tmp_path / name, seed=seed)
        study.run(fake)
        found.append(trials_of(study))
    assert found[0] == found[1] != found[2]


@pytest.mark.slow
def test_a_continued_study_is_the_uninterrupted_one(tmp_path):
    """Three processes end within a trial, and one between two."""
    whole = study_in(tmp_path / "whole", 20)
    whole.run(fake)

    class Killed(BaseException):
        pass

    for stop in (2, 2, 9, 14):

        def die(words, folder, should_prune, stop=stop):
            if int(folder.name) >= stop:
                raise Killed
            fake(words, folder, should_prune)

        with pytest.raises(Killed):
            study_in(tmp_path / "parts", 20).run(die)
    study_in(tmp_path / "parts", 17).run(fake)
    parts = study_in(tmp_path / "parts", 20)
    assert parts.num_ended == 17
    parts.run(fake)
    assert trials_of(parts) == trials_of(whole)
    assert {path.name for path in (tmp_path / "parts").glob("[0-9]*")} == set(map(str, range(20)))
    parts.run(fake)
    assert parts.num_ended == 20, "no more than in all"


@pytest.mark.slow
def test_drawn_settings_lie_in_their_ranges_and_approach_the_best(tmp_path):
    study = study_in(tmp_path, 60)
    study.run(fake)
    for row in rows(tmp_path):
        values = dict(word.split("=") for word in row["settings"].split())
        assert 1e-4 <= float(values["a"]) <= 1
        assert int(values["b"]) in range(1, 9)
        assert values["c"] in ("x", "y")
    scores = [float(row["score"]) for row in sorted(rows(tmp_path), key=lambda row: int(row["job"]))]
    assert sum(scores[40:]) / 20 > sum(scores[:10]) / 10 + 1
    importances = study._importances()
    assert importances["c"] == min(importances.values()), "which has no effect"


def test_failed_trials_are_recorded_and_the_others_go_on(tmp_path, caplog):
    def fails(words, folder, should_prune):
        if folder.name == "1":
            raise RuntimeError("out of paint\nat line 5")
        if folder.name == "2":
            raise ArtError("seed=1: is bad; use another")
        if folder.name == "3":
            folder.mkdir()
            (folder / "result.json").write_text('{"best": {}}')
            return
        fake(words, folder, should_prune)

    study = study_in(tmp_path, 6)
    study.run(fails)
    states = [one.state for one in study.study.trials]
    failed = [TrialState.FAIL, TrialState.FAIL, TrialState.PRUNED]
    assert states == [TrialState.COMPLETE, *failed, *[TrialState.COMPLETE] * 2]
    status = {row["job"]: row["status"] for row in rows(tmp_path)}
    assert status["1"] == "failed: out of paint"
    assert status["2"] == "failed: seed=1: is bad; use another"
    assert status["3"] == "failed: score has no finite value"
    assert "RuntimeError: out of paint" in (tmp_path / "1/train.log").read_text()
    assert not (tmp_path / "2").exists(), "a user's mistake has no traceback"
    assert study.report() == tmp_path / rows(tmp_path)[0]["job"]
    assert "3 of 6 trials failed" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("diverges", [False, True])
def test_draws_avoid_settings_that_give_no_finite_value(tmp_path, diverges):
    """As where all samples are near-duplicates of training images, or the loss is NaN."""

    def memorizes(words, folder, should_prune):
        fake(words, folder, should_prune)
        if "c=y" in words and diverges:
            raise FloatingPointError("train/loss=nan")
        if "c=y" in words:
            (folder / "result.json").write_text('{"best": {"score": Infinity}}')

    study = study_in(tmp_path, 40)
    study.run(memorizes)
    memorizing = [one.params["c"] == "y" for one in study.study.trials]
    assert 0 < sum(memorizing[20:]) < sum(memorizing[:20]) / 2


def command(train: str, folder: Path, num_trials: int) -> list[str]:
    """A process that runs a study, with the body of a training."""
    script = (
        "import os, signal, sys, time; from pathlib import Path; sys.path.insert(0, sys.argv[2])\n"
        "from test_optuna_sweep import fake, study_in\n"
        f"def train(words, folder, should_prune):\n    {train}\n    fake(words, folder, should_prune)\n"
        f"study_in(Path(sys.argv[1]), {num_trials}).run(train)\n"
    )
    return [sys.executable, "-c", script, str(folder), str(Path(__file__).parent)]


@pytest.mark.slow
def test_twenty_trials_with_three_kills_and_two_failures_are_twenty(tmp_path):
    train = "time.sleep(0.02); assert folder.name not in ('3', '11'), 'injected'"
    for number in (2, 8, 15):
        with subprocess.Popen(command(train, tmp_path, 20)) as process:
            while not (tmp_path / f".jobs/{number}.json").exists():
                assert process.poll() is None
                time.sleep(0.001)
            process.kill()
        assert process.returncode == -signal.SIGKILL
    assert subprocess.run(command(train, tmp_path, 20)).returncode == 0
    found = sorted(rows(tmp_path), key=lambda row: int(row["job"]))
    assert [row["job"] for row in found] == list(map(str, range(20)))
    assert [row["job"] for row in found if row["status"] == "failed: injected"] == ["3", "11"]
    states = [one.state for one in study_in(tmp_path, 20).study.trials]
    assert (states.count(TrialState.COMPLETE), states.count(TrialState.FAIL), len(states)) == (18, 2, 20)


@pytest.mark.slow
def test_two_processes_share_a_study(tmp_path):
    processes = [subprocess.Popen(command("time.sleep(0.1)", tmp_path, 12)) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    trials = study_in(tmp_path, 12).study.trials
    assert [one.state for one in trials] == [TrialState.COMPLETE] * 12
    assert len({one.params["a"] for one in trials}) == 12


@pytest.mark.slow
def test_a_trial_whose_process_is_killed_each_time_fails(tmp_path):
    """As by the system where memory runs out."""
    kill = "if folder.name == '1': os.kill(os.getpid(), signal.SIGKILL)"
    codes = [subprocess.run(command(kill, tmp_path, 4)).returncode for _ in range(MAX_STARTS + 1)]
    assert codes == [-signal.SIGKILL] * MAX_STARTS + [0]
    assert [row["status"] for row in rows(tmp_path) if row["job"] == "1"] == ["failed: its process was killed 3 times"]
    assert len(rows(tmp_path)) == 4


def test_trials_worse_than_the_median_are_pruned(tmp_path):
    def train(words, folder, should_prune):
        value = 1.0 if int(folder.name) % 3 else 0.0
        epochs = 0
        for epoch in (1, 2, 3):
            epochs = epoch
            if should_prune(value, epoch):
                break
        folder.mkdir()
        (folder / "result.json").write_text(json.dumps({"best": {"score": value}, "epochs": epochs}))

    study = study_in(tmp_path, 9, num_startup_trials=3)
    study.run(train)
    status = {int(row["job"]): row["status"] for row in rows(tmp_path)}
    assert [number for number in range(9) if status[number] == "pruned"] == [3, 6]
    assert study.study.trials[3].state is TrialState.PRUNED
    assert json.loads((tmp_path / "3/result.json").read_text())["epochs"] == 1
    without = study_in(tmp_path / "without", 9, num_startup_trials=3, pruning=False)
    without.run(train)
    assert all(one.state is TrialState.COMPLETE for one in without.study.trials)


def test_a_run_that_had_ended_when_its_process_was_killed_is_not_trained_again(tmp_path):
    def ends_then_dies(words, folder, should_prune):
        fake(words, folder, should_prune)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study_in(tmp_path, 1).run(ends_then_dies)

    def no_training(*_):
        raise AssertionError

    study = study_in(tmp_path, 1)
    study.run(no_training)
    assert study.study.trials[0].state is TrialState.COMPLETE


def test_a_trial_of_another_process_is_left_to_it(tmp_path):
    study = study_in(tmp_path, 2)
    taken = study._take()
    assert taken
    other = study_in(tmp_path, 2)
    other.run(fake)
    assert [one.state for one in other.study.trials] == [TrialState.RUNNING, TrialState.COMPLETE]
    study._run(taken[0], taken[1], fake)
    assert study.num_ended == 2


def test_a_journal_whose_process_was_killed_is_not_locked(tmp_path):
    study_in(tmp_path, 1).run(fake)
    held = FileLock(tmp_path / ".jobs/journal.lock")
    script = f"import os; from filelock import FileLock; FileLock({held.lock_file!r}).acquire(); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 9
    study = study_in(tmp_path, 2)
    study.run(fake)
    assert study.num_ended == 2
    assert optuna.load_study(study_name="sweep", storage=study.study._storage).best_value is not None
