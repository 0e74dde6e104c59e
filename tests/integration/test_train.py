"""Whole runs, small: what they leave behind, how they stop, how they go on."""

import csv
import json
import logging
import re
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Callback
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.testing import assert_close

import artart.train
from artart import ArtError
from artart.io import files
from artart.training import run_dir
from artart.training.run import describe_net


@pytest.fixture
def train(train_by_pixels):
    return train_by_pixels


def load(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_run_leaves_checkpoints_that_count_finished_epochs(finished_run):
    folder = finished_run / "checkpoints"
    assert names(folder) == ["best.ckpt", "epoch_0002.ckpt", "last.ckpt", "previous.ckpt"]
    assert load(folder / "epoch_0002.ckpt")["epoch"] == 1  # Lightning counts from 0
    assert load(folder / "last.ckpt")["epoch"] == 2


def test_a_checkpoint_explains_itself_and_carries_no_loss_network(finished_run):
    checkpoint = load(finished_run / "checkpoints" / "last.ckpt")
    assert checkpoint["config"]["model"] == {
        "_target_": "artart.models.conv_diffusion.ConvDiffusionModel",
        "image_size": 16,
        "num_classes": 5,
        "conditioned": False,
        "augment_dim": 0,
        "attention": False,
    }
    assert checkpoint["labels"] == {"class": ["drawing", "engraving", "iconography", "painting", "sculpture"]}
    assert all(name.startswith("net.") for name in checkpoint["state_dict"])


def test_best_is_the_epoch_with_the_best_monitored_metric(finished_run):
    result = json.loads((finished_run / "result.json").read_text())
    events = EventAccumulator(str(finished_run / "tensorboard")).Reload()
    scores = [point.value for point in events.Scalars("val/psnr")]
    assert result["best"]["val/psnr"] == pytest.approx(max(scores))
    assert result["best"]["epoch"] == scores.index(max(scores)) + 1
    assert load(finished_run / "checkpoints" / "best.ckpt")["epoch"] + 1 == result["best"]["epoch"]


def test_the_result_tells_what_happened(finished_run):
    result = json.loads((finished_run / "result.json").read_text())
    wanted = {
        "status": "finished",
        "epochs": 3,
        "max_epochs": 3,
        "steps": 12,
        "images_seen": 96,
        "resumed_at_step": None,
    }
    assert {key: result[key] for key in wanted} == wanted
    assert result["perceptual_weights"] == "random filters (seed 0)"
    assert result["num_parameters"] == 742_659
    assert {"train/loss", "train/mse", "train/perceptual", "val/psnr"} <= result["last"].keys()


def test_grids_show_inputs_outputs_and_errors_at_the_first_every_nth_and_last_epoch(finished_run):
    assert names(finished_run / "samples") == ["epoch_0001.png", "epoch_0002.png", "epoch_0003.png"]
    first, last = (np.asarray(Image.open(finished_run / "samples" / f"epoch_000{i}.png")) for i in (1, 3))
    assert first.shape == (3 * 18 + 2, 3 * 18 + 2, 3)  # 3 held-out images of 16 px, 2 px between them
    assert (first[:20] == last[:20]).all()  # the same inputs every time
    assert (first[20:38] != last[20:38]).any()


def test_tensorboard_has_curves_images_and_hyperparameters(finished_run):
    events = EventAccumulator(str(finished_run / "tensorboard")).Reload()
    tags = events.Tags()
    assert [image.step for image in events.Images("samples")] == [4, 8, 12]
    assert {"train/loss", "train/mse", "train/perceptual", "val/psnr", "lr-Adam", "images_per_second"} <= set(
        tags["scalars"]
    )
    assert {"last/val/psnr", "best/val/psnr"} <= set(tags["scalars"])
    hparams = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"optimizer.lr" in hparams
    assert b"loss.perceptual.weights used" in hparams
    assert b"callbacks.grid.every_n_epochs" in hparams  # it was set for this run


def test_the_log_has_a_line_with_every_loss_each_n_steps(finished_run):
    lines = [line for line in (finished_run / "train.log").read_text().splitlines() if "train/loss" in line]
    assert len(lines) == 6  # 12 steps, one line every 2
    assert all(
        word in lines[-1] for word in ("epoch 3/3", "step 12", "train/mse", "train/perceptual", "images/s", "left")
    )


def test_the_settings_lie_where_hydra_users_look(finished_run):
    assert "image_size: 16" in (finished_run / ".hydra" / "config.yaml").read_text()
    assert "- image_size=16" in (finished_run / ".hydra" / "overrides.yaml").read_text()


@pytest.mark.slow
def test_a_folder_of_images_is_trained_on_and_its_bad_files_are_listed(train, art_folder, capsys):
    (art_folder / "broken.jpg").write_bytes(b"no image")
    assert train(f"data.root={art_folder}", "run_dir=run") == 0
    rows = list(csv.DictReader(Path("run/rejected.csv").read_text().splitlines()))
    assert [Path(row["path"]).name for row in rows] == ["broken.jpg"]
    assert "not an image" in rows[0]["reason"]
    assert "1 of 13 files are unusable" in capsys.readouterr().out


@pytest.mark.slow
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(train):
    """Weights, optimizer, scheduler, epoch and order go on: after one epoch here, two in all."""
    common = ("scheduler.step_size=1", "callbacks.checkpoints.every_n_epochs=1")
    assert train("run_dir=whole", "trainer.max_epochs=2", *common) == 0
    assert train("run_dir=halves", "trainer.max_epochs=1", *common) == 0
    assert train("run_dir=halves", "trainer.max_epochs=2", "resume=auto", *common) == 0
    whole, halves = (load(Path(name, "checkpoints/last.ckpt")) for name in ("whole", "halves"))
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step"):
        assert_close(halves[part], whole[part], rtol=0, atol=0)
    assert json.loads(Path("halves/result.json").read_text())["resumed_at_step"] == 4
    log = Path("halves/train.log").read_text()
    assert "epoch 2/2" in log
    assert "epoch 1/2" not in log  # it did not simply begin again, which would end the same
    assert names(Path("halves/checkpoints")) == names(Path("whole/checkpoints"))


@pytest.mark.slow
def test_resume_auto_finds_the_newest_unfinished_run_with_the_same_settings(train, capsys):
    assert train("trainer.max_epochs=2") == 0
    (finished,) = Path("outputs/runs").glob("*/*")
    (finished / "result.json").rename(finished / "kept.json")  # as if it had been killed before its end
    assert train("trainer.max_epochs=2", "seed=1", "resume=auto") == 0
    assert "a new one begins" in capsys.readouterr().out
    assert train("trainer.max_epochs=2", "resume=auto") == 0
    assert f"resume: from {finished}" in capsys.readouterr().out
    assert len(list(Path("outputs/runs").glob("*/*"))) == 2
    assert json.loads((finished / "result.json").read_text())["epochs"] == 2


@pytest.mark.slow
def test_a_run_without_its_last_checkpoint_is_not_begun_again(train, capsys):
    assert train("run_dir=run") == 0
    for name in ("last", "previous"):
        Path(f"run/checkpoints/{name}.ckpt").unlink()
    assert train("run_dir=run", "resume=auto", "trainer.max_epochs=4") == 2
    assert "best.ckpt but no last.ckpt; name a checkpoint: resume=" in capsys.readouterr().err


@pytest.mark.slow
def test_a_folder_that_another_process_writes_into_is_left_alone(train, capsys):
    assert train("trainer.max_epochs=1") == 0
    (live,) = Path("outputs/runs").glob("*/*")
    (live / "result.json").unlink()  # as if it had not come to its end
    run_dir._locks.pop().release()  # as if the process had ended
    script = (
        f"import fcntl, time; f = open('{live}/.hydra/lock', 'w'); fcntl.flock(f, 2); print(flush=True); time.sleep(99)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        assert train("trainer.max_epochs=1", "resume=auto", f"run_dir={live}") == 2
        assert "another process is writing there" in capsys.readouterr().err
        assert train("trainer.max_epochs=1", "resume=auto") == 0
        assert "a new one begins" in capsys.readouterr().out
        other.kill()
    assert train("trainer.max_epochs=1", "resume=auto", f"run_dir={live}") == 0


def test_a_folder_that_holds_a_run_is_not_written_into(train, finished_run, capsys):
    before = {path: path.stat().st_mtime_ns for path in finished_run.rglob("*")}
    assert train(f"run_dir={finished_run}") == 2
    assert "holds a run already (best.ckpt); resume it by resume=auto" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in finished_run.rglob("*")} == before


def test_a_finished_run_is_left_as_it_is(train, finished_run, capsys):
    before = (finished_run / "result.json").read_text()
    assert train(f"run_dir={finished_run}", "resume=auto", "trainer.max_epochs=3") == 2
    assert "trainer.max_epochs=3: the run in" in (error := capsys.readouterr().err)
    assert "such as trainer.max_epochs=6" in error
    assert (finished_run / "result.json").read_text() == before


def test_what_resumes_knows_the_best_monitored_metric_so_far(finished_run):
    """last.ckpt is written after best.ckpt, or a worse epoch could replace the best after a resume."""
    best = json.loads((finished_run / "result.json").read_text())["best"]["val/psnr"]
    last = load(finished_run / "checkpoints" / "last.ckpt")
    assert last["callbacks"]["EpochCheckpoint_best"]["best_model_score"].item() == pytest.approx(best)


def test_a_damaged_checkpoint_is_reported_in_one_line(train, tmp_path, capsys):
    Path("bad.ckpt").write_bytes(b"PK\x03\x04 not a checkpoint")
    assert train("resume=bad.ckpt", "run_dir=run") == 2
    assert "bad.ckpt" in (error := capsys.readouterr().err)
    assert "Traceback" not in error
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param("image_size=24", "image_size=16, not 24", marks=pytest.mark.slow),
        ("optimizer.lr=1e-4", "optimizer.lr=0.001, not 0.0001"),
        pytest.param("scheduler=cosine", "scheduler._target_=", marks=pytest.mark.slow),
    ],
)
def test_a_checkpoint_of_another_kind_of_run_is_reported_in_one_line(
    train, finished_run, tmp_path, capsys, change, message
):
    arguments = f"resume={finished_run}/checkpoints/last.ckpt", f"run_dir={tmp_path}/run", "trainer.max_epochs=4"
    assert train(*arguments, change) == 2
    assert f"was trained with {message}" in (error := capsys.readouterr().err)
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_fewer_epochs_than_the_checkpoint_has_is_reported_in_one_line(train, finished_run, tmp_path, capsys):
    arguments = f"resume={finished_run}/checkpoints/last.ckpt", f"run_dir={tmp_path}/run", "trainer.max_epochs=2"
    assert train(*arguments) == 2
    assert "trainer.max_epochs=2: " in (error := capsys.readouterr().err)
    assert "has finished 3 epochs; ask for more, such as trainer.max_epochs=6" in error


@pytest.mark.slow
def test_weights_spoiled_by_the_last_step_of_an_epoch_reach_no_checkpoint(train, capsys):
    one_step = ("data.batch_size=500", "optimizer=sgd", "optimizer.lr=1e30")
    assert train("run_dir=run", "trainer.max_epochs=3", *one_step) == 1
    assert "norm of the weights=inf at step 1" in (error := capsys.readouterr().err)
    assert "no good checkpoint was written before" in error


class Spoil(Callback):
    """A step makes weights that are no numbers."""

    def on_train_batch_end(self, trainer, module, *_):
        for weight in module.parameters():
            weight.data.fill_(float("nan"))


class SpoilBatch(Callback):
    """The images of a batch of a process are no numbers."""

    def __init__(self, rank=0, batch_idx=2):
        self.rank, self.batch_idx = rank, batch_idx

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if batch_idx == self.batch_idx and trainer.global_rank == self.rank:
            batch.x0.fill_(float("nan"))


@pytest.fixture
def importable(monkeypatch):
    """Hydra builds the callbacks above by their names."""
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])


@pytest.mark.slow
@pytest.mark.parametrize("train_time_interval", ["null", "1e-9"], ids=["no save", "a save after each step"])
@pytest.mark.parametrize("num_batches", [3, 4], ids=["last batch", "a batch before it"])
def test_weights_spoiled_by_a_batch_reach_no_checkpoint(train, importable, capsys, train_time_interval, num_batches):
    """Its loss is read a step later, or before a checkpoint or the end of the epoch."""
    words = ("objective=diffusion", "loss=mse_diffusion", "callbacks.grid=null", "run_dir=run")
    spoiling = (f"+callbacks.spoil._target_={__name__}.SpoilBatch", f"trusted_classes=[{__name__}.SpoilBatch]")
    limits = (f"trainer.limit_train_batches={num_batches}", f"callbacks.last.train_time_interval={train_time_interval}")
    assert train(*words, *spoiling, *limits) == 1
    error = capsys.readouterr().err
    assert "train/loss=nan at step 2, epoch 1: training stopped" in error
    if train_time_interval == "null":
        assert "no good checkpoint was written before" in error
        assert not [*Path("run/checkpoints").glob("*")]
    else:
        assert f"the newest good checkpoint is {Path('run/checkpoints/previous.ckpt').absolute()}" in error
        saved = torch.load("run/checkpoints/last.ckpt", weights_only=True)
        assert saved["global_step"] == 2
        for part in ("state_dict", "current_model_state"):
            assert all(value.isfinite().all() for value in saved[part].values())


@pytest.mark.slow
def test_weights_spoiled_by_the_last_step_of_an_epoch_leave_the_good_ones_before_it(train, importable, capsys):
    one_step = ("data.batch_size=500", "optimizer=sgd", "scheduler=constant", "run_dir=run")
    assert train("trainer.max_epochs=1", "optimizer.lr=1e-3", *one_step) == 0
    good = Path("run/checkpoints/last.ckpt").read_bytes()
    spoiling = (f"+callbacks.spoil._target_={__name__}.Spoil", f"trusted_classes=[{__name__}.Spoil]")
    assert train("trainer.max_epochs=3", "optimizer.lr=1e-3", *one_step, "resume=auto", *spoiling) == 1
    last = Path("run/checkpoints/last.ckpt").absolute()
    assert f"norm of the weights=nan at step 2, epoch 2: training stopped; the newest good checkpoint is {last};" in (
        error := capsys.readouterr().err
    )
    assert "begin with its weights, init_from=run/checkpoints/last.ckpt, and a lower optimizer.lr" in error
    assert last.read_bytes() == good
    assert train("trainer.max_epochs=3", "optimizer.lr=1e-3", *one_step, f"resume={last}") == 0
    assert json.loads(Path("run/result.json").read_text())["resumed_at_step"] == 1


@pytest.mark.slow
def test_a_nan_stops_before_it_reaches_weights_or_checkpoints(train, capsys):
    assert train("run_dir=run", "optimizer=sgd", "optimizer.lr=1e30", "trainer.max_epochs=3") == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "train/loss=" in error
    assert "begin again with a lower optimizer.lr" in error


@pytest.fixture
def small_files():
    """No file of this process may grow beyond 2 MB: a write fails in the middle, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.slow
def test_a_write_that_fails_is_reported_in_one_line_and_leaves_the_checkpoints_before_it(train, small_files, capsys):
    assert train("run_dir=run", "trainer.max_epochs=1") == 0
    before = Path("run/checkpoints/last.ckpt").read_bytes()
    small_files()
    assert train("run_dir=run", "trainer.max_epochs=2", "resume=auto") == 1
    error = capsys.readouterr().err
    assert error.endswith("last.ckpt: File too large; files written before are intact\n")
    assert error.count("\n") == 1
    assert Path("run/checkpoints/last.ckpt").read_bytes() == before
    assert not list(Path("run/checkpoints").glob(".*"))


@pytest.mark.slow
def test_a_run_dir_that_cannot_be_written_is_reported_in_one_line(train, capsys):
    Path("file").write_text("in the way")
    for place in ("file", "file/run"):
        assert train(f"run_dir={place}") == 2
        output = capsys.readouterr()
        assert "cannot be written; name another folder: run_dir=DIR" in output.err
        assert output.err.count("\n") == 1
        assert "images" not in output.out  # no work has begun


def test_two_runs_in_the_same_second_have_two_folders(monkeypatch, tmp_path):
    from omegaconf import OmegaConf

    class Noon(files.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 1, 1, 12)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(files, "datetime", Noon)
    folders = [run_dir.claim_run_dir(OmegaConf.create({"run_dir": None}), run_dir.Plan()) for _ in range(3)]
    assert [folder.name for folder in folders] == ["12-00-00", "12-00-00-2", "12-00-00-3"]


@pytest.mark.slow
def test_the_best_is_that_of_the_monitored_metric(train):
    assert train("run_dir=run", "monitor=train/mse", "mode=min") == 0
    assert list(json.loads(Path("run/result.json").read_text())["best"]) == ["train/mse", "epoch"]


@pytest.mark.parametrize(
    ("mistake", "sentence"),
    [
        ("trainer.max_time=abc", "trainer: "),
        ("data.root=a ${x} b", "${ begins an interpolation and cannot be part of a name; rename it"),
    ],
)
def test_a_mistake_that_only_the_parts_can_see_is_reported_before_any_work(train, capsys, mistake, sentence):
    assert train(mistake, "run_dir=run") == 2
    output = capsys.readouterr()
    assert sentence in output.err
    assert output.err.count("\n") == 1
    assert "images" not in output.out
    assert not Path("run").exists()


@pytest.mark.slow
def test_the_pixel_loss_alone_needs_no_filters(train):
    assert train("loss=mse", "run_dir=run") == 0
    assert json.loads(Path("run/result.json").read_text())["perceptual_weights"] is None


@pytest.mark.slow
def test_without_held_out_images_it_previews_and_has_no_best(train, capsys):
    assert train("data.val_fraction=0", "run_dir=run") == 0
    assert names(Path("run/checkpoints")) == ["last.ckpt", "previous.ckpt"]
    assert names(Path("run/samples")) == ["epoch_0001.png", "epoch_0002.png"]
    assert not any(name.startswith("val/") for name in json.loads(Path("run/result.json").read_text())["last"])


@pytest.mark.slow
def test_a_validation_interval_loses_neither_checkpoints_nor_grids(train):
    every_2 = ("callbacks.grid.every_n_epochs=2", "callbacks.checkpoints.every_n_epochs=2")
    assert train("run_dir=run", "trainer.max_epochs=7", "trainer.check_val_every_n_epoch=3", *every_2) == 0
    assert names(Path("run/checkpoints")) == [
        "best.ckpt", "epoch_0002.ckpt", "epoch_0004.ckpt", "epoch_0006.ckpt", "last.ckpt", "previous.ckpt",
    ]  # fmt: skip
    assert names(Path("run/samples")) == ["epoch_0003.png", "epoch_0006.png", "epoch_0007.png"]


@pytest.mark.slow
@pytest.mark.parametrize("limit", ["trainer.max_epochs=2", "+trainer.max_time={milliseconds: 1}"])
def test_a_run_shorter_than_the_validation_interval_is_validated_at_its_end(train, limit):
    assert train("run_dir=run", limit, "trainer.check_val_every_n_epoch=10") == 0
    assert names(Path("run/samples")) == ["epoch_0001.png" if "time" in limit else "epoch_0002.png"]
    assert Path("run/checkpoints/best.ckpt").is_file()
    assert "val/loss" in json.loads(Path("run/result.json").read_text())["last"]


@pytest.mark.slow
def test_a_limit_of_steps_ends_with_a_validation_and_the_best_are_of_validations(train):
    best = ("callbacks.best.save_top_k=3", "callbacks.best.filename='best_{epoch:04d}'")
    limit = ("trainer.max_epochs=9", "trainer.max_steps=18", "trainer.check_val_every_n_epoch=2")
    assert train("run_dir=run", *limit, *best) == 0
    found = [name for name in names(Path("run/checkpoints")) if name.startswith("best")]
    assert found == ["best_0002.ckpt", "best_0004.ckpt", "best_0005.ckpt"], "epochs have 4 steps"
    assert "val/loss" in json.loads(Path("run/result.json").read_text())["last"]
    assert names(Path("run/samples"))[-1] == "epoch_0005.png"


@pytest.mark.slow
def test_fewer_images_than_a_batch_are_the_batch(train, capsys):
    assert train("data.batch_size=500", "run_dir=run") == 0
    assert "data.batch_size=500: the training set has only 37, so it is the batch" in capsys.readouterr().out
    assert json.loads(Path("run/result.json").read_text())["images_seen"] == 74


@pytest.mark.slow
@pytest.mark.parametrize(
    "choices", ["trainer=debug", "~callbacks.grid callbacks.best=null trainer.precision=bf16-mixed"]
)
def test_choices_of_no_other_reconstruction_run(train, choices):
    assert train("trainer.max_epochs=1", *choices.split(), "run_dir=run") == 0
    assert json.loads(Path("run/result.json").read_text())["status"] == "finished"


# --- diffusion


DIFFUSION = ("objective=diffusion", "loss=mse_diffusion", "sampler.num_steps=2")


@pytest.mark.slow
def test_a_diffusion_leaves_what_every_run_leaves(hybrid_diffusion_run):
    assert names(hybrid_diffusion_run / "checkpoints") == ["best.ckpt", "last.ckpt", "previous.ckpt"]
    assert names(hybrid_diffusion_run / "samples") == [
        f"epoch_000{k}{kind}.png" for k in (1, 2) for kind in ("", "_raw")
    ]
    result = json.loads((hybrid_diffusion_run / "result.json").read_text())
    assert list(result["best"]) == ["val/mse", "epoch"]
    assert {"train/loss", "train/mse", "train/perceptual", "val/loss", "val/mse"} <= result["last"].keys()
    assert result["perceptual_weights"] == "random filters (seed 0)"
    checkpoint = load(hybrid_diffusion_run / "checkpoints" / "last.ckpt")
    assert {name.split(".")[0] for name in checkpoint["state_dict"]} == {"net"}
    assert checkpoint["state_dict"].keys() == checkpoint["current_model_state"].keys()
    assert checkpoint["config"]["model"]["num_classes"] == len(checkpoint["labels"]["class"]) == 5
    assert checkpoint["config"]["objective"]["_target_"] == "artart.objectives.diffusion.Diffusion"


@pytest.mark.slow
def test_tensorboard_has_losses_by_noise_level_and_both_grids(hybrid_diffusion_run):
    events = EventAccumulator(str(hybrid_diffusion_run / "tensorboard")).Reload()
    scalars = set(events.Tags()["scalars"])
    logged = {f"{stage}/{name}" for stage in ("train", "val") for name in ("loss", "mse", "perceptual")}
    assert {name for name in scalars if name.startswith(("train/", "val/"))} == logged
    by_level = {name for name in scalars if name.startswith("noise/")}
    levels = {f"r0.{k}5" for k in range(10)}
    assert {name.removeprefix("noise/").rpartition("_")[0] for name in by_level} == {"mse", "perceptual_gradient"}
    assert {name.rpartition("_")[2] for name in by_level} <= levels
    for tag in ("samples", "samples_raw"):
        assert [image.step for image in events.Images(tag)] == [4, 8]


def test_the_end_of_a_diffusion_says_how_to_sample(hybrid_diffusion_run):
    log = (hybrid_diffusion_run / "train.log").read_text()
    assert "samples/epoch_0002.png" in log  # not the one without the average
    assert "-m artart.generate checkpoint=run/checkpoints/best.ckpt num_images=16 save_trajectory=true" in log


@pytest.mark.slow
def test_the_size_of_the_articles_network_is_reported(train, capsys):
    """Two operations for each multiplication of a convolution; a transposed one multiplies at its input's size."""
    layers = [(3, 64, 64), (64, 128, 32), (128, 256, 16), (256, 128, 8), (128, 64, 16), (64, 3, 32)]  # in, out, side
    operations = sum(2 * 9 * a * b * side**2 for a, b, side in layers)
    assert train("image_size=64", "loss=mse", "callbacks=none", "logger=none", "trainer.max_steps=1") == 0
    sentence = f"network: 742,659 parameters, {operations / 1e9:.2f} GFLOPs per image\n"
    assert sentence in capsys.readouterr().out


def test_the_size_of_a_denoiser_is_reported_and_measuring_it_changes_nothing(capsys):
    from artart.models.conv_diffusion import ConvDiffusionModel

    net = ConvDiffusionModel(16)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert describe_net(net).startswith("network: 742,659 parameters")
    assert net.training
    assert_close(net.state_dict(), before, rtol=0, atol=0)
    layers = [(3, 64, 16), (64, 128, 8), (128, 256, 4), (256, 128, 2), (128, 64, 4), (64, 64, 16), (67, 3, 16)]
    operations = sum(2 * 9 * a * b * side**2 for a, b, side in layers)
    linear = 2 * (64 * 256 + 256 * 256 + 256 * 2 * (64 + 128 + 256 + 128 + 64))
    message = describe_net(ConvDiffusionModel(16, num_classes=5, conditioned=True))
    assert message.endswith(f" {(operations + linear) / 1e9:.2f} GFLOPs per image")


@pytest.mark.slow
@pytest.mark.parametrize(
    "choices",
    [
        "schedule=cosine objective.parameterization=eps objective.weighting=min_snr sampler=ddim",
        "schedule=linear objective.parameterization=v objective.weighting=uniform sampler=ddpm",
        "schedule=cosine objective.parameterization=x0 objective.perceptual_max_noise=0 sampler=dpmpp_2m",
        "objective.parameterization=eps objective.class_dropout_prob=0 optimizer=sgd scheduler=step",
        "objective.parameterization=v model.attention=true trainer.precision=bf16-mixed ~callbacks.ema",
        "callbacks=none",
        "callbacks.grid=null data.val_fraction=0 monitor=train/loss",
        "loss.weights.mse=0",
        "loss.weights.perceptual=0",
    ],
)
def test_every_choice_of_diffusion_runs(train, choices):
    small = ("trainer.max_epochs=1", "data.num_demo_images=20", "sampler.num_steps=1", "run_dir=run")
    assert train("objective=diffusion", *small, *choices.split()) == 0
    result = json.loads(Path("run/result.json").read_text())
    assert result["status"] == "finished"
    assert all(np.isfinite(value) for value in result["last"].values())


@pytest.mark.slow
def test_a_schedule_from_a_table_runs_and_can_be_sampled_from(train, generate):
    """Its numbers are in the checkpoint."""
    numbers = ",".join(f"{1 - k / 10:.1f}" for k in range(1, 11))
    options = ("callbacks.grid=null", "trainer.max_epochs=1", "run_dir=run")
    assert train(*DIFFUSION, "schedule=table", f"schedule.alphas_cumprod=[{numbers}]", *options) == 0
    assert generate("checkpoint=run/checkpoints/last.ckpt", "sampler.num_steps=2", "num_images=1", "out=made") == 0


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["denoise", "diffusion_cpu", "quickstart_diffusion"])
def test_every_experiment_of_diffusion_runs(train, experiment):
    small = ("image_size=16", "data.num_demo_images=20", "trainer.max_epochs=1", "sampler.num_steps=1", "run_dir=run")
    assert train(f"experiment={experiment}", *small) == 0
    assert json.loads(Path("run/result.json").read_text())["status"] == "finished"
    assert "net.condition.label.weight" in load(Path("run/checkpoints/last.ckpt"))["state_dict"]


@pytest.mark.slow
def test_the_number_of_classes_is_that_of_the_folder(train, art_folder, tmp_path):
    small = (*DIFFUSION, "callbacks.grid=null", "trainer.max_epochs=1")
    assert train(*small, f"data.root={art_folder}", "run_dir=three") == 0
    for number, path in enumerate(sorted((tmp_path / "art").rglob("*.*"))):
        path.rename(tmp_path / "art" / f"{number}{path.suffix}")
    for folder in sorted((tmp_path / "art").rglob("*/"), reverse=True):
        folder.rmdir()
    assert train(*small, f"data.root={art_folder}", "run_dir=none") == 0
    for run, number in (("three", 3), ("none", 0)):
        checkpoint = load(Path(run, "checkpoints/last.ckpt"))
        assert checkpoint["config"]["model"]["num_classes"] == len(checkpoint["labels"]["class"]) == number


@pytest.mark.slow
def test_the_same_noise_measures_every_epoch(train):
    """With weights that hardly move, so does the score."""
    assert train(*DIFFUSION, "optimizer.lr=1e-9", "callbacks=none", "logger=csv", "trainer.max_epochs=3",
                 "run_dir=run") == 0  # fmt: skip
    (metrics,) = Path("run").rglob("metrics.csv")
    assert yaml.safe_load(metrics.with_name("hparams.yaml").read_text())["optimizer.lr"] == 1e-9
    rows = list(csv.DictReader(metrics.read_text().splitlines()))
    for name in ("val/mse", "val/loss"):
        scores = [float(row[name]) for row in rows if row[name]]
        assert len(scores) == 3
        assert scores == pytest.approx([scores[0]] * 3, rel=1e-4)
    trained = [float(row["train/mse"]) for row in rows if row["train/mse"]]
    assert len(set(trained)) == len(trained)  # while training draws anew


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("objective.parameterization=v", "objective.parameterization=x0, not v"),
        pytest.param(
            "schedule=cosine", "objective.schedule._target_=artart.diffusion.schedule.Flow, not", marks=pytest.mark.slow
        ),
        pytest.param("model.attention=true", "model.attention=false, not true", marks=pytest.mark.slow),
    ],
)
def test_a_diffusion_resumes_as_it_began(train, diffusion_run, tmp_path, capsys, change, message):
    arguments = (f"resume={diffusion_run}/checkpoints/last.ckpt", f"run_dir={tmp_path}/run", "trainer.max_epochs=4")
    assert train(*DIFFUSION, *arguments, change) == 2
    assert f"was trained with {message}" in (error := capsys.readouterr().err)
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


# --- labels of several columns


def test_labels_of_several_columns_are_in_the_checkpoint_and_in_the_network(artists_run):
    content = torch.load(artists_run / "checkpoints" / "last.ckpt", weights_only=True)
    assert list(content["labels"].items()) == [
        ("class", ["drawing", "engraving", "iconography"]),
        ("artist", ["Bo, the elder", "Hélène O'Hara"]),
    ]
    assert content["config"]["model"]["num_classes"] == [3, 2]
    assert len(content["state_dict"]["net.condition.label.weight"]) == 3 + 1 + 2 + 1
    assert content["artart"]["format"] == 3
    assert "class_names" not in content


@pytest.mark.slow
def test_a_column_that_no_value_of_has_enough_files_is_refused(train, artists_run, capsys):
    places = (f"data.root={artists_run.parent / 'art'}", f"data.metadata={artists_run.parent / 'art.csv'}")
    assert train(*places, "data.labels=[class,artist]", "run_dir=run") == 2
    assert "data.min_per_label=50: no artist has so many files; lower it" in capsys.readouterr().err
    assert not Path("run").exists()


# --- from Python


@pytest.fixture
def from_python(tmp_path, monkeypatch):
    """`artart.train.train` in an empty working directory; its logging ends with the test."""
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    root.setLevel(logging.WARNING)  # as Python begins
    small = ("image_size=16", "data.num_demo_images=40", "data.batch_size=8", "trainer=cpu", "trainer.max_epochs=2")
    yield lambda *overrides: artart.train.train([*small, "loss=mse", *overrides])
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("artart").setLevel(logging.NOTSET)


@pytest.mark.slow
def test_train_from_python_returns_what_the_run_leaves(from_python):
    result = from_python("run_dir=my run, first")
    assert result.run_dir == Path("my run, first").absolute()
    assert result.checkpoint == result.run_dir / "checkpoints" / "best.ckpt"
    content = json.loads((result.run_dir / "result.json").read_text())
    assert result.best_score == content["best"]["val/psnr"]
    settings = yaml.safe_load((result.run_dir / ".hydra" / "overrides.yaml").read_text())
    assert "loss=mse" in settings


@pytest.mark.slow
def test_train_from_python_trains_as_the_command_does(from_python, train):
    assert train("run_dir=command", "loss=mse") == 0
    result = from_python()
    ours, theirs = (load(run / "checkpoints" / "last.ckpt") for run in (result.run_dir, Path("command")))
    assert_close(ours["state_dict"], theirs["state_dict"], rtol=0, atol=0)


@pytest.mark.slow
def test_train_from_python_logs_each_run_into_its_own_folder(from_python):
    for name in ("first", "second"):
        from_python("trainer.max_epochs=1", f"run_dir={name}")
    for name, other in (("first", "second"), ("second", "first")):
        lines = Path(name, "train.log").read_text()
        assert lines.count("try next") == 1
        assert other not in lines


@pytest.mark.slow
def test_train_from_python_hands_ctrl_c_on(from_python, monkeypatch):
    monkeypatch.setattr("artart.training.run.fit", lambda *_: sys.exit(130))
    with pytest.raises(KeyboardInterrupt):
        from_python()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("image_sze=16", "image_sze=16: no such key; did you mean image_size?"),
        ("image_size=abc", "image_size=abc: must be a whole number"),
        ("data.mirror=true", "data.mirror=true: renamed to data.random_flip"),
        ("model=unett", "model=unett: no such option; choose "),
        ("trainer.devices=2", "trainer.devices=2: a call from Python trains in one process"),
        ("callbacks=diffusion", "needs a sampler; add objective=diffusion"),
    ],
)
def test_train_from_python_reports_a_mistake_in_one_line(from_python, override, message):
    with pytest.raises(ArtError, match=re.escape(message)) as error:
        from_python(override, *["trainer=ddp"] * ("devices" in override))
    assert "\n" not in str(error.value)
    assert not list(Path().iterdir())
