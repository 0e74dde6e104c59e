import json
from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch.testing import assert_close

from artart.io.images import to_model
from artart.metrics import memorization
from artart.metrics.memorization import CopyTest, Nearest, plant, report
from artart.metrics.spectrum import radial_power

CRITERIA = ["copy_rate", "copy_rate_ratio", "copy_rate_third"]
KINDS = ["noise_0.05", "noise_0.15", "tint", "shift_1px", "zoom_1.1", "blur"]
SIDE = 16  # at which a picture is its own thumbnail


def drawing(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(num: int, seed: int, size: int = SIDE, low: int = 0, high: int = 256) -> torch.Tensor:
    """Pictures of noise, which have nothing alike."""
    return torch.randint(low, high, (num, 3, size, size), generator=drawing(seed), dtype=torch.uint8)


def by_distance(copy_test: CopyTest, nearest: Nearest) -> torch.Tensor:
    return copy_test.judge(nearest)["copy_rate"]


def a_third(nearest: Nearest) -> torch.Tensor:
    return nearest.ratio < 1 / 3


def alone(num: int) -> list[str]:
    return [str(k) for k in range(num)]


@pytest.fixture(scope="module")
def art(art_files):
    """600 details of real works at 32 px, no two of which overlap, each turned four ways, shuffled: uint8."""
    details = []
    for path in art_files:
        pixels = np.asarray(Image.open(path).convert("RGB"))
        rows, columns = (side // 32 for side in pixels.shape[:2])
        large = pixels[: 32 * rows, : 32 * columns].reshape(rows, 32, columns, 32, 3)
        details += [*large.transpose(0, 2, 1, 3, 4).reshape(-1, 32, 32, 3)]
    details.sort(key=lambda one: one.std(axis=(0, 1)).mean(), reverse=True)  # without the empty paper
    turned = [np.rot90(one, turn) for one in details[:150] for turn in range(4)]
    order = torch.randperm(600, generator=drawing())
    return torch.from_numpy(np.stack(turned)).permute(0, 3, 1, 2)[order].contiguous()


@pytest.fixture(scope="module")
def copy_test():
    return CopyTest(pictures(60, 0), alone(60), pictures(300, 1))


# --- the nearest picture


def by_loops(pictures: torch.Tensor, train: torch.Tensor) -> torch.Tensor:
    """(B, N) distances, view by view."""

    def thumbnail(x: np.ndarray, top: int, left: int) -> np.ndarray:
        """Of 32 px: the means of 14 x 14 blocks of four pixels, from a corner on."""
        return x[:, top : top + 28, left : left + 28].reshape(3, 14, 2, 14, 2).mean(axis=(2, 4))

    large = [to_model(x).double().numpy() for x in (pictures, train)]
    found = np.full((len(pictures), len(train)), np.inf)
    for (i, one), (j, other) in product(enumerate(large[0]), enumerate(large[1])):
        for seen, down, right in product((one, one[:, :, ::-1]), range(-2, 3), range(-2, 3)):
            a, b = thumbnail(seen, 2 + down, 2 + right), thumbnail(other, 2, 2)
            error = (a - a.mean(axis=(1, 2), keepdims=True)) - (b - b.mean(axis=(1, 2), keepdims=True))
            found[i, j] = min(found[i, j], np.sqrt(np.square(error).mean()))
    return torch.from_numpy(found).float()


def test_the_nearest_is_the_least_over_all_views(art):
    train, given, groups = art[:20], art[20:28], [str(k // 3) for k in range(20)]
    found = CopyTest(train, groups, art[28:30]).nearest(given)
    wanted = by_loops(given, train)
    assert_close(found.distance, wanted.amin(dim=1), rtol=1e-4, atol=1e-5)
    assert (found.which == wanted.argmin(dim=1)).all()
    for row, index, ratio in zip(wanted, found.which.tolist(), found.ratio, strict=True):
        others = [value for k, value in enumerate(row) if groups[k] != groups[index]]
        assert_close(ratio, row[index] / min(others), rtol=1e-4, atol=1e-5)


def moved(x: torch.Tensor, down: int, right: int) -> torch.Tensor:
    return x.roll((down, right), dims=(2, 3))


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(("down", "right"), [(0, 0), (1, 0), (-1, 0), (0, 1), (1, -1), (-1, -1)])
def test_copies_mirrored_and_moved_by_a_pixel_have_no_distance(copy_test, mirrored, down, right):
    given = moved(copy_test.train, down, right)
    found = copy_test.nearest(given.flip(-1) if mirrored else given)
    assert (found.which == torch.arange(60)).all()
    assert_close(found.distance, torch.zeros(60), rtol=0, atol=2e-3)
    assert a_third(found).all()
    assert by_distance(copy_test, found).all()


@pytest.mark.parametrize(("down", "right"), [(2, 0), (0, -2)])
def test_copies_moved_by_two_pixels_are_like_any_other(copy_test, down, right):
    assert (copy_test.nearest(moved(copy_test.train, down, right)).distance > 0.5).all()


def test_unrelated_pictures_are_far(copy_test):
    found = copy_test.nearest(pictures(40, 2))
    assert (found.distance > 0.5).all()
    assert not a_third(found).any()


def test_copies_at_64_px_are_found_moved_by_four(art):
    """By a thumbnail's pixel; at the border they cannot be quite the same."""
    train = art[:100].repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)
    copy_test = CopyTest(train, alone(100), art[100:200])
    found = copy_test.nearest(torch.cat([train[:, :, :4], train[:, :, :-4]], dim=2))
    assert (found.which == torch.arange(100)).all()
    assert found.distance.max() < copy_test.thresholds[0] / 3


def test_the_mean_colour_is_ignored():
    train = pictures(10, 3, high=200)
    copy_test = CopyTest(train, alone(10), pictures(2, 1))
    found = copy_test.nearest(train + torch.tensor([50, 0, 20], dtype=torch.uint8).view(3, 1, 1))
    assert (found.which == torch.arange(10)).all()
    assert_close(found.distance, torch.zeros(10), rtol=0, atol=2e-3)


def test_many_pictures_are_compared_in_parts(monkeypatch, copy_test):
    given = torch.cat([pictures(5, 2), copy_test.train[7:10]])
    wanted = copy_test.nearest(given)
    monkeypatch.setattr(memorization, "CHUNK", 3)
    parts = CopyTest(copy_test.train, alone(60), pictures(300, 1))
    assert_close(parts.nearest(given)._asdict(), wanted._asdict(), rtol=0, atol=2e-3)  # single precision at distance 0
    assert_close(parts.thresholds, copy_test.thresholds)


def test_the_second_nearest_is_of_another_group():
    """Else two scans of a painting would hide each other."""
    one, other, third = pictures(3, 0)
    scan = to_model(one).add(0.02).mul(127.5).add(127.5).clamp(0, 255).byte()
    scan[:, 8, 8] = 255 - scan[:, 8, 8]
    train, held_out = torch.stack([one, scan, other, third]), pictures(2, 1)
    _, noisy = next(plant(one[None], drawing()))
    together = CopyTest(train, ["a", "a", "b", "c"], held_out).nearest(noisy)
    apart = CopyTest(train, ["a", "d", "b", "c"], held_out).nearest(noisy)
    assert_close(together.distance, apart.distance)
    assert a_third(together).all()
    assert not a_third(apart).any()


def test_in_a_single_group_nothing_stands_out():
    train = pictures(4, 0)
    found = CopyTest(train, ["a"] * 4, pictures(2, 1)).nearest(train)
    assert_close(found.ratio, torch.ones(4))
    assert not a_third(found).any()


def test_blank_sheets_do_not_stand_out():
    blank = torch.full((2, 3, SIDE, SIDE), 200, dtype=torch.uint8)
    found = CopyTest(blank, ["a", "b"], pictures(2, 1)).nearest(blank)
    assert_close(found.ratio, torch.ones(2))


# --- the threshold


@pytest.mark.parametrize(("num", "rank"), [(12, 1), (98, 1), (99, 1), (198, 1), (199, 2)])
def test_the_thresholds_are_a_hundredth_of_the_held_out_up(art, num, rank):
    """The k-th smallest, where k / (num + 1) is at most 1 %; the smallest if there is none."""
    few = CopyTest(art[:20], alone(20), art[100 : 100 + num])
    assert_close(few.thresholds[0], few.held_out.distance.sort().values[rank - 1].item())
    assert_close(few.thresholds[1], few.held_out.ratio.sort().values[rank - 1].item())
    found = few.judge(few.held_out)
    assert found["copy_rate"].sum() == found["copy_rate_ratio"].sum() == rank - 1


def test_false_alarms_are_judged_by_the_other_half(copy_test):
    apart = CopyTest(copy_test.train, alone(60), pictures(2, 1))
    distance = torch.arange(1.0, 101.0).repeat_interleave(2)
    distance[1::2] += 0.5
    ratio = torch.linspace(0.3, 1, 200).flip(0)
    apart.held_out = apart.held_out._replace(distance=distance, ratio=ratio)
    # thresholds 1 and 1.5: below lies 1 of the one half, none of the other
    found = apart.false_alarms()
    assert_close(found["copy_rate"], 1 / 200)
    assert_close(found["copy_rate_third"], 10 / 200)
    assert_close(found["copy_rate_ratio"], 1 / 200)


@pytest.mark.slow
def test_false_alarms_are_one_in_a_hundred_where_nothing_was_copied():
    copy_test = CopyTest(pictures(50, 0), alone(50), pictures(3000, 1))
    false_alarms, found = copy_test.false_alarms(), copy_test.judge(copy_test.nearest(pictures(3000, 2)))
    for name in ("copy_rate", "copy_rate_ratio"):
        assert 0.003 < false_alarms[name] < 0.02  # standard deviation about 0.002
        assert 0.003 < found[name].float().mean() < 0.02
    assert false_alarms["copy_rate_third"] == found["copy_rate_third"].sum() == 0


def test_planted_copies_of_distinct_pictures_are_found(copy_test):
    power = copy_test.power(drawing())
    assert list(power) == CRITERIA
    for name in CRITERIA:
        assert list(power[name]) == KINDS
        for kind in ("noise_0.05", "noise_0.15", "tint", "shift_1px"):
            assert power[name][kind] == 1
    assert power["copy_rate_third"]["zoom_1.1"] < 0.1  # of a picture of noise not much is left


def test_real_art_does_not_copy_itself_and_its_copies_are_found(art):
    train, held_out, new = art.split([300, 150, 150])
    copy_test = CopyTest(train, alone(300), held_out)
    assert max(copy_test.false_alarms().values()) < 0.05
    assert max(found.float().mean() for found in copy_test.judge(copy_test.nearest(new)).values()) < 0.05
    for found in (copy_test.nearest(train), copy_test.nearest(train.flip(-1))):
        assert (found.which == torch.arange(300)).all()
        assert by_distance(copy_test, found).all()
        assert a_third(found).all()
    power = copy_test.power(drawing())
    assert power["copy_rate"]["noise_0.05"] > 0.95
    assert power["copy_rate_ratio"]["tint"] > 0.7
    assert power["copy_rate_third"]["noise_0.05"] > 0.9


# --- what is said


def test_a_report_says_rates_and_what_it_cannot_see(copy_test):
    """Ten of thirty samples are copies, all of them labelled a."""
    samples, labels = torch.cat([copy_test.train[:10], pictures(20, 7)]), ["a"] * 15 + ["b"] * 15
    found = report(copy_test, copy_test.nearest(samples), labels, drawing())
    json.dumps(found, allow_nan=False)
    assert list(found) == [*CRITERIA, "thresholds", "num_train", "num_held_out"]
    assert_close(found["thresholds"], copy_test.thresholds)
    assert (found["num_train"], found["num_held_out"]) == (60, 300)
    power = copy_test.power(drawing())
    for name, held_out in copy_test.false_alarms().items():
        one = found[name]
        assert list(one) == ["value", "low", "high", "held_out", "power", "blind_to", "classes"]
        # a criterion that finds one in a hundred may find one of the twenty others
        assert 10 <= 30 * one["value"] <= (12 if name == "copy_rate_ratio" else 10)
        if one["value"] == 1 / 3:
            assert_close([one["low"], one["high"]], [0.1923, 0.5122], rtol=0, atol=1e-4)
        assert_close(one["held_out"], held_out)
        assert one["power"] == power[name]
        assert one["blind_to"] == [kind for kind in KINDS if power[name][kind] < 0.9]
        assert list(one["classes"]) == ["a", "b"]
        assert list(one["classes"]["a"]) == ["value", "low", "high", "num_images"]
        assert_close(sum(one["classes"][label]["value"] for label in "ab") / 2, one["value"])
        assert one["classes"]["a"]["value"] >= 10 / 15
        assert [one["classes"][label]["num_images"] for label in "ab"] == [15, 15]
    assert "noise_0.05" not in found["copy_rate"]["blind_to"]
    assert "zoom_1.1" in found["copy_rate_third"]["blind_to"]


# --- planted copies


def planted(given: torch.Tensor, seed: int = 0) -> dict[str, torch.Tensor]:
    return dict(plant(given, drawing(seed)))


def test_planted_copies_are_pictures_of_the_same_shape():
    given = pictures(5, 0, size=20)[:, :, :, :13]
    found = planted(given)
    assert list(found) == KINDS
    for made in found.values():
        assert made.dtype == torch.uint8
        assert made.shape == given.shape
        assert (made != given).any()
    assert_close(planted(given), found)
    assert (planted(given, seed=1)["tint"] != found["tint"]).any()


@pytest.mark.parametrize(("kind", "deviation"), [("noise_0.05", 0.05), ("noise_0.15", 0.15)])
def test_noise_has_the_deviation_that_its_name_says(kind, deviation):
    made = planted(torch.full((4, 3, 64, 64), 128, dtype=torch.uint8))[kind].double() / 127.5
    assert_close(made.std().item(), deviation, rtol=0.02, atol=0)
    assert_close(made.mean().item(), 128 / 127.5, rtol=0, atol=0.006)
    assert_close(torch.corrcoef(made.flatten(1)), torch.eye(4).double(), rtol=0, atol=0.05)  # each has its own


def test_a_shift_is_by_one_pixel_down_and_to_the_left():
    given = pictures(3, 0)
    made = planted(given)["shift_1px"]
    assert (made[:, :, 1:, :-1] == given[:, :, :-1, 1:]).all()
    assert (made[:, :, 0, :-1] == given[:, :, 0, 1:]).all()  # the edge is repeated
    assert (made[:, :, 1:, -1] == given[:, :, :-1, -1]).all()


@pytest.mark.parametrize("axis", [2, 3])
def test_a_zoom_is_by_a_tenth_about_the_middle(axis):
    level = torch.arange(2.0, 258.0, 4.0).view([-1 if k == axis else 1 for k in range(4)]).expand(1, 3, 64, 64)
    made = planted(level.byte())["zoom_1.1"].float()
    assert_close(made, 128 + (level - 128) / 1.1, rtol=0, atol=0.6)  # a ramp is flatter by so much


def test_a_tint_is_one_factor_for_each_colour_of_each_picture():
    level = torch.tensor([50.0, 100.0, 200.0]).repeat_interleave(20).view(1, 1, 60, 1).expand(50, 3, 60, 8)
    made = planted(level.byte())["tint"].float()
    factors = made[:, :, 30:31, :1] / 100
    assert_close(made, (factors * level).clamp(max=255), rtol=0, atol=1.6)
    assert 0.79 < factors.min() < 0.83
    assert 1.17 < factors.max() < 1.21
    assert len(factors.unique()) > 30


def test_blur_is_gaussian_and_takes_the_high_frequencies(art):
    given = art[:20]
    made = planted(given)["blur"]
    wanted = gaussian_filter(given.numpy().astype(float), 1.0, mode="mirror", truncate=3.0, axes=(2, 3))
    assert_close(made.double(), torch.from_numpy(wanted), rtol=0, atol=0.6)
    ratio = radial_power(to_model(made)).mean(dim=0) / radial_power(to_model(given)).mean(dim=0)
    assert ratio[0] > 0.9
    assert (ratio[10:] < 0.2).all()
