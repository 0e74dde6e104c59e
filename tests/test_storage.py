import hashlib
import json
import os
import pickle
import random
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from artart import ArtError
from artart.storage import atomic, free, is_writable, load, load_weights, sha256, write_json

WEIGHTS = {"encoder.weight": torch.arange(12.0).reshape(3, 4), "encoder.count": torch.tensor(7)}


class Bomb:
    """Unpickling this makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.fixture
def umask() -> Iterator[Callable[[int], int]]:
    before = os.umask(0)
    os.umask(before)
    yield os.umask
    os.umask(before)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def one_line(error: pytest.ExceptionInfo[ArtError], path: Path) -> str:
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert len(message.splitlines()) == 1
    return message.removeprefix(f"{path}: ")


# --- atomic


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "file.bin"
    with atomic(path) as file:
        file.write(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole"
    assert names_in(path.parent) == ["file.bin"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
def test_an_exception_leaves_the_old_file_and_no_rubbish(error: type[BaseException], tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    with pytest.raises(error), atomic(path) as file:
        file.write(b"half")
        raise error
    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == ["file.bin"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failing_disk_leaves_the_old_file_and_no_rubbish(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    monkeypatch.setattr(*((os, "fsync") if step == "fsync" else (Path, "replace")), full)
    with pytest.raises(OSError, match="No space left"), atomic(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == ["file.bin"]


def test_the_content_is_on_the_disk_before_it_takes_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, sizes = tmp_path / "file.bin", []
    monkeypatch.setattr(os, "fsync", lambda descriptor: sizes.append((os.fstat(descriptor).st_size, path.exists())))
    with atomic(path) as file:
        file.write(b"12345")
    assert sizes == [(5, False)]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_new_file_has_the_permissions_of_the_umask(
    mask: int, mode: int, umask: Callable[[int], int], tmp_path: Path
) -> None:
    umask(mask)
    with atomic(tmp_path / "file.bin"):
        pass
    assert stat.S_IMODE((tmp_path / "file.bin").stat().st_mode) == mode


def test_a_name_may_be_as_long_as_names_can_be(tmp_path: Path) -> None:
    name = "é" * 125 + ".png"
    with atomic(tmp_path / name):
        pass
    assert names_in(tmp_path) == [name]


def test_a_folder_of_that_name_is_no_place_for_a_file(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="directory"), atomic(tmp_path / "taken"):
        pass
    assert names_in(tmp_path) == ["taken"]


def test_json_comes_back_as_it_was(tmp_path: Path) -> None:
    content = {"name": "César", "numbers": [1, 2.5, None], "deep": {"yes": True}}
    write_json(tmp_path / "deep" / "file.json", content)
    text = (tmp_path / "deep" / "file.json").read_text()
    assert json.loads(text) == content
    assert text.endswith("}\n")


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "file.json", {"old": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "file.json", {"path": tmp_path})
    assert json.loads((tmp_path / "file.json").read_text()) == {"old": 1}
    assert names_in(tmp_path) == ["file.json"]


@pytest.mark.parametrize(
    ("content", "digest"),
    [
        (b"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        (b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),  # FIPS 180-2, B.1
    ],
)
def test_sha256_is_that_of_the_standard(content: bytes, digest: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    assert sha256(tmp_path / "file") == digest


def test_sha256_reads_a_file_of_many_blocks(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(content)
    assert sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()


# --- load


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


def test_a_free_name_is_the_path_or_has_a_number_before_its_suffix(tmp_path: Path) -> None:
    path = tmp_path / "a.b.png"
    for name in ("a.b.png", "a.b-2.png", "a.b-3.png"):
        assert free(path) == tmp_path / name
        free(path).touch()
    assert free(tmp_path / "no folder yet" / "a.png").name == "a.png"


def test_asking_whether_a_folder_can_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "there").mkdir()
    assert is_writable(tmp_path / "new" / "folder")
    assert is_writable(tmp_path / "there")
    assert not is_writable(tmp_path / "file" / "sub")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "there"]
