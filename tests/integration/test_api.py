"""artart from Python: the images of the commands, from plain arguments."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

import artart
from artart import ArtError
from artart.diffusion.guidance import Guidance
from artart.diffusion.samplers import DDIM
from artart.io.images import to_model
from artart.io.provenance import provenance_of

FAST = "sampler.num_steps=3"


@pytest.fixture(scope="module")
def best(diffusion_run) -> Path:
    return diffusion_run / "checkpoints" / "best.ckpt"


@pytest.fixture(scope="module")
def model(best):
    return artart.load(best, device="cpu")


@pytest.fixture(scope="module")
def reconstructor(finished_run):
    return artart.load(finished_run / "checkpoints" / "best.ckpt", device="cpu")


@pytest.fixture
def image(art_folder) -> Path:
    return sorted(art_folder.rglob("*.png"))[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["outputs/runs/2026-11-26/run", "latest"])
def test_load_takes_the_folder_of_a_run_and_the_latest(best, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (day := Path("outputs/runs/2026-11-26")).mkdir(parents=True)
    (day / "run").symlink_to(best.parents[1])
    loaded = artart.load(name, device="cpu").loaded
    assert loaded.path == tmp_path / day / "run" / "checkpoints" / "best.ckpt"


def test_a_network_that_samples_can_be_evaluated_in_bf16(generate, best, finished_run, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    in_bf16, seen = artart.load(best, device="cpu", precision="bf16-mixed"), set[torch.dtype]()
    for layer in in_bf16.net.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(lambda *of: seen.add(of[2].dtype))
    made = in_bf16.sample(2, num_steps=3, guidance=2.0, output_type="pt")
    assert (made.dtype, seen) == (torch.float32, {torch.bfloat16, torch.float32}), "the last layer in full precision"
    wanted = model.sample(2, num_steps=3, guidance=2.0, output_type="pt")
    assert 0 < (made - wanted).abs().max() < 0.1
    words = ("num_images=2", "label=none", "guidance.weight=1", FAST, "device=cpu")
    assert generate(f"checkpoint={best}", *words, "precision=bf16-mixed", "out=made") == 0
    images = in_bf16.sample(2, label="none", guidance=1.0, num_steps=3)
    for path, image in zip(sorted(Path("made").glob("0*.png")), images, strict=True):
        assert np.array_equal(pixels(path), pixels(image))
        assert "precision=bf16-mixed" in path.read_bytes().decode("latin-1")
    with pytest.raises(ArtError, match="precision=bf16-mixed: is for networks that sample; leave it out"):
        artart.load(finished_run, device="cpu", precision="bf16-mixed")


@pytest.mark.parametrize(
    ("trained", "used"), [(None, "bf16-mixed"), ("bf16-mixed", "bf16-mixed"), ("32-true", "32-true")]
)
def test_a_gpu_evaluates_a_network_in_the_precision_of_its_training(best, tmp_path, monkeypatch, trained, used):
    monkeypatch.setattr("artart.checkpoints.device.computes_in_bf16", lambda device: True)
    content = torch.load(best, weights_only=True)
    content["config"]["trainer"]["precision"] = trained
    torch.save(content, tmp_path / "a.ckpt")
    assert artart.load(tmp_path / "a.ckpt", device="cpu").loaded.precision == used


def pixels(image: Image.Image | str | Path) -> np.ndarray:
    return np.asarray(image if isinstance(image, Image.Image) else Image.open(image)).astype(int)


def as_tensor(path: Path) -> torch.Tensor:
    """A PNG of the network's size."""
    return to_model(torch.tensor(pixels(path), dtype=torch.uint8).permute(2, 0, 1))


def packet(image: Image.Image) -> str:
    return image.info["xmp"].decode()


def check_same(made: list[Image.Image], *names: str) -> None:
    """The command's pixels and its provenance."""
    for image, name in zip(made, names, strict=True):
        with Image.open(name) as written:
            assert (pixels(image) == pixels(name)).all()
            written.load()
            assert packet(image) == packet(written)


# --- the images of the commands


@pytest.mark.slow
def test_sample_makes_the_images_of_the_command(generate, best, model):
    settings = ("num_images=4", "seed=7", "guidance.weight=2.5", "sampler=ddim", FAST, "batch_size=3")
    assert generate(f"checkpoint={best}", "label=painting", "out=made", *settings) == 0
    how = {"guidance": 2.5, "sampler": "ddim", "num_steps": 3, "batch_size": 3}
    check_same(model.sample(4, label="painting", seed=7, **how), *[f"made/0000{k}_painting.png" for k in range(4)])


@pytest.mark.slow
def test_sample_has_the_defaults_of_the_command(generate, best, model):
    assert generate(f"checkpoint={best}", FAST, "out=made") == 0
    check_same(model.sample(num_steps=3), *sorted(str(path) for path in Path("made").glob("0*.png")))


@pytest.mark.slow
def test_img2img_makes_the_images_of_the_command(generate, best, model, image):
    settings = ("mode=img2img", "num_images=2", "strength=0.4", "label=drawing", "seed=3", FAST)
    assert generate(f"checkpoint={best}", f"input={image}", "out=made", *settings) == 0
    with Image.open(image) as opened:
        made = model.img2img(opened, strength=0.4, num_images=2, label="drawing", seed=3, num_steps=3)
    check_same(made, *[f"made/{image.stem}_0000{k}_drawing.png" for k in range(2)])


@pytest.mark.slow
def test_img2img_takes_a_folder_of_images_in_order(generate, best, model, art_folder):
    files = sorted(path for path in art_folder.rglob("*.png"))[:3]
    made = model.img2img([Image.open(path) for path in files], num_images=2, num_steps=3, batch_size=4)
    for k, path in enumerate(files):
        assert generate(f"checkpoint={best}", "mode=img2img", f"input={path}", "num_images=2", FAST, "out=made") == 0
        for j in range(2):
            assert np.abs(pixels(made[2 * k + j]) - pixels(f"made/{path.stem}_0000{j}.png")).max() <= 1  # a rounding


@pytest.mark.slow
def test_inpaint_makes_the_images_of_the_command(generate, best, model, image, tmp_path):
    mask = Image.new("L", Image.open(image).size)
    mask.paste(255, (0, 0, 15, 32))
    mask.save(tmp_path / "mask.png")
    settings = ("mode=inpaint", f"mask={tmp_path}/mask.png", "num_images=2", FAST)
    assert generate(f"checkpoint={best}", f"input={image}", "out=made", *settings) == 0
    with Image.open(image) as opened:
        made = model.inpaint(opened, mask, num_images=2, num_steps=3)
    check_same(made, *[f"made/{image.stem}_0000{k}.png" for k in range(2)])


def test_interpolate_makes_the_images_of_the_command(generate, best, model):
    settings = ("mode=interpolate", "seeds=[1,5]", "num_images=3", "label=drawing", FAST)
    assert generate(f"checkpoint={best}", "out=made", *settings) == 0
    made = model.interpolate([1, 5], num_images=3, label="drawing", num_steps=3)
    check_same(made, *[f"made/0000{k}.png" for k in range(3)])


@pytest.mark.slow
def test_reconstruct_makes_the_images_of_the_command(generate, finished_run, reconstructor, image):
    assert generate(f"checkpoint={finished_run}/checkpoints/best.ckpt", f"input={image}", "out=made") == 0
    with Image.open(image) as opened:
        check_same(reconstructor.reconstruct(opened), f"made/{image.stem}.png")


@pytest.mark.slow
def test_a_guide_makes_the_images_of_the_command(generate, best, model, diffusion_run):
    weaker = diffusion_run / "checkpoints" / "last.ckpt"
    settings = ("num_images=1", "guidance.weight=2", "guidance.interval=[0,1]", f"guidance.network={weaker}", FAST)
    assert generate(f"checkpoint={best}", "out=made", *settings) == 0
    guidance = model.guidance(2, (0, 1), weaker)
    check_same(model.sample(1, guidance=guidance, num_steps=3), "made/00000_drawing.png")


# --- kinds of inputs and outputs


@pytest.mark.slow
def test_images_and_tensors_give_the_same(model, reconstructor, image, tmp_path):
    small = Image.open(image).convert("RGB").resize((16, 16))
    small.save(tmp_path / "small.png")
    tensor = as_tensor(tmp_path / "small.png")
    white = torch.zeros(1, 16, 16, dtype=torch.bool)
    white[:, 4:9] = True
    mask = Image.fromarray(white[0].numpy())
    same = {"num_images": 2, "num_steps": 2, "output_type": "pt"}
    for one, other in (
        (model.img2img(small, **same), model.img2img(tensor, **same)),
        (model.inpaint(small, mask, **same), model.inpaint(tensor[None], white, **same)),
        (reconstructor.reconstruct(small, output_type="pt"), reconstructor.reconstruct(tensor, output_type="pt")),
    ):
        assert_close(one, other, rtol=0, atol=0)


def test_pt_is_a_tensor_from_which_the_images_are_made(model):
    tensor, images = (model.sample(3, num_steps=2, output_type=kind) for kind in ("pt", "pil"))
    assert tensor.shape == (3, 3, 16, 16)
    assert tensor.abs().max() <= 1
    made = ((tensor + 1) * 127.5).round().permute(0, 2, 3, 1).numpy()
    assert (made == np.stack([pixels(image) for image in images])).all()


def test_inpaint_keeps_a_tensor_outside_of_the_mask_to_the_bit(model):
    image, mask = torch.rand(3, 16, 16) * 2 - 1, torch.arange(16)[None, :, None].expand(1, -1, 16) < 8
    made = model.inpaint(image, mask, num_images=1, num_steps=2, output_type="pt")[0]
    assert_close(made[:, 8:], image[:, 8:], rtol=0, atol=0)
    assert (made[:, :8] - image[:, :8]).abs().mean() > 0.1


def test_a_sampler_and_a_guidance_may_be_objects(model):
    named = model.sample(2, guidance=2.0, sampler="ddpm", num_steps=3)
    made = model.sample(2, guidance=Guidance(2.0), sampler=DDIM(3, eta=1.0))
    for one, other in zip(named, made, strict=True):
        assert (pixels(one) == pixels(other)).all()
        assert packet(one) == packet(other)


def test_a_guide_must_come_from_a_checkpoint(model):
    with pytest.raises(ArtError, match=r"guidance.network: .* use model.guidance\(3, network=PATH\)"):
        model.sample(1, guidance=Guidance(3.0, network=model.net), num_steps=1)


def test_names_settings_and_facts_of_the_network_can_be_read(model):
    assert model.label_names == {"class": ["drawing", "engraving", "iconography", "painting", "sculpture"]}
    assert model.config["image_size"] == 16
    assert model.facts["data"]["num_train"] > 0


# --- provenance


def test_save_image_writes_the_provenance_and_replaces_nothing(model, tmp_path):
    (image,) = model.sample(1, seed=9, num_steps=2)
    paths = [artart.save_image(image, tmp_path / "new" / "image.png") for _ in range(2)]
    assert [path.name for path in paths] == ["image.png", "image-2.png"]
    for path in paths:
        with Image.open(path) as written:
            written.load()
            assert (pixels(written) == pixels(image)).all()
            assert packet(written) == packet(image)
            assert "seed=9; label=drawing" in packet(written)
            assert provenance_of(written).source == "trainedAlgorithmicMedia"


def test_save_image_marks_tensors_and_bare_images_as_made_by_a_network(model, tmp_path):
    tensor = model.sample(1, num_steps=2, output_type="pt")[0]
    bare = Image.new("L", (5, 4), 7)
    for kind, image in {"tensor": tensor, "bare": bare}.items():
        with Image.open(artart.save_image(image, f"{tmp_path}/{kind}.png")) as written:
            written.load()
            assert provenance_of(written).source == "trainedAlgorithmicMedia"
    assert (pixels(tmp_path / "bare.png") == 7).all()
    assert bare.info == {}
    assert_close(as_tensor(tmp_path / "tensor.png"), tensor, rtol=0, atol=1 / 255)


def test_an_opt_out_is_kept_from_image_to_image(model, tmp_path):
    opt_out = "DMI-PROHIBITED-AIMLTRAINING"
    image = Image.new("RGB", (16, 16), "red")
    image.info["xmp"] = f"http://x/{opt_out}".encode()
    (made,) = model.img2img(image, num_images=1, num_steps=2)
    with Image.open(artart.save_image(made, tmp_path / "made.png")) as written:
        written.load()
        assert provenance_of(written) == (opt_out, "compositeWithTrainedAlgorithmicMedia")
    (again,) = model.img2img(made, num_images=1, num_steps=2)
    assert "input_source=compositeWithTrainedAlgorithmicMedia" in packet(again)


# --- mistakes

IMAGE = Image.new("RGB", (16, 16))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda model: model.sample(label="paintings"), "label=paintings: no such class; did you mean painting?"),
        (lambda model: model.sample(label={"artist": "Bo"}), "label.artist=Bo: no such column; choose class"),
        (lambda model: model.sample(0), "num_images=0: must be a whole number, at least 1"),
        (lambda model: model.sample(seed=-1), "seed=-1: must be a whole number, at least 0"),
        (lambda model: model.sample(guidance=-1), "guidance.weight=-1: must be a number, at least 0"),
        (
            lambda model: model.sample(sampler="huen"),
            "sampler=huen: no such option; choose ddim, ddpm, dpmpp_2m, heun",
        ),
        (lambda model: model.sample(num_steps=0), "sampler.num_steps=0: must be a whole number, at least 1"),
        (lambda model: model.sample(sampler=DDIM(), num_steps=2), "num_steps=2: goes with a sampler's name"),
        (lambda model: model.sample(1, num_steps=1, output_type="np"), "output_type=np: must be pil or pt"),
        (lambda model: model.img2img(IMAGE, strength=0), "strength=0: must be a number, at least 0.01 and at most 1"),
        (lambda model: model.inpaint([IMAGE] * 2, IMAGE), "image: 2 images; inpaint takes one, with its mask"),
        (lambda model: model.interpolate([1]), "seeds=[1]: must be two or more"),
        (lambda model: model.interpolate([1, 2], label="all"), "label=all: mode=interpolate keeps to one label"),
        (lambda model: model.guidance(2, (0.9, 0.1)), "guidance.interval=[0.9, 0.1]: must be two noise levels"),
        (lambda model: model.reconstruct(IMAGE), "was not trained for that; it can do mode=sample, img2img, inpaint"),
        (lambda model: artart.load("nowhere.ckpt"), "nowhere.ckpt: no such file"),
        (lambda model: artart.load("nowhere.ckpt", device="tpu"), "device=tpu: must be auto, cpu, cuda or mps"),
        (lambda model: artart.save_image(IMAGE, "a.jpg"), "path=a.jpg: must end in .png"),
        (lambda model: artart.save_image(torch.zeros(2, 3, 4, 4), "a.png"), "shape (2, 3, 4, 4)"),
    ],
)
def test_mistakes_are_art_errors_of_one_line(model, tmp_path, monkeypatch, call, sentence):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtError, match=re.escape(sentence)) as error:
        call(model)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", ["sample", "img2img", "inpaint", "interpolate"])
def test_a_network_that_reconstructs_makes_nothing_else(reconstructor, mode):
    arguments = {"sample": (), "img2img": (IMAGE,), "inpaint": (IMAGE, IMAGE), "interpolate": ([1, 2],)}
    with pytest.raises(ArtError, match=f"mode={mode}: .* was not trained for that; it can do mode=reconstruct"):
        getattr(reconstructor, mode)(*arguments[mode])


def test_importing_artart_imports_neither_torch_nor_pillow():
    script = (
        "import sys, artart; from artart import ArtError, __version__; assert not {'torch', 'PIL'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_artart_has_no_other_attributes():
    with pytest.raises(AttributeError, match="module 'artart' has no attribute 'lod'"):
        artart.lod  # noqa: B018
