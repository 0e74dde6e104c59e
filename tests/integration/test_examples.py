"""What stands in examples/ runs."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image

from artart.io.provenance import provenance_of

ROOT = Path(__file__).parents[2]
QUICK = ("trainer.max_epochs=1", "data.num_demo_images=40", "trainer.accelerator=cpu", "run_dir=run")


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """By processes that run elsewhere."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["own_network", "own_loss"])
def test_the_script_trains_and_makes_an_image(name, tmp_path):
    command = [sys.executable, ROOT / "examples" / f"{name}.py", *QUICK]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith("run/painting.png")
    with Image.open(tmp_path / "run" / "painting.png") as image:
        image.load()
        assert "trainedAlgorithmicMedia" in provenance_of(image).source or name == "own_loss"


@pytest.mark.slow
def test_the_notebook_runs(tmp_path):
    """With less training."""
    notebook = nbformat.read(ROOT / "examples" / "quickstart.ipynb", as_version=4)
    for cell in notebook.cells:
        assert cell.get("outputs", []) == [], "outputs are not kept"
        cell.source = cell.source.replace('"trainer.max_epochs=12"', ", ".join(f'"{one}"' for one in QUICK))
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": tmp_path}}).execute()
    assert (tmp_path / "run" / "first.png").is_file()
    shown = [
        output for cell in notebook.cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})
    ]
    assert len(shown) == 4
