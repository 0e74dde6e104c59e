"""The commands on a system like Windows, simulated: no POSIX modules, spawned processes, open files that stay."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
LIKE_WINDOWS = '''
"""Python imports this before anything else, in spawned processes too."""
import multiprocessing.context as context
import multiprocessing.util  # on Windows it needs none of what is hidden
import os
import signal
import sys
import tempfile
import warnings

tempfile.TemporaryFile = tempfile.NamedTemporaryFile  # the former removes open files
for name in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[name] = None  # an ImportError
for module, names in {
    os: "fork forkpty getpgid killpg mkfifo sched_getaffinity sysconf O_DIRECTORY O_TMPFILE",
    signal: "pthread_sigmask",
}.items():
    for name in names.split():
        delattr(module, name)
for name in ("fork", "forkserver"):
    del context._concrete_contexts[name]
context._default_context._default_context = context._concrete_contexts["spawn"]
multiprocessing.get_all_start_methods = lambda: ["spawn"]
os_open = os.open


def open_file(path, *args, **options):
    """Folders cannot be opened."""
    if os.path.isdir(path):
        raise PermissionError(13, "Permission denied", path)
    return os_open(path, *args, **options)


def refuse_if_open(function):
    """Files that are open or mapped cannot be moved, replaced or removed, nor folders around them moved."""

    def checked(*paths, **options):
        for path in paths:
            path = os.path.realpath(os.fsdecode(path))
            held = [line.split(maxsplit=5)[5].strip() for line in open("/proc/self/maps") if line.count("/")]
            for number in os.listdir("/proc/self/fd"):
                try:
                    held.append(os.readlink(f"/proc/self/fd/{number}"))
                except OSError:
                    pass
            if not path.startswith("/dev/") and any(one == path or one.startswith(f"{path}/") for one in held):
                raise PermissionError(32, "The process cannot access the file", path)
        return function(*paths, **options)

    return checked


os.open = open_file
for name in ("rename", "replace", "unlink", "remove"):
    setattr(os, name, refuse_if_open(getattr(os, name)))
warnings.filterwarnings("ignore", category=EncodingWarning)
warnings.filterwarnings("error", category=EncodingWarning, module=r"artart\\.")  # Windows reads cp1252
'''
ONE_AFTER_THE_OTHER = """
import json, runpy, sys
for command, *words in json.loads(sys.argv[1]):
    sys.argv = [command, *words]
    runpy.run_module(f"artart.{command}", run_name="__main__", alter_sys=True)  # which spawned processes import again
"""  # python -m, in one process that imports PyTorch once


@pytest.fixture
def art(tmp_path: Path) -> Path:
    """Noise in two folders, one with an accent."""
    rng = np.random.default_rng(0)
    for name in ("café", "plain"):
        (tmp_path / "art" / name).mkdir(parents=True)
        for k in range(12):
            image = Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8))
            image.save(tmp_path / "art" / name / f"{k}.png")
    return tmp_path / "art"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="simulates another system with /proc")
def test_commands_run_on_a_system_without_posix(art, tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(LIKE_WINDOWS)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path / 'site'}:{ROOT}", "PYTHONWARNDEFAULTENCODING": "1"}
    data = (f"data.root={art}", "data.cache_dir=cache", "data.num_workers=2")
    train = ("image_size=16", "loss=mse", "trainer.accelerator=cpu", "data.val_fraction=0.3")
    checkpoint = "checkpoint=run/checkpoints/last.ckpt"
    for commands in (
        [
            ("prepare", "image_size=16", "run_dir=prepared", *data),
            ("train", *train, *data, "data.batch_size=4", "trainer.max_steps=1", "run_dir=run"),
        ],
        [
            ("train", *train, *data, "data.batch_size=4", "trainer.max_steps=2", "run_dir=run", "resume=auto"),
            ("generate", checkpoint, f"input={art}", "out=made"),
            ("evaluate", checkpoint, "metrics.weights=null", "data.cache_dir=cache", "out=judged"),
            ("inspect", "run/checkpoints/last.ckpt"),
        ],
    ):
        call = [sys.executable, "-c", ONE_AFTER_THE_OTHER, json.dumps(commands)]
        done = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (commands, done.stdout, done.stderr)
        assert "Traceback" not in done.stdout + done.stderr
    assert len(list((tmp_path / "made").rglob("*.png"))) == 24 + 1
    assert "café" in (tmp_path / "judged" / "report.html").read_text(encoding="utf-8")
