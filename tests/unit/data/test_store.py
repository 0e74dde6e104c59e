import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from artart.data.store import Kind, Store, find, writing

SIZE = 8
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 3, SIZE, SIZE), np.uint8)
DIGESTS = [f"{0xABC0 + i:064x}" for i in range(5)]


def kind(size: int = SIZE, resize_mode: str = "stretch") -> Kind:
    return Kind(f"{size}-{resize_mode}", (3, size, size))


def write(folder: Path, *which: int, size: int = SIZE, resize_mode: str = "stretch") -> None:
    with writing(folder, kind(size, resize_mode)) as writer:
        for i in which:
            writer.add(DIGESTS[i], IMAGES[i, :, :size, :size])


def held(pixels: Store | None) -> dict[str, bytes]:
    assert pixels is not None
    return {digest: pixels.values[row].tobytes() for digest, row in pixels.rows.items()}


def expected(*which: int) -> dict[str, bytes]:
    return {DIGESTS[i]: IMAGES[i].tobytes() for i in which}


def content(folder: Path) -> dict[Path, bytes]:
    """Every file below a folder, hidden ones too."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- what is written is what is found


def test_what_is_written_is_found(tmp_path: Path) -> None:
    write(tmp_path, 3, 0, 4)
    pixels = find(tmp_path, kind())
    assert pixels is not None
    assert pixels.values.shape == (3, 3, SIZE, SIZE)
    assert pixels.rows == {DIGESTS[3]: 0, DIGESTS[0]: 1, DIGESTS[4]: 2}
    assert held(pixels) == expected(3, 0, 4)
    assert (tmp_path / kind().name / "values.bin").read_bytes() == IMAGES[[3, 0, 4]].tobytes()


def test_a_digest_is_kept_once_and_the_first_stays(tmp_path: Path) -> None:
    with writing(tmp_path, kind()) as writer:
        for i, image in [(0, 0), (1, 1), (0, 2), (2, 2), (1, 0)]:
            writer.add(DIGESTS[i], IMAGES[image])
    assert held(find(tmp_path, kind())) == expected(0, 1, 2)


def test_a_view_is_written_in_its_own_order(tmp_path: Path) -> None:
    """Decoded images are (S, S, 3), and are handed over as transposed views."""
    with writing(tmp_path, kind()) as writer:
        writer.add(DIGESTS[0], np.ascontiguousarray(IMAGES[0].transpose(1, 2, 0)).transpose(2, 0, 1))
    assert held(find(tmp_path, kind())) == expected(0)


def test_pixels_may_be_changed_in_memory_but_not_on_the_disk(tmp_path: Path) -> None:
    write(tmp_path, 0, 1)
    pixels = find(tmp_path, kind())
    assert pixels is not None
    pixels.values[:] = 7
    pixels.values.flush()
    assert held(find(tmp_path, kind())) == expected(0, 1)


def test_each_size_and_resize_mode_has_its_own(tmp_path: Path) -> None:
    write(tmp_path, 0)
    write(tmp_path, 1, resize_mode="pad")
    write(tmp_path, 2, size=4)
    assert held(find(tmp_path, kind())) == expected(0)
    assert held(find(tmp_path, kind(SIZE, "pad"))) == expected(1)
    assert held(find(tmp_path, kind(4, "stretch"))).keys() == {DIGESTS[2]}
    assert find(tmp_path, kind(SIZE, "center_crop")) is None
    assert len(list(tmp_path.iterdir())) == 3


def test_nothing_written_is_nothing_found(tmp_path: Path) -> None:
    assert find(tmp_path, kind()) is None
    write(tmp_path)
    assert find(tmp_path, kind()) is None
    write(tmp_path, 1)
    assert held(find(tmp_path, kind())) == expected(1)
    assert len(list(tmp_path.iterdir())) == 1


# --- damage


def damaged(file: Path, content: bytes) -> set[str]:
    """The digests that are found while a file has another content; what is found is right."""
    good = file.read_bytes()
    file.write_bytes(content)
    pixels = find(file.parent.parent, kind())
    file.write_bytes(good)
    found = held(pixels) if pixels else {}
    assert found.items() <= expected(0, 1, 2).items()
    return set(found)


@pytest.mark.parametrize("name", ["values.bin", "rows.bin"])
def test_a_flipped_bit_or_a_cut_loses_one_image(name: str, tmp_path: Path) -> None:
    write(tmp_path, 0, 1, 2)
    file = tmp_path / "8-stretch" / name
    good = file.read_bytes()
    row = len(good) // 3
    for place in (row, 2 * row - 1, row + 33):
        flipped = bytes([*good[:place], good[place] ^ 16, *good[place + 1 :]])
        assert damaged(file, flipped) == {DIGESTS[0], DIGESTS[2]}
    assert damaged(file, good[:-1]) == damaged(file, good[:-1] + b"?") == {DIGESTS[0], DIGESTS[1]}
    assert damaged(file, good + b"more") == set(DIGESTS[:3])
    assert damaged(file, b"") == damaged(file, bytes(len(good))) == set()


def test_what_is_damaged_is_added_again(tmp_path: Path) -> None:
    write(tmp_path, 0, 1)
    file = tmp_path / "8-stretch" / "values.bin"
    file.write_bytes(bytes(IMAGES[0].nbytes) + IMAGES[1].tobytes()[:-5])
    assert find(tmp_path, kind()) is None
    write(tmp_path, 0, 1)
    assert held(find(tmp_path, kind())) == expected(0, 1)


# --- it grows


def test_a_store_grows_and_stays_as_it_is_for_who_has_it_open(tmp_path: Path) -> None:
    write(tmp_path, 0, 1)
    before = find(tmp_path, kind())
    write(tmp_path, 2)
    assert held(before) == expected(0, 1)
    assert held(find(tmp_path, kind())) == expected(0, 1, 2)


def test_a_store_of_mostly_other_images_is_removed(tmp_path: Path) -> None:
    write(tmp_path, 0, 1, 2)
    before = find(tmp_path, kind(), max_rows=3)
    assert held(before) == expected(0, 1, 2)
    assert find(tmp_path, kind(), max_rows=2) is None
    assert list(tmp_path.iterdir()) == []
    assert held(before) == expected(0, 1, 2)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError("bad"), OSError(errno.EIO, "I/O error")])
def test_an_error_loses_nothing_that_was_added(error: BaseException, tmp_path: Path) -> None:
    write(tmp_path, 0)
    with pytest.raises(error if isinstance(error, type) else type(error)), writing(tmp_path, kind()) as writer:
        writer.add(DIGESTS[1], IMAGES[1])
        raise error
    assert held(find(tmp_path, kind())) == expected(0, 1)


@contextmanager
def room_for(num_bytes: int) -> Iterator[None]:
    """No file may become larger, as on a disk that is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_loses_nothing_and_is_named(tmp_path: Path) -> None:
    write(tmp_path, 0)
    with room_for(2 * IMAGES[0].nbytes), pytest.raises(OSError, match="File too large") as caught:
        write(tmp_path, 1, 2)
    assert caught.value.filename == str(tmp_path)
    assert held(find(tmp_path, kind())) == expected(0, 1)
    write(tmp_path, 2)
    assert held(find(tmp_path, kind())) == expected(0, 1, 2)


@pytest.mark.parametrize("name", ["values.bin", "rows.bin"])
def test_an_image_that_is_interrupted_leaves_nothing(name: str, tmp_path: Path) -> None:
    """As by a kill within a write."""
    write(tmp_path, 0)
    with (tmp_path / "8-stretch" / name).open("ab") as file:
        file.write(b"half")
    assert held(find(tmp_path, kind())) == expected(0)
    write(tmp_path, 1)
    assert held(find(tmp_path, kind())) == expected(0, 1)


def test_no_folder_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems cannot; checksums find what a power failure lost."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: pytest.fail("synced"))
    write(tmp_path, 0)
    assert held(find(tmp_path, kind())) == expected(0)
