"""Against what tensors themselves can do, and against the augmentation labels."""

import math
from typing import NamedTuple

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from artart.diffusion.augment import AUGMENT_DIM, LOG_SCALE, SHIFT, Augment
from artart.diffusion.noise_levels import LogitNormal
from artart.diffusion.samplers import DDIM
from artart.diffusion.sampling import sample_steps
from artart.diffusion.schedule import Flow
from artart.io.images import Batch
from artart.objectives.diffusion import Diffusion
from artart.objectives.losses import MSE, WeightedSum

S = 32


class Augmented(NamedTuple):
    x0: Tensor
    augment_labels: Tensor


FLIP_X, FLIP_Y, SCALE, COS, SIN, STRETCH_COS, STRETCH_SIN, MOVE_X, MOVE_Y = range(AUGMENT_DIM)
OPERATIONS = {  # which of the augmentation numbers are whose
    "flip x": [FLIP_X],
    "flip y": [FLIP_Y],
    "scale": [SCALE],
    "turn": [COS, SIN],
    "stretch": [STRETCH_COS, STRETCH_SIN],
    "move": [MOVE_X, MOVE_Y],
}


def drawing(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def smooth(num: int, size: int = S) -> Tensor:
    """Images in [-1, 1] that can be resampled without much loss."""
    coarse = torch.rand(num, 3, 4, 4, generator=drawing(9)) * 2 - 1
    return F.interpolate(coarse, (size, size), mode="bicubic").clamp(-1, 1)


def rough(num: int, size: int = S) -> Tensor:
    return torch.rand(num, 3, size, size, generator=drawing(9)) * 2 - 1


def scripted(monkeypatch: pytest.MonkeyPatch, **amounts: float) -> None:
    """Stands for torch's random numbers: what is named happens by that amount, the rest does not."""

    def happens(*names: str) -> float:
        return 0.0 if amounts.keys() & set(names) else 1.0

    def angle(name: str) -> float:
        return amounts.get(name, 0.0) / (2 * math.pi) + 0.5

    flips = happens("flip_x"), happens("flip_y")
    turns = happens("turn"), angle("turn"), happens("stretch"), angle("stretch_to")
    uniform = iter([*flips, happens("scale"), *turns, happens("move_x", "move_y")])
    sizes = {"scale": LOG_SCALE, "stretch": LOG_SCALE, "move_x": SHIFT, "move_y": SHIFT}
    normal = iter([amounts.get(name, 0.0) / size for name, size in sizes.items()])
    monkeypatch.setattr(torch, "rand", lambda num, **_: torch.full((num,), next(uniform)))
    monkeypatch.setattr(torch, "randn", lambda num, **_: torch.full((num,), next(normal)))


@pytest.fixture
def done(monkeypatch):
    """Images after an operation by the amounts, alone; and the augmentation labels of it."""

    def done(x0: Tensor, **amounts: float):
        with monkeypatch.context() as patch:
            scripted(patch, **amounts)
            drawn = Augment(0.5, flips=True).draw(len(x0), drawing())
        return Augmented(*Augment(0.5, flips=True).apply(x0, *drawn))

    return done


def labels_of(**amounts: float) -> Tensor:
    numbers = torch.zeros(AUGMENT_DIM)
    for name, value in amounts.items():
        numbers[globals()[name.upper()]] = value
    return numbers


def test_flips_are_those_of_tensors(done):
    x0 = rough(2)
    left, down = done(x0, flip_x=1), done(x0, flip_y=1)
    assert_close(left.x0, x0.flip(3))
    assert_close(down.x0, x0.flip(2))
    assert_close(done(x0, flip_x=1, flip_y=1).x0, x0.flip(2, 3))
    assert_close(left.augment_labels, labels_of(flip_x=1).expand(2, -1))
    assert_close(down.augment_labels, labels_of(flip_y=1).expand(2, -1))


@pytest.mark.parametrize(("right", "down"), [(4, 0), (0, -3), (-5, 2)])
def test_a_move_by_whole_pixels_is_a_shift_that_mirrors_at_the_edge(done, right, down):
    x0 = rough(2)
    moved = done(x0, move_x=right / S, move_y=down / S)
    assert_close(moved.x0[..., 8:-8, 8:-8], x0[..., 8 - down : S - 8 - down, 8 - right : S - 8 - right])
    if right > 0:
        assert_close(moved.x0[:, :, :, :right], x0[:, :, :, :right].flip(3))  # the edge itself comes twice
    assert_close(moved.augment_labels, labels_of(move_x=right / S, move_y=down / S).expand(2, -1))


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_turn_by_quarters_is_that_of_tensors(done, quarters):
    x0, angle = rough(2), quarters * math.pi / 2
    turned = done(x0, turn=angle)
    assert_close(turned.x0, x0.rot90(quarters, (2, 3)), rtol=1e-4, atol=1e-4)
    assert_close(turned.augment_labels, labels_of(cos=math.cos(angle) - 1, sin=math.sin(angle)).expand(2, -1))


def test_a_scale_of_2_shows_the_middle_twice_as_large(done):
    x0 = rough(2)
    scaled = done(x0, scale=1.0)
    wanted = F.interpolate(x0, scale_factor=2, mode="bilinear")[:, :, S // 2 : -S // 2, S // 2 : -S // 2]
    assert_close(scaled.x0, wanted)
    assert_close(scaled.augment_labels, labels_of(scale=1).expand(2, -1))


@pytest.mark.parametrize(("to", "width", "height"), [(0.0, 2.0, 0.5), (math.pi / 2, 0.5, 2.0), (math.pi, 2.0, 0.5)])
def test_a_stretch_of_2_makes_it_twice_as_long_and_half_as_wide(done, to, width, height):
    """A disc becomes an ellipse."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 65), torch.linspace(-1, 1, 65), indexing="ij")
    disc = ((x.square() + y.square()).sqrt() < 0.4).float()[None, None] * 2 - 1
    ellipse = ((x / width).square() + (y / height).square()).sqrt() < 0.4
    stretched = done(disc, stretch=1.0, stretch_to=to)
    is_within = ((x / width).abs() <= 1) & ((y / height).abs() <= 1)  # beyond, edges are mirrored
    assert ((stretched.x0[0, 0] > 0) != ellipse)[is_within].float().mean() < 0.01
    assert_close(stretched.augment_labels, labels_of(stretch_cos=1)[None] * (-1 if width < 1 else 1), atol=1e-6, rtol=0)


def test_what_is_reported_of_stretches_is_the_same_where_the_images_are_and_only_there(done):
    x0 = smooth(1)
    for stretch in (0.5, -0.5):
        angles = (0.3, 0.3 - math.pi, 0.3 - math.pi / 2)
        one, half, quarter = (done(x0, stretch=stretch, stretch_to=to) for to in angles)
        assert_close(half.x0, one.x0, atol=1e-4, rtol=0)
        assert_close(half.augment_labels, one.augment_labels, atol=1e-5, rtol=0)
        assert (quarter.x0 - one.x0).abs().max() > 0.1
        assert (quarter.augment_labels - one.augment_labels).abs().max() > 0.1
        across = done(x0, stretch=-stretch, stretch_to=0.3 - math.pi / 2)
        assert_close(across.x0, one.x0, atol=1e-4, rtol=0)
        assert_close(across.augment_labels, one.augment_labels, atol=1e-5, rtol=0)


def matrices_of(augment_labels: Tensor) -> Tensor:
    """From the augmentation labels alone: (B, 2, 3) from places in the result to places in the image, one by one."""
    out = []
    for one in augment_labels.double().tolist():
        flips = torch.diag(torch.tensor([1 - 2 * one[FLIP_X], 1 - 2 * one[FLIP_Y]]))
        angle = math.atan2(one[SIN], one[COS] + 1)
        turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        by = math.hypot(one[STRETCH_COS], one[STRETCH_SIN])
        to = math.atan2(one[STRETCH_SIN], one[STRETCH_COS]) / 2
        along = torch.tensor([[math.cos(to)], [math.sin(to)]])
        stretch = 2**-by * along @ along.mT + 2**by * (torch.eye(2) - along @ along.mT)
        matrix = stretch @ turn @ flips * 2 ** -one[SCALE]
        out.append(torch.cat([matrix, torch.tensor([[-2 * one[MOVE_X]], [-2 * one[MOVE_Y]]])], dim=1))
    return torch.stack(out).float()


def test_what_is_reported_is_what_was_done():
    """All at once, of many images: the augmentation labels alone says how, and how to undo it."""
    x0, augment = smooth(200, 64), Augment(0.6, flips=True)
    drawn, what = augment.draw(200, drawing())
    assert_close(matrices_of(what), drawn, rtol=1e-4, atol=1e-5)
    changed = Augmented(*augment.apply(x0, drawn, what))
    square = torch.cat([matrices_of(changed.augment_labels), torch.tensor([[[0.0, 0, 1]]]).expand(200, -1, -1)], dim=1)
    places = F.affine_grid(torch.linalg.inv(square)[:, :2], list(x0.shape), align_corners=False)
    back = F.grid_sample(changed.x0, places, align_corners=False)
    known = F.grid_sample(torch.ones_like(x0), places, align_corners=False) > 0.999
    near = F.max_pool2d((~known).float(), 5, stride=1, padding=2) == 0
    assert near.float().mean() > 0.3
    errors = (back - x0).abs()[near]
    assert errors.mean() < 0.02
    assert (changed.x0 - x0).abs().mean() > 0.2


def test_augmentation_of_nothing_changes_nothing_to_the_bit():
    x0, augment = rough(300, 8), Augment(0.3, flips=True)
    changed, what = augment.apply(x0, *augment.draw(300, drawing()))
    is_told = (what != 0).any(dim=1)
    assert 0.6 < is_told.float().mean() < 0.98
    is_changed = (changed != x0).flatten(1).any(dim=1)
    assert (is_changed == is_told).all()


def test_probability_0_changes_nothing_and_probability_1_everything():
    x0 = rough(50, 8)
    never, always = Augment(0.0, flips=True), Augment(1.0, flips=True)
    changed, what = never.apply(x0, *never.draw(50, drawing()))
    assert_close(changed, x0, rtol=0, atol=0)
    assert not what.any()
    _, what = always.draw(50, drawing())
    assert all((what[:, numbers] != 0).any(dim=1).all() for numbers in OPERATIONS.values())


@pytest.mark.parametrize("flips", [False, True])
def test_each_operation_befalls_its_share_of_images_whatever_the_others_do(flips):
    num, probability = 20_000, 0.12
    _, what = Augment(probability, flips).draw(num, drawing())
    happened = torch.stack([(what[:, numbers] != 0).any(dim=1) for numbers in OPERATIONS.values()], dim=1).float()
    wanted = torch.full((6,), probability)
    if not flips:
        wanted[:2] = 0  # handwriting
    assert ((happened.mean(dim=0) - wanted).abs() < 0.012).all()  # five standard deviations
    together = happened.mT @ happened / num
    assert (together - wanted[:, None] * wanted)[~torch.eye(6, dtype=torch.bool)].abs().max() < 0.005


def test_amounts_are_spread_as_stated():
    _, what = Augment(1.0).draw(20_000, drawing())
    assert_close(what[:, SCALE].std(), torch.tensor(LOG_SCALE), rtol=0.03, atol=0)
    stretches = what[:, [STRETCH_COS, STRETCH_SIN]].norm(dim=1)
    assert_close(stretches.square().mean().sqrt(), torch.tensor(LOG_SCALE), rtol=0.03, atol=0)
    assert_close(what[:, [MOVE_X, MOVE_Y]].std(dim=0), torch.full((2,), SHIFT), rtol=0.03, atol=0)
    assert what.mean(dim=0)[[SCALE, SIN, STRETCH_COS, STRETCH_SIN, MOVE_X, MOVE_Y]].abs().max() < 0.03
    assert_close(what[:, COS].mean(), torch.tensor(-1.0), rtol=0.03, atol=0)  # angles are even


def test_the_generator_alone_decides():
    augment, before = Augment(0.5, flips=True), torch.random.get_rng_state()
    first, again, other = (augment.draw(20, drawing(seed)) for seed in (1, 1, 2))
    assert_close(first, again, rtol=0, atol=0)
    assert not torch.equal(first[1], other[1])
    assert_close(torch.random.get_rng_state(), before)


def test_edges_are_continued_and_values_stay_in_range():
    white, augment = torch.ones(100, 3, S, S), Augment(1.0, flips=True)
    assert_close(augment.apply(white, *augment.draw(100, drawing()))[0], white)  # no black corners
    changed, _ = augment.apply(rough(100), *augment.draw(100, drawing()))
    assert changed.abs().max() <= 1


def test_places_are_not_rounded_under_autocast():
    """bf16 has two digits and a half: at 128 px half a pixel."""
    x0, augment = rough(4, 128), Augment(1.0, flips=True)
    wanted = augment.apply(x0, *augment.draw(4, drawing()))
    with torch.autocast("cpu", torch.bfloat16):
        made = augment.apply(x0, *augment.draw(4, drawing()))
    assert_close(made, wanted, rtol=0, atol=0)


# --- within diffusion


class Spy(nn.Module):
    """Notes what it is given."""

    channels, image_size, num_classes = 3, 8, (3,)

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, ...]] = []

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor, augment_labels: Tensor | None = None) -> Tensor:
        self.seen.append((x_t, t, y) if augment_labels is None else (x_t, t, y, augment_labels))
        return torch.zeros_like(x_t)


def diffusion(augment: Augment | None) -> Diffusion:
    return Diffusion(WeightedSum({"mse": 1.0}, mse=MSE("model")), Flow(), LogitNormal(8), augment=augment)


GIVEN = Batch(rough(6, 8), torch.arange(6)[:, None] % 3)


def test_the_network_sees_and_is_judged_by_the_changed_image_and_is_reported():
    augment, net = Augment(0.7), Spy()
    objective = Diffusion(
        WeightedSum({"mse": 1.0}, mse=MSE("model")),
        Flow(),
        lambda num, generator: torch.full((num,), 0.0),
        weighting="uniform",
        augment=augment,
    )
    losses = objective(net, GIVEN, drawing())
    ((x_t, _, _, what),) = net.seen
    assert_close(losses["mse"], x_t.square().mean(dim=(1, 2, 3)))  # at noise level 0, of an answer of zeros
    is_told = (what != 0).any(dim=1)
    assert is_told.any()
    assert ((x_t != GIVEN.x0).flatten(1).any(dim=1) == is_told).all()
    square = F.grid_sample(
        GIVEN.x0,
        F.affine_grid(matrices_of(what), list(x_t.shape), align_corners=False),
        padding_mode="reflection",
        align_corners=False,
    )
    assert_close(x_t, square, rtol=1e-3, atol=1e-3)


def test_validation_and_sampling_change_and_tell_nothing():
    plain, augmented, seen = diffusion(None), diffusion(Augment(1.0, flips=True)), []
    for objective in (plain, augmented):
        net = Spy()
        objective.measure(net, GIVEN)
        list(sample_steps(net, objective, DDIM(2), torch.tensor([[0], [1]]), [0, 1]))
        seen.append(net.seen)
    assert {len(call) for call in seen[1]} == {3}
    for one, other in zip(*seen, strict=True):
        assert_close(one, other, rtol=0, atol=0)


def test_a_probability_of_0_is_no_augmentation_and_asks_for_no_network_that_is_reported():
    assert diffusion(Augment(0.0)).network == diffusion(None).network == {"conditioned": True, "augment_dim": 0}
    assert diffusion(Augment(0.1)).network == {"conditioned": True, "augment_dim": 9}
    one, other = Spy(), Spy()
    made, wanted = diffusion(Augment(0.0))(one, GIVEN, drawing()), diffusion(None)(other, GIVEN, drawing())
    assert_close(made, wanted, rtol=0, atol=0)
    assert len(one.seen[0]) == 3
