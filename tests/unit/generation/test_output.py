"""Files of images, and their names."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from artart.diffusion.guidance import NO_GUIDANCE
from artart.generation.labels import label_in_name
from artart.generation.output import Output
from artart.generation.plan import ONE_STEP, Item, Sampling
from artart.io.images import to_model, to_pixels
from artart.io.provenance import ImageProvenance


def noise(height: int, width: int) -> torch.Tensor:
    return torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def test_save_item_enlarges_by_squares_or_smoothly_and_says_so(tmp_path):
    pixels, made = noise(5, 7), {}
    for resample in ("nearest", "lanczos"):
        item = Item(Path(f"{resample}.png"), ImageProvenance("trained", {"seed": 1}))
        path, _ = Output(tmp_path, 4, resample).save_item(item, to_model(pixels))
        with Image.open(path) as image:
            assert f"seed=1; scale=4; resample={resample}<" in image.text["XML:com.adobe.xmp"]
            made[resample] = torch.tensor(np.array(image)).permute(2, 0, 1)
    assert torch.equal(made["nearest"], pixels.repeat_interleave(4, 1).repeat_interleave(4, 2))
    assert made["lanczos"].shape == (3, 20, 28)
    assert not torch.equal(made["lanczos"], made["nearest"])


def test_an_image_of_a_gan_without_a_limit_is_not_the_one_with_it(tmp_path):
    out, limits = Output(tmp_path), {"refuse_memorized": True}
    free, limited = (
        Item(Path("a.png"), ImageProvenance("trained", Sampling(ONE_STEP, NO_GUIDANCE, 1, of).details))
        for of in ({}, limits)
    )
    assert free.provenance.details == {}
    assert limited.provenance.details == limits
    out.save_item(free, to_model(noise(4, 4)))
    assert [out.is_there(item) for item in (free, limited)] == [True, False]


def test_a_file_is_registered_before_it_is_there(tmp_path):
    """So a process that is killed leaves no file that the same command takes as there and nobody registered."""
    (tmp_path / "a.png").touch()
    registered = []

    def on_file(path, content, provenance):
        registered.append(path)
        if len(registered) == 2:
            raise KeyboardInterrupt

    out, made = Output(tmp_path, on_file=on_file), ImageProvenance("trained", {})
    assert out.save(noise(4, 4), "a.png", made) == tmp_path / "a-2.png"
    with pytest.raises(KeyboardInterrupt):
        out.save(noise(4, 4), "b.png", made)
    assert registered == [tmp_path / "a-2.png", tmp_path / "b.png"]
    assert not (tmp_path / "b.png").exists()


# --- written in a thread


def items(num: int) -> Iterator[tuple[Item, torch.Tensor]]:
    for k in range(num):
        yield Item(Path(f"{k}.png"), ImageProvenance("trained", {"seed": k})), torch.full((3, 4, 4), k / num)


def test_save_items_writes_in_order_while_a_few_others_are_made(tmp_path):
    gate, numbers, made = threading.Event(), [], []

    def on_image(path, *_):
        assert gate.wait(10)  # a slow disk
        numbers.append(int(path.stem))

    def noting():
        for item, image in items(9):
            made.append(item.name)
            if len(made) == 5:  # four wait for the first file
                gate.set()
            yield item, image

    for k, (item, image, path, pixels) in enumerate(Output(tmp_path, on_image=on_image).save_items(noting(), 4)):
        assert (item.name.name, path.name) == (f"{k}.png", f"{k}.png")
        assert torch.equal(pixels, to_pixels(image))
        assert len(made) <= k + 5
    assert numbers == [*range(9)]


def test_an_error_in_the_thread_is_raised_and_what_waits_is_left_out(tmp_path):
    def on_image(path, *_):
        if path.stem == "2":
            raise OSError(28, "No space left on device", str(path))

    before, saved = threading.active_count(), Output(tmp_path, on_image=on_image).save_items(items(50), 8)
    with pytest.raises(OSError, match=r"No space left on device: .*2\.png"):
        list(saved)
    assert len(list(tmp_path.iterdir())) < 14
    assert threading.active_count() == before


def test_ctrl_c_leaves_whole_files_alone(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        for item, *_ in Output(tmp_path).save_items(items(50), 8):
            if item.name.stem == "3":
                raise KeyboardInterrupt
    for path in tmp_path.iterdir():
        assert path.suffix == ".png"
        Image.open(path).load()
    assert 4 <= len(list(tmp_path.iterdir())) < 14


@pytest.mark.parametrize(
    ("labels", "wanted"),
    [((0, 2), "_oil"), ((1, 0), "_a-b-c_Hélène-O-Hara"), ((2, 2), ""), ((2, 1), "_" + 40 * "x")],
)
def test_a_label_in_a_name_has_no_character_that_a_file_system_refuses(labels, wanted):
    assert label_in_name(labels, {"class": ["oil", "a/b: c"], "artist": ["Hélène, O'Hara", 99 * "x"]}) == wanted
