"""What benchmarks share: their command, records of what they measure, and tables of these.

A benchmark is a module of this package whose docstring has its command. It has:

    options(parser)          adds its options
    run(args, records)       measures and records; existing records are not measured again
    tables(records)          tables of the records of one machine, of all with MACHINES = "mixed"
    QUICK                    options of --quick, which CI runs; optional
    FREE                     options that are settings of a record, not of all; optional
    VARIANT                  an option whose value becomes part of the name of results; optional

Each record is a JSON file in --out, so several processes can share the work and a later call adds to it. --write also
merges them into docs/results/NAME.json and renders docs/results/NAME.md from that.
"""

import ast
import os
import platform
import shlex
import subprocess
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from importlib import import_module
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from PIL import Image
from rich.console import Console

from artart.data import demo
from artart.io.files import sha256
from benchmarks.records import Records, by_machine, write, written

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
NO_SETTINGS = {  # what does not change what is measured
    *("root", "metadata", "weights", "out", "write", "quick", "seeds", "only", "rounds", "rates"),
    *("only_train", "title", "figures"),
}
PATHS = {  # words in their place
    "--root": "",
    "--metadata": "TABLE",
    "--weights": "WEIGHTS",
    "--vgg": "VGG-16",
    "--checkpoint": "CHECKPOINT",
}
NO_PATHS = ("auto", "random", "imagenet")  # values of --vgg and --weights
NUM_DEMO_IMAGES = 160


def machine(device: str = "auto") -> str:
    """Processor or GPU, threads and torch."""
    if device != "cpu" and torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    info = Path("/proc/cpuinfo")
    names = [line.partition(": ")[2] for line in info.read_text().splitlines() if "model name" in line] * info.exists()
    name = (names or [platform.processor() or platform.machine()])[0]
    num = torch.get_num_threads()
    return f"{name}, {os.cpu_count()} cores, {num} thread{'s' * (num > 1)}, torch {torch.__version__}"


def commit() -> str:
    """Of the working tree; with a + if its code has changes."""

    def git(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False)

    if not (found := git("rev-parse", "--short", "HEAD").stdout.strip()):
        return "unknown"
    return found + "+" * git("diff", "--quiet", "HEAD", "--", "artart", "benchmarks", "conf").returncode


def in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a new process, whose memory and caches nothing else has used."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def demo_art(folder: Path) -> Path:
    """A folder of demo art as JPEGs, in a sub-folder for each class, and beside it a table of invented artists."""
    lines = ["path,class,artist"]
    for k, name in product(range(NUM_DEMO_IMAGES // len(demo.CLASS_NAMES)), demo.CLASS_NAMES):
        path = folder / name / f"{k:03}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(demo.paint(name, k, 32)).save(path)
        lines.append(f"{path.relative_to(folder.parent)},{name},artist {k % 2}")
    folder.with_suffix(".csv").write_text("\n".join(lines) + "\n")
    return folder


def shown(words: Sequence[str]) -> str:
    """The command, with words in the place of paths."""
    kept = list[str]()
    for before, word in zip(("", *words), words, strict=False):
        if before in PATHS and word not in NO_PATHS:
            word = PATHS[before] or Path(word).name.upper()
        if word not in ("--write", "--out") and before != "--out":
            kept.append(word)
    return shlex.join(["python", "-m", "benchmarks", *kept])


def setting(value: Any) -> str:
    """A value in words; of a file the digest, wherever it lies."""
    return sha256(Path(value))[:12] if isinstance(value, str | Path) and Path(value).is_file() else str(value)


def names() -> dict[str, str]:
    """All benchmarks and the first line of their docstrings."""
    docs = {
        path.stem: ast.get_docstring(ast.parse(path.read_text())) or "" for path in Path(__file__).parent.glob("*.py")
    }
    return {name: doc.splitlines()[0] for name, doc in sorted(docs.items()) if f"python -m benchmarks {name}" in doc}


def parser_of(name: str, module: ModuleType) -> ArgumentParser:
    parser = ArgumentParser(
        f"python -m benchmarks {name}", None, module.__doc__, formatter_class=RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help=f"folder of the records (default: outputs/benchmarks/{name})")
    parser.add_argument("--write", action="store_true", help=f"add the records to docs/results/{name}.json and .md")
    parser.add_argument("--quick", action="store_true", help="try it: demo art, few steps; figures mean nothing")
    module.options(parser)
    return parser


def parse(name: str, module: ModuleType, words: Sequence[str]) -> Namespace:
    """The options; --quick changes the defaults of others."""
    parser = parser_of(name, module)
    if "--quick" in words:
        parser.set_defaults(**getattr(module, "QUICK", {}))
        for action in parser._actions:
            action.required = False
    args = parser.parse_args(words)
    args.title = "_".join([name, *(getattr(args, option) for option in [getattr(module, "VARIANT", None)] if option)])
    args.out = (args.out or Path("outputs", "benchmarks", args.title + "_quick" * args.quick)).absolute()
    args.figures = [args.out, *[DOCS / "images"] * args.write]  # folders of figures
    if args.quick and getattr(args, "root", "") is None:
        args.root = demo_art(args.out / "demo_art")
        args.metadata = args.root.with_suffix(".csv")
    return args


def main(words: Sequence[str] | None = None) -> None:
    words = sys.argv[1:] if words is None else words
    if not words or words[0] not in names():
        print(*(f"{name:18} {line}" for name, line in names().items()), sep="\n")
        raise SystemExit(2 * bool(words and words[0] not in ("-h", "--help")))
    name, module = words[0], import_module(f"benchmarks.{words[0]}")
    args = parse(name, module, words[1:])
    free = {*NO_SETTINGS, *getattr(module, "FREE", ())}
    settings = {key: setting(value) for key, value in vars(args).items() if key not in free}
    settings |= {"data": args.root.name} if getattr(args, "root", None) else {}
    if args.write:
        written(DOCS / "results" / f"{args.title}.json", settings)
    torch.set_num_threads(getattr(args, "threads", None) or torch.get_num_threads())
    stamp = {"command": shown(words), "commit": commit(), "machine": machine(getattr(args, "device", "auto"))}
    records = Records(args.out, settings, stamp | {"date": date.today().isoformat()})
    code = module.run(args, records)
    console = Console(width=max(200, Console().width))
    for one in by_machine(module, records):
        console.print(one.for_terminal())
    console.print(f"{records.stamp['machine']}; commit {records.stamp['commit']}; records: {records.folder}")
    if args.write and list(records):
        write(args.title, module, records, settings, DOCS / "results")
    raise SystemExit(int(code or 0))
