from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from torch import nn

from artart import ArtError
from artart.config.compatibility import check_first_stage, check_parts

CLASSES = {"class": list("abcde")}
FITTING = {
    "data": {"min_per_label": 50},
    "model": {"conditioned": True, "num_classes": 5},
    "loss": {"mse": {"units": "model"}},
    "callbacks": {"grid": {"_target_": "artart.training.callbacks.grid.SampleGrid"}},
    "trainer": {"precision": None},
}


def test_parts_that_go_together_pass():
    check_parts(FITTING, "sample", CLASSES)
    check_parts(FITTING | {"callbacks": {"grid": None}, "model": {}}, "reconstruct", CLASSES)


@pytest.mark.parametrize(
    ("precision", "clip", "fused", "fits"),
    [
        ("16-mixed", 1.0, True, False),
        ("bf16-mixed", 1.0, True, True),
        ("16-mixed", None, True, True),
        ("16-mixed", 1.0, None, True),
    ],
)
def test_scaled_gradients_are_not_clipped_before_a_fused_step(precision, clip, fused, fits):
    parts = {"trainer": {"precision": precision, "gradient_clip_val": clip}, "optimizer": {"fused": fused}}
    with nullcontext() if fits else pytest.raises(ArtError, match=r"^optimizer.fused=true: clips before .*; leave it"):
        check_parts(FITTING | parts | {"callbacks": {}}, "reconstruct", CLASSES)


def test_samples_are_not_drawn_of_a_network_that_reconstructs():
    with pytest.raises(ArtError, match=r"^callbacks.grid: is not for objective=reconstruction; use callbacks=default$"):
        check_parts(FITTING, "reconstruct", CLASSES)


def test_all_that_does_not_go_with_diffusion_is_reported_at_once():
    wrong = {"model": {"conditioned": False}, "loss": {"mse": {"units": "imagenet"}}}
    with pytest.raises(ArtError) as error:
        check_parts(FITTING | wrong, "sample", CLASSES)
    keys = [line.partition("=")[0] for line in str(error.value).splitlines()]
    assert keys == ["model.conditioned", "loss.mse.units"]


def test_a_regularizer_needs_latents():
    parts = FITTING | {"callbacks": {}, "objective": {"regularizer": {"_target_": "mine.Mine"}}}
    check_parts(parts, "reconstruct", CLASSES, SimpleNamespace(posterior=None))
    check_parts(parts | {"objective": {"regularizer": None}}, "reconstruct", CLASSES)
    with pytest.raises(
        ArtError, match=r"^objective.regularizer: .* no latents; use model=autoencoder, or set .*=null$"
    ):
        check_parts(parts, "reconstruct", CLASSES)


def test_features_of_images_that_are_augmented_cannot_be_kept():
    loss = {"mse": {"units": "model"}, "weights": {"perceptual": 0.1}, "perceptual": {"cache_targets": True}}
    parts = FITTING | {"loss": loss, "model": {"augment_dim": 9, "num_classes": 5}}
    check_parts(parts | {"objective": {"augment": {"probability": 0.0}}}, "sample", CLASSES)
    with pytest.raises(
        ArtError, match=r"^loss.perceptual.cache_targets=true: .*; set objective.augment.probability=0$"
    ):
        check_parts(parts | {"objective": {"augment": {"probability": 0.1}}}, "sample", CLASSES)


def test_prompts_and_their_encoder_need_captions():
    data = FITTING["data"] | {"prompts": ["a pear"], "text_encoder": "clip", "captions": "none"}
    with pytest.raises(ArtError, match=r"data.text_encoder: needs captions; .*\ndata.prompts: needs captions; set"):
        check_parts(FITTING | {"data": data}, "sample", CLASSES)
    check_parts(FITTING | {"data": data | {"captions": "auto"}}, "sample", CLASSES)


def test_check_parts_needs_a_network_that_is_conditioned_on_augmentation():
    parts = FITTING | {"objective": {"augment": {"probability": 0.1}}}
    with pytest.raises(ArtError, match=r"^objective.augment.probability=0.1: .*; set model.augment_dim=9$"):
        check_parts(parts, "sample", CLASSES)
    check_parts(parts | {"model": {"augment_dim": 9, "num_classes": 5}}, "sample", CLASSES)


def test_a_discriminator_is_refused_for_diffusion():
    loss = {"mse": {"units": "model"}, "weights": {"adversarial": 0.5}}
    check_parts(FITTING | {"loss": loss, "callbacks": {}}, "reconstruct", CLASSES)
    with pytest.raises(ArtError, match=r"^loss.weights.adversarial=0.5: is for .*; use loss=hybrid_diffusion$"):
        check_parts(FITTING | {"loss": loss}, "sample", CLASSES)


@pytest.mark.parametrize(
    ("name", "owner", "mode", "instead"),
    [
        ("distillation.DistributionMatching", "distillation", "sample", "hybrid_diffusion"),
        ("gan.RelativisticLoss", "gan", "reconstruct", "hybrid"),
    ],
)
def test_the_loss_of_one_objective_is_refused_for_others(name, owner, mode, instead):
    parts = FITTING | {"loss": {"_target_": f"artart.objectives.{name}"}, "callbacks": {}}
    with pytest.raises(ArtError, match=rf"^loss=\w+: is for objective={owner} alone; use loss={instead}$"):
        check_parts(parts, mode, CLASSES)


def test_muon_needs_a_network_with_filters():
    parts = FITTING | {"optimizer": {"_target_": "artart.training.muon.Muon"}}
    check_parts(parts, "sample", CLASSES, nn.Sequential(nn.Linear(2, 2), nn.Conv2d(2, 2, 1)))
    with pytest.raises(ArtError, match=r"^optimizer=muon: .*; use optimizer=adamw optimizer.lr=1e-3$"):
        check_parts(parts, "sample", CLASSES, nn.Linear(2, 2))


@pytest.mark.parametrize("num", [None, 0, [5, 2]])
def test_a_network_for_the_labels_of_several_columns_passes(num):
    check_parts(FITTING | {"model": {"num_classes": num}}, "sample", CLASSES | {"artist": ["x", "y"]})


@pytest.mark.parametrize("num", [5, 7, [5], [2, 5], [5, 2, 1]])
def test_a_network_for_other_numbers_of_labels_is_refused(num):
    with pytest.raises(ArtError) as error:
        check_parts(FITTING | {"model": {"num_classes": num}}, "sample", CLASSES | {"artist": ["x", "y"]})
    assert str(error.value) == f"model.num_classes={num}: the data has [5, 2] classes; null takes as many"


def test_a_column_without_labels_is_refused_unless_it_is_that_of_the_classes():
    check_parts(FITTING | {"model": {"num_classes": None}}, "sample", {"class": []})
    with pytest.raises(ArtError) as error:
        check_parts(FITTING | {"model": {"num_classes": None}}, "sample", CLASSES | {"artist": []})
    assert str(error.value) == (
        "data.min_per_label=50: no artist has so many files; lower it, or remove it from data.labels"
    )


LATENT = {"first_stage": "a.ckpt", "objective": {"schedule": {}, "augment": {"probability": 0.0}}, "loss": {}}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"objective": {}}, "first_stage=a.ckpt: has latents for objective=diffusion; add that"),
        (
            {"loss": {"weights": {"mse": 1.0, "perceptual": 0.1}}},
            "loss.weights.perceptual: compares images, but with first_stage= the network outputs latents; set "
            "loss=mse_diffusion",
        ),
        (
            {"objective": {"schedule": {}, "augment": {"probability": 0.1}}},
            "objective.augment.probability=0.1: is for images, not for the latents of first_stage; set 0",
        ),
    ],
    ids=["reconstruction", "perceptual", "augment"],
)
def test_what_excludes_a_first_stage_is_one_line(wrong, message):
    check_first_stage(LATENT)
    with pytest.raises(ArtError) as error:
        check_first_stage(LATENT | wrong)
    assert str(error.value) == message
