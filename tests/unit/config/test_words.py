"""Words of a command line, before Hydra sees them."""

from pathlib import Path

import pytest

from artart import ArtError
from artart.config.build import did_you_mean
from artart.config.words import to_hydra


@pytest.mark.parametrize(
    ("command", "word", "setting"),
    [
        ("generate", "net.ckpt", "checkpoint='net.ckpt'"),
        ("export", "runs/a b/last.ckpt", "checkpoint='runs/a b/last.ckpt'"),
        ("prepare", "~/art", "data.root='~/art'"),
        ("train", "x" * 300, f"data.root='{'x' * 300}'"),
    ],
)
def test_to_hydra_gives_a_path_its_key(command, word, setting):
    assert to_hydra([word], command) == [setting]


def test_to_hydra_makes_files_of_the_words_of_inspect():
    words = ["a b.png", "checkpoint=net.ckpt", "registry=my registry", "--json", "it's.jpg"]
    assert to_hydra(words, "inspect") == [
        "registry='my registry'",
        "json=true",
        r"files=['a b.png','net.ckpt','it\'s.jpg']",
    ]
    assert to_hydra(["--help"], "inspect") == ["--help"]


def test_to_hydra_takes_a_file_whose_name_looks_like_a_setting(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("lr=1").mkdir()
    assert to_hydra(["lr=1"], "train") == ["data.root='lr=1'"]


def test_to_hydra_quotes_a_colour():
    assert to_hydra(["data.background=#203040"], "train") == ["data.background='#203040'"]


def test_to_hydra_quotes_the_folder_of_an_encoder():
    assert to_hydra(["data.text_encoder=~/t5 base"], "train") == ["data.text_encoder='~/t5 base'"]
    assert to_hydra(["data.text_encoder=null"], "train") == ["data.text_encoder=null"]


def test_to_hydra_quotes_the_name_of_who_signs():
    assert to_hydra(["new-certificate", "name=Müller, Erika"], "provenance") == [
        "action=new-certificate",
        "name='Müller, Erika'",
    ]


@pytest.mark.parametrize("word", ["~callbacks.grid", "+callbacks.grid", "-m"])
def test_to_hydra_leaves_words_of_hydra(word):
    assert to_hydra([word], "train") == [word]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["my", "art"], "my, art: need key=value; a name with blanks needs quotes: 'a b'"),
        (["quickstart"], "quickstart: needs a key: experiment=quickstart"),
        (["hydra.run.dir=X"], "hydra.run.dir=X: has no effect; the folder of a run is run_dir=DIR"),
        (["hydra.output_subdir=x"], "hydra.output_subdir=x: has no effect; "),
        (["hydra.verbose=inf"], "hydra.verbose=inf: must be true, false or names of loggers"),
        (["hydra.verbose=3"], "hydra.verbose=3: must be true, false or names of loggers"),
        (["score=val/psnr"], "score=val/psnr: renamed to monitor"),
    ],
)
def test_to_hydra_refuses_in_a_line(words, sentence):
    with pytest.raises(ArtError) as error:
        to_hydra(words, "train")
    assert str(error.value).startswith(sentence)
    assert "\n" not in str(error.value)


KEYS = ("optimizer.lr", "trainer.max_epochs", "data.batch_size", "callbacks.grid.batch_size", "callbacks.learning_rate")


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("lr", "optimizer.lr"),
        ("epochs", "trainer.max_epochs"),
        ("max_epochs", "trainer.max_epochs"),
        ("batch_size", "data.batch_size"),
        ("learning_rate", "optimizer.lr"),  # not the callback of that name
        ("trainer.max_epoch", "trainer.max_epochs"),
    ],
)
def test_did_you_mean_finds_the_key_by_its_last_part_or_another_name(key, meant):
    assert did_you_mean(key, KEYS) == f"; did you mean {meant}?"
    assert did_you_mean("nothing.of.this", KEYS) == ""
