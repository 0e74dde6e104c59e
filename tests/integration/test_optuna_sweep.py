"""python -m artart.sweep, small."""

import csv
import json
import os
import shlex
import signal
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

import artart.compare
import artart.sweep
import artart.train
from artart.training import run, sweep_folder
from artart.training.module import ArtModule
from tests.forking import command

TINY = (
    *(
        "image_size=16",
        "data.num_demo_images=8",
        "data.batch_size=4",
        "trainer=cpu",
        "trainer.max_epochs=2",
        "loss=mse",
    ),
    *("logger=none", "callbacks.grid=null"),
)
LR = "sweep.space={optimizer.lr: {low: 1e-4, high: 1e-2, log: true}}"


def rows(folder: str = "s") -> list[dict[str, str]]:
    with Path(folder, "sweep.csv").open() as file:
        return sorted(csv.DictReader(file), key=lambda row: int(row["job"]))


def trials(folder: str = "s") -> list[optuna.trial.FrozenTrial]:
    storage = JournalStorage(JournalFileBackend(str(Path(folder, ".jobs/journal"))))
    return optuna.load_study(study_name="sweep", storage=storage).trials


@pytest.fixture
def sweep(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *words: call(artart.sweep, *words)


@pytest.mark.slow
def test_sweep_reports_its_trials_and_continues_to_a_total(sweep, call, capsys):
    assert sweep(*TINY, LR, "sweep.num_trials=3", "sweep.dir=s", "seed=7") == 0
    shown = capsys.readouterr().out
    assert "trial 2 (3 of 3)  optimizer.lr=" in shown
    best = max(rows(), key=lambda row: float(row["val/psnr"]))
    assert f"best: s/{best['job']}" in shown
    (command,) = [line.strip() for line in shown.splitlines() if line.startswith("  python -m artart.train")]
    for row in rows():
        result = json.loads(Path("s", row["job"], "result.json").read_text())
        assert float(row["val/psnr"]) == result["best"]["val/psnr"]
        assert "seed: 7" in Path("s", row["job"], ".hydra/config.yaml").read_text()

    assert sweep("sweep.dir=s", "sweep.num_trials=4") == 0, "the other settings are those that it was begun with"
    assert [row["job"] for row in rows()] == ["0", "1", "2", "3"]
    capsys.readouterr()
    assert call(artart.compare, "s", "out=compared") == 0
    assert "4 runs, of which 4 have finished" in capsys.readouterr().out

    assert call(artart.train, *shlex.split(command)[3:], "run_dir=again") == 0
    again = json.loads(Path("again/result.json").read_text())
    assert again["best"]["val/psnr"] == float(best["val/psnr"]), "the command repeats the trial"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["sweep.space={optimizer.lr: {low: -1, high: 1}}"],
            "sweep.space: optimizer.lr=-1.0: must be a number, above 0",
        ),
        (["sweep.space={optimizr.lr: {low: 1, high: 2}}"], "no such key; did you mean optimizer.lr?"),
        (["sweep.space={image_size: {choices: [16, 100]}}"], "sweep.space: image_size=100: not divisible by 8"),
        (["sweep.space={optimizer: {choices: [adam, sdg]}}"], "sweep.space: optimizer=sdg: no such option"),
        (["sweep.space.optimizer.lr={low: 1}"], "sweep.space.optimizer.lr={'low': 1}: needs {low: ..., high: ...}"),
        (["sweep.space=[1]"], "sweep.space=[1]: has the wrong type"),
        ([], "sweep.space: is empty"),
        ([LR, "sweep.num_trials=0"], "sweep.num_trials=0: must be a whole number, at least 1"),
        ([LR, "sweep=nothing"], "sweep=nothing: no such option; choose gan or optuna"),
        ([LR, "run_dir=x"], "run_dir='x': each trial has a folder of its own"),
        ([LR, "optimizer.lr=1"], "optimizer.lr=1: is drawn by sweep.space"),
        ([LR, "sweep.dir=other"], "other: is no folder of artart.sweep; name a new one"),
        ([LR, "monitor=val/nothing"], "monitor=val/nothing: is not logged"),
    ],
)
def test_mistakes_are_reported_in_one_line_before_any_work(sweep, capsys, words, message):
    Path("other").mkdir()
    Path("other/file").touch()
    size = [] if "image_size" in "".join(words) else ["image_size=16"]
    assert sweep("data.num_demo_images=8", "trainer=cpu", "loss=mse", *size, *words) == 2
    output = capsys.readouterr()
    assert message in output.err
    assert output.err.count("\n") == 1
    assert output.out == ""
    assert [str(path) for path in Path.cwd().rglob("*")] == [str(Path.cwd() / "other"), str(Path.cwd() / "other/file")]


@pytest.mark.slow
def test_sweep_needs_optuna(sweep, capsys, monkeypatch):
    monkeypatch.setattr(artart.sweep, "find_spec", lambda name: None)
    assert sweep(*TINY, LR) == 2
    assert capsys.readouterr().err == "sweep: needs optuna: pip install 'artart[sweep]'\n"


@pytest.mark.slow
def test_a_sweep_is_not_continued_with_other_settings(sweep, capsys):
    assert sweep(*TINY, LR, "sweep.num_trials=1", "sweep.dir=s") == 0
    assert sweep(*TINY, LR, "sweep.num_trials=2", "sweep.dir=s", "seed=5") == 2
    assert "s: was begun with other settings (s/sweep.json); leave out" in capsys.readouterr().err
    assert len(rows()) == 1


def sweep_that_is_killed(*words: str) -> None:
    """Within its second run, after the first epoch of that."""

    def on_train_epoch_start(module: ArtModule) -> None:
        if module.trainer.current_epoch and Path("s/1/checkpoints/last.ckpt").exists():
            os.kill(os.getpid(), signal.SIGKILL)

    ArtModule.on_train_epoch_start = on_train_epoch_start
    command("artart.sweep", *words)


@pytest.mark.slow
def test_a_killed_sweep_resumes_its_run_and_goes_on(sweep, forking, tmp_path, monkeypatch, capsys):
    """The process is killed within the second run, after its first epoch; the third trial fails."""
    words = [*TINY, LR, "trainer.max_epochs=3", "sweep.num_trials=4", "sweep.dir=s"]
    killed = forking.start(sweep_that_is_killed, *words, output=tmp_path / "output", folder=tmp_path)
    assert killed.wait() == -signal.SIGKILL
    assert len(rows()) == 1

    def failing(config, key, build=run.build, **more):
        if key == "optimizer" and config["run_dir"].endswith("/2"):
            raise RuntimeError("injected")
        return build(config, key, **more)

    monkeypatch.setattr(run, "build", failing)
    assert sweep("sweep.dir=s") == 0, "the number of trials is that of before"
    assert [row["status"] for row in rows()] == ["ok", "ok", "failed: injected", "ok"]
    assert json.loads(Path("s/1/result.json").read_text())["resumed_at_step"] > 0
    assert all(one.state.is_finished() for one in trials())
    assert "1 of 4 trials failed" in capsys.readouterr().out


@pytest.mark.slow
def test_processes_share_a_study(sweep, forking, monkeypatch):
    monkeypatch.setattr(sweep_folder, "subprocess", SimpleNamespace(Popen=forking.popen))
    words = ("sweep.num_trials=4", "sweep.num_processes=2", "sweep.dir=s", "sweep.pruning=false")
    assert sweep(*TINY, LR, *words) == 0
    assert [row["status"] for row in rows()] == ["ok"] * 4
    one, two = trials()[:2]
    assert one.datetime_start < two.datetime_start < one.datetime_complete, "at once"
    assert len({one.params["optimizer.lr"] for one in trials()}) == 4


@pytest.mark.slow
def test_a_sweep_whose_processes_were_killed_is_not_done(sweep, capsys, monkeypatch):
    assert sweep(*TINY, LR, "trainer.max_epochs=1", "sweep.num_trials=1", "sweep.dir=s") == 0
    monkeypatch.setattr(sweep_folder, "run_workers", lambda *_: False)
    assert sweep("sweep.dir=s", "sweep.num_trials=2", "sweep.num_processes=2") == 1
    shown = capsys.readouterr().out
    assert "to continue: python -m artart.sweep sweep.dir=s" in shown
    assert "best: s/0" in shown
    assert sweep("sweep.dir=s", "sweep.num_trials=1", "sweep.num_processes=2") == 0, "others had done the rest"


@pytest.mark.slow
def test_a_bad_trial_is_pruned(sweep, call, capsys):
    """A learning rate of 1e-9 trains nothing."""
    rates = "sweep.space={optimizer.lr: {choices: [1e-2, 1e-9]}}"
    words = ("sweep.num_trials=5", "sweep.num_startup_trials=1", "trainer.max_epochs=4", "sweep.dir=s")
    assert sweep(*TINY, *words, rates) == 0
    pruned = [row for row in rows() if row["status"] == "pruned"]
    assert pruned
    for row in pruned:
        assert json.loads(Path("s", row["job"], "result.json").read_text())["epochs"] < 4
        assert trials()[int(row["job"])].state.name == "PRUNED"
    capsys.readouterr()
    assert call(artart.compare, "s", "out=compared") == 0
    assert "pruned" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("limit", ["trainer.max_epochs=2", "trainer.max_steps=2"])
def test_a_trial_that_has_trained_to_its_end_is_not_pruned(sweep, limit):
    rates = "sweep.space={optimizer.lr: {choices: [1e-2, 1e-9]}}"
    words = ("sweep.num_trials=5", "sweep.num_startup_trials=1", "sweep.dir=s", "trainer.max_epochs=9", limit)
    assert sweep(*TINY, *words, "trainer.check_val_every_n_epoch=2", rates) == 0
    results = [json.loads(Path("s", row["job"], "result.json").read_text()) for row in rows()]
    assert [(row["status"], result["epochs"]) for row, result in zip(rows(), results, strict=True)] == [("ok", 2)] * 5


@pytest.mark.slow
def test_a_sweep_knows_the_folder_of_its_own_experiments(sweep, call, tmp_path, capsys):
    (tmp_path / "my conf" / "experiment").mkdir(parents=True)
    (tmp_path / "my conf" / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ntrainer: {log_every_n_steps: 3}\n"
    )
    own = ("--config-dir", "my conf", "experiment=mine")
    assert sweep(*own, *TINY, LR, "sweep.num_trials=1", "sweep.dir=s") == 0
    assert sweep("sweep.dir=s", "sweep.num_trials=2") == 0
    (command,) = [line.strip() for line in capsys.readouterr().out.splitlines() if "-m artart.train" in line][-1:]
    assert call(artart.train, *shlex.split(command)[3:], "run_dir=again") == 0
    assert "log_every_n_steps: 3" in Path("again/.hydra/config.yaml").read_text()


@pytest.mark.slow
def test_ctrl_c_ends_a_sweep_that_can_be_continued(sweep, monkeypatch, capsys):
    def interrupted(prepared, trainer, finish=run.finish):
        if prepared.cfg.run_dir.endswith("/1"):
            raise SystemExit(130)
        return finish(prepared, trainer)

    with monkeypatch.context() as patch:
        patch.setattr(run, "finish", interrupted)
        assert sweep(*TINY, LR, "sweep.num_trials=3", "sweep.seed=4", "sweep.dir=s") == 130
    assert "to continue: python -m artart.sweep sweep.dir=s" in capsys.readouterr().out
    assert sweep("sweep.dir=s") == 0
    assert [row["status"] for row in rows()] == ["ok"] * 3
    drawn = [one.params for one in trials()]
    assert sweep(*TINY, LR, "sweep.num_trials=3", "sweep.seed=4", "sweep.dir=whole") == 0
    assert drawn == [one.params for one in trials("whole")]
