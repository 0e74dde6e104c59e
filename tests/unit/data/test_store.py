import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from artart.data import store
from artart.data.store import Kind, Store, clean, find, writing

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
    assert (pixels.folder / "values.bin").read_bytes() == IMAGES[[3, 0, 4]].tobytes()


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


def assert_none_if(file: Path, contents: list[bytes], folder: Path) -> None:
    good = file.read_bytes()
    for bad in contents:
        file.write_bytes(bad)
        assert find(folder, kind()) is None, bad[:40]
    file.unlink()
    assert find(folder, kind()) is None
    file.write_bytes(good)
    assert held(find(folder, kind())) == expected(0, 1)


def test_pixels_that_are_cut_or_too_long_are_no_store(tmp_path: Path) -> None:
    write(tmp_path, 0, 1)
    (file,) = tmp_path.rglob("values.bin")
    good = file.read_bytes()
    row = good[: len(good) // 2]
    assert_none_if(file, [b"", good[:1], row, good[:-1], good + b"0", good + row], tmp_path)


def test_damaged_digests_are_no_store(tmp_path: Path) -> None:
    """Beside what is cut: bytes that end np.load in a TokenError, SyntaxError, TypeError and BadZipFile."""
    write(tmp_path, 0, 1)
    (file,) = tmp_path.rglob("digests.npy")
    good = file.read_bytes()
    flipped = [good[:i] + byte + good[i + 1 :] for i, byte in [(8, b"\1"), (21, b","), (26, b"B")]]
    cut = [b"", good[:1], good[:100], good[:-1]]
    assert_none_if(file, [*cut, *flipped, bytes(len(good)), b"PK\3\4" + good], tmp_path)


def test_a_damaged_store_is_replaced(tmp_path: Path) -> None:
    write(tmp_path, 0, 1)
    (file,) = tmp_path.rglob("digests.npy")
    file.write_bytes(b"")
    write(tmp_path, 2)
    assert held(find(tmp_path, kind())) == expected(2)
    assert len(list(tmp_path.iterdir())) == 1


def test_the_newest_whole_one_wins(tmp_path: Path) -> None:
    """A process that is killed between publishing and removing leaves two."""
    (tmp_path / "elsewhere").mkdir()
    for i, age in [(0, 30), (1, 10), (2, 20)]:
        write(tmp_path / "elsewhere", i)
        (folder,) = (tmp_path / "elsewhere").iterdir()
        os.utime(folder, (1_700_000_000 - age,) * 2)
        folder.rename(tmp_path / folder.name)
    (tmp_path / "elsewhere").rmdir()
    assert held(find(tmp_path, kind())) == expected(1)
    newest = find(tmp_path, kind())
    assert newest is not None
    (newest.folder / "values.bin").write_bytes(b"cut")
    assert held(find(tmp_path, kind())) == expected(2)
    write(tmp_path, 3)
    assert held(find(tmp_path, kind())) == expected(3)
    assert len(list(tmp_path.iterdir())) == 1


# --- a new one takes the place of the one before


def test_the_old_store_stays_readable_for_whoever_has_it_open(tmp_path: Path) -> None:
    write(tmp_path, 0, 1)
    before = find(tmp_path, kind())
    with writing(tmp_path, kind()) as writer:
        writer.add(DIGESTS[2], IMAGES[2])
        assert held(find(tmp_path, kind())) == expected(0, 1)  # nothing is to be seen until all is written
    assert before is not None
    assert not before.folder.exists()
    assert held(before) == expected(0, 1)
    assert held(find(tmp_path, kind())) == expected(2)


def test_a_store_that_cannot_be_removed_stands_in_nobodys_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On NFS a file that is mapped becomes a hidden one, and its folder cannot be removed."""
    write(tmp_path, 0, 1)
    (before,) = tmp_path.iterdir()
    with monkeypatch.context() as patch:
        rmdir = os.rmdir

        def refuse(path: str | Path, **options: int) -> None:
            if Path(path).name == before.name:
                raise OSError(errno.ENOTEMPTY, "Directory not empty", str(path))
            rmdir(path, **options)

        patch.setattr(os, "rmdir", refuse)
        write(tmp_path, 1, 2)
    assert before.is_dir()
    assert held(find(tmp_path, kind())) == expected(1, 2)
    write(tmp_path, 3)
    assert held(find(tmp_path, kind())) == expected(3)
    assert not before.exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError("bad"), OSError(errno.EIO, "I/O error")])
@pytest.mark.parametrize("after", [(), (0,)])
def test_an_error_changes_nothing(error: BaseException, after: tuple[int, ...], tmp_path: Path) -> None:
    if after:
        write(tmp_path, *after)
    before = content(tmp_path)
    with pytest.raises(error if isinstance(error, type) else type(error)), writing(tmp_path, kind()) as writer:
        writer.add(DIGESTS[1], IMAGES[1])
        raise error
    assert content(tmp_path) == before
    assert len(list(tmp_path.iterdir())) == len(after)


@contextmanager
def room_for(num_bytes: int) -> Iterator[None]:
    """No file may become larger, as on a disk that is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_changes_nothing_and_is_named(tmp_path: Path) -> None:
    write(tmp_path, 0, 1)
    before = content(tmp_path)
    with room_for(2 * IMAGES[0].nbytes), pytest.raises(OSError, match="File too large") as caught:
        write(tmp_path, 0, 1, 2)
    assert caught.value.filename == str(tmp_path)
    assert content(tmp_path) == before
    assert len(list(tmp_path.iterdir())) == 1
    write(tmp_path, 0, 1, 2)
    assert held(find(tmp_path, kind())) == expected(0, 1, 2)


@pytest.mark.parametrize("written", [0, 1, 50, 3 * SIZE**2])
def test_an_image_that_is_interrupted_leaves_nothing(written: int, tmp_path: Path) -> None:
    class Interrupted:
        """A file of which Ctrl-C cuts a write."""

        def write(self, data: bytes) -> None:
            file.write(data[:written])
            raise KeyboardInterrupt

        def seek(self, position: int) -> None:
            file.seek(position)

    with writing(tmp_path, kind()) as writer:
        writer.add(DIGESTS[0], IMAGES[0])
        file = writer.file
        writer.file = Interrupted()  # type: ignore[assignment]
        with pytest.raises(KeyboardInterrupt):
            writer.add(DIGESTS[1], IMAGES[1])
        writer.file = file
        if written > 1:
            writer.add(DIGESTS[2], IMAGES[2])
    assert held(find(tmp_path, kind())) == (expected(0, 2) if written > 1 else expected(0))


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    write(tmp_path, 0)
    (tmp_path / "index.csv").write_text("path")
    before = content(tmp_path)
    part = tmp_path / ".0123abcd.part"
    part.mkdir()
    (part / "values.bin").write_bytes(bytes(100))
    (tmp_path / ".index.csv.0123abcd.part").write_bytes(b"pa")
    clean(tmp_path)
    assert content(tmp_path) == before
    assert not part.exists()


def test_a_store_is_on_the_disk_before_it_is_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def record(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    def publish(path: Path, target: Path) -> Path:
        synced.append("rename")
        return rename(path, target)

    monkeypatch.setattr(store.os, "fsync", record)
    monkeypatch.setattr(Path, "rename", publish)
    write(tmp_path, 0)
    part = synced[2]
    assert part.endswith(".part")
    assert synced == ["values.bin", "digests.npy", part, "rename", tmp_path.name]


def test_a_store_says_which_is_damaged(tmp_path: Path) -> None:
    write(tmp_path, 0)
    (folder,) = tmp_path.iterdir()
    assert_array_equal(Store(folder, kind()).values, IMAGES[:1])
    with pytest.raises(ValueError, match=f"{folder}: damaged"):
        Store(folder, kind(SIZE + 1))


def test_folders_are_not_synced_where_the_system_cannot_open_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows."""
    open_file = os.open

    def open_no_folder(path: Path | str, *others: int) -> int:
        if Path(path).is_dir():
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return open_file(path, *others)

    monkeypatch.setattr(store.os, "open", open_no_folder)
    with pytest.raises(PermissionError):
        write(tmp_path, 0)
    monkeypatch.delattr(os, "O_DIRECTORY")
    write(tmp_path, 1)
    assert held(find(tmp_path, kind())) == expected(1)
