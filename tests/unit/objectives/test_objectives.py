import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from torch.testing import assert_close

from artart.diffusion.augment import AUGMENT_DIM, Augment
from artart.diffusion.guidance import Guidance
from artart.diffusion.noise import from_seeds, own_generators
from artart.diffusion.noise_levels import LogitNormal
from artart.diffusion.samplers import DDIM, Step
from artart.diffusion.sampling import sample_steps
from artart.diffusion.schedule import Cosine, Flow, Linear
from artart.io.images import Batch, to_model
from artart.models.conv_diffusion import ConvDiffusionModel
from artart.models.unet import UNet
from artart.objectives.base import Objective
from artart.objectives.diffusion import MAX_GRADIENT_IMAGES, Diffusion
from artart.objectives.distillation import Distillation, DistributionMatching
from artart.objectives.losses import MSE, Perceptual, WeightedSum
from artart.objectives.reconstruction import Reconstruction

B, S = 2, 8
NUM_CLASSES = 3
SCHEDULES = [Flow(), Cosine(), Linear()]


def batch(num: int = B, size: int = S, seed: int = 0) -> Batch:
    """Images as they come from files, each of another class."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (num, 3, size, size), generator=generator, dtype=torch.uint8)
    return Batch(to_model(pixels), torch.arange(num)[:, None] % NUM_CLASSES)


def drawing(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def constant(r: float):
    """A distribution of one noise level."""
    return lambda num, generator: torch.full((num,), r, device=generator.device)


def mse() -> WeightedSum:
    return WeightedSum({"mse": 1.0}, mse=MSE("model"))


class Halve(nn.Module):
    def forward(self, x):
        return x / 2


@pytest.mark.parametrize("parameterization", ["x0", "eps", "v"])
def test_objectives_name_inputs_and_output_of_the_network(parameterization):
    objective = Diffusion(mse(), Flow(), constant(0.5), parameterization)
    assert (objective.inputs, objective.output) == (("x_t", "t", "y"), f"{parameterization}_hat")
    assert (Reconstruction(mse()).inputs, Reconstruction(mse()).output) == (("x",), "x0_hat")
    assert isinstance(objective, Objective)
    assert isinstance(Reconstruction(mse()), Objective)
    assert not isinstance(mse(), Objective)


# --- Reconstruction


def test_it_judges_what_the_network_makes_of_an_image():
    objective, given = Reconstruction(WeightedSum({"mse": 3.0}, mse=MSE("model"))), batch()
    error = (given.x0 / 2).square().mean(dim=(1, 2, 3))
    assert_close(objective(Halve(), given, drawing()), {"loss": 3 * error, "mse": error})


def test_reconstruction_draws_nothing():
    generator = drawing()
    before = generator.get_state()
    Reconstruction(mse())(Halve(), batch(), generator)
    assert_close(generator.get_state(), before)


def test_psnr_of_a_copy_is_finite_so_that_means_are():
    objective = Reconstruction(WeightedSum({"mse": 1.0}, mse=MSE("model")))
    assert_close(
        objective.measure(torch.nn.Identity(), Batch(torch.ones(2, 3, 4, 4), None))["val/psnr"], torch.full((2,), 100.0)
    )


def test_measuring_adds_psnr():
    objective, given = Reconstruction(mse()), batch()
    measured = objective.measure(Halve(), given)
    assert_close(measured["val/mse"], (given.x0 / 2).square().mean(dim=(1, 2, 3)))
    assert_close(measured["val/psnr"], 10 * torch.log10(4 / measured["val/mse"]))


def test_it_names_what_is_logged():
    objective = Reconstruction(mse())
    assert objective.metrics == ["train/loss", "train/mse", "val/loss", "val/mse", "val/psnr"]
    assert {f"train/{name}" for name in objective(Halve(), batch(), drawing())} < set(objective.metrics)
    assert set(objective.measure(Halve(), batch())) < set(objective.metrics)


def test_a_grid_shows_inputs_above_outputs_above_errors():
    given = batch()
    inputs, outputs, errors = Reconstruction(mse()).draw(Halve(), given)
    assert_close(inputs, given.x0)
    assert_close(outputs, given.x0 / 2)
    assert_close(errors, (2 * given.x0.abs() - 1).clamp(max=1))  # of 4 times the error, from black to white


def test_the_error_of_a_copy_is_black_and_what_no_image_can_show_is_none():
    white = batch()._replace(x0=torch.ones(B, 3, S, S))
    for net, given in ((nn.Identity(), batch()), (lambda x: 1.5 * x, white)):
        *_, errors = Reconstruction(mse()).draw(net, given)
        assert_close(errors, torch.full_like(given.x0, -1.0), rtol=0, atol=0)


# --- Diffusion: losses


class Spy(nn.Module):
    """Notes what it is shown and answers `answer(x_t, t, y)`."""

    def __init__(self, answer=lambda x_t, t, y: torch.zeros_like(x_t), size: int = S, num_classes: int = NUM_CLASSES):
        super().__init__()
        self.answer = answer
        self.channels, self.image_size, self.num_classes = 3, size, num_classes
        self.seen = []

    def forward(self, x_t, t, y):
        self.seen.append((x_t, t, y))
        return self.answer(x_t, t, y)

    @property
    def labels(self):
        return [y.tolist() for _, _, y in self.seen]


def at_levels(*levels: float):
    """Noise levels that are drawn again and again, in that order."""
    return lambda num, generator: torch.tensor(levels).repeat(num)[:num]


def a_term(x_hat, x):
    """Stands for the perceptual one where its gradient has to be known by hand: the mean fourth power."""
    return (x_hat - x).pow(4).mean(dim=(1, 2, 3))


def conditioned_net(size: int = 16, seed: int = 0) -> ConvDiffusionModel:
    """With random numbers where training begins with zeros, so that everything has an influence."""
    torch.manual_seed(seed)
    net = ConvDiffusionModel(size, num_classes=NUM_CLASSES, conditioned=True)
    for parameter in net.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    return net.eval()


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: type(schedule).__name__)
def test_without_noise_each_term_is_that_of_reconstruction(schedule):
    loss = WeightedSum({"mse": 1.0, "perceptual": 0.5}, mse=MSE("imagenet"), perceptual=Perceptual("random"))
    noiseless = Diffusion(
        loss, schedule, constant(0.0), weighting="uniform", perceptual_max_noise=1.0, class_dropout_prob=0.0
    )
    given = batch(3, 16)._replace(y=torch.full((3, 1), NUM_CLASSES))
    net = conditioned_net()
    with torch.no_grad():
        assert_close(noiseless(net, given, drawing()), Reconstruction(loss)(net, given, drawing()))


@pytest.mark.parametrize("weighting", ["velocity", "min_snr", "uniform"])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: type(schedule).__name__)
def test_equal_x0_errors_are_equal_losses_whatever_the_network_outputs(schedule, weighting):
    given, r = batch(6), torch.linspace(0.05, 0.95, 6, dtype=torch.float64)
    x0 = given.x0.double()
    x0_hat = x0 + torch.randn(x0.shape, generator=drawing(1), dtype=torch.float64)
    level = schedule.for_images(schedule.time_at(r), x0)
    flows = {Flow: lambda x_t: (x_t - x0_hat) / level.sigma}
    answers = {
        "x0": lambda x_t, t, y: x0_hat,
        "eps": lambda x_t, t, y: (x_t - level.alpha * x0_hat) / level.sigma,
        "v": lambda x_t, t, y: flows.get(type(schedule), lambda x_t: (level.alpha * x_t - x0_hat) / level.sigma)(x_t),
    }
    losses = [
        Diffusion(mse(), schedule, lambda num, generator: r, parameterization, weighting)(
            Spy(answer), Batch(x0, given.y), drawing()
        )
        for parameterization, answer in answers.items()
    ]
    assert_close(losses[0]["mse"], (x0_hat - x0).square().mean(dim=(1, 2, 3)).float(), check_dtype=False)
    assert_close(losses[1], losses[0])
    assert_close(losses[2], losses[0])


LEVELS = (0.01, 0.2, 0.5, 0.51, 0.9)
WEIGHTS = {
    "velocity": [400.0, 1 / 0.2**2, 4.0, 1 / 0.51**2, 1 / 0.9**2],  # 1 / sigma^2, sigma at least 0.05
    "min_snr": [5.0, 5.0, 1.0, (0.49 / 0.51) ** 2, (1 / 9) ** 2],  # alpha^2 / sigma^2, at most 5
    "uniform": [1.0] * 5,
}


@pytest.mark.parametrize("weighting", WEIGHTS)
def test_the_noise_level_weights_all_terms_but_the_perceptual_one_which_has_a_gate(weighting):
    loss = WeightedSum({"mse": 2.0, "perceptual": 0.5, "other": 3.0}, mse=MSE("model"), perceptual=a_term, other=a_term)
    objective = Diffusion(loss, Flow(), at_levels(*LEVELS), weighting=weighting, perceptual_max_noise=0.5)
    given, net = batch(5), Spy(lambda x_t, t, y: torch.full_like(x_t, 0.3))
    losses = objective(net, given, drawing())
    squares, fourths = ((0.3 - given.x0).pow(k).mean(dim=(1, 2, 3)) for k in (2, 4))
    weight, gate = torch.tensor(WEIGHTS[weighting]), torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0])
    assert_close(losses["loss"], 2 * weight * squares + 0.5 * gate * fourths + 3 * weight * fourths)
    assert_close({name: losses[name] for name in ("mse", "perceptual", "other")},
                 {"mse": squares, "perceptual": fourths, "other": fourths})  # fmt: skip


def test_the_gate_is_of_the_noise_level_not_of_the_time():
    loss = WeightedSum({"perceptual": 1.0}, perceptual=a_term)
    objective = Diffusion(loss, Linear(), at_levels(0.1, 0.69, 0.71, 0.99), perceptual_max_noise=0.7)
    assert (objective(Spy(), batch(4), drawing())["loss"] > 0).tolist() == [True, True, False, False]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: type(schedule).__name__)
def test_the_network_sees_noise_of_the_level_that_was_drawn_and_is_reported_its_time(schedule):
    given, net = batch(50), Spy()
    Diffusion(mse(), schedule, at_levels(0.1, 0.5, 0.9))(net, given, drawing())
    ((x_t, t, _),) = net.seen
    level = schedule.for_images(t, x_t)
    assert_close(level.r.flatten(), torch.tensor([0.1, 0.5, 0.9]).repeat(17)[:50])
    eps = (x_t - level.alpha * given.x0) / level.sigma
    assert eps.mean().abs() < 0.04
    assert (eps.std() - 1).abs() < 0.03
    assert (eps[1:] - eps[:-1]).abs().mean(dim=(1, 2, 3)).min() > 0.5  # each image has noise of its own


@pytest.mark.parametrize("class_dropout_prob", [0.0, 1.0])
def test_labels_are_all_seen_or_all_withheld(class_dropout_prob):
    given, net = batch(7), Spy()
    Diffusion(mse(), Flow(), constant(0.5), class_dropout_prob=class_dropout_prob)(net, given, drawing())
    assert net.labels == [given.y.tolist() if class_dropout_prob == 0 else [[NUM_CLASSES]] * 7]


def test_a_tenth_of_the_labels_is_withheld():
    num = 10_000
    given, net = batch(num, 1), Spy()
    Diffusion(mse(), Flow(), LogitNormal(32), class_dropout_prob=0.1)(net, given, drawing())
    ((_, t, y),) = net.seen
    dropped = (y == NUM_CLASSES).flatten()
    assert abs(dropped.float().mean() - 0.1) < 0.015  # five standard deviations
    assert (y[~dropped] == given.y[~dropped]).all()
    assert abs(t[dropped].mean() - t[~dropped].mean()) < 0.03  # whatever the noise level


def test_the_generator_decides_all_that_is_drawn():
    objective, given, net = Diffusion(mse(), Flow(), LogitNormal(32), class_dropout_prob=0.5), batch(8), Spy()
    before = torch.random.get_rng_state()
    first, again, other = (objective(net, given, drawing(seed)) for seed in (5, 5, 6))
    assert_close(first, again, rtol=0, atol=0)
    for one, same in zip(net.seen[0], net.seen[1], strict=True):
        assert_close(one, same, rtol=0, atol=0)
    assert not torch.equal(net.seen[0][0], net.seen[2][0])
    assert not torch.equal(net.seen[0][1], net.seen[2][1])
    assert not torch.equal(net.seen[0][2], net.seen[2][2])
    assert first["loss"].shape == other["loss"].shape == (8,)
    assert_close(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("weights", [{"mse": 1.0, "perceptual": 0.1}, {"mse": 1.0, "perceptual": 0.0},
                                     {"mse": 0.0, "perceptual": 1.0}])  # fmt: skip
def test_diffusion_names_what_is_logged(weights):
    loss = WeightedSum(weights, mse=MSE("model"), perceptual=a_term)
    objective, given = Diffusion(loss, Flow(), LogitNormal(S)), batch(8)
    trained = [f"train/{name}" for name in objective(Spy(), given, drawing())]
    measured = objective.measure(Spy(), given)
    assert trained + [name for name in measured if not name.startswith("noise/")] == objective.metrics
    assert all(values.isfinite().all() for values in measured.values())


# --- Diffusion: validation


def together(parts):
    """What measurements of several batches say of the images in their order."""
    names = sorted({name for part in parts for name in part})
    return {name: torch.cat([part[name] for part in parts if name in part]) for name in names}


def parts_of(given: Batch, size: int):
    return [Batch(*(values[k : k + size] for values in given)) for k in range(0, len(given.y), size)]


def test_a_measurement_depends_on_the_image_alone():
    """Not on the batch size, the epoch or what else was drawn before."""
    net, given = conditioned_net(), batch(12, 16)
    objective = Diffusion(mse(), Cosine(), LogitNormal(16))
    with torch.inference_mode():
        whole = objective.measure(net, given)
        torch.manual_seed(1)
        assert_close(objective.measure(net, given), whole, rtol=0, atol=0)
        for size in (1, 5):
            pieces = together([objective.measure(net, part) for part in parts_of(given, size)])
            assert_close(pieces, dict(sorted(whole.items())))
        backwards = objective.measure(net, Batch(given.x0.flip(0), given.y.flip(0)))
    assert_close({name: values.flip(0) for name, values in backwards.items()}, whole)


def test_a_measurement_uses_the_labels_and_draws_from_no_global_state():
    given, net = batch(9), Spy()
    before = torch.random.get_rng_state()
    Diffusion(mse(), Flow(), LogitNormal(32), class_dropout_prob=1.0).measure(net, given)
    assert net.labels == [given.y.tolist()] * 2
    assert_close(torch.random.get_rng_state(), before)


def squared_errors(x0_hat, x0):
    return (x0_hat - x0).square().mean(dim=(1, 2, 3))


def test_validation_draws_the_noise_levels_of_its_loss_as_training_does():
    given, net = batch(6), Spy(lambda x_t, t, y: 0.5 * x_t)
    measured = Diffusion(mse(), Flow(), constant(0.25)).measure(net, given)
    (x_t, t, _), _ = net.seen
    assert_close(t, torch.full((6,), 0.25))
    eps = (x_t - 0.75 * given.x0) / 0.25
    assert abs(eps.std() - 1) < 0.1
    assert_close(measured["val/loss"], 16 * squared_errors(0.5 * x_t, given.x0))


def test_validations_monitored_metric_is_over_all_noise_levels_evenly():
    """So that runs that train at other levels can be compared."""
    given, net = batch(6), Spy(lambda x_t, t, y: 0.5 * x_t)
    scores = []
    for level in (0.1, 0.9):
        scores.append(Diffusion(mse(), Flow(), constant(level)).measure(net, given)["val/mse"])
    assert_close(scores[0], scores[1], rtol=0, atol=0)
    assert_close(scores[0], squared_errors(0.5 * net.seen[1][0], given.x0))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: type(schedule).__name__)
def test_errors_by_noise_level_are_of_the_images_that_had_it(schedule):
    given, net = batch(400, 4), Spy()
    measured = Diffusion(mse(), schedule, constant(0.25)).measure(net, given)
    x_t, t, _ = net.seen[1]
    level = schedule.for_images(t, x_t)
    assert abs(((x_t - level.alpha * given.x0) / level.sigma).std() - 1) < 0.05
    r, squares = level.r.flatten(), given.x0.square().mean(dim=(1, 2, 3))
    by_level = {name: values for name, values in measured.items() if name.startswith("noise/")}
    assert sorted(by_level) == [f"noise/mse_r0.{k}5" for k in range(10)]
    for k in range(10):
        here = (r >= k / 10) & (r < (k + 1) / 10)
        assert 15 < here.sum() < 70  # drawn evenly: 40 are to be expected
        assert_close(by_level[f"noise/mse_r0.{k}5"], squares[here])


def gradient_by_level(measured):
    return {name: values for name, values in measured.items() if name.startswith("noise/perceptual_gradient")}


def test_the_perceptual_pull_is_compared_with_that_of_the_other_terms():
    """By hand: the gradient of a mean square of N numbers is 2 e / N, that of a mean fourth power 4 e^3 / N."""
    loss = WeightedSum({"mse": 2.0, "perceptual": 0.5}, mse=MSE("model"), perceptual=a_term)
    objective = Diffusion(loss, Flow(), constant(0.5), perceptual_max_noise=0.6)
    given, net = batch(20, seed=1), Spy(lambda x_t, t, y: 0.5 * x_t)
    with torch.inference_mode():
        measured = gradient_by_level(objective.measure(net, given))
    x_t, r, _ = (values[:MAX_GRADIENT_IMAGES] for values in net.seen[1])
    error = 0.5 * x_t - given.x0[:MAX_GRADIENT_IMAGES]
    weight = r.clamp(min=0.05) ** -2
    pulls = [factor * error.pow(k).flatten(1).norm(dim=1) for k, factor in ((3, 0.5 * 4), (1, 2 * 2))]
    ratio = (r <= 0.6) * pulls[0] / (weight * pulls[1])
    bins = (r * 10).long()
    assert_close(measured, {f"noise/perceptual_gradient_r0.{k}5": ratio[bins == k] for k in range(10)})
    assert (ratio > 0).any()
    assert (ratio == 0).any()


def test_the_perceptual_pull_of_real_features_is_theirs():
    loss = WeightedSum({"mse": 1.0, "perceptual": 0.02}, mse=MSE("model"), perceptual=Perceptual("random"))
    objective = Diffusion(loss, Flow(), LogitNormal(16), weighting="uniform", perceptual_max_noise=1.0)
    given, net = batch(2, 16), Spy(lambda x_t, t, y: 0.5 * x_t, size=16)
    with torch.inference_mode():
        measured = torch.cat(list(gradient_by_level(objective.measure(net, given)).values()))
    x0_hat = (0.5 * net.seen[1][0]).clone().requires_grad_()
    x0 = given.x0.clone()
    wanted = [
        torch.autograd.grad(weight * loss.terms[name](x0_hat, x0).sum(), x0_hat)[0].flatten(1).norm(dim=1)
        for name, weight in (("perceptual", 0.02), ("mse", 1.0))
    ]
    assert_close(measured.sort().values, (wanted[0] / wanted[1]).sort().values, rtol=1e-3, atol=0)


# --- Diffusion: samples


@pytest.mark.parametrize(("parameterization", "start"), [("x0", 1.0), ("v", 1.0), ("eps", 0.98)])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: type(schedule).__name__)
def test_sampling_begins_with_pure_noise_where_the_parameterization_can(schedule, parameterization, start):
    net = Spy()
    sampler = DDIM(3, spacing="t")
    y = torch.zeros(100, dtype=torch.long)
    steps = list(sample_steps(net, Diffusion(mse(), schedule, constant(0.5), parameterization), sampler, y, range(100)))
    times = schedule.times(3, "t", start)
    assert len(steps) == 3
    assert_close(torch.stack([t[0] for _, t, _ in net.seen]), times[:3].float())
    x_t, t, _ = net.seen[0]
    level = schedule.at(t[0].double())
    assert float(level.r) == pytest.approx(min(start, float(schedule.at(torch.ones((), dtype=torch.float64)).r)))
    assert float(x_t.mean()) == pytest.approx(0, abs=0.04)
    assert float(x_t.std()) == pytest.approx(float(level.sigma), rel=0.02)


def test_guidance_asks_for_the_class_and_for_none():
    net, y = Spy(), torch.tensor([2, 0])
    objective = Diffusion(mse(), Flow(), constant(0.5))
    list(sample_steps(net, objective, DDIM(4), y, [0, 1], Guidance(2.0, (0.3, 0.8))))
    none = [NUM_CLASSES] * 2
    assert net.labels == [[2, 0], [2, 0, *none], [2, 0, *none], [2, 0]]  # at r = 1, 0.75, 0.5, 0.25


def test_samples_are_as_learnt_unless_guidance_is_asked_for():
    net, y = Spy(), torch.tensor([2, NUM_CLASSES])
    list(sample_steps(net, Diffusion(mse(), Flow(), constant(0.5)), DDIM(3), y, [0, 1]))
    assert net.labels == [y.tolist()] * 3


def test_each_step_has_noise_of_its_own_that_belongs_to_the_seed():
    def noise_of(seeds):
        class Noises(DDIM):
            def __call__(self, denoise, schedule, x, times, noise):
                for i in range(self.num_steps):
                    yield Step(noise(i + 1), x)

        y = torch.zeros(len(seeds), dtype=torch.long)
        steps = list(sample_steps(Spy(), Diffusion(mse(), Flow(), constant(0.5)), Noises(2), y, seeds))
        return torch.stack([steps[0].x0_hat, steps[0].x_t, steps[1].x_t], dim=1)  # (B, 3, C, S, S)

    whole = noise_of([7, 8, 9])
    assert_close(noise_of([9, 7]), whole[[2, 0]], rtol=0, atol=0)
    flat = whole.flatten(0, 1).flatten(1)
    assert (torch.corrcoef(flat) - torch.eye(9)).abs().max() < 0.35  # none is another's: 192 numbers each
    assert abs(flat.std() - 1) < 0.1


# --- noise


def test_noise_of_a_seed_and_a_step_is_that_of_no_other():
    draw = from_seeds([0, 1, 2], (2, 3), torch.device("cpu"))
    values = torch.stack([draw(i) for i in range(3)])
    assert values.shape == (3, 3, 2, 3)
    assert len({tuple(one.flatten().tolist()) for one in values.flatten(0, 1)}) == 9  # seed 0, step 1 is not 1, 0
    assert_close(draw(1), values[1], rtol=0, atol=0)


def test_an_images_generator_depends_on_its_pixels_alone():
    given = batch(3)
    states = [generator.get_state() for generator in own_generators(given.x0)]
    again = [generator.get_state() for generator in own_generators(given.x0.flip(0) + 1e-4)]  # less than a grey level
    assert all(torch.equal(a, b) for a, b in zip(states, reversed(again), strict=True))
    assert not torch.equal(states[0], states[1])
    laid_out = given.x0.contiguous(memory_format=torch.channels_last)
    assert torch.equal(own_generators(laid_out)[2].get_state(), states[2])


class AugmentSpy(Spy):
    def forward(self, x_t, t, y, augment_labels):
        self.seen.append((x_t, t, y, augment_labels))
        return self.answer(x_t, t, y)


@pytest.mark.parametrize(("augment", "kind"), [(None, Spy), (Augment(0.5, flips=True), AugmentSpy)])
@pytest.mark.parametrize("world_size", [2, 4])
def test_the_parts_of_a_batch_draw_what_the_whole_draws(world_size, augment, kind):
    """So that several processes see the noise, the times and the dropped labels of one."""
    objective = Diffusion(mse(), Flow(), LogitNormal(S), class_dropout_prob=0.5, augment=augment)
    net = kind(lambda x_t, t, y: 0.5 * x_t, num_classes=(NUM_CLASSES, 2))
    whole = batch(8, seed=3)
    whole = whole._replace(y=torch.cat([whole.y, torch.arange(8)[:, None] % 2], dim=1))
    generators = [drawing(5) for _ in range(world_size + 1)]
    wanted = objective(net, whole, generators[-1])
    parts = zip(whole.x0.chunk(world_size), whole.y.chunk(world_size), strict=True)
    losses = [objective(net, Batch(*part), generators[rank], rank, world_size) for rank, part in enumerate(parts)]
    assert_close({name: torch.cat([one[name] for one in losses]) for name in wanted}, wanted, rtol=0, atol=0)
    for ours, theirs in zip(zip(*net.seen[1:], strict=True), net.seen[0], strict=True):
        assert_close(torch.cat(ours), theirs, rtol=0, atol=0)
    assert all(torch.equal(one.get_state(), generators[-1].get_state()) for one in generators)


# --- labels of several columns


def test_labels_are_withheld_together_and_each_alone():
    """All with p; of those that are left, each with p."""
    num, p, none = 20_000, 0.2, torch.tensor([3, 5, 2])
    y = torch.stack([torch.arange(num) % value for value in none.tolist()], dim=1)
    net = Spy(num_classes=tuple(none.tolist()))
    Diffusion(mse(), Flow(), LogitNormal(32), class_dropout_prob=p)(net, batch(num, 1)._replace(y=y), drawing())
    ((_, _, message),) = net.seen
    dropped = message == none
    assert (message[~dropped] == y[~dropped]).all()
    deviation = 5 * 0.5 / num**0.5
    assert_close(dropped.float().mean(dim=0), torch.full((3,), p + (1 - p) * p), rtol=0, atol=deviation)
    assert abs(dropped.all(dim=1).float().mean() - (p + (1 - p) * p**3)) < deviation
    for k in range(3):
        alone = dropped[:, k] & (dropped.sum(dim=1) == 1)
        assert abs(alone.float().mean() - (1 - p) * p * (1 - p) ** 2) < deviation


def test_guidance_by_several_columns_asks_for_all_of_them_and_for_none():
    net, y = Spy(num_classes=(3, 2)), torch.tensor([[3, 1], [3, 2]])
    list(sample_steps(net, Diffusion(mse(), Flow(), constant(0.5)), DDIM(2), y, range(2), Guidance(2.0, (0.3, 0.8))))
    assert net.labels == [y.tolist(), [*y.tolist(), *[[3, 2]] * 2]]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Diffusion, Distillation])
def test_a_compiled_step_is_one_graph_after_its_draws_and_has_the_same_losses(kind):
    """Whatever share of the run is done; without the code that inductor makes of the graph."""
    net = UNet(
        S, num_classes=NUM_CLASSES, model_channels=8, channel_mult=[1], num_res_blocks=1, augment_dim=AUGMENT_DIM
    )
    if kind is Diffusion:
        objective = Diffusion(mse(), Flow(), LogitNormal(S), augment=Augment(0.5))
    else:
        objective = Distillation(DistributionMatching(), Flow(), teacher_steps=1, guidance=2.0, augment=Augment(0.5))
        objective.loss.begin_with(net)
    torch._dynamo.reset()
    counters.clear()
    compiled = torch.compile(objective.__call__, backend="eager", dynamic=False)
    for progress in (0.0, 0.25, 0.5):
        losses = [run(net, batch(), drawing(), 0, 1, progress) for run in (compiled, objective)]
        assert_close(losses[0], losses[1], rtol=0, atol=0)
    assert counters["stats"]["unique_graphs"] == {Diffusion: 1, Distillation: 2}[kind]  # with and without regression


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"crop": 0.5}, {"cache_targets": True}])
def test_a_compiled_step_includes_the_perceptual_network_and_has_the_same_losses(options):
    graphs = []

    def record(module, inputs):
        graphs.append(module)
        return module.forward

    loss = WeightedSum({"mse": 1.0, "perceptual": 1.0}, mse=MSE(), perceptual=Perceptual("random", **options))
    net, x0 = ConvDiffusionModel(16), batch(4, 16)
    torch._dynamo.reset()
    compiled = torch.compile(Reconstruction(loss).__call__, backend=record, dynamic=False)
    wanted, found = (run(net, x0, drawing())["perceptual"] for run in (Reconstruction(loss), compiled))
    assert_close(found, wanted, rtol=0, atol=0)
    calls = [node.target for module in graphs for node in module.graph.nodes]
    assert calls.count(torch.conv2d) == 3 + 7 * (1 if options.get("cache_targets") else 2)
