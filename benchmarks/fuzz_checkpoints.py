"""Can a checkpoint made at random do harm, or bring a command to a trace?

    python benchmarks/fuzz_checkpoints.py --num 2000 --seed 0 --work DIR

Trains two tiny networks in DIR, spoils their checkpoints by `mutations.py`, and gives each file, in this process, to
three of the six commands that read one: generate, evaluate, export, inspect, start= and resume=. A file may be refused
(exit code 2, or 1 with a sentence) or used (0). None may run a process, reach for the network, import or call what it
names, write outside of the folder that was named, leave something when it is refused, show a trace or more than a line,
or take much more memory or time than a good file does. Prints what became of the files and each failure with the
number that repeats it: `--first NUMBER --num 1`. Exit code 1 if there was one. Needs Linux; DIR is the working folder.
"""

import argparse
import contextlib
import gc
import io
import os
import random
import re
import resource
import shutil
import signal
import sys
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from hydra._internal.hydra import Hydra
from mutations import mutated
from omegaconf import DictConfig
from PIL import Image
from rich.console import Console
from rich.table import Table

import artart.checkpoint
import artart.evaluate
import artart.export
import artart.generate
import artart.train

KINDS = {
    "reconstruction": ("loss=mse",),
    "diffusion": ("objective=diffusion", "loss=mse_diffusion", "sampler.num_steps=1", "data.val_fraction=0.6"),
}
SMALL = (
    *("image_size=16", "data.num_demo_pictures=40", "data.batch_size=8", "trainer=cpu", "trainer.max_epochs=1"),
    *("trainer.log_every_n_steps=2", "callbacks.grid.num_images=2", "callbacks.last.every_minutes=1e-6"),
)
COMMANDS = ("generate", "evaluate", "export", "inspect", "start", "resume")
SECONDS = 20
SLACK = 100 * 2**20  # bytes beyond twice what a good file takes
LIMIT = 6 * 2**30  # bytes that this process may hold
FORBIDDEN = {
    *("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "pty.spawn"),
    *("socket.connect", "socket.bind", "socket.getaddrinfo", "urllib.Request", "pickle.find_class"),
}
WRITING = {"os.mkdir", "os.remove", "os.rmdir", "os.rename", "os.link", "os.symlink", "os.truncate", "os.chmod"}
CANARY = "from pathlib import Path\nplace = Path(__file__).with_name('{}')\nplace.touch()\n"
SONG = "def sing(*_, **__):\n    place.with_name('sang').touch()\n    return dict\n"


class TooLong(BaseException):
    pass


class Outcome(NamedTuple):
    code: int | str
    line: str  # the last on stderr
    megabytes: float
    seconds: float
    faults: list[str]


class Watch:
    """Notes what the interpreter is asked to do while a command runs."""

    def __init__(self, *allowed: Path) -> None:
        self.allowed = tuple(f"{folder}/" for folder in allowed)
        self.seen: list[str] | None = None
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.seen is None:
            return
        if event in FORBIDDEN:
            self.seen.append(f"{event} {str(arguments)[:200]}")
        if event in WRITING or (event == "open" and isinstance(arguments[2], int) and arguments[2] & 3):
            for path in arguments[: 2 if event in ("os.rename", "os.link") else 1]:
                self._written(event, path)

    def _written(self, event: str, path: Any) -> None:
        if isinstance(path, (str, bytes, os.PathLike)) and path:
            place = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 - a Path would take longer
            in_vain = event in ("os.mkdir", "open") and os.path.isdir(place)  # noqa: PTH112 - is there, or has no name
            if not f"{place}/".startswith(self.allowed) and place != "/dev/null" and not in_vain:
                assert self.seen is not None
                self.seen.append(f"{event} {place}")


def call(module: ModuleType, *arguments: str) -> int | str:
    """What the command would do in a process of its own; returns its exit code, or what it raised."""
    sys.argv = [module.__name__, *arguments]
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    signal.alarm(SECONDS + 5)
    try:
        module.run()
    except SystemExit as stop:
        return stop.code or 0
    except TooLong:
        return f"over {SECONDS} s"
    except BaseException as error:  # noqa: BLE001
        return f"Traceback: {type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
    return 0


def command(name: str, kind: str, path: Path, picture: Path) -> int | str:
    few = ("num_images=1", "sampler.num_steps=1") if kind == "diffusion" else (f"input={picture}",)
    match name:
        case "generate":
            return call(artart.generate, f"checkpoint={path}", "out=out", *few)
        case "evaluate":
            judged = ("num_images=20", "sampler.num_steps=1") if kind == "diffusion" else ()
            return call(artart.evaluate, f"checkpoint={path}", "out=out", "metrics.weights=null", *judged)
        case "export":
            return call(artart.export, f"checkpoint={path}", "out=out/net.safetensors")
        case "inspect":
            return call(artart.checkpoint, str(path))
        case "start":
            return call(artart.train, *SMALL, *KINDS[kind], "run_dir=out", "trainer.max_steps=1", f"start={path}")
        case _:
            return call(artart.train, *SMALL, *KINDS[kind], "run_dir=out", f"resume={path}")


def peak() -> int:
    """Bytes that the process held at most since its last `forget_peak`."""
    return 1024 * int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])


def tried(name: str, kind: str, path: Path, picture: Path, watch: Watch) -> Outcome:
    """Run one command in the working folder, which is as it was when this returns."""
    shutil.rmtree("out", ignore_errors=True)
    before = {item: item.lstat().st_mtime_ns for item in Path.cwd().rglob("*")}
    Path("/proc/self/clear_refs").write_text("5")
    held, began = peak(), time.monotonic()
    out, error = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    watch.seen = []
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error), warnings.catch_warnings():
        warnings.simplefilter("default")
        code = command(name, kind, path, picture)
    faults, watch.seen = watch.seen, None
    taken, seconds = peak() - held, time.monotonic() - began
    printed, told = (stream.buffer.getvalue().decode() for stream in (out, error))  # type: ignore[attr-defined]
    lines = told.splitlines()
    after = {item: item.lstat().st_mtime_ns for item in Path.cwd().rglob("*")}
    if code not in (0, 1, 2):
        faults.append(f"ended with {code}")
    if "Traceback" in told + printed:
        faults.append(f"a trace: {lines[-1]}")
    elif code in (1, 2) and len(lines) != 1:
        faults.append(f"{len(lines)} lines: {told[:500]!r}")
    if odd := re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", told + printed):
        faults.append(f"{odd[0]!r} on the terminal")
    if code == 2 and (differ := {item for item in before.keys() | after if before.get(item) != after.get(item)}):
        faults.append(f"refused, but wrote {sorted(str(item.relative_to(Path.cwd())) for item in differ)[:4]}")
    if seconds > SECONDS:
        faults.append(f"{seconds:.0f} s")
    for sign in ("imported", "sang"):
        if (mark := Path.cwd().parent / "canary" / sign).exists():
            mark.unlink()
            faults.append(f"the canary was {sign}")
    sys.modules.pop("canary", None)
    for item in sorted(after.keys() - before, reverse=True):
        if item.name != "out" and Path("out").resolve() not in item.parents:
            faults.append(f"wrote {item}")
            shutil.rmtree(item) if item.is_dir() else item.unlink()
    return Outcome(code, lines[-1] if lines else "", taken / 2**20, seconds, faults)


def good_runs(work: Path) -> Iterator[tuple[str, Path]]:
    """Of each kind a checkpoint within its epoch."""
    for kind, options in KINDS.items():
        path = work / kind / "checkpoints" / "previous.ckpt"
        if not path.is_file():
            code = call(artart.train, *SMALL, *options, f"run_dir={work / kind}")
            assert code == 0, code
        yield kind, path


def compose_once() -> None:
    """Hydra composes the same settings for each file, which would take most of the time."""
    compose, known = Hydra.compose_config, dict[str, DictConfig]()

    def remembered(self: Hydra, *arguments: Any, **more: Any) -> DictConfig:
        key = f"{sys.argv[0]} {arguments} {sorted(more.items())}"
        if key not in known:
            known[key] = compose(self, *arguments, **more)
        return deepcopy(known[key])

    Hydra.compose_config = remembered  # type: ignore[method-assign]


def too_long(*_: object) -> None:
    raise TooLong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=2000, help="files")
    parser.add_argument("--first", type=int, default=0, help="number of the first")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, required=True, help="a folder for all that is made")
    parser.add_argument("--all", action="store_true", help="all six commands for each file")
    args = parser.parse_args()
    work: Path = args.work.absolute()
    for name in ("cell", "canary", "cache"):
        (work / name).mkdir(parents=True, exist_ok=True)
    (work / "canary" / "canary.py").write_text(CANARY.format("imported") + SONG)
    sys.path.append(str(work / "canary"))
    os.environ["XDG_CACHE_HOME"] = str(work / "cache")
    os.chdir(work / "cell")
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
    signal.signal(signal.SIGALRM, too_long)
    compose_once()
    paths = dict(good_runs(work))
    contents = [torch.load(path, weights_only=True) for path in paths.values()]
    Image.new("RGB", (16, 16)).save(picture := work / "picture.png")
    watch = Watch(work / "cell" / "out", work / "cache")
    allowed = {}
    for kind, path in paths.items():
        for name in COMMANDS:
            outcomes = [tried(name, kind, path, picture, watch) for _ in range(2)]
            assert [one.code for one in outcomes] == [0, 0], (name, outcomes)
            assert not any(one.faults for one in outcomes), (name, outcomes)
            allowed[name, kind] = 2 * max(one.megabytes for one in outcomes) + SLACK / 2**20
            print(f"good {kind:15} {name:9} {outcomes[1].seconds:5.1f} s {allowed[name, kind]:6.0f} MB", flush=True)
    gc.freeze()
    outcomes_of: dict[str, list[str]] = defaultdict(list)
    num_faults = 0
    for number in range(args.first, args.first + args.num):
        rng = random.Random(f"{args.seed}/{number}")
        path, which, done = mutated(contents, rng, work / "hostile")
        kind = list(paths)[which]
        for name in COMMANDS if args.all else rng.sample(COMMANDS, 3):
            outcome = tried(name, kind, path, picture, watch)
            if outcome.megabytes > allowed[name, kind]:
                outcome.faults.append(f"{outcome.megabytes:.0f} MB, more than {allowed[name, kind]:.0f}")
            outcomes_of[name].append(str(outcome.code) if not outcome.faults else "failed")
            num_faults += bool(outcome.faults)
            for fault in outcome.faults:
                told = f"FAILED {number} {name} {kind} {fault} | {outcome.line} | {done}"
                print(told.encode("ascii", "backslashreplace").decode()[:1500], flush=True)
        path.unlink()
        gc.collect()
        if (number + 1) % 100 == 0:
            print(f"{number + 1 - args.first} files, {num_faults} failures", flush=True)
    show(args.num, outcomes_of)
    sys.exit(bool(num_faults))


def show(num: int, outcomes_of: dict[str, list[str]]) -> None:
    counts = {name: Counter(outcomes) for name, outcomes in outcomes_of.items()}
    columns: Sequence[str] = ("0", "1", "2", "failed")
    table = Table("command", "calls", "used (0)", "a sentence (1)", "refused (2)", "failed")
    for name in (name for name in COMMANDS if name in counts):
        table.add_row(name, str(counts[name].total()), *(str(counts[name][column]) for column in columns))
    total = sum(counts.values(), Counter[str]())
    table.add_row("all", str(total.total()), *(str(total[column]) for column in columns))
    Console(width=120).print(f"{num} files", table)


if __name__ == "__main__":
    main()
