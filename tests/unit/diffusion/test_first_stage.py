"""A first stage by itself, and sampling with one."""

import itertools
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from artart.diffusion import first_stage as first_stages
from artart.diffusion.first_stage import NO_FIRST_STAGE, FirstStage, FrozenAutoencoder, fingerprint
from artart.diffusion.guidance import Guidance
from artart.diffusion.parameterization import PARAMETERIZATIONS, Parameterization
from artart.diffusion.samplers import DDIM, DPMpp2M, Heun, UniPC
from artart.diffusion.sampling import Given, sample_images, sample_steps
from artart.diffusion.schedule import Flow, Schedule

SIZE, CHANNELS = 8, 12
SETTINGS = {"_target_": "mine.Invertible", "factor": 2, "scale": [3.0, 1.0]}
SAMPLERS = {"ddim": DDIM(5), "ddpm": DDIM(5, eta=1.0), "heun": Heun(5), "dpmpp_2m": DPMpp2M(5), "unipc": UniPC(5)}


class Invertible(nn.Module):
    """Moves pixels into channels and rotates these; remembers how many images it was asked for."""

    image_size, factor, latent_channels = SIZE, 2, CHANNELS

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.rotation = nn.Parameter(torch.linalg.qr(torch.randn(CHANNELS, CHANNELS, generator=generator))[0])
        self.shift = nn.Parameter(5 * torch.randn(CHANNELS, 1, 1, generator=generator))
        self.scale = nn.Parameter(torch.logspace(-1, 1, CHANNELS)[:, None, None])
        self.asked: list[int] = []

    def encode(self, x: Tensor) -> Tensor:
        self.asked.append(len(x))
        return F.conv2d(F.pixel_unshuffle(x, 2), self.rotation[:, :, None, None]) * self.scale + self.shift

    def decode(self, z: Tensor) -> Tensor:
        self.asked.append(len(z))
        return F.pixel_shuffle(F.conv2d((z - self.shift) / self.scale, self.rotation.T[:, :, None, None]), 2)


class Pooling(nn.Module):
    """Loses detail: latents are the means of 2 x 2 pixels."""

    image_size, factor, latent_channels = SIZE, 2, 3
    encode = staticmethod(lambda x: F.avg_pool2d(x, 2))
    decode = staticmethod(lambda z: F.interpolate(z, scale_factor=2.0))


def images(num: int, seed: int = 0) -> Tensor:
    return torch.rand(num, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def moments(channels: int) -> Tensor:
    return torch.stack([torch.linspace(-1, 1, channels), torch.linspace(0.5, 2, channels)])


def invertible(known: Tensor | None = None) -> FrozenAutoencoder:
    return FrozenAutoencoder(Invertible(), SETTINGS, known)


def pooling() -> FrozenAutoencoder:
    return FrozenAutoencoder(Pooling(), {}, moments(3))


# --- by itself


def test_decode_inverts_encode_and_encode_inverts_decode():
    stage, x, z = invertible(moments(CHANNELS)), images(5), torch.randn(5, CHANNELS, SIZE // 2, SIZE // 2)
    assert_close(stage.decode(stage.encode(x)), x, atol=1e-5, rtol=0, check_stride=False)
    assert_close(stage.encode(stage.decode(z)), z, atol=1e-4, rtol=0, check_stride=False)
    assert (stage.shape, stage.network) == ((CHANNELS, 4, 4), {"image_size": 4, "channels": CHANNELS})


def test_normalize_by_gives_mean_0_and_std_1_over_unequal_parts():
    stage, x = invertible(), images(23)
    latents = stage.latents(x)
    stage.normalize_by(part for part in latents.split([1, 17, 5]))
    values = latents.transpose(0, 1).flatten(1).double().numpy()
    assert_close(stage.moments, torch.tensor(np.stack([values.mean(axis=1), values.std(axis=1)])).float())
    z = stage.encode(x)
    assert_close(z.mean(dim=(0, 2, 3)), torch.zeros(CHANNELS), atol=1e-4, rtol=0)
    assert_close(z.std(dim=(0, 2, 3), correction=0), torch.ones(CHANNELS), atol=1e-4, rtol=0)


def test_normalize_by_keeps_moments_that_are_known():
    stage = invertible(moments(CHANNELS))
    stage.normalize_by(itertools.repeat(torch.zeros(0)))  # of which none is taken
    assert_close(stage.moments, moments(CHANNELS), rtol=0, atol=0)


def test_normalize_by_gives_finite_latents_of_a_constant_channel():
    stage = pooling()
    stage.moments = None
    stage.normalize_by([torch.full((4, 3, 2, 2), 1000.1)])
    assert stage.normalize(torch.full((4, 3, 2, 2), 1000.1)).abs().max() < 1e3


def test_chunks_give_what_one_pass_gives_and_hold_few_images(monkeypatch):
    stage, x = invertible(moments(CHANNELS)), images(10)
    z = stage.encode(x)
    whole = stage.decode(z)
    assert stage.net.asked == [10, 10]
    monkeypatch.setattr(first_stages, "MAX_PIXELS", 4 * SIZE**2 + 1)
    assert_close(stage.encode(x), z)
    assert_close(stage.decode(z), whole)
    assert stage.net.asked[2:] == 2 * [4, 4, 2]
    monkeypatch.setattr(first_stages, "MAX_PIXELS", 1)
    assert_close(stage.encode(x), z)
    assert stage.net.asked[8:] == 10 * [1]


def test_fingerprint_is_of_settings_and_weights_alone():
    stage = invertible()
    held = stage.content
    state, settings = held["state_dict"], held["model"]
    assert fingerprint(settings, state) == stage.sha256
    assert fingerprint(dict(reversed(settings.items())), dict(reversed(state.items()))) == stage.sha256
    assert fingerprint(settings, {name: one.double() for name, one in state.items()}) == stage.sha256
    strided = {name: torch.stack([one, one], dim=-1)[..., 0] for name, one in state.items()}
    assert fingerprint(settings, strided) == stage.sha256
    assert invertible(moments(CHANNELS)).sha256 == stage.sha256
    state["shift"][0] += 1e-6
    assert fingerprint(settings, state) != stage.sha256
    assert fingerprint({**settings, "factor": 4}, invertible().content["state_dict"]) != stage.sha256
    assert fingerprint(settings, {**state, "more": torch.zeros(0)}) != fingerprint(settings, state)


def test_encode_and_decode_are_of_full_precision_under_autocast():
    stage, x = invertible(moments(CHANNELS)), images(4)
    z = stage.encode(x)
    whole = stage.decode(z)
    with torch.autocast("cpu", torch.bfloat16):
        assert F.conv2d(x, torch.ones(1, 3, 1, 1)).dtype == torch.bfloat16  # it is in force
        assert_close(stage.encode(x), z, rtol=0, atol=0)
        assert_close(stage.decode(z), whole, rtol=0, atol=0)
        assert stage.decode(z.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("factor", [2, 4])
def test_repaint_covers_latents_whose_pixels_or_whose_neighbours_pixels_change(factor):
    stage = pooling()
    stage.net.factor, side = factor, 6
    generator = torch.Generator().manual_seed(factor)
    for share in (0.0, 0.005, 0.02, 0.3):
        mask = torch.rand(1, factor * side, factor * side, generator=generator) < share
        wanted = torch.zeros(1, side, side, dtype=torch.bool)
        for _, row, column in mask.nonzero().tolist():
            i, j = row // factor, column // factor
            wanted[:, max(0, i - 1) : i + 2, max(0, j - 1) : j + 2] = True
        assert torch.equal(stage.repaint(mask), wanted), share


# --- sampling


class Net(nn.Module):
    """x0_hat, whatever the noise: `by_label[y]`, or with `depth` a function of x_t around it."""

    num_classes = (1,)

    def __init__(self, by_label: Tensor, depth: float = 0.0) -> None:
        super().__init__()
        self.by_label, self.depth = by_label, depth
        self.channels, self.image_size = by_label.shape[1], by_label.shape[-1]

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return self.by_label[y[:, 0]] + self.depth * torch.sin(3 * x)


class Process(NamedTuple):
    first_stage: FirstStage
    schedule: Schedule = Flow()
    parameterization: Parameterization = PARAMETERIZATIONS["x0"]


def latents(num: int, channels: int = CHANNELS, seed: int = 1) -> Tensor:
    """Most of them outside of [-1, 1]."""
    return 3 * torch.randn(num, channels, 4, 4, generator=torch.Generator().manual_seed(seed))


def sampled(net: Net, first_stage: FirstStage, num: int = 5, **options: object) -> Tensor:
    options = {"sampler": Heun(5), "seeds": range(num), **options}
    return torch.cat([*sample_images(net, Process(first_stage), y=torch.zeros(num, 1).long(), **options)])


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_every_sampler_lands_on_the_image_of_the_only_latents(sampler):
    stage, z = invertible(moments(CHANNELS)), latents(2)
    x = sampled(Net(z), stage, sampler=sampler)
    assert_close(x, stage.decode(z[:1]).expand(5, -1, -1, -1), atol=1e-4, rtol=0, check_stride=False)


@pytest.mark.parametrize(
    ("stage", "limit"), [(invertible(moments(CHANNELS)), 1e9), (NO_FIRST_STAGE, 1.0)], ids=["latents", "images"]
)
def test_guidance_clamps_images_but_no_latents(stage, limit):
    z = latents(2)
    wanted = torch.lerp(z[1], z[0], 2.0)
    *_, step = sample_steps(
        Net(z), Process(stage), Heun(5), torch.zeros(3, 1).long(), range(3), Guidance(2.0, (0.0, 1.0))
    )
    assert wanted.abs().max() > 5
    wanted = wanted.clamp(-limit, limit)
    assert_close(step.x_t, wanted.expand(3, -1, -1, -1), atol=1e-4, rtol=0, check_stride=False)


def test_inpainting_keeps_pixels_outside_of_the_mask_to_the_bit():
    """Also where the first stage loses detail, and around the mask, where latents are painted anew."""
    stage, x, z = pooling(), images(1), latents(2, 3)
    mask = torch.zeros(1, SIZE, SIZE, dtype=torch.bool)
    mask[:, 3:5, 1:4] = True
    made = sampled(Net(z), stage, given=Given(x, (1.0, 0.5), mask), batch_size=2)
    assert torch.equal(made[:, :, ~mask[0]], x[:, :, ~mask[0]].expand(5, -1, -1))
    assert_close(made[:, :, mask[0]], stage.decode(z[:1])[:, :, mask[0]].expand(5, -1, -1), atol=1e-4, rtol=0)


def test_inpainting_shows_the_network_the_latents_outside_of_the_mask():
    """Of a mask in a corner the latents far from it are those of the image in every step."""
    stage, x, z = pooling(), images(1), latents(2, 3)
    mask = torch.zeros(1, SIZE, SIZE, dtype=torch.bool)
    mask[:, :2, :2] = True
    seen: list[Tensor] = []
    sampled(Net(z), stage, given=Given(x, (1.0,), mask), on_step=lambda step: seen.append(step.x0_hat))
    changed = torch.zeros(4, 4, dtype=torch.bool)
    changed[:2, :2] = True
    for x0_hat in seen:
        assert_close(x0_hat[..., ~changed], stage.encode(x)[..., ~changed].expand(5, -1, -1), rtol=0, atol=0)
        assert_close(x0_hat[..., changed], z[:1, :, changed].expand(5, -1, -1))


def test_img2img_of_little_strength_gives_the_reconstruction():
    """An ideal network, given two images, two of each."""
    stage, x = pooling(), images(2)
    z = stage.encode(x)

    class Ideal(Net):
        """The nearer of the two."""

        def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
            return z[torch.cdist(x.flatten(1), z.flatten(1)).argmin(dim=1)]

    made = sampled(Ideal(z), stage, num=4, given=Given(x, (0.01,)), batch_size=3)
    assert_close(made, stage.decode(z).repeat_interleave(2, dim=0), atol=1e-5, rtol=0)
    assert (made[::2] - x).abs().max() > 0.3  # which the image itself is not


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
@pytest.mark.parametrize("given", [None, Given(images(1), (0.7,))], ids=["noise", "image"])
def test_image_k_is_the_same_in_any_batch_size(given, sampler):
    stage, net = invertible(moments(CHANNELS)), Net(latents(2), depth=0.5)
    whole = sampled(net, stage, given=given, sampler=sampler)
    assert (whole[0] - whole[1]).abs().max() > 0.1
    for batch_size in (1, 3):
        made = sampled(net, stage, given=given, sampler=sampler, batch_size=batch_size)
        assert_close(made, whole, atol=1e-5, rtol=1e-5)
    (alone,) = sampled(net, stage, num=1, seeds=[3], given=given, sampler=sampler)
    assert_close(alone, whole[3], atol=1e-5, rtol=1e-5)
