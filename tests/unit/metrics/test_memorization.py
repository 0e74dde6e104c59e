import json
from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.stats import betabinom
from torch.testing import assert_close

from artart.io.images import to_model
from artart.metrics import memorization
from artart.metrics.memorization import MemorizationTest, Nearest, make_near_duplicates, report
from artart.metrics.spectrum import radial_power

CRITERIA = ["rate", "rate_ratio", "rate_third"]
KINDS = ["noise_0.05", "noise_0.15", "tint", "shift_1px", "zoom_1.1", "blur"]
SIDE = 16  # at which an image is its own thumbnail


def drawing(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(num: int, seed: int, size: int = SIDE, low: int = 0, high: int = 256) -> torch.Tensor:
    """Images of noise, which have nothing alike."""
    return torch.randint(low, high, (num, 3, size, size), generator=drawing(seed), dtype=torch.uint8)


def by_distance(memorization_test: MemorizationTest, nearest: Nearest) -> torch.Tensor:
    return memorization_test.judge(nearest)["rate"]


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
def memorization_test():
    return MemorizationTest(images(60, 0), alone(60), images(300, 1))


# --- the nearest image


def by_loops(images: torch.Tensor, train: torch.Tensor) -> torch.Tensor:
    """(B, N) distances, view by view."""

    def thumbnail(x: np.ndarray, top: int, left: int) -> np.ndarray:
        """Of 32 px: the means of 14 x 14 blocks of four pixels, from a corner on."""
        return x[:, top : top + 28, left : left + 28].reshape(3, 14, 2, 14, 2).mean(axis=(2, 4))

    large = [to_model(x).double().numpy() for x in (images, train)]
    found = np.full((len(images), len(train)), np.inf)
    for (i, one), (j, other) in product(enumerate(large[0]), enumerate(large[1])):
        for seen, down, right in product((one, one[:, :, ::-1]), range(-2, 3), range(-2, 3)):
            a, b = thumbnail(seen, 2 + down, 2 + right), thumbnail(other, 2, 2)
            error = (a - a.mean(axis=(1, 2), keepdims=True)) - (b - b.mean(axis=(1, 2), keepdims=True))
            found[i, j] = min(found[i, j], np.sqrt(np.square(error).mean()))
    return torch.from_numpy(found).float()


@pytest.mark.slow
def test_the_nearest_is_the_least_over_all_views(art):
    train, given, groups = art[:20], art[20:28], [str(k // 3) for k in range(20)]
    found = MemorizationTest(train, groups, art[28:30]).nearest(given)
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
def test_near_duplicates_mirrored_and_moved_by_a_pixel_have_no_distance(memorization_test, mirrored, down, right):
    given = moved(memorization_test.train, down, right)
    found = memorization_test.nearest(given.flip(-1) if mirrored else given)
    assert (found.which == torch.arange(60)).all()
    assert_close(found.distance, torch.zeros(60), rtol=0, atol=2e-3)
    assert a_third(found).all()
    assert by_distance(memorization_test, found).all()


@pytest.mark.parametrize(("down", "right"), [(2, 0), (0, -2)])
def test_near_duplicates_moved_by_two_pixels_are_like_any_other(memorization_test, down, right):
    assert (memorization_test.nearest(moved(memorization_test.train, down, right)).distance > 0.5).all()


def test_unrelated_images_are_far(memorization_test):
    found = memorization_test.nearest(images(40, 2))
    assert (found.distance > 0.5).all()
    assert not a_third(found).any()


def test_near_duplicates_at_64_px_are_found_moved_by_four(art):
    """By a thumbnail's pixel; at the border they cannot be quite the same."""
    train = art[:100].repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)
    memorization_test = MemorizationTest(train, alone(100), art[100:200])
    found = memorization_test.nearest(torch.cat([train[:, :, :4], train[:, :, :-4]], dim=2))
    assert (found.which == torch.arange(100)).all()
    assert found.distance.max() < memorization_test.thresholds[0] / 3


def test_the_mean_colour_is_ignored():
    train = images(10, 3, high=200)
    memorization_test = MemorizationTest(train, alone(10), images(2, 1))
    found = memorization_test.nearest(train + torch.tensor([50, 0, 20], dtype=torch.uint8).view(3, 1, 1))
    assert (found.which == torch.arange(10)).all()
    assert_close(found.distance, torch.zeros(10), rtol=0, atol=2e-3)


@pytest.mark.slow
def test_many_images_are_compared_in_parts(monkeypatch, memorization_test):
    given = torch.cat([images(5, 2), memorization_test.train[7:10]])
    wanted = memorization_test.nearest(given)
    monkeypatch.setattr(memorization, "CHUNK", 3)
    parts = MemorizationTest(memorization_test.train, alone(60), images(300, 1))
    assert_close(parts.nearest(given)._asdict(), wanted._asdict(), rtol=0, atol=2e-3)  # single precision at distance 0
    assert_close(parts.thresholds, memorization_test.thresholds)


def test_the_second_nearest_is_of_another_group():
    """Else two scans of a painting would hide each other."""
    one, other, third = images(3, 0)
    scan = to_model(one).add(0.02).mul(127.5).add(127.5).clamp(0, 255).byte()
    scan[:, 8, 8] = 255 - scan[:, 8, 8]
    train, held_out = torch.stack([one, scan, other, third]), images(2, 1)
    _, noisy = next(make_near_duplicates(one[None], drawing()))
    together = MemorizationTest(train, ["a", "a", "b", "c"], held_out).nearest(noisy)
    apart = MemorizationTest(train, ["a", "d", "b", "c"], held_out).nearest(noisy)
    assert_close(together.distance, apart.distance)
    assert a_third(together).all()
    assert not a_third(apart).any()


def test_in_a_single_group_nothing_stands_out():
    train = images(4, 0)
    found = MemorizationTest(train, ["a"] * 4, images(2, 1)).nearest(train)
    assert_close(found.ratio, torch.ones(4))
    assert not a_third(found).any()


def test_blank_sheets_do_not_stand_out():
    blank = torch.full((2, 3, SIDE, SIDE), 200, dtype=torch.uint8)
    found = MemorizationTest(blank, ["a", "b"], images(2, 1)).nearest(blank)
    assert_close(found.ratio, torch.ones(2))


# --- the threshold


@pytest.mark.parametrize(("num", "rank"), [(12, 1), (98, 1), (99, 1), (198, 1), (199, 2)])
def test_the_thresholds_are_a_hundredth_of_the_held_out_up(art, num, rank):
    """The k-th smallest, where k / (num + 1) is at most 1 %; the smallest if there is none."""
    few = MemorizationTest(art[:20], alone(20), art[100 : 100 + num])
    assert_close(few.thresholds[0], few.held_out.distance.sort().values[rank - 1].item())
    assert_close(few.thresholds[1], few.held_out.ratio.sort().values[rank - 1].item())
    found = few.judge(few.held_out)
    assert found["rate"].sum() == found["rate_ratio"].sum() == rank - 1


@pytest.mark.parametrize(("num", "rank"), [(20, 1), (199, 2)])
def test_so_many_near_duplicates_are_memorized_as_chance_does_not_explain(art, num, rank):
    """One fewer may be chance, by the distribution of another library."""
    test = MemorizationTest(art[:20], alone(20), art[100 : 100 + num])
    chance = betabinom(256, rank, num + 1 - rank)
    least = next(hits for hits in range(257) if chance.sf(hits - 1) < 0.01)
    for hits in (0, least - 1, least, 256):
        few, none = torch.arange(256) < hits, torch.zeros(256, dtype=torch.bool)
        assert test.has_memorized({"rate": few, "rate_ratio": none, "rate_third": none}) is (hits >= least)
        assert test.has_memorized({"rate": none, "rate_ratio": few, "rate_third": none}) is (hits >= least)
    assert_close(test.false_alarms()["rate"], chance.mean() / 256)


def test_one_in_a_hundred_networks_that_copy_nothing_is_accused_by_a_criterion():
    """Images drawn as the held-out ones were: their distances are exchangeable."""
    test, accused = MemorizationTest(images(2, 0), alone(2), images(2, 1)), 0
    none = torch.zeros(256, dtype=torch.bool)
    for seed in range(1000):
        values = torch.rand(306, generator=torch.Generator().manual_seed(seed))
        test.held_out = test.held_out._replace(distance=values[:50], ratio=values[:50])
        found = values[50:] < test.thresholds[0]
        accused += test.has_memorized({"rate": found, "rate_ratio": none, "rate_third": none})
    assert 2 <= accused <= 18  # 10 at most, with a standard deviation of 3


def test_a_third_is_judged_by_its_interval(memorization_test):
    none = torch.zeros(256, dtype=torch.bool)
    for hits, has_memorized in ((5, False), (10, True)):
        found = {"rate": none, "rate_ratio": none, "rate_third": torch.arange(256) < hits}
        assert memorization_test.has_memorized(found) is has_memorized


def test_a_third_is_judged_by_what_it_finds_among_held_out_images(memorization_test, monkeypatch):
    """A fifth of them."""
    ratio = torch.where(torch.arange(300) < 60, 0.2, 0.9)
    monkeypatch.setattr(memorization_test, "held_out", memorization_test.held_out._replace(ratio=ratio))
    none = torch.zeros(256, dtype=torch.bool)
    for hits, has_memorized in ((30, False), (90, True)):
        found = {"rate": none, "rate_ratio": none, "rate_third": torch.arange(256) < hits}
        assert memorization_test.has_memorized(found) is has_memorized


@pytest.mark.slow
def test_false_alarms_are_one_in_a_hundred_where_nothing_was_copied():
    memorization_test = MemorizationTest(images(50, 0), alone(50), images(3000, 1))
    false_alarms, found = (
        memorization_test.false_alarms(),
        memorization_test.judge(memorization_test.nearest(images(3000, 2))),
    )
    for name in ("rate", "rate_ratio"):
        assert 0.003 < false_alarms[name] < 0.02  # standard deviation about 0.002
        assert 0.003 < found[name].float().mean() < 0.02
    assert false_alarms["rate_third"] == found["rate_third"].sum() == 0


def test_near_duplicates_of_distinct_images_are_found(memorization_test):
    detection_rates = memorization_test.detection_rates(drawing())
    assert list(detection_rates) == CRITERIA
    for name in CRITERIA:
        assert list(detection_rates[name]) == KINDS
        for kind in ("noise_0.05", "noise_0.15", "tint", "shift_1px"):
            assert detection_rates[name][kind] == 1
    assert detection_rates["rate_third"]["zoom_1.1"] < 0.1  # of an image of noise not much is left


@pytest.mark.slow
def test_real_art_does_not_copy_itself_and_its_near_duplicates_are_found(art):
    train, held_out, new = art.split([300, 150, 150])
    memorization_test = MemorizationTest(train, alone(300), held_out)
    assert max(memorization_test.false_alarms().values()) < 0.05
    assert (
        max(found.float().mean() for found in memorization_test.judge(memorization_test.nearest(new)).values()) < 0.05
    )
    for found in (memorization_test.nearest(train), memorization_test.nearest(train.flip(-1))):
        assert (found.which == torch.arange(300)).all()
        assert by_distance(memorization_test, found).all()
        assert a_third(found).all()
    detection_rates = memorization_test.detection_rates(drawing())
    assert detection_rates["rate"]["noise_0.05"] > 0.95
    assert detection_rates["rate_ratio"]["tint"] > 0.7
    assert detection_rates["rate_third"]["noise_0.05"] > 0.9


# --- what is said


def test_a_report_says_rates_and_what_it_cannot_see(memorization_test):
    """Ten of thirty samples are copies, all of them labelled a."""
    samples, labels = torch.cat([memorization_test.train[:10], images(20, 7)]), ["a"] * 15 + ["b"] * 15
    found = report(memorization_test, memorization_test.nearest(samples), labels, drawing())
    json.dumps(found, allow_nan=False)
    assert list(found) == [*CRITERIA, "has_memorized", "thresholds", "num_train", "num_held_out"]
    assert found["has_memorized"] is True
    assert_close(found["thresholds"], memorization_test.thresholds)
    assert (found["num_train"], found["num_held_out"]) == (60, 300)
    detection_rates = memorization_test.detection_rates(drawing())
    for name, held_out in memorization_test.false_alarms().items():
        one = found[name]
        assert list(one) == ["value", "low", "high", "held_out", "detection_rate", "blind_to", "classes"]
        # a criterion that finds one in a hundred may find one of the twenty others
        assert 10 <= 30 * one["value"] <= (12 if name == "rate_ratio" else 10)
        if one["value"] == 1 / 3:
            assert_close([one["low"], one["high"]], [0.1923, 0.5122], rtol=0, atol=1e-4)
        assert_close(one["held_out"], held_out)
        assert one["detection_rate"] == detection_rates[name]
        assert one["blind_to"] == [kind for kind in KINDS if detection_rates[name][kind] < 0.9]
        assert list(one["classes"]) == ["a", "b"]
        assert list(one["classes"]["a"]) == ["value", "low", "high", "num_images"]
        assert_close(sum(one["classes"][label]["value"] for label in "ab") / 2, one["value"])
        assert one["classes"]["a"]["value"] >= 10 / 15
        assert [one["classes"][label]["num_images"] for label in "ab"] == [15, 15]
    assert "noise_0.05" not in found["rate"]["blind_to"]
    assert "zoom_1.1" in found["rate_third"]["blind_to"]


# --- near-duplicates


def injected(given: torch.Tensor, seed: int = 0) -> dict[str, torch.Tensor]:
    return dict(make_near_duplicates(given, drawing(seed)))


def test_near_duplicates_are_images_of_the_same_shape():
    given = images(5, 0, size=20)[:, :, :, :13]
    found = injected(given)
    assert list(found) == KINDS
    for made in found.values():
        assert made.dtype == torch.uint8
        assert made.shape == given.shape
        assert (made != given).any()
    assert_close(injected(given), found)
    assert (injected(given, seed=1)["tint"] != found["tint"]).any()


@pytest.mark.parametrize(("kind", "deviation"), [("noise_0.05", 0.05), ("noise_0.15", 0.15)])
def test_noise_has_the_deviation_that_its_name_says(kind, deviation):
    made = injected(torch.full((4, 3, 64, 64), 128, dtype=torch.uint8))[kind].double() / 127.5
    assert_close(made.std().item(), deviation, rtol=0.02, atol=0)
    assert_close(made.mean().item(), 128 / 127.5, rtol=0, atol=0.006)
    assert_close(torch.corrcoef(made.flatten(1)), torch.eye(4).double(), rtol=0, atol=0.05)  # each has its own


def test_a_shift_is_by_one_pixel_down_and_to_the_left():
    given = images(3, 0)
    made = injected(given)["shift_1px"]
    assert (made[:, :, 1:, :-1] == given[:, :, :-1, 1:]).all()
    assert (made[:, :, 0, :-1] == given[:, :, 0, 1:]).all()  # the edge is repeated
    assert (made[:, :, 1:, -1] == given[:, :, :-1, -1]).all()


@pytest.mark.parametrize("axis", [2, 3])
def test_a_zoom_is_by_a_tenth_about_the_middle(axis):
    level = torch.arange(2.0, 258.0, 4.0).view([-1 if k == axis else 1 for k in range(4)]).expand(1, 3, 64, 64)
    made = injected(level.byte())["zoom_1.1"].float()
    assert_close(made, 128 + (level - 128) / 1.1, rtol=0, atol=0.6)  # a ramp is flatter by so much


def test_a_tint_is_one_factor_for_each_colour_of_each_image():
    level = torch.tensor([50.0, 100.0, 200.0]).repeat_interleave(20).view(1, 1, 60, 1).expand(50, 3, 60, 8)
    made = injected(level.byte())["tint"].float()
    factors = made[:, :, 30:31, :1] / 100
    assert_close(made, (factors * level).clamp(max=255), rtol=0, atol=1.6)
    assert 0.79 < factors.min() < 0.83
    assert 1.17 < factors.max() < 1.21
    assert len(factors.unique()) > 30


def test_blur_is_gaussian_and_takes_the_high_frequencies(art):
    given = art[:20]
    made = injected(given)["blur"]
    wanted = gaussian_filter(given.numpy().astype(float), 1.0, mode="mirror", truncate=3.0, axes=(2, 3))
    assert_close(made.double(), torch.from_numpy(wanted), rtol=0, atol=0.6)
    ratio = radial_power(to_model(made)).mean(dim=0) / radial_power(to_model(given)).mean(dim=0)
    assert ratio[0] > 0.9
    assert (ratio[10:] < 0.2).all()
