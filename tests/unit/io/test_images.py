import io
import struct
from pathlib import Path

import numpy as np
import torch
from numpy.testing import assert_array_equal
from PIL import Image
from torch.testing import assert_close

from artart.io.images import encode_animation, grid, save, to_model, to_pixels
from artart.io.provenance import ImageProvenance, provenance_of, xmp

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def png_chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    chunks, position = [], len(PNG_SIGNATURE)
    while position < len(content):
        (length,) = struct.unpack(">I", content[position : position + 4])
        chunks.append((content[position + 4 : position + 8], content[position + 8 : position + 8 + length]))
        position += length + 12
    return chunks


# --- value ranges


def test_all_256_values_survive_the_round_trip() -> None:
    pixels = torch.arange(256, dtype=torch.uint8)
    assert_close(to_pixels(to_model(pixels)), pixels, rtol=0, atol=0)


def test_the_ends_of_the_ranges_meet() -> None:
    assert_close(to_model(torch.tensor([0, 255], dtype=torch.uint8)), torch.tensor([-1.0, 1.0]), rtol=0, atol=0)


def test_what_lies_outside_the_range_is_clamped() -> None:
    images = torch.tensor([-torch.inf, -1.5, -1.0, 0.0, 1.0, 3.0, torch.inf])
    assert to_pixels(images).tolist() == [0, 0, 0, 128, 255, 255, 255]


def test_half_precision_becomes_pixels_too() -> None:
    pixels = torch.arange(256, dtype=torch.uint8)
    assert_close(to_pixels(to_model(pixels).half()), pixels, rtol=0, atol=0)


# --- grids


def test_grid_puts_each_row_in_a_row_on_white() -> None:
    levels = torch.tensor([[10, 20, 30], [110, 120, 130]], dtype=torch.uint8)
    sheet = grid([to_model(row).view(3, 1, 1, 1).expand(3, 3, 4, 6) for row in levels])
    expected = torch.full((3, 2 + 2 * (4 + 2), 2 + 3 * (6 + 2)), 255, dtype=torch.uint8)
    for row in range(2):
        for column in range(3):
            y, x = 2 + row * 6, 2 + column * 8
            expected[:, y : y + 4, x : x + 6] = levels[row, column]
    assert_close(sheet, expected, rtol=0, atol=0)


# --- saving


def image_of() -> torch.Tensor:
    return torch.arange(3 * 16 * 24).view(3, 16, 24).to(torch.uint8)


def test_a_saved_png_holds_the_pixels(tmp_path: Path) -> None:
    save(image_of(), tmp_path / "deep" / "image.png", ImageProvenance("trained", {}))
    with Image.open(tmp_path / "deep" / "image.png") as stored:
        assert stored.format == "PNG"
        assert_array_equal(np.asarray(stored), image_of().permute(1, 2, 0).numpy())


def test_a_saved_png_carries_its_marks_where_xmp_looks_for_them(tmp_path: Path) -> None:
    """XMP part 3 asks for one iTXt chunk, uncompressed and of no language."""
    provenance = ImageProvenance("composite", {"input": "北斎.jpg", "seed": 7})
    save(image_of(), tmp_path / "image.png", provenance)
    packets = [data for kind, data in png_chunks((tmp_path / "image.png").read_bytes()) if kind == b"iTXt"]
    assert packets == [b"XML:com.adobe.xmp" + bytes(5) + xmp(provenance).encode()]


# --- trajectories


def test_a_trajectory_has_each_frame_to_the_last_grey_level_and_lingers_at_the_end() -> None:
    generator = torch.Generator().manual_seed(0)
    frames = [torch.randint(0, 256, (3, 12, 20), generator=generator, dtype=torch.uint8) for _ in range(4)]
    content = encode_animation(frames, ImageProvenance("trained", {"seed": 7}))
    with Image.open(io.BytesIO(content)) as trajectory:
        assert trajectory.n_frames == 4
        durations = []
        for k, frame in enumerate(frames):
            trajectory.seek(k)
            trajectory.load()
            durations.append(trajectory.info["duration"])
            assert_array_equal(np.asarray(trajectory.convert("RGB")), frame.permute(1, 2, 0).numpy())
        assert durations == [100, 100, 100, 2000]
        assert provenance_of(trajectory).source == "trainedAlgorithmicMedia"
        assert b"seed=7" in trajectory.info["xmp"]


def test_a_trajectory_of_one_frame_is_an_image() -> None:
    content = encode_animation([torch.full((3, 4, 4), 9, dtype=torch.uint8)], ImageProvenance("trained", {}))
    assert (np.asarray(Image.open(io.BytesIO(content)).convert("RGB")) == 9).all()
