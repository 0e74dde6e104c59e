"""Latent diffusion in every command."""

import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from lightning.pytorch import Callback
from PIL import Image
from torch.testing import assert_close

import artart
import artart.inspect
from artart import ArtError
from artart.checkpoints.load import load, load_first_stage
from artart.diffusion.samplers import Heun, UniPC
from artart.diffusion.sampling import sample_steps
from artart.evaluation.held_out import held_out_data
from artart.generation.plan import guidance_for
from artart.io.images import to_model, to_pixels
from artart.training.callbacks.memorization import MemorizationMonitor

HARDLY = ("optimizer.lr=1e-30", "callbacks.grid=null", "run_dir=run")
FAST = "sampler.num_steps=3"
INNER = ("experiment=autoencoder", "model.model_channels=8", "loss.weights.perceptual=0", "data.batch_size=8")
SMALLER = [f"first_stage_settings.{word}" for word in INNER]  # whose factor is 4


def read(path: str | Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def last(run: Path | str) -> Path:
    return Path(run, "checkpoints", "last.ckpt")


def nets(path: Path) -> dict[str, torch.Tensor]:
    return {name[4:]: value for name, value in read(path)["state_dict"].items() if name.startswith("net.")}


def assert_same_first_stage(ours: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert ours["model"] == wanted["model"]
    for part in ("state_dict", "moments"):
        assert_close(ours[part], wanted[part], rtol=0, atol=0)


@pytest.fixture(scope="module")
def content(latent_run) -> dict[str, Any]:
    return read(last(latent_run))


@pytest.fixture(scope="module")
def model(latent_run):
    return artart.load(last(latent_run), device="cpu")


@pytest.fixture
def another(autoencoder_run, tmp_path) -> Path:
    """The autoencoder, of which one weight is another."""
    content = read(last(autoencoder_run))
    content["state_dict"]["net.encoder.1.bias"][0] += 1
    torch.save(content, tmp_path / "another.ckpt")
    return tmp_path / "another.ckpt"


def pixels(image: Image.Image | str | Path) -> np.ndarray:
    return np.asarray(image if isinstance(image, Image.Image) else Image.open(image)).astype(int)


# --- training


@pytest.mark.slow
def test_a_checkpoint_holds_both_stages_and_the_moments_of_training_latents(latent_run, autoencoder_run, content):
    held = content["first_stage"]
    assert_close(held["state_dict"], nets(last(autoencoder_run)), rtol=0, atol=0)
    assert held["model"] == read(last(autoencoder_run))["config"]["model"]
    assert (content["config"]["model"]["image_size"], content["config"]["model"]["channels"]) == (8, 4)
    assert not [name for name in content["state_dict"] if "encoder" in name or "decoder" in name]
    assert "current_model_state" in content  # beside the average
    loaded = load(last(latent_run))
    data = held_out_data(loaded)
    data.load()
    values = loaded.process.first_stage.latents(to_model(data.pixels_of(data.train_ids))).transpose(0, 1).flatten(1)
    wanted = torch.stack([values.mean(dim=1), values.std(dim=1, correction=0)])
    assert_close(held["moments"], wanted, rtol=1e-3, atol=1e-4)  # of float16


@pytest.mark.slow
def test_training_shows_and_judges_images(latent_run):
    """The samples of the memorization test are those of `Model`."""
    figures = json.loads((latent_run / "result.json").read_text())["last"]
    assert {"memorization/rate", "val/mse", "train/mse"} <= figures.keys()
    assert pixels(latent_run / "samples" / "epoch_0002.png").shape == (6 * 18 + 2, 4 * 18 + 2, 3)
    loaded, monitor = load(last(latent_run)), MemorizationMonitor(Heun(3), num_images=20, batch_size=7)
    data = held_out_data(loaded)
    data.load()
    trainer = SimpleNamespace(callbacks=[])
    module: Any = SimpleNamespace(net=loaded.net, objective=loaded.objective, device="cpu", trainer=trainer)
    made = monitor._samples(module, data)
    assert made.shape == (20, 3, 16, 16)
    (step, *_) = sample_steps(loaded.net, loaded.process, Heun(3), torch.zeros(1, 1).long(), [0])
    assert step.x_t.shape == (1, 4, 8, 8)


class Stop(Callback):
    """Ctrl-C at a step."""

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == 4:  # within the second epoch
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.slow
def test_an_interrupted_run_ends_as_an_uninterrupted_one_to_the_bit(train, latent, monkeypatch):
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])  # where Hydra finds the callback
    options = (*latent, "data.num_demo_images=30", "trainer.max_epochs=3")
    assert train(*options, "run_dir=whole") == 0
    stop = (f"+callbacks.stop._target_={__name__}.Stop", f"trusted_classes=[{__name__}.Stop]")
    assert train(*options, "run_dir=run", *stop) == 130
    assert read(last("run"))["global_step"] == 5
    assert train(*options, "run_dir=run", "resume=auto") == 0
    ours, wanted = read(last("run")), read(last("whole"))
    assert_same_first_stage(ours["first_stage"], wanted["first_stage"])
    for part in ("state_dict", "current_model_state", "optimizer_states", "metrics", "images_seen"):
        assert_close(ours[part], wanted[part], rtol=0, atol=0, msg=lambda text, part=part: f"{part}: {text}")


@pytest.mark.slow
def test_a_run_that_resumes_on_other_images_keeps_its_moments(train, latent, latent_run, content, capsys):
    arguments = ("data.num_demo_images=50", "trainer.max_epochs=3", "run_dir=run", f"resume={last(latent_run)}")
    assert train(*latent, *arguments) == 0
    assert "resume: other images than before" in capsys.readouterr().out
    assert_same_first_stage(read(last("run"))["first_stage"], content["first_stage"])


@pytest.mark.slow
@pytest.mark.parametrize("given", ["another", "none", "pixels"])
def test_a_run_resumes_with_its_own_first_stage_alone(
    train, latent, latent_run, diffusion_run, another, given, capsys, tmp_path
):
    run = diffusion_run if given == "pixels" else latent_run
    own = {"another": f"first_stage={another}", "none": "first_stage=null", "pixels": latent[1]}[given]
    assert train(*latent, own, f"resume={last(run)}", "run_dir=run", "trainer.max_epochs=9") == 2
    (line,) = capsys.readouterr().err.splitlines()
    was, remedy = ("none", "leave it out") if given == "pixels" else ("another", f"set first_stage={last(run)}")
    assert line == f"{own}: {last(run)} was trained with {was}; {remedy}"
    assert list(tmp_path.iterdir()) == [another]


@pytest.mark.slow
def test_its_own_checkpoint_is_a_first_stage_to_resume_with(train, latent, latent_run):
    own = (
        "data.num_demo_images=60",
        "data.val_fraction=0.6",
        f"first_stage={last(latent_run)}",
        "trainer.max_epochs=3",
    )
    assert train(*latent, *own, f"resume={last(latent_run)}", "run_dir=run") == 0


@pytest.mark.slow
def test_first_stage_auto_resumes_with_the_settings_of_its_first_stage(train, latent, capsys):
    """The autoencoder is trained within the run."""
    inner = [*SMALLER, "first_stage_settings.model.channel_mult=[1]", "first_stage_settings.trainer.max_epochs=1"]
    options = ("experiment=art", *latent[2:], "run_dir=run", *(f"++{word}" for word in inner))
    assert train(*options, "trainer.max_epochs=1") == 0
    before = read(last("run"))
    assert_close(before["first_stage"]["state_dict"], nets(Path("run/first_stage/checkpoints/best.ckpt")))
    assert train(*options, "resume=auto", "++first_stage_settings.model.model_channels=16") == 2
    error = capsys.readouterr().err
    assert error.startswith("first_stage_settings.model.model_channels=16: ")
    assert "was trained with 8; ask for that" in error
    assert train(*options, "resume=auto") == 0
    assert_same_first_stage(read(last("run"))["first_stage"], before["first_stage"])


# --- settings that exclude a first stage, and files that are none


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pixels", "first_stage={path}: is no autoencoder; train one with experiment=autoencoder"),
        ("format_2", "first_stage={path}: is no autoencoder; train one with experiment=autoencoder"),
        ("cut", "{path}: damaged or not a weights file ("),
        ("size", "image_size=32: first_stage={path} is for image_size=16; ask for that"),
    ],
)
def test_a_file_that_is_no_first_stage_is_one_line(autoencoder_run, diffusion_run, tmp_path, name, message):
    path = {
        "pixels": last(diffusion_run),
        "format_2": next(Path(__file__).parents[1].joinpath("data", "checkpoints").glob("*.ckpt")),
        "cut": tmp_path / "cut.ckpt",
        "size": last(autoencoder_run),
    }[name]
    (tmp_path / "cut.ckpt").write_bytes(last(autoencoder_run).read_bytes()[:5000])
    with pytest.raises(ArtError) as error:
        load_first_stage(path, 32 if name == "size" else 16)
    assert str(error.value).startswith(message.format(path=path))
    assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["first_stage={pixels}"], "first_stage={pixels}: is no autoencoder; train one with experiment=autoencoder"),
        (
            ["init_from={latents}"],
            "first_stage={ours}: init_from={latents} brings its own; set first_stage=null",
        ),
        (
            [*(f"++{word}" for word in SMALLER), "first_stage=auto"],
            "image_size=16: latents would be 4 x 4; take at least 32",
        ),
    ],
    ids=["pixels", "init_from", "small"],
)
def test_train_refuses_a_first_stage_before_any_work(
    train, latent, latent_run, diffusion_run, capsys, tmp_path, settings, message
):
    names = {"pixels": last(diffusion_run), "latents": last(latent_run), "ours": latent[1].partition("=")[2]}
    assert train(*latent, "run_dir=run", *(word.format(**names) for word in settings)) == 2
    assert capsys.readouterr().err == message.format(**names) + "\n"
    assert list(tmp_path.iterdir()) == []


def test_a_latent_checkpoint_brings_its_first_stage_and_its_moments(latent_run, autoencoder_run, content):
    its = load_first_stage(last(latent_run), 16)
    assert its.sha256 == load_first_stage(last(autoencoder_run), 16).sha256
    assert_close(its.moments, content["first_stage"]["moments"], rtol=0, atol=0)


# --- fine-tuning


@pytest.mark.slow
def test_init_from_brings_weights_first_stage_and_moments(train, latent, latent_run, content):
    begin = (*latent, f"init_from={last(latent_run)}", *HARDLY)
    assert train(*begin, "first_stage=null", "data.num_demo_images=44", "trainer.max_epochs=1") == 0
    assert_same_first_stage(read(last("run"))["first_stage"], content["first_stage"])
    assert_close(nets(last("run")), nets(last(latent_run)))


# --- images


CALLS = {
    "sample": ([], lambda model, _, __: model.sample(3, num_steps=3)),
    "img2img": (
        ["input={image}", "strength=0.4"],
        lambda model, image, _: model.img2img(image, 0.4, num_images=3, num_steps=3),
    ),
    "inpaint": (
        ["input={image}", "mask={mask}"],
        lambda model, image, mask: model.inpaint(image, mask, num_images=3, num_steps=3),
    ),
    "interpolate": (["seeds=[1,5]"], lambda model, _, __: model.interpolate([1, 5], num_images=3, num_steps=3)),
}


@pytest.mark.parametrize(
    "mode", ["sample", "inpaint", *(pytest.param(mode, marks=pytest.mark.slow) for mode in ("img2img", "interpolate"))]
)
def test_every_mode_makes_the_images_of_python(generate, latent_run, model, art_folder, tmp_path, mode):
    arguments, call = CALLS[mode]
    mask = Image.new("L", (32, 32))
    mask.paste(255, (0, 0, 15, 32))
    mask.save(tmp_path / "mask.png")
    source = sorted(art_folder.rglob("*.png"))[0]
    words = [word.format(image=source, mask=tmp_path / "mask.png") for word in arguments]
    assert generate(f"checkpoint={last(latent_run)}", f"mode={mode}", "out=made", "num_images=3", FAST, *words) == 0
    with Image.open(source) as image:
        made = call(model, image, mask)
    names = sorted(
        path for path in Path("made").iterdir() if path.suffix == ".png" and path.stem not in ("grid", "strip")
    )
    assert [pixels(one).tolist() for one in made] == [pixels(name).tolist() for name in names]
    assert pixels(made[0]).shape == ((16, 16, 3) if mode in ("sample", "interpolate") else (32, 32, 3))
    if mode == "inpaint":
        assert (pixels(made[0])[:, 15:] == pixels(Image.open(source))[:, 15:]).all()


def test_inpaint_keeps_a_tensor_outside_of_the_mask_to_the_bit(model):
    x = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mask = torch.zeros(1, 16, 16, dtype=torch.bool)
    mask[:, 5:9, 3:12] = True
    made = model.inpaint(x, mask, num_images=2, num_steps=3, output_type="pt")
    assert torch.equal(made[:, :, ~mask[0]], x[:, ~mask[0]].expand(2, -1, -1))
    assert (made - x)[:, :, mask[0]].abs().min() > 0


@pytest.mark.slow
def test_a_trajectory_is_of_images_and_ends_in_the_sample(generate, latent_run):
    words = ("save_trajectory=true", "num_images=2", "batch_size=1", "label=none", "resample=nearest", FAST)
    assert generate(f"checkpoint={last(latent_run)}", "out=made", *words) == 0
    strip = pixels("made/trajectory.png")
    assert strip.shape == (2 * 98 + 2, 8 * 98 + 2, 3)
    for k in range(2):
        assert (strip[2 + 98 * k :, -98:][:96:6, :96:6] == pixels(f"made/0000{k}.png")).all()


@pytest.mark.slow
def test_evaluate_measures_images_and_errors_of_latents(evaluate, latent_run, alexnet_weights, tmp_path):
    words = ("num_images=30", "sampler.num_steps=2", f"metrics.weights={alexnet_weights}")
    assert evaluate(f"checkpoint={last(latent_run)}", *words) == 0
    found = json.loads((tmp_path / "judged" / "metrics.json").read_text())
    assert {"kid_alexnet", "memorization"} <= found.keys()
    (errors,) = [value for key, value in found.items() if "noise" in key or "level" in key]
    values = [*errors.values()] if isinstance(errors, dict) else errors
    assert len(values) == 10
    assert all(0 < value < 10 for value in values)


# --- one file


@pytest.mark.slow
def test_an_exported_file_alone_makes_the_same_images(export, content, tmp_path):
    """Where the autoencoder's own is gone."""
    content = {**content, "config": {**content["config"], "first_stage": "/home/gone/autoencoder.ckpt"}}
    torch.save(content, tmp_path / "a.ckpt")
    assert export(f"checkpoint={tmp_path}/a.ckpt", f"out={tmp_path}/a.safetensors") == 0
    assert b"/home/gone" not in (tmp_path / "a.safetensors").read_bytes()
    before, after = (artart.load(tmp_path / name, device="cpu") for name in ("a.ckpt", "a.safetensors"))
    assert [pixels(x).tolist() for x in after.sample(3, num_steps=3)] == [
        pixels(x).tolist() for x in before.sample(3, num_steps=3)
    ]
    its = load_first_stage(tmp_path / "a.safetensors", 16)
    assert its.sha256 == before.loaded.process.first_stage.sha256
    assert_same_first_stage(its.content, before.loaded.process.first_stage.content)


@pytest.mark.slow
def test_onnx_is_the_denoiser_of_latents(export, latent_run, tmp_path):
    assert export(f"checkpoint={last(latent_run)}", "format=onnx", f"out={tmp_path}/net.onnx") == 0
    session, net = onnxruntime.InferenceSession(tmp_path / "net.onnx"), load(last(latent_run)).net
    x, t, y = torch.randn(5, 4, 8, 8), torch.rand(5), torch.arange(5)[:, None]
    (made,) = session.run(None, {"x_t": x.numpy(), "t": t.numpy(), "y": y.numpy()})
    assert_close(torch.from_numpy(made), net(x, t, y).detach(), rtol=1e-4, atol=1e-5)
    facts = json.loads(session.get_modelmeta().custom_metadata_map["artart"])
    assert np.shape(facts["first_stage"]["moments"]) == (2, 4)  # by which its outputs become latents


@pytest.mark.slow
def test_inspect_names_the_first_stage(latent_run, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["artart.inspect", str(last(latent_run))])
    artart.inspect.run()
    found = yaml.safe_load(capsys.readouterr().out)
    assert found["first stage"]["_target_"] == "artart.models.autoencoder.Autoencoder"
    assert found["numbers in the network"] == sum(one.numel() for one in load(last(latent_run)).net.parameters())


@pytest.mark.slow
def test_guidance_is_by_a_network_of_the_same_latents(latent_run, content, diffusion_run, tmp_path):
    loaded = load(last(latent_run))
    assert guidance_for(loaded, 2.0, network=latent_run / "checkpoints" / "best.ckpt").network is not None
    for key, more in (("state_dict", {"encoder.1.bias": torch.ones(8)}), ("moments", None)):
        held = content["first_stage"]
        changed = held["moments"] + 1 if more is None else {**held["state_dict"], **more}
        torch.save({**content, "first_stage": {**held, key: changed}}, tmp_path / "other.ckpt")
        with pytest.raises(ArtError, match=r"^guidance\.network=.*other\.ckpt: has another first stage; name"):
            guidance_for(loaded, 2.0, network=tmp_path / "other.ckpt")


def test_pixels_of_a_sample_are_the_decoded_latents(model):
    loaded = model.loaded
    *_, step = sample_steps(loaded.net, loaded.process, UniPC(3), torch.tensor([[5], [5]]), [0, 1])
    made = model.sample(2, label="none", num_steps=3, guidance=1.0)
    wanted = to_pixels(loaded.process.first_stage.decode(step.x_t)).permute(0, 2, 3, 1)
    assert [pixels(one).tolist() for one in made] == wanted.tolist()
