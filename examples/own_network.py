"""Train a network of your own as a diffusion model: python examples/own_network.py [key=value ...]

artart builds it from the name of its module and class, so the module must be importable: Python finds it beside the
script that is run. It keeps `image_size`, `channels` and `num_classes`, and maps images with noise (B, 3, S, S), times
(B,) in [0, 1] and labels (B, K) to the clean images (B, 3, S, S).
"""

import sys

from torch import Tensor, nn

import artart
from artart.models.embedding import AugmentDim, ConditionEmbedding, NumClasses
from artart.train import train


class TinyNet(nn.Module):
    """Residual convolutions at full size; each sees the time and the labels."""

    def __init__(
        self,
        image_size: int,
        num_classes: NumClasses = None,  # these three are set by the data and the objective
        augment_dim: AugmentDim = None,
        conditioned: bool | None = None,
        width: int = 32,
        depth: int = 4,
    ) -> None:
        super().__init__()
        self.image_size, self.channels = image_size, 3
        self.condition = ConditionEmbedding(num_classes, width, augment_dim)
        self.num_classes = self.condition.num_classes
        self.stem = nn.Conv2d(3, width, kernel_size=3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, width, kernel_size=3, padding=1))
            for _ in range(depth)
        )
        self.out = nn.Conv2d(width, 3, kernel_size=3, padding=1)

    def forward(
        self, x: Tensor, t: Tensor | None = None, y: Tensor | None = None, augment_labels: Tensor | None = None
    ) -> Tensor:
        condition = self.condition(x, t, y, augment_labels).vector[:, :, None, None]
        features = self.stem(x)
        for block in self.blocks:
            features = features + block(features + condition)
        return self.out(features)


SETTINGS = (
    "objective=diffusion",
    "loss=mse_diffusion",
    "model._target_=own_network.TinyNet",
    "~model.attention",  # a setting of the network that it replaces
    "+model.width=32",
    "trusted_classes=[own_network.TinyNet]",
    "image_size=16",
    "trainer.max_epochs=4",
)

if __name__ == "__main__":
    result = train([*SETTINGS, *sys.argv[1:]])
    assert result.checkpoint is not None
    model = artart.load(result.checkpoint, trusted_classes=["own_network.TinyNet"])
    (image,) = model.sample(1, label="painting", num_steps=10)
    print(artart.save_image(image, result.run_dir / "painting.png"))
