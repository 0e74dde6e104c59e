import errno
import hashlib
import logging
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import platformdirs
import pytest
from PIL import Image

from artart import ArtError
from artart.data import cache, folder, index, scan, store
from artart.data.cache import locked
from artart.data.decode import ResizeMode, open_image, resize, upright
from artart.data.demo import paint
from artart.data.find import find_all
from artart.data.folder import ArtFolder, Contents
from artart.data.scan import Examined
from artart.data.settings import DataSettings

Nobody = Callable[[], AbstractContextManager[None]]
SIZE = 16
OPT_OUT = b'<x xmlns:plus="http://ns.useplus.org/ldf/xmp/1.0/" plus:DataMining="DMI-PROHIBITED-AIMLTRAINING"/>'

Open = Callable[..., ArtFolder]


@pytest.fixture
def opened(art_folder: Path, tmp_path: Path) -> Open:
    """`art_folder` anew, as another process would see it."""

    def opened(
        root: Path = art_folder, size: int = SIZE, cache_dir: Path = tmp_path / "cache", **more: Any
    ) -> ArtFolder:
        return ArtFolder(DataSettings(root, size, cache_dir=cache_dir, **{"max_pixels": 10_000, **more}))

    return opened


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The names of the files that each reading decoded."""
    calls: list[list[str]] = []
    examine_all = folder.examine_all

    def record(paths: Sequence[Path], *others: Any, **options: Any) -> Iterator[Examined]:
        calls.append([path.name for path in paths])
        yield from examine_all(paths, *others, **options)

    monkeypatch.setattr(folder, "examine_all", record)
    return calls


@contextmanager
def stopping(monkeypatch: pytest.MonkeyPatch, error: BaseException, after: int) -> Iterator[None]:
    """The reading is stopped by an error after some files."""
    examine_all = folder.examine_all

    def stop(paths: Sequence[Path], *others: Any, **options: Any) -> Iterator[Examined]:
        for i, one in enumerate(examine_all(paths, *others, **options)):
            if i == after:
                raise error
            yield one

    with monkeypatch.context() as patch:
        patch.setattr(folder, "examine_all", stop)
        yield


def held(contents: Contents) -> dict[str, bytes]:
    """Pixels by the path of each entry that is ok."""
    if contents.store is None:
        return {}
    pixels, rows = contents.store.values, contents.store.rows
    return {one.path: pixels[rows[one.facts.sha256]].tobytes() for one in contents.entries if one.status == "ok"}


def oracle(root: Path, size: int = SIZE, resize_mode: ResizeMode = "stretch") -> dict[str, bytes]:
    """What `held` must be if every file below root is a good one: each decoded by itself."""
    pixels = {}
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        with open_image(path) as image:
            array = resize(upright(image), size, resize_mode)
        pixels[str(path.relative_to(root))] = array.transpose(2, 0, 1).tobytes()
    return pixels


def reasons(contents: Contents) -> dict[str, str]:
    """Name and kind of the reason of what is not trained on."""
    return {Path(one.path).name: one.kind for one in contents.entries if one.status != "ok"}


def state(cache: Path) -> dict[Path, bytes]:
    """Every file below a cache but for its lock, hidden ones too."""
    return {path: path.read_bytes() for path in cache.rglob("*") if path.is_file() and path.name != "lock"}


def image(path: Path, seed: int = 99, size: int = 32, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(paint("sculpture", seed, size)).save(path, **options)
    return path


def of_class(root: Path, name: str) -> list[Path]:
    return sorted(path for path in (root / name).rglob("*") if path.is_file())


# --- the first reading


@pytest.mark.parametrize("resize_mode", ["stretch", "center_crop", "pad"])
def test_pixels_are_those_of_each_file(resize_mode: ResizeMode, opened: Open, art_folder: Path) -> None:
    Image.fromarray(paint("painting", 5, 48)[:20]).save(art_folder / "wide.png")
    contents = opened(resize_mode=resize_mode).read()
    assert held(contents) == oracle(art_folder, resize_mode=resize_mode)
    assert [one.path for one in contents.entries] == sorted(held(contents))
    assert contents.store is not None
    assert contents.store.values.shape == (13, 3, SIZE, SIZE)


def test_many_files_are_read_in_worker_processes(opened: Open, art_folder: Path) -> None:
    for seed in range(30):
        image(art_folder / "sculpture" / f"{seed}.png", seed)
    assert held(opened(num_workers=2).read()) == oracle(art_folder)


def test_files_lie_in_classes(opened: Open, art_folder: Path) -> None:
    image(art_folder / "no_class.png")
    one = opened()
    assert one.label_names["class"] == sorted(path.name for path in art_folder.iterdir() if path.is_dir())
    assert not one.cache.exists()  # nothing is decoded for this
    for entry in one.read().entries:
        assert entry.class_name == (entry.path.split("/")[0] if "/" in entry.path else "")


def test_an_empty_folder_is_a_mistake(opened: Open, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtError, match=r"data\.root=.*empty: no image below this folder"):
        opened(tmp_path / "empty").read()


def test_a_folder_without_a_usable_image_has_no_store(opened: Open, tmp_path: Path, calls: list[list[str]]) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"")
    for _ in range(2):
        contents = opened(tmp_path / "bad").read()
        assert contents.store is None
        assert reasons(contents) == {"a.png": "empty file"}
    assert calls == [["a.png"]]


def test_names_of_any_kind_are_known_again(opened: Open, tmp_path: Path, calls: list[list[str]]) -> None:
    root = tmp_path / "odd"
    names = ['a, "b".png', "two\nlines.png", "北斎/神奈川沖浪裏.png", os.fsdecode(b"caf\xe9.png"), "-.png", "#.png"]
    for seed, name in enumerate(names):
        image(root / name, seed)
    first = opened(root).read()
    second = opened(root).read()
    assert held(first) == held(second) == oracle(root)
    assert len(calls) == 1


# --- the next readings


def test_a_second_reading_decodes_nothing(opened: Open, calls: list[list[str]], tmp_path: Path) -> None:
    first = opened().read()
    before, index = state(tmp_path / "cache"), (opened().cache / "index.csv").stat()
    second = opened().read()
    assert [len(call) for call in calls] == [12]
    assert second.entries == first.entries
    assert held(second) == held(first)
    assert state(tmp_path / "cache") == before
    assert (opened().cache / "index.csv").stat().st_ino == index.st_ino


def touch(path: Path) -> None:
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def change(path: Path) -> None:
    """Another image of the same number of bytes and the same time, but for a nanosecond."""
    content = path.read_bytes()
    image(path, 7)
    path.write_bytes(path.read_bytes()[: len(content)].ljust(len(content), b"\0"))


def grow(path: Path) -> None:
    """Some bytes behind its end; its time is as before."""
    mtime = path.stat().st_mtime_ns
    path.write_bytes(path.read_bytes() + b"\0")
    os.utime(path, ns=(mtime, mtime))


def edit(path: Path) -> None:
    """Another image of the same size and the same time of change, as an editor may leave it."""
    before = path.stat()
    change(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("change", [change, edit, grow, lambda path: path.rename(path.with_name("new.JPG"))])
def test_what_has_changed_and_only_that_is_read_again(
    change: Callable[[Path], None], opened: Open, art_folder: Path, calls: list[list[str]]
) -> None:
    first = opened().read()
    (path,) = art_folder.glob("drawing/1900/*.JPG")
    change(path)
    (path,) = art_folder.glob("drawing/1900/*.JPG")
    second = opened().read()
    assert calls[1:] == [[path.name]]
    assert held(second) == oracle(art_folder)
    own = str(path.relative_to(art_folder))
    assert set(second.entries) - set(first.entries) == {one for one in second.entries if one.path == own}
    opened().read()
    assert len(calls) == 2


def test_what_was_only_touched_is_not_decoded_again(opened: Open, art_folder: Path, calls: list[list[str]]) -> None:
    opened().read()
    path = of_class(art_folder, "drawing")[0]
    for change in (touch, lambda path: path.chmod(0o600)):
        change(path)
        assert held(opened().read()) == oracle(art_folder)
    assert [len(call) for call in calls] == [12]


def test_new_files_are_read_and_the_pixels_of_the_others_kept(
    opened: Open, art_folder: Path, calls: list[list[str]]
) -> None:
    one = opened()
    first = one.read()
    values = one.cache / one.kind.name / "values.bin"
    before = values.read_bytes()
    image(art_folder / "aaa.png")
    image(art_folder / "drawing" / "zzz.png", 98)
    second = opened().read()
    assert calls[1:] == [["aaa.png", "zzz.png"]]
    assert set(first.entries) < set(second.entries)
    assert held(second) == oracle(art_folder)
    assert values.read_bytes().startswith(before)


def test_what_was_removed_is_forgotten(opened: Open, art_folder: Path, calls: list[list[str]]) -> None:
    opened().read()
    of_class(art_folder, "drawing")[0].unlink()
    second = opened().read()
    assert len(calls) == 1
    assert held(second) == oracle(art_folder)
    image(art_folder / "new.png")
    third = opened().read()
    assert calls[1:] == [["new.png"]]
    assert held(third) == oracle(art_folder)
    for path in find_all(art_folder).images[4:]:
        path.unlink()
    fourth = opened().read()  # most of the store is of images that are gone
    assert [len(call) for call in calls] == [12, 1, 4]
    assert fourth.store is not None
    assert len(fourth.store.values) == 4


def test_another_size_or_resize_mode_has_a_store_of_its_own(
    opened: Open, art_folder: Path, calls: list[list[str]]
) -> None:
    first = opened().read()
    ways: list[tuple[int, ResizeMode]] = [(8, "stretch"), (SIZE, "pad"), (SIZE, "stretch")]
    for size, resize_mode in ways:
        contents = opened(size=size, resize_mode=resize_mode).read()
        assert contents.entries == first.entries
        assert held(contents) == oracle(art_folder, size, resize_mode)
    assert [len(call) for call in calls] == [12, 12, 12]
    names = {path.name for path in opened().cache.iterdir() if path.is_dir()}
    assert names == {"16-stretch", "16-pad", "8-stretch"}


def test_another_background_has_a_cache_of_its_own(opened: Open, tmp_path: Path, calls: list[list[str]]) -> None:
    root = tmp_path / "icons"
    root.mkdir()
    for side in (10, 12):
        icon = Image.new("RGBA", (16, 16))
        icon.paste("white", (0, 0, side, side))
        icon.save(root / f"{side}.png")
    assert reasons(opened(root).read()) == dict.fromkeys(
        ("10.png", "12.png"), "blank on white, try data.background=black"
    )
    on_red = opened(root, background="#ff0000")
    for _ in range(2):
        contents = on_red.read()
        pixels = np.frombuffer(held(contents)["10.png"], np.uint8).reshape(3, SIZE, SIZE)
        assert pixels[:, 15, 15].tolist() == [255, 0, 0]
        assert len(opened(root).read().entries) == 2
    assert len(calls) == 2


def test_one_folder_has_one_cache_however_it_is_named(
    opened: Open, art_folder: Path, tmp_path: Path, calls: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(art_folder)
    monkeypatch.chdir(tmp_path)
    for root in (
        art_folder,
        Path("art"),
        Path("art/drawing/.."),
        tmp_path / "link",
        Path("../") / tmp_path.name / "art",
    ):
        contents = opened(root).read()
        assert held(contents) == oracle(art_folder)
    assert len(calls) == 1
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_folders_of_one_name_have_caches_of_their_own(opened: Open, art_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(art_folder / "drawing", tmp_path / "other" / "art")
    assert len(opened().read().entries) == 12
    assert len(opened(tmp_path / "other" / "art").read().entries) == 4
    assert len(opened().read().entries) == 12
    assert len({path.name[:4] for path in (tmp_path / "cache").iterdir()}) == 1
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_the_cache_is_the_users_unless_another_is_named(
    art_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    one = ArtFolder(DataSettings(art_folder, SIZE))
    assert one.cache.parent == platformdirs.user_cache_path("artart")
    assert one.cache.is_relative_to(tmp_path_factory.getbasetemp())  # tests leave the real one alone
    one.read()
    assert (one.cache / "index.csv").is_file()


def test_a_damaged_cache_is_made_anew(opened: Open, art_folder: Path, calls: list[list[str]]) -> None:
    opened().read()
    for damage in ("index.csv", "*/values.bin", "*/rows.bin", "made_by"):
        (file,) = opened().cache.glob(damage)
        half = file.stat().st_size // 2
        content = file.read_bytes()
        file.write_bytes(bytes([*content[:half], content[half] ^ 128, *content[half + 1 :]]))
        assert held(opened().read()) == oracle(art_folder)
        (file,) = opened().cache.glob(damage)
        file.write_bytes(b"")
        assert held(opened().read()) == oracle(art_folder)
    assert [len(call) for call in calls] == [12, 1, 12, 1, 12, 1, 12, 12, 12]


def test_what_a_killed_process_left_is_removed(opened: Open, art_folder: Path) -> None:
    cache = opened().cache
    (cache / ".0123abcd.part").mkdir(parents=True)
    (cache / ".0123abcd.part" / "values.bin").write_bytes(bytes(100))
    (cache / ".index.csv.0123abcd.part").write_bytes(b"pa")
    for _ in range(2):
        assert held(opened().read()) == oracle(art_folder)
        assert list(cache.glob(".*")) == []
        (cache / ".0123abcd.part").mkdir()  # also where nothing is to be read


# --- rules


@pytest.mark.parametrize("name", ["large.png", "large.gif"])
def test_a_limit_that_is_raised_lets_only_that_file_be_read(
    opened: Open, art_folder: Path, calls: list[list[str]], name: str
) -> None:
    image(art_folder / name, size=160)
    assert reasons(opened().read()) == {name: "above data.max_pixels=10000"}
    assert reasons(opened(max_pixels=20_000).read()) == {name: "above data.max_pixels=20000"}
    assert [len(call) for call in calls] == [13]
    contents = opened(max_pixels=25_600).read()
    assert calls[1:] == [[name]]
    assert held(contents) == oracle(art_folder)


def test_a_limit_that_is_lowered_rejects_without_reading(
    opened: Open, art_folder: Path, tmp_path: Path, calls: list[list[str]]
) -> None:
    image(art_folder / "large.png", size=64)
    opened().read()
    for limits in ({"max_pixels": 2000}, {"min_size": 33}):
        contents = opened(**limits).read()
        few = {"max_pixels": 12, "min_size": 1}
        assert len(held(contents)) == few[next(iter(limits))]
        assert held(contents).items() <= oracle(art_folder).items()
    assert held(opened().read()) == oracle(art_folder)
    assert len(calls) == 1


def test_exclusions_are_switched_without_reading_what_is_stored(
    opened: Open, art_folder: Path, calls: list[list[str]]
) -> None:
    image(art_folder / "shy.png", 1, pnginfo=None)
    image(art_folder / "shy.jpg", 2, xmp=OPT_OUT)
    shutil.copy(art_folder / "shy.png", art_folder / "z_copy.png")
    off = {"exclude": {"duplicate": False, "opt_out": False, "ai_made": False}}
    assert reasons(opened().read()) == {"shy.jpg": "opted out of data mining", "z_copy.png": "exact duplicate"}
    for _ in range(2):
        contents = opened(**off).read()
        assert reasons(contents) == {}
        assert held(contents) == oracle(art_folder)
    assert calls[1:] == [["shy.jpg"]]  # a copy's pixels are there, those of an excluded file were not stored
    assert len(reasons(opened().read())) == 2
    assert held(opened(**off).read()) == oracle(art_folder)
    assert len(calls) == 2


def test_a_flaw_that_stays_is_not_looked_at_again(opened: Open, art_folder: Path, calls: list[list[str]]) -> None:
    (art_folder / "empty.png").write_bytes(b"")
    (art_folder / "text.jpg").write_bytes(b"<!DOCTYPE html>")
    whole = image(art_folder / "cut.png").read_bytes()
    (art_folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    for _ in range(2):
        assert reasons(opened().read()).keys() == {"empty.png", "text.jpg", "cut.png"}
    assert len(calls) == 1
    (art_folder / "cut.png").write_bytes(whole)
    assert reasons(opened().read()).keys() == {"empty.png", "text.jpg"}
    assert calls[1:] == [["cut.png"]]


def test_a_file_that_vanishes_while_it_is_read_may_come_back(
    opened: Open, art_folder: Path, calls: list[list[str]]
) -> None:
    path = of_class(art_folder, "drawing")[0]
    content = path.read_bytes()
    one = opened()
    assert len(one.found.images) == 12
    path.unlink()
    assert reasons(one.read()) == {path.name: "vanished while it was read"}
    path.write_bytes(content)
    assert held(opened().read()) == oracle(art_folder)
    assert calls[1:] == [[path.name]]


@pytest.fixture
def public_art(art_folder: Path) -> Iterator[Path]:
    """A folder with `art` and an empty `cache`; another user may read the one and write the other."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o755)
        shutil.copytree(art_folder, place / "art")
        (place / "cache").mkdir()
        (place / "cache").chmod(0o777)
        for path in (place / "art").rglob("*"):
            path.chmod(0o555 if path.is_dir() else 0o444)
        (place / "art").chmod(0o555)
        yield place
        for path in (place / "art", *(place / "art").rglob("*")):
            path.chmod(0o755)


def test_a_folder_that_cannot_be_written_can_be_read(
    opened: Open, public_art: Path, calls: list[list[str]], as_nobody: Nobody
) -> None:
    with as_nobody():
        with pytest.raises(PermissionError):
            (public_art / "art" / "new").touch()
        for _ in range(2):
            contents = opened(public_art / "art", cache_dir=public_art / "cache").read()
    assert held(contents) == oracle(public_art / "art")
    assert len(calls) == 1


def test_a_file_without_permission_is_tried_again(
    opened: Open, public_art: Path, calls: list[list[str]], as_nobody: Nobody
) -> None:
    path = of_class(public_art / "art", "drawing")[0]
    path.chmod(0)
    with as_nobody():
        for _ in range(2):
            one = opened(public_art / "art", cache_dir=public_art / "cache")
            assert reasons(one.read()) == {path.name: "no permission to read it"}
        assert calls[1:] == [[path.name]]
    path.chmod(0o444)
    with as_nobody():
        assert held(opened(public_art / "art", cache_dir=public_art / "cache").read()) == oracle(public_art / "art")


def test_a_file_that_the_disk_did_not_give_is_tried_again(
    opened: Open, art_folder: Path, calls: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = of_class(art_folder, "drawing")[0]
    file_digest = hashlib.file_digest

    def fail(file: Any, name: str) -> Any:
        if file.name == str(path):
            raise OSError(errno.EIO, "Input/output error")
        return file_digest(file, name)

    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "file_digest", fail)
        assert reasons(opened().read()) == {path.name: "cannot be read"}
    assert held(opened().read()) == oracle(art_folder)
    assert calls[1:] == [[path.name]]


# --- metadata


def table(tmp_path: Path, *rows: str) -> Path:
    (tmp_path / "art.csv").write_text("".join(f"{row}\n" for row in rows))
    return tmp_path / "art.csv"


def test_the_table_tells_classes_and_what_is_used(
    opened: Open, art_folder: Path, tmp_path: Path, calls: list[list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    paths = [str(path.relative_to(art_folder)) for path in of_class(art_folder, "drawing")]
    file = table(tmp_path, "path,class", f"{paths[0]}, oil ", f"{paths[1]}, ", f"{paths[2]},chalk", "lost.jpg,ink")
    one = opened(metadata=file)
    assert one.label_names["class"] == ["chalk", "oil"]
    contents = one.read()
    assert {one.path: one.class_name for one in contents.entries if one.status == "ok"} == dict(
        zip(paths, ["oil", "", "chalk"], strict=False)
    )
    assert set(reasons(contents).values()) == {"not in data.metadata"}
    assert len(contents.entries) == 12
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING] == [
        f"1 paths of data.metadata name no image below {art_folder}, such as 'lost.jpg'"
    ]
    assert contents.store is not None
    assert len(contents.store.rows) == 3
    assert held(opened().read()) == oracle(art_folder)
    assert [len(call) for call in calls] == [12, 9]  # what was excluded had not been stored
    assert held(opened(metadata=file).read()) == held(contents)
    assert len(calls) == 2


def test_without_a_column_for_it_classes_are_folders(opened: Open, art_folder: Path, tmp_path: Path) -> None:
    paths = [str(path.relative_to(art_folder)) for path in of_class(art_folder, "drawing")]
    one = opened(metadata=table(tmp_path, "path,title", *(f"{path},x" for path in paths)))
    assert one.label_names["class"] == ["drawing"]
    assert {one.class_name for one in one.read().entries} == {path.name for path in art_folder.iterdir()}


def test_a_level_at_which_no_class_lies_is_a_mistake(opened: Open, art_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtError, match=r"^data.class_level=9: no image below .*art lies so deep; lower it$"):
        _ = opened(class_level=9).label_names
    classes = table(tmp_path, "path,class", f"{opened().found.images[0].relative_to(art_folder)},x")
    assert opened(class_level=9, metadata=classes).label_names == {"class": ["x"]}


def test_licences_are_chosen(opened: Open, art_folder: Path, tmp_path: Path, calls: list[list[str]]) -> None:
    paths = [path.relative_to(art_folder) for path in of_class(art_folder, "drawing")]
    licences = ["CC0 1.0", "CC BY-NC 4.0", "", "Public Domain"]
    file = table(tmp_path, "path,License", *(f"{path},{name}" for path, name in zip(paths, licences, strict=True)))
    contents = opened(metadata=file, licences=["cc0*", "public domain"]).read()
    assert held(contents).keys() == {str(paths[0]), str(paths[3])}
    message = {one.path: one.reason for one in contents.entries}
    assert message[str(paths[1])] == "not in data.licences: CC BY-NC 4.0"
    assert message[str(paths[2])] == "not in data.licences: none given"
    assert len(held(opened(metadata=file, licences=["CC BY*"]).read())) == 1
    assert [len(call) for call in calls] == [12, 1]


def test_licences_need_a_table_that_holds_them(opened: Open, art_folder: Path, tmp_path: Path) -> None:
    file = table(tmp_path, "path,title", f"{of_class(art_folder, 'drawing')[0].relative_to(art_folder)},x")
    with pytest.raises(ArtError, match=r"data\.licences: .*art\.csv has no column licence; it has path, title"):
        opened(metadata=file, licences=["CC0"]).read()


# --- what goes wrong


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("a bug")], ids=["Ctrl-C", "bug"])
@pytest.mark.parametrize("after", [0, 5, 11])
def test_what_was_read_before_an_interruption_is_kept(
    error: BaseException,
    after: int,
    opened: Open,
    art_folder: Path,
    calls: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with stopping(monkeypatch, error, after), pytest.raises(type(error)) as caught:
        opened().read()
    assert caught.value is error
    contents = opened().read()
    assert [len(call) for call in calls] == [12, 12 - after]
    assert held(contents) == oracle(art_folder)
    assert list(opened().cache.glob(".*")) == []


def test_an_interruption_forgets_nothing_that_was_known(
    opened: Open, art_folder: Path, calls: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened().read()
    for name in ("aaa", "drawing/bbb", "zzz"):
        image(art_folder / f"{name}.png", len(name) + ord(name[0]))
    with stopping(monkeypatch, KeyboardInterrupt(), 1), pytest.raises(KeyboardInterrupt):
        opened().read()
    assert held(opened().read()) == oracle(art_folder)
    assert calls == [calls[0], ["aaa.png", "bbb.png", "zzz.png"], ["bbb.png", "zzz.png"]]


def test_an_interruption_at_another_size_forgets_nothing_either(
    opened: Open, art_folder: Path, calls: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened().read()
    with stopping(monkeypatch, KeyboardInterrupt(), 2), pytest.raises(KeyboardInterrupt):
        opened(size=24).read()
    assert held(opened().read()) == oracle(art_folder)
    assert [len(names) for names in calls] == [12, 12]  # at the first size all is known
    assert held(opened(size=24).read()) == oracle(art_folder, 24)
    assert [len(names) for names in calls] == [12, 12, 10]


def test_a_store_is_written_only_if_there_are_new_pixels(opened: Open, art_folder: Path) -> None:
    opened().read()
    before = state(opened().cache / "16-stretch")
    (art_folder / "empty.png").touch()
    os.utime(find_all(art_folder).images[1], (5, 5))
    shutil.copy(find_all(art_folder).images[2], art_folder / "zz_copy.png")
    assert index.counts(opened().read().entries) == {
        "found": 14,
        "ok": 12,
        "rejected": 1,
        "excluded": 1,
        "other": 0,
    }
    assert state(opened().cache / "16-stretch") == before


def test_what_another_decoder_made_is_made_anew(
    opened: Open, art_folder: Path, calls: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened().read()
    opened(size=24).read()
    monkeypatch.setattr(cache, "MADE_BY", "artart 0, Pillow 1.0")
    assert held(opened().read()) == oracle(art_folder)
    assert [len(names) for names in calls] == [12, 12, 12]
    assert list(opened().cache.glob("24-*")) == []


def test_a_frame_above_the_limit_is_read_again_under_a_higher_one(opened: Open, tmp_path: Path) -> None:
    image(tmp_path / "few" / "a" / "1.png", 1)

    def too_large(*_: object) -> None:
        raise Image.DecompressionBombError  # as of a GIF, see test_decode

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "open_image", too_large)
        assert [one.status for one in opened(tmp_path / "few").read().entries] == ["rejected"]
    assert [one.status for one in opened(tmp_path / "few").read().entries] == ["ok"]


BUILD = """
import sys
from pathlib import Path
from artart.data.folder import ArtFolder
from artart.data.settings import DataSettings
ArtFolder(DataSettings(Path(sys.argv[1]), 16, cache_dir=Path(sys.argv[2]))).read()
"""


@pytest.mark.slow
@pytest.mark.parametrize("sign", ["made_by", "16-stretch/rows.bin", "index.csv"])
def test_a_build_that_is_killed_loses_nothing(sign: str, opened: Open, tmp_path: Path, calls: list[list[str]]) -> None:
    root = tmp_path / "many"
    for i in range(90):
        image(root / f"{i:02}.png", i)
    cache = opened(root).cache
    build = subprocess.Popen([sys.executable, "-c", BUILD, str(root), str(tmp_path / "cache")])
    while build.poll() is None and not any(path.stat().st_size for path in cache.glob(sign)):
        time.sleep(0.001)
    build.kill()
    build.wait()
    num_known = len({one.path for name in ("journal", "index") for one in index.read(cache / f"{name}.csv")})
    pixels = store.find(cache, opened(root).kind)
    assert num_known >= (len(pixels.rows) - 1 if pixels else 0)  # facts are written as soon as pixels are
    assert held(opened(root).read()) == oracle(root)
    assert sum(map(len, calls)) == 90 - num_known
    assert {path.name for path in cache.iterdir()} == {"16-stretch", "index.csv", "lock", "made_by"}


def test_a_full_disk_keeps_what_was_read(
    opened: Open, art_folder: Path, monkeypatch: pytest.MonkeyPatch, calls: list[list[str]]
) -> None:
    add, left = store.Writer.add, iter(range(3))

    def fill(writer: store.Writer, digest: str, pixels: np.ndarray) -> None:
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        add(writer, digest, pixels)

    with monkeypatch.context() as patch:
        patch.setattr(store.Writer, "add", fill)
        with pytest.raises(OSError, match="No space left") as caught:
            opened().read()
    assert caught.value.filename == str(opened().cache)
    assert held(opened().read()) == oracle(art_folder)
    assert [len(call) for call in calls] == [12, 9]


def test_too_small_a_disk_is_said_before_anything_is_read(
    opened: Open, monkeypatch: pytest.MonkeyPatch, calls: list[list[str]]
) -> None:
    need = 12 * (3 * SIZE**2 + 1300)  # with rows of index, journal and store
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=need - 1))
        with pytest.raises(
            ArtError, match=r"data\.cache_dir: the pixels of 12 images need 24\.8 kB and .* has 24\.8 kB"
        ):
            opened().read()
        assert calls == []
        patch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=need))
        opened().read()
        patch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
        opened().read()  # what is known needs no room
    assert len(calls) == 1


def test_a_cache_that_cannot_be_written_is_a_mistake(
    opened: Open, public_art: Path, tmp_path: Path, as_nobody: Nobody
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        ArtError, match=r"data\.cache_dir: .*: Not a directory; name a folder that can be written"
    ) as caught:
        opened(cache_dir=tmp_path / "file").read()
    assert len(str(caught.value).splitlines()) == 1
    (public_art / "cache").chmod(0o755 if os.geteuid() == 0 else 0o555)
    with as_nobody(), pytest.raises(ArtError, match=r"data\.cache_dir: .*: Permission denied; name a folder"):
        opened(public_art / "art", cache_dir=public_art / "cache").read()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_a_warning(
    number: int, opened: Open, art_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def flock(file: object, how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    assert held(opened().read()) == oracle(art_folder)
    assert f"no locks here ({os.strerror(number)}); let no other process" in caplog.text


def read_in_another_process(one: ArtFolder, may_start: Any, log: Path) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", filename=log, force=True)
    may_start.wait(300)
    contents = one.read()
    pixels = [digest + pixels.hex() for digest, pixels in held(contents).items()]
    log.with_suffix(".result").write_text(f"{contents.entries} {pixels}")


def test_of_two_processes_one_reads_and_the_other_waits(opened: Open, art_folder: Path, tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    may_start = fork.Event()
    logs = [tmp_path / f"{i}.log" for i in range(2)]
    readers = [fork.Process(target=read_in_another_process, args=(opened(), may_start, log)) for log in logs]
    for reader in readers:
        reader.start()
    waits = f"another process is reading {art_folder}; waiting for it\n"
    with locked(opened().cache, art_folder):
        may_start.set()
        deadline = time.monotonic() + 300
        while not all(log.exists() and log.read_text() == waits for log in logs):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert not opened().cache.joinpath("index.csv").exists()
    for reader in readers:
        reader.join(300)
    assert [reader.exitcode for reader in readers] == [0, 0]
    assert len({log.with_suffix(".result").read_text() for log in logs}) == 1
    message = sorted(log.read_text().removeprefix(waits) for log in logs)
    assert message[0] == ""
    first, second = message[1].splitlines()
    assert first == f"{art_folder}: reading 12 of 12 files"
    assert second.startswith("the pixels of 12 images take at most 24.8 kB in ")
    assert held(opened().read()) == oracle(art_folder)


# --- labels of several columns


def of_artists(art_folder: Path, tmp_path: Path, *artists: str) -> Path:
    """A table of the drawings and engravings, in their order."""
    files = [*of_class(art_folder, "drawing"), *of_class(art_folder, "engraving")]
    rows = [f"{path.relative_to(art_folder)},{artist}" for path, artist in zip(files, artists, strict=True)]
    return table(tmp_path, "path,artist,licence", *rows)


LICENSED = ["Bo,CC0", "Bo,CC0", "Ada,CC0", "Ada,no", "Bo,CC0", "Cy,CC0", ",CC0", ",CC0"]


def test_values_that_few_usable_files_have_are_no_labels(
    opened: Open, art_folder: Path, tmp_path: Path, calls: list[list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    file = of_artists(art_folder, tmp_path, *LICENSED)
    names = {
        least: opened(metadata=file, labels=["class", "artist"], min_per_label=least).label_names
        for least in (1, 2, 3, 5)
    }
    assert {tuple(one) for one in names.values()} == {("class", "artist")}
    assert all(one["class"] == ["drawing", "engraving"] for one in names.values())  # however few there are
    assert [one["artist"] for one in names.values()] == [["Ada", "Bo", "Cy"], ["Ada", "Bo"], ["Bo"], []]
    assert "data.min_per_label=3: artist has 1 labels; 2 rarer values, of 3 files, are none" in caplog.messages
    licensed = opened(metadata=file, labels=["artist"], min_per_label=2, licences=["CC0"])
    assert licensed.label_names == {"artist": ["Bo"]}  # an image of Ada's is excluded
    assert not calls  # nothing was decoded


def test_a_column_that_the_table_does_not_have_is_reported(opened: Open, art_folder: Path, tmp_path: Path) -> None:
    one = opened(metadata=of_artists(art_folder, tmp_path, *LICENSED), labels=["class", "artst"])
    with pytest.raises(ArtError) as error:
        assert one.label_names
    assert str(error.value) == (
        f"data.labels=[class, artst]: {tmp_path / 'art.csv'} has no column artst; it has path, artist, licence"
    )
