"""From images to others like them, and from seed to seed."""

import math
import re
import shutil
import tracemalloc
from itertools import islice, pairwise
from pathlib import Path
from weakref import WeakSet

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin
from torch import nn
from torch.testing import assert_close

from artart.checkpoints.load import load
from artart.data.decode import decode
from artart.data.scan import FileInfo, examine
from artart.diffusion.guidance import Guidance
from artart.diffusion.noise import Between, from_seeds, slerp
from artart.diffusion.samplers import DDIM, DPMpp2M, Heun, UniPC
from artart.diffusion.sampling import Given, sample_steps
from artart.diffusion.schedule import Cosine, Flow
from artart.generation.conditions import Asked
from artart.generation.img2img import masked, plan_variations
from artart.generation.inputs import Input, inputs_of, provenance_of_inputs, read_inputs
from artart.generation.interpolate import MAX_IN_ANIMATION, _moments, places, plan_interpolation
from artart.generation.plan import Sampling, make
from artart.generation.sample import plan_samples
from artart.io.provenance import provenance_of
from artart.objectives.diffusion import Diffusion
from artart.objectives.losses import MSE, WeightedSum

FAST = "sampler.num_steps=3"
SAMPLERS = [DDIM(40), DDIM(40, eta=1.0), DPMpp2M(40), Heun(40), UniPC(40)]
OPT_OUT, OTHER = "DMI-PROHIBITED-AIMLTRAINING", "DMI-PROHIBITED-GENAIMLTRAINING"


class Ideal(nn.Module):
    """Knows of images that each number is standard normal: its best guess of x0, from x_t on Flow, is known."""

    channels, image_size, num_classes = 3, 8, 2

    def forward(self, x_t: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        alpha, sigma = 1 - t.view(-1, 1, 1, 1), t.view(-1, 1, 1, 1)
        return alpha / (alpha**2 + sigma**2) * x_t


def diffusion(schedule=None) -> Diffusion:
    return Diffusion(WeightedSum({"mse": 1.0}, mse=MSE("model")), schedule or Flow(), lambda num, generator: None)


def last(sampler, given=None, seeds=(3, 4), schedule=None) -> torch.Tensor:
    y = torch.zeros(len(seeds), dtype=torch.long)
    return list(sample_steps(Ideal(), diffusion(schedule), sampler, y, seeds, given=given))[-1].x_t


def some_images() -> torch.Tensor:
    return torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture
def best(diffusion_run) -> Path:
    return diffusion_run / "checkpoints" / "best.ckpt"


@pytest.fixture
def image(art_folder) -> Path:
    return sorted(art_folder.rglob("*.png"))[0]


@pytest.fixture
def mask(tmp_path) -> Path:
    """At 16 px its left upper quarter and two columns in the middle."""
    pixels = np.zeros((32, 32), np.uint8)
    pixels[:16, :16] = pixels[:, 14:18] = 255
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    return tmp_path / "mask.png"


def repainted() -> np.ndarray:
    wanted = np.zeros((32, 32), bool)
    wanted[:16, :16] = wanted[:, 14:18] = True
    return wanted


def found(path: str | Path) -> Path:
    """The file of that name, or of that number and any label."""
    path = Path(path)
    return path if path.exists() else next(path.parent.glob(f"{path.stem}_*{path.suffix}"))


def pixels(path: str | Path) -> np.ndarray:
    return np.asarray(Image.open(found(path)).convert("RGB")).astype(int)


def tile(sheet: np.ndarray, row: int, column: int, side: int = 16) -> np.ndarray:
    """An image of that side in a contact sheet that was written with resample=nearest."""
    top, left = 2 + (98 + 15) * row, 2 + 98 * column
    return sheet[top : top + 96, left : left + 96][:: 96 // side, :: 96 // side]


def settings_of(path: str | Path) -> dict[str, str]:
    """What an image says of how it was made."""
    with Image.open(found(path)) as image:
        packet = image.info.get("xmp") or image.text["XML:com.adobe.xmp"]
    text = packet if isinstance(packet, str) else packet.decode()
    described = re.search(r'x-default">(.*?)</rdf:li>', text, re.DOTALL)[1]
    return dict(part.split("=", 1) for part in described.split("; "))


def provenance_in(path: str | Path):
    with Image.open(found(path)) as image:
        image.load()
        return provenance_of(image)


def marked(path: Path, *terms: str) -> Path:
    """An image that says so of itself."""
    chunks = PngImagePlugin.PngInfo()
    chunks.add_itxt("XML:com.adobe.xmp", " ".join(f"http://x/{term}" if "DMI" in term else term for term in terms))
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.linear_gradient("L").resize((32, 32)).save(path, pnginfo=chunks)
    return path


# --- given images, without files


@pytest.mark.parametrize("strength", [0.01, 0.4, 0.8])
def test_an_image_is_mixed_with_the_noise_of_its_seed_and_refined(strength):
    """The way of Ideal is a circle's: its end is known."""
    x0, eps = some_images(), from_seeds((3, 4), (3, 8, 8), torch.device("cpu"))(0)
    wanted = ((1 - strength) * x0 + strength * eps) / math.hypot(1 - strength, strength)
    assert_close(last(Heun(60), Given(x0, (strength,))), wanted, rtol=0, atol=2e-3)


def test_hardly_any_noise_gives_the_image_back():
    for sampler in SAMPLERS:
        assert_close(last(sampler, Given(some_images(), (1e-3,))), some_images(), rtol=0, atol=5e-3)


@pytest.mark.parametrize("schedule", [Flow(), Cosine()], ids=["flow", "cosine"])
def test_at_strength_1_nothing_is_left_of_the_image(schedule):
    assert torch.equal(last(Heun(5), Given(some_images()), schedule=schedule), last(Heun(5), schedule=schedule))


@pytest.mark.parametrize("sampler", SAMPLERS, ids=["ddim", "ddpm", "dpmpp_2m", "heun", "unipc"])
def test_what_is_not_repainted_stays_in_every_sampler(sampler):
    x0, repaint = some_images(), torch.arange(8) < 5
    made = last(sampler, Given(x0, (1.0, 0.6), repaint))
    assert_close(made[..., 5:], x0[..., 5:], rtol=0, atol=1e-3)
    assert (made[..., :5] - x0[..., :5]).abs().mean() > 0.3


def test_each_round_has_noise_of_its_own_and_begins_with_what_the_one_before_made():
    x0, draw = some_images(), from_seeds((3, 4), (3, 8, 8), torch.device("cpu"))
    steps = list(
        sample_steps(Ideal(), diffusion(), Heun(60), torch.zeros(2).long(), (3, 4), given=Given(x0, (0.9, 0.4)))
    )
    assert len(steps) == 120
    wanted = (0.6 * steps[59].x_t + 0.4 * draw(61)) / math.hypot(0.6, 0.4)
    assert_close(steps[-1].x_t, wanted, rtol=0, atol=2e-3)


# --- between seeds, without files


def test_a_great_circle_keeps_length_and_divides_the_angle():
    a, b = nn.functional.normalize(from_seeds([0, 1], (50,), torch.device("cpu"))(0).double(), dim=1)
    angle = torch.acos(a @ b)
    for share in (0.0, 0.2, 0.5, 0.9, 1.0):
        between = slerp(a, b, share)
        assert float(between.norm()) == pytest.approx(1, abs=1e-9)
        assert float(torch.acos((between @ a).clamp(max=1))) == pytest.approx(share * float(angle), abs=1e-6)
    assert torch.equal(slerp(a, b, 0), a)
    assert torch.equal(slerp(a, b, 1), b)


def test_noise_between_seeds_is_as_strong_as_theirs_in_every_step():
    draw = from_seeds([Between(5, 6, 0.0), Between(5, 6, 0.5), Between(5, 6, 1.0)], (3, 40, 40), torch.device("cpu"))
    for i in (0, 1):
        five, middle, six = draw(i)
        assert torch.equal(torch.stack([five, six]), from_seeds([5, 6], (3, 40, 40), torch.device("cpu"))(i))
        assert float(middle.std()) == pytest.approx(1, abs=0.05)
        assert_close(middle, (five + six) / math.sqrt(2), rtol=0, atol=0.1)


def test_places_lie_at_even_distances_from_the_first_seed_to_the_last():
    assert list(places([8, 9], 3)) == [Between(8, 9, 0), Between(8, 9, 0.5), Between(8, 9, 1)]
    assert list(places([1, 2, 1], 5)) == [
        Between(1, 2, 0),
        Between(1, 2, 0.5),
        Between(2, 1, 0),
        Between(2, 1, 0.5),
        Between(2, 1, 1),
    ]
    assert [one.share for one in places([1, 2, 3], 4)] == pytest.approx([0, 2 / 3, 1 / 3, 1])


# --- mode=img2img


@pytest.mark.slow
def test_each_input_has_its_variations_beside_it_in_a_grid_about_square(generate, best, art_folder):
    same = ("mode=img2img", f"input={art_folder}", "num_images=2", FAST, "resample=nearest")
    assert generate(f"checkpoint={best}", *same, "out=made") == 0
    inputs = sorted(path for path in art_folder.rglob("*.*") if path.is_file())
    assert len(inputs) == 12
    assert len(list(Path("made").rglob("*.png"))) == 12 * 2 + 1
    sheet = pixels("made/grid.png")
    assert sheet.shape == (6 * 113 + 2, 2 * 3 * 98 + 2, 3)
    for number, path in enumerate(inputs):
        row, left = number // 2, 3 * (number % 2)
        stem = path.relative_to(art_folder).with_suffix("")
        made = [pixels(f"made/{stem}_0000{k}.png") for k in range(2)]
        assert (tile(sheet, row, left, 32) == np.asarray(decode(path))).all()
        assert (tile(sheet, row, left + 1, 32) == made[0]).all()
        assert (tile(sheet, row, left + 2, 32) == made[1]).all()
        assert (made[0] != made[1]).any()


@pytest.mark.slow
def test_variations_are_the_same_in_any_batch(generate, best, art_folder):
    for size in (1, 5):
        arguments = (
            "mode=img2img",
            f"input={art_folder}",
            "num_images=2",
            FAST,
            "resample=nearest",
            f"batch_size={size}",
            f"out={size}",
        )
        assert generate(f"checkpoint={best}", *arguments) == 0
    for path in Path("1").rglob("*.png"):
        assert np.abs(pixels(path) - pixels("5" / path.relative_to("1"))).max() <= 1  # a rounding


@pytest.mark.slow
def test_the_weaker_the_closer_and_at_strength_1_it_is_what_mode_sample_makes(generate, best, image):
    same = ("num_images=2", "seed=7", "label=painting", "batch_size=1", FAST)
    distances = []
    for strength in (0.01, 0.3, 1):
        arguments = ("mode=img2img", f"input={image}", f"strength={strength}", f"out={strength}", *same)
        assert generate(f"checkpoint={best}", *arguments) == 0
        distances.append(np.abs(pixels(f"{strength}/{image.stem}_00001.png") - np.asarray(decode(image))).mean())
    assert distances == sorted(distances)
    assert generate(f"checkpoint={best}", "out=sample", "scale=2", *same) == 0
    for k in range(2):
        assert (pixels(f"1/{image.stem}_0000{k}.png") == pixels(f"sample/0000{k}.png")).all()
    said = settings_of(f"0.3/{image.stem}_00001.png")
    assert said.items() >= {"mode": "img2img", "seed": "8", "strength": "0.3", "label": "painting"}.items()
    assert said["input"] == image.name


def test_without_a_label_none_is_asked_for(generate, best, image):
    assert generate(f"checkpoint={best}", "mode=img2img", f"input={image}", "num_images=1", FAST, "out=made") == 0
    said = settings_of(f"made/{image.stem}_00000.png")
    assert (said["label"], said["strength"]) == ("none", "0.5")


@pytest.mark.slow
def test_the_grid_is_not_larger_than_256_images(generate, best, art_folder, monkeypatch):
    monkeypatch.setattr("artart.io.contact_sheet.MAX_IN_SHEET", 7)
    assert generate(f"checkpoint={best}", "mode=img2img", f"input={art_folder}", "num_images=2", FAST, "out=made") == 0
    assert pixels("made/grid.png").shape == (2 * 113 + 2, 3 * 98 + 2, 3)


@pytest.mark.slow
def test_unusable_inputs_are_listed_and_nothing_is_overwritten(generate, best, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for name, level in (("a.png", 0), ("a.bmp", 255), ("a_00000.png", 128)):
        Image.new("RGB", (16, 16), (level,) * 3).save(tmp_path / "in" / name)
    (tmp_path / "in" / "broken.jpg").write_bytes(b"no image")
    arguments = (f"checkpoint={best}", "mode=img2img", "input=in", "num_images=1", FAST, "out=made")
    assert generate(*arguments) == 0
    assert "1 of 4 files cannot be used: see made/rejected.csv" in capsys.readouterr().out
    made = {path.name: path.read_bytes() for path in Path("made").glob("*.png")}
    assert sorted(made) == ["a_00000-2.png", "a_00000.png", "a_00000_00000.png", "grid.png"]
    assert generate(*arguments) == 0
    assert len(list(Path("made").glob("*.png"))) == 8
    assert all(Path("made", name).read_bytes() == content for name, content in made.items())


# --- mode=inpaint


@pytest.mark.parametrize(
    "sampler", ["ddim", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ddpm", "dpmpp_2m", "heun", "unipc"))]
)
def test_outside_of_the_mask_every_pixel_is_the_inputs(generate, best, image, mask, sampler):
    arguments = (f"input={image}", f"mask={mask}", f"sampler={sampler}", FAST, "num_images=3", "out=made")
    assert generate(f"checkpoint={best}", "mode=inpaint", "resample=nearest", *arguments) == 0
    given, made = pixels(image), [pixels(f"made/{image.stem}_0000{k}.png") for k in range(3)]
    for one in made:
        assert (one[~repainted()] == given[~repainted()]).all()
        assert np.abs(one[repainted()] - given[repainted()]).max() > 10
    assert settings_of(f"made/{image.stem}_00000.png")["strength"] == "1.0, 0.9, 0.7, 0.5"
    assert (made[0] != made[1]).any()
    sheet = pixels("made/grid.png")
    assert sheet.shape == (115, 5 * 98 + 2, 3)
    assert (tile(sheet, 0, 0, 32) == given).all()
    assert (tile(sheet, 0, 1, 32) == np.where(repainted()[..., None], 128, given)).all()
    for k in range(3):
        assert (tile(sheet, 0, 2 + k, 32) == made[k]).all()


@pytest.mark.slow
def test_what_a_sampler_leaves_elsewhere_is_not_shown(generate, best, image, mask, monkeypatch):
    def restless(*arguments, **options):
        for step in sample_steps(*arguments, **options):
            yield step._replace(x_t=step.x_t + 0.2)

    monkeypatch.setattr("artart.diffusion.sampling.sample_steps", restless)
    arguments = (f"input={image}", f"mask={mask}", FAST, "num_images=1", "out=made")
    assert generate(f"checkpoint={best}", "mode=inpaint", *arguments) == 0
    assert (pixels(f"made/{image.stem}_00000.png") == pixels(image))[~repainted()].all()


@pytest.mark.slow
def test_an_image_that_lies_in_out_may_be_named(generate, best, image, tmp_path):
    """But of a folder what an earlier call wrote below it is none of its images."""
    (tmp_path / "made").mkdir()
    shutil.copy(image, tmp_path / "made" / "one.png")
    arguments = ("mode=img2img", FAST, "num_images=1")
    assert generate(f"checkpoint={best}", f"input={tmp_path}/made/one.png", "out=made", *arguments) == 0
    assert {path.name for path in Path("made").iterdir()} == {"one.png", "one_00000.png", "grid.png"}
    assert generate(f"checkpoint={best}", f"input={image.parent}", f"out={image.parent}/made", *arguments) == 0
    num = len(list((image.parent / "made").rglob("*_00000.png")))
    assert generate(f"checkpoint={best}", f"input={image.parent}", f"out={image.parent}/made", *arguments) == 0
    assert len(list((image.parent / "made").rglob("*_00000-2.png"))) == num


def test_masked_leaves_nothing_of_what_the_mask_covers(image, mask, tmp_path):
    with Image.open(image) as opened:
        opened.paste("red", (0, 0, 12, 12))
        opened.save(tmp_path / "other.png")
    given = inputs_of([Image.open(image), Image.open(tmp_path / "other.png")], 16, "stretch")
    assert (given[0].x0 != given[1].x0).any()
    left = [masked(one, decode(mask), 16, "stretch")[0].x0 for one in given]
    assert torch.equal(*left)


def test_each_input_begins_with_the_same_seed(generate, best, image):
    Path("in").mkdir()
    for name in ("a", "b"):
        Path("in", f"{name}.png").write_bytes(image.read_bytes())
    arguments = ("mode=img2img", "input=in", "num_images=2", "seed=5", "batch_size=1", FAST, "out=made")
    assert generate(f"checkpoint={best}", *arguments) == 0
    for k in range(2):
        assert (pixels(f"made/a_0000{k}.png") == pixels(f"made/b_0000{k}.png")).all()


def test_a_mask_lies_where_the_image_lies_and_margins_stay(tmp_path):
    """A wide image, padded: the paper above and below it is not painted."""
    white = np.zeros((40, 80), np.uint8)
    white[:, :40], white[:, 40:] = 200, 100  # more than half of white, and less
    for name, shape in (("image.png", (80, 40)), ("mask.png", None)):
        (Image.new("RGB", shape) if shape else Image.fromarray(white)).save(tmp_path / name)
    (given,) = inputs_of(Image.open(tmp_path / "image.png"), 16, "pad")
    wanted = torch.zeros(1, 16, 16, dtype=torch.bool)
    wanted[:, 4:12, :8] = True
    assert torch.equal(masked(given, decode(tmp_path / "mask.png"), 16, "pad")[1], wanted)


@pytest.mark.parametrize("name", ["turned.jpg", "turned.tif"])
def test_a_mask_may_be_turned_like_its_image(tmp_path, name):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / name, exif=exif)
    Image.new("L", (20, 30), 255).save(tmp_path / "mask.png")
    _, (given,) = read_inputs(tmp_path / name, tmp_path / "out", 16, "stretch")
    assert masked(given, decode(tmp_path / "mask.png"), 16, "stretch")[1].all()


# --- mode=interpolate


@pytest.mark.parametrize("sampler", ["heun", pytest.param("ddpm", marks=pytest.mark.slow)])
def test_the_ends_of_the_way_are_what_mode_sample_makes(generate, best, sampler):
    same = (f"checkpoint={best}", f"sampler={sampler}", FAST, "batch_size=1", "label=drawing")
    assert generate("mode=interpolate", "seeds=[4,9]", "num_images=5", "out=way", *same) == 0
    for seed, frame in ((4, 0), (9, 4)):
        assert generate(f"seed={seed}", "num_images=1", f"out={seed}", *same) == 0
        assert (pixels(f"way/0000{frame}.png") == pixels(f"{seed}/00000.png")).all()
    frames = [pixels(f"way/0000{k}.png") for k in range(5)]
    jumps = [np.abs(one - other).mean() for one, other in pairwise(frames)]
    assert 0 < max(jumps) < np.abs(frames[0] - frames[4]).mean()
    assert sorted(path.name for path in Path("way").iterdir()) == [
        *[f"0000{k}.png" for k in range(5)],
        "strip.png",
        "trajectory.webp",
    ]


def test_the_strip_and_the_trajectory_show_the_images(generate, best):
    arguments = ("mode=interpolate", "seeds=[1,2,3]", "num_images=20", FAST, "resample=nearest", "out=made")
    assert generate(f"checkpoint={best}", *arguments) == 0
    strip = pixels("made/strip.png")
    assert strip.shape == (100, 16 * 98 + 2, 3)
    assert (tile(strip, 0, 0) == pixels("made/00000.png")).all()
    assert (tile(strip, 0, 15) == pixels("made/00019.png")).all()
    with Image.open("made/trajectory.webp") as trajectory:
        assert trajectory.n_frames == 20
        trajectory.seek(7)
        assert (np.asarray(trajectory.convert("RGB"))[::6, ::6] == pixels("made/00007.png")).all()
    assert (
        settings_of("made/trajectory.webp").items()
        >= {"mode": "interpolate", "seeds": "1-2-3", "label": "none"}.items()
    )
    assert settings_of("made/00007.png")["place"] == "7/19"
    assert (
        provenance_in("made/00007.png").source
        == provenance_in("made/trajectory.webp").source
        == "trainedAlgorithmicMedia"
    )


@pytest.mark.parametrize(("num", "wanted"), [(1000, 300), (300, 300), (5, 5)])
def test_an_animation_has_at_most_300_images_from_the_first_to_the_last(num, wanted):
    moments = sorted(_moments(num, MAX_IN_ANIMATION))
    assert len(moments) == wanted
    assert (moments[0], moments[-1]) == (0, num - 1)
    assert {other - one for one, other in pairwise(moments)} <= {num // wanted, num // wanted + 1}


# --- provenance


@pytest.mark.parametrize("mode", ["img2img", "inpaint"])
def test_what_an_input_says_of_itself_is_said_on(generate, best, tmp_path, mask, mode):
    source = marked(tmp_path / "in.png", OPT_OUT, "http://cv.iptc.org/newscodes/digitalsourcetype/digitalCreation")
    more = [f"mask={mask}"] * (mode == "inpaint")
    call = (f"checkpoint={best}", f"mode={mode}", f"input={source}", "num_images=1", FAST, "out=made", *more)
    assert generate(*call) == 0
    for name in ("in_00000.png", "grid.png"):
        assert provenance_in(f"made/{name}") == (OPT_OUT, "compositeWithTrainedAlgorithmicMedia")
        assert settings_of(f"made/{name}")["input_source"] == "digitalCreation"


def test_reconstructions_keep_what_their_inputs_say(generate, finished_run, tmp_path):
    best = finished_run / "checkpoints" / "best.ckpt"
    marked(tmp_path / "in/a.png", OPT_OUT, "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia")
    marked(tmp_path / "in/b.png")
    assert generate(f"checkpoint={best}", "input=in", "out=made") == 0
    assert provenance_in("made/a.png") == (OPT_OUT, "compositeWithTrainedAlgorithmicMedia")
    assert settings_of("made/a.png")["input_source"] == "trainedAlgorithmicMedia"
    assert provenance_in("made/b.png").opt_out == ""
    assert "input_source" not in settings_of("made/b.png")


def test_a_grid_of_several_inputs_keeps_the_widest_wish(tmp_path):
    def read(*terms):
        one = examine(marked(tmp_path / "one.png", *terms), 16)
        return Input(Path("one.png"), torch.tensor(one.pixels), one.facts, None)

    assert provenance_of_inputs([read(), read(OPT_OUT), read(OPT_OUT)], {}).opt_out == OPT_OUT
    assert provenance_of_inputs([read(OTHER), read(OPT_OUT)], {}).opt_out == "DMI-PROHIBITED"
    assert provenance_of_inputs([read()], {}).opt_out == ""


# --- mistakes


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["mode=img2img"], "input: needs a value: input=FILE_OR_FOLDER"),
        (["mode=img2img", "input=a.png", "label=paintings"], "label=paintings: no such class; did you mean painting?"),
        (["mode=img2img", "input=text.txt"], "nothing to work on (text.txt: not an image, or cut off in its header)"),
        (["mode=inpaint", "input=a.png"], "mask: needs a value: mask=FILE"),
        (["mode=inpaint", "mask=a.png"], "input: needs a value: input=FILE_OR_FOLDER"),
        (["mode=inpaint", "input=.", "mask=a.png"], "mode=inpaint takes one image, not a folder"),
        (["mode=inpaint", "input=a.png", "mask=b.png"], "b.png: has 32 x 16 pixels, the input 32 x 32; they must be"),
        (["mode=inpaint", "input=a.png", "mask=black.png"], "black.png: has no white pixels; white marks the area"),
        (["mode=inpaint", "input=a.png", "mask=text.txt"], "text.txt: cannot be used (not an image, or cut off in it"),
        (["mode=interpolate"], "seeds: needs a value: seeds=[1,2]"),
        (["mode=interpolate", "seeds=[1,2,3]", "num_images=2"], "num_images=2: fewer than the 3 seeds; ask for more"),
        (["mode=interpolate", "seeds=[1,2]", "label=all"], "label=all: mode=interpolate keeps to one label; choose a"),
    ],
)  # fmt: skip
def test_mistakes_are_reported_in_a_line_and_nothing_is_written(generate, best, tmp_path, capsys, arguments, sentence):
    for name, size, level in (("a.png", (32, 32), 255), ("b.png", (32, 16), 255), ("black.png", (32, 32), 0)):
        Image.new("L", size, level).save(tmp_path / name)
    (tmp_path / "text.txt").write_text("text")
    assert generate(f"checkpoint={best}", *arguments) == 2
    assert sentence in (error := capsys.readouterr().err)
    assert error.count("\n") == 1
    assert not Path("outputs").exists()


@pytest.mark.parametrize("mode", ["sample", "img2img", "inpaint", "interpolate"])
def test_a_network_that_reproduces_does_nothing_else(generate, finished_run, capsys, mode):
    best = finished_run / "checkpoints" / "best.ckpt"
    assert generate(f"checkpoint={best}", f"mode={mode}") == 2
    error = capsys.readouterr().err
    assert error == f"mode={mode}: {best} was not trained for that; it can do mode=reconstruct\n"
    assert not Path("outputs").exists()


def test_a_network_of_diffusion_says_what_it_can_do(generate, best, capsys):
    assert generate(f"checkpoint={best}", "mode=reconstruct", "input=.") == 2
    assert "it can do mode=sample, img2img, inpaint or interpolate\n" in capsys.readouterr().err


# --- sizes, and many images


@pytest.mark.slow
def test_outputs_have_the_size_of_their_input(generate, best, tmp_path, capsys):
    """A work of 384 x 304 pixels, at 16: what the mask leaves is untouched, what it covers is the network's."""
    rng = np.random.default_rng(0)
    work = Image.fromarray(rng.integers(0, 256, (304, 384, 3), dtype=np.uint8))
    white = np.zeros((304, 384), bool)
    white[100:200, 37:200] = True
    work.save(tmp_path / "work.png")
    Image.fromarray(white).save(tmp_path / "mask.png")
    same = (f"checkpoint={best}", "input=work.png", FAST, "num_images=1")
    assert generate(*same, "mode=inpaint", "mask=mask.png", "out=made") == 0
    assert "the network makes 16 x 16 pixels, which are scaled to the input's size" in capsys.readouterr().out
    made, given = pixels("made/work_00000.png"), np.asarray(work).astype(int)
    assert (made[~white] == given[~white]).all()
    across = np.abs(np.diff(made[101:199, 38:199], axis=1)).mean()  # each of its pixels is 24 wide
    assert across < 0.2 * np.abs(np.diff(given, axis=1)).mean()
    assert settings_of("made/work_00000.png")["network_size"] == "16 x 16"
    assert generate(*same, "mode=img2img", "scale=2", "label=painting", "out=made") == 0
    assert pixels("made/work_00000_painting.png").shape == (608, 768, 3)
    assert settings_of("made/work_00000_painting.png")["scale"] == "2"
    assert Image.open("made/grid-2.png").size == (2 * 98 + 2, 115)


def test_memory_does_not_grow_with_the_number_of_images(best):
    loaded, how, num, alive = load(best), Sampling(DDIM(1), Guidance(1.0), 2), 10**6, WeakSet()

    def inputs():
        while True:
            alive.add(x0 := torch.zeros(3, 16, 16))
            yield Input(Path("a.png"), x0, FileInfo(), None)

    tracemalloc.start()
    for plan in (
        plan_samples(loaded, how, Asked(num, label="all")),
        plan_interpolation(loaded, how, Asked(num), [1, 2]),
        plan_variations(loaded, how, Asked(1, label="all"), inputs(), num, (0.5,)),
    ):
        for _ in islice(make(loaded, plan), 8):
            assert len(alive) <= 5
    assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    tracemalloc.stop()
