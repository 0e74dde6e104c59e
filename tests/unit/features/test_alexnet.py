import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional as F
from torch.testing import assert_close
from torchmetrics.functional.image.lpips import _LPIPS
from torchvision.models import alexnet
from torchvision.transforms import v2

from artart.features.alexnet import features_of, lpips_alex
from artart.io.images import to_model, to_pixels

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def art(art_files):
    """Real art at any size: (6, 3, S, S) in [-1, 1]."""
    opened = [Image.open(path).convert("RGB") for path in art_files[3::7]]

    def art(size: int) -> torch.Tensor:
        pixels = np.stack([np.asarray(image.resize((size, size))) for image in opened])
        return to_model(torch.from_numpy(pixels).permute(0, 3, 1, 2))

    return art


@pytest.fixture(scope="module")
def weights(alexnet_weights):
    return str(alexnet_weights)


@pytest.fixture(scope="module")
def state(alexnet_weights):
    """AlexNet's layers of filters under torchvision's names."""
    return load_file(alexnet_weights / "alexnet.safetensors")


def by_the_authors(folder):
    """Their code as torchmetrics carries it, with weights from the files: (x_hat, x) to (B,)."""
    lpips = _LPIPS(pretrained=False, net="alex", pnet_rand=True)
    state, heads = (load_file(next(folder.glob(f"*{name}*.safetensors"))) for name in ("alexnet", "lpips"))
    filled = {}
    for name in lpips.state_dict():
        part, *rest = name.split(".")
        if part == "net":  # net.slice2.3.weight: the numbers of the layers are torchvision's
            filled[name] = state[f"features.{rest[-2]}.{rest[-1]}"]
        elif part.startswith("lin"):
            number = rest[0] if part == "lins" else part.removeprefix("lin")
            filled[name] = heads[f"alex.lin{number}.weight"]
    lpips.load_state_dict(filled)
    return lambda x_hat, x: lpips(x_hat, x).flatten()


@pytest.fixture(scope="module")
def reference(alexnet_weights):
    return by_the_authors(alexnet_weights)


def noisy(x: torch.Tensor, deviation: float) -> torch.Tensor:
    return (x + deviation * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).clamp(-1, 1)


def blurred(x: torch.Tensor, sigma: float) -> torch.Tensor:
    return v2.functional.gaussian_blur(x, [13, 13], [sigma, sigma])


# --- LPIPS


@pytest.mark.slow
@pytest.mark.parametrize("size", [64, 128])
def test_lpips_of_real_art_is_the_authors(art, weights, reference, size):
    x = art(size)
    for x_hat in (noisy(x, 0.2), blurred(x, 2.0), x.roll(1, dims=0), -x):
        assert_close(lpips_alex(x_hat, x, weights), reference(x_hat, x), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_lpips_with_its_own_weights_is_the_authors(art, true_weights):
    """Unlike images are about 0.7 apart; a blur of 2 pixels is less."""
    x, reference = art(64), by_the_authors(true_weights)
    values = []
    for x_hat in (x.roll(1, dims=0), blurred(x, 2.0)):
        values.append(lpips_alex(x_hat, x, str(true_weights)))
        assert_close(values[-1], reference(x_hat, x), rtol=1e-4, atol=1e-5)
    assert 0.4 < values[0].mean() < 0.9
    assert values[1].mean() < values[0].mean()


@pytest.mark.slow
def test_small_images_are_enlarged_to_64_px(art, weights, reference):
    x = art(32)
    x_hat = noisy(x, 0.3)
    large = [F.interpolate(images, (64, 64), mode="bicubic").clamp(-1, 1) for images in (x_hat, x)]
    assert_close(lpips_alex(x_hat, x, weights), reference(*large), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [32, 64])
def test_equal_images_have_no_distance(art, weights, size):
    x = art(size)
    assert_close(lpips_alex(x, x, weights), torch.zeros(len(x)))


@pytest.mark.parametrize("size", [32, 64])
def test_lpips_judges_the_image_that_would_be_saved(art, weights, size):
    x = art(size)
    x_hat = 3 * noisy(x, 0.3)
    assert_close(lpips_alex(x_hat, x, weights), lpips_alex(x_hat.clamp(-1, 1), x, weights))


def test_lpips_does_not_depend_on_the_batch(art, weights):
    x = art(64)
    x_hat = noisy(x, 0.3)
    alone = [lpips_alex(a[None], b[None], weights) for a, b in zip(x_hat, x, strict=True)]
    assert_close(torch.cat(alone), lpips_alex(x_hat, x, weights), rtol=1e-4, atol=1e-6)


# --- features


def by_torchvision(x: torch.Tensor, state: dict[str, torch.Tensor]) -> torch.Tensor:
    net = alexnet(weights=None).eval()
    assert not net.load_state_dict(state, strict=False).unexpected_keys
    large = v2.functional.resize(x, [224, 224], interpolation=v2.InterpolationMode.BICUBIC, antialias=True)
    units = v2.functional.normalize((large.clamp(-1, 1) + 1) / 2, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    with torch.no_grad():
        return net.features[:-1](units).mean(dim=(2, 3)).double()  # all but the last pooling


@pytest.mark.parametrize("size", [32, *(pytest.param(size, marks=pytest.mark.slow) for size in (224, 256))])
def test_features_are_alexnets_at_224_px(art, weights, state, size):
    pixels = to_pixels(art(size)[:4])
    found = features_of(pixels, weights, CPU)
    assert found.shape == (4, 256)
    assert found.dtype == torch.float64
    assert_close(found, by_torchvision(to_model(pixels), state), rtol=1e-4, atol=1e-5)


def test_features_do_not_depend_on_the_batch(art, weights):
    pixels = to_pixels(art(48))
    parts = [features_of(part, weights, CPU) for part in pixels.split(4)]
    assert_close(torch.cat(parts), features_of(pixels, weights, CPU), rtol=1e-4, atol=1e-5)
