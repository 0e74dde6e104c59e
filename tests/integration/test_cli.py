"""The outer skin of the commands, in processes of their own where that is what counts."""

import argparse
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from artart import __version__, train
from artart.config import cli as cli_module
from artart.config.build import CONF_DIR, options
from artart.config.cli import cli
from artart.config.words import quoted, to_hydra


def artart(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *arguments], cwd=cwd, capture_output=True, text=True)


@pytest.mark.parametrize(
    "name",
    [
        "plain.jpg",
        "with blank.jpg",
        "a' plum park (1).jpeg",
        'double " quote.png',
        "César@Birotteau.png",
        "comma, equals = brackets [] {} .png",
        "dollar ${x} $HOME.png",
        "backslash \\ and \\' both.png",
        "ends with backslash\\",
        "percent % hash # star * .png",
        "~/tilde dir",
        "'leading quote.jpg",
        "日本.png",
        "2024_05",
        "1e3",
        "true",
        "auto",
        "colon: semi; pipe |.png",
    ],
)
@pytest.mark.parametrize("key", ["data.root", "input", "+resume", "label"])
def test_a_file_name_reaches_the_program_as_it_was_typed(key, name):
    (override,) = OverridesParser.create().parse_overrides([quoted(f"{key}={name}")])
    value = override.value()
    text = value if isinstance(value, str) else value.text
    assert text.replace("\\${", "${") == name


@pytest.mark.parametrize(
    "argument",
    [
        "label={class: engraving, artist: 'Hélène, O\\'Hara'}",
        "trainer.max_epochs=3",
        "resume=null",
        "data.root='a b'",
        "-m",
        "~callbacks.grid",
    ],
)
def test_what_hydra_understands_is_left_alone(argument):
    assert quoted(argument) == argument


@pytest.mark.parametrize(
    ("words", "order"),
    [
        ("a=1 -m b=2", "-m a=1 b=2"),
        ("a=1 --config-dir . b=2", "--config-dir . a=1 b=2"),
        ("a=1 --cfg job b=2 --multirun", "--cfg job --multirun a=1 b=2"),
        ("-m a=1 ~model.b", "-m a=1 ~model.b"),
        ("--config-dir=x a=1", "--config-dir=x a=1"),
    ],
)
def test_options_may_stand_anywhere(words, order):
    assert to_hydra(words.split(), "train") == order.split()


def test_quoted_leaves_several_paths_of_a_sweep():
    assert quoted("data.root=one dir,other dir", is_sweep=True) == "data.root=one dir,other dir"
    assert quoted("data.root=one dir,other dir") == "data.root='one dir,other dir'"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["trainer.max_epoch=3"], "trainer.max_epoch=3: no such key; did you mean trainer.max_epochs?"),
        pytest.param(
            ["optimizer.lr=1,2"], "optimizer.lr=1,2: several values: add -m for a sweep", marks=pytest.mark.slow
        ),
        pytest.param(
            ["callbacks=diffusion"],
            "callbacks.grid.sampler: needs a sampler; add objective=diffusion",
            marks=pytest.mark.slow,
        ),
        (["trainer.max_epochs=-5", "seed=-1"], "seed=-1: must be a whole number"),
    ],
)
def test_mistakes_are_reported_in_a_line_each_and_leave_nothing(tmp_path, arguments, sentence):
    done = artart("artart.train", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == len(arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_help_has_examples_and_every_group(tmp_path):
    done = artart("artart.train", "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "python -m artart.train data.root=~/art" in done.stdout
    for group in (path.name for path in CONF_DIR.iterdir() if path.is_dir() and path.name != "hydra"):
        assert f"{group}: {', '.join(options(group))}\n" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train", "generate"])
@pytest.mark.parametrize("words", [[], ["seed=1"]])
def test_help_is_that_of_hydra_without_its_detour(monkeypatch, call, capsys, command, words):
    module = importlib.import_module(f"artart.{command}")
    assert call(module, "--help", *words) == 0
    ours = capsys.readouterr().out
    monkeypatch.setattr(cli_module, "help_text", None)  # another option beside it: Hydra answers
    assert call(module, "--help", "--config-path", str(CONF_DIR), *words) == 0
    assert capsys.readouterr().out == ours


@pytest.mark.slow
def test_help_of_generate_has_examples(tmp_path):
    done = artart("artart.generate", "--help", cwd=tmp_path)
    assert "side_by_side=true" in done.stdout
    assert "Groups" not in done.stdout


def test_help_imports_nothing_heavy(tmp_path):
    """Which is what takes time: not torch and Lightning, nor what they bring along."""
    script = """
import sys, artart.train
sys.argv = ["train", "--help"]
artart.train.run()
heavy = "torch torchvision torchmetrics lightning numpy scipy matplotlib PIL tensorboard sympy importlib.metadata"
sys.stderr.write(" ".join(name for name in heavy.split() if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_help_and_simple_mistakes_do_not_wait_for_torch(tmp_path):
    script = "import sys, artart.train, artart.generate, artart.training.sweep; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", script], cwd=tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("command", "words", "written"),
    [
        ("generate", ["num_images=1", "sampler.num_steps=1", "out=here"], "here/00000_drawing.png"),
        ("export", ["out=here.safetensors"], "here.safetensors"),
    ],
)
def test_checkpoints_are_used_without_lightning(tmp_path, command, words, written):
    """Whose import takes seconds, as that of torchmetrics does."""
    checkpoint = Path(__file__).parents[1] / "data" / "checkpoints" / "format_2.ckpt"
    script = f"""
import sys, artart.{command}
artart.{command}.run()
sys.exit(str({{"lightning", "torchmetrics"}} & sys.modules.keys()))
"""
    call = [sys.executable, "-c", script, f"checkpoint={checkpoint}", *words]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr.endswith("set()\n")
    assert (tmp_path / written).is_file()


def test_generate_says_that_it_has_no_sweeps(tmp_path):
    done = artart("artart.generate", "-m", "checkpoint=a,b", "input=.", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "-m: this command has no sweeps" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_broken_experiment_file_is_reported_in_one_line(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("trainer: {max_epochs: 3\n")
    done = artart("artart.train", "--config-dir", str(tmp_path), "experiment=mine", cwd=tmp_path)
    assert done.returncode == 2
    assert "mine.yaml" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_settings_that_are_composed_again_see_the_folder_of_config_dir(call, tmp_path, capsys):
    (tmp_path / "model").mkdir()
    shutil.copy(CONF_DIR / "model" / "unet_tiny.yaml", tmp_path / "model" / "mine.yaml")
    words = ("--config-dir", str(tmp_path), "experiment=auto", "model=mine", "image_size=16", "trainer=debug")
    assert call(train, *words, "+trainer.fast_dev_run=1") == 2
    assert "trainer.fast_dev_run=1: leave it out" in capsys.readouterr().err


def test_too_little_memory_for_torch_is_a_line(caplog):
    error = RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to")
    assert cli_module.report_error(error) == 1
    assert [record.exc_info for record in caplog.records] == [None]
    assert "a smaller batch_size" in caplog.text


def test_sigterm_ends_a_command_as_ctrl_c_does(monkeypatch):
    """What is being done is taken back, and the exit code is that of the signal."""
    taken_back = []

    def main():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(300)
        finally:
            taken_back.append(True)

    monkeypatch.setattr(sys, "argv", ["prepare"])
    with pytest.raises(SystemExit) as stop:
        cli(main, "prepare")
    assert stop.value.code == 143
    assert taken_back == [True]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("ends", ["None", "sys.exit(2)"])
def test_a_signal_while_the_interpreter_ends_leaves_no_trace(number, ends):
    """torchrun sends one to a process that has failed by itself."""
    late = f"atexit.register(lambda: os.kill(os.getpid(), {int(number)}))"
    program = f"import atexit, os, sys; {late}; from artart.config.cli import cli; cli(lambda: {ends}, 'train')"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (-number, "")


def test_a_full_disk_that_a_thread_meets_is_left_to_who_waits_for_it(monkeypatch, capsys):
    def meets(error: Exception) -> str:
        def fail():
            raise error

        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
        return capsys.readouterr().err

    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(sys, "argv", ["prepare"])
    cli(lambda: None, "prepare")
    assert meets(OSError(28, "No space left on device")) == ""
    assert "ValueError: odd" in meets(ValueError("odd"))


@pytest.mark.slow
@pytest.mark.parametrize("words", ["--help", "--cfg job", "trainer.max_epochs=1 image_size=16 loss=mse run_dir=run"])
def test_a_command_ends_quietly_when_nobody_reads_its_output(tmp_path, words):
    command = f"{sys.executable} -u -m artart.train {words} data.num_demo_images=40 trainer=cpu"
    command = command if "run_dir" in words else f"{sys.executable} -m artart.train {words}"
    done = subprocess.run(
        ["bash", "-c", f"{command} | head -1; exit ${{PIPESTATUS[0]}}"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stderr == ""
    assert done.returncode in ((141,) if "run_dir" in words else (0, 141))  # a pipe holds the whole text
    assert "Ctrl-C" not in done.stdout


@pytest.mark.slow
def test_a_full_disk_behind_the_output_is_reported_in_a_line(tmp_path, finished_run):
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "artart.inspect", str(finished_run)]
        done = subprocess.run(command, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "output: No space left on device; files written before are intact\n")


def test_version_is_that_of_artart(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train", "--version"])
    cli(lambda: pytest.fail("called"), "train")
    assert capsys.readouterr().out == f"artart {__version__}\n"


def test_hydra_parses_words_where_argparse_checks_help_texts(call, monkeypatch, capsys):
    """As argparse of Python 3.14 does."""

    def check_help(parser, action):
        if action.help and "%" in action.help:  # which raises for Hydra's --shell-completion
            pass

    def add_argument(parser, *names, add=argparse.ArgumentParser.add_argument, **settings):
        action = add(parser, *names, **settings)
        parser._check_help(action)
        return action

    monkeypatch.setattr(argparse._ActionsContainer, "_check_help", check_help, raising=False)
    monkeypatch.setattr(argparse.ArgumentParser, "_check_help", check_help, raising=False)
    monkeypatch.setattr(argparse.ArgumentParser, "add_argument", add_argument)
    assert call(train, "lr=3") == 2
    assert "did you mean optimizer.lr?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "sentence"), [("seed=-1", "seed=-1: must be a whole number"), ("lr=3", "lr=3: no such key")]
)
def test_torchrun_prints_the_sentence_last(word, sentence, call, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    assert call(train, word) == 2
    assert json.loads((tmp_path / "error.json").read_text())["message"]["message"].startswith(sentence)
