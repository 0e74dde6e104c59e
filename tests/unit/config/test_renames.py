"""Old names on the command line, answered with the new ones."""

import pytest

from artart.config.renames import explain
from artart.config.schema import wrong_arguments


@pytest.mark.parametrize(
    ("word", "answer"),
    [
        ("data.mirror=true", "data.mirror=true: renamed to data.random_flip"),
        ("data.fit=squash", "data.fit=squash: now data.resize_mode=stretch"),
        ("data.fit=squash,crop", "data.fit=squash,crop: now data.resize_mode=stretch,center_crop"),
        ("data.fit=pad", "data.fit=pad: renamed to data.resize_mode"),
        ("data.num_demo_pictures=9", "data.num_demo_pictures=9: renamed to data.num_demo_images"),
        ("mode=vary", "mode=vary: now mode=img2img"),
        ("start=a.ckpt", "start=a.ckpt: renamed to init_from"),
        ("score=val/mse", "score=val/mse: renamed to monitor"),
        ("score=samples/honest_kd", "score=samples/honest_kd: now monitor=samples/kid_no_memorization"),
        ("score_mode=min", "score_mode=min: renamed to mode"),
        (
            "callbacks.copies.num_images=9",
            "callbacks.copies.num_images=9: renamed to callbacks.memorization.num_images",
        ),
        ("~callbacks.guard", "~callbacks.guard: renamed to callbacks.terminate_on_nan"),
        ("+callbacks.copies=null", "+callbacks.copies=null: renamed to callbacks.memorization"),
        ("callbacks.checkpoints.keep=all", "callbacks.checkpoints.keep=all: now callbacks.checkpoints.save_top_k=-1"),
        (
            "callbacks.last.every_minutes=5",
            "callbacks.last.every_minutes=5: renamed to callbacks.last.train_time_interval",
        ),
        ("objective.noise_level.std=1", "objective.noise_level.std=1: renamed to objective.noise_levels.std"),
        ("model.augmented=true", "model.augmented=true: now model.augment_dim=9"),
        ("model.width=64", "model.width=64: renamed to model.model_channels"),
        ("model.attention_size=8", "model.attention_size=8: renamed to model.attn_resolutions"),
        ("guidance.lowest=0.2", "guidance.lowest=0.2: renamed to guidance.interval"),
    ],
)
def test_explain_names_what_stands_in_place_of_an_old_word(word, answer):
    assert explain(word) == answer


@pytest.mark.parametrize(
    "word", ["data.random_flip=true", "mode=inpaint", "model.depth=3", "monitor=val/mse", "seed=1", "-m"]
)
def test_explain_leaves_the_names_of_now(word):
    assert explain(word) is None


def test_explain_knows_the_kind_of_network():
    for kind in ("model=vit", "experiment=diffusion_vit"):
        assert explain("model.width=64", [kind, "model.width=64"]) == "model.width=64: renamed to model.hidden_size"
    assert explain("model.width=64", ["+model._target_=mypkg.Net", "model.width=64"]) is None


@pytest.mark.parametrize(
    ("command", "word"),
    [
        ("train", "data.mirror=true"),
        ("train", "score=val/loss"),
        ("generate", "film=true"),
        ("generate", "mode=vary"),
        ("evaluate", "guidance.highest=0.5"),
        ("prepare", "data.fit=crop"),
        ("export", "allow=[mypkg.Net]"),
    ],
)
def test_every_command_answers_an_old_word_in_one_line(request, capsys, tmp_path, monkeypatch, command, word):
    monkeypatch.chdir(tmp_path)
    assert request.getfixturevalue(command)(word) == 2
    assert capsys.readouterr().err.splitlines() == [explain(word)]
    assert list(tmp_path.iterdir()) == []


def test_a_file_with_an_old_key_is_answered_too():
    data = {"_target_": "artart.data.datamodule.ArtDataModule", "mirror": True}
    assert list(wrong_arguments(data, "data")) == ["data.mirror=true: renamed to data.random_flip"]
