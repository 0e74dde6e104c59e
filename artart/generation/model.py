"""A trained network in Python: `artart.load(path).sample(16, label="painting")`."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from artart import ArtError
from artart.checkpoints import load as checkpoint
from artart.checkpoints.device import Precision
from artart.config.paths import checkpoint_of
from artart.config.schema import check_values
from artart.diffusion.guidance import Guidance
from artart.diffusion.samplers import Sampler
from artart.generation.conditions import Asked, prompts_of
from artart.generation.img2img import ROUNDS, STRENGTH, masked, plan_variations
from artart.generation.inputs import Images, inputs_of
from artart.generation.interpolate import plan_interpolation
from artart.generation.labels import Label
from artart.generation.plan import Item, Sampling, guidance_for, make, mode_of, sampler_for, sampling_for
from artart.generation.reconstruct import reconstruct
from artart.generation.sample import plan_samples
from artart.io.images import to_pil

OutputType = Literal["pil", "pt"]
Prompt = str | Sequence[str] | None


def load(
    path: str | Path,
    device: str = "auto",
    trusted_classes: Collection[str] = (),
    precision: Precision | None = None,
) -> "Model":
    """Load a checkpoint of artart.train, or what artart.export made of one.

    Args:
        path: the file, the folder of a run, or `latest`: the newest run under outputs/runs.
        device: auto (the fastest here), cpu, cuda or mps.
        trusted_classes: full names of classes of yours that the checkpoint may build, such as ["mypkg.Net"].
        precision: 32-true or bf16-mixed, of evaluations of a network that samples; None: bf16-mixed on a GPU that
            computes in bf16, unless it was trained in 32-true; else 32-true.

    Raises ArtError if the file cannot be used, or asks for a class that is neither artart's nor trusted.
    """
    check_values(device=device, precision=precision)
    return Model(checkpoint.load(checkpoint_of("checkpoint", str(path)), trusted_classes, device, precision))


class Model:
    """A trained network that makes images, the same ones as `python -m artart.generate` with the same arguments.

    Arguments of several methods:

    - image, images: PIL images of any size, preprocessed as in training; or a tensor (3, S, S) or (N, 3, S, S), float
      in [-1, 1]; or a sequence of these.
    - label: the name of a class, "all" in turn, "none", or {column: name}. None: "all" in `sample`, else "none".
    - prompt: for a network that was trained with captions, what images show, or several for one image after the other.
      None: frequent captions in `sample`, else none. negative_prompt: what guidance leads away from.
    - seed: image k has the seed `seed + k`, in any batch size.
    - guidance: the guidance weight; 1: none. A Guidance, from `guidance`, also has an interval and a network.
    - sampler: a name in conf/sampler, or a Sampler; num_steps: of one by name.
    - output_type: "pil": a list of PIL images with their provenance as XMP in `info["xmp"]`, which
      `artart.save_image` writes, after `img2img` and `inpaint` of the size of their PIL image; "pt": a tensor
      (N, 3, S, S) in [-1, 1] on the CPU.

    Every method raises ArtError if an argument is wrong or the network was not trained for it, and FloatingPointError
    if the network outputs NaN or infinity.
    """

    def __init__(self, loaded: checkpoint.Loaded) -> None:
        self.loaded = loaded
        self.net = loaded.net
        self.config: Mapping[str, Any] = loaded.config  # of its training
        self.label_names: Mapping[str, Sequence[str]] = loaded.label_names  # by column
        self.facts: Mapping[str, Any] = loaded.facts  # epoch, global_step, metrics, data, ...

    def sample(
        self,
        num_images: int = 16,
        label: Label = None,
        prompt: Prompt = None,
        negative_prompt: str | None = None,
        seed: int = 0,
        guidance: float | Guidance = 1.5,
        sampler: str | Sampler = "unipc",
        num_steps: int | None = None,
        batch_size: int = 32,
        output_type: OutputType = "pil",
    ) -> list[Image.Image] | Tensor:
        """Make images from noise."""
        how = self._how("sample", guidance, sampler, num_steps, batch_size, negative_prompt)
        asked = self._asked(num_images, seed, label, prompt)
        return _output(make(self.loaded, plan_samples(self.loaded, how, asked)), output_type)

    def img2img(
        self,
        image: Images,
        strength: float = STRENGTH,
        num_images: int = 16,
        label: Label = None,
        prompt: Prompt = None,
        negative_prompt: str | None = None,
        seed: int = 0,
        guidance: float | Guidance = 1.5,
        sampler: str | Sampler = "unipc",
        num_steps: int | None = None,
        batch_size: int = 32,
        output_type: OutputType = "pil",
    ) -> list[Image.Image] | Tensor:
        """Make `num_images` variations of each image, in the order of the images.

        `strength` is the noise level r to start from, 0.01 (reproduces the image) to 1 (ignores it).
        """
        how = self._how("img2img", guidance, sampler, num_steps, batch_size, negative_prompt)
        check_values(strength=strength)
        asked, inputs = self._asked(num_images, seed, label, prompt), inputs_of(image, *self.loaded.preprocessing)
        plan = plan_variations(self.loaded, how, asked, inputs, len(inputs), (strength,))
        return _output(make(self.loaded, plan), output_type)

    def inpaint(
        self,
        image: Images,
        mask: Image.Image | Tensor,
        num_images: int = 16,
        label: Label = None,
        prompt: Prompt = None,
        negative_prompt: str | None = None,
        seed: int = 0,
        guidance: float | Guidance = 1.5,
        sampler: str | Sampler = "unipc",
        num_steps: int | None = None,
        batch_size: int = 32,
        output_type: OutputType = "pil",
    ) -> list[Image.Image] | Tensor:
        """Make `num_images` versions of one image that differ where the mask is white and equal it elsewhere.

        The mask is a PIL image of the image's size, or a tensor (S, S) or (1, S, S), bool or white above 0.
        """
        how = self._how("inpaint", guidance, sampler, num_steps, batch_size, negative_prompt)
        asked, inputs = self._asked(num_images, seed, label, prompt), inputs_of(image, *self.loaded.preprocessing)
        if len(inputs) > 1:
            raise ArtError(f"image: {len(inputs)} images; inpaint takes one, with its mask")
        one, repaint = masked(inputs[0], mask, *self.loaded.preprocessing[:2])
        plan = plan_variations(self.loaded, how, asked, [one], 1, ROUNDS, repaint)
        return _output(make(self.loaded, plan), output_type)

    def interpolate(
        self,
        seeds: Sequence[int] = (),
        num_images: int = 16,
        label: Label = None,
        prompt: Prompt = None,
        negative_prompt: str | None = None,
        guidance: float | Guidance = 1.5,
        sampler: str | Sampler = "unipc",
        num_steps: int | None = None,
        batch_size: int = 32,
        output_type: OutputType = "pil",
    ) -> list[Image.Image] | Tensor:
        """Make a sequence of images through two or more seeds, or prompts, from the first to the last."""
        how = self._how("interpolate", guidance, sampler, num_steps, batch_size, negative_prompt)
        check_values(seeds=list(seeds) or None)
        asked = self._asked(num_images, 0, label, prompt)
        return _output(make(self.loaded, plan_interpolation(self.loaded, how, asked, seeds)), output_type)

    def reconstruct(
        self, images: Images, batch_size: int = 32, output_type: OutputType = "pil"
    ) -> list[Image.Image] | Tensor:
        """Reproduce each image."""
        mode_of(self.loaded, "reconstruct")
        check_values(batch_size=batch_size)
        return _output(reconstruct(self.loaded, inputs_of(images, *self.loaded.preprocessing), batch_size), output_type)

    def guidance(
        self,
        weight: float | Guidance,
        interval: tuple[float, float] = Guidance().interval,
        network: str | Path | None = None,
        negative_prompt: str | None = None,
    ) -> Guidance:
        """Guidance in an interval of noise levels r; `network` is a weaker one's checkpoint or run (autoguidance)."""
        if isinstance(weight, Guidance):
            if negative_prompt:
                raise ArtError("negative_prompt: goes with a weight; use model.guidance(3, negative_prompt=...)")
            if weight.network is not None and not weight.network_sha256:
                raise ArtError("guidance.network: a network of unknown origin; use model.guidance(3, network=PATH)")
            return weight
        check_values(**{"guidance.weight": weight, "guidance.interval": list(interval)})
        path = network and checkpoint_of("guidance.network", str(network))
        return guidance_for(self.loaded, weight, interval, path, negative_prompt)

    def _how(
        self,
        mode: str,
        guidance: float | Guidance,
        sampler: str | Sampler,
        num_steps: int | None,
        batch_size: int,
        negative_prompt: str | None,
    ) -> Sampling:
        """Check the arguments of sampling and combine them."""
        mode_of(self.loaded, mode)
        check_values(batch_size=batch_size, negative_prompt=negative_prompt)
        objective = self.loaded.objective
        is_changed = sampler != "unipc" or guidance != 1.5 or num_steps is not None
        if objective.one_step and is_changed:
            raise ArtError("sampler, num_steps, guidance: a GAN makes an image in one step; leave them out")
        if objective.num_steps is not None and (is_changed or negative_prompt):
            named = "sampler, num_steps, guidance, negative_prompt"
            raise ArtError(f"{named}: a distilled network has its training's; leave them out")
        chosen = self.guidance(guidance, negative_prompt=negative_prompt)
        return sampling_for(self.loaded, sampler_for(sampler, num_steps), chosen, batch_size)

    def _asked(self, num_images: int, seed: int, label: Label, prompt: Prompt) -> Asked:
        prompt = prompt if prompt is None or isinstance(prompt, str) else list(prompt)
        check_values(num_images=num_images, seed=seed, prompt=prompt)
        return Asked(num_images, seed, label, prompts_of(self.loaded, prompt))


def _output(made: Iterable[tuple[Item, Tensor]], output_type: OutputType) -> list[Image.Image] | Tensor:
    if output_type not in ("pil", "pt"):
        raise ArtError(f"output_type={output_type}: must be pil or pt")
    if output_type == "pt":
        return torch.stack([image.clamp(-1, 1) for _, image in made])
    return [to_pil(item.finished(image), item.provenance) for item, image in made]
