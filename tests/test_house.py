"""The house keeps its order: who may import whom, and what a wheel carries."""

import ast
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = (  # lowest first; a module imports from its own layer and from those below it
    {"artart"},
    {"allocator", "decode", "marks", "plain", "terminal"},
    {"storage"},
    {"images"},
    {"pretrained"},
    {"data", "models", "losses", "optim", "metrics", "diffusion"},
    {"objectives"},
    {"module", "curves"},
    {"callbacks"},
    {"config"},
    {"signatures"},
    {"checks", "trust", "checkpoint", "parts", "rundir", "result", "multirun"},
    {"processes", "restore", "resume", "start"},
    {"cli", "inputs", "interpolate", "onnx", "reconstruct", "sample", "vary"},
    {"evaluation"},
    {"evaluate", "export", "generate", "prepare", "train"},
)
HYDRA_ALLOWED = {
    "config",
    "signatures",
    "checks",
    "cli",
    "parts",
    "rundir",
    "start",
    "multirun",
    "train",
    "generate",
    "evaluate",
    "export",
    "prepare",
}
MODULES = sorted((ROOT / "artart").rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Full names of all that a file imports, at its top or inside a function."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room(name: str) -> str:
    """`artart.data.files.find` and artart/data/files.py lie in `data`."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and any(parts[1] in layer for layer in LAYERS) else "artart"


def layer(name: str) -> int:
    return next(i for i, rooms in enumerate(LAYERS) if name in rooms)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_imports_upwards(path):
    own = room(".".join(path.relative_to(ROOT).with_suffix("").parts))
    upwards = {name for name in imports(path) if name.split(".")[0] == "artart" and layer(room(name)) > layer(own)}
    assert not upwards


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_hydra_stays_at_the_door(path):
    own = room(".".join(path.relative_to(ROOT).with_suffix("").parts))
    if own not in HYDRA_ALLOWED:
        assert not {name for name in imports(path) if name.split(".")[0] in ("hydra", "omegaconf")}


def test_every_room_has_a_layer():
    rooms = {path.relative_to(ROOT / "artart").parts[0].removesuffix(".py") for path in MODULES} - {"__init__"}
    assert rooms == set().union(*LAYERS) - {"artart"}


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
    assert (installed / "artart" / "evaluation" / "report.html").is_file()
    assert sorted(p.relative_to(installed / "artart/conf") for p in installed.rglob("*.yaml")) == sorted(
        p.relative_to(ROOT / "conf") for p in (ROOT / "conf").rglob("*.yaml")
    )


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda path: path.name
)
def test_every_link_of_the_docs_leads_somewhere(page):
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []
