"""Checkpoints of older formats: the names of then become those of now, and the results stay."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import get_object
from PIL import Image
from torch.testing import assert_close

from artart import ArtError
from artart.checkpoints.format import FORMAT, is_older, upgrade
from artart.checkpoints.load import load
from artart.config.renames import CLASSES, KEYS, KEYS_OF_VIT, METRICS, VALUES
from artart.training import resume

DATA = Path(__file__).parents[2] / "data" / "checkpoints"
FORMAT_2 = DATA / "format_2.ckpt"  # of a U-Net at 8 px, by the artart of that format


def downgrade(content: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint of now with the names of format 2: the inverse of `upgrade`."""
    content = copy.deepcopy(content)
    config = content["config"]
    content["artart"]["format"] = 2
    is_vit = config["model"]["_target_"].endswith("ViT")
    if "attn_resolutions" in config["model"]:
        config["model"]["attn_resolutions"] = max(config["model"]["attn_resolutions"], default=0)
    for key, values in VALUES.items():
        node, name = place_of(config, key)
        if node is not None and name in node and not isinstance(node[name], list):
            node[name] = {new: old for old, new in values.items()}.get(node[name], node[name])
    for old, new in reversed((KEYS | KEYS_OF_VIT if is_vit else KEYS).items()):
        node, name = place_of(config, new)
        if node is not None and name in node:
            renamed = {old.rpartition(".")[2] if key == name else key: value for key, value in node.items()}
            node.clear()
            node.update(renamed)
    rename_classes(config, {new: old for old, new in CLASSES.items()})
    content["metrics"] = {
        {new: old for old, new in METRICS.items()}.get(name, name): value for name, value in content["metrics"].items()
    }
    content["ArtDataModule"]["pictures"] = content["ArtDataModule"].pop("images")
    return content


def place_of(config: dict[str, Any], key: str) -> tuple[dict[str, Any] | None, str]:
    """The part of a configuration that holds a key, and the key's name in it."""
    *place, name = key.split(".")
    node: Any = config
    for part in place:
        node = node.get(part) if isinstance(node, dict) else None
    return (node if isinstance(node, dict) else None), name


def rename_classes(node: Any, names: dict[str, str]) -> None:
    for one in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        rename_classes(one, names)
    if isinstance(node, dict) and "_target_" in node:
        node["_target_"] = names.get(node["_target_"], node["_target_"])


@pytest.fixture
def save(tmp_path):
    def save(content: dict[str, Any]) -> Path:
        torch.save(content, tmp_path / "older.ckpt")
        return tmp_path / "older.ckpt"

    return save


def last_of(run_dir: Path) -> dict[str, Any]:
    return torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)


def test_renames_lead_to_classes_that_exist():
    for name in CLASSES.values():
        assert callable(get_object(name))
    assert not CLASSES.keys() & CLASSES.values()


def test_renames_lead_to_no_old_key():
    assert not (KEYS.keys() | KEYS_OF_VIT) & {*KEYS.values(), *KEYS_OF_VIT.values()}


@pytest.mark.parametrize(
    "run", ["finished_run", "diffusion_run", pytest.param("hybrid_diffusion_run", marks=pytest.mark.slow)]
)
def test_upgrade_of_format_2_gives_config_and_network_of_now(request, save, run):
    run_dir = request.getfixturevalue(run)
    content = last_of(run_dir)
    older = downgrade(content)
    assert older["config"] != content["config"]
    assert "mirror" in older["config"]["data"]
    assert older["config"]["callbacks"]["guard"]
    now, then = load(run_dir / "checkpoints" / "last.ckpt"), load(save(older))
    assert then.config == now.config
    assert type(then.objective) is type(now.objective)
    assert_close(then.net.state_dict(), now.net.state_dict(), rtol=0, atol=0)


def test_upgrade_of_format_2_reads_a_vit(diffusion_run):
    content = last_of(diffusion_run)
    vit = {"_target_": "artart.models.vit.ViT", "image_size": 16, "num_classes": 5, "hidden_size": 16, "augment_dim": 9}
    content["config"]["model"] = vit
    older = downgrade(content)
    assert older["config"]["model"] == {
        "_target_": "artart.models.vit.ViT",
        "image_size": 16,
        "num_classes": 5,
        "width": 16,
        "augmented": True,
    }
    upgrade(older)
    assert older["config"]["model"] == vit


@pytest.mark.parametrize(
    ("settings", "sides"),
    [
        ({"image_size": 64, "multipliers": [1, 2, 2, 2], "attention_size": 16}, [16, 8]),
        ({"image_size": 96, "multipliers": [1, 2, 2, 2], "attention_size": 16}, [12]),
        ({"image_size": 128, "multipliers": [1, 2, 2, 2], "patch_size": 2, "attention_size": 16}, [16, 8]),
        ({"image_size": 32, "multipliers": [1, 2, 3], "attention_size": 0}, []),
        ({"image_size": "large", "multipliers": 3, "attention_size": 8}, []),
        ({"image_size": 32, "multipliers": [1], "patch_size": torch.ones(2), "attention_size": 8}, []),
    ],
)
def test_upgrade_lists_the_maps_with_attention(settings, sides):
    content = {"config": {"model": {"_target_": "artart.models.unet.UNet", **settings}}}
    upgrade(content)
    assert content["config"]["model"]["attn_resolutions"] == sides


def test_upgrade_leaves_foreign_classes_alone():
    model = {"_target_": "mypkg.Net", "width": 3, "multipliers": [1]}
    content = {"config": {"model": dict(model)}}
    upgrade(content)
    assert content["config"]["model"] == model


def test_upgrade_renames_classes_however_deep():
    config = {
        "objective": {
            "_target_": "artart.objectives.Diffusion",
            "noise_level": [{"_target_": "artart.diffusion.draws.LogitNormal"}],
        },
        "loss": {"_target_": "artart.losses.WeightedSum", "weights": {"mse": 1.0}},
        "model": {"_target_": "artart.models.unet.UNet"},
        "data": {"root": "artart.losses.MSE"},
    }
    upgrade({"config": config})
    assert config == {
        "objective": {
            "_target_": "artart.objectives.diffusion.Diffusion",
            "noise_levels": [{"_target_": "artart.diffusion.noise_levels.LogitNormal"}],
        },
        "loss": {"_target_": "artart.objectives.losses.WeightedSum", "weights": {"mse": 1.0}},
        "model": {"_target_": "artart.models.unet.UNet"},
        "data": {"root": "artart.losses.MSE"},  # no name of a class
    }


def test_upgrade_leaves_what_is_no_configuration():
    for odd in ({}, {"config": None}, {"config": [1, "a"]}, {"config": {"_target_": ["artart.losses.MSE"]}}):
        before = repr(odd)
        upgrade(odd)
        assert repr(odd) == before


def test_upgrade_leaves_content_of_the_format_of_now():
    content = {"artart": {"format": FORMAT}, "config": {"score": "val/mse"}}
    upgrade(content)
    assert content["config"] == {"score": "val/mse"}


@pytest.mark.parametrize("artart", [{}, {"format": 2}, {"format": "3"}, None])
def test_is_older_without_a_format_of_now(artart):
    assert is_older({"artart": artart})
    assert not is_older({"artart": {"format": FORMAT}})


def test_a_file_of_format_2_gives_the_same_images(generate):
    options = (
        "num_images=5",
        "sampler=heun",
        "sampler.num_steps=4",
        "guidance.weight=2",
        "guidance.interval=[0.2,0.8]",
        "device=cpu",
    )
    assert generate(f"checkpoint={FORMAT_2}", *options, "out=made") == 0
    made = [np.asarray(Image.open(path)) for path in sorted(Path("made").glob("0*.png"))]
    with Image.open(DATA / "format_2_samples.png") as wanted:  # a row, with gaps of two pixels
        for k, image in enumerate(made):
            assert np.array_equal(image, np.asarray(wanted)[2:10, 2 + 10 * k : 10 + 10 * k])
    assert len(made) == 5


@pytest.mark.slow
def test_a_file_of_format_2_can_be_exported_and_initialises_a_run(export, train, generate, tmp_path):
    assert export(f"checkpoint={FORMAT_2}", f"out={tmp_path}/shared.safetensors") == 0
    assert generate(f"checkpoint={tmp_path}/shared.safetensors", "num_images=1", "sampler.num_steps=1", "out=made") == 0
    options = ("objective=diffusion", "loss=mse_diffusion", "sampler.num_steps=1", "callbacks.grid=null")
    assert train(f"init_from={FORMAT_2}", *options, "image_size=8", "trainer.max_steps=1", "run_dir=run") == 0
    model = last_of(tmp_path / "run")["config"]["model"]
    assert (model["model_channels"], model["channel_mult"], model["attn_resolutions"]) == (8, [1], [8])


@pytest.mark.slow
def test_a_file_of_format_2_is_not_resumed(train, capsys):
    assert train(f"resume={FORMAT_2}", "objective=diffusion", "loss=mse_diffusion", "run_dir=run") == 2
    assert capsys.readouterr().err == (
        f"resume={FORMAT_2}: written by an older artart; begin with its weights: init_from={FORMAT_2}\n"
    )


def test_load_resume_state_refuses_an_older_format(diffusion_run, save):
    path = save(downgrade(last_of(diffusion_run)))
    with pytest.raises(ArtError, match="written by an older artart; begin with its weights: init_from="):
        resume.load_resume_state(path, {}, {})
