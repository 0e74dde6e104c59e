"""Limits of what generate writes: near-duplicates, labels, and filters of one's own."""

import re
from pathlib import Path
from unicodedata import normalize

import pytest
import torch
from PIL import Image

from artart import ArtError
from artart.checkpoints.load import load
from artart.data.decode import decode
from artart.evaluation.held_out import held_out_data
from artart.evaluation.label_filter import LabelFilter
from artart.generation import plan, refusal
from artart.generation.labels import hidden_from_all, labels_for
from artart.io.images import to_model
from artart.io.provenance import texts_of

LAST = "checkpoints/last.ckpt"
FAST = ("sampler.num_steps=2", "out=made")


@pytest.fixture
def painter(monkeypatch):
    """`painter(images)`: a sampler that gives a seed its image of these, uint8 (3, S, S). Returns their seeds."""

    def painter(images: dict[int, torch.Tensor]) -> list[list[int]]:
        calls: list[list[int]] = []

        def sample(*of):
            calls.append(of[4])
            return iter([torch.stack([to_model(images[seed]) for seed in of[4]])])

        monkeypatch.setattr(plan, "sample_images", sample)
        return calls

    return painter


@pytest.fixture
def data(judgeable_run):
    data = held_out_data(load(judgeable_run / LAST))
    data.load()
    return data


def noise(seed: int) -> torch.Tensor:
    return torch.randint(0, 256, (3, 16, 16), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def description(path: str) -> str:
    with Image.open(path) as image:
        image.load()
        return texts_of(image)["description"]


class Dark:
    """A filter of one's own: refuses dark images."""

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.float().mean(dim=(1, 2, 3)) < 64


DARK = (f"+filter._target_={__name__}.Dark", f"trusted_classes=[{__name__}.Dark]")


@pytest.mark.slow
def test_near_duplicates_are_drawn_again_from_the_next_seeds(generate, judgeable_run, data, painter, capsys):
    copies = data.pixels_of(data.train_ids[:2])
    calls = painter({0: noise(0), 1: copies[0], 2: noise(2), 3: noise(3), 4: copies[1], 5: noise(5)})
    call = (f"checkpoint={judgeable_run / LAST}", "num_images=4", "batch_size=2", "label=none", *FAST)
    assert generate(*call, "refuse_memorized=true") == 0
    assert calls == [[0, 1], [2, 3], [4], [5]]
    assert sorted(path.name for path in Path("made").iterdir()) == [*(f"{k:05}.png" for k in range(4)), "grid.png"]
    assert (torch.tensor(list(decode("made/00001.png").tobytes())) == noise(5).permute(1, 2, 0).flatten()).all()
    out = capsys.readouterr().out
    assert "refused and drawn again with other seeds: 2 near-duplicates of training images" in out
    assert "seed=5" in description("made/00001.png")
    assert "refuse_memorized=True" in description("made/00000.png")


def test_a_filter_of_ones_own_refuses_and_is_recorded(generate, diffusion_run, painter, capsys):
    dark, light = (torch.full((3, 16, 16), grey, dtype=torch.uint8) for grey in (9, 200))
    painter({0: light, 1: dark, 2: light, 3: dark, 4: light})
    call = (f"checkpoint={diffusion_run / LAST}", "num_images=3", "label=none", *FAST, *DARK)
    assert generate(*call) == 0
    assert "refused and drawn again with other seeds: 2 by the filter" in capsys.readouterr().out
    assert f"filter={__name__}.Dark" in description("made/00001.png")
    assert "seed=4" in description("made/00001.png")


def test_an_image_that_is_always_refused_is_left_out(generate, diffusion_run, painter, capsys, monkeypatch):
    monkeypatch.setattr(refusal, "MAX_DRAWS", 3)
    dark, light = (torch.full((3, 16, 16), grey, dtype=torch.uint8) for grey in (9, 200))
    calls = painter({0: light} | dict.fromkeys(range(1, 9), dark))
    call = (f"checkpoint={diffusion_run / LAST}", "num_images=2", "label=none", *FAST, *DARK)
    assert generate(*call) == 0
    assert calls == [[0, 1], [2], [3]]
    assert sorted(path.name for path in Path("made").iterdir()) == ["00000.png", "grid.png"]
    assert "1 images were refused 3 times each and are left out: 00001.png" in capsys.readouterr().out


def test_if_all_are_refused_nothing_is_written(generate, diffusion_run, painter, capsys, monkeypatch):
    monkeypatch.setattr(refusal, "MAX_DRAWS", 2)
    painter(dict.fromkeys(range(9), torch.zeros(3, 16, 16, dtype=torch.uint8)))
    call = (f"checkpoint={diffusion_run / LAST}", "num_images=2", "sampler.num_steps=2", *DARK)
    assert generate(*call) == 2
    assert capsys.readouterr().err.startswith("all images were refused; ")
    assert not Path("outputs/samples").exists()


def test_draws_keep_their_label_and_their_name(generate, diffusion_run, painter):
    dark, light = (torch.full((3, 16, 16), grey, dtype=torch.uint8) for grey in (9, 200))
    painter({0: dark, 1: light, 2: light})
    assert generate(f"checkpoint={diffusion_run / LAST}", "num_images=2", "label=all", *FAST, *DARK) == 0
    first, second, _ = sorted(path.name for path in Path("made").iterdir())
    assert f"label={first.removesuffix('.png').partition('_')[2]}" in description(f"made/{first}")
    assert "seed=2" in description(f"made/{first}")
    assert "seed=1" in description(f"made/{second}")


# ---------------------------------------------------------------- labels

NAMES = {"class": ["apple", "pear", "plum"], "artist": ["Ada", "Bob"]}


def test_all_goes_through_the_allowed_labels():
    hidden = hidden_from_all("all", ["pear", "plum", "Ada"], NAMES, {"class": ["plum"]})
    assert list(labels_for("all", 3, NAMES, hidden)) == [(1, 2)] * 3, "and leaves out those that were not trained"


def test_labels_are_found_however_their_accents_are_written():
    names, apart = {"class": ["date", "pêche"]}, normalize("NFD", "pêche")
    assert hidden_from_all(apart, [apart], names, {}) == {"class": {"date"}}
    assert list(labels_for(apart, 1, names)) == list(labels_for({"class": apart}, 1, names)) == [(1,)]


@pytest.mark.parametrize(
    ("label", "allowed", "line"),
    [
        ("apple", ["pear"], "label.class=apple: is not allowed; allowed_labels has pear"),
        ({"class": "pear", "artist": "Bob"}, ["pear", "Ada"], "label.artist=Bob: is not allowed; .* has pear and Ada"),
        ({"artist": "all"}, ["pear"], "label.artist=all: is not allowed"),
        ("none", ["pear", "Ada"], "label=none: any image could come of it; choose pear or Ada, or leave"),
        ("pear", ["paer"], "allowed_labels: paer is no label; did you mean pear"),
    ],
)
def test_labels_that_are_not_allowed_are_refused(label, allowed, line):
    with pytest.raises(ArtError, match=line):
        hidden_from_all(label, allowed, NAMES, {})


@pytest.mark.slow
def test_generate_makes_allowed_labels_alone_and_records_them(generate, diffusion_run, capsys):
    call = (f"checkpoint={diffusion_run / LAST}", "num_images=3", "allowed_labels=[painting]", *FAST)
    assert generate(*call) == 0
    names = sorted(path.name for path in Path("made").iterdir())
    assert names == [*(f"{k:05}_painting.png" for k in range(3)), "grid.png"]
    assert "allowed_labels=['painting']" in description("made/00000_painting.png")
    assert generate(*call, "label=sculpture") == 2
    assert capsys.readouterr().err == "label.class=sculpture: is not allowed; allowed_labels has painting\n"


def test_networks_that_take_prompts_have_no_labels_to_allow(generate, text_run, capsys):
    assert generate(f"checkpoint={text_run / LAST}", "allowed_labels=[painting]", *FAST) == 2
    assert "takes prompts in the place of labels; leave it out" in capsys.readouterr().err


# ---------------------------------------------------------------- the filter by examples


@pytest.mark.slow
def test_label_filter_refuses_what_looks_like_the_examples(tmp_path, alexnet_weights):
    """On two kinds that AlexNet's first layers tell apart: fields of colour."""
    generator = torch.Generator().manual_seed(0)
    for kind, colour in (("warm", (220, 90, 60)), ("cold", (40, 90, 200))):
        (tmp_path / "art" / kind).mkdir(parents=True)
        for k in range(12):
            shift = torch.randint(-30, 30, (3,), generator=generator).tolist()
            image = Image.new("RGB", (32, 32), tuple(one + by for one, by in zip(colour, shift, strict=True)))
            image.paste("black", (0, 0, 4 + k, 9))
            image.save(tmp_path / "art" / kind / f"{k}.png")
    refuses = LabelFilter(tmp_path / "art", ["warm"], str(alexnet_weights))
    warm, cold = (torch.tensor(colour, dtype=torch.uint8).view(1, 3, 1, 1) for colour in ((230, 80, 50), (30, 80, 210)))
    assert refuses(torch.cat([warm, cold]).expand(2, 3, 16, 16)).tolist() == [True, False]
    with pytest.raises(ArtError, match=r"^filter\.refused: warn is no sub-folder of .*; did you mean warm"):
        LabelFilter(tmp_path / "art", ["warn"], str(alexnet_weights))
    with pytest.raises(ArtError, match=r"^filter\.refused: names all sub-folders"):
        LabelFilter(tmp_path / "art", ["warm", "cold"], str(alexnet_weights))
    with pytest.raises(ArtError, match=r"^filter\.weights=gone: .*, or do without: filter=null$"):
        LabelFilter(tmp_path / "art", ["warm"], "gone")
    for path in (tmp_path / "art" / "warm").glob("*.png"):
        path.write_bytes(b"damaged")
    with pytest.raises(ArtError, match=r"^filter\.refused: no image of warm below .* can be used; add others"):
        LabelFilter(tmp_path / "art", ["warm"], str(alexnet_weights))


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (["refuse_memorized=true", "save_trajectory=true"], "save_trajectory=true: would show images that are refused"),
        (
            ["refuse_memorized=true", "mode=interpolate", "seeds=[1,2]"],
            "refuse_memorized=true: mode=interpolate does not",
        ),
        (["+filter._target_=os.system"], "filter._target_=os.system: is no class of artart"),
        (["filter=labels"], "filter.refused: needs a value: filter.refused=..."),
        (["allowed_labels=[]"], "allowed_labels=[]: must be "),
    ],
)
def test_settings_that_make_no_sense_are_refused(generate, diffusion_run, capsys, settings, line):
    assert generate(f"checkpoint={diffusion_run / LAST}", "num_images=2", *FAST, *settings) == 2
    assert capsys.readouterr().err.startswith(line)
    assert not Path("made").exists()


def test_without_held_out_art_near_duplicates_cannot_be_told(generate, diffusion_run, capsys):
    assert generate(f"checkpoint={diffusion_run / LAST}", "num_images=2", *FAST, "refuse_memorized=true") == 2
    assert "images were held out; 20 are the minimum" in capsys.readouterr().err


class Probability:
    """No filter: says how probable it is that an image is refused."""

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.full((len(pixels),), 0.3)


def test_a_filter_that_does_not_return_bool_is_refused(generate, diffusion_run, painter, capsys):
    painter({0: noise(0)})
    name = f"{__name__}.Probability"
    settings = ("num_images=1", "label=none", f"+filter._target_={name}", f"trusted_classes=[{name}]")
    assert generate(f"checkpoint={diffusion_run / LAST}", *settings, *FAST) == 2
    assert capsys.readouterr().err == (
        f"filter={name}: returned float32 (1,) for images (1, 3, 16, 16); return (B,) bool, true: refused\n"
    )


class Failing:
    """A filter that raises."""

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no weights\nfor this")


def test_a_filter_that_raises_is_reported_in_a_line_with_its_name_and_place(generate, diffusion_run, painter, capsys):
    painter({0: noise(0)})
    name = f"{__name__}.Failing"
    settings = ("num_images=1", "label=none", f"+filter._target_={name}", f"trusted_classes=[{name}]")
    assert generate(f"checkpoint={diffusion_run / LAST}", *settings, *FAST) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(rf"filter={name}: raised RuntimeError: no weights for this \(test_refusal\.py:\d+\)\n", error)


def test_labels_that_are_numbers_can_be_allowed(generate, diffusion_run, capsys):
    assert generate(f"checkpoint={diffusion_run / LAST}", "allowed_labels=[1850,ink]", *FAST) == 2
    assert capsys.readouterr().err.startswith("allowed_labels: 1850 is no label; choose ")


def test_a_list_that_cannot_be_read_says_where_quotes_are_needed(generate, diffusion_run, capsys):
    assert generate(f"checkpoint={diffusion_run / LAST}", "allowed_labels=[Öl auf Holz]", *FAST) == 2
    line = "allowed_labels=[Öl auf Holz]: cannot be read as key=value; put names into quotes: "
    assert capsys.readouterr().err.startswith(line)
