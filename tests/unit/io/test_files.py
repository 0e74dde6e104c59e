import errno
import json
import os
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from artart import ArtError
from artart.io import files
from artart.io.files import atomic, create, is_writable, new_folder, output_folder, sha256, write_json, write_new


@pytest.fixture
def umask() -> Iterator[Callable[[int], int]]:
    before = os.umask(0)
    os.umask(before)
    yield os.umask
    os.umask(before)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


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


@pytest.mark.parametrize(("platform", "times"), [("win32", 3), ("win32", 99), ("linux", 1)])
def test_a_file_that_another_program_has_open_is_replaced_later_on_windows(
    platform: str, times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses, replace = list[float](), Path.replace

    def refuse(part: Path, path: Path) -> Path:
        if len(pauses) < times:
            raise PermissionError(13, "Access is denied", str(part), None, str(path))
        return replace(part, path)

    monkeypatch.setattr(Path, "replace", refuse)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(time, "sleep", pauses.append)
    (tmp_path / "a.csv").write_bytes(b"old")
    error = None
    try:
        write_bytes(tmp_path / "a.csv", b"new")
    except PermissionError as refused:
        error = refused
    assert (tmp_path / "a.csv").read_bytes() == (b"new" if times == 3 else b"old")
    assert len(pauses) == {3: 3, 99: 6, 1: 0}[times]
    assert error is None if times == 3 else error and error.filename == str(tmp_path / "a.csv")
    assert names_in(tmp_path) == ["a.csv"]


def write_bytes(path: Path, content: bytes) -> None:
    with atomic(path) as file:
        file.write(content)


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


# --- names of their own


NUMBERED = ["a.b.png", "a.b-2.png", "a.b-3.png"]
NO_HARD_LINKS = [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS]  # FAT, some network file systems, FUSE


@pytest.fixture(params=[None, *NO_HARD_LINKS], ids=["hard links", "EPERM", "EOPNOTSUPP", "ENOSYS"])
def hard_links(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(request.param, os.strerror(request.param))

    if request.param is not None:
        monkeypatch.setattr(os, "link", refuse)


def before_it_takes_its_name(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Act when a file's content is written, and has not yet its name."""
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (fsync(descriptor), act()))


def at_once(num: int, work: Callable[[int], object]) -> list[Any]:
    """What threads return that begin together."""
    barrier = threading.Barrier(num)

    def run(k: int) -> object:
        barrier.wait()
        return work(k)

    with ThreadPoolExecutor(num) as pool:
        return list(pool.map(run, range(num)))


@pytest.mark.usefixtures("hard_links")
def test_a_new_file_has_the_first_free_name(tmp_path: Path) -> None:
    for name in NUMBERED:
        assert write_new(tmp_path / "deep" / "a.b.png", name.encode()) == tmp_path / "deep" / name
    assert names_in(tmp_path / "deep") == sorted(NUMBERED)
    assert all((tmp_path / "deep" / name).read_text() == name for name in NUMBERED)


@pytest.mark.parametrize("kind", ["file", "folder", "broken link"])
@pytest.mark.usefixtures("hard_links")
def test_whatever_has_a_name_keeps_it(kind: str, tmp_path: Path) -> None:
    taken = tmp_path / "a.png"
    {"file": taken.touch, "folder": taken.mkdir, "broken link": lambda: taken.symlink_to("nowhere")}[kind]()
    assert not create(taken, b"new")
    assert write_new(taken, b"new") == tmp_path / "a-2.png"
    assert names_in(tmp_path) == ["a-2.png", "a.png"]
    assert taken.is_symlink() == (kind == "broken link")


@pytest.mark.usefixtures("hard_links")
def test_a_name_that_is_taken_in_the_last_moment_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_it_takes_its_name(monkeypatch, lambda: (tmp_path / "a.png").write_text("theirs"))
    assert write_new(tmp_path / "a.png", b"ours") == tmp_path / "a-2.png"
    assert not create(tmp_path / "a.png", b"ours")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.png": "theirs", "a-2.png": "ours"}


@pytest.mark.usefixtures("hard_links")
def test_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    at_once(8, lambda k: [write_new(tmp_path / f"{i}.txt", f"{k} {i}".encode()) for i in range(20)])
    contents = sorted(path.read_text() for path in tmp_path.iterdir())
    assert contents == sorted(f"{k} {i}" for k in range(8) for i in range(20))


@pytest.mark.usefixtures("hard_links")
def test_of_those_who_create_a_file_at_once_one_does(tmp_path: Path) -> None:
    created = at_once(8, lambda k: create(tmp_path / "a.txt", str(k).encode()))
    assert (tmp_path / "a.txt").read_text() == str(created.index(True))
    assert created.count(True) == 1
    assert names_in(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("write", [create, write_new])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full", "Ctrl-C"])
def test_what_is_not_written_to_its_end_leaves_nothing(
    write: Callable[[Path, bytes], object], error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        assert [path.suffix for path in tmp_path.iterdir()] == [".part"]
        raise error

    before_it_takes_its_name(monkeypatch, fail)
    with pytest.raises(type(error)):
        write(tmp_path / "a.png", b"new")
    assert names_in(tmp_path) == []


LONG = {
    "250 bytes": "x" * 246,
    "two bytes a character": "é" * 123,
    "three": "北" * 82,
    "four": "🎨" * 61,
    "no text": os.fsdecode(b"\xe9" * 246),
}


@pytest.mark.parametrize("stem", LONG.values(), ids=LONG)
def test_names_that_are_too_long_are_shortened_but_for_their_end(stem: str, tmp_path: Path) -> None:
    written = [write_new(tmp_path / f"{stem}_{k:05}.png", bytes([n])) for n in range(11) for k in range(2)]
    assert [path.read_bytes() for path in written] == [bytes([n]) for n in range(11) for _ in range(2)]
    for number, path in enumerate(written):
        assert path.stem.removesuffix(f"-{number // 2 + 1}").endswith(f"_{number % 2:05}")
        assert len(os.fsencode(path.name)) > 250
        assert set(path.name) <= set(stem + "_-0123456789.png")  # no character is cut
    assert write_new(tmp_path / f"{stem}.png", b"").name == f"{stem}.png"  # fits


def test_each_new_folder_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "day").mkdir()
    (tmp_path / "day" / "12-00-00").touch()
    monkeypatch.setattr(Path, "exists", lambda path: False)  # as if they were made since somebody looked
    folders = at_once(8, lambda k: new_folder(tmp_path / "day" / "12-00-00"))
    assert sorted(path.name for path in folders) == [f"12-00-00-{k}" for k in range(2, 10)]
    assert all(path.is_dir() for path in folders)


def test_a_default_folder_is_its_commands_own_and_goes_if_it_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "dated", lambda kind: tmp_path / "outputs" / kind / "12-00-00")
    with output_folder(None, "samples") as one, output_folder(None, "samples") as two:
        assert (one.name, two.name) == ("12-00-00", "12-00-00-2")
        (one / "file").touch()
    assert names_in(tmp_path / "outputs" / "samples") == ["12-00-00"]
    with pytest.raises(ArtError), output_folder(None, "galleries"):
        raise ArtError("refused")
    assert names_in(tmp_path / "outputs") == ["samples"]


def test_a_folder_that_was_named_is_not_made_before_it_is_used(tmp_path: Path) -> None:
    with output_folder(str(tmp_path / "new" / "folder"), "samples") as folder:
        assert names_in(tmp_path) == []
        write_new(folder / "a.txt", b"")
    assert names_in(tmp_path) == ["new"]


def test_asking_whether_a_folder_can_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "there").mkdir()
    assert is_writable(tmp_path / "new" / "folder")
    assert is_writable(tmp_path / "there")
    assert not is_writable(tmp_path / "file" / "sub")
    assert not is_writable(tmp_path / "file")
    (tmp_path / "link").symlink_to("nowhere")
    assert not is_writable(tmp_path / "link")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "link", "there"]


def test_asking_makes_no_folder_that_another_process_might_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor removes one that it has made meanwhile."""
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: pytest.fail("a folder was made"))
    monkeypatch.setattr(Path, "rmdir", lambda *_: pytest.fail("a folder was removed"))
    assert is_writable(tmp_path / "new" / "folder")


def test_asking_touches_no_file(tmp_path: Path) -> None:
    (tmp_path / ".probe").write_text("mine")
    assert is_writable(tmp_path)
    assert (tmp_path / ".probe").read_text() == "mine"


def test_a_name_that_is_refused_is_asked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Windows refuses it; tempfile takes that for a taken name and goes on."""
    asked = list[object]()

    def refuse(path: object, *args: object, **options: object) -> int:
        asked.append(path)
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(sys, "platform", "win32")
    assert not is_writable(tmp_path)
    assert len(asked) == 1


def test_a_folder_of_others_is_not_writable(
    tmp_path: Path, as_nobody: Callable[[], AbstractContextManager[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for mode, expected in ((0o555, False), (0o777, True)):
        tmp_path.chmod(mode)
        with as_nobody():
            assert is_writable(Path()) is expected
            assert is_writable(Path("new", "folder")) is expected
