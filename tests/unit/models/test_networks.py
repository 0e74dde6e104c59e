"""What every network must do, and what every denoiser must do, whatever is in it."""

import itertools
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.testing import assert_close

from artart.checkpoints.load import Loaded
from artart.checkpoints.onnx import model_of
from artart.config.build import CONF_DIR, as_dict, build
from artart.diffusion.augment import AUGMENT_DIM
from artart.diffusion.noise_levels import LogitNormal
from artart.diffusion.schedule import Flow
from artart.models.autoencoder import Autoencoder
from artart.models.base import Network
from artart.models.conv_diffusion import ConvDiffusionModel
from artart.models.text import attach
from artart.models.unet import UNet
from artart.models.vit import ViT
from artart.objectives.diffusion import Diffusion
from artart.objectives.losses import MSE, WeightedSum

B, S = 4, 16
CLASSES = (5, 3)  # two columns
VOCABULARY, NUM_TOKENS = 7, 5
Make = Callable[..., nn.Module]


def conv_diffusion(**options) -> nn.Module:
    return ConvDiffusionModel(**{"image_size": S, "conditioned": True, "attention": True, **options})


def unet(**options) -> nn.Module:
    small = {"model_channels": 16, "channel_mult": (1, 2, 3), "num_res_blocks": 1, "attn_resolutions": range(1, 9)}
    return UNet(**{"image_size": S, **small, **options})


def vit(**options) -> nn.Module:
    return ViT(**{"image_size": S, "patch_size": 4, "hidden_size": 48, "depth": 2, "num_heads": 3, **options})


def autoencoder(num_classes: object = (), augment_dim: int = 0, **options) -> nn.Module:
    """It is conditioned on nothing."""
    return Autoencoder(**{"image_size": S, "model_channels": 16, **options})


DENOISERS: list[Make] = [conv_diffusion, unet, vit]
every_denoiser = pytest.mark.parametrize("make", DENOISERS, ids=lambda make: make.__name__)
every_network = pytest.mark.parametrize("make", [*DENOISERS, autoencoder], ids=lambda make: make.__name__)


def filled(net: nn.Module, std: float = 0.1) -> nn.Module:
    """With random numbers where training begins with zeros, so that everything has an influence."""
    torch.manual_seed(1)
    for parameter in net.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=std)
    return net.eval()


def full(make: Make, **options) -> nn.Module:
    torch.manual_seed(0)
    return filled(make(num_classes=CLASSES, augment_dim=AUGMENT_DIM, **options))


def of_text(make: Make, **options) -> nn.Module:
    torch.manual_seed(0)
    return filled(make(text=[VOCABULARY, NUM_TOKENS], **options))


@every_network
def test_every_network_is_a_network_whose_buffers_are_in_checkpoints(make):
    """`checkpoints.load` fills networks that were built without memory."""
    net = full(make)
    assert isinstance(net, Network)
    assert not isinstance(nn.Linear(1, 1), Network)
    assert {name for name, _ in net.named_buffers()} <= net.state_dict().keys()


def given(num: int = B, size: int = S) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images, times, labels and augmentation, of each image others."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(num, 3, size, size, generator=generator)
    y = torch.stack([torch.arange(num) % (many + 1) for many in CLASSES], dim=1)
    return x, torch.linspace(0.1, 0.9, num), y, torch.randn(num, AUGMENT_DIM, generator=generator)


def differs(one: Tensor, other: Tensor) -> list[bool]:
    """By image; a tenth of a percent of what an image spans is no rounding."""
    return ((one - other).abs().amax(dim=(1, 2, 3)) > 1e-3).tolist()


@every_denoiser
@pytest.mark.parametrize(("size", "num"), [(16, 1), (32, 3)])
def test_an_image_becomes_one_of_its_shape_which_begins_grey(make, size, num):
    output = make(image_size=size, num_classes=CLASSES)(*given(num, size)[:3])
    assert_close(output, torch.zeros(num, 3, size, size), rtol=0, atol=0)


@every_network
def test_images_may_have_one_channel(make):
    net = filled(make(channels=1))
    assert net.channels == 1
    assert net(torch.randn(2, 1, S, S)).shape == (2, 1, S, S)


@every_denoiser
def test_all_that_is_reported_changes_the_image_of_which_it_is_reported_and_no_other(make):
    net, (x, t, y, augment_labels) = full(make), given()
    output = net(x, t, y, augment_labels)

    def but_for_the_second(values: Tensor, changed: Tensor) -> Tensor:
        return torch.cat([values[:1], changed[1:2], values[2:]])

    for other in (
        (but_for_the_second(x, x + 0.1), t, y, augment_labels),
        (x, but_for_the_second(t, t + 0.05), y, augment_labels),
        (x, t, but_for_the_second(y, y + torch.tensor([1, 0])), augment_labels),
        (x, t, but_for_the_second(y, y + torch.tensor([0, 1])), augment_labels),
        *((x, t, y, but_for_the_second(augment_labels, augment_labels + one)) for one in torch.eye(AUGMENT_DIM)),
    ):
        assert differs(net(*other), output) == [False, True, False, False]


@every_network
@pytest.mark.parametrize("training", [False, True])
def test_an_image_alone_is_as_in_a_batch(make, training):
    net, inputs = full(make).train(training), given(6)
    one_by_one = torch.cat([net(*(values[k : k + 1] for values in inputs)) for k in range(6)])
    assert_close(net(*inputs), one_by_one, rtol=1e-4, atol=1e-5)


@every_denoiser
def test_what_is_not_reported_is_time_0_no_label_and_no_augmentation(make):
    net, (x, t, *_) = full(make), given()
    none, nothing = torch.tensor(CLASSES).expand(B, -1), torch.zeros(B, AUGMENT_DIM)
    assert_close(net(x), net(x, torch.zeros(B), none, nothing), rtol=0, atol=0)
    assert_close(net(x, t), net(x, t, none, nothing), rtol=0, atol=0)


@every_network
def test_the_order_of_numbers_in_memory_does_not_matter(make):
    net, (x, *rest) = full(make), given()
    wanted = net(x, *rest)
    assert_close(net(x.contiguous(memory_format=torch.channels_last), *rest), wanted, rtol=1e-4, atol=1e-5)
    net = net.to(memory_format=torch.channels_last)
    assert_close(net(x.contiguous(memory_format=torch.channels_last), *rest), wanted, rtol=1e-4, atol=1e-5)


@every_network
@pytest.mark.filterwarnings("error")
def test_in_bf16_images_are_close_and_in_full_precision(make):
    net, inputs = full(make), given()
    wanted = net(*inputs)
    with torch.autocast("cpu", torch.bfloat16):
        output = net(*inputs)
    assert output.dtype == torch.float32
    assert (output - wanted).square().mean().sqrt() < 0.03 * wanted.std()
    assert (output * 128 % 1 != 0).float().mean() > 0.99  # not the steps of bf16


@every_network
def test_a_state_dict_makes_the_same_network(make):
    net, inputs = full(make), given()
    torch.manual_seed(7)
    other = make(num_classes=CLASSES, augment_dim=AUGMENT_DIM).eval()
    assert not torch.equal(other(*inputs), net(*inputs))
    other.load_state_dict(net.state_dict())
    assert_close(other(*inputs), net(*inputs), rtol=0, atol=0)


@every_network
@pytest.mark.parametrize("options", [{}, {"num_classes": CLASSES, "augment_dim": 9}])
def test_every_parameter_has_a_part_in_the_output(make, options):
    """Also from the first step on, which several processes ask for."""
    net, (x, t, y, augment_labels) = make(**options), given()
    inputs = (x, t, y, augment_labels) if options else (x, t)
    net(*inputs).sum().backward()
    assert [name for name, parameter in net.named_parameters() if parameter.grad is None] == []
    net = filled(make(**options))
    net(*inputs).square().sum().backward()
    assert [name for name, parameter in net.named_parameters() if not parameter.grad.abs().max() > 1e-6] == []


@every_denoiser
@pytest.mark.parametrize("of", ["labels", "prompts"])
def test_its_gradient_is_that_of_finite_differences(make, of):
    """In double precision, along random directions of all inputs that are numbers and of all parameters."""
    x, t, y, augment_labels = given(2)
    if of == "prompts":
        net, y = of_text(make, augment_dim=AUGMENT_DIM).double(), PROMPTS[:2]
    else:
        net = full(make).double()
    net.condition.time.register_forward_pre_hook(lambda _, inputs: (inputs[0].double(),))
    generator = torch.Generator().manual_seed(3)
    parameters = list(net.parameters())
    x, augment_labels = x.double().requires_grad_(), augment_labels.double().requires_grad_()
    along = [
        torch.randn(one.shape, generator=generator, dtype=torch.float64) for one in (x, augment_labels, *parameters)
    ]
    weights = torch.randn(x.shape, generator=generator, dtype=torch.float64)

    def at(step: float) -> Tensor:
        with torch.no_grad():
            for one, direction in zip(parameters, along[2:], strict=True):
                one += step * direction
            value = (weights * net(x + step * along[0], t, y, augment_labels + step * along[1])).sum()
            for one, direction in zip(parameters, along[2:], strict=True):
                one -= step * direction
        return value

    gradients = torch.autograd.grad((weights * net(x, t, y, augment_labels)).sum(), (x, augment_labels, *parameters))
    wanted = sum(((a * b).sum() for a, b in zip(gradients, along, strict=True)), torch.zeros(()))
    step = 1e-8 if make is conv_diffusion else 1e-6  # which has corners
    assert_close((at(step) - at(-step)) / (2 * step), wanted, rtol=1e-5, atol=1e-6, check_dtype=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "smaller"), [(unet, {"channel_mult": (1, 2)}), (vit, {"depth": 1})], ids=["unet", "vit"]
)
def test_it_has_a_form_in_onnx_for_any_batch(make, smaller):
    """Exporting takes as long as there are layers."""
    torch.manual_seed(0)
    net = filled(make(num_classes=5, **smaller))
    objective = Diffusion(WeightedSum({"mse": 1.0}, mse=MSE("model")), Flow(), LogitNormal(S))
    content, difference = model_of(Loaded(net, objective, {}, {"class": list("abcde")}, {}, Path("last.ckpt"), ""), {})
    assert difference < 1e-4
    session = onnxruntime.InferenceSession(content)
    assert [one.name for one in session.get_inputs()] == ["x_t", "t", "y"]
    for num in (1, 4):
        x, t, y, _ = given(num)
        (made,) = session.run(None, {"x_t": x.numpy(), "t": t.numpy(), "y": y[:, :1].numpy()})
        assert_close(torch.from_numpy(made), net(x, t, y[:, :1]).detach(), rtol=1e-3, atol=1e-4)


@every_network
def test_on_the_meta_device_it_has_the_names_and_shapes_of_the_real_one(make):
    with torch.device("meta"):
        net = make(num_classes=CLASSES, augment_dim=AUGMENT_DIM)
    assert {value.device.type for value in itertools.chain(net.parameters(), net.buffers())} == {"meta"}
    wanted = {
        name: value.shape for name, value in make(num_classes=CLASSES, augment_dim=AUGMENT_DIM).state_dict().items()
    }
    assert {name: value.shape for name, value in net.state_dict().items()} == wanted


def from_conf(name: str, image_size: int, **options) -> nn.Module:
    file = OmegaConf.load(CONF_DIR / "model" / f"{name}.yaml")
    if bases := file.pop("defaults", None):
        file = OmegaConf.merge(OmegaConf.load(CONF_DIR / "model" / f"{bases[0]}.yaml"), file)
    file = OmegaConf.merge({"image_size": image_size, "model": file}, {"model": {"augment_dim": 0, **options}})
    with torch.device("meta"):
        return build(as_dict(file), "model")


@pytest.mark.parametrize(
    ("name", "size", "num_parameters", "stated"),
    [
        ("unet_tiny", 32, 1_330_307, 1.3),
        ("unet_small", 64, 10_745_219, 11),
        ("unet", 64, 29_465_731, 30),
        ("unet_large", 64, 100_000_259, 100),
        ("vit", 64, 32_434_992, 32),
    ],
)
def test_networks_of_conf_have_the_size_that_they_state(name, size, num_parameters, stated):
    net = from_conf(name, size, num_classes=20)
    assert sum(parameter.numel() for parameter in net.parameters()) == num_parameters
    assert num_parameters == pytest.approx(stated * 1e6, rel=0.03)
    first_line = (CONF_DIR / "model" / f"{name}.yaml").read_text().splitlines()[0]
    assert f" {stated} million parameters" in first_line


# --- prompts


PROMPTS = torch.tensor([[1, 2, 3, 7, 7], [1, 2, 7, 7, 7], [3, 2, 1, 7, 7], [7, 7, 7, 7, 7]])  # 7 means none


@every_denoiser
def test_a_prompt_changes_the_output_and_so_does_the_order_of_its_words(make):
    net, x, t = of_text(make), torch.randn(1, 3, S, S).expand(B, -1, -1, -1), torch.full((B,), 0.5)
    assert net.num_classes == (VOCABULARY,) * NUM_TOKENS
    out = net(x, t, PROMPTS)
    for i, k in itertools.combinations(range(B), 2):
        assert (out[i] - out[k]).abs().max() > 1e-3, (i, k)
    assert_close(net(x, t), out[3:].expand(B, -1, -1, -1), atol=1e-5, rtol=1e-4)  # None: no prompt


@every_denoiser
def test_what_fills_a_prompt_up_has_no_influence(make):
    net, x, t = of_text(make), torch.randn(B, 3, S, S), torch.full((B,), 0.5)
    out = net(x, t, PROMPTS)
    table = net.condition.text.embedding
    with torch.no_grad():
        own = table.weight[VOCABULARY].clone()
        table.weight[VOCABULARY] = 100 * torch.randn_like(own)
    changed = net(x, t, PROMPTS)
    assert (changed - out).abs().amax() > 1e-3  # the first token of every prompt is the same one
    with torch.no_grad():
        table.weight[VOCABULARY] = own
        net.condition.text.positions[4] = 100 * torch.randn_like(own)  # of the fourth word, which none has
    assert_close(net(x, t, PROMPTS), out)


@every_denoiser
def test_embeddings_are_prompts_and_their_padding_has_no_influence(make):
    nan, embeddings = torch.nan, torch.randn(2, 3, 8)
    embeddings[1, 2] = nan
    y, x, t = torch.tensor([[1], [2], [0]]), torch.randn(1, 3, S, S).expand(3, -1, -1, -1), torch.full((3,), 0.5)
    outputs = []
    for num_tokens in (3, 5):
        torch.manual_seed(0)
        net = filled(make(text=[0, num_tokens, 8]))
        assert net.num_classes == (0,)
        alone = net(x, t)  # needs no table
        padded = nn.functional.pad(embeddings, (0, 0, 0, num_tokens - 3), value=nan)
        attach(net, lambda y, own=padded: torch.where(y[..., None] > 0, own[(y.flatten() - 1).clamp(0)], nan))
        outputs.append(net(x, t, y))
        assert_close(outputs[-1][2], alone[2])
    assert_close(*outputs)
    for i, k in itertools.combinations(range(3), 2):
        assert (outputs[0][i] - outputs[0][k]).abs().max() > 1e-3, (i, k)


@every_denoiser
def test_prompts_and_labels_exclude_each_other(make):
    with pytest.raises(ValueError, match=r"model.num_classes=3: prompts replace labels"):
        make(num_classes=3, text=[VOCABULARY, NUM_TOKENS])
