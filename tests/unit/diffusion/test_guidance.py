import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from artart.diffusion.guidance import NO_GUIDANCE, Guidance, denoiser
from artart.diffusion.noise import from_seeds
from artart.diffusion.parameterization import PARAMETERIZATIONS
from artart.diffusion.samplers import DDIM
from artart.diffusion.schedule import Cosine, Flow, Linear

B, NUM_CLASSES = 5, 3
NONE = NUM_CLASSES
NOTHING = torch.tensor([NONE])
Y = torch.tensor([0, 1, 2, 0, 1])
X_T = torch.randn(B, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
INSIDE = torch.full((B,), 0.5, dtype=torch.float64)
STRONG = Guidance(weight=3.0)


class Net(nn.Module):
    """Depends on everything that it is given; remembers how many images it was asked for."""

    def __init__(self, seed: int = 1) -> None:
        super().__init__()
        self.asked: list[int] = []
        self.classes = torch.randn(
            NUM_CLASSES + 1, 3, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
        )

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        self.asked.append(len(x_t))
        return torch.sin(x_t + t.view(-1, 1, 1, 1)) + self.classes[y]


@pytest.fixture
def net() -> Net:
    return Net()


def x0_hat(net: Net, y: Tensor, t: Tensor = INSIDE, schedule=Flow(), parameterization: str = "x0") -> Tensor:  # noqa: B008
    """What the network says of classes y without any guidance."""
    return PARAMETERIZATIONS[parameterization].x0(net(X_T, t, y), X_T, schedule.for_images(t, X_T))


def nobody() -> Tensor:
    return torch.full_like(Y, NONE)


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
@pytest.mark.parametrize("weight", [0.3, 1.5, 3.0])
def test_guidance_goes_from_no_class_to_the_class_and_beyond_but_stays_in_range(
    net, parameterization, schedule, weight
):
    t = schedule.time_at(torch.linspace(0.11, 0.89, B, dtype=torch.float64))
    denoise = denoiser(net, schedule, PARAMETERIZATIONS[parameterization], Y, NOTHING, Guidance(weight))
    without = x0_hat(net, nobody(), t, schedule, parameterization)
    wanted = without + weight * (x0_hat(net, Y, t, schedule, parameterization) - without)
    assert (wanted.abs() > 1).any()
    assert (wanted.abs() < 1).any()
    assert_close(denoise(X_T, t), wanted.clamp(-1, 1))


def test_the_network_is_asked_once_for_both(net):
    denoiser(net, Flow(), PARAMETERIZATIONS["x0"], Y, NOTHING, STRONG)(X_T, INSIDE)
    assert net.asked == [2 * B]


@pytest.mark.gpu
@pytest.mark.parametrize("r", [0.0, 0.5])
def test_a_gpu_is_not_waited_for(net, r):
    net.classes, y, x_t = net.classes.cuda(), Y.cuda(), X_T.cuda()
    denoise = denoiser(net, Flow(), PARAMETERIZATIONS["x0"], y, NOTHING.cuda(), STRONG)
    torch.cuda.set_sync_debug_mode("error")
    try:
        denoise(x_t, torch.full((B,), r))
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("r", [0, 0.0999, 0.9001, 1])
def test_outside_of_its_interval_the_class_is_as_learnt_and_nothing_is_clamped(net, r):
    t = torch.full_like(INSIDE, r)
    guided = denoiser(net, Flow(), PARAMETERIZATIONS["x0"], Y, NOTHING, STRONG)(X_T, t)
    assert net.asked == [B]
    assert guided.abs().max() > 1
    assert_close(guided, x0_hat(net, Y, t), rtol=0, atol=0)


@pytest.mark.parametrize(("interval", "num_guided"), [((0.15, 0.85), 7), ((0.35, 0.55), 2), ((0.0, 1.0), 10)])
def test_a_whole_sampling_evaluates_both_halves_within_the_interval_alone(net, interval, num_guided):
    """DDIM of ten steps from r = 1 asks at r = 1, 0.9, ..., 0.1."""
    denoise = denoiser(net, Flow(), PARAMETERIZATIONS["x0"], Y, NOTHING, STRONG._replace(interval=interval))
    times = Flow().times(10, "r", 1.0)
    noise = from_seeds(range(B), (3, 4, 4), X_T.device)
    list(DDIM(10)(denoise, Flow(), noise(0).double(), times, noise))
    assert sorted(net.asked) == [B] * (10 - num_guided) + [2 * B] * num_guided


@pytest.mark.parametrize("guidance", [NO_GUIDANCE, Guidance(weight=1.0, interval=(0, 1))])
def test_weight_1_is_the_class_as_learnt_and_costs_nothing(net, guidance):
    guided = denoiser(net, Flow(), PARAMETERIZATIONS["x0"], Y, NOTHING, guidance)(X_T, INSIDE)
    assert net.asked == [B]
    assert guided.abs().max() > 1
    assert_close(guided, x0_hat(net, Y), rtol=0, atol=0)


def test_nothing_is_guided_unless_asked_for(net):
    assert_close(
        denoiser(net, Flow(), PARAMETERIZATIONS["x0"], Y, NOTHING)(X_T, INSIDE), x0_hat(net, Y), rtol=0, atol=0
    )


def test_guidance_is_the_published_one_by_default():
    assert Guidance()[:3] == (1.5, (0.1, 0.9), None)


def test_weight_0_is_no_class(net):
    guided = denoiser(net, Flow(), PARAMETERIZATIONS["x0"], Y, NOTHING, Guidance(weight=0.0))(X_T, INSIDE)
    assert_close(guided, x0_hat(net, nobody()).clamp(-1, 1))


def test_images_of_no_class_are_not_changed(net):
    y = torch.tensor([0, NONE, 1, NONE, 2])
    guided = denoiser(net, Flow(), PARAMETERIZATIONS["x0"], y, NOTHING, STRONG)(X_T, INSIDE)
    plain = x0_hat(net, y)
    assert_close(guided[[1, 3]], plain[[1, 3]])
    assert ((guided - plain).abs().amax(dim=(1, 2, 3))[[0, 2, 4]] > 0.1).all()


def test_each_image_has_its_own_time(net):
    t = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0], dtype=torch.float64)
    guided = denoiser(net, Flow(), PARAMETERIZATIONS["v"], Y, NOTHING, STRONG)(X_T, t)
    plain, without = x0_hat(net, Y, t, parameterization="v"), x0_hat(net, nobody(), t, parameterization="v")
    wanted = torch.where(
        torch.tensor([False, True, True, True, False]).view(-1, 1, 1, 1),
        (without + 3 * (plain - without)).clamp(-1, 1),
        plain,
    )
    assert_close(guided, wanted)


def test_the_interval_is_of_noise_levels_not_of_times(net):
    """At time 0.08 the cosine is at r = 0.112; at 0.93, at r = 0.901."""
    cosine = denoiser(net, Cosine(), PARAMETERIZATIONS["x0"], Y, NOTHING, STRONG)
    for t, num in ((0.08, 2 * B), (0.93, B)):
        cosine(X_T, torch.full_like(INSIDE, t))
        assert net.asked.pop() == num
    linear = denoiser(net, Linear(), PARAMETERIZATIONS["x0"], Y, NOTHING, STRONG)
    linear(X_T, torch.full_like(INSIDE, 0.8))
    assert net.asked.pop() == B  # r is 0.96


# --- autoguidance


@pytest.fixture
def worse() -> Net:
    return Net(seed=2)


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.5, 3.0])
def test_autoguidance_goes_from_the_worse_network_through_the_own_and_beyond(
    net, worse, parameterization, schedule, weight
):
    t = schedule.time_at(torch.linspace(0.11, 0.89, B, dtype=torch.float64))
    guidance = Guidance(weight, network=worse)
    made = denoiser(net, schedule, PARAMETERIZATIONS[parameterization], Y, NOTHING, guidance)(X_T, t)
    own, its = (x0_hat(one, Y, t, schedule, parameterization) for one in (net, worse))
    wanted = weight * own + (1 - weight) * its
    assert (wanted.abs() < 1).any()
    assert_close(made, wanted.clamp(-1, 1))


def test_both_networks_are_asked_once_and_with_the_labels(net, worse):
    denoiser(net, Flow(), PARAMETERIZATIONS["x0"], Y, NOTHING, STRONG._replace(network=worse))(X_T, INSIDE)
    assert (net.asked, worse.asked) == ([B], [B])


def test_images_of_no_class_are_guided_by_another_network_too(net, worse):
    y = torch.tensor([0, NONE, 1, NONE, NONE])
    made = denoiser(net, Flow(), PARAMETERIZATIONS["x0"], y, NOTHING, STRONG._replace(network=worse))(X_T, INSIDE)
    own, its = x0_hat(net, y), x0_hat(worse, y)
    assert_close(made, (its + 3 * (own - its)).clamp(-1, 1))
    assert ((made - own).abs().amax(dim=(1, 2, 3)) > 0.1).all()


@pytest.mark.parametrize("t", [0.05, 0.95])
def test_outside_of_the_interval_the_other_network_is_not_asked(net, worse, t):
    made = denoiser(net, Flow(), PARAMETERIZATIONS["x0"], Y, NOTHING, STRONG._replace(network=worse))(
        X_T, torch.full_like(INSIDE, t)
    )
    assert (net.asked, worse.asked) == ([B], [])
    assert made.abs().max() > 1
    assert_close(made, x0_hat(net, Y, torch.full_like(INSIDE, t)), rtol=0, atol=0)


def test_images_outside_of_the_interval_are_as_learnt_beside_others_inside(net, worse):
    t = torch.tensor([0.05, 0.5, 0.95, 0.1, 0.9], dtype=torch.float64)
    made = denoiser(net, Flow(), PARAMETERIZATIONS["x0"], Y, NOTHING, STRONG._replace(network=worse))(X_T, t)
    own, its = x0_hat(net, Y, t), x0_hat(worse, Y, t)
    assert_close(made[[0, 2]], own[[0, 2]], rtol=0, atol=0)
    assert_close(made[[1, 3, 4]], (its + 3 * (own - its)).clamp(-1, 1)[[1, 3, 4]])


def test_at_weight_1_the_other_network_costs_nothing(net, worse):
    made = denoiser(net, Flow(), PARAMETERIZATIONS["x0"], Y, NOTHING, Guidance(1.0, (0.0, 1.0), worse))(X_T, INSIDE)
    assert (net.asked, worse.asked) == ([B], [])
    assert_close(made, x0_hat(net, Y), rtol=0, atol=0)


def test_a_network_that_guides_itself_changes_nothing_but_clamps(net):
    made = denoiser(net, Flow(), PARAMETERIZATIONS["x0"], Y, NOTHING, STRONG._replace(network=Net()))(X_T, INSIDE)
    assert x0_hat(net, Y).abs().max() > 1
    assert_close(made, x0_hat(net, Y).clamp(-1, 1))
