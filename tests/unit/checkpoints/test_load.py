"""What a checkpoint may and may not do."""

from pathlib import Path
from unicodedata import normalize

import pytest
import torch
from torch.testing import assert_close

from artart import ArtError
from artart.checkpoints import load as checkpoint
from artart.config.build import build
from artart.io import plain
from artart.io.weights import save_shared
from artart.models.conv_diffusion import ConvDiffusionModel
from artart.training.module import ArtModule


@pytest.fixture
def content(finished_run) -> dict:
    return torch.load(finished_run / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.fixture
def save(tmp_path):
    def save(content):
        torch.save(content, tmp_path / "other.ckpt")
        return tmp_path / "other.ckpt"

    return save


def test_it_gives_back_the_network_ready_for_use(finished_run, content):
    loaded = checkpoint.load(finished_run / "checkpoints" / "last.ckpt")
    assert not loaded.net.training
    assert loaded.label_names == {"class": ["drawing", "engraving", "iconography", "painting", "sculpture"]}
    assert loaded.config["image_size"] == 16
    assert_close(loaded.net.state_dict(), {k.removeprefix("net."): v for k, v in content["state_dict"].items()})


def test_names_whose_accents_are_written_apart_are_those_of_single_characters(content, save):
    names = [normalize("NFD", name) for name in ("café", "détails", "étude", "pêche", "x")]
    content |= {"labels": {"class": names}, "data": content["data"] | {"untrained_labels": {"class": names[:1]}}}
    loaded = checkpoint.load(save(content))
    assert loaded.label_names == {"class": [normalize("NFC", name) for name in names]}
    assert loaded.untrained_labels == {"class": [normalize("NFC", "café")]}


NETWORKS = {
    "printed": {"_target_": "artart.models.conv_diffusion.ConvDiffusionModel", "conditioned": False},
    "conv": {"_target_": "artart.models.conv_diffusion.ConvDiffusionModel", "conditioned": True, "attention": True},
    "unet": {"_target_": "artart.models.unet.UNet", "model_channels": 8, "channel_mult": [1, 2], "augment_dim": 9},
    "autoencoder": {"_target_": "artart.models.autoencoder.Autoencoder", "model_channels": 8},
    "vit": {"_target_": "artart.models.vit.ViT", "hidden_size": 16, "depth": 2, "num_heads": 2, "augment_dim": 9},
}
UNCONDITIONED = ("printed", "autoencoder")


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_load_gives_the_network_that_was_saved_to_the_last_bit(content, tmp_path, name, suffix):
    """Weights, buffers and outputs; the network is built on the meta device, where it has none."""
    torch.manual_seed(1)
    settings = {**NETWORKS[name], "image_size": 16} | ({} if name in UNCONDITIONED else {"num_classes": 5})
    net = build({"model": settings}, "model").to(memory_format=torch.channels_last).eval()
    for value in net.state_dict().values():
        value.copy_(torch.rand(value.shape) * 0.3 if value.is_floating_point() else 7)
    content["config"]["model"] = settings
    facts = {key: content[key] for key in ("config", "labels", "epoch", "global_step")}
    if suffix == ".ckpt":
        state = {f"net.{key}": value for key, value in net.state_dict().items()}
        torch.save(facts | {"state_dict": state}, tmp_path / "a.ckpt")
    else:
        save_shared(tmp_path / "a.safetensors", net.state_dict(), facts)
    before = torch.random.get_rng_state()
    loaded = checkpoint.load(tmp_path / f"a{suffix}").net
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not any(value.is_meta for value in (*loaded.parameters(), *loaded.buffers()))
    assert_close(dict(loaded.named_buffers()), dict(net.named_buffers()), rtol=0, atol=0)
    assert_close(loaded.state_dict(), net.state_dict(), rtol=0, atol=0)
    assert all(one.is_contiguous(memory_format=torch.channels_last) for one in loaded.parameters() if one.ndim == 4)
    inputs = (torch.rand(2, 3, 16, 16), torch.rand(2), torch.tensor([[1], [5]]))[: 1 if name in UNCONDITIONED else 3]
    with torch.no_grad():
        assert_close(loaded(*inputs), net(*inputs), rtol=0, atol=0)


def test_load_builds_the_network_once(content, save, monkeypatch):
    built, original = [], ConvDiffusionModel.__init__

    def init(net, **settings):
        built.append(net)
        original(net, **settings)

    init.__wrapped__ = original  # for the schema
    monkeypatch.setattr(ConvDiffusionModel, "__init__", init)
    checkpoint.load(save(content))
    assert len(built) == 1


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "artart.models.conv_diffusion.nn.Sequential",  # an attribute path through one of our modules
        "artart.objectives.diffusion.null_labels",  # ours, but a function
        "artart.objectives.diffusion.WeightedSum",  # a class, but not defined there
        "artart.train.cli",
        "conv_diffusion.ConvDiffusionModel",
    ],
)
@pytest.mark.parametrize("place", ["model", "objective", "loss", "deep"])
def test_it_builds_only_classes_of_ours(content, save, target, place):
    node = content["config"]["loss"]["mse"] if place == "deep" else content["config"][place]
    node["_target_"] = target
    with pytest.raises(ArtError, match=f"wants to build {target}"):
        checkpoint.load(save(content))


@pytest.mark.parametrize("part", ["config", "state_dict"])
@pytest.mark.parametrize("value", [None, 3, {}])
def test_a_checkpoint_in_pieces_is_reported_in_one_line(content, save, part, value):
    content[part] = value
    with pytest.raises(ArtError, match=r"not a checkpoint of artart|weights and network do not fit"):
        checkpoint.load(save(content))


def test_an_interpolation_cannot_bring_in_a_class(content, save):
    """It is a text like any other."""
    content["config"]["loss"]["mse"] = "${oc.create:'{_target_: pathlib.Path}'}"
    with pytest.raises(ArtError, match="not a loss"):
        checkpoint.load(save(content))


class OfTheUser(torch.nn.Module):
    channels, num_classes = 3, ()

    def __init__(self, image_size: int) -> None:
        super().__init__()
        self.image_size = image_size
        self.register_buffer("scale", torch.full((), 3.0), persistent=False)


class NoNetwork(torch.nn.Module):
    def __init__(self, image_size: int) -> None:
        super().__init__()


@pytest.fixture
def mypkg(monkeypatch):
    package = __import__("types").SimpleNamespace(Net=OfTheUser, NoNetwork=NoNetwork)
    monkeypatch.setitem(__import__("sys").modules, "mypkg", package)


@pytest.mark.usefixtures("mypkg")
def test_a_trusted_class_without_what_is_used_of_a_network_is_refused(content, save):
    content["config"]["model"] = {"_target_": "mypkg.NoNetwork", "image_size": 16}
    content["state_dict"] = {}
    with pytest.raises(ArtError, match="is no network; it needs image_size, channels, num_classes and forward"):
        checkpoint.load(save(content), trusted_classes=["mypkg.NoNetwork"])


@pytest.mark.usefixtures("mypkg")
def test_a_class_of_the_users_own_is_built_if_it_is_allowed_by_name(content, save):
    content["config"]["model"] = {"_target_": "mypkg.Net", "image_size": 16}
    content["state_dict"] = {}
    with pytest.raises(ArtError, match=r"trusted_classes=\[mypkg\.Net\]"):
        checkpoint.load(save(content))
    net = checkpoint.load(save(content), trusted_classes=["mypkg.Net"]).net
    assert isinstance(net, OfTheUser)
    assert net.scale == 3  # which no checkpoint holds


def test_weights_of_another_network_are_reported_in_one_line(content, save):
    content["state_dict"]["net.enc1.0.weight"] = torch.zeros(1)
    with pytest.raises(ArtError, match=r"weights and network do not fit.*enc1\.0\.weight"):
        checkpoint.load(save(content))


@pytest.mark.parametrize("other", [{"state_dict": {}}, [1, 2], {"weights": torch.zeros(2)}])
def test_a_file_of_somebody_else_is_reported_in_one_line(save, other):
    with pytest.raises(ArtError, match="not a checkpoint of artart"):
        checkpoint.load(save(other))


# --- what a run is going to save can be read again


@pytest.mark.slow
def test_a_hundred_thousand_labels_can_be_kept(save, diffusion_run):
    content = torch.load(diffusion_run / "checkpoints" / "last.ckpt", weights_only=True)
    num = 150_000
    content["labels"] = {"class": [f"class {k}" for k in range(num)]}
    content["config"]["model"]["num_classes"] = num
    table = "net.condition.label.weight"
    content["state_dict"][table] = torch.zeros(num + 1, content["state_dict"][table].shape[1])
    del content["optimizer_states"], content["current_model_state"]
    loaded = checkpoint.load(save(content))
    assert len(loaded.label_names["class"]) == num
    checkpoint.check_writable(loaded.config, loaded.label_names, loaded.net)


@pytest.mark.slow
def test_more_labels_than_can_be_kept_are_refused_before_training(finished_run):
    loaded = checkpoint.load(finished_run / "checkpoints" / "last.ckpt")
    with pytest.raises(ArtError, match="could not be kept in it"):
        checkpoint.check_writable(loaded.config, {"class": ["a"] * plain.MAX_VALUES}, loaded.net)


@pytest.mark.parametrize("key", ["model.width=7", "model.image_size=32"])
def test_a_network_that_no_checkpoint_could_describe_is_refused_before_training(finished_run, key):
    loaded = checkpoint.load(finished_run / "checkpoints" / "last.ckpt")
    name, _, value = key.removeprefix("model.").partition("=")
    config = {**loaded.config, "model": {**loaded.config["model"], name: int(value)}}
    with pytest.raises(ArtError, match=r"^last\.ckpt: "):
        checkpoint.check_writable(config, loaded.label_names, loaded.net)


@pytest.mark.slow
def test_training_stops_at_the_first_checkpoint_that_cannot_be_read_again(train, capsys, monkeypatch):
    def unreadable(module, saved, before=ArtModule.on_save_checkpoint):
        before(module, saved)
        saved["labels"] = {}

    monkeypatch.setattr(ArtModule, "on_save_checkpoint", unreadable)
    assert train("loss=mse", "run_dir=run") == 2
    error = capsys.readouterr().err
    assert (error.count("\n"), "the saved file could not be read back" in error) == (1, True), error
    assert not list(Path("run/checkpoints").iterdir())


@pytest.mark.slow
def test_only_the_first_checkpoint_of_a_run_is_read_back(train, monkeypatch):
    load, read = checkpoint.load, list[Path]()
    monkeypatch.setattr(checkpoint, "load", lambda path, *trusted: read.append(path) or load(path, *trusted))
    assert train("loss=mse", "run_dir=run") == 0
    assert len(read) == 1


@pytest.mark.slow
@pytest.mark.parametrize("logger", ["logger.tensorboard.version=", "logger.tensorboard.version=a/b", "logger=none"])
def test_checkpoints_can_be_read_wherever_the_curves_lie(train, logger):
    assert train("loss=mse", "run_dir=run", logger) == 0
    assert checkpoint.load(Path("run/checkpoints/last.ckpt")).facts["global_step"] == 8
    assert train("loss=mse", "resume=auto", "run_dir=run", "trainer.max_epochs=3", logger) == 0
    assert checkpoint.load(Path("run/checkpoints/last.ckpt")).facts["global_step"] == 12


@pytest.mark.slow
@pytest.mark.parametrize("column", ["first\nartist", "first\xa0artist", " First \t artist"])
def test_spaces_of_any_kind_in_the_name_of_a_column_are_spaces(train, art_folder, column):
    rows = [f'"{path.relative_to(art_folder)}",{"AB"[k % 2]}' for k, path in enumerate(sorted(art_folder.rglob("*.*")))]
    Path("art.csv").write_text("\n".join([f'path,"{column}"', *rows]))
    options = ("objective=diffusion", "loss=mse_diffusion", "sampler.num_steps=1", "data.min_per_label=1")
    data = (f"data.root={art_folder}", "data.metadata=art.csv", "data.labels=[first artist]")
    assert train(*options, *data, "run_dir=run", "trainer.max_epochs=1") == 0
    assert checkpoint.load(Path("run/checkpoints/last.ckpt")).label_names == {"first artist": ["A", "B"]}


@pytest.mark.slow
def test_a_column_whose_name_cannot_be_shown_is_refused_before_training(train, art_folder, capsys):
    Path("art.csv").write_text(f'path,"\x1b[2J"\n{next(art_folder.rglob("*.png")).relative_to(art_folder)},A\n')
    assert (
        train("objective=diffusion", f"data.root={art_folder}", "data.metadata=art.csv", "data.labels=['\x1b[2J']") == 2
    )
    error = capsys.readouterr().err
    assert (error.count("\n"), "\x1b" in error, "cannot be shown" in error) == (1, False, True), error
