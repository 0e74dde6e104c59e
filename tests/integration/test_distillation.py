"""Distillation of a diffusion network, and every command on what comes of it."""

import json
import os
import signal
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

import artart
import artart.gallery
import artart.generate
from artart import ArtError, Model
from artart.diffusion.guidance import NO_GUIDANCE, Guidance
from artart.diffusion.samplers import DDIM, Heun
from artart.generation.plan import sampling_for
from artart.objectives.distillation import Distillation


@pytest.fixture(scope="session")
def last(distilled_run: Path) -> Path:
    return distilled_run / "checkpoints" / "last.ckpt"


@pytest.fixture(scope="session")
def model(last: Path) -> Model:
    return artart.load(last, device="cpu")


def test_training_draws_grids_and_tests_for_memorization(distilled_run, teacher_run):
    log = (distilled_run / "train.log").read_text()
    assert "memorization/rate" in log
    *_, last_line = (line for line in log.splitlines() if "train/loss" in line)
    assert "train/matching" in last_line
    assert "train/regression" not in last_line  # it is of the first half of the run
    assert Image.open(distilled_run / "samples" / "epoch_0002.png").size[0] > 4 * 16
    content, teacher = (
        torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (distilled_run, teacher_run)
    )
    assert content["metrics"].keys() == {"val/swd"}
    names = [name.removeprefix("net.") for name in teacher["state_dict"]]  # the teacher is in no checkpoint
    assert content["state_dict"].keys() == {f"{part}.{name}" for part in ("net", "discriminator") for name in names}
    assert any((content["state_dict"][name] != value).any() for name, value in teacher["state_dict"].items())


def test_an_image_depends_on_its_seed_and_label_alone(last):
    model = artart.load(last, device="cpu")
    for name, value in model.net.named_parameters():
        if "label" in name or "scale_shift" in name:  # which a short training leaves near zero
            torch.nn.init.normal_(value, std=0.3, generator=torch.Generator().manual_seed(len(value)))
    several = model.sample(5, label="painting", seed=3, output_type="pt")
    alone = model.sample(1, label="painting", seed=5, output_type="pt")
    assert_close(several[2], alone[0], rtol=0, atol=1e-5)
    assert (several[2] - several[3]).abs().max() > 1e-3
    other = model.sample(1, label="drawing", seed=5, output_type="pt")
    assert (other - alone).abs().max() > 1e-4


def test_it_samples_by_ddim_in_the_steps_of_its_training(model):
    how = sampling_for(model.loaded, Heun(), Guidance(2.0), batch_size=1)
    assert (how.sampler, how.guidance) == (DDIM(2), NO_GUIDANCE)
    assert "DDIM" in str(model.sample(1)[0].info)


def test_generate_writes_the_images_of_python(generate, last, model):
    words = ("num_images=3", "label=painting", "out=made", "device=cpu", "save_trajectory=true")
    assert generate(f"checkpoint={last}", *words) == 0
    images = model.sample(3, label="painting")
    for path, image in zip(sorted(Path("made").glob("0*.png")), images, strict=True):
        assert np.abs(np.asarray(Image.open(path)).astype(int) - np.asarray(image)).max() <= 1


@pytest.mark.parametrize("method", ["img2img", "inpaint", "interpolate"])
def test_images_lead_to_images(model, method):
    image, mask = torch.zeros(3, 16, 16), torch.zeros(16, 16)
    mask[:8] = 1
    given = {"img2img": (image, 0.5), "inpaint": (image, mask), "interpolate": ([1, 2],)}[method]
    made = getattr(model, method)(*given, num_images=2, output_type="pt")
    assert made.shape == (2, 3, 16, 16)
    if method == "inpaint":
        assert (made[:, :, 8:] == 0).all()
        assert (made[:, :, :8] != 0).any()


@pytest.mark.parametrize(
    ("command", "word"),
    [
        *product((artart.generate, artart.gallery), ("guidance.weight=2", "sampler=ddim", "sampler.num_steps=4")),
        (artart.generate, "negative_prompt=blurry"),
    ],
)
def test_what_a_distilled_network_does_not_take_is_one_line(call, last, capsys, command, word):
    assert call(command, f"checkpoint={last}", word) == 2
    error = capsys.readouterr().err.strip()
    assert error.replace("'", "").endswith(
        f"{word}: {last} is distilled, with the steps and guidance of its training; leave it out"
    )
    assert "\n" not in error


def test_a_distilled_network_is_no_guide(generate, last, teacher_run, capsys):
    words = (f"checkpoint={teacher_run}", f"guidance.network={last}", "sampler.num_steps=2")
    assert generate(*words) == 2
    assert "objective.num_steps=2, not None" in capsys.readouterr().err


def test_python_refuses_guidance_and_samplers(model):
    for argument in ({"guidance": 2.0}, {"sampler": "ddim"}, {"num_steps": 4}, {"negative_prompt": "blurry"}):
        with pytest.raises(ArtError, match="a distilled network has its training's; leave them out"):
            model.sample(1, **argument)


@pytest.mark.slow
def test_evaluate_measures_all_but_noise_levels(evaluate, last, alexnet_weights):
    weights = f"metrics.weights={alexnet_weights}"
    assert evaluate(f"checkpoint={last}", "num_images=24", "device=cpu", weights) == 0
    metrics = json.loads(Path("judged/metrics.json").read_text())
    assert {"kid_alexnet", "memorization", "spectrum_db"} <= metrics.keys()
    assert (metrics["sampler"], metrics["num_steps"], metrics["guidance"]) == ("DDIM", 2, 1.0)
    assert "error_by_noise_level" not in metrics


def test_an_exported_file_makes_the_same_images(export, last, model, tmp_path):
    assert export(f"checkpoint={last}", f"out={tmp_path / 'distilled.safetensors'}") == 0
    exported = artart.load(tmp_path / "distilled.safetensors", device="cpu")
    assert_close(exported.sample(2, output_type="pt"), model.sample(2, output_type="pt"), rtol=0, atol=0)


WRONG = [
    (["init_from=null"], "init_from: objective=distillation distils a trained network; set init_from=CHECKPOINT"),
    (["init_from={distilled}"], "init_from={distilled}: is distilled; name the network that it was distilled from"),
    (["init_from={x0}"], "init_from={x0}: its parameterization is x0; objective=distillation needs v"),
    (["sampler=heun"], "sampler=heun: no such key; it belongs to diffusion: add objective=diffusion"),
    (["sampler.num_steps=3"], "callbacks.grid.sampler: must be DDIM with objective.num_steps; leave sampler out"),
    (["callbacks.grid.guidance=2"], "callbacks.grid.guidance=2: objective=distillation takes no guidance; set 1"),
    (["loss=mse_diffusion"], "loss: objective=distillation has a loss of its own; use loss=distribution_matching"),
    (["callbacks=default"], "callbacks.grid: is not for objective=distillation; use callbacks=gan"),
]


@pytest.mark.parametrize(("words", "message"), WRONG)
def test_train_refuses_what_does_not_go_with_it(
    train, distillation, capsys, words, message, distilled_run, diffusion_run
):
    places = {name: run / "checkpoints" / "last.ckpt" for name, run in
              {"distilled": distilled_run, "x0": diffusion_run}.items()}  # fmt: skip
    assert train(*distillation, *(word.format(**places) for word in words)) == 2
    assert message.format(**places) in capsys.readouterr().err
    assert not Path("outputs").exists()


def test_finetuning_what_is_distilled_is_one_line(train, distilled_run, capsys):
    words = ("experiment=finetune", "loss=mse_diffusion", f"init_from={distilled_run / 'checkpoints' / 'last.ckpt'}")
    assert train(*words) == 2
    assert "last.ckpt: is distilled; name the network that it was distilled from" in capsys.readouterr().err


@pytest.mark.slow
def test_a_resumed_run_is_the_same_to_the_bit(train, distillation, monkeypatch):
    """The teacher is that of init_from again, and not the network that had been trained so far."""
    common = (*distillation, "data.batch_size=8", "callbacks.grid=null", "callbacks.memorization=null")
    assert train(*common, "run_dir=whole") == 0
    compute, stops = Distillation.__call__, [0.5]

    def interrupted(objective, *arguments):
        if stops and arguments[-1] == stops[0]:  # the progress of the step
            os.kill(os.getpid(), signal.SIGTERM)
            stops.clear()
        return compute(objective, *arguments)

    monkeypatch.setattr(Distillation, "__call__", interrupted)
    assert train(*common, "run_dir=run") == 143
    assert torch.load("run/checkpoints/last.ckpt", weights_only=True)["global_step"] == 4
    assert train(*common, "run_dir=run", "resume=auto") == 0
    ours, wanted = (torch.load(f"{run}/checkpoints/last.ckpt", weights_only=True) for run in ("run", "whole"))
    for part in ("state_dict", "current_model_state", "optimizer_states", "global_step", "images_seen"):
        assert_close(ours[part], wanted[part], rtol=0, atol=0)


def test_a_run_is_not_resumed_with_another_teacher(train, distilled_run, distillation, teacher_run, capsys):
    content = torch.load(teacher_run / "checkpoints" / "last.ckpt", weights_only=True)
    next(value for name, value in content["state_dict"].items() if name.endswith("weight")).add_(1e-3)
    torch.save(content, "other.ckpt")
    words = (distillation[0], "init_from=other.ckpt", *distillation[3:], "objective.guidance=1.5", "data.batch_size=8")
    last = distilled_run / "checkpoints" / "last.ckpt"
    assert train(*words, "trainer.max_epochs=3", f"resume={last}", "run_dir=run") == 2
    line = f"init_from={Path('other.ckpt').absolute()}: is not the network from which {last} is distilled; name that\n"
    assert capsys.readouterr().err == line


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["latents", "prompts"])
def test_latents_and_prompts_are_distilled_too(train, generate, request, kind, tmp_path):
    teacher = request.getfixturevalue("latent_run" if kind == "latents" else "text_run")
    checkpoint = teacher / "checkpoints" / "last.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    if kind == "prompts":  # the fixture's parameterization is another
        content["config"]["objective"]["parameterization"] = "v"
        torch.save(content, checkpoint := tmp_path / "teacher.ckpt")
    more = (f"data.root={teacher.parent / 'art'}", "data.captions=auto") if kind == "prompts" else ()
    few = ("data.batch_size=8", "callbacks.grid.num_images=4", "trainer.max_epochs=1", "run_dir=run")
    assert train("experiment=distill", f"init_from={checkpoint}", *few, *more, "objective.guidance=2") == 0
    assert generate("checkpoint=run/checkpoints/last.ckpt", "num_images=2", "out=made", "device=cpu") == 0
    assert len([*Path("made").glob("0*.png")]) == 2
