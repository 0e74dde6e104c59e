import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from artart import ArtError
from artart.config.cli import compose_config
from artart.config.schema import check
from artart.io.weights import load
from artart.training import run as runs
from artart.training.finetune import TABLES, adopt_config, table, with_objective_of

TABLE, OF_GENERATOR = TABLES
HARDLY = ("objective=diffusion", "loss=mse_diffusion", "sampler.num_steps=2", "optimizer.lr=1e-30", "run_dir=run")


def weights_of(path):
    return {name[4:]: value for name, value in load(Path(path))["state_dict"].items() if name.startswith("net.")}


def check_and_keep(words):
    """The settings as an OmegaConf tree."""
    check(cfg := compose_config("train", words))
    return cfg


@pytest.fixture
def source(diffusion_run):
    return diffusion_run / "checkpoints" / "last.ckpt"


@pytest.mark.slow
def test_a_run_begins_with_the_weights_and_the_network_of_another(train, source):
    assert train(*HARDLY, f"init_from={source}", "image_size=16") == 0
    assert_close(weights_of("run/checkpoints/last.ckpt"), weights_of(source))


@pytest.mark.slow
def test_labels_are_known_by_name_and_new_ones_begin_as_none(train, source, art_folder):
    """Of its five classes the folder has drawing and engraving, and a new one in the place of a third."""
    (art_folder / "iconography").rename(art_folder / "frescoes")
    assert train(*HARDLY, f"init_from={source}", f"data.root={art_folder}", "data.batch_size=4") == 0
    content = load(Path("run/checkpoints/last.ckpt"))
    assert content["labels"] == {"class": ["drawing", "engraving", "frescoes"]}
    before = weights_of(source)
    after = weights_of("run/checkpoints/last.ckpt")
    assert_close(after[TABLE], before[TABLE][[0, 1, 5, 5]])  # the last is "none"
    assert_close({**after, TABLE: 0}, {**before, TABLE: 0})


@pytest.mark.slow
def test_labels_of_a_gan_are_known_by_name_too(train, gan_run, art_folder):
    (art_folder / "iconography").rename(art_folder / "frescoes")
    source = gan_run / "checkpoints" / "last.ckpt"
    words = (f"data.root={art_folder}", "data.batch_size=4", "optimizer.lr=1e-30", "run_dir=run")
    assert train("objective=gan", f"init_from={source}", *words) == 0
    before, after = weights_of(source), weights_of("run/checkpoints/last.ckpt")
    known = load(source)["labels"]["class"]
    rows = [known.index(name) if name in known else -1 for name in ("drawing", "engraving", "frescoes", "none")]
    assert_close(after[OF_GENERATOR], before[OF_GENERATOR][rows])


def test_a_gan_is_not_finetuned_as_diffusion_is(gan_run):
    words = ["experiment=finetune", f"init_from={gan_run}"]
    with pytest.raises(ArtError, match=r"^init_from=.*: is a GAN, whose training goes on by experiment=gan alone"):
        with_objective_of(check_and_keep(words), words)


@pytest.mark.parametrize("experiment", ["distill", "diffusion_cpu", "gan"])
def test_an_experiment_that_trains_otherwise_than_its_checkpoint_is_refused(experiment, finished_run):
    words = [f"experiment={experiment}", f"init_from={finished_run}"]
    line = rf"init_from=.*: was trained by reconstruction, and experiment={experiment} trains by .*experiment=finetune$"
    with pytest.raises(ArtError, match=line):
        with_objective_of(check_and_keep(words), words)


@pytest.mark.parametrize(("words", "probability"), [([], 0), (["objective.augment.probability=0.3"], 0.3)])
def test_latents_are_finetuned_without_augmentation_which_is_for_images(latent_run, words, probability):
    words = ["experiment=finetune", f"init_from={latent_run}", *words]
    adopt_config(cfg := check_and_keep(words), words)
    assert cfg.objective.augment.probability == probability


def test_of_several_columns_each_has_its_own_none():
    theirs, fresh = torch.arange(7.0)[:, None], torch.full((8, 1), -1.0)
    known = {"class": ["a", "b"], "artist": ["x", "y", "z"]}  # a b none x y z none
    names = {"artist": ["z", "new"], "class": ["b", "x"], "year": ["1900"]}
    assert table(fresh, theirs, names, known)[:, 0].tolist() == [5, 6, 6, 1, 2, 2, -1, -1]
    assert table(fresh, None, names, known) is fresh


@pytest.mark.slow
def test_augmentation_may_be_new(train, source):
    assert train(*HARDLY, f"init_from={source}", "objective.augment.probability=0.5") == 0
    after = weights_of("run/checkpoints/last.ckpt")
    assert after.pop("condition.augmentation.weight").abs().max() < 1e-20
    assert_close(after, weights_of(source))


@pytest.mark.slow
def test_exported_weights_will_do(train, export, source, tmp_path):
    assert export(f"checkpoint={source}", f"out={tmp_path}/shared.safetensors") == 0
    assert train(*HARDLY, f"init_from={tmp_path}/shared.safetensors") == 0
    assert_close(weights_of("run/checkpoints/last.ckpt"), weights_of(source))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        pytest.param(
            ["image_size=32"], "image_size=32: init_from=.* has image_size=16; leave it out", marks=pytest.mark.slow
        ),
        (["model.attention=true"], "model.attention=true: init_from=.* has model.attention=false; leave it out"),
        (
            ["objective.parameterization=v"],
            "objective.parameterization=v: init_from=.* has objective.parameterization=x0; leave it out",
        ),
        pytest.param(["model=unet_tiny"], "model=unet_tiny: init_from=.*; leave it out", marks=pytest.mark.slow),
        pytest.param(
            ["init_from=nowhere.ckpt"], "init_from=.*nowhere.ckpt: must be a file that exists", marks=pytest.mark.slow
        ),
    ],
)
def test_what_the_weights_were_not_trained_for_is_refused(train, source, options, sentence, capsys):
    assert train("objective=diffusion", "loss=mse_diffusion", "run_dir=run", f"init_from={source}", *options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(sentence, line)


def test_a_network_that_is_not_conditioned_makes_no_denoiser(train, finished_run, capsys):
    source = finished_run / "checkpoints" / "last.ckpt"
    assert train("objective=diffusion", "loss=mse_diffusion", "run_dir=run", f"init_from={source}") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"objective=diffusion: init_from={source} was trained by reconstruction")
    assert line.endswith("; add objective=reconstruction")


def evil_model(content):
    content["config"]["model"]["_target_"] = "os.mkdir"


def evil_schedule(content):
    content["config"]["objective"]["schedule"] = {"_target_": "os.mkdir", "path": "canary"}


def evil_prediction(content):
    content["config"]["objective"]["parameterization"] = {"_target_": "os.mkdir", "path": "canary"}


@pytest.mark.parametrize(
    "spoil", [evil_model, *(pytest.param(one, marks=pytest.mark.slow) for one in (evil_schedule, evil_prediction))]
)
def test_nothing_but_what_is_artarts_is_built_from_the_file(train, source, tmp_path, capsys, spoil):
    content = torch.load(source, weights_only=True)
    spoil(content)
    torch.save(content, tmp_path / "evil.ckpt")
    assert train("objective=diffusion", "loss=mse_diffusion", "run_dir=run", f"init_from={tmp_path}/evil.ckpt") == 2
    assert "wants to build os.mkdir, not a class of artart\n" in capsys.readouterr().err
    assert not (tmp_path / "canary").exists()


@pytest.mark.slow
def test_what_no_weight_depends_on_may_be_chosen(train, source):
    options = ("model=conv_diffusion", "scheduler=constant", "model.num_classes=null", "schedule=flow")
    assert train(*HARDLY, f"init_from={source}", *options) == 0


@pytest.mark.slow
def test_drop_out_is_that_of_the_checkpoint_unless_it_is_asked_for(train, capsys):
    options = ("objective=diffusion", "loss=mse_diffusion", "image_size=16", "data.num_demo_images=20")
    one_step = ("trainer.max_steps=1", "callbacks.grid=null", "run_dir=first")
    assert train(*options, *one_step, "model=unet_tiny", "model.dropout=0.3") == 0
    begin = (*options, "init_from=first/checkpoints/last.ckpt")
    for asked, dropout in (
        ((), 0.3),
        (("model=unet_tiny",), 0.3),
        (("model=unet_tiny", "model.dropout=0.1"), 0.1),
        (("+model.dropout=0.1",), 0.3),
    ):
        words = [*begin, "trainer.accelerator=cpu", *asked]
        check(cfg := compose_config("train", words))
        net = runs.prepare(cfg, words, adopt_config(cfg, words)).net
        assert {module.p for module in net.modules() if isinstance(module, nn.Dropout)} == {dropout}, asked
    words = ["experiment=distill", begin[-1]]
    adopt_config(cfg := check_and_keep(words), words)
    assert cfg.model.dropout == 0  # of a distillation, whose samples are drawn without
    capsys.readouterr()
    assert train(*begin, "model.dropout=0.1") == 2
    wanted = "model.dropout=0.1: no such key; name the checkpoint's kind of network too: model=NAME\n"
    assert capsys.readouterr().err == wanted


@pytest.mark.slow
def test_a_run_that_resumes_keeps_what_it_has_learnt(train, source):
    options = ("objective=diffusion", "loss=mse_diffusion", "callbacks.grid=null", "optimizer.lr=1e-2", "run_dir=run")
    assert train(*options, f"init_from={source}") == 0
    learnt = weights_of("run/checkpoints/last.ckpt")
    assert train(*options, f"init_from={source}", "resume=auto", "trainer.max_epochs=3") == 0
    after = weights_of("run/checkpoints/last.ckpt")
    moved = sum((after[name] - learnt[name]).square().sum() for name in learnt)
    begun = weights_of(source)
    assert moved < sum((after[name] - begun[name]).square().sum() for name in learnt)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "run", "objective"),
    [
        (["experiment=finetune"], "finished_run", "Reconstruction"),
        (["experiment=finetune"], "autoencoder_run", "Reconstruction"),
        (["experiment=finetune"], "diffusion_run", "Diffusion"),
        ([], "diffusion_run", "Diffusion"),
    ],
)
def test_finetune_takes_the_objective_of_its_checkpoint(words, run, objective, request, monkeypatch):
    run_dir = request.getfixturevalue(run)
    monkeypatch.setattr(runs, "load_pretrained", lambda *_: {})
    words = [*words, f"init_from={run_dir}", "trainer.accelerator=cpu", "data.num_demo_images=40"]
    cfg = with_objective_of(check_and_keep(words), words)
    initial = adopt_config(cfg, words)
    assert type(runs.prepare(cfg, words, initial).objective).__name__ == objective
