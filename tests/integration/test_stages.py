"""first_stage=auto: an autoencoder, and then a diffusion model on its latents, in one run."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from filelock import FileLock, Timeout
from lightning.pytorch.callbacks import LambdaCallback
from torch.testing import assert_close

import artart.train
from artart.data import datamodule
from artart.training import run

STAGE_1 = (
    "experiment=autoencoder", "model.model_channels=8", "model.channel_mult=[1]", "loss=mse", "trainer.max_epochs=2",
    "trainer.log_every_n_steps=1",
)  # fmt: skip
SETTINGS = (
    "loss=mse_diffusion", "objective=diffusion", "model=unet_tiny", "model.model_channels=8", "sampler.num_steps=2",
    "scheduler.warmup_steps=2", "data.random_flip=true", "trainer.log_every_n_steps=1", "first_stage=auto",
    *(f"first_stage_settings.{word}" for word in STAGE_1),
)  # fmt: skip
SMALL = (
    "image_size=16", "data.num_demo_images=40", "data.batch_size=8", "trainer.accelerator=cpu", "trainer.max_epochs=2",
)  # fmt: skip
AGAIN = (*SETTINGS, "resume=auto", "run_dir=run")


@pytest.fixture(scope="session")
def whole(once):
    """The folder of a run that nothing befell, of 2 epochs in each stage; read it, do not write into it."""
    return once("stages", lambda folder: artart.train.train([*SMALL, *SETTINGS, f"run_dir={folder}/run"])) / "run"


@pytest.fixture
def copied(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "run"))


@pytest.fixture
def at(monkeypatch):
    """`at(stage, step, act)`: call `act` in a stage after a step."""
    fit = run.fit

    def at(stage, step, act):
        def watched(trainer, module, *rest):
            if module.stage.startswith(stage):
                look = LambdaCallback(on_train_batch_end=lambda *_: act() if trainer.global_step == step else None)
                trainer.callbacks.insert(0, look)
            fit(trainer, module, *rest)

        monkeypatch.setattr(run, "fit", watched)

    return at


def send(number):
    return lambda: os.kill(os.getpid(), number)


def load(path):
    content = torch.load(path, weights_only=True)
    content.get("first_stage", {}).pop("model", None)
    return content


def files_of(folder):
    return {path: path.stat().st_mtime_ns for path in Path(folder).rglob("*")}


def assert_same_end(ours: Path, wanted: Path) -> None:
    """Checkpoints of both stages, bitwise."""
    for name in ("first_stage/checkpoints/last.ckpt", "first_stage/checkpoints/best.ckpt", "checkpoints/last.ckpt",
                 "checkpoints/best.ckpt"):  # fmt: skip
        one, other = load(ours / name), load(wanted / name)
        for part in ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers", "global_step",
                     "images_seen", "metrics", "first_stage"):  # fmt: skip
            assert_close(
                one.get(part, 0), other.get(part, 0), rtol=0, atol=0, msg=lambda m, at=(name, part): f"{at} {m}"
            )


@pytest.mark.slow
@pytest.mark.parametrize("place", ["run_dir=run", "run_dir=null"])
def test_stages_that_are_stopped_again_and_again_end_as_if_nothing_had_been(
    train, whole, at, place, capsys, monkeypatch
):
    def stopped(code, *said):
        assert train(*SETTINGS, place, "resume=auto") == code
        output = capsys.readouterr().out
        (folder,) = Path("outputs/runs").glob("*/*") if place == "run_dir=null" else [Path("run")]
        for one in said:
            assert one.replace("RUN", str(folder)) in output
        return folder, output

    at("stage 1", 2, send(signal.SIGINT))
    hint = "to resume, repeat the command with resume=auto run_dir=RUN\n"
    stopped(130, f"stopped by Ctrl-C in stage 1 of 2, epoch 1/2; {hint}")
    at("stage 1", 6, send(signal.SIGTERM))
    stopped(143, f"stopped by SIGTERM in stage 1 of 2, epoch 2/2; {hint}", "resume: from RUN/first_stage/checkpoints/")
    at("", 0, None)
    with monkeypatch.context() as patch:
        patch.setattr(run, "encode_images", lambda *_: 1 / 0)
        stopped(1, "stage 1 of 2: done, best val/psnr ")
    at("stage 2", 6, send(signal.SIGINT))
    _, output = stopped(130, "trained before, RUN/first_stage/checkpoints/best.ckpt\n", "in stage 2 of 2, epoch 2/2;")
    assert "stage 1 of 2, epoch" not in output
    at("", 0, None)
    folder, output = stopped(0, "resume: from RUN/checkpoints/last.ckpt")
    assert "stage 1 of 2" not in output
    assert_same_end(folder, whole)
    results = [json.loads((one / "result.json").read_text()) for one in (folder, whole)]
    assert results[0]["best"] == results[1]["best"]


@pytest.mark.slow
def test_the_diffusion_continues_with_its_own_first_stage(train, copied, tmp_path, capsys):
    assert train(*AGAIN) == 2
    error = capsys.readouterr().err
    assert error.startswith("trainer.max_epochs=2: the run in ") and error.count("\n") == 1
    before = files_of(copied / "first_stage")
    shutil.copy(copied / "checkpoints" / "last.ckpt", tmp_path / "alone.ckpt")
    more = "first_stage_settings.trainer.max_epochs=5"
    assert train(*AGAIN, "trainer.max_epochs=3", more) == 0
    assert "first_stage_settings have no effect" in capsys.readouterr().out
    assert files_of(copied / "first_stage") == before
    assert train(*SETTINGS, "trainer.max_epochs=3", "resume=alone.ckpt", "run_dir=new") == 0
    assert not Path("new/first_stage").exists()
    ours, alone = load(copied / "checkpoints/last.ckpt"), load("new/checkpoints/last.ckpt")
    for part in ("state_dict", "first_stage", "optimizer_states"):
        assert_close(alone[part], ours[part], rtol=0, atol=0)
    assert_close(ours["first_stage"], load("alone.ckpt")["first_stage"], rtol=0, atol=0)


@pytest.mark.slow
def test_more_epochs_of_a_finished_first_stage_are_trained_before_the_second_stage_begins(train, copied):
    shutil.rmtree(copied / "checkpoints")
    (copied / "result.json").unlink()
    assert train(*AGAIN, "first_stage_settings.trainer.max_epochs=3") == 0
    assert load("run/first_stage/checkpoints/last.ckpt")["epoch"] == 2
    best, last = load("run/first_stage/checkpoints/best.ckpt"), load("run/checkpoints/last.ckpt")
    assert_close(
        {f"net.{name}": one for name, one in last["first_stage"]["state_dict"].items()},
        best["state_dict"],
        rtol=0,
        atol=0,
    )


@pytest.mark.slow
@pytest.mark.parametrize("reached", ["within stage 1", "between", "in stage 2"])
def test_a_first_stage_of_another_network_is_refused(train, copied, reached, capsys):
    if reached != "in stage 2":
        shutil.rmtree(copied / "checkpoints")
        (copied / "result.json").unlink()
    if reached == "within stage 1":
        (copied / "first_stage" / "result.json").unlink()
    before = files_of(copied)
    wide = "first_stage_settings.model.model_channels=16"
    assert train(*AGAIN, wide, "trainer.max_epochs=4", "first_stage_settings.trainer.max_epochs=2") == 2
    error = capsys.readouterr().err
    assert "model.model_channels=" in error
    assert "was trained with" in error
    assert error.count("\n") == 1
    after = files_of(copied)
    locks = {path for path in after if path.name == "lock"} | {path.parent for path in after if path.name == "lock"}
    assert {path: time for path, time in after.items() if path not in locks} == {
        path: time for path, time in before.items() if path not in locks
    }


@pytest.mark.slow
def test_a_run_that_reached_its_first_stage_is_resumed_or_refused(train, copied, capsys):
    shutil.rmtree(copied / "checkpoints")
    (copied / "result.json").unlink()
    assert train(*SETTINGS, "run_dir=run") == 2
    assert "holds a run already (best.ckpt); resume it by resume=auto" in capsys.readouterr().err


MISTAKES = [
    (["first_stage_settings.optimizer.lr=abc"], "first_stage_settings.optimizer.lr=abc: must be a number, above 0"),
    (["first_stage_settings.optimizer.lrr=1"], "first_stage_settings.optimizer.lrr=1: "),
    (
        ["first_stage_settings.optimzer.lr=1"],
        "first_stage_settings.optimzer: no such key; did you mean first_stage_settings.optimizer?",
    ),
    (["first_stage_settings.experiment=nope"], "first_stage_settings.experiment=nope: no such option; choose "),
    (["first_stage_settings.image_size=32"], "first_stage_settings.image_size=32: both stages have the same; set "),
    (["first_stage_settings.data.val_fraction=0"], "first_stage_settings.data.val_fraction=0: both stages have "),
    (["first_stage_settings.run_dir=x"], "first_stage_settings.run_dir=x: leave it out"),
    (["first_stage_settings.first_stage=auto"], "first_stage_settings.first_stage=auto: leave it out"),
    (["first_stage_settings.monitor=val/x"], "first_stage_settings.monitor=val/x: is not logged; choose one of "),
    (["first_stage_settings.model=unet_tiny"], "first_stage_settings: no autoencoder; add first_stage_settings.ex"),
    (["first_stage_settings.model.model_channels=9"], "first_stage_settings.model.model_channels=9: not divisible"),
    (["first_stage_settings.init_from=/x.ckpt"], "first_stage_settings.init_from=/x.ckpt: must be a file that ex"),
    (
        ["first_stage_settings.loss.perceptual.weights=imagenet", "first_stage_settings.loss.weights.perceptual=1"],
        "first_stage_settings.loss.perceptual.weights=imagenet: ",
    ),
    (["first_stage_settings=3"], "first_stage_settings=3: must be "),
    (["first_stage=null"], "first_stage_settings: needs first_stage=auto"),
    (["data.val_fraction=2"], "data.val_fraction=2: must be "),
    (["image_size=8"], "image_size=8: latents would be 4 x 4; take at least 16"),
    (["image_size=20"], "image_size=20: the network has latents of 10 x 10: image_size=10: not divisible by 4"),
]
OFTEN = 4  # of them are tried in the fast tier


@pytest.mark.parametrize(
    ("words", "line"), [*MISTAKES[:OFTEN], *(pytest.param(*one, marks=pytest.mark.slow) for one in MISTAKES[OFTEN:])]
)
def test_a_mistake_in_the_settings_of_a_stage_is_one_line_before_any_work(
    train, words, line, offline, tmp_path, capsys
):
    assert train(*SETTINGS, *words) == 2
    error = capsys.readouterr().err
    assert error.startswith(line)
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_stages_are_not_swept(train, capsys):
    assert train("-m", "seed=0,1", *SETTINGS) == 1
    assert "first_stage=auto: each job of a sweep would train one" in capsys.readouterr().err
    assert not list(Path().rglob("*.ckpt"))


@pytest.mark.slow
def test_stages_share_the_images_and_the_lock_of_their_folder(train, at, art_folder, monkeypatch, capsys):
    (art_folder / "broken.png").write_bytes(b"none")
    reads = []
    monkeypatch.setattr(
        datamodule, "images_of", lambda *of, images_of=datamodule.images_of: reads.append(of) or images_of(*of)
    )

    def is_locked():
        with pytest.raises((Timeout, RuntimeError)):
            FileLock("run/.hydra/lock", timeout=0).acquire()
        locked.append(True)

    locked = []
    at("stage 1", 1, is_locked)
    assert train(*SETTINGS, f"data.root={art_folder}", "run_dir=run") == 0
    assert len(reads) == len(locked) == 1
    for folder in ("run", "run/first_stage"):
        assert "broken.png" in Path(folder, "rejected.csv").read_text()
    whole, first = (Path(folder, "train.log").read_text() for folder in ("run", "run/first_stage"))
    assert all(f"of memory, stage {number} of 2 about " in whole for number in (1, 2))
    assert "stage 1 of 2: done, best val/psnr" in whole
    assert "grid run/first_stage/samples/epoch_0002.png" in whole
    assert "stage 2 of 2, epoch 2/2" in whole
    assert "stage 1 of 2, epoch" not in whole
    assert "stage 1 of 2, epoch 2/2" in first
    assert "left in this stage" in first
    assert "stage 2 of 2" not in first


@pytest.mark.slow
def test_stages_from_python(whole, at, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [*SMALL, *SETTINGS, "run_dir=run"]
    at("stage 1", 2, send(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        artart.train.train(words)
    at("", 0, None)
    assert artart.train.train([*words, "resume=auto"]).checkpoint == tmp_path / "run" / "checkpoints" / "best.ckpt"
    assert_same_end(tmp_path / "run", whole)
