"""Mistakes in a configuration, found before any work."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_object
from omegaconf import OmegaConf
from pydantic import Field

from artart import ArtError
from artart.config.build import CONF_DIR, known_keys
from artart.config.commands import SETTINGS
from artart.config.describe import describe
from artart.config.schema import check
from artart.diffusion.guidance import Guidance

GROUPS = sorted(folder.name for folder in CONF_DIR.iterdir() if folder.is_dir() and folder.name != "hydra")
OPTIONS = [f"{group}={file.stem}" for group in GROUPS for file in sorted((CONF_DIR / group).glob("*.yaml"))]
DIFFUSION = ("schedule=", "sampler=", "callbacks=diffusion", "loss=hybrid_diffusion", "loss=mse_diffusion")


def config(*overrides: str, name: str = "train"):
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose(name, list(overrides))


def needed_by(option: str) -> list[str]:
    """What must be said with an option."""
    objective = ["objective=diffusion"] if option.startswith(DIFFUSION) else []
    objective += ["experiment=autoencoder"] if option.startswith("regularizer=") else []
    objective += ["experiment=gan"] if option == "callbacks=gan" else []
    file = {
        "experiment=distill": "init_from",
        "experiment=finetune": "init_from",
        "experiment=latent": "first_stage",
        "experiment=latent_256": "first_stage",
        "experiment=text": "first_stage",
    }
    named = [f"{file[option]}='{__file__}'"] if option in file else []
    if option.startswith("filter="):
        named = [f"checkpoint='{__file__}'", f"filter.root='{CONF_DIR}'", "filter.refused=[model]"]
    return objective + ["schedule.alphas_cumprod=[0.5,0]"] * (option == "schedule=table") + named


FIRST_OPTIONS = {next(option for option in OPTIONS if option.startswith(f"{group}=")) for group in GROUPS}


@pytest.mark.parametrize(
    "option",
    [option if option in FIRST_OPTIONS else pytest.param(option, marks=pytest.mark.slow) for option in OPTIONS],
)
def test_every_option_that_is_shipped_passes(option):
    command = {"filter": "generate", "sweep": "sweep"}.get(option.partition("=")[0], "train")
    check(config(option, *needed_by(option), name=command))


@pytest.mark.slow
def test_experiments_train_with_muon_where_it_was_tried():
    options = [option for option in OPTIONS if option.startswith("experiment=")]
    composed = {option: config(option, *needed_by(option)) for option in options}
    found = {option for option, cfg in composed.items() if cfg.optimizer._target_.endswith("Muon")}
    known = "art auto autoencoder diffusion_cpu distill latent quickstart_diffusion quickstart_latent"
    assert found == {f"experiment={name}" for name in known.split()}


def test_what_is_tuned_must_be_named():
    with pytest.raises(ArtError, match=r"^init_from=: is empty; name the run or checkpoint to begin with$"):
        check(config("experiment=finetune"))


def test_paths_become_absolute_and_home_is_known(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "my art").mkdir()
    assert check(config("data.root='~/my art'"))["data"]["root"] == str(tmp_path / "my art")


def test_words_in_the_place_of_a_path_stay_words():
    assert check(config("resume=auto", "loss.perceptual.weights=imagenet"))["resume"] == "auto"


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("trainer.max_epochs=abc", "trainer.max_epochs=abc: must be a whole number, at least 1"),
        ("trainer.max_epochs=-5", "trainer.max_epochs=-5: must be a whole number, at least 1"),
        ("trainer.max_epochs=1.5", "trainer.max_epochs=1.5: must be a whole number, at least 1"),
        ("trainer.max_epochs=true", "trainer.max_epochs=true: must be a whole number, at least 1"),
        ("trainer.max_epochs=null", "trainer.max_epochs=null: must be a whole number, at least 1"),
        ("data.val_fraction=2", "data.val_fraction=2: must be a number, at least 0 and at most 0.9"),
        ("data.num_workers=0", "data.num_workers=0: must be a whole number, at least 1, or null"),
        ("optimizer.lr=fast", "optimizer.lr=fast: must be a number, above 0"),
        ("optimizer.lr=0", "optimizer.lr=0: must be a number, above 0"),
        ("optimizer.lr=.nan", "optimizer.lr=.nan: must be a number, above 0"),
        ("optimizer.lr=nan", "optimizer.lr=nan: must be a number, above 0"),
        ("mode=high", "mode=high: must be min or max"),
        ("trainer.devices=0", "trainer.devices=0: must be a whole number, at least 1, or auto"),
        ("trainer.devices=true", "trainer.devices=true: must be a whole number, at least 1, or auto"),
        ("compile=maybe", "compile=maybe: must be default, reduce-overhead, max-autotune or null"),
        ("+callbacks.x=3", "callbacks.x=3: needs a _target_, or null to leave it out"),
        ("~model", "model: is missing; choose model=autoencoder"),
        ("+experiment.image_size=8", "experiment: its file must begin with the line `# @package _global_`"),
        ("+logger.x={a:1}", "logger.x={'a': 1}: needs a _target_"),
        ("data.root=nowhere", "nowhere: must be a folder that exists"),
        (
            "loss.perceptual.weights=nowhere",
            "nowhere: must be auto, imagenet, random, a file that",
        ),
        ("resume=nowhere", "nowhere: must be auto, a file that exists or null"),
        ("optimizer.betas=[0.9,high]", "optimizer.betas=[0.9, 'high']: must be a list of numbers"),
        ("trainer.accelerator=7", "trainer.accelerator=7: must be a text or Accelerator"),
        ("trainer.precision=half", "trainer.precision=half: must be"),
        ("trainer.detect_anomaly=perhaps", "trainer.detect_anomaly=perhaps: must be true or false"),
        ("data.exclude.opt_out=maybe", "data.exclude.opt_out=maybe: must be true or false"),
        ("+data.exclude.optout=true", "data.exclude.optout=true: no such key; did you mean data.exclude.opt_out?"),
        ("loss.weights.mse=heavy", "loss.weights.mse=heavy: must be a number"),
        ("loss.weights.mse=-1", "loss.weights.mse=-1: must be a number, at least 0"),
        ("data.exclude=3", "data.exclude=3: must be keys duplicate, opt_out and ai_made with their values"),
        ("loss.mse.units=inches", "loss.mse.units=inches: must be imagenet or model"),
        ("scheduler.gamma=much", "scheduler.gamma=much: must be a number, above 0"),
        ("+optimizer.bogus=3", "optimizer.bogus=3: torch.optim.Adam has no such argument; it takes params, lr"),
        ("+optimizer.weight_deca=3", "did you mean optimizer.weight_decay?"),
        ("+trainer.max_epoch=3", "did you mean trainer.max_epochs?"),
        ("+traner.max_epochs=3", "traner: no such key; did you mean trainer?"),
        ("model._target_=artart.no.Net", "model._target_=artart.no.Net: cannot be imported"),
        ("model._target_=artart.models.conv_diffusion.Nett", "model._target_=artart.models.conv_diffusion.Nett"),
    ],
)
def test_a_mistake_is_one_line_with_key_value_and_remedy(override, sentence):
    with pytest.raises(ArtError) as error:
        check(config(override))
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("objective.parameterization=x1", "objective.parameterization=x1: must be x0, eps or v"),
        ("objective.weighting=snr", "objective.weighting=snr: must be velocity, min_snr or uniform"),
        (
            "objective.perceptual_max_noise=1.5",
            "objective.perceptual_max_noise=1.5: must be a number, at least 0 and at most 1",
        ),
        (
            "objective.class_dropout_prob=-0.1",
            "objective.class_dropout_prob=-0.1: must be a number, at least 0 and at most 1",
        ),
        ("objective.noise_levels.std=wide", "objective.noise_levels.std=wide: must be a number"),
        ("+objective.parametrization=v", "did you mean objective.parameterization?"),
        ("sampler.num_steps=0", "sampler.num_steps=0: must be a whole number, at least 1"),
        ("sampler.spacing=even", "sampler.spacing=even: must be r, t, lambda or karras"),
        ("+schedule.beta=1", "schedule.beta=1: artart.diffusion.schedule.Flow has no such argument"),
        ("callbacks.ema.half_life_fraction=0", "callbacks.ema.half_life_fraction=0: must be a number, above 0"),
        ("callbacks.ema.max_half_life=0", "callbacks.ema.max_half_life=0: must be a whole number, at least 1"),
        ("callbacks.grid.num_images=1", "callbacks.grid.num_images=1: must be a whole number, at least 2"),
        ("callbacks.grid.guidance=-1", "callbacks.grid.guidance=-1: must be a number, at least 0"),
        ("callbacks.grid.batch_size=0", "callbacks.grid.batch_size=0: must be a whole number, at least 1"),
        ("model.conditioned=maybe", "model.conditioned=maybe: must be true, false or null"),
        ("model.num_classes=few", "model.num_classes=few: must be a whole number, at least 0, or a list"),
    ],
)
def test_a_mistake_in_diffusion_is_one_line_with_key_value_and_remedy(override, sentence):
    with pytest.raises(ArtError) as error:
        check(config("objective=diffusion", override))
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)  # though a schedule and a sampler stand in two places


@pytest.mark.parametrize("experiment", ["denoise", "quickstart_diffusion"])
def test_diffusion_brings_all_that_goes_with_it(experiment):
    cfg = check(config(f"experiment={experiment}"))
    assert cfg["objective"]["_target_"] == "artart.objectives.diffusion.Diffusion"
    assert cfg["model"]["conditioned"] is None  # as the objective needs it
    assert cfg["loss"]["mse"]["units"] == "model"
    assert cfg["callbacks"]["grid"]["_target_"] == "artart.training.callbacks.grid.SampleGrid"
    assert {"ema", "best", "last", "terminate_on_nan"} <= cfg["callbacks"].keys()
    assert (cfg["monitor"], cfg["mode"]) == ("val/mse", "min")


def test_what_is_chosen_beside_diffusion_wins():
    cfg = check(
        config("objective=diffusion", "loss=mse_diffusion", "optimizer=sgd", "schedule=cosine", "monitor=val/loss")
    )
    assert "perceptual" not in cfg["loss"]
    assert cfg["optimizer"]["_target_"] == "torch.optim.SGD"
    assert cfg["objective"]["schedule"] == {"_target_": "artart.diffusion.schedule.Cosine"}
    assert cfg["monitor"] == "val/loss"


def test_the_classes_are_counted_later_and_may_be_given():
    assert check(config())["model"]["num_classes"] is None
    assert check(config("model.num_classes=7"))["model"]["num_classes"] == 7


def test_a_misspelt_key_in_an_experiment_file_is_found(tmp_path):
    """Hydra itself does not notice it."""
    overlay = "# @package _global_\ntrainer:\n  max_epoch: 3\noptimizer:\n  lrr: 0.1\nimge_size: 8\n"
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(overlay)
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose("train", ["experiment=mine", f"hydra.searchpath=[file://{tmp_path}]"])
    with pytest.raises(ArtError) as error:
        check(cfg)
    assert sorted(line.split(":")[0] for line in str(error.value).splitlines()) == [
        "imge_size",
        "optimizer.lrr=0.1",
        "trainer.max_epoch=3",
    ]


@pytest.mark.parametrize(
    "override",
    [
        "+trainer.plugins=[{_target_: lightning.pytorch.plugins.MixedPrecision, precision: bf16-mixed, device: cpu}]",
        "+loss.mine={_target_: builtins.dict, a: 1}",  # nothing is known of its arguments
        "+callbacks.mine={_target_: pathlib.Path.cwd}",
        "callbacks.grid=null",
    ],
)
def test_what_hydra_can_build_is_not_refused(override):
    check(config(override, "trusted_classes=[builtins.dict,pathlib.Path.cwd]"))


def test_check_imports_no_module_of_others(tmp_path, monkeypatch):
    (tmp_path / "canary.py").write_text("from pathlib import Path; Path('sung').touch()")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtError, match=r"^callbacks.mine._target_=canary.Sing: is no class of artart"):
        check(config("+callbacks.mine={_target_: canary.Sing}"))
    assert not Path("sung").exists()


@pytest.mark.parametrize(
    "target", ["builtins.print", "torch.os.system", "artart.training.sweep.shutil.rmtree", "torch.load"]
)
def test_check_refuses_a_target_of_another_package(target):
    with pytest.raises(ArtError) as error:
        check(config(f"data={{_target_: {target}}}"))
    assert str(error.value).startswith(
        f"data._target_={target}: is no class of artart, lightning, torch or torchmetrics"
    )
    assert "\n" not in str(error.value)


def test_all_mistakes_of_a_kind_are_reported_at_once():
    with pytest.raises(ArtError) as error:
        check(config("trainer.max_epochs=0", "data.root=nowhere", "mode=best"))
    keys = [line.partition("=")[0] for line in str(error.value).splitlines()]
    assert sorted(keys) == ["data.root", "mode", "trainer.max_epochs"]


def test_what_is_missing_is_asked_for():
    with pytest.raises(ArtError, match=r"^checkpoint: needs a value: checkpoint=\.\.\.$"):
        check(config(name="generate"))


@pytest.mark.slow
def test_every_setting_with_a_schema_exists():
    commands = [file.stem for file in CONF_DIR.glob("*.yaml")]
    choices = ("train", ["objective=diffusion"]), ("generate", ["filter=labels"])
    keys = {key for name in commands for key in known_keys(name)} | {key for one in choices for key in known_keys(*one)}
    assert keys >= SETTINGS.keys()


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (int, "a whole number"),
        (Annotated[int, Field(ge=1)], "a whole number, at least 1"),
        (Annotated[float, Field(gt=0, lt=1)] | None, "a number, above 0 and below 1, or null"),
        (bool | None, "true, false or null"),
        (Literal["r", "t"], "r or t"),
        (None | str | Path, "a text, a path or null"),
        (Sequence[float], "a list of numbers such as [0.1,0.9]"),
    ],
)
def test_an_annotation_is_described_in_words(annotation, words):
    assert describe(annotation) == words


GROUPS_WITH_NUMBERS = ("data", "loss", "objective", "sampler", "scheduler")


def is_variant(option: str) -> bool:
    """Whether a file exists in order to differ from another."""
    return (CONF_DIR / f"{option.replace('=', '/')}.yaml").read_text().count("defaults: [") > 0


@pytest.mark.parametrize(
    "option",
    [option for option in OPTIONS if option.split("=")[0] in GROUPS_WITH_NUMBERS and not is_variant(option)],
)
def test_a_number_that_yaml_and_code_both_state_is_the_same(option):
    """Who uses the classes from a notebook gets what the command gets."""
    group = option.split("=")[0]
    for node in targets(OmegaConf.to_container(config(*needed_by(option), option, "run_dir=run"), resolve=True)[group]):
        target = get_object(node["_target_"])
        parameters = inspect.signature(target).parameters
        for key in node.keys() & parameters.keys() - {"augment"}:  # of a probability of 0, so nothing
            default = parameters[key].default
            if repr(default) == "<factory>":
                default = target.__dataclass_fields__[key].default_factory()
            assert default in (node[key], inspect.Parameter.empty), f"{group}.{key}"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["grid", "ema"])
def test_callbacks_of_diffusion_do_the_same_from_a_notebook(name):
    node = OmegaConf.to_container(config("objective=diffusion", "run_dir=run"), resolve=True)["callbacks"][name]
    parameters = inspect.signature(get_object(node["_target_"])).parameters
    for key in node.keys() & parameters.keys():
        assert parameters[key].default in (node[key], inspect.Parameter.empty), key


def test_guidance_is_the_same_in_a_notebook_in_grids_and_in_generate():
    cfg = config(name="generate")
    assert Guidance(**cfg.guidance) == Guidance()
    assert config("objective=diffusion").callbacks.grid.guidance == Guidance().weight


def targets(node):
    if isinstance(node, dict):
        if "_target_" in node:
            yield node
        for value in node.values():
            yield from targets(value)


def test_conf_is_found_in_a_checkout():
    assert Path(__file__).parents[3] / "conf" == CONF_DIR
