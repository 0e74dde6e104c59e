"""Random settings of every command: each is accepted or refused in at most three lines, and nothing is written.

`RANDOM_SETTINGS=2000` in the environment tries so many of each command, `RANDOM_SEED` others.
"""

import logging
import os
import random
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import artart.compare
import artart.evaluate
import artart.export
import artart.gallery
import artart.generate
import artart.inspect
import artart.prepare
import artart.provenance
import artart.sweep
import artart.train
from artart.config.build import CONF_DIR, known_keys, options
from artart.evaluation import attribution
from artart.training import distributed, run, run_dir, sweep_folder

NUM = int(os.environ.get("RANDOM_SETTINGS", 300))
SEED = int(os.environ.get("RANDOM_SEED", 0))
COMMANDS = {
    module.__name__.rpartition(".")[2]: module
    for module in (
        *(artart.compare, artart.evaluate, artart.export, artart.gallery, artart.generate, artart.inspect),
        *(artart.prepare, artart.provenance, artart.sweep, artart.train),
    )
}
ACCEPTED = 99  # the exit code where work would begin
BEHIND = ("objective=diffusion", "experiment=quickstart", "experiment=latent", "model=autoencoder", "callbacks=none")
VALUES = (
    *("null", "true", "false", "auto", "all", "none", "0", "1", "2", "-1", "0.5", "3.7", "1e30", "1e-30", "inf", "nan"),
    *("10000000000000000000000", "-0", "1,2", "", "''", "x", "a b", "a/b", "nowhere", "art", "file.txt", "x" * 300),
    *("[]", "[1]", "[1,2]", "[a,b]", "[null]", "[[1]]", "[1", "{}", "{a: 1}", "{a: {b: 1}}", "{1: 2}", "${seed}"),
    *(
        "${nothing}",
        "${oc.env:NOTHING}",
        "???",
        "é",
        "日本",
        "\x1b[2J",
        "\u202e",
        "'",
        '"',
        "\\",
        "a=b",
        "$x",
        "%s",
        "*",
    ),
    *("{_target_: builtins.print}", "{_target_: 5}", "{_target_: artart.nothing}", "{_target_: torch.os.system}"),
    *("{_target_: artart.models.vit.ViT}", "{_target_: torch.optim.Adam, _partial_: true}", "{_target_: null}"),
)
ALONE = (
    "--version",
    "--help",
    "--cfg",
    "job",
    "--nothing",
    "-x",
    "=",
    "==",
    "x",
    "+x",
    "~x",
    "-1",
    "",
    "hydra/launcher=x",
)
HYDRA = ("verbose", "run.dir", "output_subdir", "job.name", "mode", "sweep.dir", "callbacks", "nothing", "job.chdir")


def words(command: str, chance: random.Random, keys: list[str], checkpoint: Path) -> Iterator[str]:
    """A few words of a command line."""
    if command == "sweep":
        yield "sweep.space={optimizer.lr: {low: 1e-4, high: 1e-2}}"
    needed = {"compare": str(checkpoint.parents[1]), "provenance": "new-certificate"}
    if command not in ("train", "sweep", "prepare") and chance.random() < 0.8:
        yield needed.get(command, f"checkpoint={checkpoint}")
    if command in ("train", "sweep") and chance.random() < 0.5:
        yield chance.choice(BEHIND)
    groups = [path.name for path in CONF_DIR.iterdir() if path.is_dir() and path.name != "hydra"]
    for _ in range(chance.choice((1, 1, 2, 3))):
        kind, key, value = chance.random(), chance.choice(keys), chance.choice(VALUES)
        if kind < 0.7:
            yield f"{chance.choice(('', '', '', '', '+', '++', '~'))}{key}={value}"
        elif kind < 0.8:
            group = chance.choice(groups)
            yield f"{group}={chance.choice((*options(group), value))}"
        elif kind < 0.9:
            yield f"hydra.{chance.choice(HYDRA)}={value}"
        else:
            yield chance.choice(ALONE)


@pytest.fixture
def without_work(monkeypatch):
    """Commands end where their work would begin."""

    def accept(*_: object, **__: object) -> None:
        raise SystemExit(ACCEPTED)

    work = (
        *((distributed, "_start"), (run, "load_images"), (run_dir, "claim_run_dir"), (sweep_folder, "claim")),
        (attribution, "training_set_for"),
    )
    for module, name in work:
        monkeypatch.setattr(module, name, accept)
    for name in ("output_folder", "new_folder", "create"):
        monkeypatch.setattr(artart.io.files, name, accept)
    monkeypatch.setattr(artart.io.weights, "save_shared", accept)
    monkeypatch.setattr(run, "load_pretrained", lambda *_: {})


def try_once(
    call: Callable[..., int], command: str, given: list[str], capfd: pytest.CaptureFixture[str]
) -> tuple[int, str]:
    """The exit code, and what was wrong; "" if nothing was."""
    before = sorted(Path.cwd().rglob("*"))
    try:
        code = call(COMMANDS[command], *given)
    except BaseException as error:  # noqa: BLE001 - what a user would see as a traceback
        return 1, f"raised {error!r}"
    output, errors = capfd.readouterr()
    if "Traceback" in output + errors or "Error(" in errors:
        return code, errors
    if len(errors.splitlines()) > 3:
        return code, f"{len(errors.splitlines())} lines: {errors}"
    if any(char in errors for char in "\x1b\u202e"):
        return code, f"a control character: {errors!r}"
    if code not in (0, 2, ACCEPTED) or (code == 2) != bool(errors):
        return code, f"exit code {code}: {errors}"
    if left := sorted(set(Path.cwd().rglob("*")) - set(before)):
        return code, f"left {left}"
    return code, ""


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_random_settings_are_accepted_or_refused_in_few_lines(
    command, call, diffusion_run, without_work, tmp_path, monkeypatch, capfd, record_property
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging, "raiseExceptions", False)
    Path("art").mkdir()
    Path("file.txt").touch()
    keys = sorted({*known_keys(command), *(known_keys(command, ["objective=diffusion"]) if command == "train" else ())})
    chance, codes, wrong = random.Random(f"{command} {SEED}"), list[int](), list[str]()
    for _ in range(NUM):
        given = list(words(command, chance, keys, diffusion_run / "checkpoints" / "last.ckpt"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            code, problem = try_once(call, command, given, capfd)
        codes.append(code)
        if problem:
            wrong.append(f"{given}: {problem}")
    record_property("exit codes", str(Counter(codes)))
    assert not wrong, f"{len(wrong)}:\n" + "\n".join(wrong[:40])
    assert {2, ACCEPTED} <= set(codes) or command in ("inspect", "prepare")
