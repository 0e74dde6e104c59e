import os
import pickle
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from artart import ArtError
from artart.io.weights import load, load_weights, shapes_in

WEIGHTS = {"encoder.weight": torch.arange(12.0).reshape(3, 4), "encoder.count": torch.tensor(7)}


class Bomb:
    """Unpickling this makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.folder),)


def one_line(error: pytest.ExceptionInfo[ArtError], path: Path) -> str:
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert len(message.splitlines()) == 1
    return message.removeprefix(f"{path}: ")


def test_plain_data_comes_back_as_it_was(tmp_path: Path) -> None:
    torch.save({"state_dict": WEIGHTS, "config": {"seed": 1, "name": "a"}, "epoch": 3}, tmp_path / "run.ckpt")
    content = load(tmp_path / "run.ckpt")
    assert content["config"] == {"seed": 1, "name": "a"}
    assert content["epoch"] == 3
    assert_close(content["state_dict"], WEIGHTS)


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize("read", [load, load_weights])
def test_a_pickle_bomb_does_not_go_off(read: Callable[[Path], object], new_format: bool, tmp_path: Path) -> None:
    path, harm = tmp_path / "bomb.pth", tmp_path / "harm"
    torch.save({"weight": torch.ones(2), "bomb": Bomb(harm)}, path, _use_new_zipfile_serialization=new_format)
    with pytest.raises(ArtError) as error:
        read(path)
    assert "holds Python objects" in one_line(error, path)
    assert not harm.exists()
    torch.load(path, weights_only=False)
    assert harm.exists()  # it was a live one


def test_a_bare_pickle_does_not_go_off(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    path, harm = tmp_path / "bomb.pth", tmp_path / "harm"
    path.write_bytes(pickle.dumps(Bomb(harm)))
    with pytest.raises(ArtError) as error:
        load(path)
    one_line(error, path)
    assert recwarn.list == []
    assert not harm.exists()


FOREIGN = {
    "empty": b"",
    "a line break": b"\n",
    "text": b"hello world, this is no weights file",
    "a web page": b"<!DOCTYPE html><html>404</html>",
    "zeros": bytes(1000),
    "a Git-LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_what_is_no_weights_file_is_refused_in_one_line(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(ArtError) as error:
        load_weights(path)
    assert re.search("(no|not a) weights file", one_line(error, path))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_missing_file_is_named(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    with pytest.raises(ArtError) as error:
        load_weights(path)
    assert one_line(error, path) == "no such file"


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_folder_is_no_weights_file(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    path.mkdir()
    with pytest.raises(ArtError) as error:
        load_weights(path)
    one_line(error, path)


WRITERS = {
    "weights.pth": torch.save,
    "old.pth": lambda weights, path: torch.save(weights, path, _use_new_zipfile_serialization=False),
    "weights.safetensors": save_file,
    "WEIGHTS.SafeTensors": save_file,
}


@pytest.mark.parametrize("name", WRITERS)
def test_named_tensors_come_back_as_they_were(name: str, tmp_path: Path) -> None:
    WRITERS[name](WEIGHTS, tmp_path / name)
    weights = load_weights(tmp_path / name)
    assert_close(weights, WEIGHTS, rtol=0, atol=0)


@pytest.mark.parametrize("name", WRITERS)
def test_a_cut_file_is_refused_in_one_line_wherever_it_is_cut(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    WRITERS[name](WEIGHTS, path)
    whole = path.read_bytes()
    for length in range(0, len(whole), len(whole) // 40):
        path.write_bytes(whole[:length])
        with pytest.raises(ArtError) as error:
            load_weights(path)
        one_line(error, path)


@pytest.mark.parametrize("name", WRITERS)
def test_a_flipped_bit_raises_nothing_but_one_line(name: str, tmp_path: Path) -> None:
    """Damage to the numbers themselves cannot be seen; the rest must not end in a trace."""
    path, draw, num_refused = tmp_path / name, random.Random(0), 0
    WRITERS[name](WEIGHTS, path)
    whole = path.read_bytes()
    for _ in range(60):
        damaged = bytearray(whole)
        damaged[draw.randrange(min(len(whole), 1000))] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        try:
            load_weights(path)
        except ArtError as error:
            num_refused += 1
            assert len(str(error).splitlines()) == 1
    assert num_refused > 5


@pytest.mark.parametrize(
    "content",
    [
        [torch.ones(2)],
        {"weight": torch.ones(2), "epoch": 3},
        {1: torch.ones(2)},
        torch.ones(2),
        {"deep": {"w": torch.ones(2)}},
    ],
    ids=["a list", "a number", "a name that is none", "a tensor", "nested"],
)
def test_anything_but_named_tensors_is_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(ArtError) as error:
        load_weights(tmp_path / "weights.pth")
    assert "not a state dict" in one_line(error, tmp_path / "weights.pth")


@pytest.mark.parametrize("name", WRITERS)
def test_shapes_in_a_file_are_those_of_its_tensors(name: str, tmp_path: Path) -> None:
    WRITERS[name](WEIGHTS, tmp_path / name)
    assert shapes_in(tmp_path / name) == {"encoder.weight": (3, 4), "encoder.count": ()}
    (tmp_path / name).write_bytes(b"abc")
    with pytest.raises(ArtError):
        shapes_in(tmp_path / name)
