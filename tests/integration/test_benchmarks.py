"""Each benchmark runs with --quick; its figures mean nothing then."""

import contextlib
import json
import subprocess
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

from artart.data import scan
from artart.features import pretrained
from benchmarks import harness, host_waits, interruptions, step, training

OWN_PROCESS = ("fuzz_checkpoints",)  # it limits the memory of its process


@pytest.fixture
def run(forking, tmp_path, few_processes, small_features) -> Callable[..., int]:
    def run(name: str, *words: str) -> int:
        if name in OWN_PROCESS:
            process = forking.start(harness.main, [name, *words], output=tmp_path / "output", folder=tmp_path)
            return process.wait()
        with pytest.raises(SystemExit) as stop:
            harness.main([name, *words])
        return stop.value.code

    return run


@pytest.fixture
def few_processes(call, forking, monkeypatch) -> None:
    """Trainings, evaluations and lines of Python run in this process, which has imported what they need.

    Those that are interrupted run in others, which one has forked that has imported it too.
    """

    spent_by_a_process = training.spent

    def spent(command: list[str], log: Path, cwd: Path | None = None, **environment: str) -> tuple[float, float]:
        if command[1] not in ("-c", "-m"):
            return spent_by_a_process(command, log, cwd, **environment)
        before = time.perf_counter(), time.process_time()
        with contextlib.chdir(cwd or Path.cwd()):
            if command[1] == "-c":
                exec(command[2], {})
            else:
                assert call(import_module(command[2]), *command[3:]) == 0
        return time.perf_counter() - before[0], time.process_time() - before[1]

    monkeypatch.setattr(training, "spent", spent)
    monkeypatch.setattr(step, "in_own_process", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr(step, "SIDE_OF_MATMUL", 256)
    monkeypatch.setattr(scan, "MAX_IN_PROCESS", harness.NUM_DEMO_IMAGES + 1)
    monkeypatch.setattr(host_waits, "COMMON", (*host_waits.COMMON, "data.num_demo_images=60"))  # enough, as in its test
    monkeypatch.setattr(interruptions, "EPOCHS", 1)
    popen = {"Popen": forking.popen, "run": subprocess.run}
    monkeypatch.setattr(interruptions, "subprocess", SimpleNamespace(**popen))


@pytest.fixture
def small_features(monkeypatch, tmp_path) -> None:
    """AlexNet sees a twelfth of the pixels; its features are kept for nobody else."""
    monkeypatch.setattr(pretrained, "INPUT_SIZE", 64)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.slow
@pytest.mark.parametrize("name", harness.names())
def test_a_quick_benchmark_leaves_records_and_a_table(name, run, tmp_path, monkeypatch, alexnet_weights, diffusion_run):
    module = import_module(f"benchmarks.{name}")
    monkeypatch.setattr(harness, "DOCS", tmp_path / "docs")
    (tmp_path / "docs" / "images").mkdir(parents=True)
    usage = harness.parser_of(name, module).format_usage()
    words = ["--quick", "--out", str(tmp_path / "out"), *["--weights", str(alexnet_weights)] * ("--weights" in usage)]
    words += ["--write"] * (name not in (*OWN_PROCESS, "figures"))
    words += ["--checkpoint", str(diffusion_run / "checkpoints" / "last.ckpt")] * ("--checkpoint" in usage)
    assert run(name, *words) == 0
    if name == "figures":
        assert len([*(tmp_path / "out").glob("*.png")]) == 5
        return
    made = [json.loads(path.read_text()) for path in (tmp_path / "out" / "records").glob("*.json")]
    assert made
    assert all(one["commit"] and one["machine"] for one in made)
    assert module.tables(made)[0].rows
    if name not in OWN_PROCESS:
        (text,) = (path.read_text() for path in (tmp_path / "docs" / "results").glob("*.md"))
        assert text.startswith(f"# {harness.names()[name].rstrip('.')}\n")
        assert text.count("\n|") >= 3
