"""Settings that are composed, and refused before any work: no run is started."""

from pathlib import Path

import pytest

from artart import ArtError
from artart.config.cli import compose_config
from artart.config.commands import check_mode
from artart.config.schema import check
from artart.training import run
from artart.training.stages import first_stage_for

DIFFUSION = ("objective=diffusion", "loss=mse_diffusion", "sampler.num_steps=2")
IMG2IMG, INPAINT, INTERPOLATE = "mode=img2img", "mode=inpaint", "mode=interpolate"
MODES_OF_DIFFUSION = ("sample", "img2img", "inpaint", "interpolate")


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)


def refusal_of_train(*overrides: str) -> str:
    """Why `artart.train` refuses these settings before it reads images."""
    with pytest.raises(ArtError) as error:
        cfg = compose_config("train", ["image_size=16", "trainer.accelerator=cpu", *overrides])
        check(cfg)
        run.prepare(cfg, [], None, first_stage_for(cfg, []))
    return str(error.value)


def refusal_of_generate(*overrides: str) -> str:
    """Why `artart.generate` refuses these settings for a checkpoint of a diffusion, before it reads inputs."""
    for name in ("net.ckpt", "a.png"):
        Path(name).touch()
    with pytest.raises(ArtError) as error:
        config = check(compose_config("generate", ["checkpoint=net.ckpt", *overrides]))
        check_mode(config, config["mode"] or "sample", MODES_OF_DIFFUSION)
    return str(error.value)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["optimizer=foo"], "optimizer=foo: no such option; choose adam, adamw, muon or sgd"),
        (["+seed=3"], "+seed: exists already; leave out the +"),
        (["callbacks=null"], "callbacks=null: a group needs an option; choose default, diffusion, gan or none"),
        (["schedule=cosine"], "schedule=cosine: no such key; it belongs to diffusion: add objective=diffusion"),
        (
            ["objective=diffusion", "objective.parametrization=v"],
            "objective.parametrization=v: no such key; did you mean objective.parameterization?",
        ),
        (["seed=[1"], "seed=[1: cannot be read as key=value"),
        (["trainer.accelerator=foo"], "trainer: "),
        (["image_size=20"], "image_size=20: not divisible by 8"),
        (
            ["+model={_target_: torch.optim.Adam, _partial_: true}"],
            "model._target_=torch.optim.Adam: is no Module",
        ),
        (
            ["+model._partial_=true"],
            "model._target_=artart.models.conv_diffusion.ConvDiffusionModel: must be",
        ),
        (["+data={_target_: torch.optim.Adam}"], "data._target_=torch.optim.Adam: is no ArtDataModule"),
        (["+callbacks.x={_target_: torch.nn.ReLU}"], "callbacks.x._target_=torch.nn.ReLU: is no Callback"),
        (["+logger.x={_target_: torch.nn.ReLU}"], "logger.x._target_=torch.nn.ReLU: is no Logger"),
        (["+optimizer={_target_: torch.nn.ReLU}"], "optimizer._target_=torch.nn.ReLU: is no Optimizer"),
        (["+callbacks.terminate_on_nan={1: 2}"], "callbacks.terminate_on_nan.1=2: artart.training.callbacks.stopping."),
        (["+data.exclude={1: true}"], "data.exclude.1=true: no such key"),
        (["+data={1: true}"], "data.1=true: artart.data.datamodule.ArtDataModule has no such argument"),
        (["+loss.weights={1: 2}"], "loss.weights.1=2: no such key; names are texts"),
        (["data.background=blak"], "data.background=blak: must be a colour such as white or #808080"),
        (["data.background=null"], "data.background=null: must be a colour such as white or #808080"),
        (["loss.mse=null"], "loss.mse=None: not a loss; to leave it out, set loss.weights.mse=0"),
        (["model=null"], "model=null: a group needs an option; choose autoencoder, autoencoder_f8, conv_diffusion"),
        (["logger=null"], "logger=null: a group needs an option; choose csv, mlflow, none, tensorboard or wandb"),
        (["monitor=train/mse"], "mode=max: the worst train/mse would count as the best; set mode=min"),
        (["monitor=nothing"], "monitor=nothing: is not logged; choose one of train/loss"),
        (["model.attention=true"], "model.attention=true: the article's network has none; add model.conditioned=true"),
        ([*DIFFUSION, "schedule=flwo"], "schedule=flwo: no such option; choose cosine, flow, linear or table"),
        (
            [*DIFFUSION, "sampler=huen"],
            "sampler=huen: no such option; choose ddim, ddpm, dpmpp_2m, heun or unipc",
        ),
        ([*DIFFUSION, "schedule=table"], "schedule.alphas_cumprod: needs a value"),
        (
            [*DIFFUSION, "schedule=table", "schedule.alphas_cumprod=[0.5,0.7]"],
            "schedule.alphas_cumprod: must be falling numbers",
        ),
        (
            [*DIFFUSION, "monitor=val/psnr"],
            "monitor=val/psnr: is not logged; choose one of train/loss, train/mse, val/loss",
        ),
        ([*DIFFUSION, "mode=max"], "mode=max: the worst val/mse would count as the best; set mode=min"),
        ([*DIFFUSION, "model.conditioned=false"], "model.conditioned=false: objective=diffusion needs"),
        (["objective=diffusion", "loss=mse"], "loss.mse.units=imagenet: objective=diffusion needs units"),
        ([*DIFFUSION, "model.num_classes=2"], "model.num_classes=2: the data has 5 classes"),
        ([*DIFFUSION, "model=autoencoder"], "model: an autoencoder is not conditioned on noise and class, as "),
        (["experiment=latent"], "first_stage=: is empty; name a checkpoint of experiment=autoencoder, or train both "),
        (["experiment=autoencoder", "model=conv_diffusion"], "objective.regularizer: the network has no latents; use "),
        (["objective.regularizer=noise"], "objective.regularizer=noise: must be an object with a _target_ or null"),
        ([*DIFFUSION, "callbacks=default"], "callbacks.grid: is not for objective=diffusion; use "),
        ([*DIFFUSION, "trainer.precision=bf16-true"], "trainer.precision=bf16-true: too coarse"),
    ],
)
def test_train_refuses_a_setting_in_one_line(overrides, sentence):
    message = refusal_of_train(*overrides)
    assert message.startswith(sentence)
    assert "\n" not in message


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("[class,artist]", "these are columns of a table; name it by data.metadata=FILE.csv"),
        ("[artist]", "these are columns of a table; name it by data.metadata=FILE.csv"),
        ("[]", "names no column; [class] is the folder or the table's column class"),
        ("[class,class]", "names class more than once; leave one"),
        ("class", "must be a list of texts such as [a,b]"),
    ],
)
def test_train_refuses_labels_without_columns(labels, message):
    assert refusal_of_train(f"data.labels={labels}") == f"data.labels={labels.replace(',', ', ')}: {message}"


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["sampler=huen"], "sampler=huen: no such option; choose ddim, ddpm, dpmpp_2m, heun or unipc"),
        (["sampler=ddim", "sampler.eta=2"], "sampler.eta=2: must be a number, at least 0 and at most 1"),
        (["guidance.interval=[0,2]"], "guidance.interval=[0, 2]: must be two noise levels from 0 to 1 that rise: [lo"),
        (["guidance.weight=-1"], "guidance.weight=-1: must be a number, at least 0"),
        (["guidance.weight=inf"], "guidance.weight=inf: must be a number, at least 0"),
        (["num_images=0"], "num_images=0: must be a whole number, at least 1"),
        ([INTERPOLATE, "seeds=1,2"], "seeds=1,2: several values: write them as a list: [a,b]"),
        (["seed=-1"], "seed=-1: must be a whole number, at least 0"),
        (["save_trajectory=perhaps"], "save_trajectory=perhaps: must be true or false"),
        (["batch_size=0"], "batch_size=0: must be a whole number, at least 1"),
        (["input=."], "mode=sample does not take it; leave it out, or mode=img2img or inpaint"),
        ([IMG2IMG, "input=a.png", "strength=0"], "strength=0: must be a number, at least 0.01 and at most 1"),
        ([IMG2IMG, "input=a.png", "strength=1.5"], "strength=1.5: must be a number, at least 0.01 and at most 1"),
        ([IMG2IMG, "input=a.png", "mask=a.png"], "a.png: mode=img2img does not take it; leave it out, or mode=inpa"),
        (
            [IMG2IMG, "input=a.png", "save_trajectory=true"],
            "save_trajectory=true: mode=img2img does not take it; leave it out, or mode=sam",
        ),
        (
            [IMG2IMG, "input=a.png", "seeds=[1,2]"],
            "seeds=[1, 2]: mode=img2img does not take it; leave it out, or mod",
        ),
        (
            [IMG2IMG, "input=a.png", "side_by_side=true"],
            "side_by_side=true: mode=img2img does not take it; leave it out",
        ),
        ([INPAINT, "input=a.png", "mask=nowhere.png"], "nowhere.png: must be a file that exists"),
        ([INPAINT, "input=a.png", "mask=a.png", "strength=0.3"], "strength=0.3: mode=inpaint does not take it"),
        ([INTERPOLATE, "seeds=[1]"], "seeds=[1]: must be two or more, each a whole number"),
        ([INTERPOLATE, "seeds=[1,1]"], "at most 4294967295, no neighbours equal: [1,2]"),
        ([INTERPOLATE, "seeds=[1,-2]"], "seeds=[1, -2]: must be two or more, each a whole number"),
        ([INTERPOLATE, "seeds=[1,a]"], "seeds=[1, 'a']: must be two or more, each a whole number"),
        ([INTERPOLATE, "seeds=[1,2.5]"], "seeds=[1, 2.5]: must be two or more, each a whole number"),
        ([INTERPOLATE, "seeds=3"], "seeds=3: must be two or more, each a whole number"),
        ([INTERPOLATE, "seeds=[1,2]", "input=a.png"], "a.png: mode=interpolate does not take it; leave it out"),
        (["strength=0.3"], "strength=0.3: mode=sample does not take it; leave it out, or mode=img2img"),
        (["mask=a.png"], "a.png: mode=sample does not take it; leave it out, or mode=inpaint"),
        (["seeds=[1,2]"], "seeds=[1, 2]: mode=sample does not take it; leave it out, or mode=interpolate"),
        (["mode=copy"], "mode=copy: must be reconstruct, sample, img2img, inpaint, interpolate or null"),
        (["device=cuda:7"], "device=cuda:7: must be auto, cpu, cuda or mps"),
    ],
)
def test_generate_refuses_a_setting_in_one_line(overrides, sentence):
    message = refusal_of_generate(*overrides)
    assert sentence in message
    assert "\n" not in message
