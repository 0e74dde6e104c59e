"""Images from memory are preprocessed as files are."""

import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from artart import ArtError
from artart.data.scan import examine
from artart.generation.img2img import masked
from artart.generation.inputs import inputs_of, provenance_of_inputs, read_inputs
from artart.io.images import to_model


@pytest.mark.parametrize("resize_mode", ["stretch", "center_crop", "pad"])
def test_inputs_of_preprocesses_an_opened_image_like_its_file(odd_files, resize_mode):
    usable = [path for path in sorted(odd_files.iterdir()) if examine(path, 16).pixels is not None]
    assert len(usable) == 12
    for path in usable:
        with Image.open(path) as image:
            (given,) = inputs_of(image, 16, resize_mode)
        wanted = to_model(torch.tensor(examine(path, 16, resize_mode).pixels).permute(2, 0, 1))
        assert_close(given.x0, wanted, rtol=0, atol=0)
        assert given.name.name == path.name


def test_inputs_of_turns_an_image_and_leaves_it_as_it_was(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.linear_gradient("L").convert("RGB").resize((30, 20)).save(tmp_path / "turned.jpg", exif=exif)
    with Image.open(tmp_path / "turned.jpg") as image:
        before = np.asarray(image)
        (given,) = inputs_of(image, 16, "stretch")
        assert (given.facts.width, given.facts.height) == (20, 30)
        assert image.size == (30, 20)
        assert image.getexif()[0x0112] == 6
        assert (np.asarray(image) == before).all()
    wanted = to_model(torch.tensor(examine(tmp_path / "turned.jpg", 16).pixels).permute(2, 0, 1))
    assert_close(given.x0, wanted, rtol=0, atol=0)


def test_outputs_keep_the_opt_out_of_a_gif(tmp_path):
    path = tmp_path / "in" / "a.gif"
    path.parent.mkdir()
    Image.linear_gradient("L").resize((32, 32)).save(path)
    extension = b"\x21\xff\x0bXMP DataXMP" + b"<x>DMI-PROHIBITED-AIMLTRAINING</x>" + b"\1" + bytes(range(255, -1, -1))
    path.write_bytes(path.read_bytes()[:-1] + extension + b"\0;")
    with Image.open(path) as image:
        given = inputs_of(image, 16, "stretch")
    _, read = read_inputs(path.parent, tmp_path / "out", 16, "stretch")
    for inputs in (given, list(read)):
        assert provenance_of_inputs(inputs, {}).opt_out == "DMI-PROHIBITED-AIMLTRAINING"


def test_read_inputs_names_kinds_that_are_not_read(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.heic").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(ArtError, match=r"nothing to work on \(a\.heic: HEIC \(pip install 'artart\[formats\]'"):
        list(read_inputs(tmp_path / "in", tmp_path / "out", 16, "stretch")[1])


def test_inputs_of_takes_tensors_and_sequences():
    image, tensor = Image.new("RGB", (4, 4), "red"), torch.rand(2, 3, 16, 16) * 2 - 1
    inputs = inputs_of([image, tensor[0], tensor], 16, "stretch")
    assert_close(torch.stack([one.x0 for one in inputs[1:]]), tensor[[0, 0, 1]], rtol=0, atol=0)
    assert_close(inputs[0].x0[:, 0, 0], torch.tensor([1.0, -1, -1]))


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (torch.zeros(3, 8, 8), "torch.float32 and shape (3, 8, 8); give PIL images, or floats of shape"),
        (torch.zeros(1, 16, 16), "shape (1, 16, 16)"),
        (torch.zeros(3, 16, 16, dtype=torch.uint8), "torch.uint8"),
        (torch.full((3, 16, 16), 255.0), "image: a tensor with values outside of [-1, 1]"),
        (torch.full((3, 16, 16), torch.nan), "image: a tensor with values outside of [-1, 1]"),
        ([], "image: is empty"),
        (torch.zeros(0, 3, 16, 16), "image: is empty"),
        ("art.png", "image: str; give PIL images, such as PIL.Image.open(path), or tensors"),
        (None, "image: NoneType; give PIL images"),
    ],
)
def test_inputs_of_reports_what_it_cannot_use(images, sentence):
    with pytest.raises(ArtError, match=re.escape(sentence)):
        inputs_of(images, 16, "stretch")


def test_inputs_of_reports_a_damaged_image(tmp_path):
    Image.effect_noise((64, 64), 50).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:-2000])
    with Image.open(tmp_path / "cut.png") as image, pytest.raises(ArtError, match="image: cannot be decoded"):
        inputs_of(image, 16, "stretch")


def test_masked_gives_the_same_for_images_and_tensors():
    (given,) = inputs_of(Image.new("RGB", (16, 16)), 16, "stretch")
    white = torch.zeros(16, 16, dtype=torch.bool)
    white[:5, 3:] = True
    masks = [Image.fromarray(white.numpy()), white, white[None], white.float() * 2 - 1, white.expand(3, -1, -1)]
    for mask in masks:
        found, repaint = masked(given, mask, 16, "stretch")
        assert torch.equal(repaint, white[None])
        assert (np.asarray(found.original.mask) == 255 * white.numpy()).all()


@pytest.mark.parametrize(
    ("mask", "sentence"),
    [
        (Image.new("L", (8, 8), 255), "mask: has 8 x 8 pixels, the input 16 x 16; they must be the same"),
        (torch.ones(8, 8), "mask: has the shape (8, 8); give a PIL image or (1, 16, 16)"),
        (torch.ones(2, 16, 16), "mask: has the shape (2, 16, 16)"),
        (Image.new("L", (16, 16)), "mask: has no white pixels; white marks the area to repaint"),
        (torch.zeros(16, 16), "mask: has no white pixels"),
    ],
)
def test_masked_reports_what_does_not_fit(mask, sentence):
    (given,) = inputs_of(Image.new("RGB", (16, 16)), 16, "stretch")
    with pytest.raises(ArtError, match=re.escape(sentence)):
        masked(given, mask, 16, "stretch")
