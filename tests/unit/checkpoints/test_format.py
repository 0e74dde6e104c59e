"""Checkpoints that name classes where they were when the file was written."""

from hydra.utils import get_object

from artart.checkpoints.format import RENAMED, rename_targets, upgrade


def test_every_new_name_is_there_and_is_no_old_one():
    for name in RENAMED.values():
        assert callable(get_object(name))
    assert not RENAMED.keys() & RENAMED.values()


def test_names_become_those_of_now_however_deep():
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
            "noise_level": [{"_target_": "artart.diffusion.noise_levels.LogitNormal"}],
        },
        "loss": {"_target_": "artart.objectives.losses.WeightedSum", "weights": {"mse": 1.0}},
        "model": {"_target_": "artart.models.unet.UNet"},
        "data": {"root": "artart.losses.MSE"},  # no name of a class
    }


def test_what_is_no_configuration_is_left_to_whoever_judges_it():
    for odd in ({}, {"config": None}, {"config": [1, "a"]}, {"config": {"_target_": ["artart.losses.MSE"]}}):
        before = repr(odd)
        upgrade(odd)
        assert repr(odd) == before


def test_a_loop_and_a_tower_of_parts_that_are_there_twice_end():
    loop = {"_target_": "artart.losses.MSE"}
    loop["self"] = loop
    tower = [loop]
    for _ in range(200):
        tower = [tower, tower]
    rename_targets(tower)
    assert loop["_target_"] == "artart.objectives.losses.MSE"
