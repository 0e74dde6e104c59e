"""The registry of generated images: what it finds again, and what it survives."""

import io
import json
import logging
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from artart import ArtError
from artart.data.perceptual_hash import LENGTH
from artart.generation.registry import Entries, Registry, _append, entries_of
from artart.io.provenance import ImageProvenance

MADE = ImageProvenance("trained", {"seed": 7, "label": "apple"})


def content_of(image: Image.Image, kind: str = "PNG", **options: int) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def works(art_files) -> list[Image.Image]:
    """Works of art at 128 px, without a second state of one of them."""
    files = [path for path in art_files if path.stem != "hyde_Bamboo_Gate"]
    return [Image.open(path).convert("RGB").resize((128, 128)) for path in files]


@pytest.fixture
def registry(tmp_path, works) -> Entries:
    """That of the first half of the works."""
    registry = Registry(tmp_path / "registry.jsonl")
    for k, image in enumerate(works[: len(works) // 2]):
        registry.add(Path(f"{k}.png"), content_of(image), ImageProvenance("trained", {"seed": k}))
    return Entries(registry.path)


def crop(image: Image.Image, *shares: float) -> Image.Image:
    """Without these shares of the left, top, right and bottom."""
    left, top, right, bottom = (round(share * 128) for share in shares)
    return image.crop((left, top, 128 - right, 128 - bottom))


CHANGES = {
    "jpeg": lambda image: content_of(image, "JPEG", quality=60),
    "webp": lambda image: content_of(image, "WEBP", quality=75),
    "half": lambda image: content_of(image.resize((64, 64))),
    "double": lambda image: content_of(image.resize((256, 256))),
    "mirrored": lambda image: content_of(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
    "cropped": lambda image: content_of(crop(image, 0.05, 0.05, 0.05, 0.05)),
    "corner": lambda image: content_of(crop(image, 0.05, 0.05, 0, 0)),
    "all": lambda image: content_of(crop(image, 0, 0.05, 0.025, 0.05).resize((64, 64)), "JPEG", quality=60),
}


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_entries_find_near_copies(registry, works, change):
    found = [registry.find(CHANGES[change](image)) for image in works[: len(works) // 2]]
    seeds = [match.entry["details"]["seed"] if match else None for match in found]
    assert np.mean([seed == k for k, seed in enumerate(seeds)]) >= 0.9
    assert all(match is None or not match.is_same for match in found)


@pytest.mark.slow
def test_entries_find_no_other_works(registry, works):
    assert [registry.find(content_of(image)) for image in works[len(works) // 2 :]] == [None] * (
        len(works) - len(works) // 2
    )


@pytest.mark.slow
def test_entries_do_not_find_what_lacks_a_tenth_of_each_side(registry, works):
    found = [registry.find(content_of(crop(image, 0.1, 0.1, 0.1, 0.1))) for image in works[: len(works) // 2]]
    assert sum(match is not None for match in found) <= 2


def test_entries_find_the_file_itself(registry, works):
    match = registry.find(content_of(works[3]))
    assert match.is_same
    assert match.entry["sha256"] == sha256(content_of(works[3])).hexdigest()
    assert (match.entry["file"], match.entry["details"]) == ("3.png", {"seed": 3})


def test_an_animation_is_found_byte_by_byte_alone(tmp_path):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    file = io.BytesIO()
    frames[0].save(file, "WEBP", save_all=True, append_images=frames[1:])
    registry = Registry(tmp_path / "registry.jsonl")
    registry.add(Path("a.webp"), file.getvalue(), MADE)
    entries = Entries(registry.path)
    assert entries.find(file.getvalue()).is_same
    assert entries.find(content_of(frames[0])) is None


def test_an_empty_registry_finds_nothing(tmp_path, works):
    (tmp_path / "registry.jsonl").touch()
    assert Entries(tmp_path / "registry.jsonl").find(content_of(works[0])) is None
    assert entries_of(str(tmp_path / "nothing.jsonl")) is None
    assert entries_of(None) is None


ADD = """
import sys
from pathlib import Path
from PIL import Image
from io import BytesIO
from artart.generation.registry import Registry
from artart.io.provenance import ImageProvenance
who, file = sys.argv[1], BytesIO()
Image.new("RGB", (8, 8)).save(file, "PNG")
registry = Registry(Path("registry.jsonl"))
print("ready", flush=True)
for k in range(int(sys.argv[2])):
    registry.add(Path(f"{who}-{k}.png"), file.getvalue(), ImageProvenance("trained", {"seed": k}))
"""


@pytest.mark.slow
def test_eight_processes_at_once_lose_nothing(tmp_path):
    command = [sys.executable, "-c", ADD]
    processes = [subprocess.Popen([*command, str(k), "50"], cwd=tmp_path) for k in range(8)]
    assert [process.wait() for process in processes] == [0] * 8
    entries = Entries(tmp_path / "registry.jsonl").entries
    assert sorted(entry["file"] for entry in entries) == sorted(f"{k}-{i}.png" for k in range(8) for i in range(50))


@pytest.mark.slow
def test_a_process_that_is_killed_loses_the_last_line_at_most(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ADD, "a", "100000"], cwd=tmp_path, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    path = tmp_path / "registry.jsonl"
    while not path.exists() or path.stat().st_size < 100_000:
        assert process.poll() is None
    process.kill()
    process.wait()
    Registry(path).add(Path("b.png"), content_of(Image.new("RGB", (8, 8))), MADE)
    names = [entry["file"] for entry in Entries(path).entries]
    assert names == [*(f"a-{k}.png" for k in range(len(names) - 1)), "b.png"]


def test_a_line_that_was_cut_is_ended_and_left_out(tmp_path, caplog):
    registry = Registry(tmp_path / "registry.jsonl")
    for name in ("a", "b"):
        registry.add(Path(name), content_of(Image.new("RGB", (8, 8))), MADE)
    whole = registry.path.read_bytes()
    registry.path.write_bytes(whole[:-30])
    _append(registry.path, whole.splitlines()[1])
    with caplog.at_level(logging.WARNING):
        entries = Entries(registry.path).entries
    assert [entry["file"] for entry in entries] == ["a", "b"]
    assert "1 of 3 lines are damaged and left out" in caplog.text


def test_blank_lines_are_not_damaged(tmp_path, caplog):
    registry = Registry(tmp_path / "registry.jsonl")
    registry.add(Path("a.png"), content_of(Image.new("RGB", (8, 8))), MADE)
    registry.path.write_bytes(b"\n" + registry.path.read_bytes() + b"\n  \n")
    assert len(Entries(registry.path).entries) == 1
    assert not caplog.records


@pytest.mark.parametrize("line", ["[]", "null", '{"sha256": "a"}', "7", json.dumps({"sha256": 1, "fingerprint": 2})])
def test_lines_of_something_else_are_left_out(tmp_path, line):
    (tmp_path / "registry.jsonl").write_text(f"{line}\n\n")
    assert Entries(tmp_path / "registry.jsonl").entries == []


@pytest.mark.parametrize(
    "damage",
    [
        {"fingerprint": 5},
        {"fingerprint": None},
        {"fingerprint": ["8"] * LENGTH},
        {"fingerprint": "8" * (LENGTH - 1)},
        {"fingerprint": "\u00e9" * LENGTH},
        {"sha256": ["a"]},
        "nested",
    ],
    ids=str,
)
def test_lines_with_values_of_other_types_are_left_out(tmp_path, works, damage):
    registry = Registry(tmp_path / "registry.jsonl")
    registry.add(Path("a.png"), content_of(works[0]), MADE)
    line = "[" * 100_000 if damage == "nested" else json.dumps(json.loads(registry.path.read_text()) | damage)
    registry.path.write_text(f"{line}\n{registry.path.read_text()}")
    entries = Entries(registry.path)
    assert len(entries.entries) == 1
    assert entries.find(content_of(works[0], "JPEG", quality=60)).entry["file"] == "a.png"


def test_a_registry_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(ArtError, match=r"^registry=.*folder: cannot be written; name another file, or "):
        Registry(tmp_path / "folder")
