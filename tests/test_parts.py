import pytest

from artart import ArtError
from artart.parts import check_parts

FITTING = {
    "model": {"conditioned": True, "num_classes": 5},
    "loss": {"mse": {"units": "model"}},
    "callbacks": {"grid": {"_target_": "artart.callbacks.grid.SampleGrid"}},
    "trainer": {"precision": None},
}


def test_parts_that_go_together_pass():
    check_parts(FITTING, "sample", 5)
    check_parts(FITTING | {"callbacks": {"grid": None}, "model": {}}, "reconstruct", 5)


def test_samples_are_not_drawn_of_a_network_that_reconstructs():
    with pytest.raises(
        ArtError, match=r"^callbacks.grid: is not one of objective=reconstruction; use callbacks=default$"
    ):
        check_parts(FITTING, "reconstruct", 5)


def test_all_that_does_not_go_with_diffusion_is_told_at_once():
    wrong = {"model": {"conditioned": False}, "loss": {"mse": {"units": "imagenet"}}}
    with pytest.raises(ArtError) as error:
        check_parts(FITTING | wrong, "sample", 5)
    keys = [line.partition("=")[0] for line in str(error.value).splitlines()]
    assert keys == ["model.conditioned", "loss.mse.units"]


def test_features_of_pictures_that_are_augmented_cannot_be_kept():
    loss = {"mse": {"units": "model"}, "weights": {"perceptual": 0.1}, "perceptual": {"cache_targets": True}}
    parts = FITTING | {"loss": loss, "model": {"augmented": True, "num_classes": 5}}
    check_parts(parts | {"objective": {"augment": {"probability": 0.0}}}, "sample", 5)
    with pytest.raises(ArtError, match=r"^loss.perceptual.cache_targets=true: .*; leave them unaugmented$"):
        check_parts(parts | {"objective": {"augment": {"probability": 0.1}}}, "sample", 5)


def test_a_network_must_be_told_of_augmentation():
    parts = FITTING | {"objective": {"augment": {"probability": 0.1}}}
    with pytest.raises(ArtError, match=r"^objective.augment.probability=0.1: .*; set model.augmented=true$"):
        check_parts(parts, "sample", 5)
    check_parts(parts | {"model": {"augmented": True, "num_classes": 5}}, "sample", 5)
