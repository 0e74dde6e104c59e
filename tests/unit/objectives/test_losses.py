import logging
import socket

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F
from torch.testing import assert_close
from torchvision.models import VGG16_Weights, vgg16
from torchvision.models.vgg import make_layers
from torchvision.transforms.functional import normalize

from artart import ArtError
from artart.features import alexnet, vgg
from artart.features.alexnet import lpips_alex
from artart.objectives.losses import LPIPS, MSE, Perceptual, WeightedSum

B, S = 3, 16


@pytest.fixture(autouse=True)
def no_filters_from_before():
    vgg.vgg16.cache_clear()
    vgg.vgg16_on.cache_clear()
    alexnet.alexnet_on.cache_clear()
    alexnet.lpips_heads.cache_clear()


@pytest.fixture
def images() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(B, 3, S, S, generator=generator) * 2 - 1, torch.rand(B, 3, S, S, generator=generator) * 2 - 1


def normalised(x: torch.Tensor) -> torch.Tensor:
    """The article's transform, by torchvision: [0, 1] to ImageNet's mean and standard deviation."""
    return normalize((x + 1) / 2, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def test_mse_in_imagenet_units_is_the_articles(images):
    x_hat, x = images
    wanted = [F.mse_loss(normalised(a), normalised(b)) for a, b in zip(x_hat, x, strict=True)]
    assert_close(MSE("imagenet")(x_hat, x), torch.stack(wanted))


def test_losses_are_in_full_precision_whatever_the_networks(images):
    x_hat, x = images
    for loss in (MSE("imagenet"), MSE("model"), Perceptual("random")):
        with torch.autocast("cpu", torch.bfloat16):
            assert loss(x_hat.bfloat16(), x).dtype == torch.float32
    assert_close(MSE("imagenet")(x_hat.bfloat16(), x), MSE("imagenet")(x_hat.bfloat16().float(), x))


def test_mse_in_model_units_is_plain(images):
    x_hat, x = images
    assert_close(MSE("model")(x_hat, x).mean(), F.mse_loss(x_hat, x))


@pytest.mark.slow
def test_perceptual_is_the_articles_with_weights_from_a_file(images, tmp_path):
    torch.manual_seed(1)
    reference = vgg16(weights=None).features[:16].eval()
    state = {f"features.{name}": value for name, value in reference.state_dict().items()}
    x_hat, x = images
    wanted = [
        F.mse_loss(reference(normalised(a[None])), reference(normalised(b[None])))
        for a, b in zip(x_hat, x, strict=True)
    ]
    save_file(state, tmp_path / "vgg.safetensors")
    torch.save(state, tmp_path / "vgg.pth")
    for name in ("vgg.safetensors", "vgg.pth"):
        loss = Perceptual(str(tmp_path / name))
        assert_close(loss(x_hat, x), torch.stack(wanted).detach(), rtol=1e-4, atol=1e-6)
        assert loss.load() == name


@pytest.mark.slow
def test_the_real_filters_load_and_tell_images_apart(true_weights, images):
    loss = Perceptual(str(true_weights))
    x_hat, x = images
    assert_close(loss(x, x), torch.zeros(B))
    assert (loss(x_hat, x) > 0.1).all()


def test_a_file_that_stops_before_relu3_3_is_refused_by_the_name_of_the_tensor(tmp_path):
    state = {f"features.{name}": value for name, value in make_layers([64, 64, "M", 128, 128]).state_dict().items()}
    save_file(state, tmp_path / "short.safetensors")
    with pytest.raises(ArtError, match=r"^loss.perceptual.weights=.*short.safetensors: no tensor features.10.weight\)"):
        Perceptual(str(tmp_path / "short.safetensors")).load()


def test_a_tensor_of_another_shape_is_refused(tmp_path):
    save_file({"features.0.weight": torch.zeros(64, 3, 5, 5)}, tmp_path / "other.safetensors")
    with pytest.raises(ArtError, match=r"features.0.weight has shape \(64, 3, 5, 5\), not \(64, 3, 3, 3\)"):
        Perceptual(str(tmp_path / "other.safetensors")).load()


def test_gradients_reach_the_image_but_not_the_filters(images):
    x_hat = images[0].requires_grad_()
    Perceptual("random")(x_hat, images[1]).sum().backward()
    assert x_hat.grad is not None
    assert x_hat.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in vgg.vgg16("random").net.parameters())


def test_random_filters_are_the_same_each_time_and_leave_the_random_state_alone(images):
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    first = Perceptual("random")(*images)
    assert_close(torch.rand(1), wanted)
    vgg.vgg16.cache_clear()
    vgg.vgg16_on.cache_clear()
    assert_close(Perceptual("random")(*images), first, rtol=0, atol=0)


def test_auto_offline_warns_aloud_and_uses_random_filters(offline, caplog, images):
    with caplog.at_level(logging.WARNING):
        origin = Perceptual("auto").load()
    assert origin.startswith("random filters")
    assert "RANDOM" in caplog.text
    assert "loss.perceptual.weights=PATH" in caplog.text
    assert_close(Perceptual("auto")(*images), Perceptual("random")(*images))


def test_imagenet_offline_is_refused_with_a_remedy(offline):
    with pytest.raises(
        ArtError, match=r"loss.perceptual.weights=imagenet: no usable vgg16-397923af.pth in .*loss.weights.perceptual=0"
    ):
        Perceptual("imagenet").load()


def test_a_download_waits_ten_seconds_for_a_connection_and_leaves_the_default_alone(offline):
    before = socket.getdefaulttimeout()
    Perceptual("auto").load()
    assert offline == [10]
    assert socket.getdefaulttimeout() == before


def test_a_damaged_file_in_the_cache_is_reported_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / "vgg16-397923af.pth").write_bytes(b"abc")
    with pytest.raises(ArtError, match=r"loss\.perceptual\.weights=imagenet: no usable vgg16"):
        Perceptual("imagenet").load()


@pytest.mark.slow
def test_imagenet_from_the_cache_is_used(monkeypatch, images):
    state = vgg16(weights=None).state_dict()
    monkeypatch.setattr(VGG16_Weights, "get_state_dict", lambda *args, **kwargs: state)
    assert Perceptual("auto").load() == "torchvision VGG16 IMAGENET1K_V1"
    assert_close(vgg.vgg16("auto").net.state_dict()["14.weight"], state["features.14.weight"])


def test_the_weighted_sum_adds_its_terms_and_names_them(images):
    loss = WeightedSum({"mse": 2.0, "perceptual": 0.5}, mse=MSE("model"), perceptual=Perceptual("random"))
    parts = loss(*images)
    assert list(parts) == ["loss", "mse", "perceptual"]
    assert_close(parts["loss"], 2 * MSE("model")(*images) + 0.5 * Perceptual("random")(*images))


def test_the_weighted_sum_loads_what_has_something_to_load():
    class Own(MSE):
        def load(self):
            return "mine"

    loss = WeightedSum({"own": 1.0, "mse": 1.0, "off": 0.0}, own=Own(), mse=MSE(), off=Own())
    assert loss.load() == {"own": "mine"}


def test_factors_scale_a_term_within_the_sum_image_by_image(images):
    loss = WeightedSum({"mse": 2.0, "other": 0.5}, mse=MSE("model"), other=MSE("imagenet"))
    plain, factor = loss(*images), torch.arange(float(B))
    scaled = loss(*images, {"mse": factor})
    assert_close(scaled["loss"], 2 * factor * plain["mse"] + 0.5 * plain["other"])
    assert_close({name: scaled[name] for name in ("mse", "other")}, {name: plain[name] for name in ("mse", "other")})
    assert_close(loss(*images, {}), plain)


def test_a_perfect_copy_costs_nothing(images):
    loss = WeightedSum({"mse": 1.0, "perceptual": 1.0}, mse=MSE(), perceptual=Perceptual("random"))
    assert_close(loss(images[0], images[0])["loss"], torch.zeros(B))


def test_a_term_of_weight_zero_is_not_computed(images):
    def never(x_hat, x):
        raise AssertionError

    assert list(WeightedSum({"mse": 1.0, "other": 0.0}, mse=MSE(), other=never)(*images)) == ["loss", "mse"]


@pytest.mark.parametrize("weights", [{"mse": 1.0, "msee": 1.0}, {}])
def test_weights_that_name_no_term_are_refused(weights):
    with pytest.raises(ValueError, match=r"loss\.weights\.mse"):
        WeightedSum(weights, mse=MSE())


def test_weights_that_are_all_zero_are_refused():
    with pytest.raises(ValueError, match=r"loss\.weights"):
        WeightedSum({"mse": 0.0}, mse=MSE())


def test_a_term_that_is_no_loss_is_refused():
    with pytest.raises(ValueError, match=r"loss\.mse=None: not a loss"):
        WeightedSum({"mse": 1.0}, mse=None)


# --- LPIPS


@pytest.fixture
def weights(alexnet_weights) -> str:
    return str(alexnet_weights)


def test_lpips_is_that_by_which_networks_are_judged(images, weights):
    loss = LPIPS(weights)
    assert loss.load() == "alexnet.safetensors"
    wanted = lpips_alex(*images, weights)
    assert (wanted > 0.01).all()
    assert_close(loss(*images), wanted, rtol=0, atol=0)
    assert_close(loss(images[1], images[1]), torch.zeros(B))


def test_gradients_of_lpips_are_those_of_finite_differences_and_reach_no_filters(images, weights):
    loss, (x_hat, x) = LPIPS(weights), (0.9 * one for one in images)  # inside of what is clamped
    x_hat.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(x_hat, x).sum(), x_hat)
    assert gradient.isfinite().all()
    assert (gradient.abs().amax(dim=(1, 2, 3)) > 0).all()
    along = gradient / gradient.norm()
    with torch.no_grad():
        slope = (loss(x_hat + 0.01 * along, x) - loss(x_hat - 0.01 * along, x)).sum() / 0.02
    assert_close(slope, gradient.norm(), rtol=0.02, atol=0)
    filters = alexnet.alexnet_on(weights, torch.device("cpu")).net
    assert not any(parameter.requires_grad for parameter in filters.parameters())


@pytest.mark.parametrize("value", [-1.0, 0.0, 1.0])
def test_a_flat_image_has_a_gradient_of_numbers(images, weights, value):
    """Where a feature is zero everywhere, its length has no slope."""
    x_hat = torch.full_like(images[0], value, requires_grad=True)
    LPIPS(weights)(x_hat, images[1]).sum().backward()
    assert x_hat.grad.isfinite().all()
    assert x_hat.grad.norm() < 100


def test_lpips_is_in_full_precision_and_close_under_autocast(images, weights):
    wanted = LPIPS(weights)(*images)
    with torch.autocast("cpu", torch.bfloat16):
        made = LPIPS(weights)(*images)
    assert made.dtype == torch.float32
    assert_close(made, wanted, rtol=0.02, atol=0)


def test_lpips_loaded_while_sampling_still_has_gradients(images, weights):
    with torch.inference_mode():
        LPIPS(weights).load()
    x_hat = images[0].clone().requires_grad_()
    LPIPS(weights)(x_hat, images[1]).sum().backward()
    assert x_hat.grad.abs().max() > 0


def test_a_folder_without_alexnet_is_refused_by_the_key_of_the_loss(alexnet_weights, tmp_path):
    (tmp_path / "heads.safetensors").symlink_to(alexnet_weights / "lpips.safetensors")
    with pytest.raises(ArtError) as error:
        LPIPS(str(tmp_path)).load()
    assert str(error.value) == (
        f"loss.perceptual.weights={tmp_path}: no AlexNet with torchvision's names there (heads.safetensors: no tensor "
        "features.0.weight); name a file or folder: loss.perceptual.weights=PATH, or do without: "
        "loss.weights.perceptual=0"
    )


def test_without_a_network_lpips_says_what_to_do_by_the_key_of_the_loss(offline):
    with pytest.raises(ArtError) as error:
        LPIPS("auto").load()
    assert str(error.value).startswith("loss.perceptual.weights=auto: no usable alexnet-owt-7be5be79.pth in ")
    assert "loss.perceptual.weights=PATH" in str(error.value)
    assert str(error.value).endswith("or do without: loss.weights.perceptual=0")
    assert "metrics." not in str(error.value)


def test_the_weighted_sum_loads_lpips_and_says_what_it_got(weights):
    loss = WeightedSum({"mse": 1.0, "perceptual": 0.1}, mse=MSE("model"), perceptual=LPIPS(weights))
    assert loss.load() == {"perceptual": "alexnet.safetensors"}


@pytest.mark.slow
def test_a_network_learns_by_lpips(train, weights):
    options = ("objective=diffusion", "loss=lpips_diffusion", f"loss.perceptual.weights={weights}")
    one_epoch = ("trainer.max_epochs=1", "callbacks.grid=null", "callbacks.memorization=null", "run_dir=run")
    assert train(*options, *one_epoch) == 0
    content = torch.load("run/checkpoints/last.ckpt", weights_only=True)
    assert content["config"]["loss"]["perceptual"] == {"_target_": "artart.objectives.losses.LPIPS", "weights": weights}
    assert 0 < content["metrics"]["val/perceptual"] < 1.5
    assert not [name for name in content["state_dict"] if "alex" in name or "perceptual" in name]
