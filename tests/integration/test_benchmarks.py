"""Each benchmark runs with --quick; its figures mean nothing then."""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from artart.data import scan
from benchmarks import harness, text, training

ROOT = Path(__file__).parents[2]
FAST = ("overfit",)
LONG = ("end_to_end", "interruptions", "recipe", "text")  # whose --quick takes a minute: run it by hand
OWN_PROCESS = ("fuzz_checkpoints",)  # it limits the memory of its process


def run(name: str, *words: str) -> int:
    if name in OWN_PROCESS:
        command = [sys.executable, "-m", "benchmarks", name, *words]
        return subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.DEVNULL).returncode
    with pytest.raises(SystemExit) as stop:
        harness.main([name, *words])
    return stop.value.code


@pytest.fixture
def few_processes(call, monkeypatch) -> None:
    """Trainings and evaluations run in this process, which has imported what they need."""

    spent_by_a_process = training.spent

    def spent(command: list[str], *more: Any, **environment: str) -> tuple[float, float]:
        if command[1] != "-m":
            return spent_by_a_process(command, *more, **environment)
        assert call(import_module(command[2]), *command[3:]) == 0
        return 1.0, 1.0

    for module in (training, text):
        monkeypatch.setattr(module, "spent", spent)
    monkeypatch.setattr(scan, "MAX_IN_PROCESS", harness.NUM_DEMO_IMAGES)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in FAST else pytest.mark.slow)
        for name in harness.names()
        if name not in LONG
    ],
)
def test_a_quick_benchmark_leaves_records_and_a_table(
    name, tmp_path, monkeypatch, few_processes, alexnet_weights, diffusion_run
):
    module = import_module(f"benchmarks.{name}")
    monkeypatch.setattr(harness, "DOCS", tmp_path / "docs")
    (tmp_path / "docs" / "images").mkdir(parents=True)
    usage = harness.parser_of(name, module).format_usage()
    words = ["--quick", "--out", str(tmp_path / "out"), *["--weights", str(alexnet_weights)] * ("--weights" in usage)]
    words += ["--write"] * (name not in (*OWN_PROCESS, "figures"))
    words += ["--checkpoint", str(diffusion_run / "checkpoints" / "last.ckpt")] * (name == "figures")
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
