"""A run that was stopped, however that happened, ends as if nothing had been."""

import csv
import json
import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.testing import assert_close

from artart import ArtError
from artart.training import resume, run

RECONSTRUCTION = (
    "data.random_flip=true",
    "callbacks.checkpoints.every_n_epochs=1",
    "+logger.csv._target_=artart.training.loggers.ContinuedCSVLogger",
    "+logger.csv.save_dir=${run_dir}",
    "+logger.csv.name=''",
    "+logger.csv.version=csv",
)
DIFFUSION = ("objective=diffusion", "loss=mse_diffusion", "sampler.num_steps=2", "scheduler.warmup_steps=2",
             "data.random_flip=true", "data.storage=device")  # fmt: skip
AUTOENCODER = ("model=autoencoder", "model.model_channels=8", "loss=mse", "objective.regularizer=${regularizer}")
GAN = ("objective=gan", "model.model_channels=8", "model.channel_mult=[1,2]", "data.random_flip=true")
KINDS = {
    "reconstruction": RECONSTRUCTION,
    "diffusion": DIFFUSION,
    "gan": GAN,
    "text": (*DIFFUSION, "data.captions=auto"),
    "noise": (*AUTOENCODER, "+regularizer=noise", "optimizer=muon"),
    "kl": (*AUTOENCODER, "+regularizer=kl", "regularizer.weight=0.01"),
}
EPOCHS = "trainer.max_epochs=3"  # of 4 steps
LOGGED = "trainer.log_every_n_steps=1"
EVERY_SECOND_LOGGED = "trainer.log_every_n_steps=2"  # so that runs stop between log lines


class Trouble(Callback):
    """Something happens at a step: before it, within its backward pass, after it, or in the validation behind it."""

    def __init__(self, event: str, place: str, step: int) -> None:
        self.event, self.place, self.step = event, place, step

    def _befall(self, place, step):
        if (place, step) == (self.place, self.step):
            self.step = -1  # once
            if self.event == "crash":
                raise RuntimeError("injected")
            os.kill(os.getpid(), getattr(signal, self.event))
            time.sleep(0.01)

    def on_train_batch_start(self, trainer, *_):
        self._befall("before", trainer.global_step + 1)

    def on_after_backward(self, trainer, *_):
        self._befall("within", trainer.global_step + 1)

    def on_train_batch_end(self, trainer, *_):
        self._befall("after", trainer.global_step)

    def on_validation_batch_start(self, trainer, *_):
        self._befall("validation", trainer.global_step)

    def on_validation_end(self, trainer, *_):
        self._befall("after validation", trainer.global_step)

    def on_train_epoch_start(self, trainer, *_):
        self._befall("epoch", trainer.global_step)


class Diary(Callback):
    """The loss of each step."""

    losses: dict[int, float]

    def on_fit_start(self, trainer, module):
        Diary.losses = {}

    def on_train_batch_end(self, trainer, module, outputs, *_):
        Diary.losses[trainer.global_step] = outputs["loss"].item()


TRUSTED = f"trusted_classes=[{__name__}.Diary,{__name__}.Trouble]"
WITH_DIARY = (f"+callbacks.diary._target_={__name__}.Diary", TRUSTED)


@pytest.fixture
def importable(monkeypatch):
    """Hydra builds the callbacks above by their names."""
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])


@pytest.fixture
def train(train_by_pixels):
    return train_by_pixels


def load(path: str | Path) -> dict:
    return torch.load(path, weights_only=True)


def trouble(event: str, place: str, step: int) -> tuple[str, ...]:
    options = {"_target_": f"{__name__}.Trouble", "event": event, "place": f"'{place}'", "step": step}
    return TRUSTED, *(f"+callbacks.a_trouble.{key}={value}" for key, value in options.items())


def points(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """TensorBoard's curves, but for what is of the clock."""
    events = EventAccumulator(str(folder), {"scalars": 0}, purge_orphaned_data=False).Reload()
    tags = [tag for tag in events.Tags()["scalars"] if tag not in ("images_per_second", "hp_metric")]
    return {tag: sorted((point.step, point.value) for point in events.Scalars(tag)) for tag in tags}


def table(path: Path) -> list[dict[str, str]]:
    rows = list(csv.DictReader(path.read_text().splitlines()))
    return [{k: v for k, v in row.items() if v and k != "images_per_second"} for row in rows]


def assert_same_end(run: Path, whole: Path) -> None:
    """Everything, bitwise."""
    for name in ("last.ckpt", "best.ckpt"):
        ours, wanted = load(run / "checkpoints" / name), load(whole / "checkpoints" / name)
        for part in ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers",
                     "epoch", "global_step", "images_seen", "metrics"):  # fmt: skip
            assert_close(
                ours.get(part, 0), wanted.get(part, 0), rtol=0, atol=0, msg=lambda m, part=part: f"{part}: {m}"
            )
    assert points(run / "tensorboard") == points(whole / "tensorboard")
    ours, wanted = (json.loads((folder / "result.json").read_text()) for folder in (run, whole))
    for key in ("best", "epochs", "steps", "images_seen"):
        assert ours[key] == wanted[key]
    ours, wanted = ({name: one["last"][name] for name in one["last"] if "val/" in name} for one in (ours, wanted))
    assert ours == wanted != {}


@pytest.fixture
def whole(request, train, importable):
    """A run that nothing befell, and the losses of its steps."""
    kind = request.getfixturevalue("kind")
    assert train(*KINDS[kind], EPOCHS, EVERY_SECOND_LOGGED, *WITH_DIARY, "run_dir=whole") == 0
    return Diary.losses


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_is_stopped_again_and_again_ends_as_if_nothing_had_been(train, whole, kind, capsys, monkeypatch):
    """Each stop with the exit code, where the checkpoint then is, and what the next start says of it."""
    handlers, fit = [], run.fit

    def noting(*arguments) -> None:
        try:
            fit(*arguments)
        finally:
            handlers.append(signal.getsignal(signal.SIGINT))

    monkeypatch.setattr(run, "fit", noting)
    stops = [
        (("SIGINT", "before", 2), 130, 2),  # the step is finished
        (("SIGTERM", "within", 3), 143, 3),
        (("SIGTERM", "before", 4), 143, 4),  # the last of the epoch: validation is still to come
        (("SIGINT", "validation", 4), 130, 4),
        (("SIGINT", "after validation", 4), 130, 4),
        (("SIGTERM", "epoch", 4), 143, 5),  # a signal between epochs
        (("crash", "within", 7), 1, 5),  # nothing is saved of it
        (("SIGINT", "after", 6), 130, 6),
        (("crash", "validation", 8), 1, 8),
        (("SIGTERM", "within", 12), 143, 12),
    ]
    stops = stops if kind in ("reconstruction", "diffusion") else stops[1::3]  # what a regularizer draws goes on too
    losses: dict[int, float] = {}
    common = (*KINDS[kind], EPOCHS, EVERY_SECOND_LOGGED, *WITH_DIARY, "run_dir=run")
    reached = None
    for befalls, code, step in stops:
        assert train(*common, *trouble(*befalls), "resume=auto") == code, befalls
        output = capsys.readouterr()
        assert load("run/checkpoints/last.ckpt")["global_step"] == step, befalls
        assert min(Diary.losses, default=step + 1) == (reached or 0) + 1, befalls
        assert ("resume=auto run_dir=run" in output.out) == (code != 1)
        assert ("Traceback" in output.err) == (code == 1)
        reached = step
        losses |= Diary.losses
    assert train(*common, "resume=auto") == 0
    assert json.loads(Path("run/result.json").read_text())["resumed_at_step"] == reached
    assert losses | Diary.losses == whole
    assert_same_end(Path("run"), Path("whole"))
    assert handlers == [signal.default_int_handler] * (len(stops) + 1)  # given back each time
    if kind == "reconstruction":
        assert table(Path("run/csv/metrics.csv")) == table(Path("whole/csv/metrics.csv"))


class Interrupting:
    """A file in the middle of whose writing Ctrl-C is pressed."""

    def __init__(self, file):
        self.file = file

    def write(self, data):
        os.kill(os.getpid(), signal.SIGINT)
        return self.file.write(data)

    def __getattr__(self, name):
        return getattr(self.file, name)


@pytest.mark.slow
def test_a_signal_waits_for_a_checkpoint_that_is_being_written(train, importable, monkeypatch, capsys):
    """Else torch would turn it into an error of its own."""
    save = torch.save

    def interrupted(content, file):
        is_second_best = ".best.ckpt." in file.name and content["global_step"] == 8
        save(content, Interrupting(file) if is_second_best else file)

    common = (*RECONSTRUCTION, EPOCHS, LOGGED)
    assert train(*common, "run_dir=whole") == 0
    monkeypatch.setattr(torch, "save", interrupted)
    assert train(*common, "run_dir=run") == 130
    assert "Traceback" not in capsys.readouterr().err
    assert load("run/checkpoints/best.ckpt")["global_step"] == load("run/checkpoints/last.ckpt")["global_step"] == 8
    monkeypatch.setattr(torch, "save", save)
    assert train(*common, "run_dir=run", "resume=auto") == 0
    assert_same_end(Path("run"), Path("whole"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["diffusion"])
def test_what_minutes_saved_is_gone_on_from_after_a_crash(train, whole, kind, capsys):
    common = (
        *KINDS[kind],
        EPOCHS,
        EVERY_SECOND_LOGGED,
        *WITH_DIARY,
        "run_dir=run",
        "callbacks.last.train_time_interval=1e-9",
    )
    assert train(*common, *trouble("crash", "before", 7)) == 1
    Path("run/checkpoints/.last.ckpt.0123.part").write_bytes(b"of a kill in the middle of a save")
    assert load("run/checkpoints/last.ckpt")["global_step"] == 6
    assert train(*common, "resume=auto") == 0
    assert json.loads(Path("run/result.json").read_text())["resumed_at_step"] == 6
    assert not list(Path("run/checkpoints").glob(".*"))
    assert_same_end(Path("run"), Path("whole"))


@pytest.mark.slow
@pytest.mark.parametrize("option", ["trainer.max_steps=10", "+trainer.val_check_interval=0.5"])
def test_ends_and_validations_within_an_epoch_are_met_again(train, importable, option):
    """Validation at steps 2, 4, ... and an end at 10; a crash at 7 goes on from step 6 or from the end of epoch 1."""
    common = (*RECONSTRUCTION, EPOCHS, LOGGED, option)
    assert train(*common, "run_dir=whole") == 0
    for befalls in (("SIGINT", "before", 2), ("SIGTERM", "within", 3), ("crash", "within", 7)):
        run = Path(befalls[0])
        assert train(*common, *trouble(*befalls), f"run_dir={run}") != 0
        if befalls[0] != "crash":
            assert load(run / "checkpoints/last.ckpt")["global_step"] == befalls[2]
        assert train(*common, f"run_dir={run}", "resume=auto") == 0
        assert_same_end(run, Path("whole"))
        result = json.loads((run / "result.json").read_text())
        assert result["steps"] == (10 if "max_steps" in option else 12)
        assert "val/psnr" in result["last"]


@pytest.mark.slow
def test_a_run_that_is_resumed_within_the_last_epoch_validates_it(train, importable):
    """Of three, and validation is every two."""
    common = (*RECONSTRUCTION, EPOCHS, LOGGED, "trainer.check_val_every_n_epoch=2")
    assert train(*common, "run_dir=whole") == 0
    assert train(*common, *trouble("SIGINT", "within", 10), "run_dir=run") == 130
    assert train(*common, "run_dir=run", "resume=auto") == 0
    assert_same_end(Path("run"), Path("whole"))
    assert [path.name for path in sorted(Path("run/samples").iterdir())][-1] == "epoch_0003.png"


@pytest.mark.slow
def test_an_optimizer_that_was_fused_on_a_gpu_goes_on_without_on_the_cpu(train):
    assert train(*DIFFUSION, "callbacks.checkpoints.every_n_epochs=1", "run_dir=run") == 0
    content, ends = load("run/checkpoints/epoch_0001.ckpt"), []
    for fused in (None, True):
        for group in content["optimizer_states"][0]["param_groups"]:
            group["fused"] = fused
        torch.save(content, path := Path(f"{fused}.ckpt"))
        assert train(*DIFFUSION, f"resume={path}", f"run_dir={fused}") == 0
        ends.append(load(f"{fused}/checkpoints/last.ckpt"))
    assert_close(ends[1]["state_dict"], ends[0]["state_dict"], rtol=0, atol=0)
    assert ends[1]["optimizer_states"][0]["param_groups"][0]["fused"] is None


@pytest.mark.slow
def test_gradients_that_are_being_accumulated_are_finished_first(train, importable):
    options = (EPOCHS, "trainer.accumulate_grad_batches=2", *WITH_DIARY)
    assert train(*options, "run_dir=whole") == 0
    assert train(*options, "run_dir=run", *trouble("SIGINT", "within", 3)) == 130
    assert load("run/checkpoints/last.ckpt")["global_step"] == 3
    assert train(*options, "run_dir=run", "resume=auto") == 0
    wanted, ours = (load(Path(run, "checkpoints/last.ckpt")) for run in ("whole", "run"))
    assert_close(ours["state_dict"], wanted["state_dict"], rtol=0, atol=0)


@pytest.mark.slow
def test_an_earlier_checkpoint_sets_aside_what_came_after_it(train, capsys):
    options = ("callbacks.checkpoints.every_n_epochs=1", "callbacks.grid.every_n_epochs=1")
    assert train(*options, EPOCHS, "run_dir=run") == 0
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.suffix in (".ckpt", ".png", ".json")}
    assert train("resume=run/checkpoints/epoch_0001.ckpt", *options, "trainer.max_epochs=2") == 0
    (aside,) = Path("run").glob("set_aside_*")
    assert f"files of later steps than 4 are set aside in {aside}" in capsys.readouterr().out
    kept = {path: aside / path.relative_to("run") for path in before}
    for path, content in before.items():
        place = path if path.name in ("epoch_0001.ckpt", "epoch_0001.png", "previous.ckpt") else kept[path]
        assert place.read_bytes() == content, path
    assert load("run/checkpoints/last.ckpt")["epoch"] == 1
    assert load("run/checkpoints/best.ckpt")["epoch"] == 1
    assert len(points(aside / "tensorboard")["val/psnr"]) == 3
    assert len(points(Path("run/tensorboard"))["val/psnr"]) == 2


@pytest.mark.slow
def test_curves_of_a_run_that_saved_nothing_do_not_mingle_with_those_of_the_next(train, importable, capsys):
    options = (*RECONSTRUCTION, "trainer.max_epochs=1", LOGGED, "run_dir=run")
    assert train(*options, *trouble("crash", "within", 3)) == 1
    assert not Path("run/checkpoints").exists()
    before = {path.name: path.read_bytes() for path in Path("run/tensorboard").glob("events*")}
    assert train(*options, "resume=auto") == 0
    (aside,) = Path("run").glob("set_aside_*")
    assert f"curves of a run without a checkpoint are set aside in {aside}" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in (aside / "tensorboard").iterdir()} == before
    assert [step for step, _ in points(Path("run/tensorboard"))["train/loss"]] == [0, 1, 2, 3]
    assert [row["step"] for row in table(Path("run/csv/metrics.csv")) if "train/loss" in row] == list("0123")


@pytest.mark.slow
@pytest.mark.parametrize("is_there", [True, False])
def test_a_run_whose_folder_was_moved_knows_its_best_if_the_file_is_there(train, is_there):
    assert train("trainer.max_epochs=1", "run_dir=old") == 0
    content = load("old/checkpoints/last.ckpt")
    state = content["callbacks"]["EpochCheckpoint_best"]  # as if no later epoch could be better
    score = torch.tensor(99.0)
    state |= {"best_model_score": score, "kth_value": score, "best_k_models": {state["best_model_path"]: score}}
    torch.save(content, "old/checkpoints/last.ckpt")
    Path("old").rename("new")
    best = Path("new/checkpoints/best.ckpt")
    if not is_there:
        best.unlink()
    assert train("trainer.max_epochs=2", "resume=auto", "run_dir=new") == 0
    assert load(best)["epoch"] == (0 if is_there else 1)
    result = json.loads(Path("new/result.json").read_text())["best"]
    assert (result["val/psnr"] == 99) == is_there


@pytest.mark.slow
def test_only_as_many_checkpoints_as_asked_for_are_kept(train):
    options = ("callbacks.checkpoints.every_n_epochs=1", "callbacks.checkpoints.save_top_k=2", "run_dir=run")
    assert train(*options, EPOCHS) == 0
    assert train(*options, "trainer.max_epochs=5", "resume=auto") == 0
    names = sorted(path.name for path in Path("run/checkpoints").iterdir())
    assert names == ["best.ckpt", "epoch_0004.ckpt", "epoch_0005.ckpt", "last.ckpt", "previous.ckpt"]
    fewer = (options[0], "callbacks.checkpoints.save_top_k=1", "run_dir=run")
    assert train(*fewer, "trainer.max_epochs=7", "resume=auto") == 0
    assert {path.name for path in Path("run/checkpoints").iterdir()} >= {"epoch_0007.ckpt", "epoch_0004.ckpt"}
    assert not Path("run/checkpoints/epoch_0006.ckpt").exists()


@pytest.mark.slow
def test_other_settings_are_shown(train, finished_run, tmp_path, capsys):
    arguments = (f"resume={finished_run}/checkpoints/last.ckpt", f"run_dir={tmp_path}/run", "trainer.max_epochs=4")
    assert train(*arguments, "data.batch_size=4", "seed=3", "data.num_demo_images=44") == 0
    message = capsys.readouterr().out
    (line,) = re.findall(r"resume: other settings than before: (.*)", message)
    for difference in ("seed=3 (was 0)", "data.batch_size=4 (was 8)", "trainer.max_epochs=4 (was 3)"):
        assert difference in line
    assert "run_dir" not in line
    assert "data.seed" not in line
    assert re.search(
        r"other images than before: \d+ for training and \d held out, which were 37 and 3; some held out now", message
    )


@pytest.mark.slow
def test_other_classes_are_refused(train, finished_run, tmp_path, art_folder, capsys):
    checkpoint = finished_run / "checkpoints" / "last.ckpt"
    assert train(f"resume={checkpoint}", f"data.root={art_folder}", "trainer.max_epochs=4") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "was trained on the classes drawing, engraving, iconography, painting and sculpture, the data has" in error
    assert not Path("run").exists()


def of_artists(run):
    """What the run on labels of several columns was called with."""
    places = (f"data.root={run.parent / 'art'}", f"data.metadata={run.parent / 'art.csv'}", "data.val_fraction=0.5")
    kind = ("objective=diffusion", "loss=mse_diffusion", "sampler.num_steps=2", "callbacks.grid=null")
    return (f"resume={run / 'checkpoints' / 'last.ckpt'}", "run_dir=run", "data.min_per_label=20", *places, *kind)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("data.labels=[class]", "was trained with data.labels=[class, artist], not [class]; ask for that"),
        pytest.param(
            "data.labels=[artist,class]",
            "was trained with data.labels=[class, artist], not [artist, class]; ask for",
            marks=pytest.mark.slow,
        ),
        (
            "data.min_per_label=21 data.labels=[class,artist] data.licences=['CC*']",
            "was trained on the labels of artist Bo, the elder and Hélène O'Hara, the data has Hélène O'Hara; start",
        ),
    ],
)
def test_labels_of_other_columns_or_names_are_refused(train, artists_run, capsys, tmp_path, other, message):
    table = (artists_run.parent / "art.csv").read_text().splitlines()
    licences = ["licence", *["CC0"] * 4, "mine", *["CC0"] * 55]  # one by Bo is mine, which leaves 20
    (tmp_path / "art.csv").write_text("\n".join(map(",".join, zip(table, licences, strict=True))))
    metadata = (f"data.metadata={tmp_path / 'art.csv'}",) * ("licences" in other)
    assert train(*of_artists(artists_run), *metadata, *other.split()) == 2
    error = capsys.readouterr().err.splitlines()
    assert message in error[-1]
    assert not Path("run").exists()


@pytest.mark.slow
def test_a_run_of_several_columns_resumes_but_not_one_of_an_older_format(
    train, artists_run, diffusion_run, tmp_path, capsys
):
    assert train(*of_artists(artists_run), "data.labels=[class,artist]", "trainer.max_epochs=2") == 0
    assert json.loads(Path("run/result.json").read_text())["resumed_at_step"] == 3
    content = torch.load(diffusion_run / "checkpoints" / "last.ckpt", weights_only=True)
    content["artart"]["format"] = 2
    torch.save(content, tmp_path / "old.ckpt")
    small = ("objective=diffusion", "loss=mse_diffusion", "sampler.num_steps=2", "callbacks.grid=null", "run_dir=old")
    assert train(f"resume={tmp_path / 'old.ckpt'}", *small, "trainer.max_epochs=4") == 2
    assert "old.ckpt: written by an older artart; begin with its weights: init_from=" in capsys.readouterr().err


@pytest.mark.slow
def test_an_epoch_that_a_limit_cut_short_has_ended(train):
    assert train(EPOCHS, "run_dir=run", "trainer.max_steps=2") == 0
    assert train(EPOCHS, "run_dir=run", "resume=auto", "data.batch_size=4", "data.num_demo_images=50") == 0


@pytest.mark.slow
def test_within_an_epoch_no_other_batches_are_resumed_with(train, importable, capsys):
    assert train(EPOCHS, "run_dir=run", *trouble("SIGINT", "before", 2)) == 130
    assert train(EPOCHS, "run_dir=run", "resume=auto", "data.batch_size=4") == 2
    error = capsys.readouterr().err
    assert "lies within an epoch of batches of 8 images in the order of seed=0, now 4 and seed=0" in error
    assert error.count("\n") == 1
    assert train(EPOCHS, "run_dir=run", "resume=auto", "data.seed=1") == 2
    assert "now 8 and seed=1" in capsys.readouterr().err
    assert train(EPOCHS, "run_dir=run", "resume=auto", "data.num_demo_images=50") == 2
    assert "lies within an epoch of other images (" in capsys.readouterr().err
    assert train(EPOCHS, "run_dir=run", "resume=auto") == 0
    assert json.loads(Path("run/result.json").read_text())["resumed_at_step"] == 2


def test_a_folder_that_holds_another_run_is_not_resumed_in(train, finished_run, diffusion_run, capsys):
    shutil.copytree(diffusion_run, "other")
    before = {path: path.read_bytes() for path in Path("other").rglob("*") if path.is_file()}
    assert train(f"resume={finished_run}/checkpoints/last.ckpt", "run_dir=other", "trainer.max_epochs=4") == 2
    assert "other: holds another run already (best.ckpt); name a new folder" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in Path("other").rglob("*") if path.is_file()} == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "more", "sentence"),
    [
        ("trainer.max_steps=6", "trainer.max_steps=9", "trainer.max_steps=6: the run in "),
        ("trainer.max_epochs=1", "trainer.max_epochs=2", "trainer.max_epochs=1: the run in "),
    ],
)
def test_a_run_that_has_come_to_its_end_names_the_limit_and_takes_more(train, capsys, first, more, sentence):
    assert train(first, "run_dir=run") == 0
    assert train(first, "run_dir=run", "resume=auto") == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert f"raise the limit, such as {first.partition('=')[0]}={2 * int(first[-1])}" in error
    assert train(more, "trainer.max_epochs=4" if "steps" in more else more, "run_dir=run", "resume=auto") == 0
    assert json.loads(Path("run/result.json").read_text())["steps"] == (9 if "steps" in more else 8)


@pytest.mark.slow
def test_curves_elsewhere_are_left_alone(train, tmp_path):
    elsewhere = f"logger.tensorboard.save_dir={tmp_path}/curves"
    assert train("trainer.max_epochs=1", elsewhere, "run_dir=one") == 0
    before = {path.name for path in (tmp_path / "curves" / "tensorboard").iterdir()}
    assert train("trainer.max_epochs=1", elsewhere, "run_dir=two") == 0
    assert before < {path.name for path in (tmp_path / "curves" / "tensorboard").iterdir()}
    assert not list(Path("two").glob("set_aside_*"))


@pytest.mark.slow
def test_the_newest_good_checkpoint_is_not_one_of_the_same_step(train, capsys):
    spoiled = ("data.val_fraction=0", "data.batch_size=500", "optimizer=sgd", "optimizer.lr=1e30", "run_dir=run")
    assert train(*spoiled, EPOCHS) == 1
    assert "no good checkpoint was written before" in capsys.readouterr().err
    assert train(*spoiled, EPOCHS, "resume=auto") == 1
    assert "no good checkpoint was written before" in capsys.readouterr().err


def cut_off(path: Path) -> None:
    content = path.read_bytes()
    path.unlink()  # previous.ckpt may be a second name of the same file
    path.write_bytes(content[: len(content) // 2])


def test_a_damaged_checkpoint_names_the_newest_good_one(train, finished_run, tmp_path, capsys):
    shutil.copytree(
        finished_run, tmp_path / "run", ignore=shutil.ignore_patterns("best.ckpt", "previous.ckpt", "*.json")
    )
    folder = tmp_path / "run" / "checkpoints"
    cut_off(folder / "last.ckpt")
    assert train("resume=auto", f"run_dir={tmp_path}/run", EPOCHS) == 2
    error = capsys.readouterr().err
    assert f"the newest good one beside it is {folder}/epoch_0002.ckpt" in error
    assert error.count("\n") == 1


def test_a_newer_checkpoint_says_so(finished_run, tmp_path):
    content = load(finished_run / "checkpoints" / "last.ckpt")
    content["artart"] = {"format": 99, "version": "9.0"}
    torch.save(content, tmp_path / "newer.ckpt")
    with pytest.raises(ArtError, match=r"newer.ckpt: written by artart 9.0, this is .*; a newer artart can read it"):
        resume.load_resume_state(tmp_path / "newer.ckpt", {}, [])


def files_of(folder: str | Path) -> dict[Path, tuple[bytes, int]]:
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in Path(folder).rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_refused_command_leaves_a_run_as_it_is(train, importable, art_folder, capsys):
    """Whatever is found wrong after the images have been read, and while the trainer is built."""
    common = (f"data.root={art_folder}", "data.batch_size=2", EPOCHS, "run_dir=run")
    assert train(*common, *trouble("SIGINT", "before", 2)) == 130
    before = files_of("run")
    (art_folder / "drawing" / "odd.png").write_bytes(b"odd")
    for mistake, code, message in (
        ("data.val_fraction=0.5", 2, "lies within an epoch of other images"),
        ("data.val_fraction=0", 2, "lies within an epoch of other images"),
        ("data.max_rejected_fraction=0", 2, "index.csv; that is more than data.max_rejected_fraction=0"),
        ("callbacks.learning_rate.logging_interval=never", 2, "callbacks"),
    ):
        assert train(*common, "resume=auto", mistake) == code
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
        assert files_of("run") == before, mistake
    assert train(*common, "resume=auto") == 0
    assert json.loads(Path("run/result.json").read_text())["resumed_at_step"] == 2
    assert "odd.png" in Path("run/rejected.csv").read_text()
    log = Path("run/train.log").read_text()
    assert log.count("12 images: ") == 2  # of both readings that were used
    assert "resume: other settings than before: " in log


@pytest.mark.slow
def test_settings_under_which_nothing_was_saved_do_not_hide_a_run(train, importable, capsys):
    assert train("trainer.max_epochs=1") == 0
    (run,) = Path("outputs/runs").glob("*/*")
    Path(run, "result.json").unlink()  # as if it had been killed before its end
    assert train("trainer.max_epochs=2", *trouble("crash", "within", 5), f"run_dir={run}", "resume=auto") == 1
    assert train("trainer.max_epochs=1", "resume=auto") == 0
    assert f"resume: from {run}/checkpoints/last.ckpt" in capsys.readouterr().out
    assert "max_epochs: 1" in (run / ".hydra" / "config.yaml").read_text()
    assert train("trainer.max_epochs=2", "resume=auto", f"run_dir={run}") == 0
    assert "max_epochs: 2" in (run / ".hydra" / "config.yaml").read_text()
    assert list(Path("outputs/runs").glob("*/*")) == [run]


@pytest.mark.slow
def test_a_damaged_last_checkpoint_is_replaced_by_the_one_before_it(train, capsys):
    assert train(EPOCHS, "run_dir=whole") == 0
    shutil.copytree("whole", "run")
    cut_off(Path("run/checkpoints/last.ckpt"))
    Path("run/result.json").unlink()
    assert train(EPOCHS, "run_dir=run", "resume=auto") == 0
    message = capsys.readouterr().out
    assert "resume: run/checkpoints/last.ckpt is damaged; the checkpoint before it is used" in message
    assert "resume: from run/checkpoints/previous.ckpt" in message
    assert json.loads(Path("run/result.json").read_text())["resumed_at_step"] == 4  # the first validation
    assert load("run/checkpoints/last.ckpt")["global_step"] == 12
    assert_close(load("run/checkpoints/last.ckpt")["state_dict"], load("whole/checkpoints/last.ckpt")["state_dict"],
                 rtol=0, atol=0)  # fmt: skip
    assert points(Path("run/tensorboard")) == points(Path("whole/tensorboard"))


@pytest.mark.slow
def test_a_copied_checkpoint_writes_nothing_into_the_folder_above_it(train, finished_run, tmp_path, capsys):
    for name in ("Downloads", "tensorboard"):
        (tmp_path / "home" / name).mkdir(parents=True)
    shutil.copy(finished_run / "checkpoints" / "last.ckpt", tmp_path / "home" / "Downloads" / "last.ckpt")
    for name in ("result.json", "train.log", "tensorboard/events.out.tfevents.mine"):
        (tmp_path / "home" / name).write_text("mine")
    before = files_of("home")
    assert train("resume=home/Downloads/last.ckpt", "trainer.max_epochs=4") == 2
    error = capsys.readouterr().err
    assert error.endswith("does not lie in checkpoints/ of a run; name a new folder to resume in: run_dir=DIR\n")
    assert error.count("\n") == 1
    assert files_of("home") == before
    assert train("resume=home/Downloads/last.ckpt", "trainer.max_epochs=4", "run_dir=run") == 0
    assert files_of("home") == before
    assert json.loads(Path("run/result.json").read_text())["epochs"] == 4


ADVERSARIAL = (
    "model=autoencoder", "loss=hybrid_adversarial", "optimizer=muon", "scheduler=cosine",
    "trainer.gradient_clip_val=1", "+callbacks.ema._target_=artart.training.callbacks.ema.EMA",
)  # fmt: skip


@pytest.mark.slow
def test_a_discriminator_is_resumed_bitwise_and_needed_by_training_alone(
    train, importable, generate, evaluate, export, capsys
):
    """Stopped before the adversarial term begins, at step 3 of 12, and after that."""
    assert train(*ADVERSARIAL, EPOCHS, LOGGED, "run_dir=whole") == 0
    for befalls in (("SIGINT", "before", 2), ("SIGTERM", "within", 7)):
        assert train(*ADVERSARIAL, EPOCHS, LOGGED, *trouble(*befalls), "run_dir=run", "resume=auto") > 128
    assert train(*ADVERSARIAL, EPOCHS, LOGGED, "run_dir=run", "resume=auto") == 0
    assert_same_end(Path("run"), Path("whole"))
    curves = points(Path("run/tensorboard"))
    assert [len(curves[f"train/{name}"]) for name in ("discriminator", "adversarial")] == [12, 9]
    assert "val/adversarial" not in curves
    content = load(last := Path("run/checkpoints/last.ckpt"))
    assert len(content["optimizer_states"][0]["param_groups"]) == 2

    capsys.readouterr()
    other = (*ADVERSARIAL[:1], "loss=mse", *ADVERSARIAL[2:], "trainer.max_epochs=4", f"resume={last}")
    assert train(*other) == 2
    assert "its discriminator is not that of loss" in capsys.readouterr().err
    grid = next(Path("run/samples").glob("*.png"))
    assert generate(f"checkpoint={last}", "mode=reconstruct", f"input={grid}", "out=made") == 0
    assert evaluate(f"checkpoint={last}") == 0
    assert export(f"checkpoint={last}", "out=shared.safetensors") == 0
    shared = load_file("shared.safetensors")
    assert {f"net.{name}" for name in shared} < content["state_dict"].keys()
    assert generate("checkpoint=shared.safetensors", "mode=reconstruct", f"input={grid}", "out=again") == 0
    assert train(*ADVERSARIAL, "trainer.max_epochs=1", f"init_from={last}") == 0


@pytest.mark.slow
def test_a_run_killed_after_its_last_save_has_a_complete_result_once_resumed(train, finished_run):
    shutil.copytree(finished_run, "run")
    before = json.loads(Path("run/result.json").read_text())
    Path("run/result.json").unlink()
    every_2 = ("callbacks.grid.every_n_epochs=2", "callbacks.checkpoints.every_n_epochs=2")
    assert train("trainer.max_epochs=3", *every_2, "run_dir=run", "resume=auto") == 0
    after = json.loads(Path("run/result.json").read_text())
    of_validation = {name: value for name, value in before["last"].items() if name.startswith("val/")}
    assert of_validation == {name: value for name, value in after["last"].items() if name.startswith("val/")}
    assert after["best"] == before["best"]


@pytest.mark.slow
def test_a_finished_run_is_not_resumed_from_its_last_epoch(train, finished_run, capsys):
    shutil.copytree(finished_run, "run")
    shutil.copy("run/checkpoints/last.ckpt", "run/checkpoints/epoch_0003.ckpt")
    before = Path("run/result.json").read_bytes()
    assert train("trainer.max_epochs=3", "resume=run/checkpoints/epoch_0003.ckpt", "run_dir=run") == 2
    assert "has finished 3 epochs; ask for more, such as trainer.max_epochs=6" in capsys.readouterr().err
    assert Path("run/result.json").read_bytes() == before


def test_resuming_with_another_number_of_threads_is_said(finished_run, tmp_path, caplog):
    content = torch.load(finished_run / "checkpoints" / "last.ckpt", weights_only=True)
    for threads, says in ((torch.get_num_threads(), False), (torch.get_num_threads() + 1, True)):
        content["artart"]["threads"] = threads
        torch.save(content, path := tmp_path / "last.ckpt")
        caplog.clear()
        resume.load_resume_state(path, content["config"], content["labels"])
        assert (f"trained with {threads} threads" in caplog.text) == says


@pytest.mark.slow
def test_auto_finds_its_run_again_and_the_run_names_what_was_chosen(importable, train, art_folder, capsys):
    small = ("callbacks.grid=null", "callbacks.memorization=null", *trouble("SIGTERM", "after", 1))
    settings = ("experiment=auto", f"data.root={art_folder}", *small)
    assert train(*settings) == 128 + signal.SIGTERM
    assert train(*settings, "resume=auto") == 0
    out = capsys.readouterr().out
    assert out.count("experiment=auto: experiment=diffusion_cpu image_size=16 data.batch_size=8") == 2
    assert "resume: from" in out
    (run,) = Path("outputs/runs").glob("*/*")
    assert "- experiment=diffusion_cpu\n" in (run / ".hydra" / "overrides.yaml").read_text()
    assert "experiment=auto: experiment=diffusion_cpu" in (run / "train.log").read_text()
