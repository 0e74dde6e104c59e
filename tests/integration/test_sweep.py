"""Sweeps, small."""

import csv
import gc
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from artart.training import run
from artart.training.module import ArtModule


@pytest.fixture
def train(train_by_pixels):
    return train_by_pixels


def sweep_folder() -> Path:
    (folder,) = Path("outputs/sweeps").glob("*/*")
    return folder


def rows() -> list[dict[str, str]]:
    with (sweep_folder() / "sweep.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_sweep_ends_with_a_table_sorted_by_monitored_metric(train, capsys):
    assert train("-m", "optimizer.lr=1e-2,1e-6", "trainer.max_epochs=1") == 0
    table = rows()
    scores = [float(row["val/psnr"]) for row in table]
    assert scores == sorted(scores, reverse=True)
    assert {row["job"]: row["settings"] for row in table} == {"0": "optimizer.lr=0.01", "1": "optimizer.lr=1e-06"}
    for row in table:
        result = json.loads((sweep_folder() / row["job"] / "result.json").read_text())
        assert float(row["val/psnr"]) == pytest.approx(result["best"]["val/psnr"])
        assert (sweep_folder() / row["job"] / "checkpoints" / "last.ckpt").is_file()
    shown = capsys.readouterr().out.split("settings")[-1]
    assert 0 < shown.index(table[0]["settings"]) < shown.index(table[1]["settings"])


@pytest.mark.slow
def test_scores_to_be_lowered_are_sorted_the_other_way(train):
    assert train("-m", "optimizer.lr=1e-2,1e-6", "trainer.max_epochs=1", "monitor=val/loss", "mode=min") == 0
    scores = [float(row["val/loss"]) for row in rows()]
    assert scores == sorted(scores)


@pytest.mark.slow
def test_a_failed_job_is_marked_and_the_others_resume(train, monkeypatch, capsys):
    def refuse_sgd(config, key, build=run.build, **more):
        if key == "optimizer" and config["optimizer"]["_target_"].endswith("SGD"):
            raise RuntimeError("injected")
        return build(config, key, **more)

    monkeypatch.setattr(run, "build", refuse_sgd)
    assert train("-m", "optimizer=sgd,adam", "trainer.max_epochs=1") == 1
    adam, sgd = rows()
    assert (adam["job"], adam["status"]) == ("1", "ok")
    assert (sgd["job"], sgd["status"]) == ("0", "failed: injected")
    assert "RuntimeError: injected" in (sweep_folder() / "0" / "train.log").read_text()
    assert (sweep_folder() / "1" / "checkpoints" / "last.ckpt").is_file()
    output = capsys.readouterr()
    assert "Traceback" not in output.out + output.err
    assert "1 of 2 jobs failed" in output.err


@pytest.mark.slow
def test_a_job_with_a_mistake_in_its_settings_is_a_failed_job(train, capsys):
    assert train("-m", "image_size=16,100", "trainer.max_epochs=1") == 1
    assert [row["status"].split(":")[0] for row in rows()] == ["ok", "failed"]
    assert "image_size=100: not divisible by 8" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("swept", ["loss.weights.perceptual=0.1,1", "++loss.weights.mse=1,2", "loss=hybrid,hybrid"])
def test_a_monitored_metric_that_changes_its_meaning_from_job_to_job_is_refused(train, swept):
    assert train("-m", swept, "monitor=val/loss", "mode=min") == 1
    assert all("cannot compare jobs whose loss" in row["status"] for row in rows())


@pytest.mark.slow
def test_several_settings_in_one_value_are_no_sweep(train):
    weights = "loss.weights={mse:1,perceptual:0.5}"
    assert train("-m", weights, "seed=1,2", "monitor=val/loss", "mode=min", "trainer.max_epochs=1") == 0


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["run_dir=mine", "resume=auto"])
def test_jobs_do_not_share_a_folder(train, setting):
    assert train("-m", "optimizer.lr=1e-2,1e-3", setting) == 1
    assert all("each job of a sweep has its own folder in hydra.sweep.dir" in row["status"] for row in rows())
    assert not Path("mine").exists()


@pytest.mark.slow
@pytest.mark.parametrize("mistake", ["optimizr.lr=1,2", "optimizer=foo,adam"])
def test_a_sweep_over_nothing_is_reported_in_one_line_and_leaves_no_folder(tmp_path, mistake):
    command = [sys.executable, "-m", "artart.train", "-m", mistake]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.rglob("*.*"))


@pytest.mark.slow
def test_a_job_leaves_neither_threads_nor_networks_behind(train):
    def left() -> tuple[int, int]:
        return threading.active_count(), sum(type(thing) is ArtModule for thing in gc.get_objects())

    gc.collect()
    before = left()
    assert train("-m", "trainer.max_epochs=1", "seed=0,1") == 0
    assert left() == before


@pytest.mark.slow
def test_a_job_leaves_a_folder_of_others_alone(train, capsys):
    Path("mine/0").mkdir(parents=True)
    Path("mine/0/train.log").write_text("mine")
    assert train("-m", "seed=0,1", "trainer.max_epochs=1", "hydra.sweep.dir=mine") == 1
    assert "hydra.sweep.dir=mine: " in capsys.readouterr().err
    assert [path.name for path in Path("mine/0").iterdir()] == ["train.log"]
    assert Path("mine/0/train.log").read_text() == "mine"
    assert Path("mine/1/checkpoints/last.ckpt").is_file()
