"""Fuzz all commands that read checkpoints with randomly damaged files.

    python -m benchmarks fuzz_checkpoints --num 2000 --seed 0 --work DIR

Trains three tiny networks in DIR, mutates their checkpoints (mutations.py), and passes each file, in this process, to
three of the six commands that read one: generate, evaluate, export, inspect, init_from= and resume=. A file may be
refused (exit code 2, or 1 with one line) or used (0). No file may start a process, access the network, import or call
what it names, write outside the given folder, leave files when it is refused, cause a traceback or more than one line,
or need much more memory or time than a good file. Prints counts and each failure with the number that reproduces it:
`--first NUMBER --num 1`. Exit code 1 if there was a failure. Needs Linux; DIR becomes the working folder.
"""

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
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Iterator, Sequence
from copy import deepcopy
from datetime import datetime
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from hydra._internal.hydra import Hydra
from omegaconf import DictConfig
from PIL import Image

import artart.evaluate
import artart.export
import artart.generate
import artart.inspect
import artart.train
from artart.io.page import Table
from benchmarks.mutations import mutated
from benchmarks.records import Record, Records
from benchmarks.watch import Watch

VIT = ("model=vit", "model.hidden_size=8", "model.depth=1", "model.num_heads=1")
UNET = ("model=unet", "model.model_channels=8", "model.channel_mult=[1]", "model.num_res_blocks=1")
DIFFUSION = ("objective=diffusion", "loss=mse_diffusion", "sampler.num_steps=1", "data.val_fraction=0.6")
KINDS = {"reconstruction": ("loss=mse",), "unet": (*DIFFUSION, *UNET), "vit": (*DIFFUSION, *VIT)}
SMALL = (
    *("image_size=16", "data.num_demo_images=40", "data.batch_size=8", "trainer=cpu", "trainer.max_epochs=1"),
    *("trainer.log_every_n_steps=2", "callbacks.grid.num_images=2", "callbacks.last.train_time_interval=1e-6"),
)
COMMANDS = ("generate", "evaluate", "export", "inspect", "init_from", "resume")
OUTCOMES = ("0", "1", "2", "failed")
FREE = ("num", "first", "seed", "work")
QUICK = {"num": 1, "kinds": ["vit"], "commands": ["generate", "export", "inspect"]}
SECONDS = 20  # of the processor, so that other work on the machine does not count
WAIT = 600  # seconds on the clock
SLACK = 100 * 2**20  # bytes beyond twice what a good file takes
LIMIT = 6 * 2**30  # bytes that this process may hold


class TooLong(BaseException):
    """Raised after the time limit; no command catches it."""


def raise_too_long(*_: object) -> None:
    raise TooLong


class Outcome(NamedTuple):
    code: int | str
    line: str  # the last on stderr
    megabytes: float
    seconds: float
    faults: list[str]


def call(module: ModuleType, *arguments: str) -> int | str:
    """Run a command as in a process of its own; return its exit code, or what it raised."""
    sys.argv = [module.__name__, *arguments]
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_PROF, SECONDS + 5)
    signal.alarm(WAIT)
    try:
        module.run()
    except SystemExit as stop:
        return stop.code or 0
    except TooLong:
        return f"over {SECONDS} s"
    except BaseException as error:  # noqa: BLE001
        return f"Traceback: {type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
    return 0


def command(name: str, kind: str, path: Path, image: Path) -> int | str:
    few = ("num_images=1", "sampler.num_steps=1") if kind != "reconstruction" else (f"input={image}",)
    judged = ("num_images=20", "sampler.num_steps=1") if kind != "reconstruction" else ()
    train = (artart.train, *SMALL, *KINDS[kind], "run_dir=out")
    calls: dict[str, tuple[Any, ...]] = {
        "generate": (artart.generate, f"checkpoint={path}", "out=out", "registry=null", *few),
        "evaluate": (artart.evaluate, f"checkpoint={path}", "out=out", "metrics.weights=null", *judged),
        "export": (artart.export, f"checkpoint={path}", "out=out/net.safetensors"),
        "inspect": (artart.inspect, str(path)),
        "init_from": (*train, "trainer.max_steps=1", f"init_from={path}"),
        "resume": (*train, f"resume={path}"),
    }
    return call(*calls[name])


def peak() -> int:
    """Peak resident memory of this process in bytes since the counter was reset."""
    return 1024 * int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])


def listing() -> set[tuple[str, int]]:
    """All files in the working folder with their modification times."""
    return {(str(item), item.lstat().st_mtime_ns) for item in Path().rglob("*")}


def tried(name: str, kind: str, path: Path, image: Path, watch: Watch) -> Outcome:
    """Run one command in the working folder and restore the folder."""
    shutil.rmtree("out", ignore_errors=True)
    before = listing()
    Path("/proc/self/clear_refs").write_text("5")
    held, began = peak(), time.process_time()
    out, error = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    watch.seen = []
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error), warnings.catch_warnings():
        warnings.simplefilter("default")
        code = command(name, kind, path, image)
    faults, watch.seen = watch.seen, None
    taken, seconds = peak() - held, time.process_time() - began
    printed, message = (stream.buffer.getvalue().decode() for stream in (out, error))
    lines = message.splitlines()
    after = listing()
    if code not in (0, 1, 2):
        faults.append(f"ended with {code}")
    if "Traceback" in message + printed:
        faults.append(f"a trace: {lines[-1]}")
    elif code in (1, 2) and len(lines) != 1:
        faults.append(f"{len(lines)} lines: {message[:500]!r}")
    if odd := re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", message + printed):
        faults.append(f"{odd[0]!r} on the terminal")
    if code == 2 and (differ := sorted(name for name, _ in before ^ after)):
        faults.append(f"refused, but wrote {differ[:4]}")
    if seconds > SECONDS:
        faults.append(f"{seconds:.0f} s")
    faults += watch.canary()
    if strays := sorted(name for name, _ in before ^ after if name.partition("/")[0] != "out"):
        raise AssertionError(f"{name} {path} wrote {strays}")
    return Outcome(code, lines[-1] if lines else "", taken / 2**20, seconds, faults)


def good_runs(work: Path, kinds: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """A checkpoint from within an epoch for each kind of network."""
    for kind in kinds:
        path = work / kind / "checkpoints" / "previous.ckpt"
        if not path.is_file():
            code = call(artart.train, *SMALL, *KINDS[kind], f"run_dir={work / kind}")
            assert code == 0, code
        yield kind, path


def compose_once() -> None:
    """Cache Hydra's composition of settings, which would take most of the time."""
    compose, known = Hydra.compose_config, dict[str, DictConfig]()

    def remembered(self: Hydra, *arguments: Any, **more: Any) -> DictConfig:
        key = f"{sys.argv[0]} {arguments} {sorted(more.items())}"
        if key not in known:
            known[key] = compose(self, *arguments, **more)
        return deepcopy(known[key])

    Hydra.compose_config = remembered  # type: ignore[method-assign]


def options(parser: ArgumentParser) -> None:
    parser.add_argument("--num", type=int, default=2000, help="files")
    parser.add_argument("--first", type=int, default=0, help="number of the first")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=[*KINDS], help="networks")
    parser.add_argument("--commands", nargs="*", choices=COMMANDS, default=[*COMMANDS], help="that read a file")
    parser.add_argument("--work", type=Path, required=True, help="a folder for all that is made")
    parser.set_defaults(threads=1)


def prepare(work: Path) -> None:
    """Make the working folder of this process, and its limits."""
    for name in ("cell", "cache"):
        (work / name).mkdir(parents=True, exist_ok=True)
    os.environ["XDG_CACHE_HOME"] = str(work / "cache")
    os.chdir(work / "cell")
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
    for alarm in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(alarm, raise_too_long)
    compose_once()


def allowed_memory(name: str, kind: str, path: Path, image: Path, watch: Watch) -> float:
    """Megabytes that a command may take for a kind of network, from what it takes for a good file."""
    outcomes = [tried(name, kind, path, image, watch) for _ in range(2)]
    assert [one.code for one in outcomes] == [0, 0], (name, outcomes)
    assert not any(one.faults for one in outcomes), (name, outcomes)
    allowed = 2 * max(one.megabytes for one in outcomes) + SLACK / 2**20
    print(f"good {kind:15} {name:9} {outcomes[1].seconds:5.1f} s {allowed:6.0f} MB", flush=True)
    return allowed


def fuzz(args: Namespace) -> dict[str, Any]:
    """The outcomes of each command."""
    work: Path = (args.work or args.out / "work").absolute()
    prepare(work)
    paths = dict(good_runs(work, args.kinds))
    contents = [torch.load(path, weights_only=True) for path in paths.values()]
    Image.new("RGB", (16, 16)).save(image := work / "image.png")
    watch = Watch(work / "canary", work / "cell" / "out", work / "cache")
    allowed = cache(lambda name, kind: allowed_memory(name, kind, paths[kind], image, watch))
    gc.freeze()
    counts: dict[str, Counter[str]] = {name: Counter() for name in COMMANDS}
    for number in range(args.first, args.first + args.num):
        rng = random.Random(f"{args.seed}/{number}")
        path, which, done = mutated(contents, rng, work / "hostile")
        kind = list(paths)[which]
        for name in rng.sample(args.commands, min(3, len(args.commands))):
            limit = allowed(name, kind)
            outcome = tried(name, kind, path, image, watch)
            if outcome.megabytes > limit:
                outcome.faults.append(f"{outcome.megabytes:.0f} MB, more than {limit:.0f}")
            counts[name][str(outcome.code) if not outcome.faults else "failed"] += 1
            for fault in outcome.faults:
                message = f"FAILED {number} {name} {kind} {fault} | {outcome.line} | {done}"
                print(message.encode("ascii", "backslashreplace").decode()[:1500], flush=True)
        path.unlink()
        gc.collect()
        if (done_so_far := number + 1 - args.first) % 100 == 0:
            print(f"{done_so_far} files: {sum(counts.values(), Counter())}", flush=True)
    return {"outcomes": counts}


def run(args: Namespace, records: Records) -> bool:
    key = {"first": args.first, "num": args.num, "seed": args.seed, "started": datetime.now().isoformat()}
    outcomes = records.once(key, fuzz, args)["outcomes"]
    return any("failed" in own for own in outcomes.values())


def tables(records: list[Record]) -> list[Table]:
    sums = {name: sum((Counter(one["outcomes"][name]) for one in records), Counter()) for name in COMMANDS}
    sums["all"] = sum(sums.values(), Counter())
    rows = [[name, *map(str, (own.total(), *(own[word] for word in OUTCOMES)))] for name, own in sums.items()]
    header = ["command", "calls", "used (0)", "a sentence (1)", "refused (2)", "failed"]
    return [Table(f"{sum(record['num'] for record in records)} files", header, rows)]
