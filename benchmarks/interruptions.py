"""Interrupt runs at random moments, resume them, and compare them with uninterrupted ones.

    python -m benchmarks interruptions --trials 50

Each trial trains a small network in a process of its own, interrupts it at a random moment (some a second time),
resumes it by resume=auto, and compares the result bitwise with an uninterrupted run: weights, EMA, optimizer, schedule,
every point of every curve, the best score. Prints a line per trial and a table. A full disk is simulated by a small
tmpfs, which needs root. Exit code 1 if a trial failed.
"""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch import Callback, Trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]
from torch import Tensor

from artart import ArtError
from artart.checkpoints.load import read
from artart.io.page import Table
from benchmarks.harness import ROOT
from benchmarks.records import Record, Records

FREE = ("trials", "seed")
QUICK = {"trials": 1}
EPOCHS, STEPS = 4, 13  # 55 of 60 images, in batches of 4
SMALL = (
    *("image_size=16", "data.num_demo_images=60", "data.batch_size=4", "data.random_flip=true", "trainer=cpu"),
    *("trainer.log_every_n_steps=1", "+callbacks.brake._target_=benchmarks.interruptions.Brake"),
    "trusted_classes=[benchmarks.interruptions.Brake]",
    *("callbacks.grid.every_n_epochs=1", "callbacks.last.train_time_interval=0.005", "resume=auto"),
)
OBJECTIVES = {
    "reconstruction": ("loss=mse",),
    "diffusion": ("objective=diffusion", "loss=mse_diffusion", "sampler.num_steps=2"),
}
AT_FULL_SPEED = "+callbacks.brake.seconds=0"  # a run that is not interrupted
RESIDENCES = ("memory", "device", "auto")
CODES = {"kill -9": -9, "SIGTERM": 143, "SIGINT": 130, "exception": 1, "full disk": 1}
SIGNALS = {"kill -9": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT}
WITHIN = ("on_train_batch_start", "on_after_backward", "on_train_batch_end")
BETWEEN = ("on_validation_start", "on_validation_batch_end", "on_validation_end", "on_train_epoch_end")
HOOKS = {"mid-epoch": WITHIN, "boundary": (*BETWEEN, "on_train_epoch_start")}
DELAYS = {"mid-epoch": 0.08, "boundary": 0.4}  # seconds, at most, from a step's line in the log
PARTS = ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers")
NUMBERS = ("epoch", "global_step", "images_seen")
DISK = 192 * 2**20  # holds all that a run writes
CHECKPOINT = 13 * 2**20  # no checkpoint is smaller
TIMEOUT = 300  # seconds


class Brake(Callback):
    """Waits between events, to leave time for an interruption; raises at `crash`, a hook and a step: hook@step."""

    def __init__(self, crash: str = "", seconds: float = 0.015) -> None:
        self.crash = crash
        self.seconds = seconds
        for hook in (*WITHIN, *HOOKS["boundary"]):
            setattr(self, hook, lambda trainer, *_, hook=hook, **__: self._pass(hook, trainer))

    def _pass(self, hook: str, trainer: Trainer) -> None:
        time.sleep(self.seconds)
        if f"{hook}@{trainer.global_step}" == self.crash:
            raise RuntimeError("injected")


class Trial(NamedTuple):
    number: int
    how: str
    place: str
    objective: str
    storage: str


class Ended(NamedTuple):
    """Outcome of a trial."""

    events: list[str]
    resumed_at: int | None  # None: nothing had been saved
    faults: list[str]  # problems when it stopped
    differs: list[str]  # from the uninterrupted run, at the end


def trials(count: int) -> Iterator[Trial]:
    for k in range(count):
        place, objective = list(HOOKS)[k // 10 % 2], list(OBJECTIVES)[k // 5 % 2]
        yield Trial(k + 1, list(CODES)[k % 5], place, objective, RESIDENCES[k % 3])


def start(folder: Path, objective: str, storage: str, *more: str) -> subprocess.Popen[bytes]:
    """Start a training process; its output goes to a file beside the folder."""
    common = (*SMALL, f"trainer.max_epochs={EPOCHS}", *OBJECTIVES[objective])
    options = (*common, f"data.storage={storage}", f"run_dir={folder}", *more)
    places = {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(folder.parent / "cache")}
    environment, command = os.environ | places | {"OMP_NUM_THREADS": "1"}, [sys.executable, "-m", "artart.train"]
    with folder.with_suffix(".txt").open("ab") as output:
        return subprocess.Popen([*command, *options], env=environment, stdout=output, stderr=output)


def moment(trial: Trial, after: int, rng: random.Random) -> int | None:
    """A random step to interrupt at; None if there is none left."""
    last = EPOCHS - (trial.how in ("SIGTERM", "SIGINT"))  # after the last validation nothing waits for a signal
    steps = [epoch * STEPS for epoch in range(1, last + 1)]
    if trial.place == "mid-epoch":
        latest = STEPS // 2 if trial.how == "full disk" else STEPS - 2  # the checkpoint that fails is to be within too
        steps = [step for step in range(EPOCHS * STEPS) if 0 < step % STEPS <= latest]
    left = [step for step in steps if step > after]
    return rng.choice(left) if left else None


def wait_for(step: int, log: Path, length: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until the log has the step's line after the first `length` bytes, or the process has ended."""
    line = re.compile(rb"step %d  " % step)
    while process.poll() is None and not (log.is_file() and line.search(log.read_bytes(), length)):
        time.sleep(0.002)


def keep_full(folder: Path, left: int, process: subprocess.Popen[bytes]) -> None:
    """Keep at most so many bytes of the file system free until the process ends."""
    filler = folder / "filler"
    with filler.open("wb") as file:
        while process.poll() is None:
            disk = os.statvfs(folder)
            if (size := disk.f_bavail * disk.f_frsize - left) > 0:
                with suppress(OSError):  # less is free by now
                    os.posix_fallocate(file.fileno(), filler.stat().st_size, size)
            time.sleep(0.002)
    filler.unlink()


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def interrupt(trial: Trial, folder: Path, step: int, rng: random.Random) -> tuple[int, str, list[str]]:
    """Start or resume, and stop: return the exit code, a description, and what was wrong."""
    log, output = folder / "train.log", folder.with_suffix(".txt")
    lengths = [path.stat().st_size if path.is_file() else 0 for path in (log, output)]
    hook, delay = rng.choice(HOOKS[trial.place]), rng.uniform(0, DELAYS[trial.place])
    left = rng.choice((0, rng.randrange(CHECKPOINT)))  # bytes
    crash = [f"+callbacks.brake.crash={hook}@{step}"] if trial.how == "exception" else []
    process = start(folder, trial.objective, trial.storage, *crash)
    if not crash:
        wait_for(step, log, lengths[0], process)
        time.sleep(delay)
    stopped_at = time.monotonic()
    if trial.how == "full disk":
        keep_full(folder, left, process)
    elif trial.how in SIGNALS:
        process.send_signal(SIGNALS[trial.how])
    code = process.wait(TIMEOUT)
    events = f"{hook}@{step}" if crash else f"step {step} + {1000 * delay:.0f} ms"
    events += f", {left} bytes left" if trial.how == "full disk" else ""
    events += "" if crash else f", ended {time.monotonic() - stopped_at:.1f} s later"
    new, terminal = (path.read_bytes()[before:].decode() for path, before in zip((log, output), lengths, strict=True))
    return code, events, [*wrong(trial.how, code, new, terminal, saved_step(folder))]


def wrong(how: str, code: int, log: str, terminal: str, saved: int | None) -> Iterator[str]:
    """Check a stop: exit code, output, and after a signal that the last step is saved."""
    if code != CODES[how]:
        yield f"exit code {code}"
    if ("Traceback" in terminal) != (how == "exception"):
        yield f"a trace, or none: {terminal[-300:]}"
    if how == "full disk" and "No space left on device; what was written before is intact" not in terminal:
        yield f"no sentence: {terminal[-300:]}"
    if how in ("SIGTERM", "SIGINT"):
        if saved != (done := int(re.findall(r"step (\d+)  ", f"step 0  {log}")[-1])):
            yield f"stopped in step {done}, saved step {saved}"
        if len(re.findall(r"step \d+  ", log.partition("stopping after this step")[2])) > 1:
            yield "went on after the signal"
        if "resume=auto run_dir=" not in terminal:
            yield "does not say how to go on"


def saved_step(folder: Path) -> int | None:
    path = folder / "checkpoints" / "last.ckpt"
    try:
        return read(path)["global_step"] if path.is_file() else None
    except ArtError:
        return -1  # damaged; resuming will fail


def attempt(trial: Trial, folder: Path, whole: Path, rng: random.Random) -> Ended | None:
    """Run one trial; None if the run ended before it could be interrupted."""
    end = Ended([], None, [], [])
    for _ in range(rng.choice((1, 1, 2))):
        if (step := moment(trial, end.resumed_at or 0, rng)) is not None:
            code, events, faults = interrupt(trial, folder, step, rng)
            if code == 0 or (folder / "result.json").is_file():
                return None
            end = Ended(
                [*end.events, f"{events}, saved {saved_step(folder)}"], saved_step(folder), end.faults + faults, []
            )
            if parts := [path.name for path in folder.rglob("*.part")]:
                (end.events if trial.how == "kill -9" else end.faults).append(f"left behind: {', '.join(parts)}")
    if code := start(folder, trial.objective, trial.storage, AT_FULL_SPEED).wait(TIMEOUT):
        end.differs.append(f"exit code {code} when it went on: {folder.with_suffix('.txt').read_text()[-300:]}")
    else:
        end.differs.extend(differences(folder, whole, end.resumed_at))
    return end


def differences(folder: Path, whole: Path, saved: int | None) -> Iterator[str]:
    """Differences between an interrupted run and the uninterrupted one."""
    ours, wanted = ({**end_of(run), **points_of(run)} for run in (folder, whole))
    if different := sorted(key for key in ours.keys() | wanted if ours.get(key) != wanted.get(key)):
        yield f"{len(different)} of {len(wanted)} differ: {', '.join(different)}"
    if (resumed_at := json.loads((folder / "result.json").read_text())["resumed_at_step"]) != saved:
        yield f"resumed_at_step={resumed_at}, not {saved}"


def end_of(run: Path) -> dict[str, Any]:
    """Contents of last.ckpt and result.json, by path."""
    content = read(run / "checkpoints" / "last.ckpt")
    result = json.loads((run / "result.json").read_text())
    of_result = {key: result[key] for key in ("best", "epochs", "steps", "images_seen")}
    return dict(flat({part: content.get(part) for part in (*PARTS, *NUMBERS)} | {"result": of_result}))


def flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Each value in nested data with its path; tensors as bytes."""
    if isinstance(value, (Mapping, list, tuple)):
        for name, one in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from flat(one, f"{key}.{name}" if key else str(name))
    else:
        yield key, (value.dtype, value.shape, value.numpy().tobytes()) if isinstance(value, Tensor) else repr(value)


def points_of(run: Path) -> dict[str, list[tuple[int, float]]]:
    """All TensorBoard curves except that of time; also duplicate points, which TensorBoard would hide."""
    events = EventAccumulator(
        str(run / "tensorboard"), size_guidance={"scalars": 0}, purge_orphaned_data=False
    ).Reload()
    tags = [tag for tag in events.Tags()["scalars"] if tag != "images_per_second"]
    return {f"curve {tag}": sorted((point.step, point.value) for point in events.Scalars(tag)) for tag in tags}


def options(parser: ArgumentParser) -> None:
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--only", type=int, nargs="*", help="numbers of trials, from 1; else all")
    parser.add_argument("--seed", type=int, default=0)


def tried(trial: Trial, seed: int, runs: Path) -> dict[str, Any]:
    """Run a trial until it is interrupted; its folder is kept if the result differs."""
    folder, rng, end = runs / f"trial_{trial.number:02d}", random.Random(f"{seed} {trial.number}"), None
    while end is None:
        shutil.rmtree(folder, ignore_errors=True)
        with small_disk(folder) if trial.how == "full disk" else nullcontext():
            end = attempt(trial, folder, runs / trial.objective, rng)
    words = "; ".join([*end.events, *end.faults]), "; ".join(end.differs) or "equal"
    print(*trial, *(" ".join(text.split()) for text in words), sep=" | ", flush=True)
    if not end.differs:
        shutil.rmtree(folder)
    return {**trial._asdict(), **end._asdict()}


def run(args: Namespace, records: Records) -> bool:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background jobs and their children
    runs = args.out / "runs"
    shutil.rmtree(runs, ignore_errors=True)
    runs.mkdir(parents=True)
    chosen = [trial for trial in trials(args.trials) if not args.only or trial.number in args.only]
    for objective in sorted({trial.objective for trial in chosen}):
        if code := start(runs / objective, objective, "memory", AT_FULL_SPEED).wait(TIMEOUT):
            sys.exit(f"exit code {code} uninterrupted: {(runs / objective).with_suffix('.txt').read_text()}")
    ended = [records.once({"number": one.number, "seed": args.seed}, tried, one, args.seed, runs) for one in chosen]
    return any(end["faults"] or end["differs"] for end in ended)


def tables(records: list[Record]) -> list[Table]:
    rows = []
    kinds = {(one["how"], one["place"], one["objective"]) for one in records}
    for kind in (*sorted(kinds, key=lambda kind: (list(CODES).index(kind[0]), kind)), ("all", "", "")):
        ends = [one for one in records if kind[0] == "all" or (one["how"], one["place"], one["objective"]) == kind]
        anew = sum(one["resumed_at"] is None for one in ends)
        equal, well = (sum(not one[name] for one in ends) for name in ("differs", "faults"))
        rows.append([*kind, *map(str, (len(ends), len(ends) - anew, anew, equal, well))])
    header = [
        "how",
        "place",
        "objective",
        "trials",
        "resumed at a step > 0",
        "begun anew",
        "bitwise equal",
        "well ended",
    ]
    return [Table("interrupted and resumed", header, rows)]
