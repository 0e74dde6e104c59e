import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from artart.config.build import CONF_DIR, as_dict, build, compose
from artart.data import demo
from artart.io.images import to_model
from artart.metrics.pixel import psnr
from artart.models.autoencoder import Autoencoder, ResBlock

B, S = 2, 16


def small(**options) -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(**{"image_size": S, "model_channels": 8, **options})


def images(num: int = B) -> Tensor:
    pixels = torch.stack([torch.tensor(demo.paint(name, 0, S)) for name in demo.CLASS_NAMES[:num]])
    return to_model(pixels.permute(0, 3, 1, 2))


@pytest.mark.parametrize(("channel_mult", "factor"), [((1,), 2), ((1, 2), 4), ((1, 2, 2), 8)])
def test_images_become_latents_whose_side_is_a_factor_smaller_and_images_again(channel_mult, factor):
    net, x = small(channel_mult=channel_mult, latent_channels=5), images()
    mean, log_var = net.posterior(x)
    assert net.factor == factor
    assert mean.shape == log_var.shape == (B, 5, S // factor, S // factor)
    assert_close(net.encode(x), mean, rtol=0, atol=0)
    assert net.decode(mean).shape == x.shape
    assert_close(net(x), net.decode(mean), rtol=0, atol=0)


@pytest.mark.parametrize("num_res_blocks", [1, 3])
def test_each_level_has_its_residual_blocks_and_the_last_one_more(num_res_blocks):
    net = small(channel_mult=(1, 2, 3), num_res_blocks=num_res_blocks)
    for half in (net.encoder, net.decoder):
        assert sum(isinstance(module, ResBlock) for module in half) == 3 * num_res_blocks + 1


@pytest.mark.parametrize(
    ("name", "size", "num_parameters", "shape"),
    [("autoencoder", 128, 384_788, (4, 32, 32)), ("autoencoder_f8", 256, None, (8, 32, 32))],
)
def test_autoencoders_of_conf_have_the_sizes_that_they_state(name, size, num_parameters, shape):
    net = build(as_dict(compose("train", [f"model={name}", f"image_size={size}"])), "model")
    with torch.no_grad():
        assert net.encode(torch.zeros(1, 3, size, size)).shape == (1, *shape)
    first_line = (CONF_DIR / "model" / f"{name}.yaml").read_text().splitlines()[0]
    assert f"factor {net.factor}: {size} px become latents of {shape[1]} x {shape[2]} x {shape[0]}" in first_line
    if num_parameters is not None:
        assert sum(parameter.numel() for parameter in net.parameters()) == num_parameters
        assert "0.4 million parameters" in first_line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 18}, "image_size=18: not divisible by 4, which 2 halvings need; try 16 or 20"),
        ({"model_channels": 12}, "model.model_channels=12: not divisible by 8, which .*; try 8 or 16"),
        ({"channel_mult": ()}, r"model.channel_mult=\[\]: needs a whole number above 0 for each level"),
        ({"channel_mult": (1, 0)}, r"model.channel_mult=\[1, 0\]: needs a whole number above 0 for each level"),
    ],
)
def test_sizes_that_do_not_divide_are_refused(options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        small(**options)


def test_in_bf16_latents_and_images_are_in_full_precision():
    net, x = small(), images()
    with torch.autocast("cpu", torch.bfloat16):
        outputs = [*net.posterior(x), net(x)]
    for output in outputs:
        assert output.dtype == torch.float32
        assert (output != output.bfloat16()).float().mean() > 0.9


@pytest.mark.slow
def test_four_images_can_be_learnt_by_heart():
    net, x = small(), images(4)
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    for _ in range(150):
        optimizer.zero_grad()
        (net(x) - x).square().mean().backward()
        optimizer.step()
    of_mean_colour = psnr(x.mean(dim=(2, 3), keepdim=True).expand_as(x), x)
    assert (psnr(net(x).detach(), x) > of_mean_colour + 8).all()
