"""What a wheel carries."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_wheel_carries_the_configuration_and_runs_without_the_checkout(tmp_path):
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    script = f"import sys; sys.path.insert(0, {str(installed)!r}); from artart import train; train.run()"
    done = subprocess.run(
        [sys.executable, "-c", script, "--cfg", "job"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "artart.models.conv_diffusion.ConvDiffusionModel" in done.stdout
    assert (installed / "artart" / "io" / "page.html").is_file()
    assert sorted(p.relative_to(installed / "artart/conf") for p in installed.rglob("*.yaml")) == sorted(
        p.relative_to(ROOT / "conf") for p in (ROOT / "conf").rglob("*.yaml")
    )
